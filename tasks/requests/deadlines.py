"""The statutory deadline of a deletion request, by the rules of its regulation."""

from __future__ import annotations

import calendar
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

from tasks.common.errors import RequestError
from tasks.common.language import Sentence, say

SATURDAY = 5


@dataclass(frozen=True)
class Deadline:
    """The last day for an answer, and the rule that gave it.

    Attributes:
        rule: one sentence that names the law and how it was counted.
        date: the last day, or None where the law names no figure.
    """

    rule: Sentence
    date: date | None


GDPR = say(
    "GDPR Art. 12(3): one calendar month from the day of receipt; where that day is missing, the "
    "month's last day, and where it is a weekend or a listed holiday, the next working day "
    "(Regulation 1182/71). It can be extended by two months with notice."
)
CCPA = say(
    "CCPA § 1798.130(a)(2): 45 calendar days from the day of receipt. It can be extended once by "
    "45 days with notice."
)
LGPD = say("LGPD Art. 19: 15 calendar days from the day of receipt, as commonly applied.")
PIPL = say(
    "PIPL Art. 50: the law asks for a timely answer and names no figure; your own policy sets the "
    "day."
)


def deadline(regulation: str, received: date, holidays: Collection[date] = ()) -> Deadline:
    """The deadline of a request.

    Args:
        regulation: `gdpr`, `ccpa`, `lgpd` or `pipl`.
        received: the day of receipt, as the request's own time stamp writes it.
        holidays: public holidays; only the count of the GDPR uses them.

    Raises:
        RequestError: the regulation is another one, or the deadline lies beyond the year 9999.
    """
    try:
        if regulation == "gdpr":
            return Deadline(GDPR, next_working_day(a_month_later(received), holidays))
        if regulation == "ccpa":
            return Deadline(CCPA, received + timedelta(days=45))
        if regulation == "lgpd":
            return Deadline(LGPD, received + timedelta(days=15))
    except (OverflowError, ValueError) as error:
        raise RequestError(
            f"got {received.isoformat()} as the day of receipt; its deadline is beyond 9999"
        ) from error
    if regulation == "pipl":
        return Deadline(PIPL, None)
    raise RequestError(f"got regulation {regulation!r}, expected gdpr, ccpa, lgpd or pipl")


def extended(regulation: str, received: date, holidays: Collection[date] = ()) -> date | None:
    """The last day where a request's deadline is extended with notice, or None where the law knows
    no extension.

    GDPR Art. 12(3): by two further months, counted from the day of receipt; CCPA § 1798.130(a)(2):
    45 further days.

    Raises:
        RequestError: the deadline lies beyond the year 9999.
    """
    try:
        if regulation == "gdpr":
            return next_working_day(a_month_later(received, 3), holidays)
        return received + timedelta(days=90) if regulation == "ccpa" else None
    except (OverflowError, ValueError) as error:
        raise RequestError(
            f"got {received.isoformat()} as the day of receipt; its deadline is beyond 9999"
        ) from error


def a_month_later(day: date, months: int = 1) -> date:
    """The same day of the next month (or of one after it), or that month's last day where it has no
    such day."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def next_working_day(day: date, holidays: Collection[date] = ()) -> date:
    """`day` itself where it is a working day, else the first one after it."""
    while day.weekday() >= SATURDAY or day in holidays:
        day += timedelta(days=1)
    return day
