"""The commands `erasure-audit nightly`, `watch`, `heartbeats` and `reaudit`: the work of the
schedule, for cron and by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Events, Json, print_json, workspace

if TYPE_CHECKING:
    from flows.register.register import Register

app = typer.Typer(rich_markup_mode=None)


@app.command()
def nightly(
    give_up: Annotated[
        str | None,
        typer.Option(
            metavar="BATCH",
            help="Put the requests of a batch that cannot be audited back into the queue.",
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="NAME", help="With --give-up: the responsible person.")
    ] = "",
    reason: Annotated[str, typer.Option(help="With --give-up: the reason. No personal data.")] = "",
    as_json: Events = False,
) -> None:
    """Take requests in, begin a batch if one is due, and audit the current one, in a checkout of
    its own.

    Continues an interrupted night. Exits with 1 if the audit failed. If another process is running
    it, says so and exits with 0.

    Example: erasure-audit nightly
    """
    from flows.operations import night_run as nights
    from flows.pipeline import console

    with _register("The night's work") as (home, register):
        if give_up is not None:
            if not by or not reason:
                raise typer.BadParameter("--give-up needs --by NAME and --reason WHY")
            requeued = nights.give_up(home, register, give_up, by, reason)
            if as_json:
                print_json({"batch": give_up, "requests": [case.request_id for case in requeued]})
            else:
                requests = console.counted(len(requeued), "request")
                typer.echo(f"{requests} of batch {give_up} put back into the queue.")
            return
        with console.progress(home, as_json) as listener:
            night = nights.run(home, register, listener)
    if as_json:
        print_json(night.plain())
    else:
        typer.echo(night.text)
    if night.outcome == "failed":
        raise typer.Exit(1)


@app.command()
def watch(as_json: Json = False) -> None:
    """Report near deadlines, stuck work, and damage to the register. Reports nothing twice on the
    same day.

    Example: erasure-audit watch
    """
    import os

    from flows.operations import monitoring as watches
    from flows.pipeline import console
    from flows.workspace import environment

    with _register("The watch") as (home, register):
        environment.prepare(home)
        if os.environ.get("PREFECT_API_URL"):
            from flows.operations import deployment

            findings = watches.run(home, register, runs=deployment.troubles)
        else:
            findings = watches.run(home, register)
    if as_json:
        print_json(findings.plain())
        return
    for text in (*findings.deadlines, *findings.stuck):
        typer.echo(text)
    if not findings.deadlines and not findings.stuck:
        typer.echo("Nothing new to report.")
    if findings.waiting:
        messages = console.counted(findings.waiting, "message")
        typer.echo(f"{messages} not delivered to every channel yet; will be sent again.")


@app.command()
def heartbeats(as_json: Json = False) -> None:
    """Have Prefect's server report when a scheduled deployment completes no run in time, for
    example because its worker is dead.

    Makes or updates an automation for each deployment with a schedule; run it again after a change
    of a schedule. The automations notify the Prefect blocks that ERASURE_AUDIT_NOTIFY names.

    Example: PREFECT_API_URL=http://127.0.0.1:4200/api erasure-audit heartbeats
    """
    from flows.operations import deployment
    from flows.workspace import environment

    environment.prepare(workspace())
    expected = deployment.expect_heartbeats()
    if as_json:
        print_json([heartbeat.plain() for heartbeat in expected])
        return
    for heartbeat in expected:
        hours = heartbeat.within.total_seconds() / 3600
        recipients = ", ".join(heartbeat.blocks) or "nobody; it shows on Prefect's page"
        typer.echo(
            f"{heartbeat.deployment}: a completed run every {hours:.1f} hours, else notified: "
            f"{recipients}"
        )


@app.command()
def reaudit(
    batch: Annotated[
        str | None,
        typer.Argument(
            help="Name of a closed batch, or its tag. Default: the one drawn for this month."
        ),
    ] = None,
    as_json: Events = False,
) -> None:
    """Repeat a past audit at the highest level that still can be done, and record the outcome in
    the register.

    Example: erasure-audit reaudit
    """
    from flows.operations import audit_sampling as reaudits
    from flows.pipeline import console

    with (
        _register("The re-audit") as (home, register),
        console.progress(home, as_json) as listener,
    ):
        outcome = reaudits.run(home, register, batch, listener)
    if as_json:
        print_json(outcome.plain())
    else:
        typer.echo(outcome.text)
        for level, why in outcome.impossible.items():
            typer.echo(f"  {level} was not possible: {why}")
    if not outcome.holds:
        raise typer.Exit(1)


@contextlib.contextmanager
def _register(work: str) -> Iterator[tuple[Path, Register]]:
    """The workspace and its register. A failure sends a notice; if another process does the work,
    the command exits with 0."""
    from flows.operations import deployment
    from flows.pipeline import console
    from flows.register.register import BusyError

    home = workspace()
    try:
        with deployment.workspace_register(home, work) as register:
            yield home, register
    except BusyError as error:
        console.say(str(error))
        raise typer.Exit from None
