"""Inject faults into the operation at random moments and check that nothing is lost and nothing is
left behind.

Each round is a small world of its own (`benchmarks.stand_in`: stand-ins for models, everything else
real). Requests come in, a batch is audited, approved, released and erased by the commands that
operators use, and meanwhile something breaks: processes are killed, disks are full, remotes and
databases go away, schedulers start twice, bytes rot, requests are hostile. After it the same
commands are given again until the round is over. Then it has to hold, whatever happened:

    no request is lost, and none is handled twice
    no report is half-written
    the register's chain is whole, and agrees with what git holds of it
    after the receipt, no file anywhere holds a record, hash or identifier of those who were erased
    the operator's checkout is clean, and the next run has nothing to do

Beside the faults it plays attacks (`benchmarks.attacks`): copies that hide from an erasure or come
back after it, and hands in the register's database.

Example: python -m benchmarks.faults --faults 120 --page docs/operations.md
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import stand_in
from tasks.common import files, stage_cli
from tasks.common.errors import AuditError

RESULTS = Path("benchmarks/results/faults.json")
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
MOST_TRIES = 8
"""How often a step is given again before a round counts as stuck."""
NIGHT, FINALIZING = 24.0, 12.0
"""About how long the commands take, s: faults come at a moment before that."""
STAGE_SECONDS = "0.6"
"""How long a played stage takes, so that there is something to hit."""


@dataclass
class Fault:
    """One injected fault: its kind, the command it hit, the time after the command's start (s), and
    the effect."""

    kind: str
    during: str
    after: float
    seen: str


@dataclass
class Round:
    """One world and its faults. `broken` lists the promises that were not kept; empty: all were."""

    number: int
    scenario: str
    seed: int
    faults: list[Fault] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0


class World:
    """A workspace in which a round is played, and the commands given to it."""

    def __init__(
        self, folder: Path, chance: random.Random, extra: dict[str, str] | None = None
    ) -> None:
        """Args:
        folder: a copy of the template.
        chance: decides who asks and when something breaks.
        extra: further environment, as a database's address.
        """
        self.folder, self.chance = folder, chance
        self.temp = folder.parent / "tmp"
        self.temp.mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temp),
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
            "ERASURE_AUDIT_PSEUDONYM_KEY": "k" * 40,
            stand_in.PAUSE: STAGE_SECONDS,
            **(extra or {}),
        }
        self.asked: dict[str, str] = {}
        self.records: dict[str, dict[str, bytes]] = {}
        with (folder / "data" / "manifest.csv").open(encoding="utf-8", newline="") as table:
            for row in csv.DictReader(table):
                content = (folder / "data" / row["path"]).read_bytes()
                self.records.setdefault(row["subject_id"], {})[row["record_id"]] = content

    def start(self, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Give a command and do not wait for it."""
        program = Path(sys.executable).with_name("erasure-audit")
        return subprocess.Popen(
            [*prefix, str(program), *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def give(self, *words: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
        """Give a command and wait for its end."""
        process = self.start(*words, prefix=prefix)
        text, _ = process.communicate(timeout=600)
        return process.returncode, text

    def ask(self, subjects: list[int], day: str = "2026-11-02") -> None:
        """Put requests into the drop folder."""
        ids = [str(uuid.UUID(int=self.chance.getrandbits(128), version=4)) for _ in subjects]
        names = [stand_in.subject_id(number) for number in subjects]
        self.asked |= dict(zip(ids, names, strict=True))
        inbox = self.folder / "inbox"
        inbox.mkdir(exist_ok=True)
        dropped = inbox / f"{ids[0]}.csv"
        files.write_text(dropped, stand_in.table(names, day, ids))
        os.utime(
            dropped, (time.time() - 10,) * 2
        )  # a file that may still be written is left for the next time

    def until_done(self, *words: str) -> str:
        """Give a command again until it ends well, as a schedule would."""
        text = ""
        for _ in range(MOST_TRIES):
            code, text = self.give(*words)
            if code == 0:
                return text
            time.sleep(1)
        raise AuditError(
            f"{words[0]} did not end well in {MOST_TRIES} tries: {text.strip().splitlines()[-1:]}"
        )

    def register(self) -> list[dict[str, Any]]:
        """All requests, from the register."""
        requests: list[dict[str, Any]] = json.loads(
            self.until_done("requests", "list", "--all", "--json")
        )
        return requests

    def plain(self, *command: str) -> tuple[int, str]:
        """Run another program in the workspace."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def feed(self, content: bytes, *command: str) -> str:
        """Run another program in the workspace with some input; return its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, input=content, capture_output=True
        )
        if done.returncode != 0:
            raise AuditError(f"{' '.join(command[:2])} failed: {done.stderr.decode()[:200]}")
        return done.stdout.decode().strip()

    def needles(self) -> list[bytes]:
        """What must not be found anywhere after the erasure: the pictures' bytes, hashes and
        ids."""
        own_needles = []
        for subject in self.asked.values():
            own_needles += [subject.encode(), hashlib.sha256(subject.encode()).hexdigest().encode()]
            for record, content in self.records[subject].items():
                md5 = hashlib.md5(content).hexdigest()  # noqa: S324
                digests = (md5, hashlib.sha256(content).hexdigest())
                own_needles += [content, record.encode(), *(digest.encode() for digest in digests)]
        return own_needles


def play(
    number: int, scenario: str, seed: int, template: Path, parent: Path, database: Postgres | None
) -> Round:
    """Play one round in a folder of its own, which is removed afterwards if everything held."""
    outcome = Round(number, scenario, seed)
    started = time.monotonic()
    folder = parent / f"round-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(template, folder / "world", symlinks=True)
    chance = random.Random(seed)
    extra = {"ERASURE_AUDIT_DATABASE": database.fresh(f"round{number}")} if database else {}
    world = World(folder / "world", chance, extra)
    try:
        scenarios()[scenario](world, outcome, database)
        finish(world)
        outcome.broken += _promises(world)
    except (AuditError, OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        outcome.broken.append(f"{type(error).__name__}: {error}")
    finally:
        _end_what_is_left(world)
        outcome.seconds = round(time.monotonic() - started, 1)
        if not outcome.broken:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


# -- what is broken -------------------------------------------------------------------------------


def killed_flow(world: World, outcome: Round, _database: Postgres | None) -> None:
    """The flow's own process dies, at any moment of the night and of the finalizing; its stages are
    orphans then."""
    world.ask(_some_subjects(world))
    for _ in range(3):
        outcome.faults += _kill(
            world, ("nightly",), world.chance.uniform(0.5, NIGHT), whole_group=False
        )
    world.until_done("nightly")
    approve(world)
    for _ in range(3):
        outcome.faults += _kill(
            world, ("finalize",), world.chance.uniform(0.5, FINALIZING), whole_group=False
        )


def killed_machine(world: World, outcome: Round, _database: Postgres | None) -> None:
    """Everything dies at once, as in a power cut (earlier writes are on the disk)."""
    world.ask(_some_subjects(world))
    for _ in range(2):
        outcome.faults += _kill(
            world, ("nightly",), world.chance.uniform(0.5, NIGHT), whole_group=True
        )
    world.until_done("nightly")
    approve(world)
    for _ in range(4):
        outcome.faults += _kill(
            world, ("finalize",), world.chance.uniform(0.5, FINALIZING), whole_group=True
        )


def killed_stage(world: World, outcome: Round, _database: Postgres | None) -> None:
    """A stage dies under a flow that lives."""
    world.ask(_some_subjects(world))
    for _ in range(2):
        outcome.faults += _kill_stages(world, ("nightly",), 3)
    world.until_done("nightly")
    approve(world)


def killed_worker(world: World, outcome: Round, _database: Postgres | None) -> None:
    """Machines that stages were handed to die in the middle of them, with all that runs there."""
    _with_remote(world)
    world.environment |= {
        "PREFECT_HOME": str(world.temp / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{(port := _free_port())}/api",
        "ERASURE_AUDIT_AGENT_SILENCE": "20",
        "ERASURE_AUDIT_AGENT_BEAT": "2",
        stand_in.PAUSE: "6",
    }
    prefect = [
        sys.executable,
        "-P",
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(
        prefect,
        env=world.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _until(functools.partial(_answers, f"{world.environment['PREFECT_API_URL']}/health"), 120)
    agents = [_agent(world, name) for name in ("first", "second")]
    try:
        _until(
            lambda: {"first", "second"} <= set(re.findall(r"\w+", world.give("agent", "check")[1])),
            180,
        )
        world.ask(_some_subjects(world))
        process = world.start("nightly")
        started = time.monotonic()
        for position, name in enumerate(("first", "second")):
            victim = agents[position]
            _until(functools.partial(_ended_or_at_work, process, victim), 240)
            if process.poll() is not None:
                break
            time.sleep(world.chance.uniform(0, 4))
            _kill_tree(victim.pid)
            after = round(time.monotonic() - started, 1)
            outcome.faults.append(Fault("killed worker", "nightly", after, "its machine is gone"))
            agents[position] = _agent(
                world, name
            )  # it comes back, and clears what it had of the stage
        text, _ = process.communicate(timeout=600)
        for fault in outcome.faults:
            fault.seen += f"; then {_told(process.returncode, text)}"
        world.until_done("nightly")
        approve(world)
        finish(world)
    finally:
        for started_process in (*agents, server):
            _kill_tree(started_process.pid)
        world.environment = {
            key: value
            for key, value in world.environment.items()
            if key not in ("PREFECT_HOME", "PREFECT_API_URL")
        }


def full_disk(world: World, outcome: Round, _database: Postgres | None) -> None:
    """The disk is full in the middle of `nightly` and of `finalize`; then space is freed."""
    world.ask(_some_subjects(world))
    with _small_disk(world) as fill:
        for command in (("nightly",), ("finalize",)):
            for _ in range(2):
                room = int(10 ** world.chance.uniform(3.5, 7))
                with fill(room):
                    code, text = world.give(*command)
                outcome.faults.append(
                    Fault(
                        "disk full",
                        command[0],
                        0.0,
                        f"{room // 1024} KiB left: {_told(code, text)}",
                    )
                )
            if command == ("nightly",):
                world.until_done("nightly")
                approve(world)


def remote_gone(world: World, outcome: Round, _database: Postgres | None) -> None:
    """The remote cannot be reached when things are pushed to it, and when they have to be erased
    from it."""
    away = world.folder.parent / "remote-away"
    remote = _with_remote(world)
    world.ask(_some_subjects(world))
    for command in (("nightly",), ("finalize",)):
        remote.rename(away)
        remote.write_text("not a folder")  # as a mount that has gone
        code, text = world.give(*command)
        outcome.faults.append(Fault("remote gone", command[0], 0.0, _told(code, text)))
        remote.unlink()
        away.rename(remote)
        if command == ("nightly",):
            world.until_done("nightly")
            approve(world)


def database_gone(world: World, outcome: Round, database: Postgres | None) -> None:
    """The register's server stops at once, and comes back after the command has ended."""
    if database is None:
        raise AuditError(
            "this round needs a PostgreSQL server; install Debian's package postgresql"
        )
    world.ask(_some_subjects(world))
    for command, most in (
        (("nightly",), NIGHT),
        (("nightly",), NIGHT),
        (("finalize",), FINALIZING),
        (("finalize",), FINALIZING),
    ):
        if command == ("finalize",) and not any(
            fault.during == "finalize" for fault in outcome.faults
        ):
            world.until_done("nightly")
            approve(world)
        process = world.start(*command)
        after = world.chance.uniform(0.5, most)
        _wait(process, after)
        database.stop()
        text, _ = process.communicate(timeout=600)
        database.start()
        outcome.faults.append(
            Fault("database gone", command[0], round(after, 1), _told(process.returncode, text))
        )


def two_schedulers(world: World, outcome: Round, _database: Postgres | None) -> None:
    """Three schedulers begin the same work at nearly the same moment."""
    world.ask(_some_subjects(world))
    for command in (("nightly",), ("finalize",)):
        running = []
        for _ in range(3):
            running.append(world.start(*command))
            time.sleep(world.chance.uniform(0, 0.5))
        ended = [(process.communicate(timeout=600)[0], process.returncode) for process in running]
        endings = "; ".join(sorted(_told(code, text) for text, code in ended))
        outcome.faults += [
            Fault("started twice", command[0], 0.0, endings),
            Fault("started thrice", command[0], 0.0, endings),
        ]
        if command == ("nightly",):
            world.until_done("nightly")
            approve(world)


def months_end(world: World, outcome: Round, _database: Postgres | None) -> None:
    """The night passes from one month, or year, to the next, and a request of the 31st has a
    deadline in February."""
    if shutil.which("faketime") is None:
        raise AuditError("this round needs `faketime`; install Debian's package faketime")
    moment = world.chance.choice(
        ["2026-12-31 23:59:50", "2027-01-31 23:59:45", "2028-02-28 23:59:50"]
    )
    world.ask(_some_subjects(world), day=moment.split()[0])
    prefix = ("faketime", "-f", f"@{moment}")
    code, text = world.give("nightly", prefix=prefix)
    outcome.faults.append(Fault("month's end", "nightly", 0.0, f"{moment}: {_told(code, text)}"))
    due = {case["due"] for case in world.register()}
    expected = {"2026-12-31": "2027-02-01", "2027-01-31": "2027-03-01", "2028-02-28": "2028-03-28"}[
        moment.split()[0]
    ]
    if due != {expected}:
        outcome.broken.append(f"deadline: got {due}, expected {expected}")
    world.until_done("nightly")
    approve(world)
    code, text = world.give("finalize", prefix=prefix)
    outcome.faults.append(Fault("month's end", "finalize", 0.0, f"{moment}: {_told(code, text)}"))


def rotten_cache(world: World, outcome: Round, _database: Postgres | None) -> None:
    """An object in DVC's cache, and the file made from it, lose some of their bytes between two
    runs."""
    world.ask(_some_subjects(world))
    outcome.faults += _kill(world, ("nightly",), world.chance.uniform(0.5, NIGHT), whole_group=True)
    for command in (("nightly",), ("finalize",)):
        cache = sorted(
            path for path in (world.folder / ".dvc/cache/files").rglob("*") if path.is_file()
        )
        victim = world.chance.choice(cache)
        sound = victim.read_bytes()
        mode = victim.stat().st_mode
        victim.chmod(0o644)
        victim.write_bytes(bytes(byte ^ 0x5A for byte in sound[:64]) + sound[64:])
        victim.chmod(mode)  # bytes rot without anybody's leave, so DVC has no reason to look
        code, text = world.give(*command)
        outcome.faults.append(Fault("rotten object", command[0], 0.0, _told(code, text)))
        if (
            victim.exists()
        ):  # the operator restores it from a backup, where the run has not made it anew
            victim.chmod(0o644)
            victim.write_bytes(sound)
            victim.chmod(mode)
        if command == ("nightly",):
            world.until_done("nightly")
            approve(world)


def hostile_requests(world: World, outcome: Round, _database: Postgres | None) -> None:
    """Requests with hostile fields, among good ones."""
    inbox = world.folder / "inbox"
    world.ask(_some_subjects(world))
    for position, (name, entry) in enumerate(_hostile(world)):
        text = entry if isinstance(entry, str) else json.dumps([entry])
        files.write_bytes(inbox / f"hostile-{position}.json", text.encode(errors="surrogatepass"))
        code, text = world.give("intake", "drop")
        outcome.faults.append(
            Fault("hostile request", "intake", 0.0, f"{name}: {_told(code, text)}")
        )
        if "Traceback" in text:
            outcome.broken.append(f"{name}: an exception reached the operator")
    world.until_done("nightly")
    approve(world)


SCENARIOS: dict[str, Callable[[World, Round, Any], None]] = {
    "killed flow": killed_flow,
    "killed machine": killed_machine,
    "killed stage": killed_stage,
    "killed worker": killed_worker,
    "full disk": full_disk,
    "remote gone": remote_gone,
    "database gone": database_gone,
    "two schedulers": two_schedulers,
    "month's end": months_end,
    "rotten cache": rotten_cache,
    "hostile requests": hostile_requests,
}


def scenarios() -> dict[str, Callable[[World, Round, Any], None]]:
    """Faults, and the attacks of `benchmarks.attacks`, by name."""
    from benchmarks import attacks

    return attacks.SCENARIOS | SCENARIOS


# -- what has to hold -----------------------------------------------------------------------------


def finish(world: World) -> None:
    """Go on as the schedule does, until nothing is left to do."""
    for _ in range(MOST_TRIES):
        world.until_done("nightly")
        states = {case["state"] for case in world.register()}
        if "awaiting_signoff" in states:
            approve(world)
        _refuse_set_aside(world)
        world.until_done("finalize")
        if {case["state"] for case in world.register()} <= {"closed"}:
            return
    raise AuditError(f"the round is stuck: {Counter(case['state'] for case in world.register())}")


def _refuse_set_aside(world: World) -> None:
    """Refuse the requests of unknown people that the audit set aside, as a person would."""
    for case in world.register():
        if case["shown"] == "on_hold" and case["request_id"] not in world.asked:
            for step in ("lift", "reject"):
                words = ("--by", "officer@example.org", "--reason", "a person that nobody knows")
                world.until_done("requests", step, case["request_id"], *words)


def _promises(world: World) -> list[str]:
    """The promises that were not kept, in words; empty: all were."""
    broken = []
    cases = {case["request_id"]: case for case in world.register()}
    if missing := set(world.asked) - set(cases):
        broken.append(f"{len(missing)} requests are lost")
    for request in world.asked:
        code, text = world.give("requests", "show", request, "--json")
        kinds = (
            Counter(event["kind"] for event in json.loads(text)["events"])
            if code == 0
            else Counter()
        )
        once = ("received", "released", "erased", "closed")
        broken += [f"a request was {kind} {kinds[kind]} times" for kind in once if kinds[kind] != 1]
    code, text = world.give("requests", "check")
    if code != 0:
        broken.append(f"chain: {_told(code, text)}")
    broken += _half_written(world)
    remains = _left(world)
    broken += (
        [f"left after the receipt in {len(remains)} places: {', '.join(remains[:3])}"]
        if remains
        else []
    )
    _, dirty = world.plain("git", "status", "--porcelain")
    if dirty.strip():
        broken.append(f"the checkout is not clean: {dirty.split()[:6]}")
    code, text = world.give("nightly")
    if code != 0:
        broken.append(f"the next run: {_told(code, text)}")
    return broken


def _half_written(world: World) -> list[str]:
    """Incomplete reports, and drafts that were left behind."""
    broken = []
    for register in sorted((world.folder / "reports").glob("*/register.json")):
        for line in json.loads(register.read_text(encoding="utf-8"))["requests"]:
            folder = register.parent / line["folder"]
            try:
                evidence = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
                pdf = (folder / "report.pdf").read_bytes()
                html = (folder / "report.html").read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                broken.append(f"report of {register.parent.name}: {error}")
                continue
            is_complete = (
                pdf.startswith(b"%PDF")
                and b"%%EOF" in pdf[-64:]
                and html.rstrip().endswith("</html>")
            )
            if not is_complete or evidence["request"]["id"] != line["request_id"]:
                broken.append(f"a report of {register.parent.name} is half-written")
    drafts = [
        path
        for path in (world.folder / "reports").glob("*")
        if path.name.startswith(".") and path.is_dir()
    ]
    return broken + [f"a draft lies about: {path.name}" for path in drafts]


def _left(world: World) -> list[str]:
    """Files in which something of the erased people is found: bytes, hashes, ids; git's objects are
    looked into."""
    needles = world.needles()
    remains = []
    for path in sorted(world.folder.parent.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if any(needle in content for needle in needles):
                remains.append(path.relative_to(world.folder.parent).as_posix())
    _, listing = world.plain(
        "git", "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"
    )
    for line in listing.splitlines():
        name, kind = line.split()
        content = subprocess.run(
            ["git", "cat-file", kind, name], cwd=world.folder, capture_output=True
        ).stdout
        if any(needle in content for needle in needles):
            remains.append(f"git {kind} {name[:8]}")
    return remains


# -- how it is broken -----------------------------------------------------------------------------


def _kill(world: World, command: tuple[str, ...], after: float, whole_group: bool) -> list[Fault]:
    """kill -9 a command after some seconds: its own process, or all processes that it started as
    well.

    Returns:
        The fault; none if the command had ended by itself before.
    """
    process = world.start(*command)
    ended = _wait(process, after)
    children: list[psutil.Process] = []
    if not ended:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True) if whole_group else []
        process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()
        if not whole_group:
            time.sleep(world.chance.uniform(0, 3))  # orphans are still at it, or have ended
    if process.stdout:
        process.stdout.close()
    effect = f"killed with {len(children)} others" if whole_group else "killed"
    kind = "killed machine" if whole_group else "killed flow"
    return [] if ended else [Fault(kind, command[0], round(after, 1), effect)]


def _kill_stages(world: World, command: tuple[str, ...], most: int) -> list[Fault]:
    """kill -9 stages of a running command, one after the other."""
    faults: list[Fault] = []
    started = time.monotonic()
    process = world.start(*command)
    patience = world.chance.uniform(0, 3)
    while process.poll() is None and len(faults) < most and time.monotonic() - started < 300:
        time.sleep(0.1)
        for child, name in _stages(process.pid):
            time.sleep(patience)
            with contextlib.suppress(psutil.Error):
                child.kill()
                after = round(time.monotonic() - started, 1)
                faults.append(Fault("killed stage", command[0], after, f"killed {name}"))
            patience = world.chance.uniform(0, 3)
            time.sleep(1.5)
            break
    text, _ = process.communicate(timeout=600)
    if faults:
        faults[-1].seen += f"; then {_told(process.returncode, text)}"
    return faults


def _with_remote(world: World) -> Path:
    """A remote beside the world, for it and for agents."""
    remote = world.folder.parent / "remote"
    remote.mkdir()
    _told_ok(world, "dvc", "remote", "add", "--default", "store", "../remote")
    _told_ok(world, "dvc", "push", "--quiet")
    _told_ok(world, "git", "commit", "--quiet", "--all", "-m", "A remote")
    return remote


def _agent(world: World, name: str) -> subprocess.Popen[bytes]:
    """A machine that takes stages: a clone of the workspace with a worker in it."""
    clone = world.folder.parent / f"agent-{name}"
    if not clone.exists():
        _told_ok(world, "git", "clone", "--quiet", str(world.folder), str(clone))
    folder = world.folder.parent / f"work-{name}"
    program = Path(sys.executable).with_name("erasure-audit")
    return subprocess.Popen(
        [str(program), "agent", "start", "--pool", "gpu", "--name", name],
        cwd=clone,
        env={**world.environment, "ERASURE_AUDIT_AGENT_FOLDER": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _answers(url: str) -> bool:
    import httpx

    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


def _ended_or_at_work(command: subprocess.Popen[str], agent: subprocess.Popen[bytes]) -> bool:
    return command.poll() is not None or any(True for _ in _stages(agent.pid))


def _stages(pid: int) -> Iterator[tuple[psutil.Process, str]]:
    """The stages that a process runs now, each with its name."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            if "-m" in words[:-2] and words[words.index("-m") + 1].startswith(
                ("tasks.", "benchmarks.stand_in")
            ):
                yield child, words[words.index("-m") + 1]


def _kill_tree(pid: int) -> None:
    """kill -9 a process that we started, and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for victim in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait(10)


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.5)
    return False


@contextlib.contextmanager
def _small_disk(world: World) -> Iterator[Callable[[int], contextlib.AbstractContextManager[None]]]:
    """Put the world on its own disk, which can be filled until a given number of bytes is left."""
    folder = world.folder.parent
    moved = folder.with_name(folder.name + "-before")
    folder.rename(moved)
    folder.mkdir()
    code = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)], check=False
    ).returncode
    if code != 0:
        folder.rmdir()
        moved.rename(folder)
        raise AuditError("this round mounts a small disk, which only root may do")
    shutil.copytree(moved, folder, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(moved)

    @contextlib.contextmanager
    def fill(room: int) -> Iterator[None]:
        filler = folder / "filler"
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(1, shutil.disk_usage(folder).free - room))
        try:
            yield
        finally:
            filler.unlink()

    try:
        yield fill
    finally:
        _end_what_is_left(world)
        shutil.copytree(folder, moved, symlinks=True)
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        folder.rmdir()
        moved.rename(folder)


class Postgres:
    """A server of one campaign, on loopback, that can be stopped at once and started again."""

    def __init__(self, parent: Path) -> None:
        """Make and start it. Raises `AuditError` where there is no PostgreSQL."""
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs:
            raise AuditError("no PostgreSQL here; install Debian's package postgresql")
        self.programs, self.place = programs[-1], parent
        self.place.mkdir(parents=True)
        self.as_user = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
        if self.as_user:
            shutil.chown(parent, "postgres")
            for folder in parent.parents:
                if folder.stat().st_mode & 0o005 != 0o005:
                    folder.chmod(folder.stat().st_mode | 0o055)
        self.port, self._copies = _free_port(), itertools.count(1)
        self._run("initdb", "--auth=trust", "--username=audit", "--pgdata", str(parent / "data"))
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.place}"
        self._run(
            "pg_ctl",
            "-w",
            "-D",
            str(self.place / "data"),
            "-l",
            str(self.place / "log"),
            "-o",
            options,
            "start",
        )

    def stop(self) -> None:
        """Stop it without waiting for anybody."""
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self.place / "data"), "stop")

    def fresh(self, name: str) -> str:
        """The address of a new, empty database."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "audit", name)
        return f"postgresql://audit@127.0.0.1:{self.port}/{name}"

    def copy_of(self, address: str) -> str:
        """The address of a new database that is a copy of another."""
        name = f"copy{next(self._copies)}"
        source = address.rpartition("/")[2]
        self._run(
            "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "audit", "-T", source, name
        )
        return f"postgresql://audit@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *words: str) -> None:
        # its own output would keep our pipes open as long as the server lives
        done = subprocess.run(
            [*self.as_user, str(self.programs / program), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            raise AuditError(f"{program} ended with exit code {done.returncode}")


def _hostile(world: World) -> Iterator[tuple[str, Any]]:
    """Hostile entries, each with a name; their subjects are not among those who asked."""
    good: dict[str, Any] = {
        "regulation": "gdpr",
        "subject_request_id": str(uuid.UUID(int=world.chance.getrandbits(128), version=4)),
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-02T09:15:00Z",
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": "x",
                "identity_format": "raw",
            }
        ],
    }

    def identity(value: Any) -> dict[str, Any]:
        return {
            **good,
            "subject_identities": [{**good["subject_identities"][0], "identity_value": value}],
        }

    yield "path as id", {**good, "subject_request_id": "../../../etc/passwd"}
    yield "template as regulation", {**good, "regulation": "{{ 7 * 7 }}"}
    yield "NUL in a value", identity("a\u0000b")
    yield "lone surrogate", json.dumps([identity("LONE")]).replace("LONE", "\\ud800")
    yield (
        "SQL in a value",
        {**identity("'; DROP TABLE events; --"), "submitted_time": "'; DROP TABLE events; --"},
    )
    yield "time without zone", {**good, "submitted_time": "2026-11-02T09:15:00"}
    yield "year 9999", {**good, "submitted_time": "9999-12-31T23:59:59Z"}
    yield "very long value", identity("x" * 1_000_000)
    yield "number as value", identity(1e308)
    yield "deep nesting", "[" * 100_000 + "]" * 100_000
    yield "key given twice", json.dumps([good])[:-2] + ', "regulation": "ccpa"}]'
    yield "no JSON", "\x89PNG\r\n"
    yield "formula in a value", {**good, "regulation": '=HYPERLINK("http://x")'}
    yield (
        "callback to a file",
        {**good, "status_callback_urls": ["file:///etc/passwd"], "regulation": "none"},
    )


def approve(world: World) -> None:
    """A person approves the batch that waits; where not every verdict is a pass, the exact
    retrain."""
    batches = {case["batch"] for case in world.register() if case["state"] == "awaiting_signoff"}
    for batch in sorted(batches):
        code, _ = world.give("approve", batch, "--by", "officer@example.org", "--comment", "read")
        if code != 0:
            world.until_done(
                "approve",
                batch,
                "--by",
                "officer@example.org",
                "--comment",
                "read",
                "--model",
                "retrained",
            )


def _some_subjects(world: World) -> list[int]:
    return world.chance.sample(range(stand_in.SUBJECTS), 2)


def _wait(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether a command ended on its own within some seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def _told(code: int, text: str) -> str:
    """How a command ended, in one line."""
    if code == 0:
        return "went on"
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    trace = (
        " (with a traceback)" if "Traceback (most recent call last)" in text and not lines else ""
    )
    return (
        f"exit {code}{trace}: {(lines or text.strip().splitlines() or ['nothing said'])[-1][:160]}"
    )


def _told_ok(world: World, *command: str) -> None:
    program = (
        [sys.executable, "-P", "-m", "dvc", *command[1:]] if command[0] == "dvc" else list(command)
    )
    code, text = world.plain(*program)
    if code != 0:
        raise AuditError(f"{' '.join(command[:2])} failed: {text.strip().splitlines()[-1:]}")


def _end_what_is_left(world: World) -> None:
    """End processes that killed commands left behind: orphaned stages, temporary servers."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == str(world.temp):
                process.send_signal(signal.SIGKILL)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the table ------------------------------------------------------------------------------------


def main(
    faults: int = 100,
    seed: int = 0,
    only: str | None = None,
    jobs: int = 2,
    page: Path | None = None,
    out: Path = RESULTS,
) -> None:
    """Inject faults, round after round, and write their effects. Rounds of this seed in `out` are
    kept.

    Args:
        faults: how many at least.
        seed: decides who asks and when something breaks.
        only: scenarios by their names, between commas, played in turn; None: all.
        jobs: rounds that are played at once.
        page: a Markdown page whose table between the marks is made anew.
        out: the results as JSON.

    Example: python -m benchmarks.faults --faults 120 --page docs/operations.md
    """
    from concurrent.futures import ThreadPoolExecutor

    from benchmarks import attacks

    names = only.split(",") if only else list(scenarios())
    rounds = _kept(out, seed)
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as parent:
        folder = Path(parent)
        folder.chmod(0o755)
        template = stand_in.world(folder / "template")
        ready(template)
        asking = {"database gone", *attacks.NEED_A_DATABASE}
        database = Postgres(folder / "postgres") if asking & set(names) else None
        first = max((one.number for one in rounds), default=-1) + 1
        numbers, lock, alone = itertools.count(first), threading.Lock(), threading.Lock()

        def work() -> None:
            while sum(len(one.faults) for one in rounds) < faults:
                with lock:
                    number = next(numbers)
                scenario = names[number % len(names)]
                own = database if scenario in asking else None
                with alone if own else contextlib.nullcontext():  # one of them stops the server
                    last = play(number, scenario, seed * 10_000 + number, template, folder, own)
                for fault in last.faults:
                    fault.seen = fault.seen.replace(
                        f"{folder}/", ""
                    )  # results name no folder of a machine
                with lock:
                    rounds.append(last)
                    state = "; ".join(last.broken) or "all held"
                    stage_cli.say(
                        f"{sum(len(one.faults) for one in rounds)}/{faults} faults: round "
                        f"{number}, {scenario}, "
                        f"{len(last.faults)} faults, {last.seconds:.0f} s: {state}"
                    )
                    files.write_json(out, {"seed": seed, "rounds": [asdict(one) for one in rounds]})

        try:
            with ThreadPoolExecutor(jobs) as pool:
                for player in [pool.submit(work) for _ in range(jobs)]:
                    player.result()
        finally:
            if database is not None:
                database.stop()
    if page is not None:
        write_page(page, rounds)
    broken = [one for one in rounds if one.broken]
    if broken:
        raise AuditError(f"{len(broken)} of {len(rounds)} rounds broke a promise; {out} says which")


def _kept(out: Path, seed: int) -> list[Round]:
    """Earlier rounds of this seed."""
    results = files.read_json(out) if out.exists() else {}
    if results.get("seed") != seed:
        return []
    return [
        Round(**{**one, "faults": [Fault(**fault) for fault in one["faults"]]})
        for one in results["rounds"]
    ]


def ready(template: Path) -> None:
    """Settings of a campaign: identities are checked before, so that requests go straight into a
    batch."""
    from flows.workspace import shell
    from tasks.common import settings

    settings.assign(
        template / "params.yaml",
        ["operate.identities=before", "report.identity_check=Two documents at the desk"],
    )
    shell.git(template, "add", ".")
    shell.git(template, "commit", "--quiet", "-m", "Settings of a campaign")


def write_page(page: Path, rounds: list[Round]) -> None:
    """Put the table of faults between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    files.write_text(page, f"{before}{BEGIN}\n{table(rounds)}{END}{after}")


def table(rounds: list[Round]) -> str:
    """Faults by kind and command, and how often the promises held."""
    lines = [
        "| fault | during | injected | command went on | command stopped with a message | "
        "promises broken |"
    ]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    kinds = sorted({(fault.kind, fault.during) for one in rounds for fault in one.faults})
    for kind, during in kinds:
        own = [
            (one, fault)
            for one in rounds
            for fault in one.faults
            if (fault.kind, fault.during) == (kind, during)
        ]
        went = sum("went on" in fault.seen for _, fault in own)
        stopped = sum("exit " in fault.seen for _, fault in own)
        broken = sum(bool(one.broken) for one, _ in own)
        lines.append(f"| {kind} | `{during}` | {len(own)} | {went} | {stopped} | {broken} |")
    total = sum(len(one.faults) for one in rounds)
    held = sum(not one.broken for one in rounds)
    lines += [
        "",
        f"{total} faults in {len(rounds)} rounds; all promises held in {held} of {len(rounds)} "
        "rounds.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    stage_cli.run(main)
