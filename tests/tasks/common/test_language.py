"""The languages of the reports: complete catalogues, numbers and dates by locale, evidence that any
of them tells."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import report
from tasks.common.errors import EvidenceError, WorkspaceError
from tasks.common.language import (
    Language,
    Sentence,
    in_a_list,
    of_report,
    say,
    sentences,
    suffixes,
    unavailable,
)
from tasks.reporting import build_evidence, evidence_schema
from tasks.reporting.pages import environment as page_environment
from tasks.reporting.pages import render as render_page
from tasks.requests import deadlines, opendsr
from tasks.verification import contrast, reasons
from tests.worlds import fabricated
from tools import cut_fonts, gettext_catalogues

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "reports" / "templates"
LOCALES = TEMPLATES / "locales"
ENGLISH, CHINESE = (Language.load(code, LOCALES) for code in ("en", "zh"))
CATALOGUE = LOCALES / "zh.po"
HAN = re.compile("[\u4e00-\u9fff]")


def held(text: str) -> set[str]:
    """The places for values in a message, with their formats."""
    return set(re.findall(r"%\(\w+\)s", text)) | set(re.findall(r"\{\w+(?::[^}]*)?\}", text))


def test_the_catalogue_has_every_message_of_the_source_translated_and_no_other() -> None:
    messages = gettext_catalogues.read(CATALOGUE)
    missing = [
        message.id
        for message in messages
        if message.id and not all(gettext_catalogues.translations(message))
    ]
    assert missing == []
    assert [message.id for message in messages if message.fuzzy and message.id] == []
    assert gettext_catalogues.updated_text(CATALOGUE) == CATALOGUE.read_text(encoding="utf-8"), (
        "run `make docs` and translate"
    )


def test_every_translation_has_the_values_and_the_markup_of_its_message() -> None:
    for message in gettext_catalogues.read(CATALOGUE):
        if not message.id:
            continue
        forms = (message.id,) if isinstance(message.id, str) else message.id
        for text in gettext_catalogues.translations(message):
            assert held(text) == set().union(*map(held, forms)), message.id
            assert sorted(re.findall(r"</?\w+[^>]*>", text)) == sorted(
                re.findall(r"</?\w+[^>]*>", forms[-1])
            )


def test_the_vendored_typeface_has_every_character_of_the_catalogue() -> None:
    from fontTools.ttLib import TTFont

    for name in cut_fonts.CUT:
        characters = TTFont(cut_fonts.FOLDER / name).getBestCmap()
        assert [c for c in cut_fonts.characters() if ord(c) not in characters] == [], (
            "run `python -m tools.cut_fonts`"
        )


def test_a_message_that_python_says_is_found_in_the_source() -> None:
    messages = {message for _, message, _ in gettext_catalogues.in_modules()}
    assert {"Not decided: {doubts}.", "record_id is unique", "{first} {second}"} <= messages
    assert deadlines.GDPR.message in messages


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (-0.2, 2, "\u22120.20"),
        (-0.001, 2, "0.00"),
        (1797, 0, "1,797"),
        (-1797.5, 1, "\u22121,797.5"),
        (0.0, 2, "0.00"),
    ],
)
def test_numbers_have_a_true_minus_and_no_negative_zero(
    value: float, digits: int, shown: str
) -> None:
    assert ENGLISH.number(value, digits) == shown
    assert CHINESE.number(value, digits) == shown


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_number_is_rounded_as_python_rounds_it(value: float, digits: int) -> None:
    shown = ENGLISH.number(value, digits).replace(",", "").replace("\u2212", "-")
    assert float(shown) == float(f"{value:.{digits}f}")


@pytest.mark.parametrize(
    ("language", "day", "when", "share", "time"),
    [
        (ENGLISH, "21 November 2026", "21 November 2026, 09:30 UTC+01:00", "12.5%", "2.0 min"),
        (CHINESE, "2026年11月21日", "2026年11月21日 09:30 UTC+01:00", "12.5%", "2.0 分钟"),
    ],
)
def test_dates_shares_and_times_follow_the_language(
    language: Language, day: str, when: str, share: str, time: str
) -> None:
    stamp = "2026-11-21T09:30:00+01:00"
    texts = (
        language.day("2026-11-21"),
        language.when(stamp),
        language.percent(0.125),
        language.duration(120),
    )
    assert tuple(text.replace("\u00a0", " ") for text in texts) == (day, when, share, time)
    assert language.when("yesterday") == "yesterday"
    assert language.p_value(0.0001) == "< 0.001"


def test_a_sentence_is_english_text_that_can_be_told_in_chinese_from_its_json() -> None:
    span = contrast.InfluenceInterval(-0.0312, -0.2, 0.14, 0.9)
    sentence = reasons.in_words(span)
    assert sentence.startswith("Residual influence −0.03, 90% interval −0.20 to 0.14")
    assert json.loads(json.dumps(sentence)) == str(sentence)
    made = json.loads(json.dumps(sentences({"reason": [sentence]})))
    text = CHINESE.tell(str(sentence), made)
    assert text == "残余影响 −0.03，90% 置信区间 −0.20 至 0.14（1 = 从未删除，0 = 如同重新训练）。"
    assert ENGLISH.tell(str(sentence), made) == sentence


def test_sentences_within_sentences_are_told_too() -> None:
    doubts = in_a_list(
        [
            say(
                "it is not ruled out that the model is less sure of these records than retrained "
                "models are"
            ),
            say("influence left is not shown to be below the margin"),
        ]
    )
    sentence = say("Not decided: {doubts}.", doubts=doubts)
    assert (
        CHINESE.tell(str(sentence), sentences([sentence]))
        == "无法判定：未能排除该模型对这些记录的把握低于重新训练的模型；未能证实剩余影响低于界限。"
    )


def test_a_sentence_stays_one_when_it_is_copied_and_when_an_error_carries_it() -> None:
    sentence = copy.deepcopy(deadlines.GDPR)
    assert isinstance(sentence, Sentence)
    assert sentence.parts() == deadlines.GDPR.parts()
    assert isinstance(EvidenceError(sentence).args[0], Sentence)
    with pytest.raises(TypeError, match="list"):
        say("{names}", names=["a"])


@given(st.text())
def test_text_that_is_no_sentence_is_never_touched(text: str) -> None:
    assert CHINESE.tell(
        text, sentences(["plain words", say("every class has records")])
    ) == text or text == ("every class has records")


def test_a_message_of_another_version_stays_english() -> None:
    sentence = Sentence("No longer said: {value:.1f}.", {"value": 1.25})
    assert CHINESE.tell(str(sentence), sentences([sentence])) == "No longer said: 1.2."


def test_the_settings_come_first_and_a_request_adds_the_languages_that_there_are() -> None:
    assert of_report(("en",), []) == ["en"]
    assert of_report(("en",), ["zh-CN", "EN", "tlh"]) == ["en", "zh"]
    assert of_report(("zh", "en"), ["en"]) == ["zh", "en"]
    assert unavailable(["zh-Hans", "tlh"]) == ["tlh"]
    assert suffixes(["zh", "en"]) == {"zh": "", "en": ".en"}


def asking(languages: Any) -> opendsr.Request | opendsr.RefusedEntry:
    """A request whose extension names languages."""
    return opendsr.parse(
        {
            "regulation": "pipl",
            "subject_request_id": fabricated.PASS,
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-20T09:30:00Z",
            "subject_identities": [
                {
                    "identity_type": "email",
                    "identity_value": "a@b.example",
                    "identity_format": "raw",
                }
            ],
            "extensions": {"erasure_audit": {"languages": languages}},
        },
        1,
    )


def test_a_request_asks_for_languages_in_its_extension() -> None:
    request = asking(["zh-Hans", "zh-Hans", "de"])
    assert isinstance(request, opendsr.Request)
    assert (request.languages, request.record_ids) == (("zh-Hans", "de"), ())


@pytest.mark.parametrize("languages", ["zh", ["<b>"], ["en"] * 9, [1], None])
def test_languages_that_are_no_tags_are_refused_with_words_that_repeat_nothing(
    languages: Any,
) -> None:
    request = asking(languages)
    assert isinstance(request, opendsr.RefusedEntry)
    assert request.reason.startswith("extensions: expected an object")
    assert "<b>" not in request.reason


def test_a_catalogue_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"zh\.po"):
        Language.load("zh", tmp_path)
    (tmp_path / "zh.po").write_text('msgid "a\n', encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"zh\.po"):
        Language.load("zh", tmp_path)


class Page(HTMLParser):
    """The tags and the shown text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


