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
def place(fresh: Path, tmp_path: Path) -> Path:
    return dummy.copy(fresh, tmp_path / "workspace")


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is made the same every time."""

    def make(folder: Path, writers: int = 45) -> None:
        folder.mkdir()
        (folder / "manifest.csv").write_text("record_id\nr1\n")

    monkeypatch.setattr(digits, "import_data", make)


def forget_cache(place: Path) -> None:
    shutil.rmtree(place / ".dvc" / "cache")
    shutil.rmtree(place / "data")


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


def test_a_batch_with_a_request_of_the_future_is_not_begun(place: Path) -> None:
    late = [{"submitted_time": "2026-11-02T09:15:00Z"}, {"submitted_time": "2962-01-01T00:00:00Z"}]
    (place / "requests" / "late.json").write_text(json.dumps(late))
    with pytest.raises(RequestError, match=r"late\.json: entry 2: .*in the future"):
        layout.choose(place, "late", [])


def test_a_workspace_is_not_made_over_another_one(place: Path) -> None:
    before = (place / "dvc.yaml").read_bytes()
    with pytest.raises(WorkspaceError, match="choose a new folder"):
        layout.init(place)
    assert (place / "dvc.yaml").read_bytes() == before


def test_outside_of_a_workspace_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="erasure-audit init"):
        layout.find(tmp_path)


def test_settings_and_batch_are_written_where_dvc_versions_them(place: Path) -> None:
    chosen = layout.choose(place, "second", ["verify.alpha=0.1"])
    assert (chosen.batch, chosen.verify.alpha) == ("second", 0.1)
    assert settings.load(place / "params.yaml") == chosen


def test_a_batch_called_by_a_number_stays_a_name(place: Path) -> None:
    (place / "requests" / "2026.json").write_text("[]")
    assert layout.choose(place, "2026", []).batch == "2026"


@pytest.mark.parametrize("batch", ["none", "../requests/demo"])
def test_an_unknown_batch_is_refused_with_those_that_exist_and_nothing_is_written(
    place: Path, batch: str
) -> None:
    before = (place / "params.yaml").read_bytes()
    with pytest.raises((RequestError, SettingsError)):
        layout.choose(place, batch, ["seed=3"])
    assert (place / "params.yaml").read_bytes() == before
    with pytest.raises(RequestError, match="demo, second"):
        layout.choose(place, "none", [])


def test_models_of_blocks_that_are_not_asked_for_are_removed(place: Path) -> None:
    for block in ("train/0", "train/1", "train/2", "retrain/0", "retrain/7"):
        (place / "artifacts" / block).mkdir(parents=True)
    assert layout.prune(place, settings.Settings()) == ["artifacts/train/2", "artifacts/retrain/7"]
    assert sorted(path.name for path in (place / "artifacts" / "train").iterdir()) == ["0", "1"]


def test_missing_data_come_back_from_the_cache(place: Path) -> None:
    shutil.rmtree(place / "data")
    assert layout.ensure_data(place) == "cache"
    assert layout.ensure_data(place) == "present"


def test_missing_data_come_back_from_a_remote(place: Path, tmp_path: Path) -> None:
    shell.dvc(place, "remote", "add", "--default", "store", str(tmp_path / "store"))
    shell.dvc(place, "push", "--quiet")
    forget_cache(place)
    assert layout.ensure_data(place) == "remote"


def test_data_that_nobody_has_are_an_error_that_says_what_to_do(place: Path) -> None:
    forget_cache(place)
    with pytest.raises(WorkspaceError, match="neither in DVC's cache nor in a remote"):
        layout.ensure_data(place)
    (place / "data.dvc").unlink()
    with pytest.raises(WorkspaceError, match="import digits"):
        layout.ensure_data(place)


@pytest.mark.usefixtures("few_digits")
def test_the_embedded_data_are_made_again_as_recorded(place: Path) -> None:
    layout.track_data(place, layout.DIGITS)
    recorded = (place / "data.dvc").read_bytes()
    forget_cache(place)
    assert layout.ensure_data(place) == "made"
    assert "data.dvc" not in dvc_graph.stale(place)
    assert (place / "data.dvc").read_bytes() == recorded


@pytest.mark.usefixtures("few_digits")
def test_embedded_data_with_other_bytes_are_refused_and_removed(place: Path) -> None:
    (place / "data" / "manifest.csv").write_text("record_id\nof another machine\n")
    layout.track_data(place, layout.DIGITS)
    recorded = (place / "data.dvc").read_bytes()
    forget_cache(place)
    with pytest.raises(WorkspaceError, match="this machine makes differ"):
        layout.ensure_data(place)
    assert not (place / "data").exists()
    assert (place / "data.dvc").read_bytes() == recorded


def test_edited_data_are_tracked_anew_before_a_run(place: Path) -> None:
    (place / "data" / "manifest.csv").write_text("record_id\nr1\nr2\n")
    _, stale = layout.prepare(place, None, [])
    assert "check" in stale
    assert "data.dvc" not in stale | dvc_graph.stale(place)


def test_the_record_of_a_batch_stands_until_tool_data_or_settings_change(place: Path) -> None:
    path = provenance.write(place, settings.Settings())
    first = {**files.read_json(path), "started": "2001-01-01T00:00:00Z", "commit": None}
    files.write_json(path, first)
    provenance.write(place, settings.Settings())
    assert files.read_json(path) == first
    provenance.write(place, settings.parse({"seed": 5}))
    assert files.read_json(path)["started"] != first["started"]
    assert files.read_json(path)["changed_settings"] == {"seed": 5}
