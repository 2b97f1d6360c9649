"""Who passes by deceit, and what stops it: adversaries, exact retrains and originals, judged by the
test of the answers alone, with each further view beside it, with all figures, and as the settings
have it by default.

The cases are those of `benchmarks.adversaries`, planted as in `benchmarks.verdicts`, whose models
it shares. So many exact retrains as pass no longer are the price.

Example: python -m benchmarks.views --world digits --page docs/verification.md
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import verdicts
from benchmarks.adversaries import ADVERSARIES
from benchmarks.study import Study, run
from benchmarks.verdicts import Job
from tasks.common import stage_cli
from tasks.common.settings import Verify
from tasks.verification import alikeness, batch_verdicts, gates, scoring
from tasks.verification.attacks import roc
from tasks.verification.gates import GateRules
from tasks.verification.verdicts import judge

ALONE, ALL = "answers alone", "default"
BESIDE: dict[str, dict[str, Any]] = {
    ALONE: {"views": (), "alike": False},
    **{f"+ {name}": {"views": (name,), "alike": False} for name in verdicts.VIEWS},
    "+ alike": {"views": (), "alike": True},
    ALL: {"views": Verify().views, "alike": Verify().alike},
}
"""What is asked beside the test of the answers, by the name of the column."""


def main(
    study: Study, fresh: int = 4, adversaries: int = 3, batches: int = 1, make: bool = True
) -> None:
    """Make the adversaries of one world, judge them, and put their table into a page between its
    marks. With `--no-make` nothing is made, and the table is of what is there.

    Example: python -m benchmarks.views --world digits --page docs/verification.md
    """
    fixed = 1 + study.references + fresh
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in range(batches):
        with_, without, deceivers = (
            [job(study, "with", 0, n) for n in range(fixed)],
            [job(study, "without", batch, n) for n in range(fixed)],
            [job(study, kind, batch, n) for n in range(adversaries) for kind in ADVERSARIES],
        )
        if make:
            for jobs in (with_ + without, deceivers):  # the second start from the first
                verdicts.make_all([one for one in jobs if not one.path.exists()], study.jobs)
            for one in with_ + without:
                verdicts.keep_views(one, batch)
        spare = 1 + study.references
        judges = [with_[0], without[0], *with_[1:spare], *without[1:spare]]
        for case, jobs in (
            ("retrain", without[spare:]),
            ("original", with_[spare:]),
            *((kind, [one for one in deceivers if one.kind == kind]) for kind in ADVERSARIES),
        ):
            for one in jobs:
                if scored(one, batch):
                    rows[case] += judged(study, batch, one, judges)
        stage_cli.say(f"{study.world}: batch {batch + 1}/{batches} judged")
    cases = {case: figures(found) for case, found in rows.items() if found}
    result = {"references": study.references, "batches": batches, "cases": cases}
    study.publish("views", result, table, fresh=fresh, adversaries=adversaries, batches=batches)


def job(study: Study, kind: str, batch: int, number: int) -> Job:
    """One model of the study."""
    return Job(study.world, kind, batch, number, study.seed, study.keep)


def scored(one: Job, batch: int) -> bool:
    """Whether a model is there, with its scores in all views."""
    if not (one.path.exists() and one.views(batch).exists()):
        return False
    return set(verdicts.VIEWS) <= set(np.load(one.views(batch), allow_pickle=False))


def judged(study: Study, batch: int, one: Job, judges: list[Job]) -> Iterator[dict[str, Any]]:
    """Whether one model passes on each request, by each of the rules."""
    given = study.given
    scores = verdicts.table_of_scores(
        given, batch, verdicts.answers([one]), verdicts.answers(judges), study.references
    )
    read = [np.load(path.views(batch), allow_pickle=False) for path in (one, *judges)]
    scores = replace(
        scores, views={name: np.stack([kept[name] for kept in read]) for name in verdicts.VIEWS}
    )
    own = given.settings.verify
    alone = batch_verdicts.rules(own, own.alpha).answers_alone()
    for request in sorted(set(scores.requests.tolist()) - {""}):
        verdict = judge(scores, request, alone)
        outside = {
            title: [
                gate.name
                for gate in alikeness.likeness_gates(scores, request, replace(alone, **asked))
                if gate.state != "good"
            ]
            for title, asked in (BESIDE.items() if verdict else ())
        }
        yield {
            "model": f"{batch}-{one.number}",
            "passes": {title: outside.get(title) == [] for title in BESIDE},
            "outside": outside.get(ALL, []),
            "rho": verdict.influence["unlearned"],
            "detectability": {
                "": verdict.measured.whole.detectability,
                **{name: detectability(scores, request, name, alone) for name in verdicts.VIEWS},
            },
            "seconds": {name: float(read[-1][f"{name}_seconds"]) for name in verdicts.VIEWS},
        }


def detectability(scores: scoring.Scores, request: str, name: str, rules: GateRules) -> float:
    """d′ of the references in one view."""
    view = replace(scores, phi=scores.views[name])
    return gates.measure(view, scores.rows_of(request), 0, rules.memorised).whole.detectability


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One case: how many pass by each rule, with exact intervals."""
    passes = {title: sum(row["passes"][title] for row in rows) for title in BESIDE}
    return {
        "judged": len(rows),
        "models": len({row["model"] for row in rows}),
        "passes": passes,
        "intervals": {
            rule: roc.clopper_pearson(count, len(rows)) for rule, count in passes.items()
        },
        "influence": float(np.median([row["rho"] for row in rows])),
        "outside": [name for row in rows for name in row["outside"]],
        "detectability": {
            name: float(np.median([row["detectability"][name] for row in rows]))
            for name in ("", *verdicts.VIEWS)
        },
        "seconds": {
            name: float(np.median([row["seconds"][name] for row in rows]))
            for name in verdicts.VIEWS
        },
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, with all that is needed to get them again."""
    titles = {"retrain": "exact retrain", "original": "unchanged original"}
    titles |= {kind: title for kind, (title, _) in ADVERSARIES.items()}
    head = ("model judged", "judged", "ρ, median", *BESIDE)
    lines = [
        f"**{result['world']}**: {result['about']}. {result['references']} + "
        f"{result['references']} references, batches: {result['batches']}. Passes, with the 95 % "
        "upper bound (for the exact retrain the whole interval).",
        "",
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---'] * len(head))} |",
    ]
    for case, one in result["cases"].items():
        cells = []
        for rule in BESIDE:
            low, high = one["intervals"][rule]
            bound = f"{low:.0%} to {high:.0%}" if case == "retrain" else f"≤ {high:.0%}"
            cells.append(f"{one['passes'][rule]} ({bound})")
        lines.append(
            f"| {titles[case]} | {one['judged']} ({one['models']} models) | "
            f"{one['influence']:.2f} | {' | '.join(cells)} |"
        )
    retrain, made = result["cases"]["retrain"], result["versions"]
    power = ", ".join(f"{name} {retrain['detectability'][name]:.1f}" for name in verdicts.VIEWS)
    cost = ", ".join(f"{name} {retrain['seconds'][name]:.1f} s" for name in verdicts.VIEWS)
    lines += [
        "",
        f"Median d′ of the answers {retrain['detectability']['']:.1f}; of the views: {power}. "
        f"Processor time of a view for one model, on a busy machine: {cost}.",
        "",
        f"`{result['command']}` ({made['processor']}, Python {made['python']}, torch "
        f"{made['torch']}, NumPy {made['numpy']}, SciPy {made['scipy']}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
