"""Verdicts by a pool of references and by references made for each batch, on the same models.

Models are made as `benchmarks.verdicts` makes them and kept in the same way; those of a pool are
trained without a fold of the training subjects, or with everybody. `batch` judges by 16 + 16
references of each batch, `pool` by a pool alone, `hybrid` by a pool and three further retrains of
the batch beside the baseline. A mode for which no reference is kept is left out.

Example: python -m benchmarks.pool --world digits-others --models 64 --folds 4 --page docs/pool.md
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure, study, worlds
from benchmarks import verdicts as planted
from benchmarks.worlds import World
from tasks.common import files, stage_cli
from tasks.common.errors import EvidenceError
from tasks.pooling import folds as partition
from tasks.verification import scoring, verdicts
from tasks.verification.attacks.roc import clopper_pearson
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Ints

CASES = {
    "without": "exact retrain",
    "left_25": "retrained, 25 % left in",
    "left_50": "retrained, 50 % left in",
    "with": "unchanged original",
    "fine_tune": "fine-tuned on the retain set",
    "last_layer": "last layer only",
    "ascent": "gradient ascent (over-forgotten)",
    "wrong_person": "retrained without others",
}
FIRST = 17
"""Models of a kind before this number are references or originals of `benchmarks.verdicts`."""
FRESH = 3
"""Retrains that judge in the mode `hybrid`, beside the baseline."""
WHOLE = 4
"""Models of the pool trained with everybody."""
USUAL = 8
"""Folds of a pool whose models have no number of folds in their name."""
HEAD = ("model judged", "by", "judged", "pass", "fail", "inconclusive", "pass, 95 % interval", "ρ")


@dataclass(frozen=True)
class Kept:
    """The models that one run looks at."""

    given: World
    pool_world: str
    models: int
    folds: int
    seed: int
    keep: Path

    def job(self, kind: str, batch: int, number: int) -> planted.Job:
        """A model judged, or a reference of a batch."""
        return planted.Job(self.given.name, kind, batch, number, self.seed, self.keep)

    def pool(self) -> list[tuple[planted.Job, Ints]]:
        """The models of the pool, each with the subjects that it was trained without."""
        known = self.given.roles == "training"
        kind = "pool" if self.folds == USUAL else f"pool{self.folds}"
        made = [
            (
                planted.Job(self.pool_world, kind, 0, number, self.seed, self.keep),
                partition.absent_subjects(
                    self.given.subjects[known],
                    self.given.labels[known],
                    self.given.settings.data.classes,
                    self.folds,
                    self.seed,
                    number,
                ),
            )
            for number in range(self.models)
        ]
        whole = [
            planted.Job(self.pool_world, "whole", 0, number, self.seed, self.keep)
            for number in range(WHOLE)
        ]
        return made + [(job, np.empty(0, np.int64)) for job in whole]

    def make_pool(self) -> None:
        """Train what is missing of the pool here, for its training rows are no case of
        `benchmarks.verdicts`."""
        known = np.asarray(self.given.roles == "training")
        for job, absent in self.pool():
            if not job.path.exists():
                planted.make(job, known & ~np.isin(self.given.subjects, absent))


def main(
    world: str = "digits-others",
    pool_world: str | None = None,
    models: int = 64,
    folds: int = 4,
    fresh: int = 6,
    case: list[str] = [],  # noqa: B006  # an option that may be given several times
    references: bool = True,
    seed: int = 1,
    keep: Path = Path(".benchmarks"),
    out: Path = Path("benchmarks/results"),
    page: Path | None = None,
    train: bool = True,
) -> None:
    """Make the models that are missing, judge, and write shares with exact 95 % intervals.

    `pool_world` is another world of the same people and recipe whose pool is used. `case` names
    the kinds of models that are trained to be judged; none given, all are. With `--no-references`
    no references of a batch are trained, so the mode `batch` is not judged; with `--no-train`
    nothing is trained and only models that are kept are judged.

    Example: python -m benchmarks.pool --world digits-others --models 64 --folds 4
    """
    given = worlds.load(world)
    kept = Kept(given, pool_world or world, models, folds, seed, keep)
    if train:
        _make(kept, fresh, case or CASES, references)
    seen = partition.membership(
        given.subjects, np.asarray(given.roles == "training"), [out for _, out in kept.pool()]
    )
    pool = *planted.answers([job for job, _ in kept.pool()]), seen
    rules = GateRules(**given.settings.verify.model_dump(exclude={"mode"})).answers_alone()
    found: dict[str, dict[str, list[verdicts.Verdict | None]]] = {}
    original = kept.job("with", 0, FIRST + fresh - 1)
    for batch in range(len(given.batches)):
        for mode, scores_of in _modes(kept, batch, original, pool).items():
            for kind, job in _judged(kept, batch, fresh):
                by_case = found.setdefault(mode, defaultdict(list))
                by_case[kind] += _verdicts(scores_of(job), rules)
    result = {
        "world": world,
        "about": given.about,
        "command": f"python -m benchmarks.pool --world {world} --models {models} --folds {folds}"
        f" --fresh {fresh}"
        + (f" --pool-world {pool_world}" if pool_world else "")
        + "".join(f" --case {kind}" for kind in case)
        + ("" if references else " --no-references"),
        "pool": {"models": models, "folds": folds, "with_everybody": WHOLE},
        "cases": {
            mode: {kind: figures(judged) for kind, judged in by_case.items()}
            for mode, by_case in found.items()
        },
        "versions": study.versions(),
    }
    name = f"pool {world} {models} {folds}" + (f" by {pool_world}" if pool_world else "")
    files.write_json(out / f"{name.replace(' ', '-')}.json", result)
    stage_cli.say(table(result))
    if page:
        measure.insert(page, name, table(result))


def _make(kept: Kept, fresh: int, cases: Collection[str], references: bool) -> None:
    """Train what is missing: the pool first, then the models judged, then references of a batch
    beyond those that `hybrid` needs."""
    kept.make_pool()
    last, batches = FIRST + fresh, range(len(kept.given.batches))
    jobs = [kept.job("with", 0, number) for number in range(FIRST, last)]
    if not {"with", *planted.EDITED} & set(cases):
        jobs = jobs[-1:]  # the one in use
    for batch in batches:
        judged = [*range(FIRST, last), *range(1 + FRESH)] if "without" in cases else []
        jobs += [kept.job("without", batch, number) for number in judged]
        for case in CASES:
            if case in cases and case not in ("with", "without"):
                jobs += [kept.job(case, batch, number) for number in range(fresh)]
    if references:
        jobs += [kept.job("with", 0, number) for number in range(FIRST)]
        for batch in batches:
            jobs += [kept.job("without", batch, number) for number in range(1 + FRESH, FIRST)]
    planted.make_all([job for job in jobs if not job.path.exists()], 1)


def _judged(kept: Kept, batch: int, fresh: int) -> Iterator[tuple[str, planted.Job]]:
    """The models to judge that are kept; the last original is the one in use."""
    for case in CASES:
        first = FIRST if case in ("with", "without") else 0
        for number in range(first, first + fresh - (case == "with")):
            job = kept.job(case, 0 if case == "with" else batch, number)
            if job.path.exists():
                yield case, job


def _modes(
    kept: Kept, batch: int, original: planted.Job, pool: Any
) -> dict[str, Callable[[planted.Job], scoring.Scores]]:
    """For each mode whose references are kept: scores of one model judged."""
    given = kept.given
    with_ = [kept.job("with", 0, number) for number in range(FIRST)]
    without = [kept.job("without", batch, number) for number in range(FIRST)]
    modes = {"pool": lambda job: pooled(given, batch, [job, original], pool)}
    if all(job.path.exists() for job in without[: 1 + FRESH]):
        fresh = without[: 1 + FRESH]
        modes["hybrid"] = lambda job: pooled(given, batch, [job, original, *fresh], pool)
    if all(job.path.exists() for job in (*with_, *without)):
        fixed = planted.answers([with_[0], without[0], *with_[1:], *without[1:]])
        modes["batch"] = lambda job: planted.table_of_scores(
            given, batch, planted.answers([job]), fixed, FIRST - 1
        )
    return modes


def pooled(given: World, batch: int, jobs: list[planted.Job], pool: Any) -> scoring.Scores:
    """The scores of models judged and of a pool, as `tasks.score` would write them.

    Args:
        given: the world.
        batch: who is forgotten.
        jobs: the model judged, the original, and, in the mode `hybrid`, the baseline and further
            retrains.
        pool: its (m, n) margins, predicted classes, and who was in.
    """
    phi, predicted, seen = pool
    own = planted.answers(jobs)
    roles = ["unlearned", "original", "retrained", *["fresh"] * len(jobs)][: len(jobs)]
    return scoring.Scores(
        np.array([*roles, *["pool"] * len(phi)]),
        np.concatenate([own[0], phi]),
        np.concatenate([own[1], predicted]),
        given.labels,
        given.roles,
        given.requests(batch),
        given.subjects,
        np.array([], np.str_),
        np.empty((len(given.labels), 0), "<U1"),
        _with_rows(seen, len(jobs)),
    )


def _with_rows(seen: NDArray[np.bool_], judged: int) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros((judged, seen.shape[1]), bool), seen])


def _verdicts(scores: scoring.Scores, rules: GateRules) -> Iterator[verdicts.Verdict | None]:
    """The verdict on each request; None: no test could be made."""
    for request in sorted(set(scores.requests.tolist()) - {""}):
        try:
            yield verdicts.judge(scores, request, rules)
        except EvidenceError:
            yield None


def figures(judged: Sequence[verdicts.Verdict | None]) -> dict[str, Any]:
    """Counts, shares with exact intervals, influence and detectability of one case."""
    names = [verdict.verdict if verdict is not None else "inconclusive" for verdict in judged]
    told = [verdict for verdict in judged if verdict is not None]
    rho = [verdict.influence["unlearned"] for verdict in told]
    known = [value for value in rho if value is not None]
    counts = Counter(names)
    gates = Counter(gate.name for one in told for gate in one.finding.gates if gate.state != "good")
    return {
        "judged": len(judged),
        **{name: counts[name] for name in ("pass", "fail", "inconclusive")},
        "pass_interval": clopper_pearson(counts["pass"], len(names)),
        "fail_interval": clopper_pearson(counts["fail"], len(names)),
        "influence": [float(q) for q in np.quantile(known, (0.05, 0.5, 0.95))] if known else None,
        "detectability": float(np.median([v.measured.whole.detectability for v in told]))
        if told
        else None,
        "self_check_held": sum(
            v.self_check.original_caught and v.self_check.retrain_cleared for v in told
        ),
        "not_good": dict(gates),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    pool, made = result["pool"], result["versions"]
    lines = [
        f"**{result['world']}**: {result['about']}. Pool of {pool['models']} models in "
        f"{pool['folds']} folds and {pool['with_everybody']} with everybody.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"| {' | '.join(['---'] * len(HEAD))} |",
    ]
    for case, words in CASES.items():
        for mode, by_case in result["cases"].items():
            one = by_case.get(case)
            if one is None:
                continue
            low, high = one["pass_interval"]
            span = one["influence"]
            rho = f"{span[1]:.2f} ({span[0]:.2f} … {span[2]:.2f})" if span else "-"
            lines.append(
                f"| {words} | {mode} | {one['judged']} | {one['pass']} | {one['fail']} | "
                f"{one['inconclusive']} | {low:.0%} to {high:.0%} | {rho} |"
            )
    lines += [
        "",
        f"`{result['command']}` ({made['processor']}, torch {made['torch']}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    stage_cli.run(main)
