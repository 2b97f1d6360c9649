"""The languages of the reports: text from gettext catalogues, numbers and dates by locale.

English is the language of the source. Every other one is a catalogue, `reports/locales/<code>.po`, which is compiled in
memory. A sentence made by a stage is English text for programs and people that also knows how it was made, so that
`evidence.json` alone is enough to tell it in another language.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import WorkspaceError

if TYPE_CHECKING:
    import jinja2

SOURCE = "en"
"""The language that is written in the source, and needs no catalogue."""
LANGUAGES = {"en": "en_GB", "zh": "zh_CN"}
"""Languages of the reports, with the locale that numbers and dates follow."""
NATIVE = {"en": "English", "zh": "中文"}


class Language:
    """One language: its messages, and how it writes numbers, dates and times."""

    def __init__(self, code: str, messages: NullTranslations) -> None:
        """Args:
        code: one of `LANGUAGES`.
        messages: the compiled catalogue.
        """
        self.code = code
        self.gettext = messages.gettext
        self.ngettext = messages.ngettext

    @classmethod
    def load(cls, code: str, locales: Path) -> Language:
        """A language with its catalogue.

        Args:
            code: one of `LANGUAGES`.
            locales: folder with the catalogues.

        Raises:
            WorkspaceError: the language is unknown, or its catalogue is missing or broken.
        """
        if code not in LANGUAGES:
            raise WorkspaceError(f"got the language {code[:20]!r}, expected one of {', '.join(LANGUAGES)}")
        return cls(code, NullTranslations() if code == SOURCE else compiled(locales / f"{code}.po"))

    @cached_property
    def locale(self) -> Any:
        """Babel's locale."""
        import babel

        return babel.Locale.parse(LANGUAGES[self.code])

    def install(self, pages: jinja2.Environment) -> None:
        """Make templates speak this language: `{% trans %}`, `_()`, the filters, and `language`, this object."""
        pages.add_extension("jinja2.ext.i18n")
        pages.install_gettext_callables(self.gettext, self.ngettext, newstyle=True)  # type: ignore[attr-defined]
        pages.policies["ext.i18n.trimmed"] = True
        pages.filters.update(number=self.number, percent=self.percent, p_value=self.p_value)
        pages.filters.update(day=self.day, when=self.when, duration=self.duration, told=self.told)
        pages.globals["language"] = self

    def number(self, value: float, digits: int = 2) -> str:
        """A number with a true minus sign, and no minus before a zero."""
        from babel.numbers import format_decimal

        rounded = Decimal(f"{value:.{digits}f}")
        pattern = "#,##0." + "0" * digits if digits else "#,##0"
        return format_decimal(rounded or abs(rounded), pattern, self.locale).replace("-", "\u2212")

    def percent(self, share: float, digits: int = 1) -> str:
        """A share as a percentage."""
        return self.gettext("%(number)s\u00a0%%") % {"number": self.number(100 * share, digits)}

    def p_value(self, value: float) -> str:
        """A p-value to three places; smaller ones say so."""
        return f"< {self.number(0.001, 3)}" if value < 0.001 else self.number(value, 3)

    def day(self, text: str) -> str:
        """`2026-11-21` or a time stamp as 21 November 2026, in the time stamp's own zone."""
        from babel.dates import format_date

        return format_date(date.fromisoformat(text[:10]), "long", self.locale).replace(" ", "\u00a0")

    def when(self, text: str) -> str:
        """A time stamp as 21 November 2026, 01:02 UTC, in its own zone; other text, from a bad request, as it is."""
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            return text
        if found.tzinfo is None:
            return text
        told = self.gettext("%(day)s, %(time)s")
        return told % {"day": self.day(text), "time": f"{found:%H:%M} {found.tzname() or ''}".rstrip()}

    def duration(self, seconds: float) -> str:
        """A time in the unit that fits."""
        if seconds < 90:
            return self.gettext("%(number)s\u00a0s") % {"number": self.number(seconds, 1 if seconds >= 1 else 2)}
        if seconds < 5400:
            return self.gettext("%(number)s\u00a0min") % {"number": self.number(seconds / 60, 1)}
        return self.gettext("%(number)s\u00a0h") % {"number": self.number(seconds / 3600, 1)}

    def told(self, text: str) -> str:
        """A sentence of the evidence in this language."""
        return text


def compiled(path: Path) -> GNUTranslations:
    """A catalogue, compiled in memory. Raises `WorkspaceError` where it is missing or broken."""
    from babel.messages import mofile, pofile

    try:
        with path.open("rb") as file:
            catalogue = pofile.read_po(file, abort_invalid=True)
    except (OSError, ValueError, pofile.PoFileError) as error:
        raise WorkspaceError(f"{path}: this catalogue cannot be read ({error}); restore it with git") from error
    target = BytesIO()
    mofile.write_mo(target, catalogue)
    target.seek(0)
    return GNUTranslations(target)
