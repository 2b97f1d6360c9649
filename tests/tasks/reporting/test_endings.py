"""Whoever reads the first pages of a report for two minutes knows what was decided, why, what to do
and by when, whatever the ending; and nothing in them costs trust."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from tasks.common import files
from tasks.common.language import Code
from tasks.reporting import chronology, evidence_schema, pages
from tasks.reporting.batch_register import build, page_contents
from tasks.reporting.pdf import Printer
from tests.worlds import endings, fabricated

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "reports" / "templates"
EXAMPLES = ROOT / "docs" / "examples"
ENDINGS = endings.all_of_them()
ANSWERS = {
    "pass": ("Pass", "put into a batch of their own, or approve the release of the model"),
    "weak pass": ("Pass", "put into a batch of their own, or approve the release of the model"),
    "fail": ("Fail", "Do not release this model on this audit."),
    "inconclusive": ("Inconclusive", "Have more reference models trained (about 24 of each kind"),
    "below the detection limit": ("Inconclusive: below", "Do not count this as a pass."),
    "set aside": ("Set aside", "Correct what the reason names"),
    "not judged": ("Inconclusive: no test", "Have what the reason names put right"),
    "screened, nothing seen": ("Inconclusive: a screening", "run again with reference models"),
    "screened, seen": ("Fail: the screening", "run again with reference models"),
    "rejected": ("Fail", "The release was refused: release nothing on this audit."),
    "refused": ("Refused: the person's request", "Send the person the letter of refusal"),
    "extended": ("Pass", "put into a batch of their own"),
    "data only": ("Data only", "Approve or reject the erasure of the records."),
    "retrain proposed": (
        "Inconclusive after unlearning; the model trained anew passes and is proposed",
        "Decide on the release of the model trained anew",
    ),
    "later rung proposed": ("Pass", "Decide on the release of this model: approve or reject it."),
    "no rung passes": ("Inconclusive", "Do not count this as a pass."),
    "approved": ("Pass", "Have the copies of the records erased (part 7)"),
    "erased": ("Pass", "Tell the data subject what was done"),
    "erased and answered": ("Pass", "Nothing more for the person: the answer was sent."),
}
"""Of each ending how its headline begins, and what is asked of the reader."""


@cache
def page(ending: str, code: Code = "en") -> str:
    """The page of an ending."""
    environment = pages.environment(TEMPLATES, code)
    return pages.render(environment, "report.html.j2", {"e": ENDINGS[ending]})


def decision(ending: str, code: Code = "en") -> str:
    """The words of the decision, without the annex."""
    html = page(ending, code)
    body = html[html.index("<body") : html.index('<h2 class="part"')]
    words = re.sub(r"<(svg|style).*?</\1>|<[^>]+>", " ", body, flags=re.DOTALL)
    return " ".join(words.replace("&#39;", "'").split())


def test_every_ending_is_looked_at() -> None:
    assert set(ANSWERS) == set(ENDINGS)
    for item in ENDINGS.values():
        evidence_schema.validate(item)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_decision_answers_what_was_decided_what_to_do_and_by_when(ending: str) -> None:
    words, (headline, asked) = decision(ending), ANSWERS[ending]
    before, _, after = words.partition("What is asked of you")
    assert headline in before
    assert asked in after
    deadline = ENDINGS[ending]["deadline"]["date"]
    assert ("Deadline for the answer to the person (PIPL): No date." in after) == (deadline is None)
    assert "Decision and signature" in after


def test_a_refusal_gives_its_reason_and_its_provision_before_all_else() -> None:
    words = decision("refused")
    assert "not granted Reason: a pending lawsuit (Cal. Civ. Code § 1798.105(d)(8))" in words
    assert "Fail:" not in words.partition("Decision and signature")[0]
    assert "Ground of the refusal" in page("refused")


def test_a_decision_without_a_provision_names_none() -> None:
    assert "Ground of the decision" not in page("approved")
    item = endings.decided(fabricated.PASS, "approve")
    item["approvals"][0]["ground"] = "Art. 17(1)(b) GDPR"
    environment = pages.environment(TEMPLATES)
    html = pages.render(environment, "report.html.j2", {"e": item})
    assert "Ground of the decision" in html
    assert html.count("Art. 17(1)(b) GDPR") == 2  # beside the name, and in part 2


def test_what_remains_is_not_called_unknown_where_the_retrain_is_proposed() -> None:
    words = decision("retrain proposed")
    assert "With the model trained anew, none from these records" in words
    assert "Unknown" not in words
    assert "A model trained anew is advised" not in words  # it is what is proposed


def test_recipients_who_were_not_told_are_named() -> None:
    item = endings.finished()
    item["recipients"].append({**item["recipients"][0], "name": "Archive", "told_at": None})
    environment = pages.environment(TEMPLATES)
    html = pages.render(environment, "report.html.j2", {"e": item})
    assert "Tell the recipients who were not told yet (part 8):" in html
    assert build.not_told(item) == ["Archive"]
    assert build.not_told(ENDINGS["pass"]) == []  # nothing was erased yet


@pytest.mark.parametrize("ending", ENDINGS)
def test_chinese_pages_have_no_latin_punctuation_after_chinese_words(ending: str) -> None:
    assert re.findall(r"[\u4e00-\u9fff][,;:!?](?=\s|[\u4e00-\u9fff])", decision(ending, "zh")) == []
    assert re.findall(r"[\u4e00-\u9fff]\.(?=\s|$)", decision(ending, "zh")) == []


def test_the_search_field_of_chinese_pages_says_search(tmp_path: Path) -> None:
    register = registered(tmp_path, "pass")
    environment = pages.environment(TEMPLATES, "zh")
    view = {**page_contents.page([register]), **OF_PAGE, "r": register}
    html = pages.render(environment, "index.html.j2", view)
    assert '<label class="words">搜索<input type="search"' in html


OF_PAGE: dict[str, Any] = {"suffix": "", "codes": ["zh"], "version": "0", "places": {}}


def registered(folder: Path, ending: str, method: str = "fcalb") -> Any:
    """The register of a batch of one request."""
    item = {**ENDINGS[ending], "unlearn": {**ENDINGS[ending]["unlearn"], "method": method}}
    (folder / "one").mkdir()
    return build.of([item], ["one"], folder)


@pytest.mark.parametrize(
    ("method", "name"), [("fcalb", "FCALB"), ("fcalb_reset", "FCALB (reset alone)")]
)
def test_a_method_has_one_name_in_the_report_and_in_the_summary(
    tmp_path: Path, method: str, name: str
) -> None:
    item = {**ENDINGS["pass"], "unlearn": {**ENDINGS["pass"]["unlearn"], "method": method}}
    environment = pages.environment(TEMPLATES)
    report = pages.render(environment, "report.html.j2", {"e": item})
    assert f"The unlearning method {name} made a new model" in report
    view = page_contents.summary(registered(tmp_path, "pass", method), [])
    summary = pages.render(environment, "summary.html.j2", view | OF_PAGE)
    assert f"by the method {name}." in summary
    assert "fcalb" not in re.sub(r"<style.*?</style>", "", summary, flags=re.DOTALL)


def test_the_first_page_says_which_key_there_was_when_the_audit_began_and_not_who_signed() -> None:
    item = endings.evidence()[fabricated.PASS]
    signing = {"key_id": "0" * 16, "algorithm": "ed25519", "development": True}
    item["provenance"] = {**item["provenance"], "signing": signing}
    html = pages.render(pages.environment(TEMPLATES), "report.html.j2", {"e": item})
    assert "When this audit began, only a development key was set up." in html
    assert "a copy counts as signed only if another key signed it" in html


@pytest.mark.parametrize(
    "row", re.findall(r"\[([a-z ]+)\]\((\w+)/report.html\)", (EXAMPLES / "README.md").read_text())
)
def test_the_list_of_examples_names_the_ending_that_the_evidence_has(row: tuple[str, str]) -> None:
    name, folder = row
    evidence = files.read_json(EXAMPLES / folder / "evidence.json")
    if name == "erased":
        assert evidence["progress"] == "erased"
    else:
        outcomes = {"below the detection limit": "below_detection", "set aside": "rejected"}
        assert evidence["outcome"] == outcomes.get(name, name)


@pytest.mark.parametrize("code", ["en", "zh"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_first_page_has_all_that_a_signature_needs(ending: str, code: Code) -> None:
    first, second, *_ = sheets(printed(ending, code))
    for heading in HEADINGS[code]:
        assert heading in first
    headline = re.search(r'<h2 id="decision">.*?<span>(.*?)</span>', page(ending, code), re.DOTALL)
    assert headline
    assert headline[1].replace("&#39;", "'") in re.sub(
        r"(?<=[^ -~])\n|\n(?=[^ -~])", "", first
    ).replace("\n", " ")
    assert ANNEX[code] in second


HEADINGS: dict[Code, tuple[str, ...]] = {
    "en": (
        *("What is asked of you", "Deadline for the answer to the person", "Risk that remains"),
        *("Decision and signature", "Who did what, and when"),
    ),
    "zh": ("需要您做什么", "答复本人的期限", "剩余风险", "决定与签名", "谁在何时做了什么"),
}
ANNEX: dict[Code, str] = {"en": "Technical annex", "zh": "技术附件"}


def test_a_line_to_sign_on_is_high_enough_for_a_hand() -> None:
    command = ["pdftotext", "-bbox", "-f", "1", "-l", "1", "-", "-"]
    words = subprocess.run(
        command, input=printed("fail", "en"), stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    tops = [
        float(top)
        for name in ("protection", "Owner")
        for top in re.findall(rf'yMin="([0-9.]+)"[^>]*>{name}<', words)
    ]
    assert tops[-1] - tops[-2] >= 12 / 25.4 * 72  # points


def test_many_deeds_are_all_in_the_pdf() -> None:
    item = endings.decided(fabricated.PASS, "approve")
    item["approvals"] = [{**item["approvals"][0], "by": f"Approver {n}"} for n in range(80)]
    html = pages.render(pages.environment(TEMPLATES), "report.html.j2", {"e": item})
    text = " ".join(sheets(Printer(TEMPLATES).pdf(html, None, "2026-11-21T01:02:03Z")))
    deeds, _, _ = text.partition("Technical annex\n")
    assert all(deeds.count(f"Approver {n}\n") >= 1 for n in range(80))


@cache
def printed(ending: str, code: Code) -> bytes:
    """The PDF of an ending."""
    return Printer(TEMPLATES).pdf(page(ending, code), None, "2026-11-21T01:02:03Z")


def sheets(pdf: bytes) -> list[str]:
    """The text of every page of a PDF."""
    command = ["pdftotext", "-raw", "-", "-"]
    text = subprocess.run(command, input=pdf, stdout=subprocess.PIPE, check=True).stdout
    return text.decode().split("\f")


@pytest.mark.parametrize("ending", ENDINGS)
def test_chinese_pages_have_no_space_after_a_mark_of_their_own(ending: str) -> None:
    ours = re.sub(r'<span class="whole[^>]*>[^<]*', "<span>", page(ending, "zh"))
    assert re.findall(r".{10}[。；：，！？](?:</\w+>)?\s+[^\s<].{5}", ours) == []


def test_what_people_wrote_keeps_its_spaces_in_chinese_pages() -> None:
    item = endings.decided(
        fabricated.FAIL, "refuse", refusal={**endings.REFUSAL, "reason": "是。 否"}
    )
    html = pages.render(pages.environment(TEMPLATES, "zh"), "report.html.j2", {"e": item})
    assert '<span class="whole">是。 否</span>' in html


def test_chinese_pages_say_the_reason_of_every_verdict_in_chinese() -> None:
    for ending, item in ENDINGS.items():
        assert item["reason"] not in page(ending, "zh"), ending


def test_a_reason_on_the_first_page_is_a_whole_sentence() -> None:
    reason = ENDINGS["set aside"]["reason"]
    assert reason[0].islower()
    assert f"{reason[0].upper()}{reason[1:]}." in decision("set aside").replace("&#39;", "'")


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_annex_offers_to_release_only_what_the_verdicts_let_go(ending: str) -> None:
    item = ENDINGS[ending]
    kinds = [kind for kind, _ in chronology.choices(item)]
    commands = [command for _, command in chronology.choices(item)]
    assert all(command.split()[2] == fabricated.BATCH for command in commands)
    decided = item["approvals"] or item["refusal"] or item["outcome"] == "rejected"
    assert (not kinds) == bool(decided)
    held = item.get("outcome") != "pass" or item["held_back_by"]
    assert not (held and "unlearned" in kinds)
    assert ("split_off" in kinds) == bool(not decided and item["held_back_by"])
    assert [command in page(ending).replace("&#34;", '"') for command in commands] == [True] * len(
        commands
    )


def test_a_report_is_no_decision_before_somebody_decided() -> None:
    for ending in ENDINGS:
        pending = ENDINGS[ending]["progress"] == "awaiting_signoff"
        title = re.search("<h1>(.*?)</h1>", page(ending))
        assert title
        decided = "Decision on a deletion request" in title[1]
        assert decided == (not pending or ENDINGS[ending]["refusal"] is not None)


def test_the_deadline_says_what_for_and_when_it_was_met() -> None:
    last_day = "Deadline for the answer to the person (CCPA): Saturday, 26 December 2026"
    assert last_day in decision("fail")
    assert "Answered on 25 November 2026." in decision("erased and answered")
    assert "Answered on" not in decision("erased")


def test_numbers_of_other_methods_are_not_among_the_settings_of_the_one_that_was_used() -> None:
    settings = re.findall(r'<p class="packages">.*?</p>', page("pass"), re.DOTALL)[0]
    assert "scrub_alpha" not in settings
    assert "reset" in settings


def test_a_cell_names_its_column_also_behind_one_that_spans_several() -> None:
    table = Markup(
        "<table><thead><tr><th>Model</th><th>A</th><th>B <b>now</b></th><th>C</th></tr></thead>"
        '<tbody><tr><th>one</th><td>1</td><td class="num">2</td><td>3</td></tr>'
        '<tr><th>two</th><td class="wide" colspan="2">x</td><td>3</td></tr></tbody></table>'
    )
    assert re.findall(r"<td.*?</td>", pages.with_labels(table)) == [
        *('<td data-name="A">1</td>', '<td data-name="B now" class="num">2</td>'),
        '<td data-name="C">3</td>',
        *('<td class="wide" colspan="2">x</td>', '<td data-name="C">3</td>'),
    ]
