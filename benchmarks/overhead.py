"""Measure the time around the compute: a batch whose models are all in the cache, and a run with
nothing to do.

The demonstration's batch is audited once. Then, in turns, everything but the trained, retrained and
unlearned models is forgotten, in the workspace and in DVC's run-cache, and the batch is audited
again: by `erasure-audit run`, which starts Prefect, and by `dvc repro`, which is the least that any
way of running these stages takes.

Example: python -m benchmarks.overhead --rounds 5
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from benchmarks import measure, stand_in
from tasks.common import files, stage_cli
from tasks.common.errors import WorkspaceError

KEPT = ("train", "retrain", "unlearn")
"""Stages whose results stay in the cache."""
World = Literal["demo", "stand-in"]
AUDIT, REPRO, IDLE, STATUS, HELP, BARE = (
    "erasure-audit run, models cached",
    "dvc repro, models cached",
    "erasure-audit run, nothing to do",
    "dvc status, nothing to do",
    "erasure-audit --help",
    "python -c pass",
)
AIMS = {AUDIT: 25.0, IDLE: 5.0, HELP: 0.3}
"""What issue 7 asks for, s."""
_DONE = re.compile(r"^(\S+): (done|from cache) \(([0-9.]+) s\)")


def main(
    rounds: int = 5, world: World = "demo", page: Path = measure.PAGE, out: Path = measure.RESULTS
) -> None:
    """Measure, and write the table.

    Args:
        rounds: how often each command is measured.
        world: the demonstration's batch, or one whose models are played, which only shows that this
            works.
        page: has the marks `overhead`.
        out: folder for the figures.
    """
    tool = [str(Path(sys.executable).parent / "erasure-audit")]
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        if world == "demo":
            told(workspace, [*tool, "init", "."])
            told(workspace, [*tool, "demo"])
        else:
            ask(stand_in.world(workspace))
            told(workspace, [*tool, "run"])
        ways: dict[str, Callable[[], float]] = {
            AUDIT: lambda: audited(workspace, [*tool, "run"], stages),
            REPRO: lambda: repro(workspace),
            IDLE: lambda: measure.command([*tool, "run"], workspace).seconds,
            STATUS: lambda: (
                measure.command([sys.executable, "-m", "dvc", "status"], workspace).seconds
            ),
            HELP: lambda: measure.command([*tool, "--help"], workspace).seconds,
            BARE: lambda: measure.command([sys.executable, "-c", "pass"], workspace).seconds,
        }
        timings = measure.in_turns(ways, rounds)
    figures: dict[str, Any] = {
        "seconds": {name: measure.Spread.of(values).plain() for name, values in timings.items()},
        "run_to_repro": measure.ratio(timings[AUDIT], timings[REPRO]).plain(),
        "stages": {
            name: measure.Spread.of([one[name] for one in stages]).plain() for name in stages[0]
        },
    }
    line = f"python -m benchmarks.overhead --rounds {rounds}"
    measure.write("overhead", line, figures, table(figures), page, out)


def ask(workspace: Path) -> None:
    """Add a request to the world with stand-in models."""
    files.write_json(workspace / "requests" / "demo.json", [stand_in.request(0)])


def audited(workspace: Path, words: list[str], stages: list[dict[str, float]]) -> float:
    """The time of a batch with everything but its models forgotten; adds the time of each stage to
    `stages`, s."""
    forget(workspace)
    lines: list[str] = []
    seconds = measure.seconds(lambda: lines.extend(told(workspace, words)))
    done = [match for line in lines if (match := _DONE.match(line))]
    stages.append({match[1]: float(match[3]) for match in done})
    ran = {match[1].partition("@")[0] for match in done if match[2] == "done"}
    if ran.intersection(KEPT) or "score" not in ran:
        raise WorkspaceError(
            f"the stages {', '.join(sorted(ran))} ran; expected all but train, retrain and unlearn"
        )
    return seconds


def repro(workspace: Path) -> float:
    """The same by DVC alone."""
    forget(workspace)
    return measure.seconds(lambda: told(workspace, [sys.executable, "-m", "dvc", "repro"]))


def told(workspace: Path, words: list[str]) -> list[str]:
    """The lines that a command prints.

    Raises:
        WorkspaceError: it failed; the text is the end of what it said.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        words,
        cwd=workspace,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        raise WorkspaceError(
            f"{Path(words[0]).name} {' '.join(words[1:4])} failed: {' / '.join(lines[-3:])}"
        )
    return lines


def forget(workspace: Path) -> None:
    """Forget in the workspace all that was made, and in DVC's run-cache all but the models."""
    for inputs in (workspace / ".dvc" / "cache" / "runs").glob(
        "*/*"
    ):  # a folder for all runs of a stage with these
        command = next(inputs.iterdir()).read_text(encoding="utf-8").partition("--")[0]
        if not command.split()[-1].endswith(KEPT):
            shutil.rmtree(inputs)
    for folder in ("artifacts", "reports/demo"):
        shutil.rmtree(workspace / folder)
    (workspace / "dvc.lock").unlink()


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown: the commands, then the stages."""
    rows = [
        (
            f"`{name}`",
            *(f"{spread[key]:.2f}" for key in ("median", "low", "high")),
            AIMS.get(name, ""),
        )
        for name, spread in figures["seconds"].items()
    ]
    stages = [
        (name, *(f"{spread[key]:.1f}" for key in ("median", "low", "high")))
        for name, spread in sorted(figures["stages"].items(), key=lambda one: -one[1]["median"])
    ]
    ratio, runs = figures["run_to_repro"], figures["run_to_repro"]["runs"]
    return "\n\n".join(
        [
            measure.table(
                (f"command, {int(runs)} rounds", "median, s", "least", "greatest", "aim"), rows
            ),
            f"`erasure-audit run` took {ratio['median']:.2f} ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}) times as long as `dvc repro`. What its stages took, side by "
            "side with others and with Prefect's start:",
            measure.table(("stage", "median, s", "least", "greatest"), stages),
        ]
    )


if __name__ == "__main__":
    stage_cli.run(main)
