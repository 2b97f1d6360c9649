from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tasks.common.errors import EvidenceError
from tasks.verification import utility
from tasks.verification.scoring import Scores

ALPHA = 0.05


def world(rng: np.random.Generator, references: int = 12, ease: float = 3.0) -> Scores:
    """Models that are all alike but for chance, on records of different difficulty.

    60 forget, 240 retained, 400 control and 100 test records; 4 classes; attributes sex (f, m) and
    site (a, b, c or unknown); 10 records a subject.
    """
    roles = np.repeat(["training", "training", "control", "test"], [60, 240, 400, 100])
    count = len(roles)
    requests = np.repeat(["r", ""], [60, count - 60])
    kinds = np.array(
        ["original", "unlearned", "retrained", *["with"] * 3, *["without"] * references]
    )
    labels = rng.integers(0, 4, count)
    known = 1 / (1 + np.exp(-rng.normal(ease, 2, count)))
    right = rng.random((len(kinds), count)) < known
    wrong = (labels + rng.integers(1, 4, (len(kinds), count))) % 4
    subjects = np.arange(count) // 10
    sex, site = np.where(subjects % 2 == 0, "f", "m"), np.array(["a", "b", "c", ""])[subjects % 4]
    attributes = np.where(requests[:, None] == "r", "", np.stack([sex, site], axis=1))
    return Scores(
        kinds,
        rng.normal(size=(len(kinds), count)),
        np.where(right, labels, wrong),
        labels,
        roles,
        requests,
        subjects,
        np.array(["sex", "site"]),
        attributes,
    )


def with_loss(
    scores: Scores, rows: np.ndarray[Any, np.dtype[np.bool_]], share: float, seed: int = 1
) -> Scores:
    """The unlearned model answers a share of some records wrongly."""
    predicted = scores.predicted.copy()
    lost = rows & (np.random.default_rng(seed).random(len(rows)) < share)
    predicted[scores.model_roles == "unlearned", lost] = (scores.labels[lost] + 1) % 4
    return replace(scores, predicted=predicted)


def found(scores: Scores) -> set[tuple[str, str]]:
    return {
        (row["column"], row["value"]) for row in utility.by_group(scores, ALPHA) if row["worse"]
    }


def test_groups_are_what_a_slow_loop_finds() -> None:
    scores = world(np.random.default_rng(0))
    rows = {(row["column"], row["value"]): row for row in utility.by_group(scores, ALPHA)}
    expected = [("class", str(label)) for label in range(4)]
    expected += [("sex", "f"), ("sex", "m"), ("site", "a"), ("site", "b"), ("site", "c")]
    assert list(rows) == expected
    names = scores.attribute_names.tolist()
    for (column, value), row in rows.items():
        members = []
        for record in range(len(scores.labels)):
            own = (
                str(scores.labels[record])
                if column == "class"
                else scores.attributes[record, names.index(column)]
            )
            if scores.roles[record] in ("control", "test") and own == value:
                members.append(record)
        shares: dict[str, list[float]] = {}
        for model, role in enumerate(scores.model_roles.tolist()):
            right = sum(
                scores.predicted[model, record] == scores.labels[record] for record in members
            )
            shares.setdefault("band" if role in ("retrained", "without") else role, []).append(
                right / len(members)
            )
        assert row["records"] == len(members)
        assert row["subjects"] == len({int(scores.subjects[record]) for record in members})
        assert [row["original"]] == pytest.approx(shares["original"])
        assert [row["unlearned"]] == pytest.approx(shares["unlearned"])
        band = shares["band"]
        assert row["retrained_mean"] == pytest.approx(sum(band) / len(band))
        assert (row["retrained_low"], row["retrained_high"]) == pytest.approx(
            (min(band), max(band))
        )
        assert row["p_worse"] == pytest.approx(
            utility.p_lower(row["unlearned"], np.array(band), len(members))
        )


