"""The stage `report`: whole, inert, and the same bytes wherever it runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pikepdf
import pytest

from tasks import report
from tasks.common import worker_pool
from tasks.common.errors import EvidenceError, WorkspaceError
from tasks.reporting import (
    build_evidence,
    charts,
    evidence_measurements,
    evidence_schema,
)
from tasks.reporting.pages import environment as page_environment
from tasks.reporting.pages import render as render_page
from tasks.reporting.pdf import Printer
from tests.worlds import fabricated

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "reports" / "templates"
AUDITED = (
    fabricated.PASS,
    fabricated.FAIL,
    fabricated.OPEN,
    fabricated.BELOW,
    fabricated.UNJUDGED,
    fabricated.WEAK,
)
REQUESTS = (*AUDITED, fabricated.SET_ASIDE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of the made-up batch."""
    out = tmp_path_factory.mktemp("made") / "spring"
    report.write(build_evidence.build_all(fabricated.sources()), TEMPLATES, out)
    return out


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data


def page(path: Path) -> Page:
    """A page that was read."""
    return Page(path.read_text(encoding="utf-8"))


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def html_of(inputs: dict[str, Any], request_id: str) -> str:
    """The page of one request, without the PDF."""
    found = {
        item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources(inputs))
    }
    return render_page(page_environment(TEMPLATES), "report.html.j2", {"e": found[request_id]})


def test_every_request_has_its_files_and_the_batch_its_index_and_register(made: Path) -> None:
    files = {
        f"{request}/{name}"
        for request in REQUESTS
        for name in ("report.html", "report.pdf", "evidence.json")
    }
    letter = {f"{fabricated.SET_ASIDE}/letter.{form}" for form in ("html", "pdf", "txt")}
    of_batch = {"index.html", "register.json", "register.csv", "summary.html", "summary.pdf"}
    assert set(tree(made)) == files | letter | of_batch


@pytest.mark.parametrize(
    ("request_id", "words"),
    [
        (fabricated.PASS, "Pass: the influence left is within the limits"),
        (fabricated.FAIL, "Fail: the model after unlearning is outside the limits"),
        (fabricated.OPEN, "Inconclusive: the test could not decide"),
        (fabricated.BELOW, "Inconclusive: below the detection limit"),
        (fabricated.SET_ASIDE, "Set aside: this request was not carried out"),
        (fabricated.UNJUDGED, "Inconclusive: no test could be made"),
    ],
)
def test_the_decision_stands_first_in_words(made: Path, request_id: str, words: str) -> None:
    text = page(made / request_id / "report.html").text
    assert words in text
    assert text.index(words) < text.index("The request")
    for asked in ("What was done", "Deadline", "Risk that remains", "What is asked of you"):
        assert text.index(asked) < text.index("The request")


def test_a_rejected_request_says_why_and_what_to_do(made: Path) -> None:
    text = page(made / fabricated.SET_ASIDE / "report.html").text
    assert "No data subject of the data set has one of these identities;" in text
    assert "put the request into a new batch" in text
    assert "No test was made" in text
    assert "Residual influence" not in text


@pytest.mark.parametrize("request_id", REQUESTS)
def test_no_report_claims_more_than_the_test_shows(made: Path, request_id: str) -> None:
    text = page(made / request_id / "report.html").text.lower()
    for never in (
        "gdpr compliant",
        "gdpr-compliant",
        "deleted from the weights",
        "anonymous",
        "anonymised",
    ):
        assert never not in text
    assert "erasing copies is not part of this run" in text


@pytest.mark.parametrize("request_id", REQUESTS)
def test_a_page_is_one_file_without_script_and_without_outside_addresses(
    made: Path, request_id: str
) -> None:
    html = (made / request_id / "report.html").read_text(encoding="utf-8")
    found = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert not [
        name for _, attributes in found.tags for name in attributes if name.startswith("on")
    ]
    assert set(re.findall(r"url\((.{15})", html)) <= {"data:font/woff2"}
    assert "@import" not in html
    for tag, attributes in found.tags:
        if tag == "a":
            assert re.fullmatch(
                r"#\w+|register\.json|[\w-]+/(report\.html|report\.pdf|evidence\.json)",
                str(attributes["href"]),
            )


