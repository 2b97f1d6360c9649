"""The commands `erasure-audit letters`: letters to data subjects, notices to recipients, claimed
exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    Json,
    Target,
    existing_register,
    open_register,
    print_json,
    required_text,
)
from flows.cli.requests import By, Requests

if TYPE_CHECKING:
    from flows.correspondence.letters_sent import DueLetter


app = typer.Typer(rich_markup_mode=None)

How = Annotated[str, typer.Option(help="By which way, as registered post; no address and no name.")]


@app.command()
def due(as_json: Json = False) -> None:
    """List the letters that were not sent yet, each with its own last day, and the recipients who
    were not told yet of an erasure (Art. 19 GDPR).

    Example: erasure-audit letters due
    """
    from flows.correspondence import letters_sent
    from flows.pipeline.console import counted

    with open_register() as (home, register):
        letters = letters_sent.due(home, register)
        notices = letters_sent.notices_due(home, register)
    if as_json:
        print_json([*(letter.plain() for letter in letters), *(note.plain() for note in notices)])
        return
    for letter in letters:
        until = letter.due.isoformat() if letter.due else "no date"
        typer.echo(
            f"{letter.request_id}  {letter.letter}  {until}  {letter.file or '(letters write)'}"
        )
    for notice in notices:
        count = counted(len(notice.requests), "request")
        typer.echo(f"{notice.batch}  notice to {notice.recipient} of {count}  (letters told)")
    if not letters and not notices:
        typer.echo("No letter is due.")


@app.command()
def write(
    requests: Requests,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write them into.")] = Path(
        "letters"
    ),
    as_json: Json = False,
) -> None:
    """Write notices of extension and refusals, each as page, PDF and text.

    Answers are made with the reports and lie beside them.

    Example: erasure-audit letters write 7c9e6679 0f8fad5b --out letters
    """
    from flows.correspondence import letters_sent

    with open_register() as (home, register):
        ids = [register.find(name) for name in requests]
        folders = letters_sent.write(home, register, ids, out)
    if as_json:
        print_json([folder.as_posix() for folder in folders])
        return
    for folder in folders:
        typer.echo(f"{folder / 'letter.pdf'}")


@app.command()
def sent(requests: Requests, by: By, how: How, as_json: Json = False) -> None:
    """Record that the due letters of requests were sent, all of them or none.

    Example: erasure-audit letters sent 7c9e6679 0f8fad5b --by "Ada Clerk" --how "registered post"
    """
    from flows.correspondence import letters_sent

    with open_register() as (home, register):
        ids = [register.find(name) for name in requests]
        recorded = letters_sent.sent(
            home, register, ids, required_text(by), required_text(how, "--how")
        )
    if as_json:
        print_json([letter.plain() for letter in recorded])
        return
    for letter in recorded:
        typer.echo(f"{letter.request_id}  {letter.letter}  sent")


@app.command()
def extend(
    requests: Requests,
    by: By,
    reason: Annotated[str, typer.Option(help="Why; stands in the letters. No personal data.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the letters.")] = Path(
        "letters"
    ),
) -> None:
    """Extend the deadlines of many requests, and write the notice to each data subject.

    One that cannot be extended is named, and the others are extended all the same; the exit code
    is 1 then.

    Example: erasure-audit letters extend 7c9e6679 0f8fad5b --by "Ada Clerk" --reason "many"
    """
    from flows.correspondence import letters_sent
    from flows.register.register import RegisterError

    refused = False
    with open_register() as (home, register):
        extended = []
        who, why = required_text(by), required_text(reason, "--reason")
        for request in requests:
            try:
                case = register.extend(register.find(request), who, why)
                extended.append(case.request_id)
            except RegisterError as error:
                typer.echo(str(error), err=True)
                refused = True
        for folder in letters_sent.write(home, register, extended, out):
            typer.echo(f"{folder / 'letter.pdf'}")
    if refused:
        raise typer.Exit(1)


@app.command()
def told(
    target: Target,
    by: By,
    to: Annotated[
        str, typer.Option(help="Whom, as report.recipients or report.processors names him.")
    ],
    comment: Annotated[str, typer.Option(help="Stands in the report. No personal data.")] = "",
) -> None:
    """Record that a recipient or a processor was told of the erasure (Art. 19 GDPR).

    Example: erasure-audit letters told 2026-11-21 --to "Research group" --by "Ada Clerk"
    """
    from flows.correspondence import known_since

    with open_register() as (home, register):
        known_since.record_notice(home, register, target, required_text(by), to, comment.strip())
    typer.echo(f"{to}: recorded")


@app.command()
def claim(
    target: Target,
    by: By,
    ground: Annotated[str, typer.Option(help="The provision, as Art. 17(3)(b) GDPR.")],
    reason: Annotated[str, typer.Option(help="Why it applies. No personal data.")],
) -> None:
    """Record an exception that is claimed against an erasure, for what is kept (Art. 17(3) GDPR).

    To keep a request out of release and erasure altogether, see `requests hold`.

    Example: erasure-audit letters claim 7c9e6679 --ground "Art. 17(3)(b)" --reason "tax" --by Ada
    """
    from flows.correspondence import known_since

    with open_register() as (_, register):
        known_since.record_exception(
            register,
            target,
            required_text(by),
            required_text(ground, "--ground"),
            required_text(reason, "--reason"),
        )
    typer.echo(f"{ground}: recorded")


@app.command()
def renew(
    batch: Annotated[str, typer.Argument(help="Name of an erased batch.")],
) -> None:
    """Make the reports of an erased batch again with what was recorded since: letters, notices,
    exceptions. They are signed again and committed.

    Example: erasure-audit letters renew 2026-11-21
    """
    from flows.correspondence import known_since

    with open_register() as (home, register):
        new = known_since.renew(home, register, batch)
    typer.echo(f"Reports of batch {batch}: {'made again' if new else 'nothing new is on record'}")


def unsent(home: Path) -> list[DueLetter]:
    """The letters of a workspace that were not sent yet; without a register there are none."""
    from flows.correspondence import letters_sent

    with existing_register(home) as register:
        return letters_sent.due(home, register) if register is not None else []


def behind(home: Path) -> list[str]:
    """The erased batches whose reports lack what was recorded since."""
    from flows.correspondence import known_since

    with existing_register(home) as register:
        return list(known_since.behind(home, register)) if register is not None else []