def inputs_that_speak() -> dict[str, Any]:
    """The made-up inputs with sentences as the stages make them, and a request that asks for
    Chinese."""
    stage_files = fabricated.inputs()
    because = say(
        "classes {classes} have no record of a control subject; more control subjects "
        "are needed (split.control)",
        classes="7",
    )
    reason = say("No test could be made: {why}.", why=because)
    rejection = say(
        "its identities are those of several data subjects; send one request per subject"
    )
    for name, judged in stage_files["verdicts"]["requests"].items():
        judged["reason"] = (
            reason if name == fabricated.UNJUDGED else say("The records still influence the model.")
        )
        for gate in judged["gates"]:
            gate["question"] = say("Is the influence left below the margin, on all records?")
    for entry in stage_files["register"]["batch_requests"]:
        entry["languages"] = ["zh", "tlh"]
        entry["reason"] = entry["reason"] and rejection
    stage_files["verdicts"]["sentences"] = sentences(stage_files["verdicts"])
    stage_files["register"]["sentences"] = sentences(stage_files["register"])
    return json.loads(json.dumps(stage_files))  # type: ignore[no-any-return]


KINDS = (
    *(
        fabricated.PASS,
        fabricated.FAIL,
        fabricated.OPEN,
        fabricated.BELOW,
        fabricated.UNJUDGED,
        fabricated.WEAK,
    ),
    fabricated.SET_ASIDE,
)
TOLD = {
    fabricated.UNJUDGED: "无法进行检验：类别 7 没有对照主体的记录",
    fabricated.SET_ASIDE: "其所列身份分属多个数据主体",
}


