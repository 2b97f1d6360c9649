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

import fabricated
import pikepdf
import pytest

from tasks import evidence, report
from tasks.errors import EvidenceError, WorkspaceError

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "reports" / "templates"
REQUESTS = (fabricated.PASS, fabricated.FAIL, fabricated.OPEN, fabricated.BELOW, fabricated.SET_ASIDE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of the made-up batch."""
    out = tmp_path_factory.mktemp("made") / "spring"
    report.write(evidence.build_all(fabricated.sources()), TEMPLATES, out)
    return out


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
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
    found = {item["request"]["id"]: item for item in evidence.build_all(fabricated.sources(inputs))}
    return report.render(report.environment(TEMPLATES), "report.html.j2", {"e": found[request_id]})


def test_every_request_has_its_three_files_and_the_batch_its_index_and_register(made: Path) -> None:
    files = {f"{request}/{name}" for request in REQUESTS for name in ("report.html", "report.pdf", "evidence.json")}
    assert set(tree(made)) == files | {"index.html", "register.json"}


@pytest.mark.parametrize(
    ("request_id", "words"),
    [
        (fabricated.PASS, "Pass: the influence left is within the limits"),
        (fabricated.FAIL, "Fail: the model after unlearning is outside the limits"),
        (fabricated.OPEN, "Inconclusive: the test could not decide"),
        (fabricated.BELOW, "Inconclusive: below the detection limit"),
        (fabricated.SET_ASIDE, "Set aside: this request was not carried out"),
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
    assert "No data subject of that identifier is in the manifest." in text
    assert "put the request into a new batch" in text
    assert "Verification" not in text


@pytest.mark.parametrize("request_id", REQUESTS)
def test_no_report_claims_more_than_the_test_shows(made: Path, request_id: str) -> None:
    text = page(made / request_id / "report.html").text.lower()
    for never in ("gdpr compliant", "gdpr-compliant", "deleted from the weights", "anonymous", "anonymised"):
        assert never not in text
    assert "erasing copies is not part of this run" in text


@pytest.mark.parametrize("request_id", [*REQUESTS, ""])
def test_a_page_is_one_file_without_script_and_without_outside_addresses(made: Path, request_id: str) -> None:
    found = page(made / request_id / ("report.html" if request_id else "index.html"))
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert "url(" not in found.text
    assert "@import" not in found.text
    for tag, attributes in found.tags:
        if tag == "a":
            assert re.fullmatch(
                r"#\w+|register\.json|[\w-]+/(report\.html|report\.pdf|evidence\.json)", str(attributes["href"])
            )


@pytest.mark.parametrize("request_id", REQUESTS)
def test_every_picture_has_a_text_alternative_and_every_link_inside_has_its_target(made: Path, request_id: str) -> None:
    found = page(made / request_id / "report.html")
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-labelledby") in ids
        if tag == "a":
            assert str(attributes["href"])[1:] in ids


def test_the_register_lists_the_worst_first_with_the_hashes_of_its_files(made: Path) -> None:
    register = json.loads((made / "register.json").read_text())
    outcomes = [line["outcome"] for line in register["requests"]]
    assert outcomes == ["fail", "inconclusive", "below_detection", "rejected", "pass"]
    hashes = tree(made)
    for line in register["requests"]:
        assert line["sha256"] == {name: hashes[f"{line['folder']}/{name}"] for name in line["sha256"]}
    text = (made / "index.html").read_text()
    assert text.index(fabricated.FAIL) < text.index(fabricated.SET_ASIDE) < text.index(fabricated.PASS)


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
            assert metadata["xmp:CreateDate"] == "2026-11-21T01:02:03Z"


def test_the_pdf_embeds_the_vendored_fonts_and_no_other(made: Path) -> None:
    for request_id in REQUESTS:
        with pikepdf.open(made / request_id / "report.pdf") as pdf:
            fonts = {
                str(font["/BaseFont"])
                for font in pdf.objects
                if isinstance(font, pikepdf.Dictionary) and "/BaseFont" in font
            }
        assert fonts
        assert all("Source-Sans-3" in font for font in fonts)


def test_two_processes_in_other_zones_locales_and_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"] = [inputs["register"]["batch_requests"][place] for place in (1, 4)]
    inputs["verdicts"]["requests"] = {fabricated.FAIL: inputs["verdicts"]["requests"][fabricated.FAIL]}
    options = fabricated.write(tmp_path, inputs)
    circumstances = [
        {"TZ": "Asia/Shanghai", "LANG": "C", "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": ""},
        {"TZ": "America/Los_Angeles", "LANG": "C.UTF-8", "PYTHONHASHSEED": "2"},
    ]
    runs = []
    for place, changed in enumerate(circumstances):
        given = arguments(options, tmp_path / str(place) / "spring")
        code = f"from pathlib import PosixPath, WindowsPath; from tasks import report; report.main(*{given})"
        inherited = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
        runs.append(subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**inherited, **changed}))
    assert [run.wait() for run in runs] == [0, 0]
    assert tree(tmp_path / "0") == tree(tmp_path / "1")


def arguments(options: list[str], out: Path) -> list[Any]:
    """The arguments of `report.main` in its order, from the options of the command."""
    values = dict(zip(options[::2], options[1::2], strict=True))
    names = ("verdicts", "lineage", "register", "checks", "trace", "record", "templates", "params")
    return [values["--batch"], *(Path(values[f"--{name}"]) for name in names), out]


def test_reports_do_not_depend_on_which_others_are_made_with_them(made: Path, tmp_path: Path) -> None:
    found = evidence.build_all(fabricated.sources())
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
    assert tree(tmp_path / "reports") == {"spring/index.html": hashlib.sha256(b"before").hexdigest()}


def test_a_template_that_asks_for_what_is_not_there_raises_and_writes_nothing(tmp_path: Path) -> None:
    templates = Path(shutil.copytree(TEMPLATES, tmp_path / "templates"))
    (templates / "report.html.j2").write_text("{{ e.verdict }} {{ e.certainty }}")
    with pytest.raises(EvidenceError, match="certainty"):
        report.write(evidence.build_all(fabricated.sources()), templates, tmp_path / "reports" / "spring")
    assert not list((tmp_path / "reports").iterdir())


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"fonts\.css"):
        report.write(evidence.build_all(fabricated.sources()), tmp_path, tmp_path / "out")
    with pytest.raises(WorkspaceError, match=r"report\.html\.j2"):
        report.render(report.environment(tmp_path), "report.html.j2", {})


def test_a_missing_pango_is_one_line_that_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "weasyprint":
                raise OSError("cannot load library 'libpango-1.0-0'")

    for name in [name for name in sys.modules if name.split(".")[0] == "weasyprint"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(WorkspaceError, match=r"libpango-1\.0-0"):
        report.Printer(TEMPLATES)


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
    return html_of(inputs, str(evidence.visible(text)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_request_field_is_inert(text: str) -> None:
    html = with_fields(text)
    assert [tag for tag, _ in Page(html).tags] == [tag for tag, _ in Page(with_fields("plain words")).tags]
    assert str(evidence.visible(text)) in Page(html).text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000]", html)


def test_ids_that_are_no_safe_names_get_folders_by_their_place() -> None:
    inputs = fabricated.inputs()
    ids = ["../../etc", "index.html", ".hidden", fabricated.PASS, fabricated.PASS.upper(), "a" * 200, ""]
    found = evidence.build_all(fabricated.sources(inputs))[:1] + [
        {"status": "rejected", "request": {"id": name, "position": place}} for place, name in enumerate(ids)
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


@pytest.mark.parametrize("method", ["fcalb", "retrain", "none"])
def test_every_method_is_explained_and_what_it_did_is_said(method: str) -> None:
    inputs = fabricated.inputs()
    inputs["method"] = method
    if method != "fcalb":
        inputs["trace"] = []
    text = Page(html_of(inputs, fabricated.FAIL)).text
    said = {"fcalb": "random weights", "retrain": "trained anew without", "none": "Nothing was unlearned"}
    assert said[method] in text
    assert ("step by step" in text) == (method == "fcalb")


def test_measurements_that_could_not_be_made_are_said_in_words() -> None:
    inputs = fabricated.inputs()
    verdict = inputs["verdicts"]["requests"][fabricated.BELOW]
    nothing = {"estimate": None, "low": None, "high": None}
    verdict.update(detectability=None, detection_limit=None)
    verdict["residual_influence"].update(nothing)
    verdict["influence_points"].update(unlearned=None, original=None, retrained=None, **{"with": [], "without": []})
    for model in ("original", "retrained"):
        verdict["self_check"][model].update(nothing)
    text = Page(html_of(inputs, fabricated.BELOW)).text
    assert "not measurable" in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("days", "words"), [("2026-10-20", "missed by 1 day when"), ("2026-10-21", "23 November 2026")]
)
def test_the_deadline_says_how_it_stood_when_the_audit_started(days: str, words: str) -> None:
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"][0]["received"] = f"{days}T08:00:00Z"
    assert words in Page(html_of(inputs, fabricated.PASS)).text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(-0.2, 2, "\u22120.20"), (-0.001, 2, "0.00"), (1797, 0, "1,797"), (-1797.5, 1, "\u22121,797.5"), (0.0, 2, "0.00")],
)
def test_numbers_have_a_true_minus_and_no_negative_zero(value: float, digits: int, shown: str) -> None:
    assert report.number(value, digits) == shown


def test_source_date_epoch_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    with report.source_date(5):
        assert os.environ["SOURCE_DATE_EPOCH"] == "5"
    assert os.environ["SOURCE_DATE_EPOCH"] == ""


def test_a_report_may_fetch_nothing() -> None:
    with pytest.raises(Exception, match="self-contained"):
        report.no_fetching("https://example.org/x.png")


def test_the_command_takes_the_options_of_dvc_yaml(tmp_path: Path) -> None:
    options = fabricated.write(tmp_path)
    command = [sys.executable, "-m", "tasks.report", *options, "--out", str(tmp_path / "reports" / "spring")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"report 1/5: {fabricated.PASS}, pass"


def test_glyphs_of_the_reports_are_in_the_vendored_fonts() -> None:
    from fontTools.ttLib import TTFont

    text = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.j2"))
    for font in (TEMPLATES / "fonts").glob("*.woff2"):
        known = TTFont(BytesIO(font.read_bytes())).getBestCmap()
        assert not {
            character for character in text + "ρα≤≥−·…–✓→×§" if ord(character) not in known and character != "\n"
        }
