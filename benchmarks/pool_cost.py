"""What one more batch costs where a pool judges it, as a share of one exact retrain.

Timed in one process, in turns: unlearning the batch, scoring the original and the unlearned model
on every record and judging every request by a pool of 64 + 4 models, against training one model
without the batch. Start-up, reports and DVC are left out; both ways have them
(`benchmarks.unlearning`, `benchmarks.overhead`). The pool's scores are drawn at random, since what
judging costs does not depend on them. Processor time is told.

Example: python -m benchmarks.pool_cost --world digits-long --page docs/pool.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure, worlds
from benchmarks import verdicts as planted
from benchmarks.measure import Spread
from benchmarks.worlds import World
from tasks.common import files, stage_cli
from tasks.common.errors import EvidenceError
from tasks.pooling import folds as partition
from tasks.training import architectures, compute, training_loop
from tasks.unlearning import fcalb
from tasks.verification import scoring, verdicts
from tasks.verification.gates import GateRules

FOLDS, BLOCKS, WHOLE = 4, 16, 4
STEPS = ("unlearning", "scoring", "judging")
MODELS = {
    "`batch`, 16 + 16": (34, 17),
    "`pool`, 64 + 4": (1 + BLOCKS * FOLDS + WHOLE, 0),
    "`pool`, a retrain each": (2 + BLOCKS * FOLDS + WHOLE, 1),
    "`hybrid`, 4 retrains each": (5 + BLOCKS * FOLDS + WHOLE, 4),
}
"""Models trained for the first batch, with the original, and for each further one; `batch` takes
the references with everybody from the release before."""
MANY = ["recipe", "batches", *MODELS]
HEAD = ["recipe", "people", *(f"{step}, s" for step in STEPS), "one retrain, s", "share"]


def main(
    world: list[str] = ["digits-long"],  # noqa: B006  # an option that may be given several times
    rounds: int = 3,
    out: Path = measure.RESULTS,
    page: Path = Path("docs/pool.md"),
) -> None:
    """Measure each world, and put its row into the page.

    Example: python -m benchmarks.pool_cost --world digits-long --world faces-long
    """
    path = out / "pool-cost.json"
    for name in world:
        rows = files.read_json(path)["worlds"] if path.exists() else {}
        rows[name] = measured(worlds.load(name), rounds)
        words = "".join(f" --world {each}" for each in rows)
        command = f"python -m benchmarks.pool_cost{words} --rounds {rounds}"
        measure.write("pool cost", command, {"worlds": rows}, text(rows), page, out)


def measured(given: World, rounds: int) -> dict[str, Any]:
    """The figures of one world's first batch."""
    batch = Batch(given)
    ways: dict[str, Callable[[], float]] = {
        "batch": lambda: sum(batch.run().values()),
        "retrain": batch.retrain,
    }
    batch.run()  # all that is imported is now
    batch.parts.clear()
    taken = measure.in_turns(ways, rounds)
    return {
        "about": given.about,
        "epochs": given.settings.train.epochs,
        "people": len(given.batches[0]),
        "share": measure.ratio(taken["batch"], taken["retrain"]).plain(),
        "retrain": Spread.of(taken["retrain"]).plain(),
        **{step: Spread.of([parts[step] for parts in batch.parts]).plain() for step in STEPS},
    }


