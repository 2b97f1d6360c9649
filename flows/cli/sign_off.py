"""The commands `erasure-audit approve`, `reject`, `release`, `releases` and `finalize`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.options import (
    Json,
    Target,
    existing_register,
    open_register,
    print_json,
    workspace,
)

if TYPE_CHECKING:
    from flows.release.release import Released
    from flows.release.standing import Standing

app = typer.Typer(rich_markup_mode=None)

By = Annotated[str, typer.Option("--by", metavar="NAME", help="Your name; the report states it.")]
Role = Annotated[str, typer.Option(help="Your role; the report states it.")]
Ground = Annotated[
    str,
    typer.Option(
        help="The provision that the decision rests on, as 'Art. 17(1)(b) GDPR'; the report states "
        "it. Default: none."
    ),
]
Model = Literal["unlearned", "retrained"]
Next = Literal["more_references", "another_method", "requeue", "refuse"]


@app.command()
def approve(
    target: Target,
    by: By,
    comment: Annotated[str, typer.Option(help="Why; the report states it. No personal data.")] = "",
    role: Role = "approver",
    model: Annotated[
        Model | None,
        typer.Option(
            help="The model to release: the unlearned one, if all passed, or the exact retrain. "
            "Default: the one that the audit proposes."
        ),
    ] = None,
    ground: Ground = "",
    as_json: Json = False,
) -> None:
    """Approve an audited batch, or one request of it. A batch is released when all its requests are
    approved.

    With operate.four_eyes two different people must approve. This adds a batch that was run by hand
    (erasure-audit run --commit) to the register of requests.

    Example: erasure-audit approve 2026-11-21 --by Ada --comment "Reports read, ticket 4711"
    """
    from flows.release import approval

    with open_register() as (home, register):
        standing = approval.approve(home, register, target, by, comment, role, model, ground)
        _print_standing(standing, as_json)


@app.command()
def reject(
    target: Target,
    by: By,
    comment: Annotated[str, typer.Option(help="Why; the report states it. No personal data.")],
    next: Annotated[  # the option's name
        Next,
        typer.Option(
            help="What happens to the requests: audited again with more references, by another "
            "method, or as before; or refused for good."
        ),
    ],
    method: Annotated[
        str | None, typer.Option(help="With --next another_method: unlearn.method.")
    ] = None,
    role: Role = "approver",
    ground: Ground = "",
    as_json: Json = False,
) -> None:
    """Reject an audited batch. Its requests wait for the next one, or are refused for good.

    Rejecting one request also ends its batch, because one model forgets all requests together. With
    --next refuse only that request is refused; the others wait for the next batch, whose model does
    not forget its records.

    Example: erasure-audit reject 2026-11-21 --by Ada --comment "1 of 4 open" --next more_references
    """
    from flows.release import approval

    with open_register() as (home, register):
        standing = approval.reject(home, register, target, by, comment, next, method, role, ground)
        _print_standing(standing, as_json)


@app.command()
def split_off(
    batch: Annotated[str, typer.Argument(help="Name of an audited batch.")],
    by: By,
    comment: Annotated[str, typer.Option(help="Why; the report states it. No personal data.")] = "",
    as_json: Json = False,
) -> None:
    """Put the requests of a batch that passed into a batch of their own, because others did not.

    One model forgets all requests of a batch together, so it cannot be released if one of them did
    not pass. The batch is rejected; the next `nightly` audits those that passed as BATCH-passed,
    and the others wait for a later batch.

    Example: erasure-audit split-off 2026-11-21 --by "Ada Okafor" --comment "1 of 4 failed"
    """
    from flows.release import approval

    with open_register() as (home, register):
        name = approval.split_off(home, register, batch, by, comment)
    if as_json:
        print_json({"batch": name, "of": batch})
    else:
        typer.echo(f"Batch {name} is next; `erasure-audit nightly` audits it.")


@app.command()
def release(
    batch: Annotated[str, typer.Argument(help="Name of an approved batch.")],
    as_json: Json = False,
) -> None:
    """Release an approved batch: its model becomes releases/<batch>, and the next batch starts from
    it.

    The forgotten records leave the data set; the retrained models become the next batch's
    references. The release is one commit with the tag release/<batch>: all of it or nothing. Repeat
    the command after an interruption.

    Example: erasure-audit release 2026-11-21
    """
    from flows.pipeline import console
    from flows.release import release as releasing

    with open_register() as (home, register):
        released = releasing.release(
            home, register, batch, console.say if not as_json else _unheard
        )
    if as_json:
        print_json(released.plain())
        return
    for line in _lines(released):
        typer.echo(line)
    console.advice(released.advice)


@app.command()
def releases(as_json: Json = False) -> None:
    """List all releases, the newest first. The newest one with weights is the model in use.

    Example: erasure-audit releases
    """
    from flows.pipeline import console
    from flows.release import release as releasing

    all_releases = releasing.releases(workspace())
    if as_json:
        print_json([released.plain() for released in all_releases])
        return
    for released in all_releases:
        model = (
            f"{released.model}  {released.weights_sha256[:16]}"
            if released.weights_sha256
            else "data only"
        )
        typer.echo(
            f"{released.at[:10]}  {released.tag}  {model}  "
            f"{console.counted(released.records_dropped, 'record')}"
        )
    if not all_releases:
        typer.echo("Nothing is released yet.")


@app.command()
def finalize(
    batch: Annotated[
        str | None, typer.Argument(help="Only this batch. Default: all that are not closed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Finish decided batches: release, erase the copies, close. Steps that are done are skipped.

    Example: erasure-audit finalize
    """
    from flows.pipeline import console
    from flows.release import finishing

    with open_register() as (home, register):
        finalized = finishing.finalize(
            home, register, batch, console.say if not as_json else _unheard
        )
    if as_json:
        print_json(finalized.plain())
        return
    for line in (*finalized.done, *([finalized.waits] if finalized.waits else [])):
        typer.echo(line)
    if not finalized.done and not finalized.waits:
        typer.echo("Nothing to finalize.")


