"""The commands `erasure-audit requests`: show the register, and act on its requests."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.options import Json, open_register, print_json, required_text

if TYPE_CHECKING:
    from flows.intake.drop_folder import Refused, TakenFiles
    from flows.register.register import Case, Event, Head, Register

app = typer.Typer(rich_markup_mode=None)

Request = Annotated[
    str, typer.Argument(metavar="ID", help="Id of a request, or the beginning of it.")
]
Requests = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of requests, or their beginnings.")
]
By = Annotated[str, typer.Option(help="Your name, for the register.")]
Reason = Annotated[str, typer.Option(help="Why; kept unchanged, so name no data subject.")]


class Shown(StrEnum):
    """States for people."""

    RECEIVED = "received"
    IDENTITY_VERIFIED = "identity_verified"
    ON_HOLD = "on_hold"
    BATCHED = "batched"
    AUDITED = "audited"
    AWAITING_SIGNOFF = "awaiting_signoff"
    RELEASED = "released"
    ERASED = "erased"
    REJECTED = "rejected"
    CLOSED = "closed"


COLUMNS = (
    "request_id",
    "regulation",
    "submitted",
    "source",
    "due",
    "days_left",
    "extended",
    "state",
    "shown",
    "held",
    "batch",
    "verdict",
    "duplicate_of",
)
"""Columns of the exported CSV."""


@app.command("list")
def list_(
    state: Annotated[
        list[Shown] | None,
        typer.Option(help="Only requests in this state. Repeatable. Default: all but closed ones."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Include closed requests.")] = False,
    as_json: Json = False,
) -> None:
    """List requests with state and deadline, the most urgent first.

    Example: erasure-audit requests list --state received --state on_hold
    """
    from flows.register.register import OPEN, State

    state_names = set(map(str, state or ()))
    if state_names:
        states = [
            candidate
            for candidate in State
            if candidate in state_names or ("on_hold" in state_names and candidate in OPEN)
        ]
    else:
        states = [candidate for candidate in State if everything or candidate != State.CLOSED]
    with open_register() as (_, register):
        cases = [
            case for case in register.cases(states) if not state_names or case.shown in state_names
        ]
    if as_json:
        print_json([_line(case) for case in cases])
        return
    _table(cases)


@app.command()
def show(request: Request, as_json: Json = False) -> None:
    """Show a request, its events, and the approvals and refusals of its batch.

    Example: erasure-audit requests show 7c9e6679
    """
    with open_register() as (_, register):
        case = register.case(register.find(request))
        history = register.history(case.request_id)
        decisions = register.history(batch=case.batch, kind="decision") if case.batch else []
    # a decision on the batch is a decision on each of its requests
    approvals = [event for event in decisions if event.request_id in (None, case.request_id)]
    numbers = {event.seq for event in history}
    history = sorted(
        [*history, *(event for event in approvals if event.seq not in numbers)],
        key=lambda event: event.seq,
    )
    if as_json:
        events = list(map(_event, history))
        print_json(_line(case) | {"events": events, "approvals": list(map(_event, approvals))})
        return
    _table([case])
    for event in history:
        facts = {
            name: value
            for name, value in event.details.items()
            if value is not None and name != "digest"
        }
        details = ", ".join(f"{name} {value}" for name, value in facts.items())
        typer.echo(
            f"{event.at[:19]}Z  {event.kind}  by {event.actor}{f'  ({details})' if details else ''}"
        )


@app.command()
def receive(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="OpenDSR as .json, or a .csv.")
    ],
    by: By = "command line",
    as_json: Json = False,
) -> None:
    """Take requests in: a JSON file with one or a list of them, or a CSV with one identity per row.

    A CSV has the columns subject_request_id, regulation, submitted_time, identity_type,
    identity_value, identity_format; rows with the same id are one request. Refused entries are
    named by number, the others are taken in, and the exit code is 1. Identities are kept as keyed
    pseudonyms; the files stay where they are.

    Example: erasure-audit requests receive november.csv --by "Ada Clerk"
    """
    from flows.intake import drop_folder

    with open_register() as (home, register):
        taken = drop_folder.TakenFiles()
        for path in paths:
            taken += _take(home, register, path, by)
    if as_json:
        print_json(taken.plain())
    else:
        typer.echo(
            f"{len(taken.new)} new, {len(taken.known)} known already, {len(taken.refused)} refused"
        )
        for entry in taken.refused:
            typer.echo(f"  {_position(entry)}: {entry.reason}", err=True)
    if taken.refused:
        raise typer.Exit(1)


@app.command()
def verify(
    requests: Requests,
    by: By,
    how: Annotated[str, typer.Option(help="How the identity was checked; no personal data.")],
    as_json: Json = False,
) -> None:
    """Mark the identities of the people behind requests as verified, all of them or none.

    Example: erasure-audit requests verify 7c9e6679 0f8fad5b --by Ada --how "login and e-mail code"
    """
    from flows.register.register import State

    with open_register() as (_, register):
        ids = [register.find(name) for name in requests]
        _print_moved(
            register.move(
                ids, State.IDENTITY_VERIFIED, required_text(by), how=required_text(how, "--how")
            ),
            as_json,
        )


@app.command()
def ground(
    request: Request,
    by: By,
    ground: Annotated[str, typer.Option(help="The ground, such as Art. 17(1)(b) GDPR.")],
    as_json: Json = False,
) -> None:
    """Record the ground of a deletion request; the report quotes it.

    Example: erasure-audit requests ground 7c9e6679 --ground "Art. 17(1)(b) GDPR" --by "Ada Clerk"
    """
    from flows.register import recorded
    from tasks.requests import provisions

    with open_register() as (_, register):
        case = register.case(register.find(request))
        provision = required_text(ground, "--ground")
        provisions.check(provision, case.regulation, case.request_id)
        register.note(
            recorded.GROUND,
            required_text(by),
            request_id=case.request_id,
            batch=case.batch,
            ground=provision,
        )
        _print_moved([case], as_json)


@app.command()
def reject(
    requests: Requests,
    by: By,
    reason: Reason,
    ground: Annotated[
        str,
        typer.Option(
            help="The provision that the refusal rests on, as 'Art. 12(5) GDPR'; the letter states "
            "it. Default: none."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Refuse requests for good, before they are in a batch. Requests of a batch are decided at its
    sign-off.

    Example: erasure-audit requests reject 7c9e6679 --by Ada --reason "identity not shown"
    """
    with open_register() as (_, register):
        ids = [register.find(name) for name in requests]
        who, why = required_text(by), required_text(reason, "--reason")
        _print_moved([register.cancel(name, who, why, ground.strip()) for name in ids], as_json)


