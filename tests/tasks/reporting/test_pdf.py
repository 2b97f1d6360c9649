"""The report's PDF: what PDF/A-3a and PDF/UA-1 ask for and a library can look at, and the same
bytes everywhere.

No validator of PDF/A is at hand here, so reports say "declared". What is looked at stands in ISO
19005-3 and 14289-1.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pikepdf
import pytest

from tasks import report
from tasks.reporting import build_evidence
from tasks.reporting.pdf import Printer, no_collection
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
    (tree,) = ElementTree.fromstring(pdf.Root["/Metadata"].read_bytes())
    assert tree.tag == f"{RDF}RDF"
    return tree


def attribute(tree: ElementTree.Element, namespace: str, name: str) -> list[str]:
    """Values of a property that is written as an attribute."""
    return [
        value
        for item in tree
        for key, value in item.attrib.items()
        if key == f"{{{namespace}}}{name}"
    ]


def test_it_declares_pdf_a_3a_and_pdf_ua_1_and_describes_the_latter_as_the_former_asks(
    pdf: pikepdf.Pdf,
) -> None:
    tree = xmp(pdf)
    assert attribute(tree, "http://www.aiim.org/pdfa/ns/id/", "part") == ["3"]
    assert attribute(tree, "http://www.aiim.org/pdfa/ns/id/", "conformance") == ["A"]
    assert attribute(tree, "http://www.aiim.org/pdfua/ns/id/", "part") == ["1"]
    (described,) = tree.iterfind(".//extension:schemas//schema:namespaceURI", NAMES)
    assert described.text == "http://www.aiim.org/pdfua/ns/id/"
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
        assert found.text == "2026-11-21T01:02:03Z"
        assert str(pdf.docinfo[name]) == "D:20261121010203Z"


def test_colours_are_those_of_the_profile_that_it_carries(pdf: pikepdf.Pdf) -> None:
    (intent,) = pdf.Root["/OutputIntents"]
    assert intent["/S"] == "/GTS_PDFA1"
    assert intent["/DestOutputProfile"]["/N"] == 3
    assert len(intent["/DestOutputProfile"].read_bytes()) > 1000
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
    assert (
        str(stream["/Params"]["/ModDate"])
        == str(stream["/Params"]["/CreationDate"])
        == "D:20261121010203Z"
    )
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


def test_pictures_have_a_text_and_table_cells_their_headers(pdf: pikepdf.Pdf) -> None:
    found = list(structure(pdf.Root["/StructTreeRoot"]["/K"][0]))
    figures = [item for item in found if item["/S"] == "/Figure"]
    assert figures
    assert all(len(str(item["/Alt"])) > 3 for item in figures)
    heads = {str(item["/ID"]) for item in found if item["/S"] == "/TH" and "/ID" in item}
    cells = [
        item for item in found if item["/S"] == "/TD" and "/A" in item and "/Headers" in item["/A"]
    ]
    assert cells
    assert {str(name) for item in cells for name in item["/A"]["/Headers"]} <= heads


def test_links_say_where_they_lead_and_are_in_the_tag_tree(pdf: pikepdf.Pdf) -> None:
    for page in pdf.pages:
        assert page.obj["/Tabs"] == "/S"
        for annotation in page.obj.get("/Annots", []):
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


def test_a_style_sheet_parsed_once_for_many_pages_gives_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    html, attached = (folder / "report.html").read_text(encoding="utf-8"), folder / "evidence.json"
    printer = Printer(TEMPLATES)
    found = [printer.pdf(html, attached, "2026-11-21T01:02:03Z") for _ in range(2)]
    parsed = printer.parted(html)[1]
    assert printer.parted(html)[1] == parsed  # the same objects
    assert "<style>" not in printer.parted(html)[0]
    monkeypatch.setattr(printer, "parted", lambda text: (text, parsed[:1]))
    assert [printer.pdf(html, attached, "2026-11-21T01:02:03Z")] * 2 == found


def test_printing_leaves_the_collection_of_garbage_as_it_was(folder: Path) -> None:
    html, printer = (folder / "report.html").read_text(encoding="utf-8"), Printer(TEMPLATES)
    with pytest.raises(ValueError, match="broken"), no_collection():
        raise ValueError("broken")
    assert gc.isenabled()
    gc.disable()
    try:
        printer.pdf(html, folder / "evidence.json", "2026-11-21T01:02:03Z")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_a_page_was_made_with_is_gone_when_its_pdf_is_there(folder: Path) -> None:
    Printer(TEMPLATES).pdf(
        (folder / "report.html").read_text(encoding="utf-8"),
        folder / "evidence.json",
        "2026-11-21T01:02:03Z",
    )
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "PageBox"]


@pytest.mark.parametrize("space", range(0, 48, 6))
def test_a_row_of_facts_stands_on_one_page_with_its_whole_name(space: int) -> None:
    rows = "".join(
        f"<div><dt>begin{n} of a name that needs two lines end{n}</dt><dd>fact{n}</dd></div>"
        for n in range(40)
    )
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    html = (
        f'<html lang="en"><head><title>Facts</title><style>{style}</style></head><body><main>'
        f'<div style="height: {space}px"></div><dl class="pairs">{rows}</dl></main></body></html>'
    )
    printed = Printer(TEMPLATES).pdf(html, None, "2026-11-21T01:02:00Z")
    command = ["pdftotext", "-", "-"]
    text = subprocess.run(command, input=printed, stdout=subprocess.PIPE, check=True).stdout
    pages = [set(page.split()) for page in text.decode().split("\f") if page.strip()]
    assert len(pages) > 1
    for number in range(40):
        words = {f"begin{number}", f"end{number}", f"fact{number}"}
        assert any(words <= page for page in pages), number
