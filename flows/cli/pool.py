"""The commands `erasure-audit pool` and `readiness`: references for many batches, and whom they can
judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Jobs, Json, print_json, workspace

app = typer.Typer(rich_markup_mode=None)


@app.command()
def pool(
    blocks: Annotated[
        int, typer.Option(min=1, help="Blocks of the pool, pool.folds models and more in each.")
    ] = 8,
    jobs: Jobs = None,
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

    home = workspace()
    if erase:
        receipt = making.erase(home)
        if as_json:
            print_json(receipt)
        else:
            typer.echo(f"{receipt['records']} rows taken out of {receipt['pool']}.")
        return
    with console.progress(home, as_json) as listener:
        lineage = making.make(home, blocks, jobs, listener)
    if as_json:
        print_json(lineage.plain())
        return
    typer.echo(
        f"{lineage.models} models scored everybody in {lineage.folder}, {lineage.seconds:.0f} s of "
        "training; "
        "no weights are kept."
    )
    typer.echo(
        "Batches use it with --set references.mode=pool --set references.with_from="
        f"{lineage.folder} --set references.without_blocks=[]"
    )


@app.command()
def readiness(
    page: Annotated[
        Path | None, typer.Option("--page", help="Write the result as an HTML page, too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whose deletion the pool could verify, at which margin, how many models more would help,
    and whether the pool has to be renewed.

    Example: erasure-audit readiness --page readiness.html
    """
    from flows.pools import judged_retrains
    from flows.pools import readiness as report
    from tasks.common import files

    home = workspace()
    ready, age = report.assess(home), judged_retrains.assess(home)
    if page is not None:
        files.write_text(page, report.page(ready, age))
    if as_json:
        print_json({**ready.plain(), "renewal": age.plain()})
        return
    typer.echo(f"{'Renew the pool' if age.renew else 'The pool may stay'}: {age.reason}.")
    able = sum(person.verifiable for person in ready.people)
    typer.echo(
        f"{able} of {len(ready.people)} people can be verified at rho0 {ready.rho0:g} with "
        f"{ready.models} models."
    )
    for person in ready.people:
        typer.echo(f"  {person.pseudonym[:17]}  {person.records} records: {person.in_words()}")
    for column, values in ready.groups.items():
        for value, group in values.items():
            typer.echo(
                f"  {column} {value}: {group['verifiable']} of {group['people']} verifiable, "
                f"median d' {group['median_detectability']:.1f}"
            )
