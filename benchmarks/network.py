"""Simulate several machines on one: a Prefect server, an S3 store that DVC reaches over the
network, agents in clones."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.workspace import shell
from tasks.common.errors import WorkspaceError

BUCKET = "audit-store"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Environment variables with which the store is reached."""
PATIENCE = 60.0
"""How long Prefect's server may take to an answer, s."""


@contextlib.contextmanager
def s3_store() -> Iterator[tuple[str, Any]]:
    """An S3 store with an empty bucket, for whose users `CREDENTIALS` are set; yields its address
    and a client."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        yield endpoint, client
    finally:
        server.stop()


@contextlib.contextmanager
def prefect_server(root: Path) -> Iterator[str]:
    """A standing Prefect server, its database in a folder; yields the address of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        env={**os.environ, **quiet, "PREFECT_HOME": str(root / "prefect-server")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api/health"))
        yield f"http://127.0.0.1:{port}/api"
    finally:
        kill(process)


def connect(workspace: Path, endpoint: str) -> None:
    """Make the S3 store a workspace's default DVC remote."""
    shell.dvc(
        workspace, "remote", "add", "--quiet", "--force", "--default", "store", f"s3://{BUCKET}/dvc"
    )
    shell.dvc(workspace, "remote", "modify", "--quiet", "store", "endpointurl", endpoint)


def clone(workspace: Path, folder: Path) -> Path:
    """An agent's clone, without data, cache or results."""
    shell.git(workspace.parent, "clone", "--quiet", str(workspace), str(folder))
    return folder


def agent(
    command: list[str],
    folder: Path,
    api: str,
    out: Path,
    variables: Mapping[str, str],
    core: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start an agent.

    Args:
        command: `erasure-audit agent start …`.
        folder: its clone.
        api: address of Prefect's API.
        out: file for what it says.
        variables: further environment variables.
        core: the one core on which it and all its stages run; None: any.
    """

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    with out.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PREFECT_API_URL": api, **variables},
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=pin,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """As if the power had failed: the process and all that it has started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(process.pid)
        for each in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def online(api: str, pool: str) -> list[str]:
    """The names of a pool's workers that are there now."""
    import httpx

    answer = httpx.post(f"{api}/work_pools/{pool}/workers/filter", json={}, timeout=PATIENCE)
    return (
        [each["name"] for each in answer.json() if each["status"] == "ONLINE"]
        if answer.is_success
        else []
    )


def runs(api: str, name: str) -> list[dict[str, Any]]:
    """Prefect's runs with a name, oldest first."""
    import httpx

    query = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_ASC"}
    answer: list[dict[str, Any]] = httpx.post(
        f"{api}/flow_runs/filter", json=query, timeout=PATIENCE
    ).json()
    return answer


def states(api: str, run: str) -> dict[str, float]:
    """When a run reached each of its states for the first time, by the state's type, Unix time."""
    import httpx

    answer = httpx.get(
        f"{api}/flow_run_states/", params={"flow_run_id": run}, timeout=PATIENCE
    ).json()
    reached = sorted((moment(each["timestamp"]), each["type"]) for each in answer)
    return {kind: at for at, kind in reversed(reached)}


def log(api: str, run: str) -> list[tuple[float, str]]:
    """The lines that a run has logged, in their order, each with its Unix time."""
    import httpx

    lines: list[tuple[float, str]] = []
    while True:
        query = {
            "logs": {"flow_run_id": {"any_": [run]}},
            "sort": "TIMESTAMP_ASC",
            "offset": len(lines),
        }
        more = httpx.post(f"{api}/logs/filter", json=query, timeout=PATIENCE).json()
        lines += [(moment(each["timestamp"]), each["message"]) for each in more]
        if not more:
            return lines


def moment(text: str) -> float:
    """Unix time of a time stamp of Prefect's API."""
    return datetime.fromisoformat(text).timestamp()


def answers(address: str) -> bool:
    """Whether something answers there."""
    import httpx

    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(address).is_success
    return False


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    """Wait.

    Raises:
        WorkspaceError: it is not so within the time.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise WorkspaceError(f"waited for more than {seconds:.0f} s")
        time.sleep(0.2)
