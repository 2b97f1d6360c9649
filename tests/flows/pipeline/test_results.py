"""Reports are found wherever they lie, and a batch that has ended is known as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.pipeline import close_batch, results
from flows.workspace import shell
from tasks.common import files
from tasks.common.errors import RequestError

WAITING, RELEASED = "2026-11-21", "2026-10-03"
HERE, THERE = "3f2a0000-aaaa-4aaa-8aaa-000000000001", "77770000-bbbb-4bbb-8bbb-000000000002"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A workspace with the reports of a released batch, and of one that waits in its checkout."""
    shell.git(tmp_path, "init", "--quiet")
    checkout = tmp_path / ".batches" / WAITING
    for workspace, batch, request in ((tmp_path, RELEASED, HERE), (checkout, WAITING, THERE)):
        folder = workspace / "reports" / batch
        files.write_json(folder / request / "evidence.json", {"request": {"id": request}})
        files.write_text(folder / "index.html", "<p>reports</p>")
    (checkout / ".git").write_text("gitdir: elsewhere")
    return tmp_path


def test_the_first_page_of_a_batch_is_found_in_the_workspace_and_in_its_checkout(
    home: Path,
) -> None:
    assert results.index(home, RELEASED) == Path("reports") / RELEASED / "index.html"
    waiting = results.index(home, WAITING)
    assert waiting == Path(".batches") / WAITING / "reports" / WAITING / "index.html"
    assert results.index(home, "2026-01-01") is None


@pytest.mark.parametrize("asked", ["7777", THERE, THERE.upper()])
def test_a_request_that_waits_is_shown_by_the_beginning_of_its_id(home: Path, asked: str) -> None:
    assert results.find(home, asked, RELEASED).parent.name == THERE


def test_an_id_that_nobody_has_is_an_error(home: Path) -> None:
    with pytest.raises(RequestError, match="see `erasure-audit status`"):
        results.find(home, "9999", RELEASED)


def test_a_batch_has_ended_when_it_was_rejected_released_or_erased(home: Path) -> None:
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    shell.git(home, "commit", "--quiet", "--allow-empty", "-m", "a state")
    shell.git(home, "tag", f"audit/{RELEASED}")
    assert close_batch.end_tag(home, RELEASED) is None
    shell.git(home, "tag", f"release/{RELEASED}")
    assert close_batch.end_tag(home, RELEASED) == f"release/{RELEASED}"
    shell.git(home, "tag", f"erased/{RELEASED}")
    assert close_batch.end_tag(home, RELEASED) == f"erased/{RELEASED}"
    shell.git(home, "tag", f"rejected/{WAITING}")
    assert close_batch.end_tag(home, WAITING) == f"rejected/{WAITING}"


def test_an_accuracy_of_retrained_models_is_shown_with_its_range_and_the_ends_are_no_models() -> (
    None
):
    measured = {"control": 0.91, "forget": None}
    accuracy = {
        "original": measured,
        "retrained": measured,
        "retrained_low": {"control": 0.89, "forget": None},
        "retrained_high": {"control": 0.92, "forget": None},
    }
    lines = [line for line in results.explanation({"accuracy": accuracy}) if "accuracy" in line]
    assert lines == [
        "  accuracy of the original model: control 0.91, forget —",
        "  accuracy of the retrained model: control 0.91 (0.89 to 0.92), forget —",
    ]
