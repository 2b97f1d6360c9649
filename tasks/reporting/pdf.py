"""Pages as PDF by Typst: tagged, with their evidence attached, the same bytes every time.

Typst checks PDF/A-3a and PDF/UA-1 while it writes: a page that does not hold to them is an error.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.common.errors import WorkspaceError
from tasks.reporting import page_tree
from tasks.reporting.evidence_sources import moment

LAYOUT = "pdf.typ"
FONTS = (
    "SourceSans3-Regular.ttf",
    "SourceSans3-Semibold.ttf",
    "NotoSansSC-Regular.ttf",
    "NotoSansSC-Bold.ttf",
    "NotoSansSC-More.ttf",
)
STANDARDS = ["a-3a", "ua-1"]
_QUOTED = re.compile(r"[`\"].*[`\"]", re.DOTALL)
_NO_GLYPH = "could not be displayed"
"""In Typst's message where no typeface has a character."""


@dataclass(frozen=True)
class _Typefaces:
    """A compiler of Typst that knows some typefaces.

    Attributes:
        compiler: it.
        fallbacks: families to look in for what the layout's own typefaces lack.
    """

    compiler: Any
    fallbacks: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, machine: bool) -> _Typefaces:
        """Those of a folder, and perhaps all of this machine."""
        import typst

        fonts = typst.Fonts(include_system_fonts=machine, font_paths=[str(folder)])
        return cls(
            typst.Compiler(root=str(folder), font_paths=fonts),
            tuple(sorted(fonts.families())) if machine else (),
        )

    def compile(self, layout: bytes, inputs: dict[str, str], started: str) -> bytes:
        """The PDF of a layout and its inputs."""
        pdf: bytes = self.compiler.compile(
            layout,
            format="pdf",
            sys_inputs={**inputs, "fallbacks": json.dumps(self.fallbacks)},
            pdf_standards=STANDARDS,
            timestamp=moment(started).replace(microsecond=0),  # Typst takes whole seconds
        )
        return pdf + b"\n"  # a signature that is appended begins on a line of its own


class Printer:
    """Makes PDFs; layout and typefaces are read once."""

    def __init__(self, templates: Path) -> None:
        """Read the layout. Raises `WorkspaceError` where it or a typeface is missing."""
        self._fonts = templates / "fonts"
        self._file = templates / LAYOUT
        for file in (self._file, *(self._fonts / name for name in FONTS)):
            if not file.is_file():
                raise WorkspaceError(f"{file}: no such file; restore reports/templates with git")
        self._layout = self._file.read_bytes()
        self._own = _Typefaces.of(self._fonts, machine=False)

    def pdf(self, html: str, attached: Path | None, started: str) -> bytes:
        """A page as PDF/A-3a and PDF/UA-1.

        Its typefaces are those of `reports/templates/fonts`. Only a text with characters that these
        lack, as some names have, is set in typefaces of the machine, too; what none of them has is
        shown as a replacement character.

        Args:
            html: the page.
            attached: JSON file that the PDF carries; None: none.
            started: time stamp (RFC 3339) for every date in the PDF.

        Raises:
            WorkspaceError: the layout is broken.
        """
        import typst

        data, inputs = page_tree.read(html), {}
        if attached is not None:
            inputs["attached"] = attached.read_bytes().decode()
            data["attached"] = [attached.name, "The evidence of this report, machine-readable"]
        refused = ""
        for typefaces, page in self._attempts(json.dumps(data, ensure_ascii=False)):
            try:
                return typefaces.compile(self._layout, {**inputs, "page": page}, started)
            except typst.TypstError as error:
                refused = error.message
            if _NO_GLYPH not in refused:
                break
        message = _QUOTED.sub("…", refused)  # what Typst quotes of the page may be personal data
        raise WorkspaceError(f"{self._file}: Typst says {message!r}; restore it with git")

    def _attempts(self, page: str) -> Iterator[tuple[_Typefaces, str]]:
        """The ways to print a page, the next for each that lacks a glyph."""
        yield self._own, page
        yield self._machine, page
        yield self._machine, self._replaced(page, lambda sign: not sign.isalnum())
        yield self._own, self._replaced(page, lambda _: True)

    @functools.cached_property
    def _machine(self) -> _Typefaces:
        return _Typefaces.of(self._fonts, machine=True)

    def _replaced(self, page: str, rare: Callable[[str], bool]) -> str:
        """A page in which characters without a glyph of ours are replaced, those that are rare."""
        strange = {ord(sign) for sign in set(page) - self._covered if rare(sign)}
        return page.translate(dict.fromkeys(strange, page_tree.REPLACEMENT))

    @functools.cached_property
    def _covered(self) -> frozenset[str]:
        """The characters that our typefaces have a glyph for."""
        from fontTools.ttLib import TTFont

        return frozenset(
            chr(code) for name in FONTS for code in TTFont(self._fonts / name).getBestCmap()
        )