class Batch:
    """The first batch of a world, with an original model and a pool."""

    def __init__(self, given: World) -> None:
        self.given, self.settings = given, given.settings
        self.backend = compute.prepare(given.settings.compute)
        training = np.asarray(given.roles == "training")
        asked = np.isin(given.subjects, given.batches[0])
        self.retained, self.forgotten = self._records(training & ~asked), self._records(asked)
        self.original = self._trained(self._records(training))
        self.pool = random_pool(given)
        self.rules = GateRules(**given.settings.verify.model_dump(exclude={"mode"}))
        self.parts: list[dict[str, float]] = []

    def _records(self, rows: NDArray[np.bool_]) -> training_loop.Records:
        images, labels = self.given.images[rows], self.given.labels[rows]
        return training_loop.Records(images, labels, self.settings.model, self.backend)

    def _trained(self, records: training_loop.Records) -> Any:
        network = architectures.build(self.settings.model, self.settings.data, seed=1)
        training_loop.fit(network, records, self.settings.train, seed=1)
        return network

    def retrain(self) -> float:
        """Train one model without the batch. Returns its processor time, s."""
        began = time.process_time()
        self._trained(self.retained)
        return time.process_time() - began

    def run(self) -> dict[str, float]:
        """Unlearn, score and judge. Returns the processor time of each, s."""
        marks = [time.process_time()]
        network, _ = fcalb.unlearn(self.original, self.forgotten, self.retained, self.settings)
        marks.append(time.process_time())
        own = planted.answers_of([network, self.original], self.given, self.backend)
        marks.append(time.process_time())
        scores = self._scores(own)
        for person in self.given.batches[0]:
            try:
                verdicts.judge(scores, f"person-{person}", self.rules)
            except EvidenceError as error:
                stage_cli.say(f"no test could be made: {error}")
        marks.append(time.process_time())
        taken = dict(zip(STEPS, np.diff(marks).tolist(), strict=True))
        self.parts.append(taken)
        return taken

    def _scores(self, own: planted.Answers) -> scoring.Scores:
        phi, predicted, seen = self.pool
        return scoring.Scores(
            np.array(["unlearned", "original", *["pool"] * len(phi)]),
            np.concatenate([own[0], phi]),
            np.concatenate([own[1], predicted]),
            self.given.labels,
            self.given.roles,
            self.given.requests(0),
            self.given.subjects,
            np.array([], np.str_),
            np.empty((len(self.given.labels), 0), "<U1"),
            np.concatenate([np.zeros((2, seen.shape[1]), bool), seen]),
        )


def random_pool(given: World) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Margins, predicted classes and membership, (m, n) each, of a pool whose models are a little
    surer of what they saw."""
    training = np.asarray(given.roles == "training")
    classes = given.settings.data.classes
    absent = [
        partition.absent_subjects(
            given.subjects[training], given.labels[training], classes, FOLDS, 1, number
        )
        for number in range(FOLDS * BLOCKS)
    ] + [np.empty(0, np.int64)] * WHOLE
    seen = partition.membership(given.subjects, training, absent)
    random = np.random.default_rng(0)
    phi = 3.0 + 2.0 * seen + random.normal(0, 1, seen.shape)
    right = random.random(seen.shape) < 0.9
    predicted = np.where(right, given.labels, (given.labels + 1) % classes)
    return phi, predicted.astype(np.int64), seen


def text(rows: dict[str, dict[str, Any]]) -> str:
    """The cost of one more batch, a row per world, and of many batches, in models and seconds."""
    lines = [
        [
            f"{name}: {row['epochs']} epochs",
            row["people"],
            *(f"{row[step]['median']:.2f}" for step in STEPS),
            f"{row['retrain']['median']:.2f}",
            f"{Spread(**row['share']):.2f}",
        ]
        for name, row in rows.items()
    ]
    many = [
        [name, batches, *(f"{models}: {seconds:,.0f} s" for models, seconds in costs)]
        for name, row in rows.items()
        for batches, costs in of_batches(row).items()
    ]
    return f"{measure.table(HEAD, lines)}\n\n{measure.table(MANY, many)}"


def of_batches(row: dict[str, Any]) -> dict[int, list[tuple[int, float]]]:
    """Models trained and processor seconds for 1, 10 and 100 batches, by each of `MODELS`.

    Every model trained counts as one retrain, and is scored once; unlearning and judging come with
    each batch.
    """
    retrain, unlearning, scoring_two, judging = (
        row[name]["median"] for name in ("retrain", *STEPS)
    )
    costs = {}
    for batches in (1, 10, 100):
        counts = [first + each * (batches - 1) for first, each in MODELS.values()]
        costs[batches] = [
            (count, count * (retrain + scoring_two / 2) + batches * (unlearning + judging))
            for count in counts
        ]
    return costs


if __name__ == "__main__":
    stage_cli.run(main)
