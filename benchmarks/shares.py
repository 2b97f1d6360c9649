"""Measure what dividing alpha among the models of a ladder costs and saves.

Exact retrains, and retrains in which half of each person's records was left in, are judged at alpha
and at its share for two and for three unlearned models. Then as many models with half left in as
the ladder has are tried one after the other: who chooses by the verdict is wrong where any of them
passes. Models are those of `benchmarks.verdicts`.

Example: python -m benchmarks.shares --world digits --page docs/verification.md
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks import verdicts
from benchmarks.study import Study, run
from benchmarks.verdicts import Job
from tasks.verification import verdicts as verification
from tasks.verification.gates import GateRules

LADDERS = (1, 2, 3)
"""Unlearned models that the settings allow."""


def main(study: Study, fresh: int = 12) -> None:
    """Train missing models, judge, write the figures, and put their table into a page between its
    marks.

    Example: python -m benchmarks.shares --world digits --references 16 --fresh 12
    """
    world, seed, keep = study.given, study.seed, study.keep
    rules = GateRules(**world.settings.verify.model_dump(exclude={"mode"})).answers_alone()
    first = 1 + study.references
    with_ = [Job(world.name, "with", 0, n, seed, keep) for n in range(first)]
    retrain: dict[int, list[bool]] = {models: [] for models in LADDERS}
    half: dict[int, list[bool]] = {models: [] for models in LADDERS}
    unshared: dict[int, list[bool]] = {models: [] for models in LADDERS}
    for batch in range(len(world.batches)):
        without = [Job(world.name, "without", batch, n, seed, keep) for n in range(first + fresh)]
        half_left = [Job(world.name, "left_50", batch, n, seed, keep) for n in range(fresh)]
        verdicts.make_all(
            [job for job in (*with_, *without, *half_left) if not job.path.exists()], study.jobs
        )
        judges = [with_[0], without[0], *with_[1:], *without[1:first]]
        for models in LADDERS:
            shared = replace(rules, alpha=rules.alpha / models)
            for job in without[first:]:
                retrain[models] += passes(study, batch, job, judges, shared)
            for start in range(0, fresh - models + 1, models):
                group = half_left[start : start + models]
                half[models] += any_of(study, batch, group, judges, shared)
                unshared[models] += any_of(study, batch, group, judges, rules)
    figures = {
        "alpha": rules.alpha,
        "references": study.references,
        "ladders": {
            str(models): {
                "retrain": [sum(retrain[models]), len(retrain[models])],
                "half_left_shared": [sum(half[models]), len(half[models])],
                "half_left_unshared": [sum(unshared[models]), len(unshared[models])],
            }
            for models in LADDERS
        },
    }
    study.publish("shares", figures, table, fresh=fresh)


def passes(study: Study, batch: int, job: Job, judges: list[Job], rules: GateRules) -> list[bool]:
    """Whether a model passes, for each request of a batch."""
    scores = verdicts.table_of_scores(
        study.given, batch, verdicts.answers([job]), verdicts.answers(judges), study.references
    )
    return [
        verification.judge(scores, request, rules).verdict == "pass"
        for request in sorted(set(scores.requests.tolist()) - {""})
    ]


def any_of(
    study: Study, batch: int, jobs: list[Job], judges: list[Job], rules: GateRules
) -> list[bool]:
    """Whether any of several models passes, for each request of a batch."""
    each = [passes(study, batch, job, judges, rules) for job in jobs]
    return [any(found) for found in zip(*each, strict=True)]


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    versions = result["versions"]
    lines = [
        f"**{result['world']}**: {result['about']}. {result['references']} + "
        f"{result['references']} references.",
        "",
        "| unlearned models | α of each | exact retrain passes | any with half left in passes | "
        "the same, each at α |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for models, counts in result["ladders"].items():
        shares = " | ".join(f"{passed} of {judged}" for passed, judged in counts.values())
        lines.append(f"| {models} | {result['alpha'] / int(models):.3g} | {shares} |")
    lines += [
        "",
        f"`{result['command']}` ({versions['processor']}, Python {versions['python']}, torch "
        f"{versions['torch']}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
