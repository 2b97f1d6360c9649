"""What makes the test sharp: the same models measured by a plain mean, by centring, by weights, and
as it is done now.

It works from the models that `benchmarks.verdicts` keeps, so it costs seconds. Each statistic takes
the same references and is cross-fitted by leaving each reference out; detectability d' is the gap
of the references over their pooled standard deviation, for every request.

Example: python -m benchmarks.sharpness --world digits --page docs/verification.md
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import verdicts
from benchmarks.study import Study, run
from tasks.verification import contrast
from tasks.verification.scoring import Floats

Fit = Callable[[Floats, Floats], Callable[[Floats], Floats]]
"""(j, n) scores with, (k, n) without -> a function (m, n) -> (m,)"""


def main(study: Study) -> None:
    """Measure the statistics on the references of one world, and put their table into a page
    between its marks.

    Example: python -m benchmarks.sharpness --world digits --page docs/verification.md
    """
    given = study.given
    plan = verdicts.plan(given, study.references, 0, 0, study.seed, study.keep)
    with_ = verdicts.answers([job for job in plan if job.kind == "with"][1:])[0]
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    unlike: list[float] = []
    for batch, people in enumerate(given.batches):
        without = verdicts.answers(
            [job for job in plan if job.kind == "without" and job.batch == batch][1:]
        )[0]
        for person in people:
            rows = given.subjects == person
            controls = given.roles == "control"
            both = np.concatenate([with_, without])
            centred, _ = contrast.centre(
                both[:, rows], given.labels[rows], both[:, controls], given.labels[controls]
            )
            high, low = with_[:, rows], without[:, rows]
            unlike.append(float(low.mean(axis=1).std(ddof=1) / high.mean(axis=1).std(ddof=1)))
            for name, (is_centred, fit) in VARIANTS.items():
                pair = (centred[: len(with_)], centred[len(with_) :]) if is_centred else (high, low)
                found[name].append(detectability(*pair, fit))
    figures = {
        "references": study.references,
        "requests": len(unlike),
        "detectability": {
            name: [float(q) for q in np.quantile(values, (0, 0.5, 1))]
            for name, values in found.items()
        },
        "spread_without_over_with": float(np.median(unlike)),
    }
    study.publish("sharpness", figures, table)


def detectability(with_: Floats, without: Floats, fit: Fit) -> float:
    """d' of references, each measured by a statistic that was fitted without it."""
    values = []
    for kind, group in enumerate((with_, without)):
        left_out = [np.delete(group, place, axis=0) for place in range(len(group))]
        fitted = [fit(rest, without) if kind == 0 else fit(with_, rest) for rest in left_out]
        values.append(np.array([float(one(group[[place]])[0]) for place, one in enumerate(fitted)]))
    high, low = values
    pooled = ((len(high) - 1) * high.var(ddof=1) + (len(low) - 1) * low.var(ddof=1)) / (
        len(high) + len(low) - 2
    )
    return float((high.mean() - low.mean()) / np.sqrt(pooled))


def plain(_with: Floats, _without: Floats) -> Callable[[Floats], Floats]:
    """The mean score."""
    return lambda phi: np.asarray(phi.mean(axis=1), np.float64)


def weighted(with_: Floats, without: Floats) -> Callable[[Floats], Floats]:
    """Scores weighted by the gap over the record's own variance, which is drawn to no mean."""
    weight = np.maximum(with_.mean(axis=0) - without.mean(axis=0), 0)
    weight = weight / (with_.var(axis=0, ddof=1) + without.var(axis=0, ddof=1) + 1e-9)
    return lambda phi: np.asarray(phi @ weight, np.float64)


def ratios(with_: Floats, without: Floats) -> Callable[[Floats], Floats]:
    """The mean log-likelihood ratio, as `contrast.overall` takes it."""
    fitted = contrast.Likelihood.fit(with_, without)
    return lambda phi: contrast.overall(fitted(phi))


VARIANTS: dict[str, tuple[bool, Fit]] = {
    "mean score": (False, plain),
    "mean score, centred by controls of the class": (True, plain),
    "weighted by gap / variance, centred": (True, weighted),
    "mean log-likelihood ratio, centred": (True, ratios),
    "mean log-likelihood ratio (as it is done)": (False, ratios),
}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"**{result['world']}**, {result['requests']} requests, {result['references']} references "
        "of each kind",
        "",
        "| statistic | median d′ | lowest | highest |",
        "| --- | --- | --- | --- |",
    ]
    for name, (low, middle, high) in result["detectability"].items():
        lines.append(f"| {name} | {middle:.1f} | {low:.1f} | {high:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run(main)
