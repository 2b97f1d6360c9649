"""Tests whether a model lies where retrained models lie: in further views of the records, and in
every figure that is reported beside the verdict.

A model can be trained to answer rightly on a person's records alone. A pass then contradicts other
figures of the report, which lie outside the retrained models' range. So a pass also needs the model
to lie in the *prediction band* of the retrained references, which a further retrained model leaves
with a small probability:

    view     T of the same records scored in another way (`tasks.inspection.views`) is not above
             the band: t = (T - mean) / (s sqrt(1 + 1/M)), one-sided, s pooled over references of
             both kinds as in `contrast`
    figure   accuracy, confidence or an attack's AUC is in the band: the same t, two-sided, with
             M - 1 degrees of freedom

Some view or figure is outside with a probability of at most `GateRules.unlike` (Bonferroni; the
views share `VIEWS_SHARE` of it) where the values are normal between retrained models. Where they
are not, the band reaches at least as far as the references' own values, which a further model
leaves with a probability of 1 / (M + 1) on each side. These gates can prevent a pass, and cannot
make one.

The test of the answers asks for equivalence: a model that lies in between does not pass. These
gates ask less, so that exact retrains lose passes only at the gates' own error rate, however many
gates there are. Accuracies closer than `GateRules.alike_resolution` to the retrained models' mean
are alike, since models that memorise their records hardly differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, say
from tasks.verification import gates
from tasks.verification.attacks import examination
from tasks.verification.contrast import NORMALITY_LEVEL
from tasks.verification.gates import GateRules, GateTest
from tasks.verification.scoring import Floats, Scores

VIEW, ALIKE = "view_", "alike_"
"""What the name of a view's gate, and of a figure's gate, begins with."""
VIEWS_SHARE = 0.8
"""Share of the error rate that the views have where figures are asked as well."""
VIEWS: dict[str, Sentence] = {
    "copies": say("on changed copies of the records"),
    "tuned": say("after further training on retained records"),
    "relearned": say("on each half of the records after the other half was learned again"),
    "features": say("in the features, read by a new last layer"),
}
"""Where each view looks for influence."""
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
"""The figures that are compared, in the order of the gates."""
SHARES = ("retained", "unseen")
"""Figures that are shares of records, which have a resolution."""


@dataclass(frozen=True)
class Figure:
    """One figure of the model judged, and of the retrained references.

    Attributes:
        name: as in `FIGURES`.
        value: of the model judged.
        retrained: (M,) of the retrained references.
        least: least spread, for figures that are equal by chance.
        resolution: a figure closer to the retrained models' mean is alike in any case.
    """

    name: str
    value: float
    retrained: Floats
    least: float
    resolution: float = 0.0

    def range(self, level: float) -> tuple[float, float]:
        """The lowest and highest value that a further retrained model has with probability 1 -
        level."""
        from scipy import special, stats

        values, count = self.retrained, len(self.retrained)
        spread = max(float(values.std(ddof=1)), self.least) * math.sqrt(1 + 1 / count)
        half = float(special.stdtrit(count - 1, 1 - level / 2)) * spread
        middle = float(values.mean())
        if np.ptp(values) > 0 and stats.shapiro(values).pvalue < NORMALITY_LEVEL:
            half = max(half, float(np.abs(values - middle).max()))
        half = max(half, self.resolution)
        return middle - half, middle + half


def likeness_gates(scores: Scores, request: str, rules: GateRules) -> list[GateTest]:
    """A gate for each view and each figure of the rules: does the model lie where retrained models
    lie?

    Args:
        scores: all scores of the audit.
        request: id of the request.
        rules: which views, whether figures, and the error rate that they share.

    Returns:
        A gate for each: `observed` is the residual influence in the view or the figure, `threshold`
        the nearer end of the retrained models' range. `p_good` is None: the gate shows at most that
        the model differs.

    Raises:
        EvidenceError: the scores lack a view that the rules name, or an attack cannot be made.
    """
    share = VIEWS_SHARE if rules.alike else 1.0
    questions = [
        _view_gate(name, scores, request, rules, share * rules.unlike / len(rules.views))
        for name in rules.views
    ]
    if rules.alike:
        level = figure_level(rules)
        questions += [_figure_gate(figure, level) for figure in figures(scores, request, rules)]
    return questions


def figure_level(rules: GateRules) -> float:
    """The probability with which a further retrained model's figure leaves its range."""
    return (1 - VIEWS_SHARE * bool(rules.views)) * rules.unlike / len(FIGURES)


