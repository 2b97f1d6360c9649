"""Runs a stage on an agent, in a temporary folder.

Inputs come from the DVC remote, results go there, and the folder with all copies is always removed.
If the agent is killed, the next stage or `erasure-audit agent start` removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.agents import parcel as parcels
from flows.pipeline import stage_runner
from flows.workspace import shell
from tasks.common.errors import AuditError, StageError, WorkspaceError

HOME = "ERASURE_AUDIT_WORKSPACE"
"""Environment variable: the folder whose `.dvc/config` names the remote, and that holds the user's
own model code."""
FOLDER = "ERASURE_AUDIT_AGENT_FOLDER"
"""Environment variable: parent of agents' folders; default: a folder of this user among temporary
files."""
BEAT = "ERASURE_AUDIT_AGENT_BEAT"
"""Environment variable: time between two signs of life, s."""


class UnfitError(AuditError):
    """This agent cannot run the stage; another one may."""


class AbandonedError(AuditError):
    """The caller no longer waits for this stage."""


def run_stage(home: Path, name: str, expected: str, run: str, log: Callable[[str], None]) -> None:
    """Run one stage and hand its results to the DVC remote.

    Args:
        home: the agent's folder with the remote's settings.
        name: the parcel's folder on the remote.
        expected: the parcel's SHA-256.
        run: id of this try, for the name of the file with signs of life.
        log: receives every line that the stage prints.

    Raises:
        StageError: the stage failed; the text is its own message.
        KilledStageError: the stage was killed from outside.
        AbandonedError: the caller withdrew the stage; nothing was handed back.
        UnfitError: this agent cannot run the stage.
    """
    with own_folder() as folder:
        try:
            post = parcels.Post(home)
            packed = post.get(f"{name}/{parcels.PARCEL}")
            if packed is None:
                raise AbandonedError(
                    "the parcel is not on the remote: it was withdrawn, or the caller has another "
                    "remote"
                )
            parcel = parcels.unpack(packed, expected)
            _require_same_tool(parcel)
        except (parcels.RemoteError, WorkspaceError) as error:
            raise UnfitError(str(error)) from error
        runner = stage_runner.Runner(folder, 1, variables={"PYTHONPATH": _with_home(home)})
        with _signs_of_life(post, parcel, run, runner) as signs:

            def note(line: str) -> None:
                signs.line = line
                log(line)

            _unpack_inputs(home, folder, parcel)
            try:
                runner.run(parcel.stage, log=note)
            except stage_runner.SkippedStageError as error:
                raise AbandonedError("the caller withdrew the stage") from error
            except StageError:
                if signs.abandoned:
                    raise AbandonedError("the caller withdrew the stage") from None
                raise
            _hand_back(folder, post, parcel, signs)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder of this process; folders of killed processes are removed first."""
    root = _root()
    sweep(root)
    name = uuid.uuid4().hex
    guard, folder = _guarded(root / f"{name}.lock"), root / name
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        _clear(folder)
        guard_path = root / f"{name}.lock"
        guard_path.unlink(missing_ok=True)
        os.close(guard)


def sweep(root: Path | None = None) -> int:
    """Remove the folders of killed agents, and kill processes that still run in them; returns the
    number of removed folders."""
    import fcntl

    removed = 0
    root = root or _root()
    for lock in sorted(root.glob("*.lock")):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # its agent lives
            continue
        else:
            folder = lock.with_suffix("")
            if folder.exists():
                _end_what_runs_in(folder)
                _clear(folder)
                removed += 1
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    return removed


def _root() -> Path:
    """The folder of all agents of this user on this machine.

    Raises:
        UnfitError: others can access it, and could read personal data.
    """
    root = Path(
        os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"erasure-audit-agent-{os.getuid()}"
    )
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or root.is_symlink():
        raise UnfitError(
            f"{root}: others can access this folder; chmod 700 it, or name another one in ${FOLDER}"
        )
    return root


def _guarded(lock: Path) -> int:
    """Take a lock that ends with this process; try again if a sweep removed its file meanwhile."""
    import fcntl

    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _end_what_runs_in(folder: Path) -> None:
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                process.kill()
                process.wait(10)


def _clear(folder: Path) -> None:
    """Remove a folder, also if a killed stage still writes into it."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        _end_what_runs_in(folder)
    shutil.rmtree(folder)


def _require_same_tool(parcel: parcels.Parcel) -> None:
    from tasks import __version__

    if parcel.tool != __version__:
        raise UnfitError(
            f"got version {__version__} of erasure-audit here, expected the caller's {parcel.tool}"
        )


def _with_home(home: Path) -> str:
    """PYTHONPATH with the agent's workspace, which holds the user's own model code."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(home), *([inherited] if inherited else [])])


def _unpack_inputs(home: Path, folder: Path, parcel: parcels.Parcel) -> None:
    """Fetch the stage's inputs, then write the pipeline: while fetching, DVC would not let a file
    belong to both."""
    try:
        tracks = parcels.lay_tracks(home, folder, parcel.inputs)
        if tracks:
            shell.dvc(folder, "pull")
        for track in tracks:
            track.unlink()
        parcel.lay_out(folder)
        key = parcels.key_of(folder, parcel.stage)
    except WorkspaceError as error:
        raise UnfitError(
            f"the inputs of {parcel.stage} could not be fetched from the remote: {error}"
        ) from error
    if key != parcel.key:
        raise UnfitError(
            f"{parcel.stage}: the inputs differ from the caller's; there are other files beside "
            "those that DVC tracks, or the agent has another version of DVC"
        )


def _hand_back(folder: Path, post: parcels.Post, parcel: parcels.Parcel, signs: _Signs) -> None:
    """Push the results to the remote, unless the caller withdrew the stage: then nobody would know
    of these copies."""
    if signs.abandoned or not post.exists(f"{parcel.name}/{parcels.PARCEL}"):
        raise AbandonedError("the caller withdrew the stage")
    try:
        shell.dvc(folder, "push", "--run-cache", parcel.stage)
    except WorkspaceError as error:
        raise UnfitError(
            f"the results of {parcel.stage} could not be put on the remote: {error}"
        ) from error


class _Signs:
    """The state that signs of life report."""

    def __init__(self) -> None:
        self.line = ""
        self.abandoned = False


@contextlib.contextmanager
def _signs_of_life(
    post: parcels.Post, parcel: parcels.Parcel, run: str, runner: stage_runner.Runner
) -> Iterator[_Signs]:
    """Write signs of life to the remote; stop the stage once the caller removed the parcel."""
    signs, ended = _Signs(), threading.Event()
    path = f"{parcel.name}/{parcels.ALIVE}-{run}"

    def beat(number: int) -> None:
        if not post.exists(f"{parcel.name}/{parcels.PARCEL}"):
            signs.abandoned = True
            runner.stop()
            ended.set()
            return
        sign: dict[str, Any] = {
            "agent": socket.gethostname(),
            "pid": os.getpid(),
            "beat": number,
            "line": signs.line,
        }
        post.put(path, json.dumps(sign).encode())

    def go_on() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            with contextlib.suppress(parcels.RemoteError):  # the remote may fail for a while
                beat(number)
            ended.wait(float(os.environ.get(BEAT) or 10))

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield signs
    except BaseException:
        runner.stop()
        raise
    finally:
        ended.set()
        thread.join(30)
        with contextlib.suppress(parcels.RemoteError):
            if not post.exists(f"{parcel.name}/{parcels.PARCEL}"):
                post.remove(parcel.name)  # a sign of life that came after the caller's cleanup
