"""Statistics that could tell models with a person's records from models without them.

Each is fitted on references of both kinds and says how much of each record a model seems to know,
(m, n); the mean over the records is the model's T. `today` is the one of `contrast`. The others are
from the literature, or one step away from it: another prior for a record's variance or gap, another
score, more that a model says of a record, or something else that it says taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tasks.verification import contrast, pool_evidence
from tasks.verification.scoring import Floats

LEAST = np.finfo(np.float64).tiny
HALF = 0.5
"""Share of a record's own variance; the rest is the mean of all records, as in `contrast`."""
AXES = 3
"""Principal components of what models say of control people."""
RIDGE = 0.3
"""Added to the diagonal of the covariates' correlation matrix."""
SHRINKAGE = 0.1
"""Share of the identity in the correlation matrix of several scores of one record."""
STEPS = 20
"""Steps between not knowing and knowing at which IAM takes a distribution function."""


@dataclass(frozen=True)
class Said:
    """What m models say of one person's n records, of c control people's, and of changed copies."""

    phi: Floats
    """(m, n) margins"""
    centred: Floats
    """(m, n) margins less the mean margin of control records of the class"""
    controls: Floats
    """(m, c) margins of control people's records"""
    near: Floats
    """(m, n) mean margin of the most similar control records of the class"""
    trace: Floats
    """(m, n) interquartile range of the record's loss while an original was trained, the same for
    all models"""
    copies: Floats
    """(m, n) mean margin of changed copies; NaN where weights were not kept"""
    logits: Floats
    """(m, n, classes) the true class first, then the others, the likelier first; NaN where weights
    were not kept"""
    norms: Floats
    """(m, n) logarithm of the length of the features; NaN where weights were not kept"""

    def __len__(self) -> int:
        return len(self.phi)

    def rows(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Said:
        """Some of the models."""
        return Said(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def without(self, place: int) -> Said:
        """All models but one."""
        return self.rows(np.arange(len(self)) != place)


Ratios = Callable[[Said], Floats]
"""What models say -> (m, n): how much of each record they seem to know."""
Fit = Callable[[Said, Said], Ratios]
"""References with, references without -> the ratios fitted on them."""


def today(high: Said, low: Said) -> Ratios:
    """The log-likelihood ratio of `contrast` (Carlini et al. 2022; variances drawn half-way)."""
    fitted = contrast.Likelihood.fit(high.phi, low.phi)
    return lambda said: fitted(said.phi)


def mean_score(_high: Said, _low: Said) -> Ratios:
    """The margin itself."""
    return lambda said: said.phi


def centred(inner: Fit) -> Fit:
    """A statistic of margins from which control records of the class are subtracted."""
    return _of(inner, lambda said: said.centred)


def fisher(high: Said, low: Said) -> Ratios:
    """Scores weighted by gap / variance of the record alone (Fisher 1936)."""
    gap = np.maximum(high.phi.mean(axis=0) - low.phi.mean(axis=0), 0)
    weight = gap / (high.phi.var(axis=0, ddof=1) + low.phi.var(axis=0, ddof=1) + 1e-9)
    return lambda said: np.asarray(said.phi * weight, np.float64)


def normal_prior(high: Said, low: Said) -> Ratios:
    """Variances drawn to a prior whose strength the records themselves tell: BaVarIA-n (Brannvall
    2026, arXiv 2603.11799), fitted as in Smyth 2004."""
    gap, middle = _gap(high, low)
    variance, _ = posterior((_variance(high) + _variance(low)) / 2, len(high) + len(low) - 2)
    return lambda said: np.asarray(gap / variance * (said.phi - middle), np.float64)


def student_prior(high: Said, low: Said) -> Ratios:
    """The same prior integrated out, for each kind: ratio of two densities of Student's t
    (BaVarIA-t)."""
    from scipy import stats

    densities = []
    for kind in (high, low):
        variance, strength = posterior(_variance(kind), len(kind) - 1)
        scale = np.sqrt(variance * (1 + 1 / len(kind)))
        densities.append(stats.t(strength + len(kind) - 1, kind.phi.mean(axis=0), scale))
    return lambda said: np.asarray(
        densities[0].logpdf(said.phi) - densities[1].logpdf(said.phi), np.float64
    )


def gap_prior(high: Said, low: Said) -> Ratios:
    """The gap of a record drawn to what records of its level and variance have (empirical Bayes,
    Efron and Morris 1973), and variances as in `normal_prior`."""
    _, middle = _gap(high, low)
    raw = high.phi.mean(axis=0) - low.phi.mean(axis=0)
    variance, _ = posterior((_variance(high) + _variance(low)) / 2, len(high) + len(low) - 2)
    error = variance * (1 / len(high) + 1 / len(low))
    level, spread = _standard(middle), _standard(np.log(variance))
    table = np.stack([np.ones_like(level), level, level**2, spread], axis=1)
    weight = 1 / (error + error.mean())
    normal = table.T @ (weight[:, None] * table) + 1e-6 * np.eye(table.shape[1])
    expected = table @ np.linalg.solve(normal, table.T @ (weight * raw))
    beyond = np.average((raw - expected) ** 2 - error, weights=weight)
    own = max(float(beyond), 0.0) / (max(float(beyond), 0.0) + error)
    gap = np.maximum(expected + own * (raw - expected), 0)
    return lambda said: np.asarray(gap / variance * (said.phi - middle), np.float64)


def bounded(high: Said, low: Said) -> Ratios:
    """The bounded evidence of a pool (Huber 1965)."""
    return _phi_of(pool_evidence.RecordEvidence.fit(high.phi, low.phi))


def information(high: Said, low: Said) -> Ratios:
    """Log of the probability over its mean over references, less the mean of the same over control
    records: InfoRMIA (Tao and Shokri 2025, arXiv 2510.05582)."""

    def usual(of: Callable[[Said], Floats]) -> Floats:
        means = [np.exp(_log_p(of(kind))).mean(axis=0) for kind in (high, low)]
        return np.asarray(np.log((means[0] + means[1]) / 2), np.float64)

    own, others = usual(lambda said: said.phi), usual(lambda said: said.controls)

    def gain(said: Said) -> Floats:
        baseline = (_log_p(said.controls) - others).mean(axis=1, keepdims=True)
        return np.asarray(_log_p(said.phi) - own - baseline, np.float64)

    return gain


def interpolated(high: Said, low: Said) -> Ratios:
    """Weighted mean of distribution functions at steps between not knowing and knowing: IAM (Wang
    et al. 2025, arXiv 2506.06112), with references in the place of one original."""
    from scipy.special import ndtr

    gap, _ = _gap(high, low)
    base, spread = low.phi.mean(axis=0), np.sqrt((_variance(high) + _variance(low)) / 2 + LEAST)
    steps = np.linspace(0, 1, STEPS)

    def position(said: Said) -> Floats:
        total = sum(
            step * ndtr((said.phi - base - before * gap) / spread)
            for before, step in pairwise(steps)
        )
        return np.asarray(total / steps.sum(), np.float64)

    return position


def traced(_high: Said, _low: Said) -> Ratios:
    """Scores weighted by how much the record's loss moved in training: LT-IQR (Pollock et al. 2024,
    arXiv 2411.05743)."""
    return lambda said: np.asarray(said.trace * said.phi, np.float64)


def correlated(high: Said, low: Said) -> Ratios:
    """Fisher's discriminant over the records, their correlations shrunken to none (Schafer and
    Strimmer 2005)."""
    gap, middle = _gap(high, low)
    variance = _halfway((_variance(high) + _variance(low)) / 2)
    scaled = _apart([kind.phi for kind in (high, low)]) / np.sqrt(variance)
    count = len(scaled)
    products = scaled[:, :, None] * scaled[:, None, :]
    found = products.sum(axis=0) / (count - 2)
    off = ~np.eye(len(gap), dtype=bool)
    error = products.var(axis=0, ddof=1)[off].sum() / count
    share = min(1.0, float(error / (found[off] ** 2).sum()))
    matrix = np.where(off, (1 - share) * found, 1.0)
    weight = np.linalg.solve(matrix, gap / np.sqrt(variance)) / np.sqrt(variance)
    return lambda said: np.asarray(weight * (said.phi - middle), np.float64)


def controlled(inner: Fit) -> Fit:
    """What control people's scores tell of a record's is regressed out of it first (control
    variates), with the three principal components of `pool_evidence`."""

    def fit(high: Said, low: Said) -> Ratios:
        both = np.concatenate([high.controls, low.controls])
        mean = both.mean(axis=0)
        _, _, axes = np.linalg.svd(both - mean, full_matrices=False)
        spread = ((both - mean) @ axes[:AXES].T).std(axis=0)

        def covariates(said: Said) -> Floats:
            return np.asarray((said.controls - mean) @ axes[:AXES].T / spread, np.float64)

        x = _apart([covariates(kind) for kind in (high, low)])
        y = _apart([kind.phi for kind in (high, low)])
        slope = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(AXES), x.T @ y)
        return _of(inner, lambda said: said.phi - covariates(said) @ slope)(high, low)

    return fit


def neighbours(inner: Fit) -> Fit:
    """The most similar control records' scores are subtracted, by one slope for all records."""

    def fit(high: Said, low: Said) -> Ratios:
        x = _apart([kind.near for kind in (high, low)])
        y = _apart([kind.phi for kind in (high, low)])
        slope = float((x * y).sum() / (x * x).sum())
        return _of(inner, lambda said: said.phi - slope * said.near)(high, low)

    return fit


def with_copies(high: Said, low: Said) -> Ratios:
    """The ratio of a record's margin and of its changed copies' mean margin together, normal with
    one covariance; the correlation of the two is the same for all records."""

    def table(said: Said) -> Floats:
        return np.stack([said.phi, said.copies], axis=2)

    above, below = table(high), table(low)
    means = above.mean(axis=0), below.mean(axis=0)
    variance = (above.var(axis=0, ddof=1) + below.var(axis=0, ddof=1)) / 2
    spread = np.sqrt(HALF * variance + (1 - HALF) * variance.mean(axis=0) + LEAST)
    apart = (_apart([above, below]) / spread).reshape(-1, 2)
    share = (1 - SHRINKAGE) * float(np.corrcoef(apart.T)[0, 1])
    inverse = np.linalg.inv(np.array([[1, share], [share, 1]]))
    weight = np.maximum(means[0] - means[1], 0) / spread @ inverse / spread
    middle = (means[0] + means[1]) / 2
    return lambda said: np.einsum("mnq,nq->mn", table(said) - middle, weight)


def together(inner: Fit, *scores: Callable[[Said], Floats]) -> Fit:
    """Several scores of a record put into one by the discriminant that all records share, then the
    ratio of each record.

    Args:
        inner: takes the score.
        scores: what models say -> (m, n) or (m, n, q).
    """

    def table(said: Said) -> Floats:
        return np.concatenate([np.atleast_3d(of(said)) for of in scores], axis=2)

    def fit(high: Said, low: Said) -> Ratios:
        variance = _halfway((_variance(high) + _variance(low)) / 2)
        kinds = [table(high), table(low)]
        means = [kind.mean(axis=0) for kind in kinds]
        residuals = _apart(kinds)
        scaled = (residuals / np.sqrt(variance)[:, None]).reshape(-1, residuals.shape[2])
        spread = np.sqrt((scaled**2).mean(axis=0)) + LEAST
        weight = contrast.Likelihood.fit(high.phi, low.phi).slope / np.sqrt(variance)
        gap = weight @ (means[0] - means[1]) / spread
        matrix = scaled.T @ scaled / len(scaled) / np.outer(spread, spread)
        matrix = (1 - SHRINKAGE) * matrix + SHRINKAGE * np.eye(len(matrix))
        direction = np.linalg.solve(matrix, gap) / spread
        return _of(inner, lambda said: table(said) @ direction)(high, low)

    return fit


def _of(inner: Fit, score: Callable[[Said], Floats]) -> Fit:
    """A statistic of another score than the margin."""

    def other(said: Said) -> Said:
        return replace(said, phi=np.asarray(score(said), np.float64))

    def fit(high: Said, low: Said) -> Ratios:
        fitted = inner(other(high), other(low))
        return lambda said: fitted(other(said))

    return fit


def _phi_of(ratios: Callable[[Floats], Floats]) -> Ratios:
    return lambda said: ratios(said.phi)


def _apart(kinds: list[Floats]) -> Floats:
    """Deviations of models of each kind from their kind's mean, one kind after the other."""
    return np.concatenate([kind - kind.mean(axis=0) for kind in kinds])


def _gap(high: Said, low: Said) -> tuple[Floats, Floats]:
    """Gap of each record, at least 0, and the middle."""
    above, below = high.phi.mean(axis=0), low.phi.mean(axis=0)
    return np.maximum(above - below, 0), (above + below) / 2


def _variance(kind: Said) -> Floats:
    return np.asarray(kind.phi.var(axis=0, ddof=1), np.float64)


def _halfway(variance: Floats) -> Floats:
    return np.asarray(HALF * variance + (1 - HALF) * variance.mean() + LEAST, np.float64)


def _standard(values: Floats) -> Floats:
    spread = float(values.std())
    return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0), np.float64)