@pytest.mark.parametrize("request_id", REQUESTS)
def test_every_picture_has_a_text_alternative_and_every_link_inside_has_its_target(
    made: Path, request_id: str
) -> None:
    found = page(made / request_id / "report.html")
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        if tag == "svg":
            named = str(attributes.get("aria-labelledby")).split()
            assert attributes.get("aria-hidden") == "true" or (
                len(named) == 2 and set(named) <= set(ids)
            )
        if tag == "a":
            assert str(attributes["href"])[1:] in ids


def test_the_pdf_is_tagged_declares_pdf_a_3a_and_carries_the_evidence(made: Path) -> None:
    folder = made / fabricated.PASS
    with pikepdf.open(folder / "report.pdf") as pdf:
        attached = pdf.attachments["evidence.json"].get_file()
        assert attached.read_bytes() == (folder / "evidence.json").read_bytes()
        assert attached.mime_type == "application/json"
        assert {str(item["/AFRelationship"]) for item in pdf.Root["/AF"]} == {"/Data"}
        assert pdf.Root["/MarkInfo"]["/Marked"]
        assert "/StructTreeRoot" in pdf.Root
        assert str(pdf.Root["/Lang"]) == "en"
        assert "/OutputIntents" in pdf.Root
        assert pdf.Root["/ViewerPreferences"]["/DisplayDocTitle"]
        assert len(pdf.Root["/Outlines"]) > 0
        with pdf.open_metadata() as metadata:
            assert (metadata["pdfaid:part"], metadata["pdfaid:conformance"]) == ("3", "A")
            assert fabricated.PASS in metadata["dc:title"]
            assert metadata["xmp:CreateDate"] == "2026-11-21T01:02:03+00:00"


def test_the_pdf_embeds_the_vendored_fonts_and_no_other(made: Path) -> None:
    for request_id in REQUESTS:
        with pikepdf.open(made / request_id / "report.pdf") as pdf:
            fonts = {
                str(font["/BaseFont"])
                for font in pdf.objects
                if isinstance(font, pikepdf.Dictionary) and "/BaseFont" in font
            }
        assert fonts
        assert all(re.search("SourceSans3|DejaVuSansMono", font) for font in fonts)


def test_two_processes_in_other_zones_locales_and_hash_seeds_write_the_same_bytes(
    tmp_path: Path,
) -> None:
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"] = [
        inputs["register"]["batch_requests"][place] for place in (1, 4)
    ]
    inputs["verdicts"]["requests"] = {
        fabricated.FAIL: inputs["verdicts"]["requests"][fabricated.FAIL]
    }
    options = fabricated.write(tmp_path, inputs)
    circumstances = [
        {"TZ": "Asia/Shanghai", "LANG": "C", "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": ""},
        {"TZ": "America/Los_Angeles", "LANG": "C.UTF-8", "PYTHONHASHSEED": "2"},
    ]
    runs = []
    for place, changed in enumerate(circumstances):
        given = arguments(options, tmp_path / str(place) / "spring")
        code = (
            "from pathlib import PosixPath, WindowsPath; from tasks import report; "
            f"report.main(*{given})"
        )
        inherited = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
        runs.append(
            subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**inherited, **changed})
        )
    assert [run.wait() for run in runs] == [0, 0]
    assert tree(tmp_path / "0") == tree(tmp_path / "1")


def arguments(options: list[str], out: Path) -> list[Any]:
    """The arguments of `report.main` in its order, from the options of the command."""
    values = dict(zip(options[::2], options[1::2], strict=True))
    names = ("verdicts", "lineage", "register", "checks", "trace", "record", "templates", "params")
    return [values["--batch"], *(Path(values[f"--{name}"]) for name in names), out, *rest(values)]


def rest(values: dict[str, str]) -> list[Path]:
    """What a report can do without."""
    return [Path(values["--probes"]), Path(values["--decisions"])]


def test_reports_do_not_depend_on_which_others_are_made_with_them(
    made: Path, tmp_path: Path
) -> None:
    found = build_evidence.build_all(fabricated.sources())
    assert found[4]["request"]["id"] == fabricated.SET_ASIDE
    report.write([found[4], found[1]], TEMPLATES, tmp_path / "two")
    for request_id in (fabricated.FAIL, fabricated.SET_ASIDE):
        assert tree(tmp_path / "two" / request_id) == tree(made / request_id)


