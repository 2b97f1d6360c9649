"""This machine as an agent: checks what it needs, and runs a Prefect worker that takes one stage at
a time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from flows.agents import parcel, worker
from flows.workspace import environment
from tasks.common.errors import AuditError, WorkspaceError

SWEEP = 30.0
"""Time between two removals of leftovers of killed stages, s."""

WORKER = {
    # after three missed ones the worker counts as offline
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "PREFECT_WORKER_QUERY_SECONDS": "1",  # delay until a free agent takes the next stage
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
}
"""Prefect's settings for the worker, unless the user has set them."""


@dataclass(frozen=True)
class Requirement:
    """Something that an agent needs, and its state."""

    name: str
    usable: bool
    state: str


def check(home: Path, pool: str) -> list[Requirement]:
    """Check the requirements of an agent in this folder: server, pool's workers, remote, folder,
    device."""
    return [_server(home), _workers(pool), _remote(home), _scratch(), _device()]


def start(home: Path, pool: str, name: str | None, log: Callable[[str], None]) -> None:
    """Check the requirements, deploy the flow, and run a worker for one stage at a time until it or
    this process is ended.

    Raises:
        AuditError: a requirement is missing, or the worker ended by itself.
    """
    for setting, value in WORKER.items():
        os.environ.setdefault(setting, value)
    environment.prepare(home)
    os.environ[worker.HOME] = str(home)
    requirements = [_server(home), _remote(home), _scratch(), _device()]
    for requirement in requirements:
        log(f"{requirement.name}: {requirement.state}")
    missing = [requirement.name for requirement in requirements if not requirement.usable]
    if missing:
        raise WorkspaceError(f"this machine cannot be an agent yet, see {', '.join(missing)} above")
    from flows.agents import stage_flow

    stage_flow.deploy(pool)
    agent_name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    log(f"agent {agent_name} takes stages from pool {pool}; Ctrl-C ends it")
    code = _worker(pool, agent_name)
    if code not in (0, -signal.SIGTERM, -signal.SIGINT):
        raise WorkspaceError(f"the worker ended with exit code {code}; see its messages above")


def _worker(pool: str, name: str) -> int:
    """Run the worker, and remove leftovers of killed stages meanwhile and afterwards."""
    command = [
        "worker",
        "start",
        "--pool",
        pool,
        "--name",
        name,
        "--type",
        "process",
        "--limit",
        "1",
    ]
    worker.sweep()
    with subprocess.Popen([sys.executable, "-P", "-m", "prefect", *command]) as process:

        def end(_number: int, _frame: FrameType | None) -> None:
            process.terminate()

        earlier_handlers = {
            number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while True:
                try:
                    return process.wait(SWEEP)
                except subprocess.TimeoutExpired:
                    worker.sweep()
        finally:
            for number, handler in earlier_handlers.items():
                signal.signal(number, handler)
            worker.sweep()


def _server(home: Path) -> Requirement:
    environment.prepare(home)
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if not address:
        return Requirement(
            "server", False, "PREFECT_API_URL is not set; it names the Prefect server of all agents"
        )
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            return Requirement("server", True, f"Prefect {client.api_version()} answers")
    except (httpx.HTTPError, PrefectException) as error:
        return Requirement(
            "server", False, f"does not answer at PREFECT_API_URL ({type(error).__name__})"
        )


def _workers(pool: str) -> Requirement:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL

    from flows.agents import dispatch

    if not PREFECT_API_URL.value():
        return Requirement(f"pool {pool}", False, "unknown without a server")
    try:
        with get_client(sync_client=True) as client:
            workers = dispatch.online(client, pool)
    except (httpx.HTTPError, PrefectException) as error:
        return Requirement(f"pool {pool}", False, f"unknown ({type(error).__name__})")
    return Requirement(
        f"pool {pool}", True, f"workers online: {', '.join(workers) or 'none, stages run in place'}"
    )


def _remote(home: Path) -> Requirement:
    """Write, read and remove a file on the remote: each of these may be forbidden."""
    probe = f"{parcel.HANDOVER}/.probe-{uuid.uuid4().hex}/probe"
    try:
        post = parcel.Post(home)
        post.put(probe, b"probe")
        was_read = post.get(probe) == b"probe"
        was_removed = post.remove(probe.rpartition("/")[0]) == [probe]
    except AuditError as error:
        return Requirement("remote", False, str(error))
    if not (was_read and was_removed):
        return Requirement(
            "remote", False, f"{post.name}: a file could be written, but not read again and removed"
        )
    return Requirement("remote", True, f"{post.name} can be written, read and cleared")


def _scratch() -> Requirement:
    try:
        with worker.own_folder() as folder:
            return Requirement(
                "folder",
                True,
                f"copies of records lie in {folder.parent} while a stage runs, and only then",
            )
    except (AuditError, OSError) as error:
        return Requirement("folder", False, str(error))


def _device() -> Requirement:
    import torch

    if torch.cuda.is_available():
        return Requirement(
            "device", True, f"{torch.cuda.get_device_name()} (torch {torch.__version__})"
        )
    return Requirement(
        "device", True, f"no CUDA device, stages run on the CPU (torch {torch.__version__})"
    )
