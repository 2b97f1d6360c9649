"""How sure models are of people whom no model saw: may an original say how sure the unlearned model
should be?

Recovery would be complete where the unlearned model is as sure of calibration people as retrained
models are. Before an audit these do not exist, and the original is the only model at hand. This
measures how far originals lie from the models that were retrained without the forget set, in their
standard deviations, and how often outside the range in which the gate `alike_control_confidence`
expects a retrained model.

Example: python -m benchmarks.confidence --world digits-tuning --page docs/methods.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import methods, verdicts
from benchmarks.study import Study, run
from benchmarks.verdicts import Job
from tasks.verification import alikeness
from tasks.verification.alikeness import Figure
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Floats

ROLES = ("calibration", "control")
"""People whom no model saw: those that unlearning may ask, and those that the verdict asks."""


def main(study: Study) -> None:
    """Compare the confidence of originals with that of retrained models, write the figures, and put
    their table into a page between its marks.

    Example: python -m benchmarks.confidence --world faces-tuning
    """
    methods.make_models(study, 0)
    given, numbers = study.given, range(1, 1 + study.references)
    originals = [Job(given.name, "with", 0, n, study.seed, study.keep) for n in numbers]
    rows = {}
    for role in ROLES:
        retrained = [
            _confidence(
                study,
                role,
                [Job(given.name, "without", batch, n, study.seed, study.keep) for n in numbers],
            )
            for batch in range(len(given.batches))
        ]
        rows[role] = compared(_confidence(study, role, originals), retrained, _level(study))
    study.publish("confidence", {"roles": rows}, table)


def _confidence(study: Study, role: str, jobs: list[Job]) -> Floats:
    """(models,) mean margins on the records of people in a role."""
    margins, _ = verdicts.answers(jobs)
    means: Floats = margins[:, study.given.roles == role].mean(axis=1, dtype=np.float64)
    return means


def _level(study: Study) -> float:
    rules = GateRules(**study.given.settings.verify.model_dump(exclude={"mode"}))
    return alikeness.figure_level(rules)


def compared(originals: Floats, retrained: list[Floats], level: float) -> dict[str, Any]:
    """Originals against the retrained models of each batch.

    Args:
        originals: (k,) mean margins.
        retrained: of each batch (m,) mean margins.
        level: the probability with which a further retrained model leaves the range.

    Returns:
        `distances`: of each batch the mean distance of originals from retrained models, in their
        standard deviations, > 0 surer; `outside`: how many of `compared` originals lie outside the
        range.
    """
    distances, outside = [], 0
    for of_batch in retrained:
        distances.append(float((originals.mean() - of_batch.mean()) / of_batch.std(ddof=1)))
        low, high = Figure("confidence", 0.0, of_batch, 1e-9).range(level)
        outside += int(((originals < low) | (originals > high)).sum())
    return {
        "distances": distances,
        "outside": outside,
        "compared": len(originals) * len(retrained),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"**{result['world']}**: {result['about']}.",
        "",
        "| people whom no model saw | originals are surer than retrained models by, standard "
        "deviations, batch by batch | originals outside the retrained models' range |",
        "| --- | --- | --- |",
        *(
            f"| {role} | {', '.join(f'{distance:+.1f}' for distance in row['distances'])} | "
            f"{row['outside']} of {row['compared']} |"
            for role, row in result["roles"].items()
        ),
        "",
        f"`{result['command']}` ({result['versions']['processor']}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, world="digits-tuning")
