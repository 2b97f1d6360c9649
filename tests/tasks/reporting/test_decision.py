"""The decision: the first part of a report, for those who have two minutes."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pikepdf
import pytest

from tasks.common.language import Code
from tasks.reporting import build_evidence, chronology, pages
from tasks.reporting.pdf import Printer
from tests.worlds import fabricated

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
ANNEX = re.compile(r'<h2 class="part".*</main>', re.DOTALL)
REGISTERED = {
    "identity": {"at": "2026-11-12T08:00:00Z", "by": "Ada Clerk", "how": "login and e-mail code"},
    "extension": {
        "at": "2026-11-15T08:00:00Z",
        "by": "Ada Clerk",
        "reason": "many requests at once",
        "to": "2027-02-10",
    },
    "letters": [
        {"at": "2026-11-25T08:00:00Z", "by": "Ada Clerk", "how": "registered", "kind": "answer"}
    ],
}


def evidence(**changes: Any) -> dict[str, dict[str, Any]]:
    """The evidence of the batch by request, with decisions on it."""
    inputs = fabricated.inputs()
    inputs["decisions"] |= changes
    return {
        item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources(inputs))
    }


def erased() -> dict[str, Any]:
    """A request on which all was done that can be done."""
    decisions = {**fabricated.erased(), "registered": {fabricated.PASS: REGISTERED}}
    return evidence(**decisions)[fabricated.PASS]


def text_of(item: dict[str, Any], code: Code = "en") -> str:
    """The words of the decision, without the annex."""
    html = pages.render(pages.environment(TEMPLATES, code), "report.html.j2", {"e": item})
    body = ANNEX.sub("", html[html.index("<body") :])
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split())


@pytest.mark.parametrize("code", ["en", "zh"])
def test_the_decision_takes_two_pages_at_most_whatever_the_ending(code: Code) -> None:
    printer, environment = Printer(TEMPLATES), pages.environment(TEMPLATES, code)
    endings = [*evidence().values(), erased()]
    endings += build_evidence.build_all(fabricated.sources(fabricated.screening("open")))
    for item in endings:
        html = pages.render(environment, "report.html.j2", {"e": item})
        alone = ANNEX.sub("</main>", html)
        with pikepdf.open(BytesIO(printer.pdf(alone, None, "2026-11-21T01:02:03Z"))) as pdf:
            assert len(pdf.pages) <= 2, item["outcome"]


@pytest.mark.parametrize("request_id", fabricated.REQUESTS)
def test_it_has_no_command_and_no_setting(request_id: str) -> None:
    text = text_of(evidence()[request_id])
    assert "erasure-audit" not in text
    assert "--" not in text
    assert "unlearn." not in text


@pytest.mark.parametrize("request_id", fabricated.REQUESTS)
def test_it_says_what_is_asked_by_when_and_that_paper_decides_nothing(request_id: str) -> None:
    text = text_of(evidence()[request_id])
    asked = text.index("What is asked of you")
    assert asked < text.index("Deadline") < text.index("Decision and signature")
    if request_id != fabricated.SET_ASIDE:
        assert "a signature on this page releases and erases nothing" in text


def test_it_tells_who_did_what_in_the_order_of_time() -> None:
    deeds = chronology.deeds(erased())
    assert [(deed["kind"], deed["by"]) for deed in deeds] == [
        ("received", None),
        ("identity", "Ada Clerk"),
        ("extended", "Ada Clerk"),
        ("started", None),
        ("approved", "M. Laurent"),
        ("erased", "K. Okafor"),
        ("told", "K. Okafor"),
        ("answered", "Ada Clerk"),
    ]
    assert next(deed["count"] for deed in deeds if deed["kind"] == "erased") == 6


def test_once_the_answer_is_sent_nothing_is_asked_for_the_person() -> None:
    text = text_of(erased())
    assert "Nothing more for the person: the answer was sent." in text
    assert "Tell the data subject" not in text


def test_a_refusal_by_people_asks_for_its_letter() -> None:
    refusal = {"at": "2026-11-24T08:00:00Z", "by": "M. Laurent", "reason": "a pending case"}
    item = evidence(
        approvals=[fabricated.approval(fabricated.FAIL, "refuse")],
        registered={fabricated.FAIL: {"refusal": refusal}},
    )[fabricated.FAIL]
    text = text_of(item)
    assert "Send the person the letter of refusal" in text
    assert "Stay: the person's request was refused." in text


def test_the_grounds_name_what_failed() -> None:
    item = evidence()[fabricated.FAIL]
    assert "still behaves like one that was trained on these records" in text_of(item)
    for gate in item["gates"]:
        gate["state"] = "bad" if gate["name"] == "utility_control" else "good"
    text = text_of(item)
    assert "worse at its task" in text
    assert "still behaves like one that was trained" not in text


def test_advice_about_the_model_ends_with_the_decision() -> None:
    waiting, done = evidence()[fabricated.PASS], erased()
    assert waiting["advice"]
    assert "A model trained anew is advised" in text_of(waiting)
    assert "A model trained anew is advised" not in text_of(done)


def test_what_an_organisation_did_not_say_is_not_in_the_report() -> None:
    item = evidence()[fabricated.PASS]
    html = pages.render(pages.environment(TEMPLATES), "report.html.j2", {"e": item})
    assert "What the organisation says" not in html
    item["organisation"]["deletion_rule"] = "rule 7 of the retention plan"
    html = pages.render(pages.environment(TEMPLATES), "report.html.j2", {"e": item})
    assert "What the organisation says" in html
    assert "rule 7 of the retention plan" in html
