"""The schedule for real: a Prefect server, the deployments of `prefect.yaml`, a worker, and what
they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from flows.register.register import Register, State
from flows.workspace import shell
from tasks.common import settings
from tests.worlds import dummy
from tests.worlds.receiver import Receiver

ROOT = Path(__file__).parents[2]
PREFECT = ROOT / "prefect.yaml"
NAMES = ("planted.person@example.org", "planted-customer-4711")
"""Identities that requests come with, and that must be found nowhere afterwards."""


def test_every_deployment_names_a_flow_that_is_there_and_runs_one_at_a_time() -> None:
    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.flows import load_flow_from_entrypoint

    whole = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    assert len(PrefectYamlModel.model_validate(whole).deployments) == len(whole["deployments"])
    found = whole["deployments"]
    assert {each["name"] for each in found} >= {
        "nightly",
        "watch",
        "finalize",
        "reaudit",
        "sign-off",
        "audit",
    }
    for each in found:
        assert each["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        flow = load_flow_from_entrypoint(each["entrypoint"])
        assert flow.persist_result is False
        assert set(flow.parameters.properties) <= {
            "batch",
            "by",
            "comment",
            "decision",
            "folder",
            "ground",
            "jobs",
            "method",
            "model",
            "next",
        }


class Stand:
    """A Prefect server and a worker of its own, on loopback, with everything that they write in one
    folder."""

    def __init__(self, folder: Path, home: Path, **variables: str) -> None:
        self.folder, self.home = folder, home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
            },
            **dummy.location(),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "600",
            "PREFECT_API_REQUEST_TIMEOUT": "600",
            "PREFECT_CLI_COLORS": "false",
            "ERASURE_AUDIT_WORKSPACE": str(home),
            **variables,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        self.wait(self.answers)

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    # a worker hands SIGTERM on to itself as SIGINT, which a test that runs in the
                    # background of a shell would make it ignore
                    ["env", "--default-signal=INT", sys.executable, "-m", "prefect", *words],
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def prefect(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, whole: Any = None, **body: Any) -> Any:
        request = urllib.request.Request(  # loopback
            f"{self.url}/{path}",
            json.dumps(body if whole is None else whole).encode(),
            {"Content-Type": "application/json"},
        )
        return json.loads(answer_of(request))

    def delete(self, path: str) -> None:
        answer_of(urllib.request.Request(f"{self.url}/{path}", method="DELETE"))

    def troubles(self) -> list[str]:
        """What the watch says of this server, however new its schedules are."""
        program = (
            "import json, datetime as d; from flows.operations import deployment; "
            "print(json.dumps(deployment.troubles(d.timedelta(hours=1), d.timedelta(0))))"
        )
        answer = subprocess.run(
            [sys.executable, "-c", program],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return list(json.loads(answer.stdout))

    def expect_heartbeats(self, *blocks: str) -> str:
        """The heartbeats that are expected with no time of grace, or why they cannot be."""
        program = (
            "import json, sys, datetime as d; from prefect.client.orchestration import get_client; "
            "from flows.operations import heartbeats; client = get_client(sync_client=True); "
            "made = heartbeats.expect(client, sys.argv[1:], d.timedelta(0)); "
            "print(json.dumps([(h.deployment, h.within.total_seconds(), h.blocks) for h in made]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *blocks],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    def make_webhook(self, name: str, port: int) -> str:
        """Make one of Prefect's notification blocks on the server, which posts to a port of
        loopback; what `ERASURE_AUDIT_NOTIFY` calls it."""
        program = (
            "import sys; from prefect.blocks.notifications import CustomWebhookNotificationBlock; "
            "message = {'message': '{{subject}}: {{body}}'}; "
            "block = CustomWebhookNotificationBlock(name=sys.argv[1], json_data=message, "
            "url=f'http://127.0.0.1:{sys.argv[2]}/'); block.save(sys.argv[1], _sync=True)"
        )
        subprocess.run(
            [sys.executable, "-c", program, name, str(port)], env=self.environment, check=True
        )
        return f"block://custom-webhook/{name}"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def runs(self, name: str) -> dict[str, str]:
        """The states of a flow's runs that somebody asked for, by id."""
        found = self.ask("flow_runs/filter", flows={"name": {"any_": [name]}}, limit=50)
        return {run["id"]: run["state_name"] for run in found if not run["auto_scheduled"]}

    def wait(self, reached: Any) -> None:
        """Wait as long as it takes, for a machine may be busy; a process that ended ends the
        wait."""
        while not reached():
            assert all(process.poll() is None for process in self.processes), self.told()
            time.sleep(0.3)

    def told(self) -> str:
        return "\n".join(
            path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")
        )

    def stop(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A workspace with two requests in its drop folder, in the clear as they come."""
    made = dummy.make(tmp_path / "home")
    (made / ".gitignore").write_text(
        "/data\n/artifacts\n/keys\n/inbox\n/.batches\n/.prefect\n/.register\n"
    )
    settings.assign(
        made / "params.yaml", ["operate.identities=before", "report.identity_check=by letter"]
    )
    shell.git(made, "commit", "--quiet", "--all", "-m", "settings")
    (made / "inbox").mkdir()
    submitted = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    value = [
        {
            "regulation": "gdpr",
            "subject_request_id": request,
            "subject_request_type": "erasure",
            "submitted_time": submitted,
            "subject_identities": [
                {"identity_type": "email", "identity_value": name, "identity_format": "raw"}
            ],
        }
        for request, name in zip(dummy.REQUESTS, NAMES, strict=True)
    ]
    (made / "inbox" / "requests.json").write_text(json.dumps(value))
    return made


@pytest.fixture
def stand(home: Path, tmp_path: Path) -> Iterator[Stand]:
    folder = tmp_path / "stand"
    folder.mkdir()
    found = Stand(folder, home, DUMMY_LOG=str(tmp_path / "log"), DUMMY_PAUSE="1")
    yield found
    found.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.mark.timeout(3600)
def test_a_night_on_schedule_runs_once_and_leaves_request_ids_only(
    stand: Stand, home: Path, tmp_path: Path
) -> None:
    stand.prefect("work-pool", "create", "audits", "--type", "process")
    stand.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT))
    stand.start("worker", "worker", "start", "--pool", "audits")
    for _ in range(2):
        stand.prefect("deployment", "run", "nightly/nightly")

    at_once: set[tuple[str, ...]] = set()

    def over() -> bool:
        states = sorted(stand.runs("nightly").values())
        at_once.add(tuple(states))
        return states == ["Completed", "Completed"]

    stand.wait(over)
    assert not [states for states in at_once if states.count("Running") > 1]
    assert any("AwaitingConcurrencySlot" in states for states in at_once)
    assert sorted(dummy.log_of(tmp_path / "log")) == sorted(
        ["check", "train0", "train1", "score", "verify", "report"]
    )
    register = Register(home)
    assert {case.state for case in register.cases()} == {State.AWAITING_SIGNOFF}
    assert [event.details["outcome"] for event in register.history(kind="night")] == [
        "awaits_signoff",
        "waits",
    ]
    register.note("callback_given_up", "callbacks", request_id=dummy.REQUESTS[0], event=1, tries=9)
    register.close()
    artifacts = stand.ask("artifacts/filter", limit=50)
    assert any(str(each["key"]).startswith("signoff-") for each in artifacts)

    stand.prefect("deployment", "run", "watch/watch")
    stand.wait(lambda: list(stand.runs("watch").values()) == ["Completed"])

    def emitted() -> list[dict[str, Any]]:
        asked = {"event": {"prefix": ["erasure-audit."]}}
        return list(stand.ask("events/filter", filter=asked, limit=10)["events"])

    stand.wait(lambda: len(emitted()) == 1)
    assert emitted()[0]["event"] == "erasure-audit.stuck"
    assert (
        emitted()[0]["resource"]["prefect.resource.id"]
        == f"erasure-audit.request.{dummy.REQUESTS[0]}"
    )
    stand.stop()

    holding = {name: holders(stand.folder, name) for name in (*NAMES, *dummy.REQUESTS)}
    assert all(
        holding[request] for request in dummy.REQUESTS
    )  # so the search does find what is there
    assert {name: holding[name] for name in NAMES} == {name: [] for name in NAMES}
    assert {name: holders(home, name) for name in NAMES} == {name: [] for name in NAMES}


@pytest.mark.timeout(3600)
def test_a_schedule_fires_and_its_run_completes_and_the_watch_sees_when_none_is_planned(
    stand: Stand, home: Path
) -> None:
    stand.prefect("work-pool", "create", "audits", "--type", "process")
    stand.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT))
    (deployment,) = stand.ask("deployments/filter", deployments={"name": {"any_": ["watch"]}})
    stand.start("worker", "worker", "start", "--pool", "audits")
    stand.ask(
        f"deployments/{deployment['id']}/schedules",
        [{"schedule": {"interval": 20, "anchor_date": _in_seconds(10)}, "active": True}],
    )

    def fired() -> list[str]:
        completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
        runs = stand.ask(
            "flow_runs/filter", flows={"name": {"any_": ["watch"]}}, flow_runs=completed, limit=50
        )
        return [run["id"] for run in runs if run["auto_scheduled"]]

    stand.wait(fired)
    assert "Can't evaluate" not in stand.log("server")
    assert stand.troubles() == []

    # a server whose scheduler fails plans no further run
    planned = stand.ask("flow_runs/filter", flows={"name": {"any_": ["reaudit"]}}, limit=50)
    assert planned
    for run in planned:
        stand.delete(f"flow_runs/{run['id']}")
    (trouble,) = stand.troubles()
    assert trouble.startswith("Prefect's server plans no run of reaudit")


@pytest.mark.timeout(3600)
def test_people_are_told_through_a_block_of_prefect_where_no_worker_runs_a_schedule(
    stand: Stand, home: Path, receiver: Receiver
) -> None:
    stand.prefect("work-pool", "create", "audits", "--type", "process")
    stand.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT))
    stand.prefect("deployment", "schedule", "clear", "watch/watch", "--accept-yes")
    (deployment,) = stand.ask("deployments/filter", deployments={"name": {"any_": ["watch"]}})
    stand.ask(
        f"deployments/{deployment['id']}/schedules",
        [{"schedule": {"interval": 10}, "active": True}],
    )
    planned = {"deployments": {"name": {"any_": ["watch"]}}}
    stand.wait(lambda: len(stand.ask("flow_runs/filter", planned)) > 1)
    assert "no such block" in stand.expect_heartbeats("block://slack-webhook/nobody")
    block = stand.make_webhook("team", receiver.port)
    expected = json.loads(stand.expect_heartbeats(block))
    assert {name: within for name, within, _ in expected} == {
        "finalize": 1800,
        "nightly": 86400,
        "reaudit": 31 * 86400,
        "watch": 10,
    }
    assert (
        len(json.loads(stand.expect_heartbeats(block))) == 4
    )  # brought up to date, not made twice

    def triggered() -> set[str]:
        asked = {"event": {"name": ["prefect.automation.triggered"]}}
        events = stand.ask("events/filter", filter=asked, limit=50)["events"]
        return {event["resource"]["prefect.resource.name"] for event in events}

    stand.wait(triggered)
    assert triggered() == {"erasure-audit: watch runs"}
    assert len(stand.ask("automations/filter")) == 4
    stand.wait(lambda: receiver.taken)
    assert receiver.texts[0].startswith("watch does not run: Deployment watch completed no run")

    # our own notices go through the same block, and wait while nobody takes them
    program = (
        "from pathlib import Path; from flows.operations import notices; "
        "print(notices.send(Path('.'), 'A night failed', 'batch 2026-11-21'))"
    )

    def send() -> str:
        answer = subprocess.run(
            [sys.executable, "-c", program],
            cwd=home,
            env={**stand.environment, "ERASURE_AUDIT_NOTIFY": block},
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout.strip()

    receiver.away = True
    assert send() == "Sent(taken=0, waiting=1)"
    receiver.away = False
    assert send() == "Sent(taken=1, waiting=0)"
    assert "A night failed: batch 2026-11-21" in receiver.texts


@pytest.mark.timeout(3600)
def test_a_run_that_is_cancelled_and_one_whose_worker_is_stopped_leave_no_stage_and_are_continued(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stand"
    folder.mkdir()
    stand = Stand(folder, home, DUMMY_PAUSE="1000")
    try:
        stand.prefect("work-pool", "create", "audits", "--type", "process")
        stand.prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT))
        stand.start("worker", "worker", "start", "--pool", "audits")

        def begin() -> str:
            stand.prefect("deployment", "run", "nightly/nightly")
            stand.wait(lambda: stages(home))
            (run,) = [name for name, state in stand.runs("nightly").items() if state == "Running"]
            return run

        cancelled = begin()
        stand.prefect("flow-run", "cancel", cancelled)
        stand.wait(lambda: not stages(home))
        stand.wait(lambda: stand.runs("nightly")[cancelled] == "Cancelled")

        begin()
        worker = stand.processes.pop()
        worker.terminate()
        worker.wait()
        stand.wait(lambda: not stages(home))
    finally:
        stand.stop()
    done = dummy.command(home, "nightly")
    assert done.returncode == 0, done.stdout + done.stderr
    with closing(Register(home)) as register:
        assert {case.state for case in register.cases()} == {State.AWAITING_SIGNOFF}


def answer_of(request: urllib.request.Request) -> bytes:
    """The body of a server's answer; one whose database is busy (503) is asked again."""
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(1)


def stages(home: Path) -> list[psutil.Process]:
    """The processes of stages that run in a workspace or one of its checkouts."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "stage.py" in process.cmdline() and process.cwd().startswith(str(home)):
                found.append(process)
    return found


def _in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def holders(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold a text: databases with their logs, results, logs."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]
