"""Evidence of a pool: models that were trained before the batch judge its model.

For a request of subject s the models of the pool that were trained without s take the place of
references retrained without the forget set, all others that of references trained with everybody.
So the test measures the person's own influence: how the model judged differs, on the person's
records, from models without this person, whoever else was in them (docs/adr/0009).

The evidence of a record in a model is, as in `contrast`, lambda = gap (phi - middle) / v. Models of
a pool that did not see a record differ more from each other than models that did, and a few records
that they get wrong by far would decide the mean over all. So evidence is bounded before it is
averaged,

    e = c tanh(lambda / c),      c = max(6, 3 mean gap^2 / 2 v),

a smooth form of the censored likelihood ratio, which is least harmed by such records (Huber 1965).
The bound grows with the gap between the pool's two kinds of models, so that a model that is far
less sure than retrained ones still lies more than one gap below them: over-forgetting stays
visible. T is the mean of e over all records and, for the gate `memorised`, over the share where it
is highest. v is weighted by the models of each kind, since few are without the person.

Models of a pool miss other people, too, and differ more from each other and from the model judged
than references made for the batch. Part of that shows in their scores of control subjects, whom no
model saw, and part follows from who else was in. Both are regressed out of the statistic T of
`contrast`:

    T' = T - Z b,      T = a + c in + Z b + error by ridge regression,

`in` whether the person was in; Z the standardised mean score of controls by class, the first three
principal components of the controls' scores, and which other subjects were in (a linear datamodel,
Ilyas et al. 2022). The model judged was trained with everybody but the batch. So the influence of
other forgotten people does not count as the person's. Likelihood ratios and regression are
cross-fitted in parts of the pool, so that no model is measured by its own fit. The spread of T'
contains the error of the regression already, since T' is cross-fitted. A model judged that lies
further out in Z than the pool's models do has a wider interval, by its leverage above theirs.

In the mode `hybrid` M models retrained for this batch are among the scores. The mean of their T'
replaces the mean of the pool's models without the person, with the error of M models; ratios,
slopes and spread stay the pool's. The question is then the influence of the batch on the person's
records, as with references made for the batch.

The gates on accuracy compare with what retrained models of this batch would reach. Models of the
pool saw fewer people. Accuracy is assumed to fall linearly with the share of the training records
left out, between the pool's models trained with everybody (share 0) and without a fold (share f):

    expected = (1 - c) mean_fold + c mean_everybody,     c = 1 - min(1, forgotten / f),

and the band is moved up by the difference, never down, and widened by the error of the means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import Sentence, say
from tasks.verification import contrast, gates
from tasks.verification.contrast import Contrast, Likelihood
from tasks.verification.gates import GateRules, GateTest, JudgedModel, Measured
from tasks.verification.scoring import Floats, Ints, Scores

PARTS = 8
"""Parts of a pool for cross-fitting."""
RIDGE = 0.3
"""Added to the diagonal of the covariates' correlation matrix."""
LEAST_BOUND = 6.0
"""Least bound of one record's evidence, nats."""
BOUND = 3.0
"""Bound of one record's evidence in units of the expected evidence of a mean record."""
COMPONENTS = 3
"""Principal components of the controls' scores among the covariates."""
ERROR_LEVEL = 0.05
"""The self-check errs when more held-out models fail than chance makes fail at this level."""

JUDGED = ("original", "unlearned", "retrained", "fresh")
"""Roles of models that are no part of a pool."""

Rows = NDArray[np.bool_]


