"""Play the four users of the tool, ML engineer, operator, officer and auditor, and check every
step.

In a new folder, with a Prefect server and a worker of its own on loopback, it gives the commands
that the documentation names, prints each, and checks what has to hold afterwards. The clock is
moved, so the deployments of `prefect.yaml` fire at the hours that stand there, and deadlines come
near. `--short` plays the stages that compute (`benchmarks.stand_in`); else digits are trained on.

Example: python -m benchmarks.tour --short
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import stand_in
from tasks.common import files, stage_cli
from tasks.common.errors import AuditError

ROOT = Path(__file__).parents[1]
REQUESTS = [f"0f8fad5b-d9cb-469f-a165-{number:012d}" for number in range(5)]
HAND, FIRST, SECOND, UNKNOWN, LATE = REQUESTS
"""Requests: of the batch run by hand, two of the night, one of nobody in the data, one that nobody
looks after."""
CLOCK = """
import os, time, time_machine
time_machine.travel(time.time() + float(os.environ["TOUR_CLOCK"]), tick=True).start()
"""
"""Python runs this at the start of every process of the tour."""


class Tour:
    """A workspace, its Prefect server, and a clock that can be moved.

    Attributes:
        folder: holds everything that the tour makes.
        home: the operator's workspace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "audit"
        files.write_text(folder / "clock" / "sitecustomize.py", CLOCK)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._api = f"http://127.0.0.1:{self._port}/api"
        self._moved = timedelta()
        self._processes: list[subprocess.Popen[bytes]] = []

    def now(self) -> datetime:
        """The time of the tour's clock."""
        return datetime.now(UTC) + self._moved

    def move_clock(self, to: datetime) -> None:
        """Set the clock; the server and the worker have to be restarted."""
        self._moved += to - self.now()
        print(f"\n-- the clock shows {self.now():%Y-%m-%d %H:%M:%S}Z", flush=True)

    def give(self, command: str, *, code: int = 0, shows: str = "", at: Path | None = None) -> str:
        """Give a command as a user would, and check its exit code and a text that it has to show.

        Returns:
            What it printed.

        Raises:
            AuditError: it ended otherwise.
        """
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            shlex.split(command),
            cwd=at or self.home,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        output = f"{done.stdout}{done.stderr}"
        expected = f"exit code {code}" + (f", “{shows}”" if shows else "")
        self.check(
            done.returncode == code and shows in output,
            expected,
            f"got exit code {done.returncode} and\n{output[-4000:]}",
        )
        return done.stdout

    def check(self, holds: object, what: str, otherwise: str = "") -> None:
        """Print a check that passed.

        Raises:
            AuditError: it does not hold.
        """
        if not holds:
            raise AuditError(f"does not hold: {what}\n{otherwise}".rstrip())
        print(f"  ok: {what}", flush=True)

    def states(self) -> dict[str, str]:
        """The states of all requests, as people see them, by id."""
        listed = self._ask_quietly("erasure-audit requests list --all --json")
        return {case["request_id"]: case["shown"] for case in listed}

    def start(self, command: str) -> None:
        """Start a server or a worker; it ends with the tour, or by `stop`."""
        print(f"$ {command} &", flush=True)
        with (self.folder / "prefect.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    shlex.split(command),
                    cwd=self.home,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def stop(self) -> None:
        """End the started processes, the last one first."""
        for process in reversed(self._processes):
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.kill()
            process.wait()
        self._processes.clear()

    def prefect(self) -> None:
        """Start a server by the clock of now."""
        self.start(f"prefect server start --host 127.0.0.1 --port {self._port}")
        self.wait(self._answers)

    def prefect_again(self, moment: datetime) -> None:
        """Go on with server and worker at another moment."""
        self.stop()
        self.move_clock(moment)
        self.prefect()
        self.start("prefect worker start --pool audits")

    def completed(self, name: str) -> list[str]:
        """When the runs of a deployment began that its schedule started and that are completed."""
        query = {
            "deployments": {"name": {"any_": [name]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        answer = httpx.post(f"{self._api}/flow_runs/filter", json=query, timeout=600)
        runs = answer.raise_for_status().json()
        return [str(run["start_time"]) for run in runs if run["auto_scheduled"]]

    def wait(self, reached: Callable[[], object]) -> None:
        """Wait as long as it takes, for a machine may be busy; a process that ended ends the wait.

        Raises:
            AuditError: the server or the worker ended.
        """
        while not reached():
            if any(process.poll() is not None for process in self._processes):
                log = (self.folder / "prefect.log").read_text(errors="replace")
                raise AuditError(f"does not hold: server and worker go on\n{log[-4000:]}")
            time.sleep(0.5)

    def _environment(self) -> dict[str, str]:
        """A clean one: nothing of the user's but the path and the home folder."""
        identity = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Operator"), ("EMAIL", "operator@example.org"))
        }
        return {
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([str(self.folder / "clock"), str(ROOT)]),
            "TOUR_CLOCK": str(self._moved.total_seconds()),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "600",
            "PREFECT_API_REQUEST_TIMEOUT": "600",
            "PREFECT_CLI_COLORS": "false",
            "ERASURE_AUDIT_WORKSPACE": str(self.home),
            **identity,
            **({"PREFECT_API_URL": self._api} if self._processes else {}),
        }

    def _ask_quietly(self, command: str) -> Any:
        done = subprocess.run(
            shlex.split(command),
            cwd=self.home,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self._api}/health").is_success
        return False


def ml_engineer(tour: Tour, short: bool) -> None:
    """Makes a workspace, audits a batch by hand, closes it and brings it to the remote."""
    title("ML engineer")
    tour.home.parent.mkdir(exist_ok=True)
    if short:
        tour.give("python -m benchmarks.stand_in world audit", at=tour.folder)
    else:
        tour.give("erasure-audit init audit", at=tour.folder)
        tour.give("erasure-audit import digits", shows="records")
    tour.give(f"dvc remote add --default store {tour.folder / 'store'}")
    people = training_people(tour.home)
    batch = [request(HAND, people[0])]
    files.write_json(tour.home / "requests" / "by-hand.json", batch)
    tour.give("erasure-audit run by-hand --set unlearn.methode=none", code=1, shows="did you mean")
    tour.give("erasure-audit run by-hnad", code=1, shows="by-hand")
    tour.give("erasure-audit plan by-hand", shows="models")
    tour.give("erasure-audit run by-hand --set operate.batch_from=1", shows=HAND)
    tour.give("erasure-audit status", shows="Nothing is stale")
    tour.give(f"erasure-audit show {HAND[:-2]}", shows="report.html")
    tour.give("git add .")
    tour.give("git commit --quiet -m Workspace")
    tour.give("erasure-audit run by-hand --commit", shows="dvc push")
    tour.give("dvc push")
    if not short:
        tour.give("git clone --quiet audit colleague", at=tour.folder)
        command = "erasure-audit reproduce by-hand --level reexecute"
        tour.give(command, shows="holds", at=tour.folder / "colleague")


def operator(tour: Tour) -> str:
    """Takes requests in and lets the schedule run a night.

    Returns:
        The batch of the night.
    """
    title("Operator")
    people = training_people(tour.home)[1:]
    drop(tour, {FIRST: people[0], SECOND: people[1], UNKNOWN: "nobody-of-this-name"})
    tour.give("erasure-audit intake drop", shows="3 new")
    tour.give("erasure-audit requests list", shows=UNKNOWN)
    ids = " ".join((FIRST, SECOND, UNKNOWN))
    tour.give(f'erasure-audit requests verify {ids} --by "Ada Clerk" --how "login and e-mail code"')
    night = (tour.now() + timedelta(days=1)).replace(hour=2, minute=0, second=0, microsecond=0)
    tour.move_clock(night - timedelta(minutes=25))
    tour.prefect()
    tour.give("prefect work-pool create audits --type process")
    tour.give("prefect --no-prompt deploy --all --prefect-file prefect.yaml")
    tour.prefect_again(night - timedelta(seconds=15))
    tour.wait(lambda: tour.completed("nightly"))
    began = datetime.fromisoformat(tour.completed("nightly")[0])
    early = night - timedelta(seconds=10)  # clocks of processes differ, and Prefect may be early
    tour.check(began >= early, f"the schedule began the night at {began:%H:%M:%S}Z")
    expected = {FIRST: "awaiting_signoff", SECOND: "awaiting_signoff", UNKNOWN: "on_hold"}
    states = tour.states()
    tour.check(expected.items() <= states.items(), f"states {expected}", str(states))
    return f"{night:%Y-%m-%d}"


def officer(tour: Tour, batch: str) -> None:
    """Reads, decides, and the schedule carries the decision out."""
    title("Officer")
    page = f".batches/{batch}/reports/{batch}/index.html"
    tour.give("erasure-audit status", shows=page)
    tour.check((tour.home / page).is_file(), f"{page} is there")
    tour.give(f"erasure-audit requests show {UNKNOWN}", shows="set aside by the audit")
    tour.give(
        f"erasure-audit approve {batch} --model retrained "
        '--by "Grace Officer" --comment "read both reports"',
        shows="finalize",
    )
    half_past = tour.now().replace(hour=2, minute=30, second=0)
    tour.prefect_again(half_past - timedelta(seconds=15))
    tour.wait(lambda: tour.states()[FIRST] == "closed")
    tour.stop()
    after_the_decision(tour, batch)


def after_the_decision(tour: Tour, batch: str) -> None:
    """Check what the schedule did, and what follows."""
    tour.check(tour.states()[SECOND] == "closed", "the schedule released, erased and closed")
    tour.give(f"erasure-audit requests show {FIRST}", shows="decision  by Grace Officer")
    tour.give("erasure-audit status", shows="Nothing to run: the batch has ended")
    tour.check(not tour.give("git status --porcelain"), "nothing is left uncommitted")
    tour.give("erasure-audit letters due", shows=FIRST)
    tour.give(f'erasure-audit letters sent {FIRST} --by "Ada Clerk" --how "registered post"')
    tour.give("erasure-audit status", shows=f"erasure-audit letters renew {batch}")
    tour.give(f"erasure-audit letters renew {batch}", shows="made again")
    tour.check(not tour.give("git status --porcelain"), "the reports made again are committed")
    tour.give(f"git show --stat erased/{batch}", shows=f"ledger/erasures/{batch}")
    tour.give("erasure-audit register")
    people = training_people(tour.home)
    drop(tour, {UNKNOWN: people[0], LATE: people[1]})
    tour.give("erasure-audit intake drop", shows="2 new")
    tour.give(f"erasure-audit requests show {UNKNOWN}", shows="changed identities")
    tour.check(tour.states()[UNKNOWN] == "received", "corrected, it is to be verified again")
    tour.move_clock(tour.now() + timedelta(days=25))
    output = tour.give("erasure-audit watch", shows=f"Request {LATE}: ")
    tour.check(f"Request {SECOND}: the letter (answer)" in output, "a letter that was not sent")


def auditor(tour: Tour, batch: str) -> None:
    """Check everything from a separate clone, and files that were tampered with."""
    title("Auditor")
    tour.give("dvc push --all-tags --all-branches")
    tour.give("git clone --quiet audit auditor", at=tour.folder)
    clone = tour.folder / "auditor"
    for level in ("integrity", "rederive"):
        tour.give(f"erasure-audit reproduce {batch} --level {level}", shows="holds", at=clone)
    tour.give("erasure-audit reaudit", shows="holds")
    tour.give("erasure-audit requests check", shows="intact")
    signed = f"signed/{batch}/{FIRST}"
    tour.give(f"erasure-audit verify-report {signed}", shows="intact", at=clone)
    evidence = clone / signed / "evidence.json"
    files.write_bytes(evidence, evidence.read_bytes().replace(b'"gdpr"', b'"ccpa"'))
    tour.give(f"erasure-audit verify-report {signed}", code=1, at=clone)


def drop(tour: Tour, people: dict[str, str]) -> None:
    """Put requests into the drop folder as a CSV: data subjects by request."""
    text = stand_in.table(list(people.values()), f"{tour.now():%Y-%m-%d}", list(people))
    path = tour.home / "inbox" / "requests.csv"
    files.write_text(path, text)
    settled = time.time() - 10
    os.utime(path, (settled, settled))


def request(name: str, person: str) -> dict[str, Any]:
    """A request of a data subject as a batch file has it."""
    like = stand_in.request(0)
    (identity,) = like["subject_identities"]
    return {
        **like,
        "subject_request_id": name,
        "subject_identities": [{**identity, "identity_value": person}],
    }


def training_people(home: Path) -> list[str]:
    """Data subjects of the data set whom models are trained on, in order."""
    from tasks import split
    from tasks.common import seeds, settings
    from tasks.data import records

    manifest = records.read_manifest(home / "data")
    chosen = settings.load(home / "params.yaml")
    roles = split.assign(manifest, chosen.split, seeds.derive(chosen.seed, "split"))
    return sorted(set(manifest["subject_id"][roles == "training"]))


def title(text: str) -> None:
    """Say whose life begins."""
    print(f"\n== {text}", flush=True)


def main(short: bool = False, folder: Path | None = None) -> None:
    """Walk the four lives; the first thing that does not hold ends the tour.

    Args:
        short: play the stages that compute.
        folder: where to work; it is kept then. Default: a temporary folder.

    Example: python -m benchmarks.tour --short
    """
    begun = time.monotonic()
    with contextlib.nullcontext(folder) if folder else _temporary() as work:
        tour = Tour(work.resolve())
        try:
            ml_engineer(tour, short)
            batch = operator(tour)
            officer(tour, batch)
            auditor(tour, batch)
        finally:
            tour.stop()
    print(f"\nAll of it holds, in {time.monotonic() - begun:.0f} s.")


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tour-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


if __name__ == "__main__":
    stage_cli.run(main)