def attack_range(attack: examination.ExaminedAttack, rules: GateRules) -> tuple[float, float]:
    """The AUCs that a further retrained model may have, as the question about the attack has them:
    (lowest, highest), each 0 to 1."""
    low, high = _of_attack(attack).range(figure_level(rules))
    return max(low, 0.0), min(high, 1.0)


def _of_attack(attack: examination.ExaminedAttack) -> Figure:
    areas = np.array(attack.auc_references)
    return Figure(attack.name, attack.auc["unlearned"], areas, 1 / attack.records)


def _view_gate(name: str, scores: Scores, request: str, rules: GateRules, level: float) -> GateTest:
    """Is no more influence left in a further view than a retrained model shows?"""
    if name not in scores.views:
        raise EvidenceError(
            say("the scores lack the view {name}; run the stage score again", name=name)
        )
    view, rows = replace(scores, phi=scores.views[name]), scores.rows_of(request)
    model = int(np.flatnonzero(scores.model_roles == "unlearned")[0])
    references = np.isin(scores.model_roles, ("with", "without"))
    scored = np.asarray(np.isfinite(view.phi[:, rows | scores.controls]).all(axis=1))
    if not scored[references].all():
        raise EvidenceError(say("scores in the view {name} are NaN or infinite", name=name))
    question = say(
        "Is no more influence left {where} than retrained models show?", where=VIEWS[name]
    )
    if not scored[model]:
        return GateTest(f"{VIEW}{name}", question, None, 0.0, None, 1.0, "open")
    measured = gates.measure(view, rows, model, rules.memorised).whole
    most = measured.most_retrained(level)
    return GateTest(
        f"{VIEW}{name}",
        question,
        measured.rho,
        float(measured.influence(most)) if measured.gap > 0 else 0.0,
        None,
        1.0,
        "good" if measured.judged <= most else "open",
    )


def _figure_gate(figure: Figure, level: float) -> GateTest:
    """Does a figure lie in the retrained models' range?"""
    low, high = figure.range(level)
    return GateTest(
        f"{ALIKE}{figure.name}",
        say("Does {figure} lie in the retrained models' range?", figure=FIGURES[figure.name]),
        figure.value,
        low if figure.value - low < high - figure.value else high,
        None,
        1.0,
        "good" if low <= figure.value <= high else "open",
    )


def figures(scores: Scores, request: str, rules: GateRules) -> Iterator[Figure]:
    """The figures of the unlearned model and of the retrained references, in the order of
    `FIGURES`.

    Args:
        scores: all scores of the audit.
        request: id of the request.
        rules: alpha, which only the attacks' other figures depend on, and the resolution of shares.
    """
    model = int(np.flatnonzero(scores.model_roles == "unlearned")[0])
    without = scores.model_roles == "without"
    rows = scores.rows_of(request)
    for name, members in zip(SHARES, (scores.retained, scores.unseen), strict=True):
        share, one_record = scores.accuracy[name], 1 / max(1, int(members.sum()))
        yield Figure(name, float(share[model]), share[without], one_record, rules.alike_resolution)
    for name, members in (("confidence", rows), ("control_confidence", scores.controls)):
        means = scores.phi[:, members].mean(axis=1)
        yield Figure(name, float(means[model]), means[without], 1e-9)
    for attack in examination.examine(scores, request, rules.alpha).attacks:
        yield _of_attack(attack)
