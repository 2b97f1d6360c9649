"""The languages of the reports: text from gettext catalogues, numbers and dates by locale.

English is the language of the source. Every other language is a catalogue,
`reports/templates/locales/<code>.po`, which is compiled in memory. Stages write `Sentence`s:
English text that also keeps the message and the values it was made from. Both are stored beside the
text in the stage's file and in `evidence.json`, so that file is enough to translate it.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tasks.common.errors import WorkspaceError

if TYPE_CHECKING:
    import jinja2

Code = Literal["en", "zh"]
SOURCE: Code = "en"
"""The language of the source, which needs no catalogue."""
LOCALES: dict[Code, str] = {"en": "en_GB", "zh": "zh_CN"}
"""The locale of numbers and dates in each language."""
NATIVE: dict[Code, str] = {"en": "English", "zh": "中文 (Chinese)"}
"""The name of each language in itself."""
SENTENCES = "sentences"
"""Key under which a file keeps the messages and values of its sentences, by their English text."""


class Sentence(str):
    """English text that keeps the message and the values it was made from."""

    message: str
    values: dict[str, str | int | float]

    def __new__(cls, message: str, values: Mapping[str, Any]) -> Sentence:
        """Args: message: English text with `{name}` or `{name:format}` where a value goes, as
        `str.format` reads it. values: text, numbers and other sentences.
        """
        plain_values = {name: _plain(value) for name, value in values.items()}
        sentence = super().__new__(cls, _fill(message, plain_values, _english))
        sentence.message, sentence.values = message, plain_values
        return sentence

    def __getnewargs__(self) -> tuple[str, dict[str, str | int | float]]:  # type: ignore[override]
        return self.message, self.values

    def parts(self) -> dict[str, Any]:
        """The message and the values of the sentence, as a file keeps them."""
        values = {
            name: v.parts() if isinstance(v, Sentence) else v for name, v in self.values.items()
        }
        return {"message": self.message, "values": values}


def say(message: str, /, **values: Any) -> Sentence:
    """Make a sentence. The message must be a literal: catalogues are extracted from the source."""
    return Sentence(message, values)


def mark(message: str) -> str:
    """Mark a literal as a message for the catalogues; it becomes a `Sentence` later."""
    return message


def in_a_row(sentences: Iterable[Sentence]) -> Sentence:
    """Several sentences as one text."""
    return functools.reduce(
        lambda first, second: say("{first} {second}", first=first, second=second), sentences
    )


def in_a_list(sentences: Iterable[Sentence]) -> Sentence:
    """Several parts of a sentence as one."""
    return functools.reduce(
        lambda first, second: say("{first}; {second}", first=first, second=second), sentences
    )


def with_sentences(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's result with the messages and values of its sentences."""
    return {**values, SENTENCES: sentences(values)}


def sentences(value: Any) -> dict[str, Any]:
    """The messages and values of the sentences in a stage's result, by their English text."""
    return {str(text): text.parts() for text in texts(value) if isinstance(text, Sentence)}


def texts(value: Any) -> Iterator[str]:
    """All texts in nested lists and mappings, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


def _capital(text: str) -> str:
    """A text with a capital letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def _plain(value: Any) -> str | int | float:
    """A value in a type that JSON has."""
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(
        f"got {type(value).__name__} as a value of a sentence, expected text or a number"
    )


def of_report(configured: Sequence[Code], tags: Iterable[str]) -> list[Code]:
    """The languages of one report.

    Args:
        configured: languages of the settings, the main one first.
        tags: languages (BCP 47) that the request asks for; those without a catalogue are ignored.
    """
    codes = [code for tag in tags for code in get_args(Code) if code == _primary(tag)]
    return list(dict.fromkeys([*configured, *codes]))


def unavailable(tags: Iterable[str]) -> list[str]:
    """The tags of languages without a catalogue."""
    return [tag for tag in tags if _primary(tag) not in get_args(Code)]


def _primary(tag: str) -> str:
    return tag.split("-")[0].lower()


def suffixes(codes: Iterable[Code]) -> dict[Code, str]:
    """The suffix before a file name's extension: none for the main language, else its code."""
    return {code: f".{code}" if position else "" for position, code in enumerate(codes)}


class _Number:
    """A number that `str.format` writes by the rules of a language."""

    def __init__(self, value: float, write: Any) -> None:
        self._value, self._write = value, write

    def __format__(self, form: str) -> str:
        return str(self._write(self._value, form))


def _fill(message: str, values: Mapping[str, Any], write: Any) -> str:
    """A message with its values; numbers are written by `write(value, format)`."""
    return message.format(
        **{
            name: value if isinstance(value, str) else _Number(value, write)
            for name, value in values.items()
        }
    )


def _english(value: float, form: str) -> str:
    return format(value, form).replace("-", "\u2212")


