"""A closed batch is checked at its tag; what was not compared or did not run is never called
reproduced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.pipeline import close_batch, provenance, stage_runner
from flows.pipeline.reproduce import Comparison, reproduce
from flows.workspace import shell
from tasks.common import settings
from tasks.common.errors import ReproductionError, WorkspaceError
from tests.worlds import dummy


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = dummy.make(tmp_path_factory.mktemp("reproduce") / "workspace")
    provenance.keep(place, settings.Settings())
    shell.dvc(place, "repro", "--quiet")
    close_batch.close(place, "demo")
    return place


@pytest.fixture
def place(closed: Path, tmp_path: Path) -> Path:
    return dummy.copy(closed, tmp_path / "workspace")


def tamper_and_move_the_tag(place: Path, file: Path, text: str) -> None:
    file.write_text(text)
    shell.git(place, "commit", "--quiet", "--all", "-m", "nothing to see here")
    shell.git(place, "tag", "--force", "audit/demo")


def test_an_untouched_batch_holds_and_the_checkout_stays_as_it_was(place: Path) -> None:
    (place / "params.yaml").write_text(
        (place / "params.yaml").read_text() + "# at work on the next batch\n"
    )
    (place / "notes.txt").write_text("mine")
    before = shell.git(place, "status", "--porcelain"), shell.git(place, "rev-parse", "HEAD")
    found = reproduce(place, "demo", "integrity")
    assert found
    assert {"data", "artifacts/train/0", "reports/demo"} <= set(found.identical)
    assert (found.different, found.missing, found.ran) == ([], [], [])
    assert before == (
        shell.git(place, "status", "--porcelain"),
        shell.git(place, "rev-parse", "HEAD"),
    )
    assert len(shell.git(place, "worktree", "list").splitlines()) == 1


def test_verdicts_and_reports_are_made_again_from_the_scores_alone(place: Path) -> None:
    found = reproduce(place, "audit/demo", "rederive")
    assert found
    assert found.ran == ["verify", "report"]
    assert sorted(found.identical) == ["artifacts/verify/verdicts.json", "reports/demo"]


def test_everything_is_made_again(place: Path) -> None:
    found = reproduce(place, "demo", "reexecute")
    assert found
    assert found.ran == dummy.STAGES


def test_a_report_tampered_with_under_the_tag_is_found(place: Path) -> None:
    tamper_and_move_the_tag(place, place / "reports" / "demo" / "index.html", "pass, of course")
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert found.different[0] == "reports/demo"


def test_a_report_tampered_with_in_the_checkout_is_found_and_named(place: Path) -> None:
    (place / "reports" / "demo" / dummy.REQUESTS[0] / "report.html").write_text("pass, of course")
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert f"{dummy.REQUESTS[0]}/report.html" in found.different[0]


def test_a_threshold_changed_after_the_fact_is_found(place: Path) -> None:
    text = (place / "params.yaml").read_text()
    tamper_and_move_the_tag(place, place / "params.yaml", text.replace("rho0: 0.5", "rho0: 0.9"))
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert "params.yaml (verify)" in found.different


def test_requests_exchanged_after_the_fact_are_found(place: Path) -> None:
    tamper_and_move_the_tag(place, place / "requests" / "demo.json", "[]")
    assert "requests/demo.json" in reproduce(place, "demo", "integrity").different


def test_after_erasure_the_reports_can_still_be_made_again_but_not_everything(place: Path) -> None:
    shutil.rmtree(place / ".dvc" / "cache" / "files")
    shell.dvc(
        place, "commit", "--quiet", "--force", "score", "verify"
    )  # scores are kept, records and models are not
    shutil.rmtree(place / "data")

    assert reproduce(place, "demo", "rederive")
    with pytest.raises(ReproductionError, match="cannot be executed again"):
        reproduce(place, "demo", "reexecute")
    found = reproduce(place, "demo", "integrity")
    assert {"data", "artifacts/train/0"} <= set(found.missing)
    assert found


def test_without_the_scores_nothing_is_called_reproduced(place: Path) -> None:
    shutil.rmtree(place / ".dvc" / "cache" / "files")
    with pytest.raises(ReproductionError, match=r"neither in DVC's cache nor in a remote.*scores"):
        reproduce(place, "demo", "rederive")


def test_a_run_that_runs_nothing_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_runner.Runner, "run", lambda *args, **options: "unchanged")
    with pytest.raises(ReproductionError, match="ran nothing"):
        reproduce(place, "demo", "rederive")


def test_a_comparison_of_nothing_is_false() -> None:
    assert not Comparison("integrity", "audit/demo")
    assert not Comparison("integrity", "audit/demo", missing=["data"])


def test_other_last_bits_hold_if_verdicts_and_intervals_do_and_are_said_to_differ(
    place: Path,
) -> None:
    tamper_and_move_the_tag(place, place / "stage.py", (place / "stage.py").read_text() + "\n")
    marked = (place / "stage.py").read_text().replace('os.path.exists("other-machine")', "True")
    tamper_and_move_the_tag(place, place / "stage.py", marked)
    found = reproduce(place, "demo", "reexecute")
    assert found
    assert found.same_verdicts is True
    assert "artifacts/verify/verdicts.json" in found.different

    tamper_and_move_the_tag(
        place, place / "stage.py", marked.replace('os.path.exists("other-verdict")', "True")
    )
    found = reproduce(place, "demo", "reexecute")
    assert not found
    assert found.same_verdicts is False


def test_an_unknown_batch_is_refused_with_those_that_are_closed(place: Path) -> None:
    with pytest.raises(ReproductionError, match="Closed batches here: audit/demo"):
        reproduce(place, "none", "integrity")


def test_the_worktree_is_removed_after_a_failure(place: Path) -> None:
    tamper_and_move_the_tag(place, place / "stage.py", 'import sys\nsys.exit("error: no")\n')
    with pytest.raises(Exception, match="no"):
        reproduce(place, "demo", "rederive")
    assert len(shell.git(place, "worktree", "list").splitlines()) == 1


def test_closing_twice_changes_nothing_and_another_state_is_refused(place: Path) -> None:
    head = shell.git(place, "rev-parse", "HEAD")
    assert close_batch.close(place, "demo") == "audit/demo"
    assert shell.git(place, "rev-parse", "HEAD") == head

    (place / "requests" / "demo.json").write_text(json.dumps(["other"]))
    with pytest.raises(WorkspaceError, match="a closed batch is not changed"):
        close_batch.close(place, "demo")


def test_closing_leaves_other_changes_alone(place: Path) -> None:
    (place / "stage.py").write_text("# being edited\n")
    (place / "notes.txt").write_text("mine")
    (place / "requests" / "second.json").write_text(json.dumps(["more"]))
    close_batch.close(place, "second")
    left = shell.git(place, "status", "--porcelain").split()
    assert left == ["M", "stage.py", "??", "notes.txt"]
