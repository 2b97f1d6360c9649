"""Measure what a batch costs by its number of requests: time, processor time and memory of each
stage.

The data set and the models are the same for all sizes; models are played (`benchmarks.stand_in`),
what is measured is real, the PDFs too. Each stage is a process of its own, as DVC starts it.

Example: python -m benchmarks.growth_requests --requests 1 --requests 10 --requests 100 --rounds 5
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import measure, stand_in
from tasks.common import files, settings, stage_cli
from tasks.common.errors import WorkspaceError

SIZES = [1, 10, 100, 1000]
STAGES = ("check", "resolve", "verify", "report")
TRAINED = 0.64
"""Share of the people whom models are trained on, by the default split."""
BATCH = "many"


def main(
    requests: list[int] = SIZES,
    most_reports: int = 1000,
    rounds: int = 5,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write the table.

    Args:
        requests: sizes of the batch.
        most_reports: of larger batches no reports are made, which take long.
        rounds: how often each size is measured.
        page: has the marks `growth requests`.
        out: folder for the figures.
    """
    stages = {size: STAGES if size <= most_reports else STAGES[:-1] for size in requests}
    spent: dict[str, dict[str, list[measure.Spent]]] = {
        str(size): {name: [] for name in stages[size]} for size in requests
    }
    with tempfile.TemporaryDirectory() as folder:
        workspace, trained_people = world(Path(folder), max(requests))

        def take(size: int) -> float:
            spent_by_stage = audited(workspace, trained_people[:size], stages[size])
            for name, spent_here in spent_by_stage.items():
                spent[str(size)][name].append(spent_here)
            return sum(one.seconds for one in spent_by_stage.values())

        totals = measure.in_turns({str(size): partial(take, size) for size in requests}, rounds)
        reported = max(size for size in requests if size <= most_reports)
        pages = page_sizes(audited_reports(workspace, trained_people[:reported]))
    figures = {**figures_of(totals, spent), "pages": pages}
    words = " ".join(f"--requests {size}" for size in requests)
    line = (
        f"python -m benchmarks.growth_requests {words} --most-reports {most_reports} --rounds "
        f"{rounds}"
    )
    heads = [f"{size} requests" if size > 1 else "1 request" for size in requests]
    text = f"{table(figures, heads)}\n\n{told_of_pages(pages, reported)}"
    measure.write("growth requests", line, figures, text, page, out)


def figures_of(
    totals: dict[str, list[float]], spent: dict[str, dict[str, list[measure.Spent]]]
) -> dict[str, dict[str, Any]]:
    """The spreads, by kind, size and stage; `total` is wall-clock time of all stages, `total_cpu`
    processor time."""
    kinds = {
        kind: {
            size: {
                name: measure.Spread.of([getattr(one, kind) for one in ones]).plain()
                for name, ones in own.items()
            }
            for size, own in spent.items()
        }
        for kind in ("seconds", "cpu", "peak")
    }
    cpu = {
        size: zip(*([one.cpu for one in ones] for ones in own.values()), strict=True)
        for size, own in spent.items()
    }
    return {
        **kinds,
        "total": {size: measure.Spread.of(values).plain() for size, values in totals.items()},
        "total_cpu": {
            size: measure.Spread.of([sum(row) for row in rows]).plain()
            for size, rows in cpu.items()
        },
    }


def world(folder: Path, most: int) -> tuple[Path, list[int]]:
    """A workspace with enough people for the largest batch, and stand-ins for models.

    Args:
        folder: an empty one.
        most: requests of the largest batch.

    Returns:
        The workspace, and those whom models were trained on, who may ask.

    Raises:
        WorkspaceError: the split leaves too few of them.
    """
    workspace = stand_in.world(folder, subjects=max(stand_in.SUBJECTS, round(1.3 * most / TRAINED)))
    settings.assign(workspace / "params.yaml", [f"batch={BATCH}"])
    (workspace / "artifacts").mkdir()
    ask(workspace, [0])
    for name in ("pack", "check", "split"):
        command(workspace, name)
    people = trained_on(workspace)
    if len(people) < most:
        raise WorkspaceError(
            f"got {len(people)} people of the training set, expected {most}; enlarge the world"
        )
    ask(workspace, people[:1])
    command(workspace, "resolve")
    for name in ("train", "retrain", "unlearn"):
        command(workspace, name)
    return workspace, people


