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
    home = dummy.make(tmp_path_factory.mktemp("reproduce") / "workspace")
    provenance.write(home, settings.Settings())
    shell.dvc(home, "repro", "--quiet")
    close_batch.close(home, "demo")
    return home


@pytest.fixture
def home(closed: Path, tmp_path: Path) -> Path:
    return dummy.copy(closed, tmp_path / "workspace")


def tamper_and_move_the_tag(home: Path, file: Path, text: str) -> None:
    file.write_text(text)
    shell.git(home, "commit", "--quiet", "--all", "-m", "nothing to see here")
    shell.git(home, "tag", "--force", "audit/demo")


def test_an_untouched_batch_holds_and_the_checkout_stays_as_it_was(home: Path) -> None:
    (home / "params.yaml").write_text(
        (home / "params.yaml").read_text() + "# at work on the next batch\n"
    )
    (home / "notes.txt").write_text("mine")
    before = shell.git(home, "status", "--porcelain"), shell.git(home, "rev-parse", "HEAD")
    found = reproduce(home, "demo", "integrity")
    assert found
    assert {"data", "artifacts/train/0", "reports/demo"} <= set(found.identical)
    assert (found.different, found.missing, found.ran) == ([], [], [])
    assert before == (
        shell.git(home, "status", "--porcelain"),
        shell.git(home, "rev-parse", "HEAD"),
    )
    assert len(shell.git(home, "worktree", "list").splitlines()) == 1


def test_verdicts_and_reports_are_made_again_from_the_scores_alone(home: Path) -> None:
    found = reproduce(home, "audit/demo", "rederive")
    assert found
    assert found.ran == ["verify", "report"]
    assert sorted(found.identical) == ["artifacts/verify/verdicts.json", "reports/demo"]


def test_everything_is_made_again(home: Path) -> None:
    found = reproduce(home, "demo", "reexecute")
    assert found
    assert found.ran == dummy.STAGES


def test_a_report_tampered_with_under_the_tag_is_found(home: Path) -> None:
    tamper_and_move_the_tag(home, home / "reports" / "demo" / "index.html", "pass, of course")
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert found.different[0] == "reports/demo"


def test_a_report_tampered_with_in_the_checkout_is_found_and_named(home: Path) -> None:
    (home / "reports" / "demo" / dummy.REQUESTS[0] / "report.html").write_text("pass, of course")
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert f"{dummy.REQUESTS[0]}/report.html" in found.different[0]


def test_a_threshold_changed_after_the_fact_is_found(home: Path) -> None:
    text = (home / "params.yaml").read_text()
    tamper_and_move_the_tag(home, home / "params.yaml", text.replace("rho0: 0.5", "rho0: 0.9"))
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert "params.yaml (verify)" in found.different


def test_requests_exchanged_after_the_fact_are_found(home: Path) -> None:
    tamper_and_move_the_tag(home, home / "requests" / "demo.json", "[]")
    assert "requests/demo.json" in reproduce(home, "demo", "integrity").different


def erase_all_but_the_scores(home: Path) -> None:
    shutil.rmtree(home / ".dvc" / "cache" / "files")
    shell.dvc(home, "commit", "--quiet", "--force", "score", "verify")
    shutil.rmtree(home / "data")


ERASED = ["data", "artifacts/check.txt", "artifacts/train/0", "artifacts/train/1"]


