"""Pages of a report, rendered from templates."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common.errors import EvidenceError, WorkspaceError
from tasks.common.language import SOURCE, Code, Language
from tasks.reporting import charts, chronology, coverage

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


_GAP = re.compile(
    r'(?P<kept><(?:span class="[^"]*\bwhole\b[^"]*"|pre\b[^>]*)>[^<]*)'
    r"|(?P<sign>[。；：，！？](?:</\w+>)?)\s+(?=\S)"
)
"""A space after a Chinese punctuation mark, which has its own; templates put one between sentences.
Text that others wrote keeps its spaces."""
_CELL = re.compile(
    r'<(?P<tag>t[hd])\b(?:(?! colspan)[^>])*(?: colspan="(?P<span>\d+)")?[^>]*>'
    r"(?P<body>.*?)</(?P=tag)>",
    re.DOTALL,
)
_ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def environment(templates: Path, language: Code = SOURCE) -> jinja2.Environment:
    """The template engine: everything is escaped, and what is missing is an error.

    Args:
        templates: folder of the templates, and in its `locales` the catalogues.
        language: of the pages.
    """
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    Language.load(language, templates / "locales").install(pages)
    pages.filters.update(json=shown_json)
    pages.globals.update({**charts.HELPERS, **chronology.HELPERS, **coverage.HELPERS})
    pages.globals["with_labels"] = with_labels
    pages.globals["font"] = lambda name: as_address(templates / "fonts" / name)
    return pages


def render(pages: jinja2.Environment, name: str, view: dict[str, Any]) -> str:
    """One page. Raises `EvidenceError` for a missing value, `WorkspaceError` for a missing or
    broken template."""
    import jinja2

    try:
        page = pages.get_template(name).render(view)
    except jinja2.UndefinedError as error:
        raise EvidenceError(f"{name}: {error.message}; the evidence has no such value") from error
    except jinja2.TemplateError as error:
        raise WorkspaceError(f"reports/templates, {name}: {error}; restore it with git") from error
    speaker: Any = pages.globals["language"]
    if speaker.code != "zh" or name.endswith(".txt.j2"):  # whose blank lines part paragraphs
        return page
    return _GAP.sub(lambda match: match["kept"] or match["sign"], page)


def with_labels(table: Markup) -> Markup:
    """A table whose cells name their columns: on a phone its rows are stacked, and the head row is
    out of sight.

    Args:
        table: a rendered table with one row of heads; what others wrote in it is escaped.
    """
    from markupsafe import Markup

    head, end, body = str(table).partition("</thead>")
    names = [" ".join(_TAG.sub(" ", cell["body"]).split()) for cell in _CELL.finditer(head)]

    def named(row: re.Match[str]) -> str:
        columns = iter(names)

        def cell(match: re.Match[str]) -> str:
            covered = list(itertools.islice(columns, int(match["span"] or 1)))
            if match["tag"] == "th" or len(covered) != 1:
                return match[0]
            return f'<td data-name="{covered[0]}"{match[0][3:]}'

        return _CELL.sub(cell, row[0])

    return Markup(head + end + _ROW.sub(named, body))  # noqa: S704 what is in it was escaped


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
