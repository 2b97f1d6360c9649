"""What an agent does with a stage that it is handed: in a fresh folder, of which nothing is left
afterwards.

Inputs come from the DVC remote, results go there, and the folder with all copies is removed
whatever happens. What a killed agent could not remove is removed at the start of the next stage,
and by `erasure-audit agent start` meanwhile.
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
"""Environment variable: the folder whose `.dvc/config` names the remote, and in which a user's own
model code lies."""
FOLDER = "ERASURE_AUDIT_AGENT_FOLDER"
"""Environment variable: where agents make their folders; default: one of this user's where
temporary files go."""
BEAT = "ERASURE_AUDIT_AGENT_BEAT"
"""Environment variable: time between two signs of life, s."""


class UnfitError(AuditError):
    """This agent cannot do the work; another one may."""


class AbandonedError(AuditError):
    """The caller no longer waits for this stage."""


def run_stage(home: Path, name: str, expected: str, run: str, log: Callable[[str], None]) -> None:
    """Run one stage and hand its results to the DVC remote.

    Args:
        home: the agent's folder with the remote's settings.
        name: the parcel's folder on the remote.
        expected: the parcel's SHA-256.
        run: what to call this try, in the name of the file that holds the signs of life.
        log: is given every line that the stage prints.

    Raises:
        StageError: the stage failed; the text is its own message.
        KilledStageError: the stage was ended from outside.
        AbandonedError: the caller withdrew the stage; nothing was handed back.
        UnfitError: this agent lacks what it takes.
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
    """A new folder that only this process uses, gone afterwards; folders of killed processes are
    removed first."""
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
    """Remove the folders of agents that were killed, and end what they left running there; returns
    how many."""
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
        UnfitError: it is somebody else's, who could then read personal data.
    """
    root = Path(
        os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"erasure-audit-agent-{os.getuid()}"
    )
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or root.is_symlink():
        raise UnfitError(
            f"{root}: others can get at this folder; chmod 700 it, or name another one in ${FOLDER}"
        )
    return root


def _guarded(lock: Path) -> int:
    """A lock that ends with this process, and that a sweep just then has not removed."""
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
    """Remove a folder for certain: a stage that was just killed may still have been writing."""
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
    """A user's own model code is found in the agent's workspace, as it is in the caller's."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(home), *([inherited] if inherited else [])])


def _unpack_inputs(home: Path, folder: Path, parcel: parcels.Parcel) -> None:
    """The stage's inputs, and then the pipeline: DVC would not let a file belong to both for the
    time of fetching."""
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
            f"{parcel.stage}: the inputs are not the caller's; expected what DVC tracks, and "
            "there are other files"
            " beside it, or the agent has another version of DVC"
        )


def _hand_back(folder: Path, post: parcels.Post, parcel: parcels.Parcel, signs: _Signs) -> None:
    """Results to the remote, unless the caller went on without: then they would be copies that
    nobody knows of."""
    if signs.abandoned or not post.exists(f"{parcel.name}/{parcels.PARCEL}"):
        raise AbandonedError("the caller withdrew the stage")
    try:
        shell.dvc(folder, "push", "--run-cache", parcel.stage)
    except WorkspaceError as error:
        raise UnfitError(
            f"the results of {parcel.stage} could not be put on the remote: {error}"
        ) from error


class _Signs:
    """What is told with each sign of life."""

    def __init__(self) -> None:
        self.line = ""
        self.abandoned = False


@contextlib.contextmanager
def _signs_of_life(
    post: parcels.Post, parcel: parcels.Parcel, run: str, runner: stage_runner.Runner
) -> Iterator[_Signs]:
    """Write a file to the remote again and again; stop the stage once the caller has taken the
    parcel away."""
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
            with contextlib.suppress(
                parcels.RemoteError
            ):  # a remote that is away for a while is no reason to stop
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
                post.remove(parcel.name)  # a last sign of life after the caller had cleared up
