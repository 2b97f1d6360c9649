"""Stage `report`: one report per request as HTML, PDF and evidence, and the register of the batch.

The same evidence gives the same bytes, whatever the machine's clock, time zone, locale or hash
seed: every date comes from the batch's record and the requests.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import functools
import gc
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common import files, settings, stage_cli, worker_pool
from tasks.common.errors import AuditError, EvidenceError, WorkspaceError
from tasks.common.language import SOURCE, Code, Language, suffixes
from tasks.reporting import batch_register as listing
from tasks.reporting import charts, evidence

if TYPE_CHECKING:
    import jinja2

RESERVED = re.compile(r"(index|register|summary)\..*", re.IGNORECASE)
"""Names of files beside the folders of the requests."""
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
REPORTS_PER_PROCESS = 2
"""So many reports take longer than to start a process that helps."""
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PDF_UA = b"""<rdf:Description rdf:about="" xmlns:pdfuaid="http://www.aiim.org/pdfua/ns/id/" pdfuaid:part="1"/>
<rdf:Description rdf:about="" xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/"
 xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#" xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#">
<pdfaExtension:schemas><rdf:Bag><rdf:li rdf:parseType="Resource">
<pdfaSchema:schema>PDF/UA identification schema</pdfaSchema:schema>
<pdfaSchema:namespaceURI>http://www.aiim.org/pdfua/ns/id/</pdfaSchema:namespaceURI>
<pdfaSchema:prefix>pdfuaid</pdfaSchema:prefix>
<pdfaSchema:property><rdf:Seq><rdf:li rdf:parseType="Resource">
<pdfaProperty:name>part</pdfaProperty:name>
<pdfaProperty:valueType>Integer</pdfaProperty:valueType>
<pdfaProperty:category>internal</pdfaProperty:category>
<pdfaProperty:description>Part of ISO 14289 that the document follows</pdfaProperty:description>
</rdf:li></rdf:Seq></pdfaSchema:property>
</rdf:li></rdf:Bag></pdfaExtension:schemas>
</rdf:Description>
"""
PANGO = (
    "the PDF needs the Pango library, which is not installed; install libpango-1.0-0 and "
    "libpangoft2-1.0-0 "
    "(Debian, Ubuntu) or pango (Fedora, Homebrew), then run again"
)


def main(
    batch: str,
    verdicts: Path,
    lineage: Path,
    register: Path,
    checks: Path,
    trace: Path,
    record: Path,
    templates: Path,
    params: Path,
    out: Path,
    probes: Path | None = None,
    decisions: Path | None = None,
) -> None:
    """Write the report of every request of the batch, its index page and its register.

    Example: python -m tasks.report --batch demo --verdicts artifacts/verify/verdicts.json
    --lineage artifacts/score/lineage.json --register artifacts/resolve/register.json --checks artifacts/check
    --trace artifacts/unlearn/trace.csv --record ledger/batches/demo.json --templates reports/templates
    --params params.yaml --probes artifacts/probe/probes.json
    --decisions ledger/decisions/demo.json --out reports/demo
    """
    sources = evidence.Sources(
        batch=batch,
        verdicts=files.read_json(verdicts),
        lineage=files.read_json(lineage),
        register=files.read_json(register),
        data_checks=files.read_json(checks / "data.json"),
        request_checks=files.read_json(checks / "requests.json"),
        trace=read_trace(trace),
        record=files.read_json(record),
        settings=settings.load(params),
        probes=files.read_json(probes) if probes else {},
        decisions=files.read_json(decisions) if decisions else {},
    )
    write(evidence.build_all(sources), templates, out, listing.earlier(sources.record))


def write(
    found: Sequence[dict[str, Any]],
    templates: Path,
    out: Path,
    earlier: Sequence[listing.Past] = (),
) -> None:
    """Write the reports of a batch as a whole or not at all.

    Args:
        found: the evidence of every request, from `evidence.build_all`.
        templates: folder with `report.html.j2`, `index.html.j2`, `style.css`, `fonts.css` and
            `fonts/`.
        out: the batch's folder, replaced at the end.
        earlier: earlier batches, for the summary.

    Raises:
        EvidenceError: a template asks for something that the evidence does not have.
        WorkspaceError: a template or the Pango library is missing.
    """
    codes = sorted({code for item in found for code in item["languages"]})
    press = functools.cache(lambda: Press(templates, codes))
    folders = folder_names(found)
    with files.whole_folder(out) as draft:
        jobs = [(item, draft / folder) for item, folder in zip(found, folders, strict=True)]
        done = worker_pool.each(
            write_one,
            jobs,
            press,
            functools.partial(Press, templates, codes),
            worth=REPORTS_PER_PROCESS,
        )
        for count, (item, folder) in enumerate(done, start=1):
            stage_cli.say(
                f"report {count}/{len(found)}: {folder.name}, {item['outcome'].replace('_', ' ')}"
            )
        listed = listing.of(found, folders, draft)
        files.write_json(draft / listing.FILE, listed.model_dump(mode="json", by_alias=True))
        files.write_text(draft / listing.TABLE, listing.table([listed]))
        for code, suffix in suffixes(listed.languages).items():
            write_overview(listed, earlier, draft, press().pages[code], press().printer, suffix)


def write_overview(
    listed: listing.Register,
    earlier: Sequence[listing.Past],
    folder: Path,
    pages: jinja2.Environment,
    printer: Printer,
    suffix: str = "",
) -> None:
    """Write a batch's pages in one language: the table of its requests, and the summary as page and
    PDF."""
    files.write_text(folder / f"index{suffix}.html", index_page(listed, pages, suffix))
    html = render(pages, "summary.html.j2", {**listing.summary(listed, earlier), "suffix": suffix})
    files.write_text(folder / f"summary{suffix}.html", html)
    files.write_bytes(
        folder / f"summary{suffix}.pdf", printer.pdf(html, folder / listing.FILE, listed.started)
    )


def index_page(listed: listing.Register, pages: jinja2.Environment, suffix: str = "") -> str:
    """The table of a batch's requests."""
    return render(pages, "index.html.j2", {**listing.page([listed]), "r": listed, "suffix": suffix})