def audited(
    workspace: Path, people: Sequence[int], stages: Sequence[str] = STAGES
) -> dict[str, measure.Spent]:
    """The cost of each stage for a batch in which these people ask."""
    ask(workspace, people)
    order = ("check", "resolve", "probe", "score", "verify", "propose", "report")
    spent_by_stage = {
        name: command(workspace, name) for name in order if name in stages or name not in STAGES
    }
    return {name: spent_by_stage[name] for name in stages}


def audited_reports(workspace: Path, people: Sequence[int]) -> Path:
    """The folder of the reports of the batch that was measured last; of these people's, if it was
    another."""
    folder = workspace / "reports" / BATCH
    if len(list(folder.glob("*/report.pdf"))) != len(people):
        audited(workspace, people)
    return folder


def page_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the pages over the whole batch."""
    return {
        name: (folder / name).stat().st_size
        for name in ("index.html", "summary.html", "register.json")
    }


def ask(workspace: Path, people: Sequence[int]) -> None:
    """Write the batch's requests, one for each of the people, and its record."""
    from flows.pipeline import provenance

    files.write_json(
        workspace / "requests" / f"{BATCH}.json", [stand_in.request(number) for number in people]
    )
    provenance.write(workspace, settings.load(workspace / "params.yaml"))


def trained_on(workspace: Path) -> list[int]:
    """The numbers of the subjects of the training set."""
    from tasks.data import records

    manifest = records.read_manifest(workspace / "data")
    roles = records.read_roles(workspace / "artifacts" / "split.csv", manifest)
    trained_people = set(manifest["subject_id"][roles == "training"])
    return [
        number
        for number in range(manifest["subject_id"].nunique())
        if stand_in.subject_id(number) in trained_people
    ]


def command(workspace: Path, name: str) -> measure.Spent:
    """Run a stage of the pipeline as `dvc.yaml` has it, in place and without DVC, and measure
    it."""
    from ruamel.yaml import YAML

    graph = YAML(typ="safe").load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    chosen = settings.load(workspace / "params.yaml")
    variables = {
        "${batch}": chosen.batch,
        "${item.block}": "0",
        "${original.checkpoint}": chosen.original.checkpoint,
        "${references.with_from}": chosen.references.with_from,
    }
    text = graph[name]["cmd"]
    for word, value in variables.items():
        text = text.replace(word, value)
    return measure.command([sys.executable, *text.split()[1:]], workspace)


def table(figures: dict[str, Any], heads: Sequence[str], one: str = "one more request") -> str:
    """The cost of each stage by size, and of one more item between two sizes."""
    sizes = list(figures["seconds"])
    stages = list(figures["seconds"][sizes[0]])
    rows = [(name, *(cell(figures, size, name) for size in sizes)) for name in stages]
    measured_sizes = [size for size in sizes if len(figures["seconds"][size]) == len(stages)]
    total = [
        told(figures["total"][size]["median"], figures["total_cpu"][size]["median"])
        for size in measured_sizes
    ]
    missing = [""] * (len(sizes) - len(measured_sizes))
    rows.append(("all", *total, *missing))
    rows.append((one, "", *(more(figures, *pair) for pair in pairwise(measured_sizes)), *missing))
    return measure.table(("stage", *heads), rows)


def cell(figures: dict[str, Any], size: str, name: str) -> str:
    """Wall-clock and processor time, and the largest process's memory; nothing where it was not
    run."""
    if name not in figures["seconds"][size]:
        return ""
    seconds, cpu, peak = (
        figures[kind][size][name]["median"] for kind in ("seconds", "cpu", "peak")
    )
    return f"{told(seconds, cpu)}, {peak:.0f} MiB"


def told(seconds: float, cpu: float) -> str:
    """Wall-clock and processor time."""
    return f"{seconds:.1f} s, {cpu:.1f} s CPU"


def more(figures: dict[str, Any], smaller: str, larger: str) -> str:
    """The cost of one more item: the slope between two sizes."""
    steps = int(larger) - int(smaller)
    seconds, cpu = (
        (figures[kind][larger]["median"] - figures[kind][smaller]["median"]) / steps
        for kind in ("total", "total_cpu")
    )
    return f"{seconds:.2f} s, {cpu:.2f} s CPU"


def told_of_pages(pages: dict[str, int], requests: int) -> str:
    """The sizes of the pages over the whole batch."""
    sizes = ", ".join(f"`{name}` {size / 1e6:.2f} MB" for name, size in pages.items())
    return f"The pages over all {requests} requests: {sizes}."


if __name__ == "__main__":
    stage_cli.run(main)
