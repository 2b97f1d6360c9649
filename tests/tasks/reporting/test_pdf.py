"""The PDFs: two independent checkers find nothing against PDF/A-3a and PDF/UA-1, what these ask for
is there, and the bytes are the same everywhere."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import escape, unescape
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import page
import pdfua
import pikepdf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks import report
from tasks.common.language import Code
from tasks.reporting import build_evidence, pages
from tasks.reporting.pdf import Printer
from tasks.signatures import keys
from tasks.signatures import pdf_signature as signed_pdf
from tests.worlds import fabricated

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "reports" / "templates"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
NAMES = {
    "rdf": RDF.strip("{}"),
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "pdfaid": "http://www.aiim.org/pdfa/ns/id/",
    "pdfuaid": "http://www.aiim.org/pdfua/ns/id/",
    "extension": "http://www.aiim.org/pdfa/ns/extension/",
    "schema": "http://www.aiim.org/pdfa/ns/schema#",
}
FORBIDDEN = {
    "/JavaScript",
    "/JS",
    "/Launch",
    "/Sound",
    "/Movie",
    "/ResetForm",
    "/ImportData",
    "/SubmitForm",
    "/XFA",
}
PRINTER = Printer(TEMPLATES)
AGAIN = """
import hashlib, sys
from pathlib import Path
from tasks.reporting.pdf import Printer
folder = Path(sys.argv[1])
html = (folder / "report.html").read_text()
pdf = Printer(Path(sys.argv[2])).pdf(html, folder / "evidence.json", sys.argv[3])
print(hashlib.sha256(pdf).hexdigest())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one report."""
    out = tmp_path_factory.mktemp("pdf") / "made"
    found = [
        item
        for item in build_evidence.build_all(fabricated.sources())
        if item["request"]["id"] == fabricated.FAIL
    ]
    report.write(found, TEMPLATES, out)
    return out / fabricated.FAIL


@pytest.fixture(scope="module", params=["unsigned", "signed"])
def pdf(request: pytest.FixtureRequest, folder: Path) -> Iterator[pikepdf.Pdf]:
    """The PDF as the pipeline makes it, and as it is handed over."""
    content = (folder / "report.pdf").read_bytes()
    if request.param == "signed":
        content = signed_pdf.sign(content, keys.read_key(keys.make_key(development=True)))
    with pikepdf.open(BytesIO(content)) as opened:
        yield opened


def printed(request_id: str, code: Code) -> bytes:
    """The PDF of a request, without its evidence."""
    found = {item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources())}
    html = pages.render(
        pages.environment(TEMPLATES, code), "report.html.j2", {"e": found[request_id]}
    )
    return Printer(TEMPLATES).pdf(html, None, "2026-11-21T01:02:03Z")


def dictionaries(pdf: pikepdf.Pdf) -> list[Any]:
    """Every dictionary and stream of the file that is an object of its own."""
    return [item for item in pdf.objects if isinstance(item, pikepdf.Dictionary | pikepdf.Stream)]


def structure(element: Any) -> Iterator[Any]:
    """The elements of the tag tree below one, in reading order."""
    kids = element.get("/K", [])
    for kid in kids if isinstance(kids, pikepdf.Array) else [kids]:
        if isinstance(kid, pikepdf.Dictionary) and "/S" in kid:
            yield kid
            yield from structure(kid)


def xmp(pdf: pikepdf.Pdf) -> ElementTree.Element:
    """The document's metadata, one RDF tree."""
    (tree,) = ElementTree.fromstring(pdf.Root["/Metadata"].read_bytes().decode())
    assert tree.tag == f"{RDF}RDF"
    return tree


def cut_short(content: bytes) -> list[int]:
    """Streams whose length is not the one that they state."""
    found = []
    for match in re.finditer(rb"\n(\d+) 0 obj\s*<<.*?/Length (\d+)[^0-9].*?stream\r?\n", content):
        end = match.end() + int(match[2])
        if not content[end:].startswith((b"\nendstream", b"\r\nendstream", b"endstream")):
            found.append(int(match[1]))
    return found