def write_one(press: Press, job: tuple[dict[str, Any], Path]) -> None:
    """Write the evidence of one request into its folder, and its report in each of its
    languages."""
    item, folder = job
    evidence_file = folder / "evidence.json"
    files.write_json(evidence_file, item)
    for code, suffix in suffixes(item["languages"]).items():
        html = render(press.pages[code], "report.html.j2", {"e": item})
        pdf = press.printer.pdf(html, evidence_file, item["provenance"]["started"])
        files.write_text(folder / f"report{suffix}.html", html)
        files.write_bytes(folder / f"report{suffix}.pdf", pdf)


def folder_names(found: Sequence[dict[str, Any]]) -> list[str]:
    """A folder for each request: its id, or its place in the file where the id is no safe or no
    unique name.

    An accepted request keeps its id when a rejected one claims the same.
    """
    taken: set[str] = set()
    names = [""] * len(found)
    for index in sorted(
        range(len(found)), key=lambda index: (found[index]["status"] == "rejected", index)
    ):
        name = str(found[index]["request"]["id"])
        if not FOLDER.fullmatch(name) or RESERVED.fullmatch(name) or name.casefold() in taken:
            name = spare_name(found[index]["request"]["position"], taken)
        taken.add(name.casefold())
        names[index] = name
    return names


def spare_name(position: int, taken: set[str]) -> str:
    """A name from the request's place in the file that nobody has yet."""
    name = f"request-{position}"
    while name in taken:
        name += "-again"
    return name


def read_trace(path: Path) -> list[dict[str, str]]:
    """The rows of `trace.csv`. Raises `EvidenceError` where the file is missing or no text."""
    try:
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(
            f"{path}: expected the trace of unlearning as CSV; run the stage unlearn"
        ) from error


def environment(templates: Path, language: Code = SOURCE) -> jinja2.Environment:
    """The template engine: everything is escaped, and what is missing is an error.

    Args:
        templates: folder of the templates, and in its `locales` the catalogues.
        language: of the pages.
    """
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    Language.load(language, templates / "locales").install(found)
    found.filters.update(json=shown_json)
    found.globals.update(charts.HELPERS)
    found.globals["font"] = lambda name: as_address(templates / "fonts" / name)
    return found


def render(pages: jinja2.Environment, name: str, view: dict[str, Any]) -> str:
    """One page. Raises `EvidenceError` for a missing value, `WorkspaceError` for a missing or
    broken template."""
    import jinja2

    try:
        return pages.get_template(name).render(view)
    except jinja2.UndefinedError as error:
        raise EvidenceError(f"{name}: {error.message}; the evidence has no such value") from error
    except jinja2.TemplateError as error:
        raise WorkspaceError(f"reports/templates, {name}: {error}; restore it with git") from error


