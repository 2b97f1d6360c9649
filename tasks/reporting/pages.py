"""Pages of a report, rendered from templates."""

from __future__ import annotations

import base64
import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common.errors import EvidenceError, WorkspaceError
from tasks.common.language import SOURCE, Code, Language
from tasks.reporting import charts, chronology, coverage

if TYPE_CHECKING:
    import jinja2


_GAP = re.compile(
    r'(?P<kept><(?:span class="[^"]*\bwhole\b[^"]*"|pre\b[^>]*)>[^<]*)'
    r"|(?P<sign>[。；：，！？](?:</\w+>)?)\s+(?=\S)"
)
"""A space after a Chinese punctuation mark, which has its own; templates put one between sentences.
Text that others wrote keeps its spaces."""


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
    if speaker.code != "zh":
        return page
    return _GAP.sub(lambda match: match["kept"] or match["sign"], page)


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