def file_receipts(home: Path, paths: list[str] = ERASED) -> Path:
    """Receipts as an erasure leaves them: sealed, committed and tagged."""
    receipt = {"store": "dvc_cache", "state": "erased", "at": "2026-11-22T01:02:03Z", "by": "Ada"}
    text = json.dumps(receipt, sort_keys=True, separators=(",", ":"))
    sealed = {**receipt, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    file = home / "ledger" / "erasures" / "demo.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"stores": [sealed], "not_kept": {"audit/demo": paths}}))
    shell.git(home, "add", "ledger")
    shell.git(home, "commit", "--quiet", "-m", "erased")
    shell.git(home, "tag", "erased/demo")
    return file


def test_after_erasure_the_reports_can_still_be_made_again_but_not_everything(home: Path) -> None:
    erase_all_but_the_scores(home)
    file_receipts(home)
    assert reproduce(home, "demo", "rederive")
    with pytest.raises(ReproductionError, match=r"erased on 2026-11-22, receipts in ledger"):
        reproduce(home, "demo", "reexecute")
    found = reproduce(home, "demo", "integrity")
    assert found
    assert found.missing == []
    assert "artifacts/train/0 (on 2026-11-22, ledger/erasures/demo.json)" in found.erased


def test_what_is_missing_without_a_receipt_does_not_hold(home: Path) -> None:
    erase_all_but_the_scores(home)
    assert reproduce(home, "demo", "rederive")
    with pytest.raises(ReproductionError, match="cannot be executed again"):
        reproduce(home, "demo", "reexecute")
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert {"data", "artifacts/train/0"} <= set(found.missing)


def test_an_empty_store_does_not_hold_though_git_keeps_the_reports(home: Path) -> None:
    shutil.rmtree(home / ".dvc" / "cache")
    shutil.rmtree(home / "artifacts")
    found = reproduce(home, "demo", "integrity")
    assert "reports/demo" in found.identical
    assert not found


def test_receipts_that_leave_a_loss_unexplained_do_not_excuse_it(home: Path) -> None:
    erase_all_but_the_scores(home)
    file_receipts(home, ["data"])
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert "artifacts/train/0" in found.missing


def test_a_part_that_was_erased_does_not_excuse_the_loss_of_its_whole_folder(home: Path) -> None:
    erase_all_but_the_scores(home)
    file_receipts(home, [*ERASED[:-1], "artifacts/train/1/one-file.txt"])
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert "artifacts/train/1" in found.missing
    assert not any(line.startswith("artifacts/train ") for line in found.erased)


@pytest.mark.parametrize("change", ["other path", "other receipt", "no receipt", "no tag", "junk"])
def test_receipts_that_were_changed_excuse_nothing(home: Path, change: str) -> None:
    erase_all_but_the_scores(home)
    file = file_receipts(home)
    content = json.loads(file.read_text())
    if change == "other path":
        content["not_kept"]["audit/demo"].append("artifacts/score/scores.txt")
    elif change == "other receipt":
        content["stores"][0]["by"] = "Bob"
    elif change == "no receipt":
        content["stores"] = []
    elif change == "no tag":
        shell.git(home, "tag", "--delete", "erased/demo")
    file.write_text("{" if change == "junk" else json.dumps(content))
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert found.erased == []
    assert any(note.startswith("ledger/erasures/demo.json does not count") for note in found.notes)


def objects(home: Path) -> dict[str, tuple[bytes, int]]:
    """Every file that DVC keeps, with its mode."""
    stores = (home / ".dvc" / "cache", home / "remote", home / "artifacts", home / "data")
    return {
        path.as_posix(): (path.read_bytes(), path.stat().st_mode)
        for store in stores
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def damage(home: Path, path: str, store: str = ".dvc/cache") -> Path:
    """Change one byte of what DVC keeps of a file, as a disk that rots does."""
    oid = hashlib.md5((home / path).read_bytes()).hexdigest()
    file = home / store / "files" / "md5" / oid[:2] / oid[2:]
    file.chmod(0o644)
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    return file


def test_a_damaged_model_is_found_and_neither_it_nor_its_folder_is_removed(home: Path) -> None:
    damage(home, "artifacts/train/0/model.txt")
    before = objects(home)
    found = reproduce(home, "demo", "integrity")
    assert not found
    damaged = "artifacts/train/0 is damaged in DVC's store (artifacts/train/0/model.txt)"
    assert damaged in found.different
    assert objects(home) == before


def test_a_damaged_input_is_refused_and_left_alone(home: Path) -> None:
    damage(home, "artifacts/score/scores.txt")
    before = objects(home)
    with pytest.raises(ReproductionError, match=r"not the ones on record: artifacts/score"):
        reproduce(home, "demo", "rederive")
    assert objects(home) == before


@pytest.mark.parametrize("level", ["integrity", "rederive", "reexecute"])
def test_no_level_writes_into_the_cache_or_a_remote(home: Path, level: Level) -> None:
    (home / "remote").mkdir()
    shell.dvc(home, "remote", "add", "--default", "store", str(home / "remote"))
    shell.dvc(home, "push")
    shutil.rmtree(home / ".dvc" / "cache")  # it is read from the remote, and stays there
    before = objects(home)
    assert reproduce(home, "demo", level)
    assert objects(home) == before


def test_a_damaged_object_in_a_remote_is_found_and_stays(home: Path) -> None:
    (home / "remote").mkdir()
    shell.dvc(home, "remote", "add", "--default", "store", str(home / "remote"))
    shell.dvc(home, "push")
    shutil.rmtree(home / ".dvc" / "cache")
    damage(home, "artifacts/train/1/model.txt", "remote")
    before = objects(home)
    assert not reproduce(home, "demo", "integrity")
    assert objects(home) == before


def test_a_stage_that_is_taken_out_of_the_record_is_missed(home: Path) -> None:
    lock = (home / "dvc.lock").read_text()
    start, end = lock.index("  verify:"), lock.find("\n  ", lock.index("  verify:") + 3)
    while end != -1 and lock[end + 3] == " ":
        end = lock.find("\n  ", end + 1)
    tamper_and_move_the_tag(home, home / "dvc.lock", lock[:start] + lock[end + 1 :] * (end != -1))
    found = reproduce(home, "demo", "integrity")
    assert not found
    assert "dvc.lock, stage verify" in found.missing


def test_a_command_changed_after_the_fact_is_found(home: Path) -> None:
    text = (home / "dvc.yaml").read_text().replace("stage.py verify", "stage.py  verify")
    tamper_and_move_the_tag(home, home / "dvc.yaml", text)
    assert "dvc.yaml (verify)" in reproduce(home, "demo", "integrity").different


def test_signatures_that_the_batch_was_to_have_are_missed(home: Path) -> None:
    assert "2 of 2 reports are not signed" in reproduce(home, "demo", "integrity").notes
    circumstances = home / "ledger" / "batches" / "demo.json"
    filed = json.loads(circumstances.read_text()) | {"signing": {"key_id": "0" * 64}}
    tamper_and_move_the_tag(home, circumstances, json.dumps(filed))
    found = reproduce(home, "demo", "integrity")
    assert f"signed/demo/{dummy.REQUESTS[0]}" in found.missing


def test_without_the_scores_nothing_is_called_reproduced(home: Path) -> None:
    shutil.rmtree(home / ".dvc" / "cache" / "files")
    with pytest.raises(ReproductionError, match=r"neither in DVC's cache nor in a remote.*scores"):
        reproduce(home, "demo", "rederive")


def test_a_run_that_runs_nothing_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_runner.Runner, "run", lambda *args, **options: "unchanged")
    with pytest.raises(ReproductionError, match="ran nothing"):
        reproduce(home, "demo", "rederive")


def test_a_comparison_of_nothing_is_false() -> None:
    assert not Comparison("integrity", "audit/demo")
    assert not Comparison("integrity", "audit/demo", missing=["data"])


def test_other_last_bits_hold_if_verdicts_and_intervals_do_and_are_said_to_differ(
    home: Path,
) -> None:
    tamper_and_move_the_tag(home, home / "stage.py", (home / "stage.py").read_text() + "\n")
    marked = (home / "stage.py").read_text().replace('os.path.exists("other-machine")', "True")
    tamper_and_move_the_tag(home, home / "stage.py", marked)
    found = reproduce(home, "demo", "reexecute")
    assert found
    assert found.same_verdicts is True
    assert "artifacts/verify/verdicts.json" in found.different

    tamper_and_move_the_tag(
        home, home / "stage.py", marked.replace('os.path.exists("other-verdict")', "True")
    )
    found = reproduce(home, "demo", "reexecute")
    assert not found
    assert found.same_verdicts is False


def test_an_unknown_batch_is_refused_with_those_that_are_closed(home: Path) -> None:
    with pytest.raises(ReproductionError, match="Closed batches here: audit/demo"):
        reproduce(home, "none", "integrity")


def test_the_worktree_is_removed_after_a_failure(home: Path) -> None:
    tamper_and_move_the_tag(home, home / "stage.py", 'import sys\nsys.exit("error: no")\n')
    with pytest.raises(Exception, match="no"):
        reproduce(home, "demo", "rederive")
    assert len(shell.git(home, "worktree", "list").splitlines()) == 1


def test_closing_twice_changes_nothing_and_another_state_is_refused(home: Path) -> None:
    head = shell.git(home, "rev-parse", "HEAD")
    assert close_batch.close(home, "demo") == "audit/demo"
    assert shell.git(home, "rev-parse", "HEAD") == head

    (home / "requests" / "demo.json").write_text(json.dumps(["other"]))
    with pytest.raises(WorkspaceError, match="a closed batch is not changed"):
        close_batch.close(home, "demo")


def test_closing_leaves_other_changes_alone(home: Path) -> None:
    (home / "stage.py").write_text("# being edited\n")
    (home / "notes.txt").write_text("mine")
    (home / "requests" / "second.json").write_text(json.dumps(["more"]))
    close_batch.close(home, "second")
    left = shell.git(home, "status", "--porcelain").split()
    assert left == ["M", "stage.py", "??", "notes.txt"]
