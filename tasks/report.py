"""Stage `report`: one report per request as HTML, PDF and evidence, and the register of the batch.

The same evidence gives the same bytes, whatever the machine's clock, time zone, locale or hash seed: every date comes
from the batch's record and the requests.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import evidence, files, settings, stage
from tasks import register as listing
from tasks.errors import AuditError, EvidenceError, WorkspaceError
from tasks.language import SOURCE, Code, Language, suffixes

if TYPE_CHECKING:
    import jinja2

MOST_GROUPS = 20
"""A report shows so many groups at most; all of them are in its evidence."""
RESERVED = re.compile(r"(index|register|summary)\..*", re.IGNORECASE)
"""Names of files beside the folders of the requests."""
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
    "the PDF needs the Pango library, which is not installed; install libpango-1.0-0 and libpangoft2-1.0-0 "
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


def write(found: Sequence[dict[str, Any]], templates: Path, out: Path, earlier: Sequence[listing.Past] = ()) -> None:
    """Write the reports of a batch as a whole or not at all.

    Args:
        found: the evidence of every request, from `evidence.build_all`.
        templates: folder with `report.html.j2`, `index.html.j2`, `style.css`, `fonts.css` and `fonts/`.
        out: the batch's folder, replaced at the end.
        earlier: earlier batches, for the summary.

    Raises:
        EvidenceError: a template asks for something that the evidence does not have.
        WorkspaceError: a template or the Pango library is missing.
    """
    pages = {
        code: environment(templates, code) for code in sorted({code for item in found for code in item["languages"]})
    }
    printer = Printer(templates)
    folders = folder_names(found)
    with files.whole_folder(out) as draft:
        for place, (item, folder) in enumerate(zip(found, folders, strict=True), start=1):
            write_one(item, draft / folder, pages, printer)
            stage.say(f"report {place}/{len(found)}: {folder}, {item['outcome'].replace('_', ' ')}")
        listed = listing.of(found, folders, draft)
        files.write_json(draft / listing.FILE, listed.model_dump(mode="json", by_alias=True))
        files.write_text(draft / listing.TABLE, listing.table([listed]))
        for code, suffix in suffixes(listed.languages).items():
            write_overview(listed, earlier, draft, pages[code], printer, suffix)


def write_overview(
    listed: listing.Register,
    earlier: Sequence[listing.Past],
    folder: Path,
    pages: jinja2.Environment,
    printer: Printer,
    suffix: str = "",
) -> None:
    """Write a batch's pages in one language: the table of its requests, and the summary as page and PDF."""
    files.write_text(folder / f"index{suffix}.html", index_page(listed, pages, suffix))
    html = render(pages, "summary.html.j2", {**listing.summary(listed, earlier), "suffix": suffix})
    files.write_text(folder / f"summary{suffix}.html", html)
    files.write_bytes(folder / f"summary{suffix}.pdf", printer.pdf(html, folder / listing.FILE, listed.started))


def index_page(listed: listing.Register, pages: jinja2.Environment, suffix: str = "") -> str:
    """The table of a batch's requests."""
    return render(pages, "index.html.j2", {**listing.page([listed]), "r": listed, "suffix": suffix})


def write_one(item: dict[str, Any], folder: Path, pages: Mapping[Code, jinja2.Environment], printer: Printer) -> None:
    """Write the evidence of one request, and its report in each of its languages."""
    evidence_file = folder / "evidence.json"
    files.write_json(evidence_file, item)
    for code, suffix in suffixes(item["languages"]).items():
        html = render(pages[code], "report.html.j2", {"e": item})
        files.write_text(folder / f"report{suffix}.html", html)
        files.write_bytes(
            folder / f"report{suffix}.pdf", printer.pdf(html, evidence_file, item["provenance"]["started"])
        )


def folder_names(found: Sequence[dict[str, Any]]) -> list[str]:
    """A folder for each request: its id, or its place in the file where the id is no safe or no unique name.

    An accepted request keeps its id when a rejected one claims the same.
    """
    taken: set[str] = set()
    names = [""] * len(found)
    for index in sorted(range(len(found)), key=lambda index: (found[index]["status"] == "rejected", index)):
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
        raise EvidenceError(f"{path}: expected the trace of unlearning as CSV; run the stage unlearn") from error


