"""Whether a model is like retrained models in every figure that is reported beside the verdict.

A pass says that a model behaves like models that never saw the records. A reader who then meets a
figure outside the retrained models' range has a contradiction. So each figure is compared with the
retrained references by Student's t of a new observation, two-sided,

    t = (figure - mean) / (s sqrt(1 + 1/M)),   M - 1 degrees of freedom,

at alpha by the number of figures (Bonferroni), so that an exact retrain lies outside in some figure
with a probability of at most alpha, where the figures are normal between models. The question can
only take passes away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tasks.common.language import Sentence, say
from tasks.verification.attacks import examination
from tasks.verification.gates import GateTest
from tasks.verification.scoring import Floats, Scores

ALIKE = "alike_"
"""What the name of a figure's gate begins with."""
FIGURES: dict[str, Sentence] = {
    "retained": say("accuracy on retained records"),
    "unseen": say("accuracy on people whom no model saw"),
    "confidence": say("confidence on the records"),
    "control_confidence": say("confidence on control subjects' records"),
    "lira_online": say("the figure of the attack LiRA (online)"),
    "lira_offline": say("the figure of the attack LiRA (offline)"),
    "rmia": say("the figure of the attack RMIA"),
    "population": say("the figure of the population attack"),
}
"""What is compared, in the order of the gates."""


@dataclass(frozen=True)
class Figure:
    """One figure of the model judged, and of the retrained references.

    Attributes:
        name: as in `FIGURES`.
        value: of the model judged.
        retrained: (M,) of the retrained references.
        least: smallest spread that counts, so that figures equal by chance are no yardstick.
    """

    name: str
    value: float
    retrained: Floats
    least: float

    def range(self, alpha: float) -> tuple[float, float]:
        """The lowest and highest value that a further retrained model has with probability 1 -
        alpha."""
        from scipy import special

        count = len(self.retrained)
        spread = max(float(self.retrained.std(ddof=1)), self.least) * math.sqrt(1 + 1 / count)
        half = float(special.stdtrit(count - 1, 1 - alpha / 2)) * spread
        middle = float(self.retrained.mean())
        return middle - half, middle + half


def gates(scores: Scores, request: str, alpha: float) -> list[GateTest]:
    """One question for each figure: does it lie in the retrained models' range?

    Args:
        scores: all scores of the audit.
        request: id of the request.
        alpha: probability that an exact retrain lies outside in some figure.

    Returns:
        A gate for each figure: `observed` is the figure, `threshold` the nearer end of the range;
        `p_good` is 0 inside and 1 outside, since the question has no error rate for a false pass.

    Raises:
        EvidenceError: an attack cannot be made.
    """
    compared = figures(scores, request, alpha)
    asked = []
    for figure in compared:
        low, high = figure.range(alpha / len(compared))
        inside = low <= figure.value <= high
        asked.append(
            GateTest(
                f"{ALIKE}{figure.name}",
                say(
                    "Does {figure} lie in the retrained models' range?",
                    figure=FIGURES[figure.name],
                ),
                figure.value,
                low if figure.value - low < high - figure.value else high,
                0.0 if inside else 1.0,
                1.0,
                "good" if inside else "open",
            )
        )
    return asked


def figures(scores: Scores, request: str, alpha: float) -> list[Figure]:
    """The figures of the unlearned model and of the retrained references, in the order of
    `FIGURES`.

    Args:
        scores: all scores of the audit.
        request: id of the request.
        alpha: of the attacks, which only their other figures depend on.
    """
    model = int(np.flatnonzero(scores.model_roles == "unlearned")[0])
    without = scores.model_roles == "without"
    rows = scores.rows_of(request)
    found = []
    for name, members in (("retained", scores.retained), ("unseen", scores.unseen)):
        share = scores.accuracy[name]
        found.append(
            Figure(name, float(share[model]), share[without], 1 / max(1, int(members.sum())))
        )
    for name, members in (("confidence", rows), ("control_confidence", scores.controls)):
        means = scores.phi[:, members].mean(axis=1)
        found.append(Figure(name, float(means[model]), means[without], 1e-9))
    examined = examination.examine(scores, request, alpha)
    for attack in examined.attacks:
        areas = np.array(attack.auc_references)
        found.append(Figure(attack.name, attack.auc["unlearned"], areas, 1 / attack.records))
    return found
