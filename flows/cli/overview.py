"""The command `erasure-audit register`."""

from __future__ import annotations

import typer

from flows.cli.options import Json, print_json, workspace

app = typer.Typer(rich_markup_mode=None)


@app.command()
def register(
    as_json: Json = False,
) -> None:
    """Make the register of all batches: reports/index.html, and reports/register.csv for
    spreadsheets.

    Days left are counted from today. Every run makes it, too. Names batches that cannot be read,
    and then exits with 1.

    Example: erasure-audit register
    """
    from flows.operations import deployment
    from flows.pipeline import console

    written = deployment.write_overview(workspace())
    if as_json:
        print_json(written.plain())
    else:
        counted = ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in written.counts.items() if count
        )
        typer.echo(
            f"{console.counted(written.batches, 'batch', 'batches')}: {counted or 'no requests'}; "
            f"{written.overdue} overdue"
        )
        typer.echo(f"  {written.page}\n  {written.table}")
    for name, why in written.unreadable.items():
        console.say(f"Not readable: {name}: {why}")
    if written.unreadable:
        raise typer.Exit(1)
