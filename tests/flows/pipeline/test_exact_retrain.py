"""Which batches that a pool judges are retrained, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import time_machine

from flows.pipeline import exact_retrain
from tasks.common import files, settings

POOL = "references/pool"
ONE = ("references.without_blocks=[0]", "references.seeds_per_block=1")
NONE = ("references.without_blocks=[]", "references.seeds_per_block=1")


def chosen(retrain: str, mode: str = "pool", batch: str = "2026-11-20") -> settings.Settings:
    references: dict[str, Any] = {"mode": mode}
    if mode != "batch":
        references["with_from"] = POOL
    return settings.parse({"batch": batch, "references": references, "pool": {"retrain": retrain}})


def filed(home: Path, batch: str, started: str, *, retrained: bool = True) -> None:
    evidence = {
        "batch": batch,
        "models": [{"role": "unlearned"}, *([{"role": "retrained"}] if retrained else [])],
        "provenance": {
            "started": started,
            "settings": {"references": {"mode": "pool", "with_from": POOL}},
        },
    }
    path = home / "reports" / batch / "request" / "evidence.json"
    files.write_text(path, json.dumps(evidence))


@pytest.mark.parametrize("mode", ["batch", "hybrid"])
@pytest.mark.parametrize("retrain", ["on_demand", "monthly", "always"])
def test_only_batches_that_a_pool_judges_alone_are_concerned(
    tmp_path: Path, mode: str, retrain: str
) -> None:
    assert exact_retrain.wishes(tmp_path, chosen(retrain, mode)) == ()


def test_on_demand_the_settings_stay_as_they_are(tmp_path: Path) -> None:
    assert exact_retrain.wishes(tmp_path, chosen("on_demand")) == ()


@time_machine.travel("2026-11-20T02:00:00Z")
def test_always_every_batch_is_retrained_once(tmp_path: Path) -> None:
    filed(tmp_path, "2026-11-02", "2026-11-02T02:00:00Z")
    assert exact_retrain.wishes(tmp_path, chosen("always")) == ONE


@time_machine.travel("2026-11-20T02:00:00Z")
def test_monthly_the_first_batch_of_a_month_is_retrained(tmp_path: Path) -> None:
    filed(tmp_path, "2026-10-30", "2026-10-30T02:00:00Z")
    assert exact_retrain.wishes(tmp_path, chosen("monthly")) == ONE


@time_machine.travel("2026-11-20T02:00:00Z")
def test_monthly_later_batches_of_a_month_are_not(tmp_path: Path) -> None:
    filed(tmp_path, "2026-11-02", "2026-11-02T02:00:00Z")
    assert exact_retrain.wishes(tmp_path, chosen("monthly")) == NONE


@time_machine.travel("2026-11-20T02:00:00Z")
def test_a_batch_of_the_month_without_a_retrain_does_not_count(tmp_path: Path) -> None:
    filed(tmp_path, "2026-11-02", "2026-11-02T02:00:00Z", retrained=False)
    assert exact_retrain.wishes(tmp_path, chosen("monthly")) == ONE


@time_machine.travel("2026-11-20T02:00:00Z")
def test_a_batch_that_runs_again_keeps_its_own_retrain(tmp_path: Path) -> None:
    filed(tmp_path, "2026-11-20", "2026-11-20T02:00:00Z")
    assert exact_retrain.wishes(tmp_path, chosen("monthly")) == ONE


@time_machine.travel("2026-12-01T02:00:00Z")
def test_a_batch_belongs_to_the_month_in_which_it_began(tmp_path: Path) -> None:
    filed(tmp_path, "2026-11-02", "2026-11-02T02:00:00Z")
    record = tmp_path / "ledger" / "batches" / "2026-11-30.json"
    files.write_json(record, {"started": "2026-11-30T23:50:00Z"})
    assert exact_retrain.wishes(tmp_path, chosen("monthly", batch="2026-11-30")) == NONE
