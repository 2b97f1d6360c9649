"""Pages as PDF: tagged, with their evidence attached, the same bytes every time."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from tasks.common.errors import AuditError, WorkspaceError
from tasks.reporting.evidence_sources import moment

STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
PDF_UA = b"""<rdf:Description rdf:about="" \
xmlns:pdfuaid="http://www.aiim.org/pdfua/ns/id/" pdfuaid:part="1"/>
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

    def pdf(self, html: str, attached: Path | None, started: str) -> bytes:
        """A page as PDF, tagged; it declares itself PDF/A-3a and PDF/UA-1.

        Args:
            html: the page.
            attached: file that the PDF carries; None: none.
            started: time stamp (RFC 3339) for every date in the PDF.
        """
        created = moment(started)
        attachments = [] if attached is None else [self._attachment(attached, created)]
        with source_date(int(created.timestamp())), no_collection():
            return self._printed(html, attachments)

    def _attachment(self, attached: Path, created: datetime) -> Any:
        return self._weasyprint.Attachment(
            string=attached.read_bytes(),
            name=attached.name,
            description="The evidence of this report, machine-readable",
            created=created,
            modified=created,
            relationship="Data",
        )

    def _printed(self, html: str, attachments: list[Any]) -> bytes:
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
            attachments=attachments,
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
