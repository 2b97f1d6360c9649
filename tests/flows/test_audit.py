"""The flow on a tiny pipeline: Prefect runs what DVC finds stale, and a stage's own message reaches
the user."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.operations import run_batch
from flows.pipeline import prepare, stage_runner
from flows.register.register import Intake, Register, State
from flows.workspace import dvc_graph, environment, shell
from tasks.common import files
from tasks.common.errors import StageError
from tests.worlds import dummy


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy.make(tmp_path_factory.mktemp("flow") / "workspace")


@pytest.fixture
def workspace(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUMMY_LOG", str(tmp_path / "log"))
    return dummy.copy(fresh, tmp_path / "workspace")


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standing Prefect server; its address."""
    environment.prepare(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=None):
        from prefect.settings import PREFECT_API_URL

        yield str(PREFECT_API_URL.value())


def run_flow(
    workspace: Path, **parameters: Any
) -> tuple[list[dict[str, Any]], list[stage_runner.StageEvent]]:
    from flows.operations.audit_flow import audit, taking_over

    events: list[stage_runner.StageEvent] = []
    found = prepare.prepare(workspace, parameters.get("batch"), [])
    found.runner.listener = events.append
    with taking_over(found):
        return audit(folder=str(workspace), **parameters), events


def logged(tmp_path: Path) -> list[str]:
    return dummy.log_of(tmp_path / "log")


@pytest.mark.usefixtures("prefect")
def test_every_stage_runs_once_and_the_results_come_back(workspace: Path, tmp_path: Path) -> None:
    found, events = run_flow(workspace, batch="demo")
    assert sorted(logged(tmp_path)) == sorted(
        ["check", "train0", "train1", "score", "verify", "report"]
    )
    assert [result["verdict"] for result in found] == ["fail", "pass"]
    assert {event.stage for event in events if event.kind == "ran"} == set(dummy.STAGES)
    assert "check: step 2 of 3" in [event.text for event in events]
    assert dvc_graph.stale(workspace) == set()

    _, events = run_flow(workspace)
    assert events == []
    assert len(logged(tmp_path)) == 6

    record = files.read_json(workspace / "ledger" / "batches" / "demo.json")
    assert record["data_md5"].endswith(".dir")
    assert record["changed_settings"] == {}

    shows_verdicts_as_artifacts("demo")


def shows_verdicts_as_artifacts(batch: str) -> None:
    from prefect.artifacts import Artifact

    table, link = Artifact.get(f"verdicts-{batch}"), Artifact.get(f"reports-{batch}")
    assert table is not None
    assert link is not None
    assert all(request in str(table.data) for request in dummy.REQUESTS)
    assert "index.html" in str(link.data)


@pytest.mark.usefixtures("prefect")
def test_a_failing_stage_fails_the_flow_with_its_own_message_and_nothing_after_it_runs(
    workspace: Path, tmp_path: Path
) -> None:
    (workspace / "fail-check").touch()
    with pytest.raises(
        StageError, match="check: record …: got label 12, expected 0 to 9; mend the manifest"
    ):
        run_flow(workspace)
    assert logged(tmp_path) == ["check"]  # once: what is wrong now is wrong again

    (workspace / "fail-check").unlink()
    found, _ = run_flow(workspace)
    assert len(found) == 2


@pytest.mark.usefixtures("prefect")
def test_a_stage_that_is_killed_is_tried_again(workspace: Path, tmp_path: Path) -> None:
    killed = threading.Event()

    def kill_once(event: stage_runner.StageEvent) -> None:
        if (
            event.stage == "check"
            and event.kind == "line"
            and "step 1" in event.text
            and not killed.is_set()
        ):
            killed.set()
            for process in children_that_run("stage.py check", workspace):
                os.kill(process, signal.SIGKILL)

    os.environ["DUMMY_PAUSE"] = "0.5"
    try:
        run_batch.audit(prepare.prepare(workspace, None, []), kill_once)
    finally:
        del os.environ["DUMMY_PAUSE"]
    assert killed.is_set()
    assert logged(tmp_path).count("check") == 1