def for_request(scores: Scores, request: str, least: int) -> Scores:
    """The scores for one request: each model of the pool counts as `with` or `without` the person.

    Records that the pool does not know, and models that saw only a part of the request's records,
    are left out.

    Args:
        scores: with models in the role `pool`.
        request: id of the request.
        least: fewest models of each kind.

    Raises:
        EvidenceError: the request has no record, the pool does not know all of them, or too few
            models are of one kind.
    """
    if scores.seen is None or not (scores.model_roles == "pool").any():
        raise EvidenceError(say("there is no pool among the scores; expected references.mode=pool"))
    rows = scores.forget_set(request)
    pool = scores.model_roles == "pool"
    in_pool = np.isfinite(scores.phi[pool]).all(axis=0)
    trained = scores.seen[pool].any(axis=0)
    new = int((rows & ~(in_pool & trained)).sum())
    if new:
        raise EvidenceError(
            say(
                "{new} of the {all} records came or changed after the pool was made, or were not "
                "for training then; make a new pool, or use references.mode=batch",
                new=new,
                all=int(rows.sum()),
            )
        )
    saw = scores.seen[:, rows]
    roles = scores.model_roles.astype("<U12")
    roles[pool & saw.all(axis=1)] = "with"
    roles[pool & ~saw.any(axis=1)] = "without"
    counts = {kind: int((pool & (roles == kind)).sum()) for kind in ("with", "without")}
    if min(counts.values()) < least:
        raise EvidenceError(
            say(
                "got {with_} models of the pool with and {without} without the person, expected at "
                "least {least} of each; add blocks to the pool",
                with_=counts["with"],
                without=counts["without"],
                least=least,
            )
        )
    models = np.isin(scores.model_roles, JUDGED)
    models |= pool & (roles != "pool")
    return replace(
        scores,
        model_roles=roles[models],
        phi=scores.phi[np.ix_(models, in_pool)],
        predicted=scores.predicted[np.ix_(models, in_pool)],
        labels=scores.labels[in_pool],
        roles=scores.roles[in_pool],
        requests=scores.requests[in_pool],
        subjects=scores.subjects[in_pool],
        attributes=scores.attributes[in_pool],
        seen=scores.seen[np.ix_(models, in_pool)],
    )


def with_baseline(scores: Scores) -> Scores:
    """The scores for the figures beside the verdict, which need a retrain baseline: if none was
    trained, the first model without the person takes its place."""
    if (scores.model_roles == "retrained").any():
        return scores
    roles = scores.model_roles.copy()
    roles[np.flatnonzero(roles == "without")[0]] = "retrained"
    return replace(scores, model_roles=roles)


@dataclass(frozen=True)
class RecordEvidence:
    """The bounded evidence of each record that the person was in the model."""

    ratio: Likelihood
    bound: float
    """c: the most evidence of one record, nats"""

    @classmethod
    def fit(cls, with_: Floats, without: Floats) -> RecordEvidence:
        """Fit on scores (j, n) of models with, and (k, n) of models without; j, k >= 2."""
        high, low = with_.mean(axis=0), without.mean(axis=0)
        j, k = len(with_) - 1, len(without) - 1
        variance = (j * with_.var(axis=0, ddof=1) + k * without.var(axis=0, ddof=1)) / (j + k)
        variance = (variance + variance.mean()) / 2 + np.finfo(np.float64).tiny
        gap = np.maximum(high - low, 0)
        expected = float((gap**2 / variance).mean()) / 2
        return cls(Likelihood((high + low) / 2, gap / variance), max(LEAST_BOUND, BOUND * expected))

    def __call__(self, phi: Floats) -> Floats:
        """(m, n) scores -> (m, n) evidence, > 0: rather trained with the record."""
        return np.asarray(self.bound * np.tanh(self.ratio(phi) / self.bound), np.float64)


def highest(share: float) -> contrast.Aggregate:
    """Mean evidence over the share of the records where it is highest: (m, n) -> (m,)."""

    def aggregate(evidence: Floats) -> Floats:
        count = max(1, round(share * evidence.shape[1]))
        return np.asarray(np.sort(evidence, axis=1)[:, -count:].mean(axis=1), np.float64)

    return aggregate