def environment(templates: Path, language: Code = SOURCE) -> jinja2.Environment:
    """The template engine: everything is escaped, and what is missing is an error.

    Args:
        templates: folder of the templates; `locales` beside it holds the catalogues.
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
    Language.load(language, templates.parent / "locales").install(found)
    found.filters.update(json=shown_json)
    found.globals.update(linear=Line, influence_range=influence_range, loss_range=loss_range, shares=shares)
    found.globals.update(place_in=place_in, worst_first=worst_first)
    return found


def render(pages: jinja2.Environment, name: str, view: dict[str, Any]) -> str:
    """One page. Raises `EvidenceError` for a missing value, `WorkspaceError` for a missing or broken template."""
    import jinja2

    try:
        return pages.get_template(name).render(view)
    except jinja2.UndefinedError as error:
        raise EvidenceError(f"{name}: {error.message}; the evidence has no such value") from error
    except jinja2.TemplateError as error:
        raise WorkspaceError(f"reports/templates, {name}: {error}; restore it with git") from error


class Printer:
    """Makes PDFs; fonts and their style sheet are read once."""

    def __init__(self, templates: Path) -> None:
        """Set up WeasyPrint. Raises `WorkspaceError` where the Pango library or a font is missing."""
        try:
            import weasyprint
            from weasyprint.text.fonts import FontConfiguration
        except OSError as error:
            raise WorkspaceError(PANGO) from error
        sheet = templates / "fonts.css"
        if not sheet.exists():
            raise WorkspaceError(f"{sheet}: no such file; restore reports/templates with git")
        self._weasyprint: Any = weasyprint
        self._fonts: Any = FontConfiguration()
        self._sheet: Any = weasyprint.CSS(filename=sheet, font_config=self._fonts)

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
        target = BytesIO()
        with source_date(int(moment.timestamp())):
            page = self._weasyprint.HTML(string=html, url_fetcher=no_fetching).render(
                font_config=self._fonts, stylesheets=[self._sheet]
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


def accessible(rdf: bytes) -> bytes:
    """A PDF's metadata with the mark of PDF/UA-1, and the description of it that PDF/A asks for (ISO 19005-3, 6.6.2)."""
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


def shown_json(value: Any) -> str:
    """A setting's value as one writes it."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True)
class Line:
    """A straight scale from values to a picture's coordinates; values beyond the ends are put on the end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of `value`, to a tenth of a pixel."""
        inside = min(max(value, self.low), self.high)
        return round(self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def beyond(self, value: float) -> bool:
        """True where `value` lies outside the scale."""
        return not self.low <= value <= self.high


def influence_range(item: dict[str, Any]) -> tuple[float, float]:
    """The part of the residual-influence axis to show: -1 … 1.5, wider where need be, but within -2.5 … 3."""
    points, trials = item["influence_points"], item["self_check"]
    found = [points[name] for name in ("unlearned", "original", "retrained")] + points["with"] + points["without"]
    for interval in (item["residual_influence"], trials["original"], trials["retrained"]):
        found += [interval["low"], interval["high"]]
    known = [value for value in found if value is not None]
    return max(-2.5, min([-1.0, *known]) - 0.05), min(3.0, max([1.5, *known]) + 0.05)


def loss_range(values: Sequence[float | None]) -> tuple[float, float]:
    """From zero, or the lowest loss below it, to the highest; never of no width."""
    known = [value for value in values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    return low, high if high > low else low + 1.0


def shares(distribution: dict[str, Any], most: int = 10) -> list[dict[str, Any]]:
    """The classes to draw: the `most` that some model predicts most often, in their order, the rest as one.

    The rest has no range of the retrained models: lowest and highest of single classes do not add up.
    """
    models = [model for model in ("original", "unlearned", "retrained") if distribution[model] is not None]
    known = [key for key in (*models, "retrained_low", "retrained_high") if distribution[key] is not None]
    lines: list[dict[str, Any]] = [
        {"label": str(label), **{key: distribution[key][place] for key in known}}
        for place, label in enumerate(distribution["labels"])
    ]
    ranked = sorted(range(len(lines)), key=lambda place: (-max(lines[place][model] for model in models), place))
    drawn = [place for place in ranked[:most] if any(lines[place][model] for model in models)]
    rest = [line for place, line in enumerate(lines) if place not in drawn]
    other = {"label": "other", **{model: min(1.0, sum(line[model] for line in rest)) for model in models}}
    return [lines[place] for place in sorted(drawn)] + ([other] if any(other[model] for model in models) else [])


def place_in(value: float, band: Sequence[float] | None) -> str:
    """Where a value lies against the range of the retrained models: inside, above or below; empty without a range."""
    if band is None:
        return ""
    return "above" if value > band[1] else "below" if value < band[0] else "inside"


def worst_first(groups: Sequence[dict[str, Any]], most: int = MOST_GROUPS) -> list[dict[str, Any]]:
    """The groups to show: those that are worse, then the least likely by chance; at most `most`."""
    return sorted(groups, key=lambda group: (not group["worse"], group["p_worse"]))[:most]


if __name__ == "__main__":
    stage.run(main)