def test_a_loss_in_one_group_is_found_and_named_and_no_other() -> None:
    scores = world(np.random.default_rng(0))
    assert found(scores) == set()
    of_2 = with_loss(
        scores, scores.unseen & (scores.labels == 2), 0.3
    )  # every sex and site has some records of it
    assert {value for column, value in found(of_2) if column == "class"} == {"2"}
    at_b = with_loss(scores, scores.unseen & (scores.attributes[:, 1] == "b"), 0.3)
    assert {value for column, value in found(at_b) if column == "site"} == {"b"}


def test_a_gain_is_no_loss_and_neither_are_errors_on_records_that_somebody_saw() -> None:
    scores = world(np.random.default_rng(0))
    perfect = scores.predicted.copy()
    perfect[scores.model_roles == "unlearned"] = scores.labels
    assert found(replace(scores, predicted=perfect)) == set()
    assert found(with_loss(scores, ~scores.unseen, 1.0)) == set()


@pytest.mark.parametrize("ease", [2.0, 4.0, 7.0])
def test_false_alarms_are_no_more_frequent_than_alpha(ease: float) -> None:
    runs = 120
    alarms = sum(bool(found(world(np.random.default_rng(seed), ease=ease))) for seed in range(runs))
    assert alarms <= stats.binom.ppf(0.999, runs, ALPHA)


@pytest.mark.parametrize("count", [5, 40, 400])
def test_where_all_retrained_models_agree_one_error_is_no_evidence_and_six_are(count: int) -> None:
    agreed = np.full(17, 1.0)
    p = [utility.p_lower(1 - errors / count, agreed, count) for errors in range(6)]
    assert p[0] > 0.5
    assert 0.1 < p[1] < 0.5
    assert p[5] < ALPHA / 20
    assert p == sorted(p, reverse=True)


def test_where_retrained_models_differ_p_is_students_prediction() -> None:
    band = np.array([0.80, 0.84, 0.86, 0.82, 0.88])
    mean, deviation = (
        float(np.mean(band)),
        math.sqrt(sum((x - np.mean(band)) ** 2 for x in band) / 4),
    )
    t = (mean - 0.75 - 0.5 / 1000) / (deviation * math.sqrt(1 + 1 / 5))
    assert utility.p_lower(0.75, band, 1000) == pytest.approx(stats.t.sf(t, 4))


def test_the_baseline_counts_among_the_retrained_models() -> None:
    scores = world(np.random.default_rng(0))
    swapped = scores.predicted.copy()
    first = int(np.flatnonzero(scores.model_roles == "without")[0])
    swapped[[2, first]] = swapped[[first, 2]]
    assert utility.by_group(replace(scores, predicted=swapped), ALPHA) == utility.by_group(
        scores, ALPHA
    )


def test_a_group_that_no_unseen_person_is_in_is_absent_and_an_empty_value_is_none() -> None:
    scores = world(np.random.default_rng(0))
    roles = np.where(scores.unseen & (scores.labels == 3), "calibration", scores.roles)
    groups = [
        (row["column"], row["value"])
        for row in utility.by_group(replace(scores, roles=roles), ALPHA)
    ]
    assert ("class", "3") not in groups
    assert ("class", "2") in groups
    assert all(value for _, value in groups)
    bare = replace(
        scores,
        attribute_names=np.array([], np.str_),
        attributes=np.empty((len(scores.labels), 0), np.str_),
    )
    assert {row["column"] for row in utility.by_group(bare, ALPHA)} == {"class"}
    assert (
        utility.by_group(replace(bare, roles=np.full(len(scores.labels), "training")), ALPHA) == []
    )


def test_one_retrained_model_is_no_yardstick() -> None:
    scores = world(np.random.default_rng(0), references=0)
    with pytest.raises(EvidenceError, match="at least 2"):
        utility.by_group(scores, ALPHA)
    table = utility.distributions(scores, scores.requests == "r")
    assert table["retrained"] == table["retrained_low"] == table["retrained_high"]
    assert table["distance"] is None


