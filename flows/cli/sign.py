"""The commands `erasure-audit sign` and `erasure-audit verify-report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json, print_json, workspace

app = typer.Typer(rich_markup_mode=None)

Signed = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        exists=True,
        help="A signed PDF, evidence.json, a statement, or their folder.",
    ),
]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="PEM", help="A public key or certificate to trust. Repeatable."),
]
Authorities = Annotated[
    list[Path] | None,
    typer.Option("--tsa", metavar="PEM", help="A time-stamping authority to trust. Repeatable."),
]


@app.command()
def sign(
    batch: Annotated[
        str | None, typer.Argument(help="Name of the batch. Default: the one in params.yaml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign the reports of a batch into signed/<batch>/.

    The key is the PEM file that ERASURE_AUDIT_KEY names, or the PEM itself in
    ERASURE_AUDIT_KEY_PEM; without them it is the workspace's development key. Signed reports stay
    as they are.

    Example: ERASURE_AUDIT_KEY=/etc/audit/key.pem erasure-audit sign 2026-11
    """
    from flows.pipeline import close_batch, console
    from flows.reports import signing
    from flows.workspace import git, signing_keys
    from tasks.common import settings
    from tasks.common.errors import SignatureError

    folder = workspace()
    key = signing_keys.load_key(folder)
    if key is None:
        raise SignatureError(
            f"no signing key; name a PEM file in {signing_keys.FILE}, see docs/signing.md"
        )
    name = batch or settings.load(folder / "params.yaml").batch
    if not key.signer.development and signing.names_development_key(folder, name):
        if not git.has_tag(folder, close_batch.tag_of(name)):
            raise SignatureError(
                f"the reports of batch {name} say that a development key signs them; "
                f"`erasure-audit run {name}` makes them again for this key, then sign them"
            )
        console.say(
            f"Batch {name} was closed with the development key, and its reports still say so; the "
            "signatures are by this key."
        )
    signed = signing.sign(folder, name, key)
    if key.signer not in signing_keys.trusted(folder):
        console.say(
            f"This key is not trusted here: put its public part into {signing_keys.TRUSTED}/ "
            "(docs/signing.md)."
        )
    if as_json:
        print_json([item.plain() for item in signed])
        return
    for item in signed:
        typer.echo(f"{'signed' if item.new else 'is signed'}  {item.request}  {item.folder}")


@app.command()
def verify_report(
    target: Signed,
    key: Keys = None,
    allow_development: Annotated[
        bool,
        typer.Option(
            "--allow-development", help="Accept a development key beside a trusted real one."
        ),
    ] = False,
    tsa: Authorities = None,
    require_time_stamp: Annotated[
        bool,
        typer.Option(
            "--require-time-stamp",
            help="Accept only signatures with a time stamp by a trusted authority.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a signed report is intact, who signed it, and what the signature does not cover.

    Trusted keys are those given and those in trusted-keys/ of the workspace around the current
    folder, if there is one; trusted time-stamping authorities are those given with --tsa and those
    in trusted-tsa/. A wrong time stamp is a fault. If some authorities are trusted, time stamps of
    others do not count. A development key counts only if no real key is trusted. Exit code 1 if
    anything differs from what was signed, or no trusted key signed it.

    Example: erasure-audit verify-report signed/demo/7c9e6679-7425-40de-944b-e07fc1f90ae7
    """
    from flows.reports import signature_checks
    from flows.workspace import signing_keys
    from tasks.common.errors import WorkspaceError

    try:
        home: Path | None = workspace()
    except WorkspaceError:  # a file and a key are enough
        home = None
    finding = signature_checks.verify(
        target,
        signing_keys.trusted(home, key or []),
        allow_development,
        signing_keys.stamp_policy(home, tsa or [], require_time_stamp),
    )
    if as_json:
        print_json(finding.plain())
    else:
        typer.echo(finding.line)
    if not finding:
        raise typer.Exit(1)
