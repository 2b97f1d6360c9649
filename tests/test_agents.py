"""Stages handed to agents: what travels, that nothing stays, and two real workers with a remote over the network."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dummy
import pytest

from flows import graph, shell, stages
from flows.operations import agent_parcel, agent_work, agents
from tasks.errors import SettingsError, StageError

STAGE = dummy.STAGE.replace('"fail-" + name', 'pathlib.Path(__file__).with_name("fail-" + name)')
"""The dummy stage as a user's own module: it is found in the agent's clone, and does not travel."""


def make(folder: Path, remote: str) -> Path:
    """A caller's workspace whose stages for agents say what they are run by."""
    place = dummy.make(folder)
    (place / "stage.py").write_text(STAGE)
    pipeline = (place / "dvc.yaml").read_text().replace("python stage.py", "python -m stage")
    (place / "dvc.yaml").write_text(
        pipeline.replace("deps: [artifacts/check.txt]", "deps: [artifacts/check.txt, data]")
    )
    shell.dvc(place, "remote", "add", "--quiet", "--default", "store", remote)
    shell.git(place, "commit", "--quiet", "--all", "-m", "for agents")
    return place


def clone(workspace: Path, folder: Path) -> Path:
    shell.git(workspace.parent, "clone", "--quiet", str(workspace), str(folder))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a caller's workspace that is checked already, an agent's clone, and a remote."""
    place = tmp_path_factory.mktemp("agents")
    workspace = make(place / "caller", "../store")
    clone(workspace, place / "agent")
    stages.Runner(workspace).run("check")
    return place


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = dummy.copy(world, tmp_path / "world")
    monkeypatch.setenv("DUMMY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv(agent_work.FOLDER, str(tmp_path / "scratch"))
    monkeypatch.setenv(agent_work.BEAT, "0.2")
    return place


def handed(here: Path, stage: str = "train@0") -> tuple[agents.Agents, agent_parcel.Parcel, str]:
    """A stage whose inputs and parcel are on the remote, as before Prefect gets to know of it."""
    sender = agents.Agents(here / "caller", "demo", agent_parcel.Post(here / "caller"))
    parcel = agent_parcel.collect(here / "caller", stage, "demo")
    assert parcel is not None
    sender._send(parcel, lambda line: None)
    packed = parcel.pack()
    agent_parcel.Post(here / "caller").put(f"{parcel.name}/{agent_parcel.PARCEL}", packed)
    return sender, parcel, agent_parcel.digest(packed)


def work(here: Path, parcel: agent_parcel.Parcel, sha256: str, tell: Callable[[str], None] = lambda line: None) -> None:
    agent_work.work(here / "agent", parcel.name, sha256, "try-1", tell)


def nothing_is_left(here: Path) -> bool:
    return list((here.parent / "scratch").iterdir()) == []


def test_an_agent_gives_back_results_that_the_caller_restores_without_running(here: Path, tmp_path: Path) -> None:
    sender, parcel, sha256 = handed(here)
    lines: list[str] = []
    work(here, parcel, sha256, lines.append)
    assert "train0: step 3 of 3" in lines
    assert nothing_is_left(here)

    assert sender._fetch(parcel)
    assert stages.Runner(here / "caller").run("train@0") == "restored"
    assert dummy.log_of(tmp_path / "log") == ["train0"]
    assert (here / "caller" / "artifacts" / "train" / "0" / "model.txt").read_text().startswith("train0: ")
    assert "train@0" not in graph.stale(here / "caller")
    assert agent_parcel.collect(here / "caller", "train@0", "demo") is None


def test_a_parcel_holds_what_dvc_does_not_keep_and_no_more(here: Path) -> None:
    parcel = agent_parcel.collect(here / "caller", "train@0", "demo")
    assert parcel is not None
    assert sorted(parcel.inputs) == ["artifacts/check.txt", "data"]
    assert sorted(parcel.files) == [".dvcignore", "dvc.yaml", "params.yaml"]
    packed = parcel.pack()
    assert agent_parcel.unpack(packed, agent_parcel.digest(packed)) == parcel
    assert packed == parcel.pack()
    assert b"r1" not in packed  # no record


def test_a_parcel_that_was_changed_on_the_remote_is_not_run(here: Path, tmp_path: Path) -> None:
    _, parcel, sha256 = handed(here)
    other = agent_parcel.Parcel(**{**vars(parcel), "files": {"dvc.yaml": b"stages: {train: {cmd: touch /tmp/taken}}"}})
    agent_parcel.Post(here / "caller").put(f"{parcel.name}/{agent_parcel.PARCEL}", other.pack())
    with pytest.raises(agent_work.UnfitError, match="not the one handed out"):
        work(here, parcel, sha256)
    assert dummy.log_of(tmp_path / "log") == []
    assert nothing_is_left(here)


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside"])
def test_a_parcel_writes_nothing_outside_its_folder(path: str) -> None:
    packed = agent_parcel.Parcel("train", "demo", "0" * 64, "1", {}, {path: b"x"}).pack()
    with pytest.raises(agent_parcel.RemoteError, match="outside its folder"):
        agent_parcel.unpack(packed, agent_parcel.digest(packed))


def test_an_agent_of_another_version_refuses(here: Path) -> None:
    _, parcel, _ = handed(here)
    other = agent_parcel.Parcel(**{**vars(parcel), "tool": "0.0.1"}).pack()
    agent_parcel.Post(here / "caller").put(f"{parcel.name}/{agent_parcel.PARCEL}", other)
    with pytest.raises(agent_work.UnfitError, match=r"expected the caller's 0\.0\.1"):
        work(here, parcel, agent_parcel.digest(other))


def test_a_stage_that_fails_on_an_agent_says_so_in_its_own_words_and_hands_nothing_back(here: Path) -> None:
    sender, parcel, sha256 = handed(here)
    (here / "agent" / "fail-train0").touch()
    with pytest.raises(StageError, match="train@0: record r7: got label 12, expected 0 to 9; mend the manifest"):
        work(here, parcel, sha256)
    assert nothing_is_left(here)
    assert not sender._fetch(parcel)


def test_an_agent_stops_a_stage_that_the_caller_withdrew(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, parcel, sha256 = handed(here)
    monkeypatch.setenv("DUMMY_PAUSE", "30")

    def withdraw(line: str) -> None:
        if "step 1" in line:
            agents.sweep(here / "caller", "demo")

    begun = time.monotonic()
    with pytest.raises(agent_work.AbandonedError):
        work(here, parcel, sha256, withdraw)
    assert time.monotonic() - begun < 25
    assert nothing_is_left(here)
    assert agent_parcel.Post(here / "caller").below(agents.HANDOVER) == []
    assert not sender._fetch(parcel)


def test_an_agent_that_finishes_after_the_caller_gave_up_leaves_nothing_on_the_remote(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parcel, sha256 = handed(here)
    monkeypatch.setenv(agent_work.BEAT, "60")  # so that it does not hear of it in time
    before = sorted(path.name for path in (here / "store").rglob("*") if path.is_file())

    def withdraw(line: str) -> None:
        if "step 3" in line:
            agents.sweep(here / "caller", "demo")

    with pytest.raises(agent_work.AbandonedError):
        work(here, parcel, sha256, withdraw)
    after = sorted(path.name for path in (here / "store").rglob("*") if path.is_file())
    assert set(after) < set(before)


def test_what_a_killed_agent_left_is_ended_and_removed_before_the_next_stage(here: Path, tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, time; from flows.operations.agent_work import own_folder\n"
         "with own_folder() as place:\n    (place / 'record.png').write_text('personal')\n"
         "    child = subprocess.Popen(['sleep', '600'], cwd=place, start_new_session=True)\n"
         "    print(child.pid, flush=True)\n    time.sleep(600)\n"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **dummy.location()},
    )  # fmt: skip
    with killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        assert agent_work.sweep() == 0  # it lives
        killed.kill()
    left = list((tmp_path / "scratch").rglob("record.png"))
    assert len(left) == 1
    with agent_work.own_folder() as place:
        assert not left[0].exists()
        assert place.exists()
        assert agent_work.sweep() == 0
    assert ended(child)
    assert nothing_is_left(here)


def ended(pid: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def test_agents_do_not_work_in_a_folder_that_others_can_read(here: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir(mode=0o755)
    with pytest.raises(agent_work.UnfitError, match="chmod 700"), agent_work.own_folder():
        pass


def test_results_that_are_on_the_remote_already_are_taken_and_nothing_is_handed_out(here: Path) -> None:
    _, parcel, sha256 = handed(here)
    work(here, parcel, sha256)
    agents.sweep(here / "caller", "demo")
    told: list[str] = []
    assert agents.Agents(here / "caller", "demo", agent_parcel.Post(here / "caller")).brings(
        "train@0", "gpu", told.append
    )
    assert told == ["the results are on the remote already"]
    assert stages.Runner(here / "caller").run("train@0") == "restored"


def test_results_whose_objects_were_erased_from_the_remote_are_not_taken(here: Path) -> None:
    sender, parcel, sha256 = handed(here)
    work(here, parcel, sha256)
    (entry,) = (here / "store" / parcel.runs).iterdir()
    for md5 in (agent_parcel.kept(entry.read_bytes()) or {}).values():
        (here / "store" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    assert not sender._fetch(parcel)
    assert stages.Runner(here / "caller").run("train@0") == "ran"


def test_a_stage_that_is_in_the_callers_own_cache_is_not_handed_out(here: Path) -> None:
    runner = stages.Runner(here / "caller")
    assert runner.run("train@0") == "ran"
    (here / "caller" / "dvc.lock").unlink()
    shutil.rmtree(here / "caller" / "artifacts" / "train")
    told: list[str] = []
    sender = agents.Agents(here / "caller", "demo", agent_parcel.Post(here / "caller"))
    assert not sender.brings("train@0", "gpu", told.append)
    assert told == []
    assert not (here / "store").exists()


def test_a_folder_that_several_stages_make_and_a_file_that_git_keeps_travel_too(here: Path, tmp_path: Path) -> None:
    runner = stages.Runner(here / "caller")
    for stage in ("train@0", "train@1"):
        runner.run(stage)
    sender, parcel, sha256 = handed(here, "score")
    assert sorted(parcel.inputs) == ["artifacts/train/0", "artifacts/train/1"]
    assert "requests/demo.json" in parcel.files
    work(here, parcel, sha256)
    assert sender._fetch(parcel)
    assert runner.run("score") == "restored"


def test_a_file_beside_what_dvc_tracks_is_noticed_and_the_agent_does_not_work_on_other_inputs(here: Path) -> None:
    runner = stages.Runner(here / "caller")
    for stage in ("train@0", "train@1"):
        runner.run(stage)
    (here / "caller" / "artifacts" / "train" / "stray.txt").write_text("?")
    _, parcel, sha256 = handed(here, "score")
    with pytest.raises(agent_work.UnfitError, match="the inputs are not the caller's"):
        work(here, parcel, sha256)
    assert nothing_is_left(here)


def test_without_a_remote_or_a_standing_server_everything_runs_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    told: list[str] = []
    with temporary_settings({PREFECT_API_URL: None}):
        assert agents.at_hand(here / "caller", "demo", told.append) is None
        assert told == []
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert agents.at_hand(here / "caller", "demo", told.append) is not None
        shell.dvc(here / "caller", "remote", "remove", "store")
        assert agents.at_hand(here / "caller", "demo", told.append) is None
        assert "no DVC remote here" in told[0]
        monkeypatch.setenv(agents.MODE, "pool")
        with pytest.raises(StageError, match="dvc remote add"):
            agents.at_hand(here / "caller", "demo", told.append)
        monkeypatch.setenv(agents.MODE, "often")
        with pytest.raises(SettingsError, match="got 'often', expected auto, here or pool"):
            agents.at_hand(here / "caller", "demo", told.append)