def test_a_screening_has_no_band_and_keeps_the_rest() -> None:
    scores = world(np.random.default_rng(0))
    alone = replace(
        scores,
        model_roles=scores.model_roles[:2],
        phi=scores.phi[:2],
        predicted=scores.predicted[:2],
    )
    forget = scores.requests == "r"
    whole, table = utility.accuracies(scores, forget), utility.accuracies(alone, forget)
    assert table == {role: whole[role] for role in ("original", "unlearned")}
    full, found = utility.distributions(scores, forget), utility.distributions(alone, forget)
    assert all(found[key] == full[key] for key in ("labels", "original", "unlearned"))
    assert all(
        found[key] is None for key in ("retrained", "retrained_low", "retrained_high", "distance")
    )


def test_distributions_are_what_a_slow_loop_finds() -> None:
    scores = world(np.random.default_rng(3), ease=1.0)
    forget = scores.requests == "r"
    table = utility.distributions(scores, forget)
    histograms: dict[str, list[list[float]]] = {}
    for model, role in enumerate(scores.model_roles.tolist()):
        answers = [int(scores.predicted[model, record]) for record in np.flatnonzero(forget)]
        histogram = [answers.count(label) / len(answers) for label in range(4)]
        histograms.setdefault("band" if role in ("retrained", "without") else role, []).append(
            histogram
        )
    band = histograms["band"]

    def mean(rows: list[list[float]]) -> list[float]:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def apart(p: list[float], q: list[float]) -> float:
        return sum(
            max(a - b, 0) for a, b in zip(p, q, strict=True)
        )  # total variation, the other way to write it

    assert table["labels"] == [0, 1, 2, 3]
    assert table["original"] == pytest.approx(histograms["original"][0])
    assert table["unlearned"] == pytest.approx(histograms["unlearned"][0])
    assert table["retrained"] == pytest.approx(mean(band))
    assert table["retrained_low"] == pytest.approx(
        [min(column) for column in zip(*band, strict=True)]
    )
    assert table["retrained_high"] == pytest.approx(
        [max(column) for column in zip(*band, strict=True)]
    )
    own = [apart(row, mean(band[:index] + band[index + 1 :])) for index, row in enumerate(band)]
    assert table["distance"]["band"] == pytest.approx([min(own), max(own)])
    for role in ("original", "unlearned"):
        assert table["distance"][role] == pytest.approx(apart(histograms[role][0], mean(band)))


def test_answers_pushed_to_one_class_lie_outside_the_band_and_a_retrained_models_inside() -> None:
    scores = world(np.random.default_rng(0))
    forget = scores.requests == "r"
    pushed = scores.predicted.copy()
    pushed[1, forget] = 0
    distance = utility.distributions(replace(scores, predicted=pushed), forget)["distance"]
    assert distance["unlearned"] > 2 * distance["band"][1]
    alike = scores.predicted.copy()
    alike[1] = alike[2]
    distance = utility.distributions(replace(scores, predicted=alike), forget)["distance"]
    assert distance["unlearned"] <= distance["band"][1]


def test_a_request_without_records_has_no_distribution() -> None:
    scores = world(np.random.default_rng(0))
    with pytest.raises(EvidenceError, match="without a record"):
        utility.distributions(scores, scores.requests == "another")


def test_accuracies_are_shares_of_right_answers_with_the_retrained_models_range() -> None:
    scores = world(np.random.default_rng(4))
    table = utility.accuracies(scores, scores.requests == "r")
    rows = {
        "forget": range(60),
        "retain": range(60, 300),
        "control": range(300, 800),
    }
    for name, members in rows.items():
        shares = [
            sum(scores.predicted[model, record] == scores.labels[record] for record in members)
            / len(members)
            for model in range(len(scores.model_roles))
        ]
        assert [
            table[role][name] for role in ("original", "unlearned", "retrained")
        ] == pytest.approx(shares[:3])
        band = [shares[2], *shares[6:]]
        assert table["retrained_low"][name] == pytest.approx(min(band))
        assert table["retrained_high"][name] == pytest.approx(max(band))