def test_a_missing_number_raises_and_leaves_the_previous_reports(tmp_path: Path) -> None:
    options = fabricated.write(tmp_path)
    out = tmp_path / "reports" / "spring"
    out.mkdir(parents=True)
    (out / "index.html").write_text("before")
    inputs = fabricated.inputs()
    del inputs["verdicts"]["requests"][fabricated.BELOW]["accuracy"]["original"]["control"]
    fabricated.write(tmp_path, inputs)
    with pytest.raises(EvidenceError, match=f"{fabricated.BELOW}.*accuracy.original.control"):
        report.main(*arguments(options, out))
    assert tree(tmp_path / "reports") == {
        "spring/index.html": hashlib.sha256(b"before").hexdigest()
    }


def test_a_template_that_asks_for_what_is_not_there_raises_and_writes_nothing(
    tmp_path: Path,
) -> None:
    templates = Path(shutil.copytree(TEMPLATES, tmp_path / "templates"))
    (templates / "report.html.j2").write_text("{{ e.verdict }} {{ e.certainty }}")
    with pytest.raises(EvidenceError, match="certainty"):
        report.write(
            build_evidence.build_all(fabricated.sources()),
            templates,
            tmp_path / "reports" / "spring",
        )
    assert not list((tmp_path / "reports").iterdir())


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"pdf\.typ"):
        report.write(build_evidence.build_all(fabricated.sources()), tmp_path, tmp_path / "out")
    with pytest.raises(WorkspaceError, match=r"report\.html\.j2"):
        render_page(page_environment(tmp_path), "report.html.j2", {})


def test_a_missing_layout_or_typeface_of_the_pdf_is_named(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES / "fonts", tmp_path / "fonts")
    with pytest.raises(WorkspaceError, match=r"pdf\.typ: no such file"):
        Printer(tmp_path)
    shutil.copy(TEMPLATES / "pdf.typ", tmp_path)
    (tmp_path / "fonts" / "NotoSansSC-Bold.ttf").unlink()
    with pytest.raises(WorkspaceError, match=r"NotoSansSC-Bold\.ttf: no such file"):
        Printer(tmp_path)


def test_a_broken_layout_is_named_and_nothing_of_the_page_is_quoted(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    (tmp_path / "templates" / "pdf.typ").write_text("#panic(sys.inputs.page)", encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"pdf\.typ: Typst says") as raised:
        Printer(tmp_path / "templates").pdf(
            html_of(fabricated.inputs(), fabricated.PASS), None, "2026-11-21T01:02:03Z"
        )
    assert fabricated.PASS not in str(raised.value)


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}{{ e.__class__ }}",
    "</title></style><h1>Pass</h1>",
    "&lt;b&gt; &amp; \u202egnp.exe\u2066 \u0000 \ud800",
]


def with_fields(text: str) -> str:
    """The page of a rejected request all of whose free fields hold `text`."""
    inputs = fabricated.inputs()
    fields = ("reason", "code", "regulation", "received", "request_id")
    inputs["register"]["batch_requests"][4].update(dict.fromkeys(fields, text))
    return html_of(inputs, str(evidence_schema.visible(text)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_request_field_is_inert(text: str) -> None:
    html = with_fields(text)
    assert [tag for tag, _ in Page(html).tags] == [
        tag for tag, _ in Page(with_fields("plain words")).tags
    ]
    assert str(evidence_schema.visible(text)) in Page(html).text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000]", html)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_group_is_inert(text: str) -> None:
    def with_group(value: str) -> str:
        inputs = fabricated.inputs()
        groups = [fabricated.group(value, value, worse=True), fabricated.group("class", "0")]
        inputs["verdicts"]["batch"]["groups"] = groups
        inputs["verdicts"]["batch"]["exposure"] = {"reason": value}
        return html_of(inputs, fabricated.PASS)

    html = with_group(text)
    assert [tag for tag, _ in Page(html).tags] == [
        tag for tag, _ in Page(with_group("plain words")).tags
    ]
    assert str(evidence_schema.visible(text))[:30] in section(html, "Accuracy by group")
    assert str(evidence_schema.visible(text)) in section(html, "People who stay")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000]", html)


def test_ids_that_are_no_safe_names_get_folders_by_their_place() -> None:
    inputs = fabricated.inputs()
    ids = [
        "../../etc",
        "index.html",
        ".hidden",
        fabricated.PASS,
        fabricated.PASS.upper(),
        "a" * 200,
        "",
    ]
    found = build_evidence.build_all(fabricated.sources(inputs))[:1] + [
        {"status": "rejected", "request": {"id": name, "position": place}}
        for place, name in enumerate(ids)
    ]
    names = report.folder_names(found)
    assert names[0] == fabricated.PASS
    assert names[1:] == [f"request-{place}" for place in range(7)]


