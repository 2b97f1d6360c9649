"""The statistics that are compared, and the figures that are made of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import discriminants, sharpness
from benchmarks.discriminants import Said
from tasks.common.settings import Verify
from tasks.verification import contrast, gates
from tasks.verification.scoring import Floats

RECORDS, CONTROLS, CLASSES = 40, 60, 4
IN_USE = discriminants.STATISTICS["mean log-likelihood ratio (as it is done)"]


def said(models: int, known: float, seed: int) -> Said:
    """Made-up answers of models that know the person's records by so much (1: as trained on)."""
    random = np.random.default_rng(seed)
    records = np.random.default_rng(0)
    level, gap = records.normal(2, 1, RECORDS), records.uniform(0.2, 1.5, RECORDS)
    mood = random.normal(0, 0.05, (models, 1))
    phi = level + known * gap + mood + random.normal(0, 1, (models, RECORDS))
    logits = random.normal(0, 0.5, (models, RECORDS, CLASSES))
    logits[:, :, 0] += phi
    return Said(
        phi=phi,
        centred=phi - mood,
        controls=mood + random.normal(0, 1, (models, CONTROLS)),
        near=mood + random.normal(0, 1, (models, RECORDS)),
        trace=np.tile(gap, (models, 1)),
        copies=level + 0.5 * known * gap + mood + random.normal(0, 0.5, (models, RECORDS)),
        logits=logits,
        norms=random.normal(0, 1, (models, RECORDS)),
    )


@pytest.mark.parametrize("name", discriminants.STATISTICS)
def test_every_statistic_tells_models_apart_and_places_a_fresh_retrain(name: str) -> None:
    statistic = discriminants.STATISTICS[name]
    fresh = said(6, 0.0, 3)
    found = sharpness.measure(said(12, 1.0, 1), said(12, 0.0, 2), fresh, statistic, 0.7)
    assert found.detectabilities[0] > 1
    middle = (found.with_[0].mean() + found.without[0].mean()) / 2
    assert found.judged[0].mean() < middle


@pytest.mark.parametrize("name", discriminants.STATISTICS)
def test_no_reference_is_measured_by_a_fit_that_saw_it(name: str) -> None:
    statistic = discriminants.STATISTICS[name]
    high, low = said(5, 1.0, 1), said(5, 0.0, 2)
    alone = statistic.fit(high.without(2), low)(high.rows(slice(2, 3)))
    found = sharpness.measure(high, low, low.rows(slice(0, 0)), statistic, 0.7)
    assert found.with_[0][2] == pytest.approx(alone.mean(), rel=1e-9)


def test_the_statistic_in_use_is_the_contrast_of_the_verdict() -> None:
    high, low, judged = said(8, 1.0, 1), said(9, 0.0, 2), said(1, 0.2, 3)
    found = sharpness.measure(high, low, judged, IN_USE, 0.7)
    for index, aggregate in enumerate((contrast.overall, contrast.memorised(0.7))):
        expected = contrast.contrast(high.phi, low.phi, judged.phi[0], aggregate)
        np.testing.assert_allclose(found.with_[index], expected.with_)
        np.testing.assert_allclose(found.without[index], expected.without)
        assert found.judged[index, 0] == pytest.approx(expected.judged)


def test_a_model_passes_where_its_gates_a_b_and_c_are_good() -> None:
    high, low = said(16, 1.0, 1), said(16, 0.0, 2)
    judged = said(20, 0.2, 3)
    rules = Verify()
    found = sharpness.measure(high, low, judged, IN_USE, rules.memorised)
    expected = []
    for phi in judged.phi:
        whole, most = (
            contrast.contrast(high.phi, low.phi, phi, aggregate)
            for aggregate in (contrast.overall, contrast.memorised(rules.memorised))
        )
        asked = gates.influence_gates(
            gates.Measured(whole, most, centred=False),
            gates.GateRules(**rules.model_dump(exclude={"mode"})),
        )
        expected.append(all(gate.state == "good" for gate in asked))
    assert found.passes(rules) == expected
    assert 0 < sum(expected) < len(expected)


def test_a_model_of_which_too_little_was_kept_is_not_judged() -> None:
    high, low = said(6, 1.0, 1), said(6, 0.0, 2)
    missing = Said(**{**vars(said(2, 0.0, 3)), "copies": np.full((2, RECORDS), np.nan)})
    statistic = discriminants.STATISTICS["ratio of the margin and of changed copies"]
    assert sharpness.measure(high, low, missing, statistic, 0.7).passes(Verify()) == [None, None]


def test_the_prior_of_the_variances_is_found_from_the_records() -> None:
    random = np.random.default_rng(1)
    strength, scale, degrees = 10.0, 2.0, 20
    truth = strength * scale / random.chisquare(strength, 20_000)
    sample = truth * random.chisquare(degrees, truth.size) / degrees
    drawn, found = discriminants.posterior(sample, degrees)
    assert found == pytest.approx(strength, rel=0.1)
    np.testing.assert_allclose(
        drawn, (strength * scale + degrees * sample) / (strength + degrees), rtol=0.05
    )


def test_variances_that_differ_by_chance_alone_are_all_drawn_to_one() -> None:
    sample = np.random.default_rng(2).chisquare(20, 500) / 20
    drawn, strength = discriminants.posterior(np.repeat(sample.mean(), 500), 20)
    assert np.ptp(drawn) < 1e-12
    assert strength > 1000


def line(at_zero: float, slope: float) -> dict[int, list[float]]:
    return {count: [float((at_zero + slope / count) ** -0.5)] for count in (6, 8, 10, 16)}


def test_detectability_with_endless_references_is_where_the_line_ends() -> None:
    assert sharpness.endless(line(0.01, 0.1)) == pytest.approx(10)
    assert sharpness.endless(line(-0.001, 0.1)) is None


@pytest.mark.parametrize(("shared", "expected"), [(0.0, 1.0), (1.0, 1 + (RECORDS - 1) / 2)])
def test_records_that_vary_together_count_as_fewer(shared: float, expected: float) -> None:
    def alike(seed: int, gap: float) -> Said:
        random = np.random.default_rng(seed)
        phi: Floats = gap + random.normal(0, 1, (400, RECORDS))
        phi += shared * random.normal(0, 1, (400, 1))
        return Said(**{**vars(said(400, 0.0, 3)), "phi": phi})

    assert sharpness.dependence(alike(1, 1.0), alike(2, 0.0)) == pytest.approx(expected, rel=0.15)


def test_every_row_of_the_table_has_as_many_cells_as_its_head() -> None:
    name = "mean score"
    result = {
        "world": "digits",
        "requests": 2,
        "references": 6,
        "detectability": {name: [1.0, 2.0, 3.0]},
        "memorised": {name: 1.5},
        "passes": {"without": {name: [3, 4]}, "left_50": {name: [0, 0]}},
        "fewer": {6: 2.0},
        "endless": None,
        "dependence": 1.0,
        "command": "python -m benchmarks.sharpness",
    }
    rows = [line for line in sharpness.table(result).splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [7, 7, 7]
    assert rows[-1] == "| mean score |  | 2.0 (1.0 to 3.0) | 1.5 | 3 of 4 | – |"
