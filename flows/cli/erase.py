"""The command `erasure-audit erase`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.options import Json, open_register, print_json

app = typer.Typer(rich_markup_mode=None)


@app.command()
def erase(
    batch: Annotated[str, typer.Argument(help="Name of a released batch.")],
    by: Annotated[
        str | None, typer.Option(help="The responsible person. Default: git's user.name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Erase the copies of a released batch's records: data, DVC's cache and remotes, models that
    saw them.

    Every store is searched again afterwards and gets a receipt in ledger/erasures/. Repeat the
    command after an interruption. If the batch is erased already, copies that came back are found
    and erased.

    Example: erasure-audit erase 2026-11 --by "Ada Officer"
    """
    from flows.erasure import carry_out, receipts
    from flows.pipeline import console

    name = batch.removeprefix("release/").removeprefix("audit/")
    with open_register() as (home, register):
        erased = carry_out.erase(
            home, name, by, register, lambda step: console.say(f"{step} …") if not as_json else None
        )
    if as_json:
        print_json(erased.plain())
        return
    for receipt in [] if erased.came_back else erased.receipts:
        typer.echo(_line(receipt))
    for store, count in erased.came_back.items():
        typer.echo(f"  {store}: copies that came back and were erased again: {count}")
    outcome = "Erased" if erased.new else "Nothing to do: it was erased before,"
    typer.echo(f"{outcome} {erased.tag}. Receipts: {receipts.FOLDER / name}.json")


def _line(receipt: dict[str, Any]) -> str:
    if receipt["state"] == "expires":
        return f"  {receipt['store']}: expires on {receipt['expires_on']}"
    if receipt["state"] == "held":
        return f"  {receipt['store']}: HELD, {receipt['reason']}"
    counts = ", ".join(f"{count} {kind}" for kind, count in receipt["found"].items() if count)
    return f"  {receipt['store']}: erased ({counts or 'nothing was there'})"