def faults(content: bytes) -> list[str]:
    """What two checkers find against PDF/A-3a and PDF/UA-1, and how sure they are of it.

    The checker `page` takes the last byte of a stream for the end of a line where it is a carriage
    return (0.11.0), so the lengths of streams are looked at here.
    """
    reports = [page.validate_pdf_bytes(content, profile=profile) for profile in ("3a", "ua1")]
    found = [f"{fault.rule_id}: {fault.message}" for each in reports for fault in each.failures]
    with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
        Path(file.name).write_bytes(content)
        found += [f"{each.rule_id}: {each.message}" for each in pdfua.validate(file.name).findings]
    found = [fault for fault in found if not fault.startswith("PDFA3A-STREAM-LENGTH-001")]
    return found + [f"object {number} is cut short" for number in cut_short(content)]


@pytest.mark.parametrize("code", ["en", "zh"])
@pytest.mark.parametrize("request_id", fabricated.REQUESTS)
def test_checkers_find_nothing_against_a_report(request_id: str, code: Code) -> None:
    content = printed(request_id, code)
    assert faults(content) == []
    key = keys.read_key(keys.make_key(development=True))
    assert faults(signed_pdf.sign(content, key)) == []


def test_checkers_find_nothing_against_letters_and_the_summary(tmp_path: Path) -> None:
    inputs = fabricated.inputs()
    inputs["decisions"] |= fabricated.erased()
    found = build_evidence.build_all(fabricated.sources(inputs))
    report.write([{**item, "languages": ["en", "zh"]} for item in found], TEMPLATES, tmp_path / "o")
    letters = sorted((tmp_path / "o").glob("*/letter.pdf"))
    summaries = sorted((tmp_path / "o").glob("summary*.pdf"))
    assert letters
    assert summaries
    assert {path.name: faults(path.read_bytes()) for path in letters + summaries} == {
        path.name: [] for path in letters + summaries
    }


def test_checkers_see_a_list_item_outside_its_list_and_a_header_without_its_scope() -> None:
    def broken(change: Callable[[Any], None]) -> bytes:
        target = BytesIO()
        with pikepdf.open(BytesIO(printed(fabricated.FAIL, "en"))) as pdf:
            for element in structure(pdf.Root["/StructTreeRoot"]["/K"][0]):
                change(element)
            pdf.save(target)
        return target.getvalue()

    def without_lists(element: Any) -> None:
        if element["/S"] == "/L":
            element["/S"] = pikepdf.Name("/Div")

    def without_scopes(element: Any) -> None:
        if element["/S"] in ("/TH", "/TD"):
            del element["/A"]

    assert any("LI structure element" in fault for fault in faults(broken(without_lists)))
    assert any("header cell" in fault for fault in faults(broken(without_scopes)))


def test_it_declares_pdf_a_3a_and_pdf_ua_1_and_describes_the_latter_as_the_former_asks(
    pdf: pikepdf.Pdf,
) -> None:
    tree = xmp(pdf)
    declared = {
        name: [item.text for item in tree.iterfind(f".//{name}", NAMES)]
        for name in ("pdfaid:part", "pdfaid:conformance", "pdfuaid:part")
    }
    assert declared == {"pdfaid:part": ["3"], "pdfaid:conformance": ["A"], "pdfuaid:part": ["1"]}
    described = tree.iterfind(".//extension:schemas//schema:namespaceURI", NAMES)
    assert "http://www.aiim.org/pdfua/ns/id/" in {item.text for item in described}
    assert (
        b"pdfaExtension:schemas" in pdf.Root["/Metadata"].read_bytes()
    )  # the prefix is prescribed
    assert pdf.pdf_version >= "1.7"


