"""Measure what commands cost in a workspace with 1, 10, 30 and 100 past batches.

One batch is operated for real in a world whose models are played (`benchmarks.stand_in`), from its
receipt to the erasure; the others are twins of it (`benchmarks.past`). On top another batch is
audited and released for real, which the commands are about.

Example: python -m benchmarks.growth_batches --rounds 5
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import faults, measure, past, stand_in
from tasks.common import stage_cli

PAST = (1, 10, 30, 100)
TOOL = str(Path(sys.executable).with_name("erasure-audit"))
COMMANDS = {
    "run, nothing to do": ("run",),
    "status": ("status",),
    "register": ("register",),
    "requests list": ("requests", "list"),
    "nightly, a batch waits": ("nightly",),
    "reproduce --level rederive": ("reproduce", "{batch}", "--level", "rederive"),
}
"""By name, what is given to `erasure-audit`."""
ERASE = "erase"


def main(
    past_batches: list[int] = list(PAST),  # noqa: B006 - typer reads it, and nobody changes it
    rounds: int = 5,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write benchmarks/results/growth-batches.json and the table of
    docs/performance.md.

    Args:
        past_batches: numbers of past batches.
        rounds: how often each command is measured.
        page: has the marks `growth batches`.
        out: folder for the figures.
    """
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        worlds = made(Path(folder), past_batches)
        spent: dict[str, dict[int, list[measure.Spent]]] = {}
        for name in COMMANDS:
            spent[name] = _measured(worlds, partial(_given, name), rounds)
        for world in worlds.values():
            world.release()
        spent[ERASE] = _measured(worlds, lambda world: world.erased(), rounds)
    results = figures(spent)
    line = f"python -m benchmarks.growth_batches --rounds {rounds}"
    measure.write("growth batches", line, results, text(results), page, out)


class World:
    """A workspace with past batches, and one that waits for sign-off."""

    def __init__(self, folder: Path, number: int, numbers: list[int]) -> None:
        """Args:
        folder: a workspace that has closed one batch.
        number: of past batches, that one included.
        numbers: the data subjects of the batch that waits.
        """
        self.folder = folder
        self.operated = faults.World(folder, random.Random(number))
        self.operated.environment[stand_in.PAUSE] = "0"
        if number > 1:
            past.add(folder, number - 1)
        self.operated.ask(numbers)
        self.operated.until_done("nightly")
        self.batch = next(
            str(case["batch"]) for case in self.operated.register() if case["state"] != "closed"
        )

    def give(self, *words: str, within: Path | None = None) -> measure.Spent:
        """The time and memory of a command of the tool."""
        return measure.command([TOOL, *words], within or self.folder, self.operated.environment)

    def release(self) -> None:
        """The batch is approved and released, and its records are still there."""
        faults.approve(self.operated)
        self.operated.until_done("release", self.batch)
        shutil.copytree(self.folder, self._kept, symlinks=True)

    def erased(self) -> measure.Spent:
        """The time and memory of erasing the batch; afterwards the workspace is restored."""
        spent = self.give("erase", self.batch)
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder, symlinks=True)
        return spent

    @property
    def _kept(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-kept")


def made(root: Path, numbers: list[int]) -> dict[int, World]:
    """Workspaces by their number of past batches."""
    template = stand_in.world(root / "template")
    faults.ready(template)
    first = faults.World(template, random.Random(0))
    first.environment[stand_in.PAUSE] = "0"
    people = trained(template)
    first.ask(people[:2])
    faults.finish(first)
    worlds = {}
    for number in numbers:
        folder = root / f"past-{number}" / "world"
        shutil.copytree(template, folder, symlinks=True)
        stage_cli.say(f"a workspace with {number} past batches")
        worlds[number] = World(folder, number, people[2:4])
    return worlds


def trained(workspace: Path) -> list[int]:
    """The numbers of the data subjects whom models are trained on, as the stage `split` chooses
    them."""
    from tasks import split
    from tasks.common import seeds, settings
    from tasks.data import records

    chosen = settings.load(workspace / "params.yaml")
    manifest = records.read_manifest(workspace / "data")
    roles = split.assign(manifest, chosen.split, seeds.derive(chosen.seed, "split"))
    trained_people = set(manifest["subject_id"][roles == "training"])
    return [
        number
        for number in range(stand_in.SUBJECTS)
        if stand_in.subject_id(number) in trained_people
    ]


def _given(name: str, world: World) -> measure.Spent:
    words = [word.format(batch=world.batch) for word in COMMANDS[name]]
    return world.give(
        *words, within=world.folder / ".batches" / world.batch if words == ["run"] else None
    )


def _measured(worlds: dict[int, World], way: Any, rounds: int) -> dict[int, list[measure.Spent]]:
    """The worlds in turns."""
    spans: dict[int, list[measure.Spent]] = {number: [] for number in worlds}

    def one(number: int) -> float:
        spans[number].append(way(worlds[number]))
        return spans[number][-1].seconds

    measure.in_turns({str(number): partial(one, number) for number in worlds}, rounds)
    return spans


def figures(spent: dict[str, dict[int, list[measure.Spent]]]) -> dict[str, Any]:
    """Time, processor time and memory by command and number of past batches, and the most over the
    fewest."""
    results: dict[str, Any] = {}
    for name, by_number in spent.items():
        few, many = (by_number[number] for number in (min(by_number), max(by_number)))
        results[name] = {
            "past": {
                str(number): {
                    what: measure.Spread.of([getattr(one, what) for one in taken]).plain()
                    for what in ("seconds", "cpu", "peak")
                }
                for number, taken in by_number.items()
            },
            "ratio": {
                what: measure.ratio(
                    [getattr(one, what) for one in many], [getattr(one, what) for one in few]
                ).plain()
                for what in ("seconds", "cpu", "peak")
            },
        }
    return {"commands": results}


def text(results: dict[str, Any]) -> str:
    """The table for the page."""
    commands = results["commands"]
    numbers = list(next(iter(commands.values()))["past"])
    rows = []
    for name, command in commands.items():
        cells = [f"{command['past'][number]['cpu']['median']:.1f}" for number in numbers]
        more = command["ratio"]["cpu"]
        peak = [command["past"][number]["peak"]["median"] for number in (numbers[0], numbers[-1])]
        ratio = f"{more['median']:.2f} ({more['low']:.2f} to {more['high']:.2f})"
        rows.append([f"`{name}`", *cells, ratio, f"{peak[0]:.0f} → {peak[1]:.0f}"])
    head = [
        "processor time, s, by past batches",
        *numbers,
        f"{numbers[-1]} over {numbers[0]}",
        "peak memory, MiB",
    ]
    return measure.table(head, rows)


if __name__ == "__main__":
    stage_cli.run(main)