@pytest.fixture(scope="module")
def spoken() -> dict[str, dict[str, Any]]:
    """The evidence of a batch whose sentences are real ones."""
    return {
        item["request"]["id"]: item
        for item in build_evidence.build_all(fabricated.sources(inputs_that_speak()))
    }


@pytest.mark.parametrize("request_id", KINDS)
def test_every_kind_of_outcome_is_told_in_both_languages(
    spoken: dict[str, Any], request_id: str
) -> None:
    item = spoken[request_id]
    assert item["languages"] == ["en", "zh"]
    pages = {
        code: render_page(page_environment(TEMPLATES, code), "report.html.j2", {"e": item})
        for code in ("en", "zh")
    }
    text = TOLD.get(request_id, "这些记录仍然影响模型。")
    assert '<html lang="zh">' in pages["zh"]
    assert '<html lang="en">' in pages["en"]
    shown = {code: Page(html).text for code, html in pages.items()}
    assert text in shown["zh"]
    assert item["reason"] in shown["en"]
    assert item["reason"] not in shown["zh"]
    assert set(HAN.findall(shown["en"])) <= set("中文")
    assert 'href="report.zh.html"' in pages["en"]
    assert 'href="report.html"' in pages["zh"]
    assert "tlh" in shown["zh"]


def test_every_rival_method_and_a_screening_are_told_in_chinese() -> None:
    for state in ("bad", "open"):
        evidence = build_evidence.build_all(fabricated.sources(fabricated.screening(state)))[0]
        assert HAN.search(
            render_page(page_environment(TEMPLATES, "zh"), "report.html.j2", {"e": evidence})
        )


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "{{ 7 * 7 }}%(count)s{first}", "\u202egnp.exe"]
)
def test_a_hostile_request_field_is_inert_in_both_languages(text: str) -> None:
    def page(value: str, code: Any) -> str:
        inputs = inputs_that_speak()
        fields = ("reason", "code", "regulation", "received", "request_id")
        inputs["register"]["batch_requests"][4].update(dict.fromkeys(fields, value))
        item = build_evidence.build_all(fabricated.sources(inputs))[4]
        return render_page(page_environment(TEMPLATES, code), "report.html.j2", {"e": item})

    for code in ("en", "zh"):
        html = page(text, code)
        assert Page(html).tags == Page(page("plain words", code)).tags
        assert str(evidence_schema.visible(text)) in Page(html).text
        assert "\u202e" not in html


