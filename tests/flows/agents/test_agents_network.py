"""Agents for real: a Prefect server, two workers in two clones, and a remote that is reached over
the network (S3)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import network
from benchmarks.network import until
from flows.workspace import dvc_graph
from tests.worlds import agents_world, dummy


@dataclass
class World:
    """A caller's workspace, and what is around it."""

    root: Path
    api: str
    s3: Any
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        variables = {
            **dummy.location(),
            "PREFECT_HOME": str(self.root / f"prefect-{name}"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "ERASURE_AUDIT_AGENT_FOLDER": str(self.scratch(name)),
            "ERASURE_AUDIT_AGENT_BEAT": "0.5",
            "DUMMY_LOG": str(self.root / f"{name}.log"),
        }
        self.workers[name] = network.agent(
            dummy.invocation("agent", "start", "--pool", "gpu", "--name", name),
            self.root / f"agent-{name}",
            self.api,
            self.root / f"{name}.out",
            variables,
        )

    def kill(self, name: str) -> None:
        """As if the power had failed: the worker and all that it has started."""
        network.kill(self.workers.pop(name))

    def pause(self, seconds: float) -> None:
        """How long each of a stage's three steps takes on agents."""
        for name in ("a", "b"):
            (self.root / f"agent-{name}" / "pause").write_text(str(seconds))

    def scratch(self, name: str) -> Path:
        return self.root / f"scratch-{name}"

    def stage_runs_at(self, name: str) -> bool:
        commands = (
            (each.info["cwd"] or "", " ".join(each.info["cmdline"] or ())) for each in running()
        )
        return any(
            cwd.startswith(str(self.scratch(name))) and "-m stage" in words
            for cwd, words in commands
        )

    def left_at_agents(self) -> list[Path]:
        return [path for name in ("a", "b") for path in self.scratch(name).iterdir()]

    def log(self, name: str) -> list[str]:
        return dummy.log_of(self.root / f"{name}.log")

    def on_remote(self, prefix: str = "") -> list[str]:
        found = self.s3.list_objects_v2(Bucket=network.BUCKET, Prefix=f"dvc/{prefix}").get(
            "Contents", []
        )
        return [each["Key"] for each in found]

    def runs(self, stage: str) -> list[dict[str, Any]]:
        """What Prefect knows of the handing over of a stage, oldest first."""
        return network.runs(self.api, f"demo/{stage}")

    def online(self) -> list[str]:
        return network.online(self.api, "gpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("network")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name, value in network.CREDENTIALS.items():
            patch.setenv(name, value)
        endpoint, s3 = stack.enter_context(network.s3_store())
        made = World(root, stack.enter_context(network.prefect_server(root)), s3)
        caller = agents_world.make(
            root / "caller", f"s3://{network.BUCKET}/dvc", endpointurl=endpoint
        )
        for name in ("a", "b"):
            network.clone(caller, root / f"agent-{name}")
            made.start(name)
        try:
            until(lambda: len(made.online()) == 2)
            yield made
        finally:
            for name in list(made.workers):
                made.kill(name)


def running() -> Iterator[psutil.Process]:
    return psutil.process_iter(["cwd", "cmdline"])


@pytest.fixture
def caller(world: World, tmp_path: Path) -> Path:
    return dummy.copy(world.root / "caller", tmp_path / "caller")


def begin(world: World, caller: Path, tmp_path: Path, *settings: str) -> subprocess.Popen[str]:
    variables = {
        **dummy.location(),
        "PREFECT_API_URL": world.api,
        "DUMMY_LOG": str(tmp_path / "log"),
        "ERASURE_AUDIT_AGENT_SILENCE": "10",
    }
    return subprocess.Popen(
        dummy.invocation("run", *(part for setting in settings for part in ("--set", setting))),
        cwd=caller,
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(process: subprocess.Popen[str]) -> list[str]:
    with process:
        assert process.stderr is not None
        return process.stderr.read().splitlines()


def told_until(process: subprocess.Popen[str], words: str) -> list[str]:
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line.rstrip())
        if words in line:
            return told
    raise AssertionError("\n".join(told))


def test_stages_for_agents_spread_over_all_workers_and_their_results_come_back(
    world: World, caller: Path, tmp_path: Path
) -> None:
    world.pause(1)  # so that none is ready for the second before the other has taken it
    process = begin(world, caller, tmp_path)
    told = finished(process)
    assert process.returncode == 0, told
    assert sorted([world.log("a"), world.log("b")]) == [["train0"], ["train1"]]
    assert dummy.log_of(tmp_path / "log") == ["check", "score", "verify", "report"]
    assert dvc_graph.stale(caller) == set()
    assert world.left_at_agents() == []
    assert world.on_remote("handover") == []
    assert len(world.on_remote("runs")) == 2
    for stage in ("train@0", "train@1"):
        (run,) = world.runs(stage)
        assert run["state_type"] == "COMPLETED"
        assert set(run["parameters"]) == {"stage", "batch", "parcel", "sha256"}


def test_a_stage_whose_worker_is_killed_is_run_again_elsewhere_once(
    world: World, caller: Path, tmp_path: Path
) -> None:
    before = len(world.log("a"))
    world.pause(2)
    process = begin(world, caller, tmp_path, "seed=1")
    until(lambda: world.stage_runs_at("b"))
    world.kill("b")
    assert list(world.scratch("b").iterdir()) != []

    world.start("b")  # the machine comes back, and clears up first
    told = finished(process)
    assert process.returncode == 0, told
    lost = [line.partition(":")[0] for line in told if "the agent is lost: no sign of life" in line]
    assert len(lost) == 1
    kept = ({"train@0", "train@1"} - set(lost)).pop()
    assert [run["state_type"] for run in world.runs(lost[0])[-2:]] == ["CRASHED", "COMPLETED"]
    assert len(world.runs(kept)) == 2  # the one of the first test, and one of this
    done = world.log("a")[before:] + world.log("b")[1:]
    assert sorted(done) == ["train0", "train1"]
    assert dvc_graph.stale(caller) == set()
    until(lambda: world.left_at_agents() == [])
    assert world.on_remote("handover") == []


def test_a_stage_that_fails_on_an_agent_fails_the_run_with_its_own_message_and_is_not_tried_again(
    world: World, caller: Path, tmp_path: Path
) -> None:
    until(lambda: {"a", "b"} <= set(world.online()))
    before = len(world.runs("train@0"))
    for name in ("a", "b"):
        (world.root / f"agent-{name}" / "fail-train0").touch()
    try:
        world.pause(0)
        process = begin(world, caller, tmp_path, "seed=2")
        told = finished(process)
    finally:
        for name in ("a", "b"):
            (world.root / f"agent-{name}" / "fail-train0").unlink()
    assert process.returncode == 1
    # the message came through Prefect's database, which keeps it: there it names no record
    assert told[-1] == "error: train@0: record …: got label 12, expected 0 to 9; mend the manifest"
    assert len(world.runs("train@0")) == before + 1
    assert world.left_at_agents() == []
    assert world.on_remote("handover") == []


def test_a_killed_caller_finds_its_stages_again_and_a_stopped_one_withdraws_them(
    world: World, caller: Path, tmp_path: Path
) -> None:
    world.pause(20)
    before = len(world.runs("train@0"))
    process = begin(world, caller, tmp_path, "seed=3")
    told_until(process, "train@0: runs on")
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)

    process = begin(world, caller, tmp_path, "seed=3")
    told_until(process, "train@0: is under way on an agent already")
    assert len(world.runs("train@0")) == before + 1
    process.send_signal(signal.SIGINT)
    told = finished(process)
    assert process.returncode == 130, told
    until(lambda: world.left_at_agents() == [])
    assert world.on_remote("handover") == []
    until(lambda: world.runs("train@0")[-1]["state_type"] == "CANCELLED")