class Language:
    """One language: its messages, and how it writes numbers, dates and times."""

    def __init__(self, code: Code, messages: NullTranslations) -> None:
        """Args:
        code: which it is.
        messages: the compiled catalogue.
        """
        self.code = code
        self.gettext = messages.gettext
        self.ngettext = messages.ngettext

    @classmethod
    def load(cls, code: Code, locales: Path) -> Language:
        """A language with its catalogue.

        Args:
            code: which it is.
            locales: folder with the catalogues.

        Raises:
            WorkspaceError: its catalogue is missing or broken.
        """
        return cls(code, NullTranslations() if code == SOURCE else compiled(locales / f"{code}.po"))

    @functools.cached_property
    def locale(self) -> Any:
        """Babel's locale."""
        import babel

        return babel.Locale.parse(LOCALES[self.code])

    def install(self, pages: jinja2.Environment) -> None:
        """Set up templates for this language: `{% trans %}`, `_()`, the filters, and `language`,
        this object."""
        import jinja2

        pages.add_extension("jinja2.ext.i18n")
        extended: Any = pages  # by the extension
        extended.install_gettext_callables(self.gettext, self.ngettext, newstyle=True)
        pages.policies["ext.i18n.trimmed"] = True
        pages.filters.update(number=self.number, percent=self.percent, p_value=self.p_value)
        pages.filters.update(rate=self.rate)
        pages.filters.update(day=self.day, weekday=self.weekday)
        pages.filters.update(when=self.when, duration=self.duration)
        pages.globals.update(
            language=self, native=NATIVE, suffixes=suffixes, unavailable=unavailable
        )

        @jinja2.pass_context
        def translated(context: jinja2.runtime.Context, text: str) -> str:
            """A sentence of the evidence in the page's language."""
            return self.tell(
                text, context[SENTENCES] if SENTENCES in context else context["e"][SENTENCES]
            )

        pages.filters["told"] = translated
        pages.filters.update(capital=_capital, whole_sentence=self.whole_sentence)

    def tell(self, text: str, sentences: Mapping[str, Any]) -> str:
        """Translate a sentence; text without a known message stays as it is.

        Args:
            text: the English text.
            sentences: messages and values of sentences, by their English text.
        """
        return (
            text
            if self.code == SOURCE or text not in sentences
            else self._rendered(sentences[text], text)
        )

    def _rendered(self, sentence: Mapping[str, Any], text: str | None = None) -> str:
        message = self.gettext(sentence["message"])
        if text is not None and message == sentence["message"]:
            return text
        values = {
            name: self._rendered(value) if isinstance(value, Mapping) else value
            for name, value in sentence["values"].items()
        }
        return _fill(message, values, self._formatted)

    def _formatted(self, value: float, form: str) -> str:
        """A number by the formats that messages use: none, `g`, `.2f`, `.0%`."""
        if form.endswith("%"):
            return self.percent(value, int(form[1:-1]))
        if form.endswith("f"):
            return self.number(value, int(form[1:-1]))
        return self.number(value, max(0, -int(Decimal(format(value, form)).as_tuple().exponent)))

    def whole_sentence(self, text: str) -> str:
        """A sentence with a capital letter and a full stop, for the beginning of a page."""
        end = "" if text.endswith((".", "\u3002")) else self.gettext(".")
        return _capital(text) + end

    def number(self, value: float, digits: int = 2) -> str:
        """A number with a true minus sign, and no minus before a zero."""
        from babel.numbers import format_decimal

        rounded = Decimal(f"{value:.{digits}f}")
        pattern = "#,##0." + "0" * digits if digits else "#,##0"
        return format_decimal(rounded or abs(rounded), pattern, self.locale).replace("-", "\u2212")

    def percent(self, share: float, digits: int = 1) -> str:
        """A share as a percentage."""
        return self.gettext("%(number)s%%") % {"number": self.number(100 * share, digits)}

    def rate(self, share: float) -> str:
        """An error rate or a confidence as a percentage, with as many decimals as it has, at most
        two."""
        digits = next(
            n for n in (0, 1, 2) if n == 2 or abs(round(100 * share, n) - 100 * share) < 1e-9
        )
        return self.percent(share, digits)

    def p_value(self, value: float) -> str:
        """A p-value to three places; smaller ones say so."""
        return f"< {self.number(0.001, 3)}" if value < 0.001 else self.number(value, 3)

    def day(self, text: str) -> str:
        """`2026-11-21` or a time stamp as 21 November 2026, in the time stamp's own zone."""
        from babel.dates import format_date

        return format_date(date.fromisoformat(text[:10]), "long", self.locale).replace(
            " ", "\u00a0"
        )

    def weekday(self, text: str) -> str:
        """`2026-11-21` as Saturday, 21 November 2026: a deadline may fall on a weekend."""
        from babel.dates import format_date

        return format_date(date.fromisoformat(text[:10]), "full", self.locale).replace(
            " ", "\u00a0"
        )

    def when(self, text: str) -> str:
        """A time stamp as 21 November 2026, 01:02 UTC, in its own zone; other text, from a bad
        request, as it is."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return text
        pattern = self.gettext("%(day)s, %(time)s")
        return pattern % {
            "day": self.day(text),
            "time": f"{moment:%H:%M} {moment.tzname() or ''}".rstrip(),
        }

    def duration(self, seconds: float) -> str:
        """A time in the unit that fits."""
        if seconds < 90:
            return self.gettext("%(number)s\u00a0s") % {
                "number": self.number(seconds, 1 if seconds >= 1 else 2)
            }
        if seconds < 5400:
            return self.gettext("%(number)s\u00a0min") % {"number": self.number(seconds / 60, 1)}
        return self.gettext("%(number)s\u00a0h") % {"number": self.number(seconds / 3600, 1)}


def compiled(path: Path) -> GNUTranslations:
    """A catalogue, compiled in memory. Raises `WorkspaceError` where it is missing or broken."""
    from babel.messages import mofile, pofile

    try:
        with path.open("rb") as file:
            catalogue = pofile.read_po(file, abort_invalid=True)
    except (OSError, ValueError, pofile.PoFileError) as error:
        raise WorkspaceError(
            f"{path}: this catalogue cannot be read ({error}); restore it with git"
        ) from error
    target = BytesIO()
    mofile.write_mo(target, catalogue)
    target.seek(0)
    return GNUTranslations(target)
