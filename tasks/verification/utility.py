"""The utility of a model: its accuracy by group and the distribution of its answers, compared with
retrained models.

A pure core: the table of scores in, numbers out. Two retrained models differ as well, so one of
them is a poor yardstick. Everything is compared with the band of all retrained models: the baseline
and the references trained without the forget set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.verification.multiplicity import holm
from tasks.verification.scoring import Floats, Scores

RETRAINED = ("retrained", "without")
"""Roles of the models of the band: the retrain baseline and the references trained without the
forget set."""


def accuracies(scores: Scores, forget: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Accuracy, a share, on the request's records, the retain set and unseen people (control and
    test subjects).

    Rows: original, unlearned, retrained (the baseline), and the lowest and highest of all retrained
    models; the last three only where there are retrained models, which a screening has not.

    Args:
        scores: all scores of the audit.
        forget: (n,) the request's records.
    """
    unknown = np.full(len(scores.model_roles), np.nan)
    shares = {
        "forget": scores.correct[:, forget].mean(axis=1),
        "retain": scores.accuracy.get("retained", unknown),
        "control": scores.accuracy.get("unseen", unknown),
    }
    retrained = np.isin(scores.model_roles, RETRAINED)
    table = {
        role: {name: float(share[scores.model_roles == role][0]) for name, share in shares.items()}
        for role in ("original", "unlearned", "retrained")
        if (scores.model_roles == role).any()
    }
    if retrained.any():
        table["retrained_low"] = {
            name: float(share[retrained].min()) for name, share in shares.items()
        }
        table["retrained_high"] = {
            name: float(share[retrained].max()) for name, share in shares.items()
        }
    return table


def distributions(scores: Scores, forget: NDArray[np.bool_]) -> dict[str, Any]:
    """How often each class is predicted on the request's records, and how unusual that is.

    Retrained models differ among themselves too: the distance of a model is unusual only where it
    lies outside the band, the distances of each retrained model from the mean of all others.

    Args:
        scores: all scores of the audit.
        forget: (n,) the request's records.

    Returns:
        `labels`: the classes. By class, as shares of the records: `original`, `unlearned`,
        `retrained` (mean of all retrained models), `retrained_low` and `retrained_high` (lowest and
        highest of them); the last three are None without retrained models. `distance`: the total
        variation, half the sum of absolute differences, 0 … 1, from the retrained models' mean, of
        `original` and `unlearned`, and its `band` [lowest, highest] over the retrained models; None
        where there are fewer than two of them.

    Raises:
        EvidenceError: the request has no record.
    """
    if not forget.any():
        raise EvidenceError(say("got a request without a record, expected its forget set"))
    classes = int(max(scores.labels.max(), scores.predicted.max())) + 1
    counts = np.stack([np.bincount(row, minlength=classes) for row in scores.predicted[:, forget]])
    shares = counts / counts.sum(axis=1, keepdims=True)
    rows = {role: shares[scores.model_roles == role][0] for role in ("original", "unlearned")}
    retrained = shares[np.isin(scores.model_roles, RETRAINED)]
    any_retrained = len(retrained) > 0
    return {
        "labels": list(range(classes)),
        **{role: row.tolist() for role, row in rows.items()},
        "retrained": retrained.mean(axis=0).tolist() if any_retrained else None,
        "retrained_low": retrained.min(axis=0).tolist() if any_retrained else None,
        "retrained_high": retrained.max(axis=0).tolist() if any_retrained else None,
        "distance": _distance(rows, retrained) if len(retrained) > 1 else None,
    }


def _distance(rows: Mapping[str, Floats], retrained: Floats) -> dict[str, Any]:
    mean = retrained.mean(axis=0)
    others = (retrained.sum(axis=0) - retrained) / (len(retrained) - 1)
    apart = _variation(retrained, others)
    return {
        **{role: float(_variation(row, mean)) for role, row in rows.items()},
        "band": [float(apart.min()), float(apart.max())],
    }