def _log_p(phi: Floats) -> Floats:
    return np.asarray(-np.logaddexp(0, -phi), np.float64)


def posterior(variance: Floats, degrees: int) -> tuple[Floats, float]:
    """Variances drawn to an inverse-gamma prior, and the prior's degrees of freedom.

    Mean and variance of the logarithms tell the prior (Smyth 2004, section 6.2).

    Args:
        variance: (n,) of the records, each with the same degrees of freedom.
        degrees: of freedom.
    """
    from scipy import optimize
    from scipy.special import digamma, polygamma

    logs = np.log(variance + LEAST) - digamma(degrees / 2) + np.log(degrees / 2)
    beyond = float(logs.var(ddof=1) - polygamma(1, degrees / 2)) if len(logs) > 1 else 0.0
    most = 1e4
    if beyond <= polygamma(1, most):
        return np.full_like(variance, np.exp(logs.mean())), 2 * most
    half = optimize.brentq(lambda x: polygamma(1, x) - beyond, 1e-3, most)
    prior = np.exp(logs.mean() + digamma(half) - np.log(half))
    drawn = (2 * half * prior + degrees * variance) / (2 * half + degrees)
    return np.asarray(drawn, np.float64), 2 * float(half)


@dataclass(frozen=True)
class Statistic:
    """A statistic that is compared."""

    fit: Fit
    source: str = ""
    most: Callable[[float], contrast.Aggregate] = contrast.memorised
    """what gate B makes of the ratios, by the share of the records that it looks at"""


