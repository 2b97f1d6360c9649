"""A pool against references made for each batch, on people on whom nothing was tuned.

Models are made as `benchmarks.verdicts` makes them and kept in the same way; those of a pool are
trained without a fold of the training subjects, or with everybody.

Example: python -m benchmarks.pool --world digits-others --models 64
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import verdicts as planted
from benchmarks import worlds
from benchmarks.worlds import World
from tasks.common import files, seeds, stage_cli
from tasks.pooling import folds
from tasks.training import architectures, compute, training_loop
from tasks.verification import scoring, verdicts
from tasks.verification.attacks.roc import clopper_pearson
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Floats, Ints

FOLDS = 8
CASES = {"without": "exact retrain", "left_50": "half left in", "with": "unchanged original"}
FIRST = 17
"""Models of a kind before this number are references or originals of `benchmarks.verdicts`."""


def main(
    world: str = "digits-others",
    models: int = 64,
    everybody: int = 4,
    fresh: int = 6,
    seed: int = 1,
    keep: Path = Path(".benchmarks"),
    out: Path = Path("benchmarks/results"),
) -> None:
    """Make the models that are missing, judge, and write shares with exact 95 % intervals.

    Example: python -m benchmarks.pool --world digits-others --models 64
    """
    given = worlds.load(world)
    counts = {"pool": models, "everybody": everybody}
    answers = [
        _answers(given, kind, number, seed, keep)
        for kind, count in counts.items()
        for number in range(count)
    ]
    pool = np.stack([phi for phi, _ in answers]), np.stack([classes for _, classes in answers])
    absent = [_absent(given, number, seed) for number in range(models)]
    absent += [np.empty(0, np.int64)] * everybody
    seen = folds.membership(given.subjects, np.asarray(given.roles == "training"), absent)
    original = planted.Job(world, "with", 0, FIRST + fresh - 1, seed, keep)
    found: dict[str, list[verdicts.Verdict]] = defaultdict(list)
    rules = GateRules(**given.settings.verify.model_dump(exclude={"mode"}))
    for batch in range(len(given.batches)):
        for case in CASES:
            first = 0 if case == "left_50" else FIRST
            jobs = [
                planted.Job(world, case, batch if case != "with" else 0, first + n, seed, keep)
                for n in range(fresh if case != "with" else fresh - 1)
            ]
            planted.make_all([job for job in (*jobs, original) if not job.path.exists()], 1)
            for job in jobs:
                scores = _scores(given, batch, planted.answers([job, original]), pool, seen)
                for request in sorted(set(scores.requests.tolist()) - {""}):
                    found[case].append(verdicts.judge(scores, request, rules))
    result = {CASES[case]: _figures(judged) for case, judged in found.items()}
    command = f"python -m benchmarks.pool --world {world} --models {models}"
    files.write_json(out / f"pool-{world}-{models}.json", {"command": command, "cases": result})
    for case, figures in result.items():
        stage_cli.say(f"{case}: {figures}")


def _absent(given: World, number: int, seed: int) -> Ints:
    known = given.roles == "training"
    return folds.left_out(
        given.subjects[known],
        given.labels[known],
        given.settings.data.classes,
        FOLDS,
        seed,
        number,
    )


def _answers(given: World, kind: str, number: int, seed: int, keep: Path) -> tuple[Floats, Ints]:
    """Margins and classes of one model of the pool, which is trained where it is not kept."""
    job = planted.Job(given.name, kind, 0, number, seed, keep)
    if not job.path.exists():
        rows = np.asarray(given.roles == "training")
        if kind == "pool":
            rows = rows & ~np.isin(given.subjects, _absent(given, number, seed))
        settings, place = given.settings, compute.prepare(given.settings.compute)
        network = architectures.build(settings.model, settings.data, _seed(job, "weights"))
        known = training_loop.Records(given.images[rows], given.labels[rows], settings.model, place)
        training_loop.fit(network, known, settings.train, _seed(job, "order"))
        everything = training_loop.Records(given.images, given.labels, settings.model, place)
        logits = training_loop.logits(network, everything)
        job.path.parent.mkdir(parents=True, exist_ok=True)
        phi = scoring.margins(logits, given.labels)
        np.savez(job.path, phi=phi, predicted=logits.argmax(1).astype(np.int16), seconds=0.0)
    phi, predicted = planted.answers([job])
    return phi[0], predicted[0]


def _seed(job: planted.Job, what: str) -> int:
    return seeds.derive(job.seed, job.world, job.kind, job.batch, job.number, what)


def _scores(given: World, batch: int, judged: Any, pool: Any, seen: Any) -> scoring.Scores:
    return scoring.Scores(
        np.array(["unlearned", "original", *["pool"] * len(seen)]),
        np.concatenate([judged[0], pool[0]]),
        np.concatenate([judged[1], pool[1]]),
        given.labels,
        given.roles,
        given.requests(batch),
        given.subjects,
        np.array([], np.str_),
        np.empty((len(given.labels), 0), "<U1"),
        np.concatenate([np.zeros((2, len(given.labels)), bool), seen]),
    )


def _figures(judged: list[verdicts.Verdict]) -> dict[str, Any]:
    names = [verdict.verdict for verdict in judged]
    rho = [verdict.influence["unlearned"] for verdict in judged]
    return {
        "judged": len(judged),
        **{name: names.count(name) for name in ("pass", "fail", "inconclusive")},
        "pass_interval": clopper_pearson(names.count("pass"), len(names)),
        "fail_interval": clopper_pearson(names.count("fail"), len(names)),
        "influence": float(np.median([value for value in rho if value is not None])),
        "detectability": float(np.median([v.measured.whole.detectability for v in judged])),
    }


if __name__ == "__main__":
    stage_cli.run(main)
