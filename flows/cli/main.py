"""The command `erasure-audit`. Commands import what they need when they run, so that `--help` is
fast."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from flows.cli import on_demand
from flows.cli.erase import app as erase_app
from flows.cli.interruption import Interruption
from flows.cli.operate import app as operate_app
from flows.cli.options import Events, Jobs, Json, print_json, workspace
from flows.cli.overview import app as register_app
from flows.cli.plan import app as plan_app
from flows.cli.pool import app as pool_app
from flows.cli.serve import app as serve_app
from flows.cli.sign import app as sign_app
from flows.cli.sign_off import app as signoff_app
from tasks.common.errors import AuditError

if TYPE_CHECKING:
    from flows.operations import run_batch

app = typer.Typer(
    help="From a deletion request to a signed-off report: forget, verify, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(
    on_demand.group(
        "flows.cli.import_",
        "Bring in the records that the model was trained on, as data/ with a manifest, tracked by "
        "DVC.",
    ),
    name="import",
)
app.add_typer(sign_app)
app.add_typer(plan_app)
app.add_typer(register_app)
app.add_typer(operate_app)
app.add_typer(signoff_app)
app.add_typer(erase_app)
app.add_typer(pool_app)
app.add_typer(serve_app)
app.add_typer(
    on_demand.group(
        "flows.cli.requests", "The register of requests: take in, verify, hold, reject, show."
    ),
    name="requests",
)
app.add_typer(
    on_demand.group(
        "flows.cli.letters",
        "Letters to data subjects, and what recipients were told: due, written, sent.",
    ),
    name="letters",
)
app.add_typer(
    on_demand.group("flows.cli.agents", "This machine as an agent that runs stages for others."),
    name="agent",
)

Batch = Annotated[
    str | None,
    typer.Argument(
        help="Name of the batch, requests/<batch>.json. Default: the one in params.yaml."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Write a setting into params.yaml first. Repeatable."
    ),
]
Commit = Annotated[
    bool, typer.Option("--commit", help="Close the batch: sign, commit and tag it audit/<batch>.")
]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
Level = Literal["integrity", "rederive", "reexecute"]


def main() -> None:
    """Run the command line.

    An `AuditError` or a full disk ends with one line on stderr and exit code 1; a signal ends with
    one line and exit code 128 + its number.
    """
    interruption = Interruption()
    interruption.install()
    try:
        _run_command()
    finally:
        if interruption.number is not None:
            interruption.exit()


def _run_command() -> None:
    try:
        app()
    except AuditError as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _fail(
            f"{os.strerror(error.errno)}: make room, then give the command again; what was done "
            "is kept",
            1,
        )


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty folder, or a git repository.")
    ],
) -> None:
    """Make a workspace: git, DVC, pipeline, settings.

    Example: erasure-audit init my-audit
    """
    from flows.workspace import layout

    layout.init(folder)
    typer.echo(
        f"{folder} is a workspace. Next: cd {folder}; erasure-audit import --help, or "
        "erasure-audit demo"
    )


@app.command()
def demo(jobs: Jobs = None, as_json: Events = False) -> None:
    """Audit the batch `demo` on the embedded data set of synthetic writers, and sign its reports.

    People and settings are chosen so that each verdict comes out clearly.

    Example: erasure-audit demo
    """
    from flows.cli import import_
    from flows.pipeline import console
    from flows.workspace import layout, signing_keys

    folder = workspace()
    if not (folder / "data.dvc").exists() and not (folder / "data").exists():
        import_.import_digits(folder)
    layout.ensure_data(folder)
    layout.lay_demo(folder)
    if signing_keys.load_key(folder) is None:
        signing_keys.make_development(folder)
    batch_run = _run("demo", list(layout.DEMO), jobs, False, as_json, sign=True)
    if not as_json:
        console.originals(batch_run.results)


@app.command()
def run(
    batch: Batch = None,
    assignments: Assignments = None,
    jobs: Jobs = None,
    commit: Commit = False,
    as_json: Events = False,
) -> None:
    """Bring a batch up to date: run stale stages, show the verdicts.

    Example: erasure-audit run 2026-11 --set unlearn.method=retrain --commit
    """
    _run(batch, assignments or [], jobs, commit, as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Show the current batch, stale stages, verdicts, and letters that were not sent.

    Example: erasure-audit status
    """
    from flows.cli import letters, sign_off
    from flows.pipeline import close_batch, console, results
    from flows.workspace import dvc_graph, layout
    from tasks.common import settings

    folder = workspace()
    batch, waits = settings.load(folder / "params.yaml").batch, sign_off.waiting(folder)
    ended = close_batch.end_tag(folder, batch)
    stale = [] if ended else sorted(dvc_graph.stale(folder))
    judged, advised = results.read(folder, batch), results.advice(folder, batch)
    reports = results.index(folder, waits.batch if waits else batch)
    unsent, behind = letters.unsent(folder), letters.behind(folder)
    if as_json:
        print_json(
            {
                "batch": batch,
                "ended": ended,
                "stale": stale,
                "requests": [result.plain() for result in judged],
                "advice": advised,
                "signoff": waits.plain() if waits else None,
                "reports": reports and reports.as_posix(),
                "letters": [letter.plain() for letter in unsent],
                "reports_behind": behind,
            }
        )
        return
    typer.echo(f"Batch {batch}")
    if ended:
        typer.echo(f"Nothing to run: the batch has ended, see `git show {ended}`")
    elif obstacle := layout.missing_input(folder, batch):
        typer.echo(f"Nothing to run yet: {obstacle}")
    elif stale:
        typer.echo(f"Stale: {', '.join(stale)}; `erasure-audit run` brings them up to date")
    else:
        typer.echo("Nothing is stale")
    if judged:
        console.verdicts(judged)
    console.advice(advised)
    if waits:
        typer.echo(f"{waits.line}. You can\n{waits.choices_text}")
    if reports:
        typer.echo(f"Reports: {reports}")
    if unsent:
        first = f", the first due {unsent[0].due}" if unsent[0].due else ""
        counted = console.counted(len(unsent), "letter")
        typer.echo(f"{counted} not recorded as sent{first}; `erasure-audit letters due` lists them")
    for name in behind:
        typer.echo(
            f"Batch {name}: reports lack what was recorded since it was erased; "
            f"`erasure-audit letters renew {name}`"
        )


