"""The table of those who pass by deceit is made from the rows of judgements."""

from __future__ import annotations

from typing import Any

from benchmarks import verdicts, views


def row(model: str, rho: float, *passed: str) -> dict[str, Any]:
    return {
        "model": model,
        "passes": {title: title in passed for title in views.BESIDE},
        "outside": ["view_copies"],
        "rho": rho,
        "detectability": dict.fromkeys(("", *verdicts.VIEWS), 8.0),
        "seconds": dict.fromkeys(verdicts.VIEWS, 0.5),
    }


def test_passes_are_counted_by_what_is_asked() -> None:
    rows = [
        row("0-1", 0.1, *views.BESIDE),
        row("0-1", 0.3, views.ALONE, "+ alike"),
        row("0-2", 0.9),
    ]
    counted = views.figures(rows)
    assert (counted["judged"], counted["models"]) == (3, 2)
    assert counted["passes"][views.ALONE] == 2
    assert counted["passes"]["+ copies"] == counted["passes"][views.ALL] == 1
    assert counted["influence"] == 0.3
    low, high = counted["intervals"][views.ALL]
    assert low < 1 / 3 < high


def test_the_table_has_a_row_for_each_case_and_a_column_for_each_question() -> None:
    cases = {"retrain": views.figures([row("0-1", 0.0, *views.BESIDE)])}
    cases["lookup_hash"] = views.figures([row("0-1", 0.0, views.ALONE)])
    made = dict.fromkeys(("processor", "python", "torch", "numpy", "scipy"), "x")
    facts = {"world": "digits", "about": "a", "references": 16, "batches": 1, "command": "c"}
    lines = views.table({**facts, "cases": cases, "versions": made}).splitlines()
    head, _, retrain, lookup = [line for line in lines if line.startswith("|")]
    assert head.count("|") == 4 + len(views.BESIDE)
    assert "100%" in retrain
    assert lookup.startswith("| lookup of the forget records | 1 (1 models) | 0.00 | 1 (")
    assert "| 0 (≤ 98%)" in lookup or "| 0 (≤ 97%)" in lookup
