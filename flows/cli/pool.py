"""The commands `erasure-audit pool` and `readiness`: references for many batches, and whom they can
judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def pool(
    blocks: Annotated[
        int, typer.Option(min=1, help="Blocks of the pool, pool.folds models and more in each.")
    ] = 8,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages that run at once. Default: one per core.")
    ] = None,
    erase: Annotated[
        bool,
        typer.Option(
            "--erase", help="Train nothing: take out the rows of records that left the data."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a pool of references, once for many batches, or take rows of people who left out of it.

    Example: erasure-audit pool --blocks 8
    """
    from flows.pipeline import console
    from flows.pools import making
    from flows.workspace import layout

    home = layout.find(Path.cwd())
    if erase:
        receipt = making.erase(home)
        typer.echo(
            json.dumps(receipt, indent=2)
            if as_json
            else f"{receipt['records']} rows taken out of {receipt['pool']}."
        )
        return
    with console.progress(home, as_json) as listener:
        made = making.make(home, blocks, jobs, listener)
    if as_json:
        typer.echo(json.dumps(made.plain(), indent=2))
        return
    typer.echo(
        f"{made.models} models scored everybody in {made.folder}, {made.seconds:.0f} s of training; "
        "no weights are kept."
    )
    typer.echo(
        "Batches use it with --set references.mode=pool --set references.with_from="
        f"{made.folder} --set references.without_blocks=[]"
    )


@app.command()
def readiness(as_json: Json = False) -> None:
    """Say whose deletion the pool could verify, at which margin, and how many models more would
    help.

    Example: erasure-audit readiness
    """
    from flows.pools import readiness as report
    from flows.workspace import layout

    found = report.assess(layout.find(Path.cwd()))
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=2, ensure_ascii=False))
        return
    able = sum(person.verifiable for person in found.people)
    typer.echo(
        f"{able} of {len(found.people)} people can be verified at rho0 {found.rho0:g} with "
        f"{found.models} models."
    )
    for person in found.people:
        told = (
            person.reason
            if person.detectability is None
            else f"d' {person.detectability:.1f}, smallest rho0 "
            + ("none below 1" if person.smallest_rho0 is None else f"{person.smallest_rho0:.2f}")
            + _more(person.models_more)
        )
        typer.echo(f"  {person.pseudonym[:17]}  {person.records} records: {told}")
    for column, values in found.groups.items():
        for value, group in values.items():
            typer.echo(
                f"  {column} {value}: {group['verifiable']} of {group['people']} verifiable, "
                f"median d' {group['median_detectability']:.1f}"
            )


def _more(models: int | None) -> str:
    if models is None:
        return "; no number of models would help"
    return f"; {models} models more would help" if models else ""
