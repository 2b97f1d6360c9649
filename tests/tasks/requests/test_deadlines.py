"""Deadlines against days counted by hand and against the slow way of counting."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.errors import RequestError
from tasks.requests import deadlines

days = st.dates(date(1990, 1, 1), date(2200, 12, 31))


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (date(2026, 3, 5), date(2026, 4, 6)),  # 5 April 2026 is a Sunday
        (date(2026, 8, 31), date(2026, 9, 30)),  # September has no 31st
        (date(2027, 1, 31), date(2027, 3, 1)),  # 28 February 2027 is a Sunday
        (date(2024, 1, 30), date(2024, 2, 29)),  # a leap year
        (date(2025, 12, 15), date(2026, 1, 15)),  # over the turn of the year
        (date(2026, 5, 18), date(2026, 6, 18)),
    ],
)
def test_gdpr_counts_one_calendar_month(received: date, expected: date) -> None:
    assert deadlines.deadline("gdpr", received).date == expected


def test_gdpr_moves_past_holidays_that_adjoin_a_weekend() -> None:
    easter = (date(2026, 4, 3), date(2026, 4, 6))
    assert deadlines.deadline("gdpr", date(2026, 3, 3), easter).date == date(2026, 4, 7)


@given(days)
def test_ccpa_is_45_and_lgpd_15_days_whatever_the_weekday(received: date) -> None:
    for regulation, length in (("ccpa", 45), ("lgpd", 15)):
        due, slow = deadlines.deadline(regulation, received).date, received
        for _ in range(length):
            slow += timedelta(days=1)
        assert due == slow


@given(days, st.sets(st.dates(date(1990, 1, 1), date(2201, 12, 31)), max_size=20))
def test_gdpr_ends_on_a_working_day_of_the_next_month_or_just_after(
    received: date, holidays: set[date]
) -> None:
    last = deadlines.deadline("gdpr", received, holidays).date
    assert last is not None
    assert last.weekday() < 5
    assert last not in holidays
    nominal = deadlines.a_month_later(received)
    skipped = [nominal + timedelta(days=n) for n in range((last - nominal).days)]
    assert all(day.weekday() >= 5 or day in holidays for day in skipped)


@given(days)
def test_a_month_later_is_the_same_day_or_the_last_of_the_next_month(received: date) -> None:
    last = deadlines.a_month_later(received)
    assert (last.year * 12 + last.month) - (received.year * 12 + received.month) == 1
    assert last.day == received.day or (
        last.day < received.day and (last + timedelta(days=1)).day == 1
    )


def test_pipl_has_no_fixed_figure() -> None:
    due = deadlines.deadline("pipl", date(2026, 1, 1))
    assert due.date is None
    assert "no figure" in due.rule


def test_every_rule_is_a_sentence_that_names_its_law() -> None:
    for regulation in ("gdpr", "ccpa", "lgpd", "pipl"):
        rule = deadlines.deadline(regulation, date(2026, 1, 1)).rule
        assert rule.startswith(regulation.upper())
        assert rule.endswith(".")


def test_an_unknown_regulation_is_named() -> None:
    with pytest.raises(RequestError, match="'hipaa'"):
        deadlines.deadline("hipaa", date(2026, 1, 1))


@pytest.mark.parametrize("regulation", ["gdpr", "ccpa", "lgpd"])
def test_a_deadline_beyond_the_calendar_is_an_error(regulation: str) -> None:
    with pytest.raises(RequestError, match="9999"):
        deadlines.deadline(regulation, date(9999, 12, 31))
