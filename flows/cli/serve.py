"""The commands `erasure-audit serve` and `erasure-audit intake`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json, open_register, print_json, workspace

app = typer.Typer(rich_markup_mode=None)
serve_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
intake_app = typer.Typer(
    help="Take requests in from files, and send status callbacks, once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(serve_app, name="serve")
app.add_typer(intake_app, name="intake")


@serve_app.callback()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")
    ] = 8420,
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Certificate chain, if no proxy does TLS."),
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="The certificate's key.")
    ] = None,
    callbacks: Annotated[
        bool,
        typer.Option("--callbacks/--no-callbacks", help="Send status callbacks in the background."),
    ] = True,
) -> None:
    """Serve OpenDSR and the operators' paths over HTTP until stopped.

    The secret ERASURE_AUDIT_TOKENS lists its users; without it the server does not start. See
    docs/intake.md.

    Example: erasure-audit serve --host 127.0.0.1 --port 8420
    """
    if context.invoked_subcommand is None:
        _serve(host, port, certificate, private_key, callbacks)


@serve_app.command()
def token(
    name: Annotated[str, typer.Option(help="The client's name, which the register uses as actor.")],
    role: Annotated[
        list[str], typer.Option(help="intake, operator, approver or auditor. Repeatable.")
    ],
    as_json: Json = False,
) -> None:
    """Make a bearer token. It is shown once and not stored.

    Example: erasure-audit serve token --name crm --role intake
    """
    from flows.server import auth

    secret, entry = auth.new_token(name, role)
    if as_json:
        print_json({"token": secret, "entry": entry})
        return
    typer.echo(
        f"token, for {name} alone:\n  {secret}\n"
        f"entry to add to the secret {auth.TOKENS}:\n  {entry}"
    )


@intake_app.command()
def drop(as_json: Json = False) -> None:
    """Take in the files in inbox/: JSON and CSV. Exit code 1 if an entry was refused.

    Example: erasure-audit intake drop
    """
    from flows.intake import drop_folder as dropped

    with open_register() as (home, register):
        taken = dropped.take(home, register)
    if as_json:
        print_json(taken.plain())
    else:
        typer.echo(f"{len(taken.new)} new, {len(taken.known)} known, {len(taken.refused)} refused")
        for entry in taken.refused:
            typer.echo(
                f"  {f'entry {entry.position}' if entry.position else 'a whole file'}: "
                f"{entry.reason}"
            )
        if taken.refused:
            typer.echo(f"Refused entries are in {dropped.REFUSED}/, with the reasons beside them")
        if taken.left:
            typer.echo(f"Left for the next time, since they may still be written: {taken.left}")
    if taken.refused:
        raise typer.Exit(1)


@intake_app.command(name="callbacks")
def send_callbacks(as_json: Json = False) -> None:
    """Send the status callbacks that are due, once; for a scheduler, if no server sends them.

    Example: erasure-audit intake callbacks
    """
    from flows.intake import callbacks

    with open_register() as (home, register):
        delivery = callbacks.deliver(home, register)
    if as_json:
        print_json(delivery.plain())
    else:
        typer.echo(delivery.line)


def _serve(
    host: str, port: int, certificate: Path | None, private_key: Path | None, callbacks: bool
) -> None:
    import logging

    import uvicorn

    from flows.server import app, connections
    from tasks.common.errors import SettingsError

    if (certificate is None) != (private_key is None):
        raise SettingsError(
            "--certificate and --private-key belong together; give both, or none behind a proxy"
        )
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for name in ("erasure_audit", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    if certificate is None and host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(
            "Warning: this is plain HTTP on the network; put a proxy with TLS in front, or give "
            "--certificate",
            err=True,
        )
    service = app.create(workspace(), deliver=callbacks)
    config = uvicorn.Config(
        service,
        host=host,
        port=port,
        http=connections.WaitingProtocol,
        ws="none",
        log_config=None,
        log_level=logging.INFO,
        access_log=False,  # it quotes paths; our own log names routes
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * connections.MOST_WAITING,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=32 * 1024,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        raise typer.Exit(1)
