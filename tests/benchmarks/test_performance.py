"""Benchmarks of performance work: each is run small. No test looks at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import measure, overhead
from tasks.common import files
from tasks.common.errors import WorkspaceError


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(
        "before\n<!-- overhead -->\nold\n<!-- end of overhead -->\nafter\n", encoding="utf-8"
    )
    return path


def test_ways_take_turns_and_each_is_measured_once_a_round() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    timings = measure.in_turns({name: lambda name=name: way(name) for name in "abc"}, 3)
    assert order == list("abcbcacab")
    assert timings == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1))
def test_a_ratio_is_taken_within_each_round(pairs: list[tuple[float, float]]) -> None:
    timings = measure.ratio([one for one, _ in pairs], [other for _, other in pairs])
    each = [one / other for one, other in pairs]
    assert (timings.low, timings.high, timings.runs) == (min(each), max(each), len(each))
    assert timings.low <= timings.median <= timings.high


def test_a_command_is_measured_with_what_it_starts(tmp_path: Path) -> None:
    held = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytes([1]) * (200 << 20)'])"
    )
    timings = measure.command(["python3", "-c", held], tmp_path)
    assert timings.peak > 200
    assert timings.cpu > 0
    with pytest.raises(WorkspaceError, match=r"python3 -c .* failed: .*ZeroDivisionError"):
        measure.command(["python3", "-c", "1 / 0"], tmp_path)


def test_figures_without_a_place_in_the_page_are_kept_all_the_same(
    page: Path, tmp_path: Path
) -> None:
    with pytest.raises(WorkspaceError, match="lacks the marks <!-- other -->"):
        measure.write("other", "python -m other", {"figure": 1}, "text", page, tmp_path)
    assert files.read_json(tmp_path / "other.json")["figure"] == 1
    assert "old" in page.read_text(encoding="utf-8")


def test_a_batch_whose_models_are_cached_is_audited_again_and_its_stages_are_told(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    overhead.main(rounds=1, world="stand-in", page=page, out=tmp_path)
    figures = files.read_json(tmp_path / "overhead.json")
    assert {"check", "score", "report", "train@0"} <= set(figures["stages"])
    assert set(figures["seconds"]) >= set(overhead.AIMS)
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith("before\n")
    assert "| report |" in text
