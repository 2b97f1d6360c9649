"""The benchmarks of reports and of growth, run small. No test looks at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import growth_references, growth_requests, reports
from tasks.common import files


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    marks = ("reports", "growth requests", "growth references")
    path.write_text(
        "".join(f"<!-- {mark} -->\n<!-- end of {mark} -->\n" for mark in marks), encoding="utf-8"
    )
    return path


def test_reports_are_made_in_two_ways_and_their_steps_are_told(page: Path, tmp_path: Path) -> None:
    reports.main(requests=1, few=1, rounds=1, page=page, out=tmp_path)
    figures = files.read_json(tmp_path / "reports.json")
    assert set(figures["cpu"]) == {reports.OURS, reports.ALONE}
    assert sum(one["median"] for one in figures["shares"].values()) == pytest.approx(1, abs=0.01)
    assert f"| {reports.ALONE} |" in page.read_text(encoding="utf-8")


def test_stages_are_measured_by_the_number_of_requests_and_the_largest_batch_may_go_without_reports(
    page: Path, tmp_path: Path
) -> None:
    growth_requests.main(requests=[1, 2, 3], most_reports=2, rounds=1, page=page, out=tmp_path)
    figures = files.read_json(tmp_path / "growth-requests.json")
    assert set(figures["seconds"]["2"]) == set(growth_requests.STAGES)
    assert set(figures["seconds"]["3"]) == {"check", "resolve", "verify"}
    assert figures["pages"]["summary.html"] > 0
    assert "| report |" in page.read_text(encoding="utf-8")


def test_stages_are_measured_by_the_number_of_references(page: Path, tmp_path: Path) -> None:
    growth_references.main(references=[8], rounds=1, page=page, out=tmp_path)
    figures = files.read_json(tmp_path / "growth-references.json")
    assert set(figures["peak"]["8"]) == set(growth_references.STAGES)
    assert "| verify |" in page.read_text(encoding="utf-8")