def test_two_processes_in_other_zones_and_locales_write_the_same_chinese_bytes(
    tmp_path: Path,
) -> None:
    inputs = inputs_that_speak()
    inputs["register"]["batch_requests"] = inputs["register"]["batch_requests"][1:2]
    inputs["verdicts"]["requests"] = {
        fabricated.FAIL: inputs["verdicts"]["requests"][fabricated.FAIL]
    }
    (tmp_path / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
    code = (
        "import json, sys; from pathlib import Path; from tests.worlds import fabricated;"
        "from tasks import report; from tasks.reporting import build_evidence;"
        f"inputs = json.loads(Path({str(tmp_path / 'inputs.json')!r}).read_text(encoding='utf-8'));"
        "report.write(build_evidence.build_all(fabricated.sources(inputs)), "
        f"Path({str(TEMPLATES)!r}), "
        "Path(sys.argv[1]))"
    )
    circumstances = (
        {"TZ": "Asia/Shanghai", "LANG": "C"},
        {"TZ": "America/Lima", "LANG": "zh_CN.UTF-8"},
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / str(place))],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ".", "PYTHONHASHSEED": str(place), **changed},
        )
        for place, changed in enumerate(circumstances)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    for name in ("report.html", "report.pdf", "report.zh.html", "report.zh.pdf", "evidence.json"):
        first, second = (
            (tmp_path / str(place) / fabricated.FAIL / name).read_bytes() for place in (0, 1)
        )
        assert first == second, name


def test_the_pages_of_a_batch_whose_main_language_is_chinese(tmp_path: Path) -> None:
    import pikepdf

    sources = fabricated.sources(inputs_that_speak())
    configured = sources.settings.report.model_copy(update={"languages": ("zh", "en")})
    sources = dataclasses.replace(
        sources, settings=sources.settings.model_copy(update={"report": configured})
    )
    folder = tmp_path / "spring"
    report.write(build_evidence.build_all(sources)[4:5], TEMPLATES, folder)
    names = {
        f"{stem}{code}.{kind}"
        for stem, kind in (("index", "html"), ("summary", "html"))
        for code in ("", ".en")
    }
    assert names <= {path.name for path in folder.iterdir()}
    index, english = (
        Page((folder / name).read_text(encoding="utf-8"))
        for name in ("index.html", "index.en.html")
    )
    assert "批次 spring 的删除请求" in index.text
    assert TOLD[fabricated.SET_ASIDE] in index.text
    assert "Deletion requests of batch spring" in english.text
    assert f'href="{fabricated.SET_ASIDE}/report.en.html"' in (folder / "index.en.html").read_text(
        encoding="utf-8"
    )
    with pikepdf.open(folder / fabricated.SET_ASIDE / "report.pdf") as pdf:
        objects = [
            thing
            for thing in pdf.objects
            if isinstance(thing, pikepdf.Dictionary) and "/BaseFont" in thing
        ]
        assert str(pdf.Root["/Lang"]) == "zh"
    vendored = re.compile(r"/[A-Z]+\+(NotoSansCJKsc|SourceSans3|DejaVuSansMono)[-A-Za-z]*")
    assert [thing for thing in objects if not vendored.fullmatch(str(thing["/BaseFont"]))] == []


def test_a_deadline_is_counted_and_told_in_the_language_of_the_page() -> None:
    due = deadlines.deadline("pipl", date(2026, 11, 20))
    assert CHINESE.tell(due.rule, sentences([due.rule])).startswith("《个人信息保护法》第五十条")
    fields = {name for _, name, _, _ in Formatter().parse(due.rule.message) if name}
    assert fields == set(due.rule.values)
