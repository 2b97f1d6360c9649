"""The report is about the model that was released, and says what the register knows."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting import build_evidence, pages
from tasks.reporting.batch_register import build, page_contents, schema, spreadsheet, stored
from tests.worlds import dummy, fabricated

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
APPROVED = {
    "at": "2026-11-23T08:00:00Z",
    "by": "Ada Okafor",
    "role": "officer",
    "decision": "approve",
    "comment": "",
}


def evidence_of(request: str, **changed: Any) -> dict[str, Any]:
    """The evidence of one fabricated request, with parts of the decisions or the record changed."""
    inputs = fabricated.inputs()
    for part, values in changed.items():
        inputs[part] = {**inputs[part], **values}
    built = build_evidence.build_all(fabricated.sources(inputs))
    return next(item for item in built if item["request"]["id"] == request)


def page_of(evidence: dict[str, Any], language: str = "en") -> str:
    html = pages.render(
        pages.environment(TEMPLATES, language),  # type: ignore[arg-type]
        "report.html.j2",
        {"e": evidence},
    )
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize("request_id", [fabricated.OPEN, fabricated.BELOW, fabricated.FAIL])
def test_a_released_retrain_heads_the_report_whatever_the_test_found(request_id: str) -> None:
    decided = {"approvals": [APPROVED], "released": "retrained"}
    evidence = evidence_of(request_id, decisions=decided)
    assert evidence["deleted_by_retraining"]
    assert evidence["advice"] == []
    page = page_of(evidence)
    assert "Deleted by retraining: the released model never saw the records" in page
    assert "As a supplement, the test of the model after unlearning" in page
    for other in ("Do not say that the model has forgotten", "Make sure that this was meant"):
        assert other not in page
    assert "已通过重新训练删除" in page_of(evidence, "zh")


def test_without_the_decision_the_verdict_heads_the_report() -> None:
    for decided in ({}, {"approvals": [APPROVED], "released": "unlearned"}):
        evidence = evidence_of(fabricated.OPEN, decisions=decided)
        assert not evidence["deleted_by_retraining"]
        assert "Inconclusive: the test could not decide" in page_of(evidence)


def test_a_refused_retrain_deleted_nothing() -> None:
    refused = {**APPROVED, "decision": "refuse"}
    decided = {"approvals": [refused], "released": "retrained"}
    evidence = evidence_of(fabricated.OPEN, decisions=decided)
    assert (evidence["released"], evidence["deleted_by_retraining"]) == (None, False)


def test_a_pass_beside_others_that_did_not_pass_says_that_it_cannot_be_released() -> None:
    evidence = evidence_of(fabricated.PASS)
    assert evidence["held_back_by"] == 4
    assert "Have the requests that passed put into a batch of their own" in page_of(evidence)
    assert evidence_of(fabricated.FAIL)["held_back_by"] == 0


def test_identity_check_and_extension_come_from_the_register() -> None:
    facts = {
        "identity": {"at": "2026-11-20T09:00:00Z", "by": "Ada Clerk", "how": "login and e-mail"},
        "extension": {
            "at": "2026-12-01T09:00:00Z",
            "by": "Ada Clerk",
            "reason": "many requests at once",
            "to": "2027-02-22",
        },
    }
    evidence = evidence_of(fabricated.PASS, decisions={"registered": {fabricated.PASS: facts}})
    assert evidence["deadline"]["date"] == "2027-02-22"
    page = page_of(evidence)
    assert "login and e-mail" in page
    assert "Not recorded." not in page
    assert "many requests at once" in page


def test_earlier_audits_are_listed_and_their_error_rates_add_up() -> None:
    earlier = {
        "batch": "2026-11-14",
        "started": "2026-11-14T01:02:03Z",
        "method": "fcalb_reset",
        "settings_changed": {"seed": 7},
        "alpha": 0.05,
        "outcome": "fail",
        "estimate": 0.9,
        "low": 0.7,
        "high": 1.1,
        "settings_sha256": "0" * 64,
    }
    audits = {fabricated.PASS: [earlier, {**earlier, "outcome": "inconclusive"}]}
    evidence = evidence_of(fabricated.PASS, record={"audits": audits})
    assert [audit["outcome"] for audit in evidence["earlier_audits"]] == ["fail", "inconclusive"]
    assert evidence["error_rate"] == pytest.approx(0.15)
    page = page_of(evidence)
    assert "This request was audited 2 times before" in page
    assert "passes wrongly is at most 15" in page
    assert evidence_of(fabricated.FAIL, record={"audits": audits})["error_rate"] == 0.05


def register_of(folder: Path, **changed: Any) -> schema.BatchRegister:
    """The register of the fabricated batch, with parts of the decisions or the record changed."""
    inputs = fabricated.inputs()
    for part, values in changed.items():
        inputs[part] = {**inputs[part], **values}
    built = build_evidence.build_all(fabricated.sources(inputs))
    names = [item["request"]["id"] for item in built]
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    return build.of(built, names, folder)


def text_of(template: str, view: dict[str, Any], language: str = "en") -> str:
    html = pages.render(
        pages.environment(TEMPLATES, language),  # type: ignore[arg-type]
        template,
        {**view, "suffix": ""},
    )
    html = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("\u00a0", " ").split())


def test_the_pages_of_a_batch_count_what_was_released_and_say_that_it_is_decided(
    tmp_path: Path,
) -> None:
    decided = {"approvals": [APPROVED], "released": "retrained"}
    register = register_of(tmp_path, decisions=decided)
    lines = {line.request_id: line for line in register.requests}
    for name in (fabricated.OPEN, fabricated.FAIL):
        assert lines[name].outcome == "retrained"
        assert lines[name].verdict != "pass"
    assert register.counts["fail"] == register.counts["inconclusive"] == 0
    assert (register.passes, register.progress) == (0, "released")
    index = text_of("index.html.j2", {**page_contents.page([register]), "r": register})
    assert "Deleted by retraining" in index
    assert "Inconclusive" not in index.partition("Worst first")[0]
    summary = text_of("summary.html.j2", page_contents.summary(register, []))
    assert "What was decided" in summary
    assert "trained anew without the records. Nothing is left to decide" in summary
    assert "Do not release this model" not in summary
    assert "已通过重新训练删除" in text_of(
        "summary.html.j2", page_contents.summary(register, []), "zh"
    )


def test_the_summary_of_a_rejected_batch_asks_for_no_decision_and_later_ones_name_its_state(
    tmp_path: Path,
) -> None:
    refused = {**APPROVED, "decision": "refuse"}
    register = register_of(tmp_path, decisions={"approvals": [refused]})
    assert register.progress == "refused"
    summary = text_of("summary.html.j2", page_contents.summary(register, []))
    assert "The batch was rejected: no model was released, nothing was erased" in summary
    assert "Decide on the release" not in summary
    waiting = register_of(tmp_path).model_copy(update={"batch": "later"})
    summary = text_of("summary.html.j2", page_contents.summary(waiting, [stored.past(register)]))
    assert "What has to be decided" in summary
    table = summary.partition("Batch by batch")[2]
    assert re.search(rf"{register.batch} .* Refused later this batch .* Awaiting sign-off", table)


def test_the_register_pages_say_how_often_a_request_was_audited_before(tmp_path: Path) -> None:
    audits = {
        fabricated.PASS: [
            {
                "batch": "2026-11-14",
                "started": "2026-11-14T01:02:03Z",
                "method": "fcalb_reset",
                "settings_changed": {},
                "alpha": 0.05,
                "outcome": "fail",
                "estimate": 0.9,
                "low": 0.7,
                "high": 1.1,
                "settings_sha256": "0" * 64,
            }
        ]
    }
    register = register_of(tmp_path, record={"audits": audits})
    (line,) = [line for line in register.requests if line.request_id == fabricated.PASS]
    assert (line.earlier_audits, line.error_rate) == (1, 0.1)
    index = text_of("index.html.j2", {**page_contents.page([register]), "r": register})
    assert index.count("audited 1 time before") == 1
    table = list(csv.DictReader(io.StringIO(spreadsheet.table([register]).lstrip("\ufeff"))))
    assert {row["request"]: row["earlier_audits"] for row in table}[fabricated.PASS] == "1"


def test_a_register_that_an_earlier_version_wrote_is_still_read() -> None:
    register = schema.checked({**dummy.REGISTER, "batch": "spring"}, "spring")
    assert {line.earlier_audits for line in register.requests} == {0}