@dataclass(frozen=True)
class Adjusted:
    """The statistic of the pool's models and of models judged, control people regressed out."""

    values: Floats
    """(m,) of the pool's models, cross-fitted"""
    judged: Floats
    """(j,) of the models judged"""
    leverage: Floats
    """(j,) by how much they lie further out than the pool's models, 0: no further"""


def statistic(
    phi: Floats, inside: Rows, covariates: Floats, judged: int, aggregate: contrast.Aggregate
) -> Adjusted:
    """T' of a pool and of models judged by it.

    Args:
        phi: (m + j, n) scores of the person's records, the pool's m models first.
        inside: (m,) whether the person was in the model.
        covariates: (m + j, q) standardised by the pool.
        judged: j.
        aggregate: bounded evidence (m, n) -> one number per model (m,).

    Raises:
        EvidenceError: the models score every record alike.
    """
    count = len(inside)
    part = _parts(inside)
    values, others = np.empty(count), np.zeros(judged)
    for number in range(PARTS):
        held_out, rest = part == number, part != number
        fit = RecordEvidence.fit(phi[:count][rest & inside], phi[:count][rest & ~inside])
        values[held_out] = aggregate(fit(phi[:count][held_out]))
        others += aggregate(fit(phi[count:])) / PARTS
    if np.ptp(values) <= 1e-9 * max(float(np.abs(values).max()), np.finfo(np.float64).tiny):
        raise EvidenceError(contrast.NO_DIFFERENCE)
    adjusted, shift = values.copy(), np.zeros(judged)
    for number in range(PARTS):
        held_out, rest = part == number, part != number
        slope = _ridge(values[rest], inside[rest], covariates[:count][rest])
        adjusted[held_out] -= covariates[:count][held_out] @ slope
        shift += covariates[count:] @ slope / PARTS
    usual = _leverage(covariates[:count], inside, covariates[:count]).mean()
    own_leverage = _leverage(covariates[:count], inside, covariates[count:])
    leverage = np.maximum((1 + own_leverage) / (1 + usual) - 1, 0.0)
    return Adjusted(adjusted, others - shift, leverage)


def _parts(inside: Rows) -> Ints:
    """(m,) part of each model, models of each kind shared out evenly."""
    part = np.empty(len(inside), np.int64)
    for kind in (inside, ~inside):
        part[kind] = np.arange(int(kind.sum())) % PARTS
    return part


def _means(values: Floats, inside: Rows) -> Floats:
    """(m, q) mean of each model's kind."""
    high, low = values[inside].mean(axis=0), values[~inside].mean(axis=0)
    return np.asarray(np.where(inside[:, None], high, low), np.float64)


def _ridge(values: Floats, inside: Rows, covariates: Floats) -> Floats:
    """(q,) slopes of T on the covariates, each kind of models with a level of its own.

    In the dual form, m x m for m models, since there may be more covariates than models.
    """
    centred = covariates - _means(covariates, inside)
    target = values - _means(values[:, None], inside)[:, 0]
    return np.asarray(centred.T @ np.linalg.solve(_dual(centred), target), np.float64)


def _leverage(pool: Floats, inside: Rows, judged: Floats) -> Floats:
    """(j,) z' (Z'Z + k I)^-1 z of models judged, k the ridge, by Woodbury's identity."""
    centred = pool - _means(pool, inside)
    across = judged @ centred.T
    ridge = RIDGE * len(centred)
    explained = np.einsum("jm,mj->j", across, np.linalg.solve(_dual(centred), across.T))
    return np.asarray(((judged**2).sum(axis=1) - explained) / ridge, np.float64)


def _dual(centred: Floats) -> Floats:
    """(m, m) products of the models' covariates, with the ridge."""
    count = len(centred)
    return np.asarray(centred @ centred.T + RIDGE * count * np.eye(count), np.float64)