def test_title_author_subject_and_dates_stand_in_both_places_alike(pdf: pikepdf.Pdf) -> None:
    tree = xmp(pdf)
    for name, path in {
        "/Title": "dc:title",
        "/Author": "dc:creator",
        "/Subject": "dc:description",
    }.items():
        (found,) = tree.iterfind(f".//{path}//rdf:li", NAMES)
        assert found.text
        assert found.text == str(pdf.docinfo[name])
    assert fabricated.FAIL in str(pdf.docinfo["/Title"])
    for name, path in {"/CreationDate": "xmp:CreateDate", "/ModDate": "xmp:ModifyDate"}.items():
        (found,) = tree.iterfind(f".//{path}", NAMES)
        assert datetime.fromisoformat(found.text) == datetime(2026, 11, 21, 1, 2, 3, tzinfo=UTC)
        assert str(pdf.docinfo[name]) == "D:20261121010203Z"


def test_colours_are_those_of_the_profile_that_it_carries(pdf: pikepdf.Pdf) -> None:
    (intent,) = pdf.Root["/OutputIntents"]
    assert intent["/S"] == "/GTS_PDFA1"
    assert intent["/DestOutputProfile"]["/N"] == 3
    assert b"RGB XYZ" in intent["/DestOutputProfile"].read_bytes()[:64]
    assert not [item for item in dictionaries(pdf) if item.get("/ColorSpace") == "/DeviceCMYK"]


def test_every_font_is_embedded_and_its_text_can_be_read_out(pdf: pikepdf.Pdf) -> None:
    fonts = [item for item in dictionaries(pdf) if item.get("/Type") == "/Font"]
    composite = [font for font in fonts if font["/Subtype"] == "/Type0"]
    assert composite
    for font in composite:
        (descendant,) = font["/DescendantFonts"]
        descriptor = descendant["/FontDescriptor"]
        assert any(name in descriptor for name in ("/FontFile2", "/FontFile3"))
        assert len(font["/ToUnicode"].read_bytes()) > 0
    simple = [font for font in fonts if font["/Subtype"] in ("/Type1", "/TrueType", "/MMType1")]
    assert simple == []


def test_it_runs_nothing_hides_nothing_and_asks_for_nothing_outside(pdf: pikepdf.Pdf) -> None:
    for item in dictionaries(pdf):
        assert not FORBIDDEN & {str(item.get(name)) for name in ("/S", "/Type")}
        assert not FORBIDDEN & set(item.keys())
        assert "/AA" not in item
        assert "/F" not in item or not isinstance(item, pikepdf.Stream)  # content in another file
        assert item.get("/Filter") != "/LZWDecode"
    assert "/OpenAction" not in pdf.Root
    assert "/OCProperties" not in pdf.Root
    assert not pdf.is_encrypted
    assert len(pdf.trailer["/ID"]) == 2


def test_the_evidence_is_attached_as_data_with_its_dates(pdf: pikepdf.Pdf, folder: Path) -> None:
    assert list(pdf.attachments) == ["evidence.json"]
    spec = pdf.attachments["evidence.json"]
    assert spec.get_file().read_bytes() == (folder / "evidence.json").read_bytes()
    assert spec.obj["/AFRelationship"] == "/Data"
    assert spec.obj["/F"] == spec.obj["/UF"] == "evidence.json"
    stream = spec.obj["/EF"]["/F"]
    assert stream["/Subtype"] == "/application/json"
    assert str(stream["/Params"]["/ModDate"]) == "D:20261121010203Z"
    assert spec.obj.objgen in {item.objgen for item in pdf.Root["/AF"]}