class Press:
    """What reports are made with: the pages of each language, and the printer."""

    def __init__(self, templates: Path, codes: Iterable[Code]) -> None:
        """Set up for pages in these languages.

        Raises:
            WorkspaceError: a template, a catalogue, a font or the Pango library is missing.
        """
        self.pages = {code: environment(templates, code) for code in codes}
        self.printer = Printer(templates)


class Printer:
    """Makes PDFs; fonts and style sheets are read once, though every page has its own style sheet
    within it."""

    def __init__(self, templates: Path) -> None:
        """Set up WeasyPrint. Raises `WorkspaceError` where the Pango library or a font is
        missing."""
        try:
            import weasyprint
            from weasyprint.text.fonts import FontConfiguration
        except OSError as error:
            raise WorkspaceError(PANGO) from error
        sheet = templates / "fonts.css"
        if not sheet.exists():
            raise WorkspaceError(f"{sheet}: no such file; restore reports/templates with git")
        self._weasyprint: Any = weasyprint
        self.fonts: Any = FontConfiguration()
        self._typefaces: Any = weasyprint.CSS(filename=sheet, font_config=self.fonts)
        self._styles: dict[str, Any] = {}

    def pdf(self, html: str, attached: Path, started: str) -> bytes:
        """A page as PDF, tagged, with an attachment; it declares itself PDF/A-3a and PDF/UA-1.

        Args:
            html: the page.
            attached: file that the PDF carries.
            started: time stamp (RFC 3339) for every date in the PDF.
        """
        moment = evidence.moment(started)
        attachment = self._weasyprint.Attachment(
            string=attached.read_bytes(),
            name=attached.name,
            description="The evidence of this report, machine-readable",
            created=moment,
            modified=moment,
            relationship="Data",
        )
        with source_date(int(moment.timestamp())), no_collection():
            return self._printed(html, attachment)

    def _printed(self, html: str, attachment: Any) -> bytes:
        """The PDF; what it was made with is garbage when this returns, and is collected before the
        next page."""
        target = BytesIO()
        text, styles = self.parted(html)
        page = self._weasyprint.HTML(string=text, url_fetcher=no_fetching).render(
            font_config=self.fonts, stylesheets=styles
        )
        about = page.metadata.generate_rdf_metadata
        page.metadata.generate_rdf_metadata = lambda *names: accessible(about(*names))
        page.write_pdf(
            target,
            attachments=[attachment],
            pdf_variant="pdf/a-3a",
            pdf_identifier=hashlib.sha256(html.encode()).hexdigest()[:32].encode(),
        )
        return target.getvalue()

    def parted(self, html: str) -> tuple[str, list[Any]]:
        """A page without its style sheets, and these, parsed the first time that they are met."""
        found = STYLE.findall(html)
        for text in found:
            if text not in self._styles:
                self._styles[text] = self._weasyprint.CSS(
                    string=text, font_config=self.fonts, url_fetcher=no_fetching
                )
        return STYLE.sub("", html), [self._typefaces, *(self._styles[text] for text in found)]


def accessible(rdf: bytes) -> bytes:
    """A PDF's metadata with the mark of PDF/UA-1 and the description of it that PDF/A wants (ISO
    19005-3, 6.6.2)."""
    return rdf.replace(b"</rdf:RDF>", PDF_UA + b"</rdf:RDF>")


def no_fetching(url: str, *_: Any, **__: Any) -> Any:
    """Refuse every address: a report is one self-contained file."""
    raise AuditError(f"a report asked for {url[:100]!r}; it has to be self-contained")


@contextlib.contextmanager
def source_date(seconds: int) -> Iterator[None]:
    """Set SOURCE_DATE_EPOCH, which dates the embedded fonts, and put back what was there."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = str(seconds)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Leave garbage alone for a while: of the million objects of a page none is any until the page
    is done."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@functools.cache
def as_address(font: Path) -> str:
    """A font as a data: address, so that a page is one file. Raises `WorkspaceError` where it is
    missing."""
    try:
        return "data:font/woff2;base64," + base64.b64encode(font.read_bytes()).decode()
    except OSError as error:
        raise WorkspaceError(
            f"{font}: no font can be read ({error}); restore reports/templates with git"
        ) from error


def shown_json(value: Any) -> str:
    """A setting's value as one writes it."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


if __name__ == "__main__":
    stage_cli.run(main)