def _variation(p: Floats, q: Floats) -> Floats:
    """Total variation between distributions (..., classes), 0: equal, 1: nothing in common."""
    return np.asarray(np.abs(p - q).sum(axis=-1) / 2, np.float64)


def score_distribution(scores: Scores, forget: NDArray[np.bool_], bins: int = 16) -> dict[str, Any]:
    """How confident the models are of the right class of the request's records; it identifies no
    record.

    Args:
        scores: all scores of the audit.
        forget: (n,) the request's records.
        bins: number of intervals of equal width that all scores are counted in.

    Returns:
        `edges`: (bins + 1,) of the intervals, log-odds in nats. `original`, `unlearned` and
        `retrained` (all retrained models together; None without any): (bins,) shares of the
        records. `median`: the middle score of each, and its `band` [lowest, highest] over the
        retrained models.

    Raises:
        EvidenceError: the request has no record, or a score is NaN or infinite.
    """
    phi = scores.phi[:, forget]
    roles = {role: phi[scores.model_roles == role] for role in ("original", "unlearned")}
    retrained = phi[np.isin(scores.model_roles, RETRAINED)]
    shown = np.concatenate([*roles.values(), retrained])
    if not shown.size or not np.isfinite(shown).all():
        raise EvidenceError(
            say(
                "got {scores} scores, {broken} of them NaN or infinite, expected finite ones; "
                "train the models anew",
                scores=shown.size,
                broken=(~np.isfinite(shown)).sum(),
            )
        )
    edges = np.histogram_bin_edges(shown, bins)
    any_retrained = len(retrained) > 0
    middles = np.median(retrained, axis=1) if any_retrained else np.empty(0)

    def shares(values: Floats) -> list[float]:
        return [float(count) / values.size for count in np.histogram(values, edges)[0]]

    return {
        "edges": edges.tolist(),
        **{role: shares(values) for role, values in roles.items()},
        "retrained": shares(retrained) if any_retrained else None,
        "median": {
            **{role: float(np.median(values)) for role, values in roles.items()},
            "retrained": float(np.median(retrained)) if any_retrained else None,
            "band": [float(middles.min()), float(middles.max())] if any_retrained else None,
        },
    }


def by_group(scores: Scores, alpha: float) -> list[dict[str, Any]]:
    """Accuracy on unseen people (control and test subjects) by class and by every value of every
    attribute.

    A model that is as good as retrained ones on the whole can be worse for one group. Each group is
    tested against the retrained models by `p_lower`, and Holm's procedure over all groups of all
    columns keeps the probability of any false alarm below alpha.

    Args:
        scores: all scores of the audit.
        alpha: probability of any false alarm, if the model is as good as a retrained one in every
            group.

    Returns:
        A row per group: `column` (`class` or the attribute), `value`, `records` and `subjects` in
            it; accuracy, a
        share, of `original` and `unlearned` and the retrained models' `retrained_mean`,
        `retrained_low` and `retrained_high`; `p_worse`, the probability of an accuracy as low as
        the unlearned model's if it were a retrained one, and whether it is `worse`. Classes first,
        then the attributes in their order; a group that no unseen person is in is absent, and an
        empty value is no group.

    Raises:
        EvidenceError: there are fewer than two retrained models.
    """
    retrained = np.isin(scores.model_roles, RETRAINED)
    if retrained.sum() < 2:
        raise EvidenceError(
            say(
                "got {count} retrained models, expected at least 2, whose spread is the "
                "yardstick; add blocks to "
                "references.without_blocks",
                count=retrained.sum(),
            )
        )
    rows: list[dict[str, Any]] = []
    for column, value, members in _groups(scores, scores.unseen):
        shares = scores.correct[:, members].mean(axis=1)
        band, unlearned = shares[retrained], float(shares[scores.model_roles == "unlearned"][0])
        count = int(members.sum())
        rows.append(
            {
                "column": column,
                "value": value,
                "records": count,
                "subjects": len(np.unique(scores.subjects[members])),
                "original": float(shares[scores.model_roles == "original"][0]),
                "unlearned": unlearned,
                "retrained_mean": float(band.mean()),
                "retrained_low": float(band.min()),
                "retrained_high": float(band.max()),
                "p_worse": p_lower(unlearned, band, count),
            }
        )
    worse = holm([row["p_worse"] for row in rows], alpha)
    return [{**row, "worse": is_worse} for row, is_worse in zip(rows, worse, strict=True)]