def test_it_is_tagged_in_a_language_with_a_title_to_show(pdf: pikepdf.Pdf) -> None:
    assert pdf.Root["/MarkInfo"]["/Marked"]
    assert str(pdf.Root["/Lang"]) == "en"
    assert pdf.Root["/ViewerPreferences"]["/DisplayDocTitle"]
    (document,) = pdf.Root["/StructTreeRoot"]["/K"]
    assert document["/S"] == "/Document"
    names = [str(item["/S"]) for item in structure(document)]
    levels = [int(name[2]) for name in names if name in ("/H1", "/H2", "/H3", "/H4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def of_tables(element: Any) -> dict[str, Any]:
    """What a cell says of its place in its table."""
    found: dict[str, Any] = {}
    for attributes in element.get("/A", []):
        if attributes["/O"] == "/Table":
            found |= dict(attributes.items())
    return found


def test_pictures_have_a_text_and_table_cells_their_headers(pdf: pikepdf.Pdf) -> None:
    found = list(structure(pdf.Root["/StructTreeRoot"]["/K"][0]))
    figures = [item for item in found if item["/S"] == "/Figure"]
    assert figures
    assert all(len(str(item["/Alt"])) > 3 for item in figures)
    heads = [item for item in found if item["/S"] == "/TH"]
    assert heads
    assert {str(of_tables(item)["/Scope"]) for item in heads} == {"/Column"}
    cells = [item for item in found if item["/S"] == "/TD"]
    assert cells
    named = {str(name) for item in cells for name in of_tables(item)["/Headers"]}
    assert named == {str(item["/ID"]) for item in heads}


def test_items_are_in_their_lists_and_identifiers_in_their_tree(pdf: pikepdf.Pdf) -> None:
    root = pdf.Root["/StructTreeRoot"]
    lists = [item for item in structure(root["/K"][0]) if item["/S"] == "/L"]
    assert lists
    inside = {kid.objgen for item in lists for kid in item["/K"]}
    items = {item.objgen for item in structure(root["/K"][0]) if item["/S"] == "/LI"}
    assert inside == items
    heads = {str(item["/ID"]) for item in structure(root["/K"][0]) if "/ID" in item}
    assert heads == set(pikepdf.NameTree(root["/IDTree"]).keys())


def test_links_say_where_they_lead_and_are_in_the_tag_tree(pdf: pikepdf.Pdf) -> None:
    for sheet in pdf.pages:
        assert sheet.obj["/Tabs"] == "/S"
        for annotation in sheet.obj.get("/Annots", []):
            if annotation["/Subtype"] == "/Link":
                assert len(str(annotation["/Contents"])) > 0
                assert "/StructParent" in annotation
            else:  # the signature's field: printed, not hidden, and off the page
                assert (annotation["/Subtype"], annotation["/FT"]) == ("/Widget", "/Sig")
                assert int(annotation["/F"]) & 0b111 == 0b100
                assert all(float(edge) < 0 for edge in annotation["/Rect"])


def test_bookmarks_lead_through_the_parts(pdf: pikepdf.Pdf) -> None:
    with pdf.open_outline() as outline:
        (top,) = outline.root
        titles = [item.title for item in top.children]
    assert len(titles) >= 8
    assert len(set(titles)) == len(titles)


def test_other_zones_locales_hash_seeds_and_processes_give_the_same_bytes(folder: Path) -> None:
    circumstances = [
        {
            "TZ": "Pacific/Kiritimati",
            "LANG": "C",
            "LC_ALL": "C",
            "PYTHONHASHSEED": "1",
            "SOURCE_DATE_EPOCH": "1",
        },
        {"TZ": "America/St_Johns", "LANG": "zh_CN.UTF-8", "PYTHONHASHSEED": "2", "PYTHONUTF8": "1"},
        {"TZ": "UTC", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "random", "SOURCE_DATE_EPOCH": ""},
    ]
    started = "2026-11-21T01:02:03Z"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AGAIN, str(folder), str(TEMPLATES), started],
            env={**os.environ, "PYTHONPATH": str(ROOT), **more},
            stdout=subprocess.PIPE,
            text=True,
        )
        for more in circumstances
    ]
    hashes = {process.communicate()[0].strip() for process in processes}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


def test_a_printer_gives_the_same_bytes_again_whatever_it_printed_between(folder: Path) -> None:
    html, attached = (folder / "report.html").read_text(encoding="utf-8"), folder / "evidence.json"
    printer = Printer(TEMPLATES)
    first = printer.pdf(html, attached, "2026-11-21T01:02:03Z")
    printer.pdf(
        html.replace("Example Clinic", "Example \u5b3f \U0001f389"), None, "2027-01-01T00:00:00Z"
    )
    assert printer.pdf(html, attached, "2026-11-21T01:02:03Z") == first