def test_an_accepted_request_keeps_its_id_when_a_rejected_one_claims_the_same() -> None:
    found = [
        {"status": "rejected", "request": {"id": "same", "position": 0}},
        {"status": "audited", "request": {"id": "same", "position": 1}},
    ]
    assert report.folder_names(found) == ["request-0", "same"]


@pytest.mark.parametrize("method", ["fcalb", "fcalb_plain", "fcalb_reset", "retrain", "none"])
def test_every_method_is_explained_and_what_it_did_is_said(method: str) -> None:
    inputs = fabricated.inputs()
    inputs["method"] = method
    if not method.startswith("fcalb"):
        inputs["trace"] = []
    text = Page(html_of(inputs, fabricated.FAIL)).text
    said = {
        "fcalb": "the weaker the constraint",
        "fcalb_plain": "inner features",
        "fcalb_reset": "moved 64% of the way",
        "retrain": "trained anew without",
        "none": "Nothing was unlearned",
    }
    assert said[method] in text
    assert ("step by step" in text) == method.startswith("fcalb")
    assert ("No method was applied" in text) == (method == "none")


def test_measurements_that_could_not_be_made_are_said_in_words() -> None:
    inputs = fabricated.inputs()
    verdict = inputs["verdicts"]["requests"][fabricated.BELOW]
    nothing = {"estimate": None, "low": None, "high": None}
    verdict.update(detectability=None, detection_limit=None)
    verdict["residual_influence"].update(nothing)
    verdict["influence_points"].update(
        unlearned=None, original=None, retrained=None, **{"with": [], "without": []}
    )
    for model in ("original", "retrained"):
        verdict["self_check"][model].update(nothing)
    text = Page(html_of(inputs, fabricated.BELOW)).text
    assert "not measurable" in text
    assert "None" not in text


def section(html: str, title: str) -> str:
    """The text of a page from a heading on to the next."""
    rest = html[html.index(title, html.index('id="request"')) :]
    return Page(re.split("<h[23]", rest)[0]).text.replace("\u00a0", " ")


def test_a_request_that_could_not_be_judged_gets_a_report_with_its_reason(made: Path) -> None:
    html = (made / fabricated.UNJUDGED / "report.html").read_text(encoding="utf-8")
    text = Page(html).text
    assert "No test could be made: classes 7 have no record of a control subject" in text
    assert "Do not count this as a pass" in text
    assert "no questions answered, no residual influence and no self-check" in text
    assert "influence-title" not in html
    assert "None" not in text
    assert "What the models predict" in text
    register = json.loads((made / "register.json").read_text())["requests"]
    line = next(line for line in register if line["request_id"] == fabricated.UNJUDGED)
    assert (line["test"], line["outcome"], line["residual_influence"]["estimate"]) == (
        "none",
        "inconclusive",
        None,
    )


def test_a_pass_says_whether_it_holds_in_the_batch_and_the_register_counts_it(made: Path) -> None:
    holds, weak = (
        page(made / name / "report.html").text for name in (fabricated.PASS, fabricated.WEAK)
    )
    assert "Among all passes of the batch this one is not counted" in weak
    assert "q = 0.140" in weak.replace("\u00a0", " ")
    assert weak.index("is not counted") < weak.index("What was done")
    assert "The pass also holds when false discoveries" in holds
    assert "false discoveries" not in page(made / fabricated.FAIL / "report.html").text
    register = json.loads((made / "register.json").read_text())
    assert (register["passes"], register["passes_that_hold"]) == (2, 1)
    lines = {line["request_id"]: line["register"] for line in register["requests"]}
    assert lines[fabricated.WEAK] == {"q_pass": 0.14, "holds": False}
    assert lines[fabricated.SET_ASIDE] is None
    index = page(made / "index.html").text.replace("\u00a0", " ")
    assert "1 of 2 passes hold in the batch as a whole" in index
    assert "does not hold in the batch, q = 0.140" in index


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("open", "Inconclusive: a screening cannot pass anybody"),
        ("bad", "Fail: the screening found that the records stand out"),
    ],
)
def test_a_screening_never_says_pass_and_says_what_it_cannot_do(state: str, words: str) -> None:
    html = html_of(fabricated.screening(state), fabricated.PASS)
    text = Page(html).text
    assert words in text
    assert "it can never pass anybody" in text[: text.index("The request")]
    assert "No reference models were trained" in text[: text.index("The request")]
    for never in (
        "Pass:",
        "shown good",
        "None",
        "Retrained without the records",
        "Residual influence ρ",
    ):
        assert never not in text
    assert "influence-title" not in html
    assert "Not measured:" in section(html, "Attacks beside the verdict")
    assert "Not measured:" in section(html, "People who stay")
    assert "Not measured:" in section(html, "What the features still hold")