def waiting(home: Path) -> Standing | None:
    """The standing of the batch that awaits sign-off; None: there is none, or no register."""
    from flows.register.register import State
    from flows.release import approval

    with existing_register(home) as register:
        if register is None or not (cases := register.cases([State.AWAITING_SIGNOFF])):
            return None
        return approval.standing(home, register, str(cases[0].batch))


def _print_standing(standing: Standing, as_json: bool) -> None:
    from flows.pipeline import console

    if as_json:
        print_json(standing.plain())
        return
    typer.echo(standing.line)
    for request in standing.requests:
        missing = (
            f", {request.lacking} missing"
            if request.lacking and standing.state == "waiting"
            else ""
        )
        approvals = console.counted(request.approvals, "approval")
        typer.echo(
            f"  {request.request_id}  {request.verdict or '—'}  {request.state}  "
            f"{approvals}{missing}"
        )
    if standing.state == "approved":
        typer.echo(f"Next: erasure-audit finalize {standing.batch}")
    elif standing.state == "waiting":
        typer.echo(f"You can\n{standing.choices_text}")


def _lines(released: Released) -> Iterator[str]:
    from flows.pipeline import console

    yield f"{'Released' if released.new else 'Was released on ' + released.at[:10]}: {released.tag}"
    if released.model:
        yield (
            f"  the {released.model} model, SHA-256 {released.weights_sha256}, is the one in use: "
            f"releases/{released.batch}"
        )
        yield (
            f"  {released.references} references for the next batch; unlearnings since training: "
            f"{released.unlearnings}"
        )
    else:
        yield "  no model saw these people, so the one in use stays"
    yield (
        f"  {console.counted(released.records_dropped, 'record')} removed from data/ (copies stay "
        "until they are erased)"
    )


def _unheard(_: str) -> None:
    pass