def facts(rows: str, space: int = 0) -> str:
    """A page with rows of facts below some lines."""
    return (
        '<html lang="en"><head><title>Facts</title><meta name="author" content="A">'
        '<meta name="folio" content="{page} of {pages}"></head><body><main><h1>Facts</h1>'
        f'{"<p>line</p>" * space}<dl class="pairs">{rows}</dl></main></body></html>'
    )


def test_a_moment_between_two_seconds_is_that_second() -> None:
    first, second = (
        PRINTER.pdf(facts(""), None, f"2026-11-21T01:02:03{part}+00:00") for part in ("", ".456789")
    )
    assert first == second


def sheets(pdf: bytes) -> list[str]:
    """The text of every page of a PDF."""
    command = ["pdftotext", "-raw", "-", "-"]
    text = subprocess.run(command, input=pdf, stdout=subprocess.PIPE, check=True).stdout
    return [sheet for sheet in text.decode().split("\f") if sheet.strip()]


@pytest.mark.parametrize("space", range(8))
def test_a_row_of_facts_stands_on_one_page_with_its_whole_name(space: int) -> None:
    rows = "".join(
        f"<div><dt>begin{n} of a name that needs two lines end{n}</dt><dd>fact{n}</dd></div>"
        for n in range(40)
    )
    printed = Printer(TEMPLATES).pdf(facts(rows, space), None, "2026-11-21T01:02:00Z")
    found = [set(sheet.split()) for sheet in sheets(printed)]
    assert len(found) > 1
    for number in range(40):
        words = {f"begin{number}", f"end{number}", f"fact{number}"}
        assert any(words <= sheet for sheet in found), number


def test_a_text_that_no_page_can_hold_goes_on_on_the_next() -> None:
    text = " ".join(f"word{n}" for n in range(3000))
    printed = Printer(TEMPLATES).pdf(
        facts(f"<div><dt>name</dt><dd>{text}</dd></div>"), None, "2026-11-21T01:02:00Z"
    )
    found = sheets(printed)
    assert len(found) > 2
    assert [word for sheet in found for word in re.findall(r"word\d+", sheet)] == text.split()


@pytest.mark.parametrize("code", ["en", "zh"])
@pytest.mark.parametrize("request_id", fabricated.REQUESTS)
def test_the_pdf_says_every_word_of_the_page(request_id: str, code: Code) -> None:
    found = {item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources())}
    html = pages.render(
        pages.environment(TEMPLATES, code), "report.html.j2", {"e": found[request_id]}
    )
    said = "".join(
        "".join(sheets(Printer(TEMPLATES).pdf(html, None, "2026-11-21T01:02:03Z"))).split()
    )
    body = re.sub(r"<(style|svg|nav)\b.*?</\1>", "", html[html.index("<body") :], flags=re.DOTALL)
    words = {word for text in re.split(r"<[^>]+>", body) for word in unescape(text).split()}
    said = said.replace("-", "")  # pdftotext drops those at the end of a line
    assert [word for word in sorted(words) if word.replace("-", "") not in said] == []


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
@example('#panic() $ ] #{ } // /* \\u{41} " @x <y>')
@example("\ufeff\ue000\x00\u202e\ufffe\U0010ffff")
@example("\U0001f389 \u5b3f \u0378 \u05e2\u05d1")
@example("x" * 4000)
def test_any_text_is_inert_and_printed(text: str) -> None:
    row = f"<div><dt>before</dt><dd><span class='whole'>{escape(text)}</span>after</dd></div>"
    pdf = PRINTER.pdf(facts(row), None, "2026-11-21T01:02:00Z")
    said = "".join(sheets(pdf))
    assert said.index("before") < said.index("after")
    plain = [word for word in re.findall(r"[A-Za-z0-9]+", text) if len(word) < 20]
    assert [word for word in plain if word not in said] == []