def other_people(saw: Rows, count: int) -> Floats:
    """(m, p) which of p other subjects each model saw, standardised by the first `count` models.

    Args:
        saw: (m, p) whether the subject was in.
        count: models of the pool, which come first.
    """
    table = saw.astype(np.float64)
    spread = table[:count].std(axis=0)
    varied = spread > 0
    scaled = (table[:, varied] - table[:count, varied].mean(axis=0)) / spread[varied]
    return np.asarray(scaled, np.float64)


def control_covariates(phi: Floats, labels: Ints, count: int) -> Floats:
    """(m, q) scores of control subjects, standardised by the first `count` models.

    Args:
        phi: (m, c) scores of the controls' records.
        labels: (c,) their classes.
        count: models of the pool, which come first.
    """
    by_class = np.stack([phi[:, labels == label].mean(axis=1) for label in np.unique(labels)], 1)
    centred = phi - phi[:count].mean(axis=0)
    _, _, axes = np.linalg.svd(centred[:count], full_matrices=False)
    table = np.concatenate([by_class, centred @ axes[:COMPONENTS].T], axis=1)
    spread = table[:count].std(axis=0)
    return np.asarray(
        (table - table[:count].mean(axis=0)) / np.where(spread > 0, spread, 1.0), np.float64
    )


