"""The person's answer: what it says for each ending, and what it never says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting import build_evidence, letters
from tasks.reporting.letters import Letter, LetterWriter
from tests.worlds import endings, fabricated

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
JARGON = (
    *("verdict", "inconclusive", "residual", "interval", "FCALB", "reference model", "pseudonym"),
    *("member", "AUC", "unlearn", "detection limit"),
)
REFUSED = Letter(
    "refusal",
    "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "gdpr",
    "2026-11-21T01:02:03Z",
    "Example Clinic",
    received="2026-11-10T09:30:00+01:00",
    reason="the images are evidence in a pending case",
)


@pytest.fixture(scope="module")
def english() -> LetterWriter:
    return LetterWriter(TEMPLATES)


@pytest.fixture(scope="module")
def chinese() -> LetterWriter:
    return LetterWriter(TEMPLATES, "zh")


def evidence(request_id: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The evidence of one request."""
    found = build_evidence.build_all(fabricated.sources(inputs))
    return next(item for item in found if item["request"]["id"] == request_id)


def decided(request_id: str = fabricated.PASS, **changes: Any) -> dict[str, Any]:
    """The evidence of a request, with decisions on its batch."""
    inputs = fabricated.inputs()
    inputs["decisions"] |= changes
    return evidence(request_id, inputs)


def unseen(erased: bool) -> dict[str, Any]:
    """The evidence of a request on whose records no model was trained."""
    inputs = fabricated.inputs()
    for entry in inputs["register"]["batch_requests"]:
        if entry["request_id"] == fabricated.SET_ASIDE:
            entry["code"] = "not_in_training"
    found = evidence(fabricated.SET_ASIDE, inputs)
    done = {"progress": "erased", "completed": "2026-11-24T10:00:00Z"}
    return found | done if erased else found


def written(item: dict[str, Any], writer: LetterWriter) -> str:
    """The text of a request's letter."""
    letter = letters.of_evidence(item)
    assert letter is not None
    return " ".join(writer.text(letter).split())


@pytest.mark.parametrize(
    "request_id", [name for name in fabricated.REQUESTS if name != fabricated.SET_ASIDE]
)
def test_there_is_no_letter_before_there_is_something_to_tell(request_id: str) -> None:
    assert letters.of_evidence(decided(request_id)) is None
    assert letters.of_evidence(unseen(erased=False)) is None


def test_an_answer_after_a_pass_says_what_the_test_showed_and_what_it_cannot_show(
    english: LetterWriter,
) -> None:
    text = written(decided(**fabricated.erased()), english)
    assert "The records about you were erased" in text
    assert "overwritten by 29\u00a0December\u00a02026" in text or "29 December 2026" in text
    assert "behaves like models that never saw them" in text
    assert "cannot show that nothing at all is left" in text
    assert "were told of the deletion" in text


def test_an_answer_after_a_release_without_a_pass_claims_nothing_about_the_model(
    english: LetterWriter,
) -> None:
    text = written(decided(fabricated.FAIL, **fabricated.erased(fabricated.FAIL)), english)
    assert "did not show that their influence is within the limits" in text
    assert "behaves like models that never saw them" not in text


def test_an_answer_after_a_retrain_says_that_the_model_never_saw_the_records(
    english: LetterWriter,
) -> None:
    item = decided(fabricated.FAIL, **fabricated.erased(fabricated.FAIL), released="retrained")
    assert "The model in use has never seen your records." in written(item, english)


def test_an_answer_where_no_model_was_trained_speaks_of_no_test(english: LetterWriter) -> None:
    text = written(unseen(erased=True), english)
    assert "No computer model was trained on your records" in text
    assert "test" not in text.replace("tested", "")


def test_recipients_who_were_not_told_are_not_said_to_have_been(english: LetterWriter) -> None:
    text = written(decided(**{**fabricated.erased(), "notices": []}), english)
    assert "were told of the deletion" not in text


def test_what_is_kept_is_named_with_its_ground(english: LetterWriter) -> None:
    claim = {"at": "2026-11-24T10:00:00Z", "by": "K. Okafor", "request": fabricated.PASS}
    claim |= {"ground": "Art. 17(3)(b) GDPR", "reason": "invoices are kept for ten years"}
    text = written(decided(**{**fabricated.erased(), "exceptions": [claim]}), english)
    assert "Art. 17(3)(b) GDPR: invoices are kept for ten years" in text


def test_a_refusal_gives_the_reason_that_people_recorded(english: LetterWriter) -> None:
    refusal = {"at": "2026-11-24T08:00:00Z", "by": "M. Laurent", "reason": "a pending case"}
    item = decided(fabricated.FAIL, registered={fabricated.FAIL: {"refusal": refusal}})
    text = written(item, english)
    assert "We have not deleted them." in text
    assert "A pending case." in text
    assert "M. Laurent" not in text


def test_a_request_of_an_unknown_person_is_asked_for_other_details(english: LetterWriter) -> None:
    text = written(decided(fabricated.SET_ASIDE), english)
    assert "we found no records about you" in text
    assert "manifest" not in text