def _groups(scores: Scores, among: NDArray[np.bool_]) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Column, value and (n,) members of each group that has a record among the ones given."""
    columns = [
        ("class", label, scores.labels == label) for label in np.unique(scores.labels[among])
    ]
    for index, name in enumerate(scores.attribute_names):
        values = scores.attributes[:, index]
        columns += [
            (str(name), value, values == value) for value in np.unique(values[among]) if value
        ]
    return [(column, str(value), members & among) for column, value, members in columns]


def p_lower(accuracy: float, retrained: Floats, records: int) -> float:
    """One-sided p of "as accurate as one more retrained model", small where the accuracy is lower.

    Student's t of a new observation,

        t = (mean - accuracy - 1 / (2 n)) / (s sqrt(1 + 1/M)),   M - 1 degrees of freedom,

    1 / (2 n) for continuity and s the standard deviation between the M retrained models, but never
    below 1 / n, one record. Accuracies are whole records: in a small group all retrained models can
    agree by luck, and s = 0 would make a single further error certain evidence. With the floor one
    error is none (p about 0.3), and it takes four or five where retrained models made none until
    Holm's procedure over a dozen groups notices. Simulated with records of different difficulty, 14
    or 28 groups of 5 to 250 records and 4 to 40 retrained models, any false alarm at 0.05 has a
    rate of 0.00 to 0.04; without the half record 0.00 to 0.08, and without the floor 0.04 to 0.4.
    The binomial standard error of one model is no better floor: models fail on the same hard
    records, so they differ by less and it would hide losses, and it is 0 just where none failed.

    Args:
        accuracy: of the model judged, a share of the records.
        retrained: (M,) of the retrained models, M >= 2.
        records: number of records n of the group.
    """
    from scipy import special

    count = len(retrained)
    spread = max(float(retrained.std(ddof=1)), 1 / records) * math.sqrt(1 + 1 / count)
    return float(
        special.stdtr(count - 1, -(float(retrained.mean()) - accuracy - 0.5 / records) / spread)
    )


def control_loss(scores: Scores, alpha: float) -> dict[str, float]:
    """Accuracy on unseen people (control and test subjects) that the released model lost against
    retrained models.

    Student's t of a new observation, as in `gates.utility_gate`, whose spread between the M
    retrained references has a floor of one record in a thousand:

        loss = mean - accuracy,   interval loss -+ t(1 - alpha, M - 1) s sqrt(1 + 1/M).

    A perfect retrain's loss lies above `low` = 0 with probability alpha only.

    Args:
        scores: all scores of the audit.
        alpha: error rate of each end.

    Returns:
        `estimate`, `low`, `high`, shares, negative where the released model is better;
        `confidence`, 1 - 2 alpha.

    Raises:
        EvidenceError: there are fewer than two references without the forget set, or nobody is
            unseen.
    """
    from scipy import stats

    without = scores.model_roles == "without"
    if without.sum() < 2 or not scores.unseen.any():
        raise EvidenceError(
            f"got {without.sum()} references without the forget set and {scores.unseen.sum()} "
            "records of unseen "
            "people, expected at least 2 and 1; add blocks to references.without_blocks"
        )
    shares = (scores.predicted == scores.labels)[:, scores.unseen].mean(axis=1)
    band = shares[without]
    loss = float(band.mean() - shares[scores.model_roles == "unlearned"][0])
    spread = max(float(band.std(ddof=1)), 1e-3) * math.sqrt(1 + 1 / len(band))
    half = float(stats.t.isf(alpha, len(band) - 1)) * spread
    return {"estimate": loss, "low": loss - half, "high": loss + half, "confidence": 1 - 2 * alpha}
