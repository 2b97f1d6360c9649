"""Workspaces: made fresh, made ready, and their data brought back or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.pipeline import provenance
from flows.workspace import dvc_graph, layout, shell
from tasks.common import files, settings
from tasks.common.errors import RequestError, SettingsError, WorkspaceError
from tasks.data.importers import digits
from tests.worlds import dummy


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy.make(tmp_path_factory.mktemp("workspaces") / "workspace")


@pytest.fixture
def home(fresh: Path, tmp_path: Path) -> Path:
    return dummy.copy(fresh, tmp_path / "workspace")


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is made the same every time."""

    def make(folder: Path, writers: int = 45) -> None:
        folder.mkdir()
        (folder / "manifest.csv").write_text("record_id\nr1\n")

    monkeypatch.setattr(digits, "import_data", make)


def forget_cache(home: Path) -> None:
    shutil.rmtree(home / ".dvc" / "cache")
    shutil.rmtree(home / "data")


def test_a_fresh_workspace_holds_the_pipeline_and_phones_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    layout.init(folder)
    assert settings.load(folder / "params.yaml") == settings.Settings()
    assert {"check", "report"} <= {stage.name for stage in dvc_graph.read(folder)}
    assert shell.dvc(folder, "config", "core.analytics") == "false"
    assert layout.find(folder / "requests") == folder
    assert "/data" in (folder / ".gitignore").read_text().splitlines()
    assert (folder / "inbox").is_dir()
    assert list((folder / "requests").iterdir()) == []  # no sample gets into a real register


def test_line_ends_stay_whatever_git_is_told_on_a_machine(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    layout.init(folder)
    for name, value in {"core.autocrlf": "true", "user.email": "a@b.org", "user.name": "A"}.items():
        shell.git(folder, "config", name, value)
    before = (folder / "params.yaml").read_bytes()
    shell.git(folder, "add", ".")
    shell.git(folder, "commit", "--quiet", "-m", "workspace")
    (folder / "params.yaml").unlink()
    shell.git(folder, "checkout", "--quiet", "params.yaml")
    assert (folder / "params.yaml").read_bytes() == before
    assert b"\r" not in before


def test_a_batch_with_a_request_of_the_future_is_not_begun(home: Path) -> None:
    late = [{"submitted_time": "2026-11-02T09:15:00Z"}, {"submitted_time": "2962-01-01T00:00:00Z"}]
    (home / "requests" / "late.json").write_text(json.dumps(late))
    with pytest.raises(RequestError, match=r"late\.json: entry 2: .*in the future"):
        layout.choose(home, "late", [])


def test_a_workspace_is_not_made_over_another_one(home: Path) -> None:
    before = (home / "dvc.yaml").read_bytes()
    with pytest.raises(WorkspaceError, match="choose a new folder"):
        layout.init(home)
    assert (home / "dvc.yaml").read_bytes() == before


def test_outside_of_a_workspace_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="erasure-audit init"):
        layout.find(tmp_path)


def test_settings_and_batch_are_written_where_dvc_versions_them(home: Path) -> None:
    chosen = layout.choose(home, "second", ["verify.alpha=0.1"])
    assert (chosen.batch, chosen.verify.alpha) == ("second", 0.1)
    assert settings.load(home / "params.yaml") == chosen


def test_a_batch_called_by_a_number_stays_a_name(home: Path) -> None:
    (home / "requests" / "2026.json").write_text("[]")
    assert layout.choose(home, "2026", []).batch == "2026"


@pytest.mark.parametrize("batch", ["none", "../requests/demo"])
def test_an_unknown_batch_is_refused_with_those_that_exist_and_nothing_is_written(
    home: Path, batch: str
) -> None:
    before = (home / "params.yaml").read_bytes()
    with pytest.raises((RequestError, SettingsError)):
        layout.choose(home, batch, ["seed=3"])
    assert (home / "params.yaml").read_bytes() == before
    with pytest.raises(RequestError, match="demo, second"):
        layout.choose(home, "none", [])


def test_models_of_blocks_that_are_not_asked_for_are_removed(home: Path) -> None:
    for block in ("train/0", "train/1", "train/2", "retrain/0", "retrain/7"):
        (home / "artifacts" / block).mkdir(parents=True)
    assert layout.prune(home, settings.Settings()) == ["artifacts/train/2", "artifacts/retrain/7"]
    assert sorted(path.name for path in (home / "artifacts" / "train").iterdir()) == ["0", "1"]


def test_missing_data_come_back_from_the_cache(home: Path) -> None:
    shutil.rmtree(home / "data")
    assert layout.ensure_data(home) == "cache"
    assert layout.ensure_data(home) == "present"


def test_missing_data_come_back_from_a_remote(home: Path, tmp_path: Path) -> None:
    shell.dvc(home, "remote", "add", "--default", "store", str(tmp_path / "store"))
    shell.dvc(home, "push", "--quiet")
    forget_cache(home)
    assert layout.ensure_data(home) == "remote"


def test_data_that_nobody_has_are_an_error_that_says_what_to_do(home: Path) -> None:
    forget_cache(home)
    with pytest.raises(WorkspaceError, match="neither in DVC's cache nor in a remote"):
        layout.ensure_data(home)
    (home / "data.dvc").unlink()
    with pytest.raises(WorkspaceError, match="import digits"):
        layout.ensure_data(home)


@pytest.mark.usefixtures("few_digits")
def test_the_embedded_data_are_made_again_as_recorded(home: Path) -> None:
    layout.track_data(home, layout.DIGITS)
    recorded = (home / "data.dvc").read_bytes()
    forget_cache(home)
    assert layout.ensure_data(home) == "made"
    assert "data.dvc" not in dvc_graph.stale(home)
    assert (home / "data.dvc").read_bytes() == recorded


@pytest.mark.usefixtures("few_digits")
def test_embedded_data_with_other_bytes_are_refused_and_removed(home: Path) -> None:
    (home / "data" / "manifest.csv").write_text("record_id\nof another machine\n")
    layout.track_data(home, layout.DIGITS)
    recorded = (home / "data.dvc").read_bytes()
    forget_cache(home)
    with pytest.raises(WorkspaceError, match="this machine makes differ"):
        layout.ensure_data(home)
    assert not (home / "data").exists()
    assert (home / "data.dvc").read_bytes() == recorded


def test_edited_data_are_tracked_anew_before_a_run(home: Path) -> None:
    (home / "data" / "manifest.csv").write_text("record_id\nr1\nr2\n")
    _, stale = layout.prepare(home, None, [])
    assert "check" in stale
    assert "data.dvc" not in stale | dvc_graph.stale(home)


def test_the_record_of_a_batch_stands_until_tool_data_or_settings_change(home: Path) -> None:
    path = provenance.write(home, settings.Settings())
    first = {**files.read_json(path), "started": "2001-01-01T00:00:00Z", "commit": None}
    files.write_json(path, first)
    provenance.write(home, settings.Settings())
    assert files.read_json(path) == first
    provenance.write(home, settings.parse({"seed": 5}))
    assert files.read_json(path)["started"] != first["started"]
    assert files.read_json(path)["changed_settings"] == {"seed": 5}