@app.command()
def hold(
    request: Request,
    by: By,
    reason: Reason,
    ground: Annotated[
        str,
        typer.Option(help="The claimed exception. Default: Art. 17(3)(e) under the GDPR."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Put a legal hold on a request: it enters no batch, and its batch is neither released nor
    erased.

    The deadline still runs: the data subject must be told of the exception.

    Example: erasure-audit requests hold 7c9e6679 --by "Ada Clerk" --reason "claim 12/345"
    """
    with open_register() as (_, register):
        who, why = required_text(by), required_text(reason, "--reason")
        _print_moved([register.hold(register.find(request), who, why, ground.strip())], as_json)


@app.command()
def lift(request: Request, by: By, reason: Reason, as_json: Json = False) -> None:
    """Lift a legal hold.

    Example: erasure-audit requests lift 7c9e6679 --by Ada --reason "claim 12/345 is settled"
    """
    with open_register() as (_, register):
        _print_moved(
            [
                register.lift(
                    register.find(request), required_text(by), required_text(reason, "--reason")
                )
            ],
            as_json,
        )


@app.command()
def extend(request: Request, by: By, reason: Reason, as_json: Json = False) -> None:
    """Extend a deadline once, as its regulation allows. The data subject must be told why before
    the first deadline.

    Example: erasure-audit requests extend 7c9e6679 --by Ada --reason "many requests at once"
    """
    with open_register() as (_, register):
        _print_moved(
            [
                register.extend(
                    register.find(request), required_text(by), required_text(reason, "--reason")
                )
            ],
            as_json,
        )


@app.command()
def check(as_json: Json = False) -> None:
    """Check the register: its chain of events, the chain's key, every column of every request, and
    the ends of the chain that git keeps.

    Example: erasure-audit requests check
    """
    from flows.intake import batch_requests
    from flows.register import anchors

    with open_register() as (home, register):
        heads = anchors.heads(home)
        head = anchors.check(home, register, every_stamp=True)
        kept_head = register.kept_end()
        unknown = batch_requests.missing_from_register(home, register)
    anchored = max((end.seq for end in heads), default=0)
    if as_json:
        facts = {"events": head.seq, "hash": head.hash, "known_ends": len(heads)}
        print_json(
            facts | {"anchored": anchored, "kept": kept_head and kept_head.seq, "unknown": unknown}
        )
    else:
        _tell_check(head, len(heads), anchored, kept_head)
        for batch, count in unknown.items():
            typer.echo(
                f"batch {batch}: its reports name {count} requests that are not in this register; "
                "it was run by hand, or the register is another one"
            )
    if head.seq == 0 and unknown:
        raise typer.Exit(1)


def _tell_check(head: Head, ends: int, anchored: int, kept_head: Head | None) -> None:
    if head.seq == 0:
        typer.echo("The register is empty: there is nothing to check")
        return
    typer.echo(f"{head.seq} events, the last one {head.hash[:16]}: intact")
    if ends:
        typer.echo(f"Earlier ends that git keeps: {ends}, all in it, the last is event {anchored}")
    else:
        typer.echo("Git keeps no earlier end; `erasure-audit requests anchor` adds one")
    if kept_head is None:
        typer.echo("This machine keeps no end outside the database yet (keys/chain.end)")
    elif kept_head.seq < head.seq:  # another machine wrote since
        typer.echo(f"This machine last kept event {kept_head.seq}; later ones rest on git alone")


@app.command()
def anchor(as_json: Json = False) -> None:
    """Check the register, and keep the end of its chain in git, on the branch register-chain.

    The daily watch does the same. Push the branch to a server that the database's owner cannot
    write to.

    Example: erasure-audit requests anchor && git push origin register-chain
    """
    from flows.register import anchors

    with open_register() as (home, register):
        head = anchors.anchor(home, register)
    if as_json:
        print_json({"events": head.seq, "hash": head.hash, "branch": anchors.BRANCH})
        return
    typer.echo(f"{head.seq} events, the last one {head.hash[:16]}: kept on {anchors.BRANCH}")


@app.command()
def bind(by: By, as_json: Json = False) -> None:
    """Vouch once for requests that an earlier version of the tool wrote, without a key.

    Check them first: earlier changes count as right from then on.

    Example: erasure-audit requests bind --by "Ada Clerk"
    """
    from flows.register import anchors

    with open_register() as (home, register):
        head = register.bind(required_text(by), anchors.heads(home))
    if as_json:
        print_json({"events": head.seq, "hash": head.hash})
        return
    typer.echo(f"{head.seq} events, the last one {head.hash[:16]}: bound")


@app.command()
def restored(
    by: By,
    reason: Annotated[str, typer.Option("--reason", help="Why a backup had to be restored.")],
    as_json: Json = False,
) -> None:
    """Go on from a restored backup, although events after it are lost.

    This machine keeps the end of the chain outside the database (keys/chain.end), so an older
    backup or a missing file raises an alarm. The chain records who accepted it. Ends that git keeps
    raise an alarm until they are removed there (docs/requests.md).

    Example: erasure-audit requests restored --by "Ada Clerk" --reason "the disk of 21 November"
    """
    with open_register() as (_, register):
        head = register.accept_restored(required_text(by), reason)
    if as_json:
        print_json({"events": head.seq, "hash": head.hash})
        return
    typer.echo(f"{head.seq} events, the last one {head.hash[:16]}: accepted")


@app.command()
def export(
    form: Annotated[
        Literal["json", "csv"],
        typer.Option("--format", help="json: with all events; csv: a line per request."),
    ] = "json",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Target. Default: standard output.")
    ] = None,
) -> None:
    """Export the whole register, without identities and pseudonyms. The JSON holds people's texts
    unchanged.

    Example: erasure-audit requests export --format csv --out register.csv
    """
    from tasks.common import files

    with open_register() as (_, register):
        head = register.head()
        cases = [_line(case) for case in register.cases()]
        events = [] if form == "csv" else [vars(event) for event in register.history()]
    if form == "csv":
        text = _csv(cases)
    else:
        register_content = {"head": vars(head), "requests": cases, "events": events}
        text = json.dumps(register_content, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        files.write_text(out, text)


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
) -> None:
    """Copy the register's SQLite file while it is in use, and check the copy. For PostgreSQL use
    pg_dump.

    It does not contain the key of pseudonyms, which needs a backup of its own in another place: see
    docs/requests.md.

    Example: erasure-audit requests backup /mnt/backup/register-2026-11-21.db
    """
    with open_register() as (_, register):
        head = register.backup(target)
    typer.echo(f"{target}: {head.seq} events, the last one {head.hash[:16]}, checked")


def _take(home: Path, register: Register, path: Path, by: str) -> TakenFiles:
    from flows.intake import drop_folder
    from tasks.common.errors import RequestError

    kind = path.suffix.lower()
    try:
        with path.open("rb") as stream:
            sheet = drop_folder.read(stream.read(drop_folder.MAX_BYTES + 1), kind)
    except OSError as error:
        return drop_folder.TakenFiles(
            refused=(drop_folder.Refused(0, f"{path} cannot be read ({error.strerror})", ""),)
        )
    except RequestError as error:
        return drop_folder.TakenFiles(refused=(drop_folder.Refused(0, f"{path}: {error}", ""),))
    taken = drop_folder.take_entries(
        home, register, sheet, required_text(by), "csv" if kind == ".csv" else "file"
    )
    return taken + drop_folder.TakenFiles(files=1)


def _position(entry: Refused) -> str:
    return f"entry {entry.position}" if entry.position else "a whole file"


def _print_moved(cases: list[Case], as_json: bool) -> None:
    if as_json:
        print_json([_line(case) for case in cases])
    else:
        _table(cases)


def _event(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at,
        "actor": event.actor,
        "kind": event.kind,
        "details": event.details,
    }


def _line(case: Case) -> dict[str, Any]:
    from datetime import UTC, datetime

    return case.plain() | {"days_left": case.days_left(datetime.now(UTC).date())}


def _table(cases: list[Case]) -> None:
    if not cases:
        typer.echo("No requests.")
        return
    rows = [("request", "state", "due", "left", "batch", "verdict", "")]
    for case in cases:
        line = _line(case)
        marks = [f"may be a duplicate of {case.duplicate_of}"] if case.duplicate_of else []
        marks += ["extended"] if case.extended else []
        days_left = "" if line["days_left"] is None else f"{line['days_left']} d"
        cells = (
            line["due"] or "none",
            days_left,
            case.batch or "",
            case.verdict or "",
            ", ".join(marks),
        )
        rows.append((case.request_id, case.shown, *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _csv(lines: list[dict[str, Any]]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