STATISTICS: dict[str, Statistic] = {
    "mean score": Statistic(mean_score),
    "mean score, centred by controls of the class": Statistic(centred(mean_score)),
    "weighted by gap / variance, centred": Statistic(centred(fisher), "Fisher 1936"),
    "mean log-likelihood ratio, centred": Statistic(centred(today)),
    "mean log-likelihood ratio (as it is done)": Statistic(today, "Carlini et al. 2022"),
    "log-likelihood ratio, gate B by the mean ratio": Statistic(today, "", pool_evidence.highest),
    "ratios bounded, gate B by their mean": Statistic(
        bounded, "Huber 1965, as for a pool", pool_evidence.highest
    ),
    "variances drawn to a fitted prior": Statistic(normal_prior, "BaVarIA-n, arXiv 2603.11799"),
    "variances drawn to a fitted prior, Student's t": Statistic(
        student_prior, "BaVarIA-t, arXiv 2603.11799"
    ),
    "gaps and variances drawn to fitted priors": Statistic(gap_prior, "Efron and Morris 1973"),
    "information gained over controls": Statistic(information, "InfoRMIA, arXiv 2510.05582"),
    "place between not knowing and knowing": Statistic(interpolated, "IAM, arXiv 2506.06112"),
    "weighted by the loss trace in training": Statistic(traced, "LT-IQR, arXiv 2411.05743"),
    "correlations of records, shrunken": Statistic(correlated, "Schäfer and Strimmer 2005"),
    "controls' components regressed out": Statistic(controlled(today), "control variates"),
    "nearest control records subtracted": Statistic(neighbours(today), "control variates"),
    "ratio of the margin and of changed copies": Statistic(with_copies),
    "with all logits": Statistic(
        together(today, lambda said: said.phi, lambda said: said.logits), "discriminant of all"
    ),
    "with the length of the features": Statistic(
        together(today, lambda said: said.phi, lambda said: said.norms), "discriminant of both"
    ),
}
"""By name."""