@pytest.mark.parametrize("code", ["whole_class", "whole_data_set"])
def test_the_tool_finds_no_ground_for_a_refusal_by_itself(code: str) -> None:
    item = decided(fabricated.SET_ASIDE)
    item["request"]["code"] = code
    assert letters.of_evidence(item) is None


def test_a_notice_of_an_extension_gives_the_reason_and_the_new_last_day(
    english: LetterWriter,
) -> None:
    longer = {"at": "2026-11-15T08:00:00Z", "by": "Ada", "reason": "many requests at once"}
    longer |= {"to": "2027-02-10"}
    item = decided(registered={fabricated.PASS: {"extension": longer}})
    text = written(item, english)
    assert "10\u00a0February\u00a02027" in text or "10 February 2027" in text
    assert "Many requests at once." in text
    assert "Art. 12(3) GDPR" in text


@pytest.mark.parametrize(
    ("regulation", "where"),
    [
        ("gdpr", ("Art. 77 GDPR", "Art. 79 GDPR")),
        ("ccpa", ("California Privacy Protection Agency", "Attorney General")),
        ("lgpd", ("ANPD", "Art. 22")),
        ("pipl", ("Art. 65", "people's court (PIPL, Art. 50)")),
        ("", ("data protection authority", "courts")),
    ],
)
def test_every_refusal_names_the_ways_of_complaint_in_the_terms_of_its_law(
    regulation: str, where: tuple[str, ...], english: LetterWriter, chinese: LetterWriter
) -> None:
    letter = replace(REFUSED, regulation=regulation)
    text = " ".join(english.text(letter).split())
    assert all(name in text for name in where)
    foreign = chinese.text(letter)
    assert "投诉" in foreign or "申诉" in foreign
    assert "You can" not in foreign


@pytest.mark.parametrize("kind", ["answer", "refusal", "extension"])
def test_no_letter_holds_jargon_or_anything_that_names_the_person(
    kind: letters.Kind, english: LetterWriter
) -> None:
    more: dict[str, Any] = {"erased": REFUSED.at, "model": "passed", "rate": 0.05}
    letter = replace(REFUSED, kind=kind, until="2027-02-10", **more)
    text = english.text(letter)
    assert not [word for word in JARGON if word.lower() in text.lower()]
    assert "Dear Sir or Madam" in text
    item = decided(**fabricated.erased())
    assert item["request"]["subject_pseudonym"] not in written(item, english)


def test_an_id_that_is_no_uuid_stays_out_of_the_letter() -> None:
    assert letters.reference("ada.lovelace@example.org", 3) == "request 3"
    assert letters.reference(REFUSED.reference, 3) == REFUSED.reference


def test_the_letter_is_in_the_first_language_that_the_request_asks_for_and_we_write() -> None:
    item = decided()
    for asked, code in ((["fr", "zh-Hans", "en"], "zh"), (["fr"], "en"), ([], "en")):
        item["request"]["languages"] = asked
        assert letters.language_of(item) == code


def test_a_controller_replaces_a_letter_and_keeps_the_others(tmp_path: Path) -> None:
    own = Path(shutil.copytree(TEMPLATES, tmp_path / "templates"))
    (own / "clinic").mkdir()
    (own / "clinic" / "refusal.txt.j2").write_text("No.\n\n{{ l.reason }}\n\n- one\n- two\n")
    writer = LetterWriter(own, folder="clinic")
    assert "\nNo.\n" in writer.text(REFUSED)
    assert "- one\n- two\n" in writer.text(REFUSED)
    assert "<li>one</li>" in writer.html(REFUSED)
    notice = replace(REFUSED, kind="extension", until="2027-02-10")
    assert "We need more time for your request" in writer.text(notice)
    (own / "clinic" / "refusal.zh.txt.j2").write_text("不。\n")
    assert "不。" in LetterWriter(own, "zh", "clinic").text(REFUSED)
    assert "不。" not in writer.text(REFUSED)


@pytest.mark.parametrize("ending", ["set aside", "refused", "extended", "erased"])
def test_a_chinese_letter_has_the_parts_of_the_english_one(
    ending: str, english: LetterWriter, chinese: LetterWriter
) -> None:
    letter = letters.of_evidence(endings.all_of_them()[ending])
    assert letter is not None
    in_english, in_chinese = english.blocks(letter), chinese.blocks(letter)
    kinds = [part["kind"] for part in in_english]
    assert [part["kind"] for part in in_chinese] == kinds
    assert kinds.count("heading") >= 2
    for ours, theirs in zip(in_english, in_chinese, strict=True):
        assert len(ours.get("entries", [])) == len(theirs.get("entries", []))
        assert "# " not in theirs.get("text", "")


def test_a_reason_stays_text_on_the_page(english: LetterWriter) -> None:
    hostile = replace(REFUSED, reason="<script>alert(1)</script> {{ 7 * 7 }}")
    html = english.html(hostile)
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "49" not in english.text(hostile)