class PoolEvidence:
    """The evidence of a pool for one request."""

    def __init__(self, scores: Scores, request: str, rules: GateRules) -> None:
        self.scores, self.rules = scores, rules
        self.rows = scores.rows_of(request)
        controls, roles = scores.controls, scores.model_roles
        self.pool = np.isin(roles, ("with", "without"))
        self.names = [str(role) for role in roles[~self.pool]]
        order = np.concatenate([np.flatnonzero(self.pool), np.flatnonzero(~self.pool)])
        phi = scores.phi[order]
        scores.require_finite(self.rows | controls)
        labels = scores.labels[self.rows]
        person_phi, control_phi = phi[:, self.rows], phi[:, controls]
        centred, base = contrast.centre(person_phi, labels, control_phi, scores.labels[controls])
        self.inside = roles[self.pool] == "with"
        self.count = len(self.inside)
        self.person_phi = {False: person_phi, True: centred}
        self.base = base
        self.covariates = np.concatenate(
            [
                control_covariates(control_phi, scores.labels[controls], self.count),
                other_people(self._others()[order], self.count),
            ],
            axis=1,
        )
        self.statistics: dict[bool, tuple[Adjusted, Adjusted]] = {}
        self.bands = (
            {name: _Band.of(scores, name) for name in ("unseen", "retained")} if self.names else {}
        )

    def power(self) -> Measured:
        """How well the pool tells models with the person from models without; nobody is judged."""
        whole, most = (
            _contrast(adjusted.values, self.inside, math.nan, 0.0)
            for adjusted in self._statistics(False)
        )
        return Measured(whole, most, False)

    def _fresh(self, name: str) -> list[int]:
        """Positions of the models that were retrained for this batch; none of them judges
        itself."""
        if not self.has("fresh"):
            return []
        return [
            index
            for index, role in enumerate(self.names)
            if role in ("fresh", "retrained") and role != name
        ]

    def _others(self) -> Rows:
        """(m, p) which other subjects of the pool each model saw."""
        scores, pool = self.scores, self.pool
        saw = scores.seen if scores.seen is not None else np.zeros(scores.phi.shape, bool)
        trained = saw[pool].any(axis=0)
        retained = trained & (scores.requests == "")
        saw = np.where(pool[:, None], saw, retained)
        saw[scores.model_roles == "original"] = trained
        other = trained & ~np.isin(scores.subjects, scores.subjects[self.rows])
        _, first = np.unique(scores.subjects[other], return_index=True)
        return np.asarray(saw[:, np.flatnonzero(other)[first]])

    def has(self, name: str) -> bool:
        """Whether a model of that role is among the scores."""
        return name in self.names

    def measure(self, name: str) -> Measured:
        """How much of the records is left in one model."""
        index = self.names.index(name)
        pool, phi = self.person_phi[False][: self.count], self.base
        unusual = contrast.unusual_confidence(
            pool[self.inside], pool[~self.inside], phi[: self.count], phi[self.count + index]
        )
        fresh = self._fresh(name)
        whole, most = (
            _contrast(
                adjusted.values,
                self.inside,
                float(adjusted.judged[index]),
                float(adjusted.leverage[index]),
                adjusted.judged[fresh],
            )
            for adjusted in self._statistics(unusual)
        )
        return Measured(whole, most, unusual)

    def _statistics(self, centred: bool) -> tuple[Adjusted, Adjusted]:
        """Both statistics, on scores as they are or centred by controls; computed once."""
        if centred not in self.statistics:
            phi, judged = self.person_phi[centred], len(self.names)
            whole, most = (
                statistic(phi, self.inside, self.covariates, judged, aggregate)
                for aggregate in (contrast.overall, highest(self.rules.memorised))
            )
            self.statistics[centred] = whole, most
        return self.statistics[centred]

    def finding(self, name: str, measured: Measured) -> JudgedModel:
        """All gates for one model judged."""
        model = int(np.flatnonzero(self.scores.model_roles == name)[0])
        tests = gates.influence_gates(measured, self.rules)
        tests += [band.gate(model, self.rules) for band in self.bands.values()]
        return gates.conclude(tests, measured.whole.interval(self.rules.alpha), self.rules.alpha)

    def held_out(self) -> JudgedModel:
        """The self-check on models without the person, each judged by all others.

        Returns:
            The finding with the median influence among models that do not fail; if more models fail
            than by chance, among those that fail.
        """
        places = np.flatnonzero(~self.inside)
        findings = [self._judge_held_out(int(index)) for index in places]
        findings.sort(key=lambda finding: finding.interval.estimate or 0.0)
        failed = [finding for finding in findings if finding.verdict == "fail"]
        if len(failed) > _chance(len(findings), self.rules.alpha):
            return failed[len(failed) // 2]
        good = [finding for finding in findings if finding.verdict != "fail"]
        return good[len(good) // 2]

    def _judge_held_out(self, index: int) -> JudgedModel:
        others = np.arange(len(self.inside)) != index
        whole, most = (
            _contrast(
                adjusted.values[others], self.inside[others], float(adjusted.values[index]), 0.0
            )
            for adjusted in self._statistics(False)
        )
        tests = gates.influence_gates(Measured(whole, most, False), self.rules)
        model = int(np.flatnonzero(self.pool)[index])
        tests += [band.held_out(model, self.rules) for band in self.bands.values()]
        return gates.conclude(tests, whole.interval(self.rules.alpha), self.rules.alpha)

    def rank_p(self) -> float:
        """See `contrast.rank_p`."""
        plain = self.scores.phi[:, self.rows].mean(axis=1)
        roles = self.scores.model_roles
        return contrast.rank_p(float(plain[roles == "unlearned"][0]), plain[roles == "without"])

    def description(self) -> Sentence:
        """A sentence on the models that judged."""
        counts = {
            "models": int(self.pool.sum()),
            "without": int((~self.inside).sum()),
        }
        if self.has("fresh"):
            return say(
                "Judged by a pool of {models} models made before the batch, {without} of them "
                "trained without this person, and by {fresh} exact retrains of this batch.",
                fresh=len(self._fresh("unlearned")),
                **counts,
            )
        if self.has("retrained"):
            return say(
                "Judged by a pool of {models} models made before the batch, {without} of them "
                "trained without this person; one exact retrain of this batch was made beside it.",
                **counts,
            )
        return say(
            "Judged by a pool of {models} models made before the batch, {without} of them trained "
            "without this person; no exact retrain of this batch was made.",
            **counts,
        )


def _contrast(
    values: Floats, inside: Rows, judged: float, leverage: float, fresh: Floats | None = None
) -> Contrast:
    """The contrast of one model judged; models retrained for the batch, if there are any, give the
    mean of `without`."""
    high, low = values[inside], values[~inside]
    if fresh is None or not len(fresh):
        return contrast.from_statistics(high, low, judged, leverage)
    moved = low - low.mean() + fresh.mean()
    return contrast.from_statistics(high, moved, judged, leverage, len(fresh))


def _chance(count: int, alpha: float) -> int:
    """The most of `count` tests that err by chance, at `ERROR_LEVEL`."""
    from scipy import stats

    return int(stats.binom.ppf(1 - ERROR_LEVEL, count, alpha))


@dataclass(frozen=True)
class _Band:
    """One accuracy of all models, and the accuracies that retrained models would reach."""

    name: str
    shares: Floats
    """(m,) of all models of the view"""
    fold: Rows
    """(m,) models of the pool trained without a fold"""
    everybody: Rows
    """(m,) models of the pool trained with everybody"""
    forgotten: float
    """share of the training records that the batch forgets"""
    missing: float
    """share that models without a fold miss"""

    @classmethod
    def of(cls, scores: Scores, name: str) -> _Band:
        """One accuracy; a model of the pool is asked only for retained records that it saw.

        Raises:
            EvidenceError: there is no record to ask for.
        """
        seen = scores.seen if scores.seen is not None else np.zeros(scores.phi.shape, bool)
        pool = np.isin(scores.model_roles, ("with", "without"))
        rows = scores.retained if name == "retained" else scores.unseen
        counted = np.broadcast_to(rows, scores.phi.shape)
        if name == "retained":
            counted = counted & (seen | ~pool[:, None])
        if not counted.any(axis=1).all():
            raise gates.no_record(name)
        shares = (scores.correct & counted).sum(axis=1) / counted.sum(axis=1)
        trained = seen[pool].any(axis=0)
        missed = 1 - seen[:, trained].mean(axis=1)
        everybody = pool & (missed == 0)
        fold = pool & ~everybody
        forgotten = float((trained & (scores.requests != "")).sum() / trained.sum())
        return cls(name, shares, fold, everybody, forgotten, float(missed[fold].mean()))

    def gate(self, model: int, rules: GateRules) -> GateTest:
        """Is the model judged as accurate as retrained models would be, within the margin?"""
        return self._gate(float(self.shares[model]), self.moved(), rules)

    def held_out(self, model: int, rules: GateRules) -> GateTest:
        """The same of a model of the pool, against the others as they are."""
        others = self.fold & (np.arange(len(self.fold)) != model)
        return self._gate(float(self.shares[model]), self.shares[others], rules)

    def moved(self) -> Floats:
        """Accuracies of the pool's models without a fold, moved to where retrained models of this
        batch would be, and widened by the error of the move.

        Raises:
            EvidenceError: the band has to be moved, and fewer than two models were trained with
                everybody.
        """
        fold, whole = self.shares[self.fold], self.shares[self.everybody]
        part = 1 - min(1.0, self.forgotten / self.missing)
        if part > 0 and len(whole) < 2:
            raise EvidenceError(
                say(
                    "got {count} models of the pool trained with everybody, expected at least 2; "
                    "without them nothing says how accuracy depends on the number of people",
                    count=len(whole),
                )
            )
        rise = max(0.0, float(whole.mean() - fold.mean())) if part > 0 else 0.0
        n = len(fold)
        error = (1 - part) ** 2 / n + (part**2 / len(whole) if part > 0 else 0.0)
        wider = max(1.0, math.sqrt((1 + error) / (1 + 1 / n)))
        return np.asarray(fold.mean() + part * rise + wider * (fold - fold.mean()), np.float64)

    def _gate(self, accuracy: float, retrained: Floats, rules: GateRules) -> GateTest:
        name, _, question = next(entry for entry in gates.UTILITY if entry[1] == self.name)
        return gates.utility_gate(name, question, accuracy, retrained, rules)