def test_the_index_of_a_screening_says_that_it_cannot_pass_anybody(tmp_path: Path) -> None:
    report.write(
        build_evidence.build_all(fabricated.sources(fabricated.screening("open"))),
        TEMPLATES,
        tmp_path / "spring",
    )
    assert "it can never pass anybody" in page(tmp_path / "spring" / "index.html").text


def test_a_screening_beside_references_does_not_deny_them() -> None:
    inputs = fabricated.screening("open")
    inputs["verdicts"]["requests"][fabricated.PASS]["references"] = {"with": 15, "without": 15}
    text = Page(html_of(inputs, fabricated.PASS)).text
    assert "It was compared with no reference model." in text
    assert "No reference models were trained" not in text


def test_assumptions_are_told_with_what_was_done_instead() -> None:
    inputs = fabricated.inputs()
    refuted = {"equal_variances": False, "equal_p": 0.0004, "normal": False, "normal_p": 0.002}
    inputs["verdicts"]["requests"][fabricated.FAIL]["assumptions"] = {
        "usual_confidence": False, "all": refuted, "memorised": refuted
    }  # fmt: skip
    usual = section(html_of(fabricated.inputs(), fabricated.PASS), "What the test assumes")
    careful = section(html_of(inputs, fabricated.FAIL), "What the test assumes")
    assert "both kinds were pooled" in usual
    assert "for the most memorised: p is at least" in usual
    assert "scores were used as they are" in usual
    assert "the larger spread of the two kinds was used" in careful
    assert "p is at least the share of references that lie as far off (conformal)" in careful
    assert "scores were centred by control subjects' records of the same class" in careful
    assert "p < 0.001" in careful


def test_attacks_are_told_beside_the_range_of_the_retrained_models() -> None:
    text = section(html_of(fabricated.inputs(), fabricated.PASS), "Attacks beside the verdict")
    assert "never decide" in text
    assert "3 of 4 figures lie in that range; not so: RMIA (above it)." in text
    assert "0.66, above it" in text
    assert "0.42 – 0.60" in text
    assert "4 of 38" in text
    assert "a pass asks about is at most 5% likely" in text
    assert "16.0% (6.0% to 31.0%)" in text


def test_attacks_below_the_range_are_told_as_such_and_rates_only_where_there_are_any() -> None:
    inputs = fabricated.inputs()
    one = fabricated.attack(
        "rmia", "RMIA", "Zarifzadeh et al. 2024", (0.9, 0.3, 0.5), [0.4, 0.6], [0, 1]
    )
    inputs["verdicts"]["requests"][fabricated.PASS]["attacks"] = [one]
    text = section(html_of(inputs, fabricated.PASS), "Attacks beside the verdict")
    assert "0 of 1 figures lie in that range; not so: RMIA (below it)." in text
    assert "low rates of false alarm" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "It was not shown."),
        ({"worsened": True, "subjects_worse": 1}, "Yes, more than retraining would have."),
        (
            {"subjects_worse": 1, "worsened": True},
            "People who stay and are significantly more exposed: 1 of 29.",
        ),
        (
            {"auc": {"original": 0.64, "unlearned": 0.7, "retrained": 0.64}},
            "better than in any retrained model here",
        ),
    ],
)
def test_people_who_stay_are_answered_for(changes: dict[str, Any], words: str) -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["batch"]["exposure"].update(changes)
    text = section(html_of(inputs, fabricated.PASS), "People who stay")
    assert words in text
    assert "0.618 – 0.652" in text


