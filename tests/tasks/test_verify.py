"""The stage `verify`: every request gets an answer, whatever is wrong with another, and none is a
pass by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import verify
from tasks.common import files, settings
from tasks.common.errors import EvidenceError
from tasks.verification import batch_verdicts, multiplicity
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Scores
from tests.tasks.verification.test_verdicts import ANSWERS_ALONE, world


def run(tmp_path: Path, scores: Scores, *assignments: str) -> dict[str, Any]:
    scores.save(tmp_path / "scores.npz")
    files.write_text(tmp_path / "params.yaml", settings.defaults_yaml())
    fixed = ("verify.utility_margin=0.1", *ANSWERS_ALONE)
    settings.assign(tmp_path / "params.yaml", [*fixed, *assignments])
    verify.main(tmp_path / "scores.npz", tmp_path / "params.yaml", tmp_path / "out")
    written: dict[str, Any] = files.read_json(tmp_path / "out" / "verdicts.json")
    return written


def two_requests(released: float = 0.0, seed: int = 0) -> Scores:
    """The records of one person shared out to two requests, 12 each."""
    scores = world(released, np.random.default_rng(seed))
    requests = scores.requests.astype("<U4").copy()
    requests[:12], requests[12:24] = "r1", "r2"
    return replace(scores, requests=requests)


def test_every_request_gets_a_verdict_with_all_that_stands_beside_it(tmp_path: Path) -> None:
    path = run(tmp_path, two_requests())
    assert set(path["requests"]) == {"r1", "r2"}
    assert path["batch"]["exposure"]["subjects"] == 20
    assert {row["column"] for row in path["batch"]["groups"]} == {"class", "sex"}
    for verdict in path["requests"].values():
        assert [attack["name"] for attack in verdict["attacks"]] == [
            "lira_online",
            "lira_offline",
            "rmia",
            "population",
        ]
        assert set(verdict["prediction_distribution"]) >= {
            "retrained_low",
            "retrained_high",
            "distance",
        }
        assert verdict["assumptions"]["all"]["equal_p"] > 0
    metrics = files.read_json(tmp_path / "out" / "metrics.json")
    ends = ("requests_passed", "requests_failed", "requests_inconclusive")
    assert sum(metrics[end] for end in ends) == metrics["requests"] == 2


def test_a_score_that_is_nan_leaves_the_other_requests_their_verdict(tmp_path: Path) -> None:
    scores = two_requests()
    clean = run(tmp_path, scores)["requests"]
    scores.phi[4, 3] = np.nan
    path = run(tmp_path, scores)["requests"]
    assert path["r1"]["verdict"] == "inconclusive"
    assert "NaN" in path["r1"]["reason"]
    assert path["r1"]["gates"] == []
    assert not path["r1"]["register"]["holds"]
    assert path["r2"]["verdict"] == clean["r2"]["verdict"]
    assert path["r2"]["residual_influence"] == clean["r2"]["residual_influence"]


def test_a_class_without_control_subjects_is_named_and_the_others_are_judged(
    tmp_path: Path,
) -> None:
    scores = two_requests()
    labels = scores.labels.copy()
    labels[:12], labels[12:] = 0, 1 + labels[12:] % 3
    path = run(
        tmp_path, replace(scores, labels=labels, predicted=np.tile(labels, (len(scores.phi), 1)))
    )["requests"]
    assert path["r1"]["verdict"] == "inconclusive"
    assert "classes 0 have no record of a control subject" in path["r1"]["reason"]
    assert path["r2"]["gates"] != []


def test_too_few_references_are_named(tmp_path: Path) -> None:
    scores = world(0.0, np.random.default_rng(0), references=5)
    path = run(tmp_path, scores)["requests"]["r"]
    assert path["verdict"] == "inconclusive"
    assert "expected at least 6" in path["reason"]


def test_a_screening_needs_no_references_and_never_passes(tmp_path: Path) -> None:
    mode = ("verify.mode=screening", "references.without_blocks=[]")
    for released, expected in ((0.0, "inconclusive"), (1.0, "fail")):
        scores = world(released, np.random.default_rng(1))
        alone = np.isin(scores.model_roles, ("original", "unlearned"))
        scores = replace(
            scores,
            model_roles=scores.model_roles[alone],
            phi=scores.phi[alone],
            predicted=scores.predicted[alone],
        )
        phi = scores.phi.copy()
        phi[:, scores.retained] += 6.0  # who stays is known to the model
        path = run(tmp_path, replace(scores, phi=phi), *mode)["requests"]["r"]
        assert path["verdict"] == expected
        assert not path["register"]["holds"]
        assert path["accuracy"].get("retrained") is None


def test_a_retrain_that_passes_alone_may_not_hold_among_many(tmp_path: Path) -> None:
    table = {
        f"r{n}": {"p_pass": p, "verdict": "pass" if p < 0.05 else "fail"}
        for n, p in enumerate([0.04] + [1.0] * 9)
    }
    rules = GateRules(0.05, 0.5, 0.7, 0.05, 6)
    batch_verdicts.add_register(table, rules)
    assert table["r0"]["register"] == {"q_pass": pytest.approx(0.4), "holds": False}
    sure = {f"r{n}": {"p_pass": 0.001, "verdict": "pass"} for n in range(10)}
    batch_verdicts.add_register(sure, rules)
    assert all(verdict["register"]["holds"] for verdict in sure.values())


def test_false_discoveries_among_many_requests_stay_below_alpha() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        bad = rng.random(80)  # nothing was forgotten: p is uniform at the margin
        good = rng.random(20) ** 8
        q = np.array(multiplicity.false_discovery([*bad, *good]))
        passed = q < 0.05
        shares.append(passed[:80].sum() / max(1, passed.sum()))
    assert np.mean(shares) < 0.055


def test_scores_without_a_request_are_refused(tmp_path: Path) -> None:
    scores = world(0.0, np.random.default_rng(0))
    with pytest.raises(EvidenceError, match="no request's records"):
        run(tmp_path, replace(scores, requests=np.full(len(scores.labels), "")))