@app.command()
def show(
    request: Annotated[str, typer.Argument(help="Id of a request, or the beginning of it.")],
    as_json: Json = False,
) -> None:
    """Show the verdict on one request.

    Example: erasure-audit show 3f2a
    """
    from flows.pipeline import results
    from tasks.common import files, settings

    folder = workspace()
    path = results.find(folder, request, settings.load(folder / "params.yaml").batch)
    evidence = files.read_json(path)
    if as_json:
        print_json(evidence)
        return
    for line in results.explanation(evidence):
        typer.echo(line)
    for name in ("report.html", "report.pdf", "evidence.json"):
        typer.echo(f"  {path.with_name(name).relative_to(folder)}")


@app.command()
def reproduce(
    batch: Annotated[str, typer.Argument(help="Name of a closed batch, or its tag audit/<batch>.")],
    level: Annotated[
        Level,
        typer.Option(
            help="integrity: hashes; rederive: verdicts and reports again; reexecute: all again."
        ),
    ] = "integrity",
    as_json: Events = False,
) -> None:
    """Check a closed batch again, in a worktree of its own.

    Example: erasure-audit reproduce 2026-11 --level rederive
    """
    from flows.pipeline import console
    from flows.pipeline import reproduce as reproduction

    folder = workspace()
    with console.progress(folder, as_json) as listener:
        outcome = reproduction.reproduce(folder, batch, level, listener)
    if as_json:
        print_json(outcome.plain())
    else:
        console.comparison(outcome)
    if not outcome:
        raise typer.Exit(1)


def _run(
    batch: str | None,
    assignments: list[str],
    jobs: int | None,
    commit: bool,
    as_json: bool,
    sign: bool = False,
) -> run_batch.Run:
    from flows.operations import run_batch as batches
    from flows.pipeline import console

    batch_run = batches.run(workspace(), batch, assignments, jobs, commit, sign, as_json)
    if as_json:
        print_json(batch_run.plain())
        return batch_run
    console.verdicts(batch_run.results)
    console.advice(batch_run.advice)
    if batch_run.tag:
        typer.echo(f"Closed as {batch_run.tag}")
    return batch_run


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
