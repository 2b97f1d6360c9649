"""Ten batches on one pool: verdicts as people leave and the pool stays as it was made.

The people of the world `digits-sequence` are forgotten one or two at a time. At each batch three
kinds of models are judged on the people of that batch by one pool, from which the rows of all who
left before are taken out:

    exact retrain       trained without everybody who has left: should pass
    half left in        the same, but for half of the records of the people at hand: must not pass
    unchanged           an exact retrain of the batch before: has to fail

After each batch the pool is asked whether it has to be renewed (`tasks.pooling.renewal`), by one
exact retrain of each batch so far. Models are kept, so that the command goes on where it was
stopped; `--no-train` judges what is kept.

Example: python -m benchmarks.pool_batches --page docs/pool.md
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure, pool, sequential, study, worlds
from benchmarks import verdicts as planted
from benchmarks.worlds import World
from tasks.common import files, stage_cli
from tasks.common.errors import EvidenceError
from tasks.pooling import folds as partition
from tasks.pooling import renewal
from tasks.verification import scoring, verdicts
from tasks.verification.attacks.roc import clopper_pearson
from tasks.verification.gates import GateRules

WORLD = "digits-sequence"
CASES = {
    "retrain": "exact retrain",
    "half": "half left in",
    "unchanged": "unchanged",
}
HEAD = (
    "batch",
    "forgotten so far",
    "exact retrains: pass / fail / inconclusive",
    "ρ of exact retrains",
    "half left in",
    "unchanged",
    "renew",
)


@dataclass(frozen=True)
class Judged:
    """A verdict on one person by the pool; no test could be made where `verdict` alone is known."""

    verdict: str
    rho: float | None = None
    deviation: float | None = None
    """of rho from 0, in standard errors of a new model without the person"""


def main(
    pool_world: str = "digits",
    models: int = 64,
    folds: int = 4,
    fresh: int = 6,
    seed: int = 1,
    keep: Path = Path(".benchmarks"),
    out: Path = Path("benchmarks/results"),
    page: Path | None = None,
    train: bool = True,
) -> None:
    """Make the models that are missing, judge batch after batch, and write the table.

    `pool_world` is the world whose pool is used: of the same people and recipe.

    Example: python -m benchmarks.pool_batches --models 64 --folds 4 --fresh 6
    """
    given = worlds.load(WORLD)
    kept = pool.Kept(given, pool_world, models, folds, seed, keep)
    if train:
        _make(kept, fresh)
    seen = partition.membership(
        given.subjects, np.asarray(given.roles == "training"), [out for _, out in kept.pool()]
    )
    answers = *planted.answers([job for job, _ in kept.pool()]), seen
    rules = GateRules(**given.settings.verify.model_dump(exclude={"mode"}))
    steps, retrains = [], list[renewal.JudgedRetrain]()
    for step in range(1, len(given.batches) + 1):
        found = _judge_step(kept, step, fresh, answers, rules)
        if not found:
            break
        retrains.append(_as_retrain(step, found["retrain"][0]))
        age = renewal.assess(retrains, rules.rho0, rules.alpha)
        forgotten = np.isin(given.subjects, given.batches[step - 1])
        training = given.roles == "training"
        share = float((forgotten & training).sum() / training.sum())
        steps.append({**figures(found), "forgotten": share, "renewal": age.plain()})
    result = {
        "about": given.about,
        "command": f"python -m benchmarks.pool_batches --pool-world {pool_world} "
        f"--models {models} --folds {folds} --fresh {fresh}",
        "pool": {"models": models, "folds": folds, "with_everybody": pool.WHOLE},
        "steps": steps,
        "versions": study.versions(),
    }
    files.write_json(out / "pool-batches.json", result)
    stage_cli.say(table(result))
    if page:
        measure.insert(page, "pool batches", table(result))


def _retrains(kept: pool.Kept, step: int, fresh: int) -> list[planted.Job]:
    """Exact retrains after a batch; after batch 0 models trained with everybody. None of them is a
    reference of another benchmark."""
    numbers = range(pool.FIRST, pool.FIRST + fresh)
    kind, batch = ("without", step - 1) if step else ("with", 0)
    return [kept.job(kind, batch, number) for number in numbers]


def _halves(kept: pool.Kept, step: int, fresh: int) -> list[planted.Job]:
    return [kept.job("newest_50", step - 1, number) for number in range(fresh)]


def _make(kept: pool.Kept, fresh: int) -> None:
    """Train what is missing, batch by batch."""
    kept.make_pool()
    for step in range(len(kept.given.batches) + 1):
        planted.make_all([job for job in _retrains(kept, step, fresh) if not job.path.exists()], 1)
        for job in _halves(kept, step, fresh) if step else []:
            if not job.path.exists():
                planted.make(job, half_left_in(kept.given, step, job.number, kept.seed))


def half_left_in(given: World, step: int, number: int, seed: int) -> NDArray[np.bool_]:
    """(n,) training records without those of people who left before, and with a random half of the
    records of each person of the batch at hand."""
    world = sequential.newest(given, step)
    rows = np.asarray(world.roles == "training")
    random = np.random.Generator(np.random.PCG64([seed, step, number]))
    for person in world.batches[0]:
        own = random.permutation(np.flatnonzero(given.subjects == person))
        rows[own[: len(own) // 2]] = False
    return rows


def _judge_step(
    kept: pool.Kept, step: int, fresh: int, answers: Any, rules: GateRules
) -> dict[str, list[list[Judged]]]:
    """Verdicts at one batch, by case and model, on each person; none where models are missing."""
    before, after = _retrains(kept, step - 1, fresh), _retrains(kept, step, fresh)
    by_case = {"retrain": after, "half": _halves(kept, step, fresh), "unchanged": before[:-1]}
    wanted = [before[-1], *(job for jobs in by_case.values() for job in jobs)]
    if not all(job.path.exists() for job in wanted):
        return {}
    world = sequential.newest(kept.given, step)
    here = np.asarray(world.roles != "forgotten")
    return {
        case: [
            judged(only(pool.pooled(world, 0, [job, before[-1]], answers), here), rules)
            for job in jobs
        ]
        for case, jobs in by_case.items()
    }


def only(scores: scoring.Scores, rows: NDArray[np.bool_]) -> scoring.Scores:
    """The scores with some of the records only, as after an erasure of the others."""
    if scores.seen is None:
        raise EvidenceError("got scores without a pool, expected those of one")
    return replace(
        scores,
        phi=scores.phi[:, rows],
        predicted=scores.predicted[:, rows],
        labels=scores.labels[rows],
        roles=scores.roles[rows],
        requests=scores.requests[rows],
        subjects=scores.subjects[rows],
        attributes=scores.attributes[rows],
        seen=scores.seen[:, rows],
    )


def judged(scores: scoring.Scores, rules: GateRules) -> list[Judged]:
    """The verdict on each request of one model."""
    found = []
    for request in sorted(set(scores.requests.tolist()) - {""}):
        try:
            verdict = verdicts.judge(scores, request, rules)
        except EvidenceError:
            found.append(Judged("inconclusive"))
            continue
        rho = verdict.influence["unlearned"]
        without = verdict.measured.whole.without
        spread = float(np.std(without, ddof=1)) * math.sqrt(1 + 1 / len(without))
        found.append(Judged(verdict.verdict, rho, None if rho is None else rho / spread))
    return found


def _as_retrain(step: int, verdicts_: Sequence[Judged]) -> renewal.JudgedRetrain:
    told = [one for one in verdicts_ if one.rho is not None and one.deviation is not None]
    return renewal.JudgedRetrain(
        str(step),
        tuple(float(one.rho or 0) for one in told),
        tuple(float(one.deviation or 0) for one in told),
        sum(one.verdict == "fail" for one in told),
    )


def figures(found: dict[str, list[list[Judged]]]) -> dict[str, Any]:
    """Counts and influence by case."""
    result = {}
    for case, models in found.items():
        every = [one for verdicts_ in models for one in verdicts_]
        counts = Counter(one.verdict for one in every)
        rho = [one.rho for one in every if one.rho is not None]
        result[case] = {
            "judged": len(every),
            **{name: counts[name] for name in ("pass", "fail", "inconclusive")},
            "influence": [float(q) for q in np.quantile(rho, (0.05, 0.5, 0.95))] if rho else None,
        }
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown: a row a batch, then all batches together."""
    pool_of, made = result["pool"], result["versions"]
    lines = [
        f"{result['about'].capitalize()}, one after the other; one pool of {pool_of['models']} "
        f"models in {pool_of['folds']} folds and {pool_of['with_everybody']} with everybody. "
        "Counts are pass / fail / inconclusive.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"| {' | '.join(['---'] * len(HEAD))} |",
    ]
    for number, step in enumerate(result["steps"], 1):
        span = step["retrain"]["influence"]
        rho = f"{span[1]:.2f} ({span[0]:.2f} … {span[2]:.2f})" if span else "-"
        lines.append(
            f"| {number} | {step['forgotten']:.0%} | {_counts(step['retrain'])} | {rho} | "
            f"{_counts(step['half'])} | {_counts(step['unchanged'])} | "
            f"{'yes' if step['renewal']['renew'] else 'no'} |"
        )
    lines += ["", f"{_together(result['steps'])}", ""]
    lines += [f"`{result['command']}` ({made['processor']}, torch {made['torch']}).", ""]
    return "\n".join(lines)


def _counts(one: dict[str, Any]) -> str:
    return f"{one['pass']} / {one['fail']} / {one['inconclusive']}"


def _together(steps: Sequence[dict[str, Any]]) -> str:
    """All batches up to 40 % forgotten in one sentence, with exact 95 % intervals."""
    early = [step for step in steps if step["forgotten"] <= 0.42]
    parts = []
    for case, words in CASES.items():
        count = sum(step[case]["judged"] for step in early)
        passed = sum(step[case]["pass"] for step in early)
        low, high = clopper_pearson(passed, count)
        parts.append(f"{words} {passed} of {count} ({low:.0%} to {high:.0%})")
    share = max(step["forgotten"] for step in early)
    return f"Passes up to {share:.0%} forgotten, with 95 % interval: {'; '.join(parts)}."


if __name__ == "__main__":
    stage_cli.run(main)
