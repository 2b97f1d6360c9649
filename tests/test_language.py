"""The languages of the reports: complete catalogues, and numbers and dates by locale."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.language import Language

LOCALES = Path(__file__).parents[1] / "reports" / "locales"
ENGLISH = Language.load("en", LOCALES)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(-0.2, 2, "\u22120.20"), (-0.001, 2, "0.00"), (1797, 0, "1,797"), (-1797.5, 1, "\u22121,797.5"), (0.0, 2, "0.00")],
)
def test_numbers_have_a_true_minus_and_no_negative_zero(value: float, digits: int, shown: str) -> None:
    assert ENGLISH.number(value, digits) == shown
