"""The tour through four users' lives, in its short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tour import Tour
from tasks.common.errors import AuditError

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(3600)
def test_the_four_lives_hold_on_a_real_server_with_a_moved_clock(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tour", "--short", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "All of it holds" in done.stdout


def test_the_tour_ends_at_what_does_not_hold(tmp_path: Path) -> None:
    tour = Tour(tmp_path)
    tour.give("python -c 'print(5)'", shows="5", at=tmp_path)
    with pytest.raises(AuditError, match="does not hold: exit code 0"):
        tour.give("python -c 'raise SystemExit(3)'", at=tmp_path)
    with pytest.raises(AuditError, match="“6”"):
        tour.give("python -c 'print(5)'", shows="6", at=tmp_path)


def test_the_tours_clock_is_that_of_its_commands(tmp_path: Path) -> None:
    tour = Tour(tmp_path)
    later = tour.now().replace(year=tour.now().year + 3, month=2, day=3)
    tour.move_clock(later)
    command = "python -c 'import datetime as d; print(d.datetime.now(d.UTC).date())'"
    tour.give(command, shows=f"{later:%Y-%m-%d}", at=tmp_path)
