"""Stages handed to agents: what travels, what comes back, that nothing stays behind, and whom the
caller believes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from benchmarks import network
from flows.agents import dispatch, worker
from flows.agents import parcel as agent_parcel
from flows.pipeline import stage_runner
from flows.workspace import dvc_graph, shell
from tasks.common.errors import SettingsError, StageError
from tests.worlds import agents_world, dummy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a caller's workspace that is checked already, an agent's clone, and a
    remote."""
    folder = tmp_path_factory.mktemp("agents")
    workspace = agents_world.make(folder / "caller", "../store")
    network.clone(workspace, folder / "agent")
    stage_runner.Runner(workspace).run("check")
    return folder


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = dummy.copy(world, tmp_path / "world")
    monkeypatch.setenv("DUMMY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv(worker.FOLDER, str(tmp_path / "scratch"))
    monkeypatch.setenv(worker.BEAT, "0.2")
    return folder


def handed(here: Path, stage: str = "train@0") -> tuple[dispatch.Agents, agent_parcel.Parcel, str]:
    """A stage whose inputs and parcel are on the remote, as before Prefect gets to know of it."""
    sender = dispatch.Agents(here / "caller", "demo", agent_parcel.Post(here / "caller"))
    parcel = agent_parcel.collect(here / "caller", stage, "demo")
    assert parcel is not None
    sender.send(parcel, lambda text, kind="waiting": None)
    packed = parcel.pack()
    agent_parcel.Post(here / "caller").put(f"{parcel.name}/{agent_parcel.PARCEL}", packed)
    return sender, parcel, agent_parcel.digest(packed)


def work(
    here: Path,
    parcel: agent_parcel.Parcel,
    sha256: str,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    worker.run_stage(here / "agent", parcel.name, sha256, "try-1", tell)


def nothing_is_left(here: Path) -> bool:
    return list((here.parent / "scratch").iterdir()) == []


def test_an_agent_gives_back_results_that_the_caller_restores_without_running(
    here: Path, tmp_path: Path
) -> None:
    sender, parcel, sha256 = handed(here)
    lines: list[str] = []
    work(here, parcel, sha256, lines.append)
    assert "train0: step 3 of 3" in lines
    assert nothing_is_left(here)

    assert sender.fetch(parcel)
    assert stage_runner.Runner(here / "caller").run("train@0") == "restored"
    assert dummy.log_of(tmp_path / "log") == ["train0"]
    assert (
        (here / "caller" / "artifacts" / "train" / "0" / "model.txt")
        .read_text()
        .startswith("train0: ")
    )
    assert "train@0" not in dvc_graph.stale(here / "caller")
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
    other = agent_parcel.Parcel(
        **{**vars(parcel), "files": {"dvc.yaml": b"stages: {train: {cmd: touch /tmp/taken}}"}}
    )
    agent_parcel.Post(here / "caller").put(f"{parcel.name}/{agent_parcel.PARCEL}", other.pack())
    with pytest.raises(worker.UnfitError, match="not the one handed out"):
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
    with pytest.raises(worker.UnfitError, match=r"expected the caller's 0\.0\.1"):
        work(here, parcel, agent_parcel.digest(other))


def test_a_stage_that_fails_on_an_agent_says_so_in_its_own_words_and_hands_nothing_back(
    here: Path,
) -> None:
    sender, parcel, sha256 = handed(here)
    (here / "agent" / "fail-train0").touch()
    with pytest.raises(
        StageError, match="train@0: record r7: got label 12, expected 0 to 9; mend the manifest"
    ):
        work(here, parcel, sha256)
    assert nothing_is_left(here)
    assert not sender.fetch(parcel)


def test_an_agent_stops_a_stage_that_the_caller_withdrew(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, parcel, sha256 = handed(here)
    monkeypatch.setenv("DUMMY_PAUSE", "100000")  # so the stage never ends by itself

    def withdraw(line: str) -> None:
        if "step 1" in line:
            dispatch.sweep(here / "caller", "demo")

    with pytest.raises(worker.AbandonedError):
        work(here, parcel, sha256, withdraw)
    assert nothing_is_left(here)
    assert agent_parcel.Post(here / "caller").below(dispatch.HANDOVER) == []
    assert not sender.fetch(parcel)


def test_an_agent_that_finishes_after_the_caller_gave_up_leaves_nothing_on_the_remote(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parcel, sha256 = handed(here)
    monkeypatch.setenv(worker.BEAT, "60")  # so that it does not hear of it in time
    before = sorted(path.name for path in (here / "store").rglob("*") if path.is_file())

    def withdraw(line: str) -> None:
        if "step 3" in line:
            dispatch.sweep(here / "caller", "demo")

    with pytest.raises(worker.AbandonedError):
        work(here, parcel, sha256, withdraw)
    after = sorted(path.name for path in (here / "store").rglob("*") if path.is_file())
    assert set(after) < set(before)


def test_what_a_killed_agent_left_is_ended_and_removed_before_the_next_stage(
    here: Path, tmp_path: Path
) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, time\n"
         "from flows.agents.worker import own_folder\n"
         "with own_folder() as place:\n    (place / 'record.png').write_text('personal')\n"
         "    child = subprocess.Popen(['sleep', '600'], cwd=place, start_new_session=True)\n"
         "    print(child.pid, flush=True)\n    time.sleep(600)\n"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **dummy.location()},
    )  # fmt: skip
    with killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        assert worker.sweep() == 0  # it lives
        killed.kill()
    left = list((tmp_path / "scratch").rglob("record.png"))
    assert len(left) == 1
    with worker.own_folder() as folder:
        assert not left[0].exists()
        assert folder.exists()
        assert worker.sweep() == 0
    assert ended(child)
    assert nothing_is_left(here)


def ended(pid: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def test_what_a_killed_caller_left_in_its_workspace_is_removed(here: Path) -> None:
    home = here / "caller"
    killed = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    left = home / ".dvc" / "tmp" / f"depot-{killed.stdout.strip()}-x"
    left.mkdir()
    with agent_parcel.depot(home, {}, agent_parcel.cache_of(home)) as folder:
        dispatch.sweep(home, "demo")
        assert folder.exists()
        assert not left.exists()
    assert list((home / ".dvc" / "tmp").glob("depot-*")) == []


def test_agents_do_not_work_in_a_folder_that_others_can_read(here: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir(mode=0o755)
    with pytest.raises(worker.UnfitError, match="chmod 700"), worker.own_folder():
        pass


def test_results_that_are_on_the_remote_already_are_taken_and_nothing_is_handed_out(
    here: Path,
) -> None:
    _, parcel, sha256 = handed(here)
    work(here, parcel, sha256)
    dispatch.sweep(here / "caller", "demo")
    told: list[str] = []
    assert dispatch.Agents(
        here / "caller", "demo", agent_parcel.Post(here / "caller")
    ).fetch_results("train@0", "gpu", lambda text, kind="waiting": told.append(text))
    assert told == ["the results are on the remote already"]
    assert stage_runner.Runner(here / "caller").run("train@0") == "restored"


def test_results_whose_objects_were_erased_from_the_remote_are_not_taken(here: Path) -> None:
    sender, parcel, sha256 = handed(here)
    work(here, parcel, sha256)
    (entry,) = (here / "store" / parcel.runs).iterdir()
    for md5 in (agent_parcel.outputs_of(entry.read_bytes()) or {}).values():
        (here / "store" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    assert not sender.fetch(parcel)
    assert stage_runner.Runner(here / "caller").run("train@0") == "ran"


def test_a_stage_that_is_in_the_callers_own_cache_is_not_handed_out(here: Path) -> None:
    runner = stage_runner.Runner(here / "caller")
    assert runner.run("train@0") == "ran"
    (here / "caller" / "dvc.lock").unlink()
    shutil.rmtree(here / "caller" / "artifacts" / "train")
    told: list[str] = []
    sender = dispatch.Agents(here / "caller", "demo", agent_parcel.Post(here / "caller"))
    assert not sender.fetch_results(
        "train@0", "gpu", lambda text, kind="waiting": told.append(text)
    )
    assert told == []
    assert not (here / "store").exists()


def test_a_folder_that_several_stages_make_and_a_file_that_git_keeps_travel_too(
    here: Path, tmp_path: Path
) -> None:
    runner = stage_runner.Runner(here / "caller")
    for stage in ("train@0", "train@1"):
        runner.run(stage)
    sender, parcel, sha256 = handed(here, "score")
    assert sorted(parcel.inputs) == ["artifacts/train/0", "artifacts/train/1"]
    assert "requests/demo.json" in parcel.files
    work(here, parcel, sha256)
    assert sender.fetch(parcel)
    assert runner.run("score") == "restored"


def test_a_file_beside_what_dvc_tracks_is_noticed_and_the_agent_does_not_work_on_other_inputs(
    here: Path,
) -> None:
    runner = stage_runner.Runner(here / "caller")
    for stage in ("train@0", "train@1"):
        runner.run(stage)
    (here / "caller" / "artifacts" / "train" / "stray.txt").write_text("?")
    _, parcel, sha256 = handed(here, "score")
    with pytest.raises(worker.UnfitError, match="the inputs differ from the caller's"):
        work(here, parcel, sha256)
    assert nothing_is_left(here)


def test_without_a_remote_or_a_standing_server_everything_runs_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    told: list[str] = []
    with temporary_settings({PREFECT_API_URL: None}):
        assert dispatch.find_agents(here / "caller", "demo", told.append) is None
        assert told == []
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert dispatch.find_agents(here / "caller", "demo", told.append) is not None
        shell.dvc(here / "caller", "remote", "remove", "store")
        assert dispatch.find_agents(here / "caller", "demo", told.append) is None
        assert "no DVC remote here" in told[0]
        monkeypatch.setenv(dispatch.MODE, "pool")
        with pytest.raises(StageError, match="dvc remote add"):
            dispatch.find_agents(here / "caller", "demo", told.append)
        monkeypatch.setenv(dispatch.MODE, "often")
        with pytest.raises(SettingsError, match="got 'often', expected auto, here or pool"):
            dispatch.find_agents(here / "caller", "demo", told.append)


class Server:
    """As much of Prefect as a caller speaks to: runs go through the states given, one more at each
    look."""

    def __init__(self, *runs: list[Any], workers: bool = True) -> None:
        self.plans = [list(states) for states in runs]
        self.made: list[dict[str, Any]] = []
        self.set: list[tuple[int, Any]] = []
        self.workers = workers

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_deployment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(id=name)

    def read_workers_for_work_pool(self, pool: str) -> list[SimpleNamespace]:
        from prefect.client.schemas.objects import WorkerStatus

        return [
            SimpleNamespace(
                name="a", status=WorkerStatus.ONLINE if self.workers else WorkerStatus.OFFLINE
            )
        ]

    def read_flow_runs(self, **_: Any) -> list[Any]:
        return []

    def create_flow_run_from_deployment(self, deployment: str, **about: Any) -> SimpleNamespace:
        self.made.append({"deployment": deployment, **about})
        return SimpleNamespace(id=len(self.made) - 1)

    def read_flow_run(self, run: int) -> SimpleNamespace:
        states = self.plans[run]
        return SimpleNamespace(state=states.pop(0) if len(states) > 1 else states[0])

    def set_flow_run_state(self, run: int, state: Any, force: bool = False) -> None:
        self.set.append((run, state))
        self.plans[run] = [state]


def caller_of(here: Path, server: Server, **times: float) -> dispatch.Agents:
    patience = dispatch.Patience.from_environment()
    patience = replace(patience, poll=0.02, fetch_pause=0.02, **times)
    post = agent_parcel.Post(here / "caller")
    return dispatch.Agents(
        here / "caller",
        "demo",
        post,
        connect=lambda: server,  # type: ignore[arg-type,return-value]
        patience=patience,
    )


def states() -> Any:
    from prefect import states

    return states


def test_what_prefect_is_told_names_the_work_and_holds_no_data(here: Path) -> None:
    server = Server([states().Scheduled(), states().Failed(message="train@0: because")])
    with pytest.raises(StageError, match=r"^train@0: because$"):
        caller_of(here, server).fetch_results("train@0", "gpu", lambda text, kind="waiting": None)
    (made,) = server.made
    assert made["deployment"] == "agent-stage/gpu"
    assert made["name"] == "demo/train@0"
    assert made["parameters"]["parcel"].startswith("handover/demo/")
    assert set(made["parameters"]) == {"stage", "batch", "parcel", "sha256"}
    assert agent_parcel.Post(here / "caller").below(dispatch.HANDOVER) == []


def test_a_lost_agent_s_stage_is_handed_out_once_more_and_never_a_third_time(here: Path) -> None:
    server = Server(
        [states().Running(), states().Crashed(message="exit code -9")],
        [states().Crashed(message="again")],
    )
    told: list[str] = []
    with pytest.raises(
        dispatch.AgentError,
        match=r"train@0: 2 agents one after the other were lost with it; the last: again",
    ):
        caller_of(here, server).fetch_results(
            "train@0", "gpu", lambda text, kind="waiting": told.append(text)
        )
    assert len(server.made) == 2
    assert "the agent is lost: exit code -9" in told


def test_an_agent_that_is_silent_is_lost_and_its_run_is_marked_so(here: Path) -> None:
    server = Server([states().Running()], [states().Pending()])
    with pytest.raises(dispatch.AgentError, match="no sign of life"):
        caller_of(here, server, silence=0.3, starting=0.3).fetch_results(
            "train@0", "gpu", lambda text, kind="waiting": None
        )
    assert [(run, state.name) for run, state in server.set] == [(0, "Crashed"), (1, "Crashed")]


def test_an_agent_that_gives_signs_of_life_may_take_as_long_as_it_needs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.SILENCE, "2")
    server = Server([states().Running()])
    sender = caller_of(here, server)
    parcel = agent_parcel.collect(here / "caller", "train@0", "demo")
    assert parcel is not None
    told: list[str] = []
    post = agent_parcel.Post(here / "caller")

    def live() -> None:
        while not server.made:
            time.sleep(0.05)
        for number in range(50):
            post.put(
                f"{parcel.name}/alive-0", b'{"agent": "g1", "pid": 7, "line": "epoch %d"}' % number
            )
            time.sleep(0.1)
        server.plans[0] = [states().Failed(message="enough")]

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(StageError, match=r"^enough$"):
        sender.fetch_results("train@0", "gpu", lambda text, kind="waiting": told.append(text))
    thread.join()
    assert "runs on g1 (process 7)" in told
    assert [line for line in told if line.startswith("epoch")] != []


def test_with_no_worker_the_stage_runs_here_and_the_run_says_why(here: Path) -> None:
    server = Server(workers=False)
    told: list[str] = []
    assert not caller_of(here, server).fetch_results(
        "train@0", "gpu", lambda text, kind="waiting": told.append(text)
    )
    assert told == ["runs here: no worker of pool gpu is online"]
    assert server.made == []
    assert not (here / "store").exists()


def test_when_the_last_worker_goes_before_taking_the_stage_it_runs_here_after_a_while(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.WAIT, "0.2")
    server = Server([states().Scheduled()])
    told: list[str] = []

    def go(text: str, kind: Literal["waiting", "line"] = "waiting") -> None:
        told.append(text)
        server.workers = "handed" not in text

    assert not caller_of(here, server).fetch_results("train@0", "gpu", go)
    assert told[-1] == "runs here: no worker of pool gpu is online any more"
    assert [(run, state.name) for run, state in server.set] == [(0, "Cancelled")]
    assert agent_parcel.Post(here / "caller").below(dispatch.HANDOVER) == []


def test_while_all_workers_are_busy_a_stage_waits_for_its_turn(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.WAIT, "0.1")
    server = Server([*[states().Scheduled()] * 20, states().Failed(message="its turn")])
    with pytest.raises(StageError, match=r"^its turn$"):
        caller_of(here, server).fetch_results("train@0", "gpu", lambda text, kind="waiting": None)


def test_where_a_pool_is_demanded_nothing_runs_here_in_its_place(here: Path) -> None:
    server = Server(
        [states().Scheduled(), states().Scheduled(), states().Failed(message="taken at last")],
        workers=False,
    )
    sender = caller_of(here, server)
    sender.mode = "pool"
    with pytest.raises(StageError, match=r"^taken at last$"):
        sender.fetch_results("train@0", "gpu", lambda text, kind="waiting": None)


def test_stopping_the_caller_withdraws_what_is_out(here: Path) -> None:
    server = Server([states().Running()])
    sender = caller_of(here, server)
    errors: list[BaseException] = []

    def bring() -> None:
        try:
            sender.fetch_results("train@0", "gpu", lambda text, kind="waiting": None)
        except StageError as error:
            errors.append(error)

    thread = threading.Thread(target=bring)
    thread.start()
    while not server.made:
        time.sleep(0.05)
    time.sleep(0.2)
    sender.stop()
    thread.join(30)
    assert isinstance(errors[0], stage_runner.KilledStageError)
    assert server.set[0][1].name == "Cancelling"
    assert agent_parcel.Post(here / "caller").below(dispatch.HANDOVER) == []