def children_that_run(words: str, workspace: Path) -> list[int]:
    """The processes of this very workspace with these words in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(workspace) and words in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_siblings_run_side_by_side_and_at_most_so_many_as_asked_for(workspace: Path) -> None:
    stage_runner.Runner(workspace).run("check")
    for jobs, most in ((1, 1), (2, 2)):
        events: list[str] = []
        runner = stage_runner.Runner(
            workspace, jobs, lambda event, seen=events: seen.append(event.kind)
        )  # type: ignore[misc]
        threads = [
            threading.Thread(target=runner.run, args=(f"train@{n}",), kwargs={"force": True})
            for n in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most_at_once(events) == most
    assert not dvc_graph.stale(workspace) & {"check", "train@0", "train@1"}


def most_at_once(kinds: list[str]) -> int:
    running = [
        kinds[:end].count("started") - kinds[:end].count("ran") for end in range(len(kinds) + 1)
    ]
    return max(running)


def test_a_stage_that_crashes_without_a_message_shows_its_last_lines(workspace: Path) -> None:
    (workspace / "crash-check").touch()
    with pytest.raises(StageError, match="ZeroDivisionError: by chance"):
        stage_runner.Runner(workspace).run("check")


def test_outputs_that_dvc_has_in_its_cache_are_restored_and_not_made_again(
    workspace: Path, tmp_path: Path
) -> None:
    runner = stage_runner.Runner(workspace)
    assert runner.run("check") == "ran"
    assert runner.run("check") == "unchanged"
    (workspace / "artifacts" / "check.txt").unlink()
    assert runner.run("check") in ("restored", "unchanged")
    assert (workspace / "artifacts" / "check.txt").exists()
    assert logged(tmp_path) == ["check"]


def test_stopping_ends_the_stage_and_its_children_at_once(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUMMY_PAUSE", "60")
    begun = threading.Event()
    runner = stage_runner.Runner(
        workspace, 1, lambda event: begun.set() if "step 1" in event.text else None
    )
    errors: list[BaseException] = []

    def run() -> None:
        try:
            runner.run("check")
        except StageError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    since = time.monotonic()
    runner.stop()
    thread.join(30)
    assert time.monotonic() - since < 15
    assert isinstance(errors[0], stage_runner.KilledStageError)
    assert children_that_run("stage.py", workspace) == []
    with pytest.raises(stage_runner.SkippedStageError):
        runner.run("check")


def test_a_run_killed_in_the_middle_of_a_stage_is_continued_by_the_next(
    workspace: Path, tmp_path: Path, prefect: str
) -> None:
    variables = {"DUMMY_LOG": str(tmp_path / "log"), "PREFECT_API_URL": prefect}
    process = subprocess.Popen(
        dummy.invocation("run", "--json"),
        cwd=workspace,
        env={**os.environ, **dummy.location(), "DUMMY_PAUSE": "0.7", **variables},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "score: step 1" in line:
                os.killpg(process.pid, signal.SIGKILL)  # the run; the stage is on its own now
                break
    assert logged(tmp_path)[:1] == ["check"]

    again = dummy.command(workspace, "run", **variables)
    assert again.returncode == 0, again.stderr
    assert logged(tmp_path).count("check") == logged(tmp_path).count("train0") == 1
    assert dvc_graph.stale(workspace) == set()


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGINT, 130, "check: step 1"),
        (signal.SIGTERM, 143, "Starting Prefect"),
        (signal.SIGTERM, 143, "score: step 1"),
    ],
)
def test_a_signal_ends_the_run_with_one_line_and_no_process_left_and_the_next_run_continues(
    workspace: Path, tmp_path: Path, number: int, code: int, moment: str
) -> None:
    process = start(workspace, "run", "--json", DUMMY_PAUSE="1", DUMMY_LOG=str(tmp_path / "log"))
    family: list[psutil.Process] = []
    told = []
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            if moment in line:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(number)
                break
        after = process.stderr.readlines()
    assert process.returncode == code, told
    assert [line for line in after if line.startswith("error: ")] == after[-1:]
    assert "the same command continues" in after[-1]
    assert not [line for line in after if "Traceback" in line or "prefect" in line.lower()]
    assert not [child for child in family if child.is_running() and child.status() != "zombie"]
    assert children_that_run("stage.py", workspace) == []
    before = logged(tmp_path)

    again = dummy.command(workspace, "run", DUMMY_LOG=str(tmp_path / "log"))
    assert again.returncode == 0, again.stderr
    assert all(logged(tmp_path).count(stage) == 1 for stage in before)
    assert dvc_graph.stale(workspace) == set()


def test_a_signal_ends_the_night_and_the_next_night_continues_it(
    workspace: Path, tmp_path: Path
) -> None:
    shell.git(workspace, "config", "user.email", "auditor@example.org")
    (workspace / ".gitignore").write_text("/data\n/artifacts\n/.batches\n/.prefect\n/.register\n")
    shell.git(workspace, "commit", "--quiet", "--all", "-m", "ignored")
    register = Register(workspace)
    for request in dummy.REQUESTS:
        register.receive(
            Intake(
                request,
                "gdpr",
                "2026-11-02T09:00:00Z",
                ({**IDENTITY, "identity_value": f"0a1b2c3d:{request.replace('-', '') * 2}"},),
            ),
            "crm",
            "http",
        )
        register.verify_identity(request, "Ada Clerk", "letter")
    process = start(
        workspace, "nightly", "--json", DUMMY_PAUSE="1", DUMMY_LOG=str(tmp_path / "log")
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "check: step 2" in line:
                process.send_signal(signal.SIGTERM)
                break
        after = process.stderr.readlines()
    assert process.returncode == 143
    assert [line for line in after if line.startswith("error: ")] == after[-1:]
    assert register.working() == []
    assert not register.history(kind="failed")

    again = dummy.command(workspace, "nightly", DUMMY_LOG=str(tmp_path / "log"))
    assert again.returncode == 0, again.stderr
    assert {case.state for case in register.cases()} == {State.AWAITING_SIGNOFF}
    register.close()


IDENTITY = {"identity_type": "email", "identity_format": "hmac-sha256"}


def start(workspace: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        dummy.invocation(*words),
        cwd=workspace,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT")},
            **dummy.location(),
            **variables,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a test run in the background hands on an ignored SIGINT, a terminal does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_what_was_begun_ahead_runs_once_and_all_its_lines_reach_whoever_asks(
    workspace: Path, tmp_path: Path
) -> None:
    events, lines = list[str](), list[str]()
    runner = stage_runner.Runner(workspace, 1, lambda event: events.append(event.kind))
    runner.ahead(["check"])
    while "ran" not in events:
        time.sleep(0.05)
    assert lines == []
    assert runner.run("check", log=lines.append) == "ran"
    assert [line for line in lines if line.startswith("check: step")] == [
        f"check: step {n} of 3" for n in (1, 2, 3)
    ]
    assert logged(tmp_path) == ["check"]
    assert runner.run("check") == "unchanged"  # asked again, it is looked at again


def test_what_fails_ahead_fails_where_it_is_asked_for_and_what_follows_is_not_begun(
    workspace: Path, tmp_path: Path
) -> None:
    (workspace / "fail-check").touch()
    runner = stage_runner.Runner(workspace)
    runner.ahead(["check", "train0"])
    with pytest.raises(stage_runner.SkippedStageError):
        runner.run("train0")
    with pytest.raises(StageError, match="got label 12"):
        runner.run("check")
    assert logged(tmp_path) == ["check"]


def test_the_head_of_a_pipeline_is_what_waits_for_no_agent() -> None:
    pipeline = (
        dvc_graph.Stage("check"),
        dvc_graph.Stage("train", ("check",), agent="gpu"),
        dvc_graph.Stage("resolve", ("check", "done before")),
        dvc_graph.Stage("verify", ("resolve", "train")),
        dvc_graph.Stage("report", ("verify",)),
    )
    assert prepare.head(pipeline) == ["check", "resolve"]


def test_a_run_that_ends_before_prefect_is_there_leaves_no_stage_running(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUMMY_PAUSE", "60")
    found = prepare.prepare(workspace, None, [])
    begun = threading.Event()
    found.runner.listener = lambda event: begun.set() if "step 1" in event.text else None

    def interrupted() -> None:
        assert begun.wait(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), prepare.running_head(found):
        interrupted()
    assert children_that_run("stage.py check", workspace) == []
