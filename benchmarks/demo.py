"""Measure the demo's verdicts under other arithmetic than this processor's own.

The demo shows the answers of the test, so none of its verdicts may depend on the last bits. Each
row is a process of its own that trains the references, originals of several seeds, and their
unlearned models under one set of variables and one precision, and judges them on the demo's two
people.

Example: python -m benchmarks.demo --references 8 --originals 3
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import measure, verdicts, worlds
from flows.workspace import layout
from tasks.common import portable, seeds, settings, stage_cli
from tasks.training import architectures, compute, training_loop
from tasks.unlearning import fcalb
from tasks.verification.gates import GateRules
from tasks.verification.verdicts import judge

JUDGE = "judge"
PEOPLE = (10, 30)
"""Writers 11 and 31, whom `requests/demo.json` names, as the world `digits` counts them."""
ROWS: dict[str, tuple[dict[str, str], str]] = {
    "portable": (portable.VARIABLES, "float32"),
    "as the processor comes": ({}, "float32"),
    "as the processor comes, bf16": ({}, "bf16"),
    "`ATEN_CPU_CAPABILITY=default`": ({"ATEN_CPU_CAPABILITY": "default"}, "float32"),
    "`ONEDNN_MAX_CPU_ISA=AVX2`, `MKL_CBWR=COMPATIBLE`": (
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"},
        "float32",
    ),
}
"""Variables and precision by the name of the row."""
HEAD = (
    "arithmetic",
    "people judged",
    "pass",
    "inconclusive",
    "fail",
    "ends of all intervals of ρ",
    "originals that fail",
)


def main(
    references: int = 8,
    originals: int = 3,
    row: list[str] = [],  # noqa: B006  # an option that may be given several times
    out: Path = measure.RESULTS,
    page: Path = Path("docs/models.md"),
) -> None:
    """Judge the demo's people in each row, and put the table into the page.

    `references` are trained with the two people, and as many without them; `row` names the rows to
    try; none given, all are.

    Example: python -m benchmarks.demo --row portable
    """
    rows = {}
    for name in row or ROWS:
        rows[name] = _in_environment(*ROWS[name], references, originals)
        stage_cli.say(f"{name}: {rows[name]['verdicts']}")
    command = f"python -m benchmarks.demo --references {references} --originals {originals}"
    measure.write("demo", command, {"rows": rows}, _text(rows), page, out)


def _in_environment(
    variables: dict[str, str], precision: str, references: int, originals: int
) -> dict[str, Any]:
    """The output of a process with these environment variables and no others of their kind."""
    kinds = {name for chosen, _ in ROWS.values() for name in chosen}
    environment = {key: value for key, value in os.environ.items() if key not in kinds}
    words = [sys.executable, "-m", "benchmarks.demo", JUDGE, precision]
    done = subprocess.run(
        [*words, str(references), str(originals)],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def judge_here(precision: str, references: int, originals: int) -> dict[str, Any]:
    """Train, unlearn and judge in this process.

    Returns:
        Verdicts on the unlearned models and on the originals, each counted, and the lowest and
        highest end of the intervals of ρ.
    """
    world = replace(worlds.load("digits"), batches=(PEOPLE,))
    chosen = _settings(world.settings, precision)
    backend = compute.prepare(chosen.compute)
    training = world.roles == "training"
    of_people = np.isin(world.subjects, PEOPLE)

    def records(rows: Any) -> training_loop.Records:
        return training_loop.Records(world.images[rows], world.labels[rows], chosen.model, backend)

    def trained(rows: Any, kind: str, number: int) -> Any:
        weights, order = (
            seeds.derive(0, "demo", kind, number, what) for what in ("weights", "order")
        )
        network = architectures.build(chosen.model, chosen.data, weights)
        training_loop.fit(network, records(rows), chosen.train, order)
        return network

    with_them = [trained(training, "with", n) for n in range(originals + references)]
    without = [trained(training & ~of_people, "without", n) for n in range(1 + references)]
    rules = GateRules(**chosen.verify.model_dump(exclude={"mode"})).answers_alone()
    unlearned, before, ends = Counter[str](), Counter[str](), list[float]()
    for original in with_them[:originals]:
        yardstick = [original, without[0], *with_them[originals:], *without[1:]]
        fixed = verdicts.answers_of(yardstick, world, backend)
        network, _ = fcalb.unlearn(
            original, records(of_people), records(training & ~of_people), chosen
        )
        answers = verdicts.answers_of([network], world, backend)
        scores = verdicts.table_of_scores(world, 0, answers, fixed, references)
        for person in PEOPLE:
            verdict = judge(scores, f"person-{person}", rules)
            unlearned[verdict.verdict] += 1
            before[verdict.self_check.original.verdict] += 1
            interval = verdict.finding.interval
            # an interval can be open to one side
            ends += [-math.inf if interval.low is None else interval.low]
            ends += [math.inf if interval.high is None else interval.high]
    return {"verdicts": unlearned, "originals": before, "ends": [min(ends), max(ends)]}


def _settings(base: settings.Settings, precision: str) -> settings.Settings:
    """The demo's settings at one precision; what is portable follows from the variables alone."""
    with TemporaryDirectory() as folder:
        demo = settings.assign(
            Path(folder) / "params.yaml",
            [*layout.DEMO, f"compute.precision={precision}", "compute.portable=false"],
        )
    return base.model_copy(update={"unlearn": demo.unlearn, "compute": demo.compute})


def _text(rows: dict[str, Any]) -> str:
    lines = [
        [
            name,
            sum(found["verdicts"].values()),
            *(found["verdicts"].get(verdict, 0) for verdict in ("pass", "inconclusive", "fail")),
            f"{found['ends'][0]:.2f} … {found['ends'][1]:.2f}",
            f"{found['originals'].get('fail', 0)} of {sum(found['originals'].values())}",
        ]
        for name, found in rows.items()
    ]
    return measure.table(HEAD, lines)


if __name__ == "__main__":
    if sys.argv[1:2] == [JUDGE]:
        stage_cli.say(json.dumps(judge_here(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        stage_cli.run(main)