def test_groups_show_the_worst_first_and_count_the_rest() -> None:
    inputs = fabricated.inputs()
    groups = [
        fabricated.group("class", str(label), p_worse=0.5 + label / 100) for label in range(30)
    ]
    groups.append(fabricated.group("site", "north", unlearned=0.7, p_worse=0.0001, worse=True))
    inputs["verdicts"]["batch"]["groups"] = groups
    text = section(html_of(inputs, fabricated.PASS), "Accuracy by group")
    assert "In 1 of 31 groups the model after unlearning is less accurate" in text
    assert text.index("site north") < text.index("class 0")
    assert "class 18" in text
    assert "class 19" not in text
    assert "11 more groups are in evidence.json." in text
    for row in groups:
        row["worse"] = True
    assert "11 more groups are in evidence.json, worse ones" in section(
        html_of(inputs, fabricated.PASS), "by group"
    )
    inputs["verdicts"]["batch"]["groups"] = groups[:0]
    assert "No group of unseen people" in section(html_of(inputs, fabricated.PASS), "by group")


def test_features_are_told_beside_the_range_of_the_retrained_models() -> None:
    text = section(html_of(fabricated.inputs(), fabricated.PASS), "What the features still hold")
    assert "95.0%" in text
    assert "79.0% – 90.0%" in text
    assert "17 – 200 or more" in text
    assert "none decides the verdict" in text


def test_features_without_probes_or_without_one_measure_say_so() -> None:
    inputs = fabricated.inputs()
    reason = "the linear probe did not converge"
    nothing = dict.fromkeys(("original", "unlearned", "retrained", "band"))
    inputs["probes"]["requests"][fabricated.PASS]["linear_probe"] = {**nothing, "reason": reason}
    inputs["probes"]["requests"][fabricated.PASS]["cka"]["band"] = None
    inputs["probes"]["relearn"] = {
        "steps": nothing,
        "most": 200,
        "target": None,
        "reason": "nothing to relearn",
    }
    text = section(html_of(inputs, fabricated.PASS), "What the features still hold")
    assert reason in text
    assert "nothing to relearn" in text
    assert "0.76" in text
    text = section(
        html_of({**fabricated.inputs(), "probes": {}}, fabricated.PASS),
        "What the features still hold",
    )
    assert "Not measured: no such measurement was made in this audit" in text


def test_the_distance_of_the_predictions_stands_beside_that_of_retrained_models() -> None:
    inputs = fabricated.inputs()
    text = section(html_of(inputs, fabricated.PASS), "What the models predict")
    assert "0.10 after unlearning" in text
    assert "0.05 – 0.17 from the mean of the others: the figure is in their range." in text
    assert "(50% – 70%)" in text
    inputs["verdicts"]["requests"][fabricated.PASS]["prediction_distribution"] = {
        "reason": "got 1 retrained models"
    }
    assert "Not measured: got 1 retrained models" in section(
        html_of(inputs, fabricated.PASS), "What the models predict"
    )


def test_classes_left_over_are_summed_without_a_range() -> None:
    many = {"labels": list(range(12)), "retrained_low": [0.0] * 12, "retrained_high": [0.5] * 12}
    lines = charts.shares(
        {**many, **dict.fromkeys(("original", "unlearned", "retrained"), [1 / 12] * 12)}
    )
    assert [line["label"] for line in lines] == [*map(str, range(10)), "other"]
    assert lines[0]["retrained_high"] == 0.5
    assert lines[-1]["unlearned"] == pytest.approx(1 / 6)
    assert "retrained_high" not in lines[-1]


def test_the_command_works_without_probes(tmp_path: Path) -> None:
    values = arguments(fabricated.write(tmp_path), tmp_path / "reports" / "spring")
    report.main(*values[:-2])
    found = json.loads(
        (tmp_path / "reports" / "spring" / fabricated.PASS / "evidence.json").read_text()
    )
    assert found["features"]["cka"] == {"reason": evidence_measurements.NOT_MEASURED}


@pytest.mark.parametrize(
    ("days", "words"), [("2026-10-20", "missed by 1 day when"), ("2026-10-21", "23 November 2026")]
)
def test_the_deadline_says_how_it_stood_when_the_audit_started(days: str, words: str) -> None:
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"][0]["received"] = f"{days}T08:00:00Z"
    assert words in Page(html_of(inputs, fabricated.PASS)).text.replace("\u00a0", " ")


