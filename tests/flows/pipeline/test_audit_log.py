"""Every audit of a request is filed, and whoever audits it again finds all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import audit_log, close_batch
from flows.workspace import shell
from tasks.common import settings
from tasks.common.errors import WorkspaceError

REQUEST = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DATA = "0" * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "workspace"
    (home / "requests").mkdir(parents=True)
    shell.git(home, "init", "--quiet")
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    for batch in ("first", "second"):
        entries = [{"subject_request_id": REQUEST}]
        (home / "requests" / f"{batch}.json").write_text(json.dumps(entries))
    return home


def chosen(batch: str, seed: int = 0) -> settings.Settings:
    return settings.Settings(batch=batch, seed=seed)


def audit(home: Path, batch: str, outcome: str, seed: int = 0) -> None:
    """Leave the evidence that an audit leaves."""
    used = chosen(batch, seed)
    evidence: dict[str, Any] = {
        "status": "audited",
        "batch": batch,
        "request": {"id": REQUEST},
        "outcome": outcome,
        "residual_influence": {"estimate": 0.1, "low": -0.1, "high": 0.3},
        "unlearn": {"method": used.unlearn.method},
        "thresholds": {"alpha": used.verify.alpha},
        "data": {"data_md5": DATA},
        "provenance": {
            "started": "2026-11-21T01:02:03Z",
            "settings": used.model_dump(mode="json"),
            "settings_changed": {"seed": seed, "report.controller": "Clinic"},
        },
    }
    file = home / "reports" / batch / REQUEST / "evidence.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(evidence))
    audit_log.append(home, batch)


def outcomes(home: Path, batch: str, seed: int = 0) -> list[str]:
    audits = audit_log.earlier(home, chosen(batch, seed), DATA).get(REQUEST, [])
    return [entry["outcome"] for entry in audits]


def test_repeating_with_other_seeds_until_it_passes_is_counted(home: Path) -> None:
    for seed, outcome in enumerate(["fail", "inconclusive", "pass"]):
        audit(home, "first", outcome, seed)
    assert outcomes(home, "first", seed=3) == ["fail", "inconclusive", "pass"]
    assert outcomes(home, "second") == ["fail", "inconclusive", "pass"]


def test_the_same_audit_again_is_no_further_one(home: Path) -> None:
    audit(home, "first", "fail")
    audit(home, "first", "fail")
    assert outcomes(home, "first") == []  # it is the one that is at work
    assert outcomes(home, "second") == ["fail"]


def test_what_changes_no_verdict_makes_no_other_audit(home: Path) -> None:
    audit(home, "first", "fail")
    entry = json.loads((home / "ledger/audits/first.json").read_text())[REQUEST][0]
    assert entry["settings_changed"] == {"seed": 0}
    named = settings.Settings(batch="first")
    report = named.report.model_copy(update={"controller": "Clinic"})
    again = named.model_copy(update={"report": report})
    assert audit_log.earlier(home, again, DATA) == {}


def test_an_audit_that_was_rejected_on_its_own_branch_counts(home: Path) -> None:
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "start")
    audit(home, "first", "fail")
    close_batch.close(home, "first")
    shell.git(home, "reset", "--quiet", "--hard", "HEAD~1")
    assert not (home / "ledger").exists()
    assert outcomes(home, "second") == ["fail"]


def test_a_closed_batch_is_known_and_another_state_is_refused_before_anything_changes(
    home: Path,
) -> None:
    assert not close_batch.is_closed(home, "first")
    close_batch.close(home, "first")
    assert close_batch.is_closed(home, "first")
    (home / "requests" / "first.json").write_text("[]")
    before = shell.git(home, "status", "--porcelain")
    with pytest.raises(WorkspaceError, match="a closed batch is not changed"):
        close_batch.is_closed(home, "first")
    assert shell.git(home, "status", "--porcelain") == before


def test_later_audits_do_not_change_a_closed_batch(home: Path) -> None:
    audit(home, "first", "pass")
    close_batch.close(home, "first")
    audit_log_file = home / "ledger/audits/first.json"
    audit_log_file.write_text(audit_log_file.read_text() + "\n")
    assert close_batch.is_closed(home, "first")
