"""What a workspace knows of its pool: exact retrains in the evidence, and the readiness page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.pools import judged_retrains, readiness
from flows.pools.readiness import Person, Readiness
from tasks.common import files
from tasks.pooling.renewal import Renewal

POOL = "references/pool"


def evidence(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "batch": "b",
        "models": [{"role": "unlearned"}, {"role": "retrained"}],
        "provenance": {
            "started": "2026-11-02T00:00:00Z",
            "settings": {"references": {"mode": "pool", "with_from": POOL}},
        },
        "influence_points": {"retrained": 0.2, "without": [-0.1, 0.0, 0.1, 0.0]},
        "self_check": {"retrain_cleared": True},
    }
    return {**found, **changes}


def filed(home: Path, **by_request: dict[str, Any]) -> Path:
    for request, content in by_request.items():
        path = home / "reports" / str(content["batch"]) / request / "evidence.json"
        files.write_text(path, json.dumps(content))
    return home


def test_exact_retrains_are_gathered_by_batch(tmp_path: Path) -> None:
    home = filed(tmp_path, one=evidence(), two=evidence(), three=evidence(batch="c"))
    found = judged_retrains.retrains(home, POOL, "2026-11-01T00:00:00Z")
    assert [(one.batch, len(one.rho), one.failed) for one in found] == [("b", 2, 0), ("c", 1, 0)]
    assert found[0].rho == (0.2, 0.2)
    assert found[0].z[0] > 2


def test_what_no_exact_retrain_of_this_pool_is_does_not_count(tmp_path: Path) -> None:
    settings = {"references": {"mode": "batch", "with_from": "artifacts/train"}}
    home = filed(
        tmp_path,
        held_out=evidence(models=[{"role": "unlearned"}]),
        batch=evidence(provenance={"started": "2026-11-02T00:00:00Z", "settings": settings}),
        unjudged=evidence(influence_points={"retrained": None, "without": []}),
    )
    assert judged_retrains.retrains(home, POOL, "2026-11-01T00:00:00Z") == []


def test_evidence_from_before_the_pool_is_of_another_pool(tmp_path: Path) -> None:
    home = filed(tmp_path, one=evidence())
    assert judged_retrains.retrains(home, POOL, "2026-11-03T00:00:00Z") == []


def test_a_retrain_that_failed_is_counted(tmp_path: Path) -> None:
    home = filed(tmp_path, one=evidence(self_check={"retrain_cleared": False}))
    assert judged_retrains.retrains(home, POOL, "")[0].failed == 1


def test_the_readiness_page_shows_everybody_by_pseudonym_and_escapes_values() -> None:
    people = [
        Person("hmac-1", 12, 2.0, None, False, None, None),
        Person("hmac-2", 12, 9.0, 0.4, True, 0, None),
    ]
    groups = {"site": {"<b>": {"people": 2, "verifiable": 1, "median_detectability": 5.5}}}
    text = readiness.page(
        Readiness(0.5, 72, people, groups), Renewal(True, 4, 0.3, 0.01, "retrains lie off")
    )
    assert "1 of 2 people can be verified at rho0 0.5 with 72 models." in text
    assert "Renew the pool: retrains lie off." in text
    assert "hmac-1" in text
    assert "&lt;b&gt;" in text
    assert "<script" not in text