def test_the_command_takes_the_options_of_dvc_yaml(tmp_path: Path) -> None:
    options = fabricated.write(tmp_path)
    command = [
        sys.executable,
        "-m",
        "tasks.report",
        *options,
        "--out",
        str(tmp_path / "reports" / "spring"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()[:7]  # in the order in which they are done
    assert [line.partition(":")[0] for line in told] == [
        f"report {number}/7" for number in range(1, 8)
    ]
    assert f"{fabricated.PASS}, pass" in {line.partition(": ")[2] for line in told}


def test_glyphs_of_the_reports_are_in_the_vendored_fonts() -> None:
    from fontTools.ttLib import TTFont

    text = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.j2"))
    for font in (TEMPLATES / "fonts").glob("SourceSans3*.woff2"):
        known = TTFont(BytesIO(font.read_bytes())).getBestCmap()
        assert not {
            character
            for character in text + "ρα≤≥−·…–✓→×§"
            if ord(character) not in known and character != "\n"
        }


def decided(decisions: dict[str, Any], request_id: str = fabricated.PASS) -> str:
    """The page of a request after decisions."""
    return html_of({**fabricated.inputs(), "decisions": decisions}, request_id)


def test_an_erased_request_says_what_became_of_every_copy_with_its_receipt() -> None:
    html = decided(fabricated.erased())
    text = Page(html).text.replace("\u00a0", " ")
    assert (
        "Erased: every copy of the records and every model that saw them, by 24 November 2026"
        in text
    )
    assert "What lies in backups expires by 29 December 2026." in text
    assert "Tell the data subject what was done" in text[: text.index("The request")]
    assert "expires on 29 December 2026" in section(html, "Copies of the records").replace(
        "\u00a0", " "
    )
    assert "log of the erasure" in text
    assert "M. Laurent" in section(html, "Approvals")
    assert "Holds no more: the records are erased." in text


def test_a_release_of_what_did_not_pass_is_called_into_question() -> None:
    approved = {"approvals": [fabricated.approval(fabricated.FAIL)]}
    assert "Make sure that this was meant" in Page(decided(approved, fabricated.FAIL)).text
    refused = {"approvals": [fabricated.approval(fabricated.PASS, "refuse")]}
    assert "release nothing on this audit" in Page(decided(refused)).text


def test_an_erased_request_that_did_not_pass_asks_not_to_say_that_the_model_has_forgotten() -> None:
    text = Page(decided(fabricated.erased(fabricated.BELOW), fabricated.BELOW)).text
    assert "Do not say that the model has forgotten the records" in text


def test_a_development_key_is_marked_at_the_top_and_in_the_provenance() -> None:
    inputs = fabricated.inputs()
    key = {"algorithm": "ed25519", "key_id": fabricated.digest("key"), "development": True}
    inputs["record"]["signing"] = key
    text = Page(html_of(inputs, fabricated.PASS)).text
    assert "development key" in text[: text.index("Pass:")]
    assert key["key_id"] in text
    inputs["record"]["signing"] = {**key, "development": False}
    assert "development key" not in Page(html_of(inputs, fabricated.PASS)).text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_decisions_are_inert(text: str) -> None:
    def page_with(words: str) -> str:
        made = fabricated.erased()
        for entry in (*made["approvals"], *made["erasure"]):
            entry["by"] = words
        made["approvals"][0].update(comment=words, role=words)
        made["exceptions"] = [
            {"at": "2026-11-24T10:00:00Z", "by": words, "ground": words, "reason": words}
        ]
        return decided(made)

    if "\ud800" in text:
        text = text.replace("\ud800", "")
    html = page_with(text)
    assert [tag for tag, _ in Page(html).tags] == [
        tag for tag, _ in Page(page_with("plain words")).tags
    ]
    assert str(evidence_schema.visible(text)) in section(html, "Recipients, processors")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000]", html)


def test_a_batch_that_processes_share_has_the_bytes_of_one_that_is_made_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = build_evidence.build_all(fabricated.sources())[3:6]
    report.write(found, TEMPLATES, tmp_path / "alone")
    monkeypatch.setattr(report, "REPORTS_PER_PROCESS", 1)
    monkeypatch.setattr(worker_pool, "cores", lambda: 2)
    report.write(found, TEMPLATES, tmp_path / "shared")
    alone, shared = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
        }
        for name in ("alone", "shared")
    )
    assert alone == shared


def test_an_error_in_a_process_that_helps_is_the_stages_own_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = build_evidence.build_all(fabricated.sources())[3:6]
    del found[0]["deadline"]  # the first is for the process that helps
    monkeypatch.setattr(report, "REPORTS_PER_PROCESS", 1)
    monkeypatch.setattr(worker_pool, "cores", lambda: 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(EvidenceError, match="the evidence has no such value"):
        report.write(found, TEMPLATES, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
