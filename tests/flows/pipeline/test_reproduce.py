"""A closed batch is checked at its tag; what was not compared or did not run is never called
reproduced."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from flows.pipeline import close_batch, provenance, stage_runner
from flows.pipeline.reproduce import Comparison, Level, reproduce
from flows.workspace import shell
from tasks.common import settings
from tasks.common.errors import ReproductionError, WorkspaceError
from tests.worlds import dummy


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = dummy.make(tmp_path_factory.mktemp("reproduce") / "workspace")
    provenance.write(place, settings.Settings())
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


def erase_all_but_the_scores(place: Path) -> None:
    shutil.rmtree(place / ".dvc" / "cache" / "files")
    shell.dvc(place, "commit", "--quiet", "--force", "score", "verify")
    shutil.rmtree(place / "data")


ERASED = ["data", "artifacts/check.txt", "artifacts/train/0", "artifacts/train/1"]


def file_receipts(place: Path, paths: list[str] = ERASED) -> Path:
    """Receipts as an erasure leaves them: sealed, committed and tagged."""
    receipt = {"store": "dvc_cache", "state": "erased", "at": "2026-11-22T01:02:03Z", "by": "Ada"}
    text = json.dumps(receipt, sort_keys=True, separators=(",", ":"))
    sealed = {**receipt, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    file = place / "ledger" / "erasures" / "demo.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"stores": [sealed], "not_kept": {"audit/demo": paths}}))
    shell.git(place, "add", "ledger")
    shell.git(place, "commit", "--quiet", "-m", "erased")
    shell.git(place, "tag", "erased/demo")
    return file


def test_after_erasure_the_reports_can_still_be_made_again_but_not_everything(place: Path) -> None:
    erase_all_but_the_scores(place)
    file_receipts(place)
    assert reproduce(place, "demo", "rederive")
    with pytest.raises(ReproductionError, match=r"erased on 2026-11-22, receipts in ledger"):
        reproduce(place, "demo", "reexecute")
    found = reproduce(place, "demo", "integrity")
    assert found
    assert found.missing == []
    assert "artifacts/train/0 (on 2026-11-22, ledger/erasures/demo.json)" in found.erased


def test_what_is_missing_without_a_receipt_does_not_hold(place: Path) -> None:
    erase_all_but_the_scores(place)
    assert reproduce(place, "demo", "rederive")
    with pytest.raises(ReproductionError, match="cannot be executed again"):
        reproduce(place, "demo", "reexecute")
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert {"data", "artifacts/train/0"} <= set(found.missing)


def test_an_empty_store_does_not_hold_though_git_keeps_the_reports(place: Path) -> None:
    shutil.rmtree(place / ".dvc" / "cache")
    shutil.rmtree(place / "artifacts")
    found = reproduce(place, "demo", "integrity")
    assert "reports/demo" in found.identical
    assert not found


def test_receipts_that_leave_a_loss_unexplained_do_not_excuse_it(place: Path) -> None:
    erase_all_but_the_scores(place)
    file_receipts(place, ["data"])
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert "artifacts/train/0" in found.missing


def test_a_part_that_was_erased_does_not_excuse_the_loss_of_its_whole_folder(place: Path) -> None:
    erase_all_but_the_scores(place)
    file_receipts(place, [*ERASED[:-1], "artifacts/train/1/one-file.txt"])
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert "artifacts/train/1" in found.missing
    assert not any(line.startswith("artifacts/train ") for line in found.erased)


@pytest.mark.parametrize("change", ["other path", "other receipt", "no receipt", "no tag", "junk"])
def test_receipts_that_were_changed_excuse_nothing(place: Path, change: str) -> None:
    erase_all_but_the_scores(place)
    file = file_receipts(place)
    content = json.loads(file.read_text())
    if change == "other path":
        content["not_kept"]["audit/demo"].append("artifacts/score/scores.txt")
    elif change == "other receipt":
        content["stores"][0]["by"] = "Bob"
    elif change == "no receipt":
        content["stores"] = []
    elif change == "no tag":
        shell.git(place, "tag", "--delete", "erased/demo")
    file.write_text("{" if change == "junk" else json.dumps(content))
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert found.erased == []
    assert any(note.startswith("ledger/erasures/demo.json does not count") for note in found.notes)


def objects(place: Path) -> dict[str, tuple[bytes, int]]:
    """Every file that DVC keeps, with its mode."""
    stores = (place / ".dvc" / "cache", place / "remote", place / "artifacts", place / "data")
    return {
        path.as_posix(): (path.read_bytes(), path.stat().st_mode)
        for store in stores
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def damage(place: Path, path: str, store: str = ".dvc/cache") -> Path:
    """Change one byte of what DVC keeps of a file, as a disk that rots does."""
    oid = hashlib.md5((place / path).read_bytes()).hexdigest()
    file = place / store / "files" / "md5" / oid[:2] / oid[2:]
    file.chmod(0o644)
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    return file


def test_a_damaged_model_is_found_and_neither_it_nor_its_folder_is_removed(place: Path) -> None:
    damage(place, "artifacts/train/0/model.txt")
    before = objects(place)
    found = reproduce(place, "demo", "integrity")
    assert not found
    damaged = "artifacts/train/0 is damaged in DVC's store (artifacts/train/0/model.txt)"
    assert damaged in found.different
    assert objects(place) == before


def test_a_damaged_input_is_refused_and_left_alone(place: Path) -> None:
    damage(place, "artifacts/score/scores.txt")
    before = objects(place)
    with pytest.raises(ReproductionError, match=r"not the ones on record: artifacts/score"):
        reproduce(place, "demo", "rederive")
    assert objects(place) == before


@pytest.mark.parametrize("level", ["integrity", "rederive", "reexecute"])
def test_no_level_writes_into_the_cache_or_a_remote(place: Path, level: Level) -> None:
    (place / "remote").mkdir()
    shell.dvc(place, "remote", "add", "--default", "store", str(place / "remote"))
    shell.dvc(place, "push")
    shutil.rmtree(place / ".dvc" / "cache")  # it is read from the remote, and stays there
    before = objects(place)
    assert reproduce(place, "demo", level)
    assert objects(place) == before


def test_a_damaged_object_in_a_remote_is_found_and_stays(place: Path) -> None:
    (place / "remote").mkdir()
    shell.dvc(place, "remote", "add", "--default", "store", str(place / "remote"))
    shell.dvc(place, "push")
    shutil.rmtree(place / ".dvc" / "cache")
    damage(place, "artifacts/train/1/model.txt", "remote")
    before = objects(place)
    assert not reproduce(place, "demo", "integrity")
    assert objects(place) == before


def test_a_stage_that_is_taken_out_of_the_record_is_missed(place: Path) -> None:
    lock = (place / "dvc.lock").read_text()
    start, end = lock.index("  verify:"), lock.find("\n  ", lock.index("  verify:") + 3)
    while end != -1 and lock[end + 3] == " ":
        end = lock.find("\n  ", end + 1)
    tamper_and_move_the_tag(place, place / "dvc.lock", lock[:start] + lock[end + 1 :] * (end != -1))
    found = reproduce(place, "demo", "integrity")
    assert not found
    assert "dvc.lock, stage verify" in found.missing


def test_a_command_changed_after_the_fact_is_found(place: Path) -> None:
    text = (place / "dvc.yaml").read_text().replace("stage.py verify", "stage.py  verify")
    tamper_and_move_the_tag(place, place / "dvc.yaml", text)
    assert "dvc.yaml (verify)" in reproduce(place, "demo", "integrity").different


def test_signatures_that_the_batch_was_to_have_are_missed(place: Path) -> None:
    assert "2 of 2 reports are not signed" in reproduce(place, "demo", "integrity").notes
    circumstances = place / "ledger" / "batches" / "demo.json"
    filed = json.loads(circumstances.read_text()) | {"signing": {"key_id": "0" * 64}}
    tamper_and_move_the_tag(place, circumstances, json.dumps(filed))
    found = reproduce(place, "demo", "integrity")
    assert f"signed/demo/{dummy.REQUESTS[0]}" in found.missing


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
