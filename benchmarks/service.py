"""Measure the HTTP service under load: `erasure-audit serve` in its own process, with several
clients on loopback.

Each client keeps one connection and sends its next request when the answer to the last one has
come. Printed are the number of requests, the time from sending a request to the end of its answer
(p50, p99 and the longest), and the processor time that the service itself used.

Example: python -m benchmarks.service --requests 2000 --clients 4
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.server import auth
from flows.workspace import layout, signing_keys

SUBMIT = "/opendsr/v1/requests"
PATIENCE = 60.0
"""How long the service may take to begin, s."""


@dataclass
class Service:
    """The service that is measured.

    Attributes:
        process: in which it runs.
        port: of loopback.
        token: of a client that may submit.
    """

    process: psutil.Process
    port: int
    token: str

    @property
    def processor(self) -> float:
        """Processor time that it has used, s."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000, help="How many of each kind.")
    parser.add_argument("--clients", type=int, default=4, help="How many send at once.")
    chosen = parser.parse_args()
    ids = [str(uuid.UUID(int=number, version=4)) for number in range(chosen.requests)]
    bodies = {name: json.dumps(_request(name)).encode() for name in ids}
    with tempfile.TemporaryDirectory() as folder, _serving(Path(folder) / "workspace") as service:
        _ask(service, "POST", SUBMIT, json.dumps(_request(str(uuid.uuid4()))).encode())  # warm
        _measure(service, "submit", [("POST", SUBMIT, bodies[name]) for name in ids], chosen, 201)
        queries = [("GET", f"{SUBMIT}/{name}", b"") for name in ids]
        _measure(service, "status", queries, chosen, 200)


@contextlib.contextmanager
def _serving(home: Path) -> Iterator[Service]:
    """The service in a new workspace, ready to answer."""
    layout.init(home)
    signing_keys.make_development(home)
    token, entry = auth.new_token("crm", ["intake"])
    port = _free_port()
    program = Path(sys.executable).with_name("erasure-audit")
    with subprocess.Popen(
        [str(program), "serve", "--port", str(port), "--no-callbacks"],
        cwd=home,
        env=os.environ | {auth.TOKENS: entry},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(port, process)
            yield Service(psutil.Process(process.pid), port, token)
        finally:
            process.terminate()


def _measure(
    service: Service,
    what: str,
    requests: list[tuple[str, str, bytes]],
    chosen: argparse.Namespace,
    expected: int,
) -> None:
    """Let the clients send all requests, and print the times."""
    shares = [requests[number :: chosen.clients] for number in range(chosen.clients)]
    processor, begun = service.processor, time.perf_counter()
    with ThreadPoolExecutor(chosen.clients) as pool:
        sent = [pool.submit(_send, service, share, expected) for share in shares]
        spent = sorted(seconds for share in sent for seconds in share.result())
    took = time.perf_counter() - begun
    each = (service.processor - processor) / len(spent)
    print(
        f"{what}: {len(spent)} requests by {chosen.clients} clients over loopback in {took:.1f} s; "
        f"p50 {1000 * spent[len(spent) // 2]:.0f} ms, p99 "
        f"{1000 * spent[len(spent) * 99 // 100]:.0f} ms, longest {1000 * spent[-1]:.0f} ms; "
        f"{1000 * each:.2f} ms of the service's processor each"
    )


def _send(service: Service, requests: list[tuple[str, str, bytes]], expected: int) -> list[float]:
    """Send requests one after the other over one connection; how long each took, s."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    spent = []
    with contextlib.closing(connection):
        for method, path, body in requests:
            since = time.perf_counter()
            status = _exchange(connection, service.token, method, path, body)
            spent.append(time.perf_counter() - since)
            if status != expected:
                raise RuntimeError(f"got {status}, expected {expected}")
    return spent


def _ask(service: Service, method: str, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        return _exchange(connection, service.token, method, path, body)


def _exchange(
    connection: http.client.HTTPConnection, token: str, method: str, path: str, body: bytes
) -> int:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service takes connections.

    Raises:
        RuntimeError: it ended, or did not begin in time.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise RuntimeError("the service did not begin; give `erasure-audit serve` by hand")


def _request(name: str) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": name,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:30:00Z",
        "subject_identities": [
            {"identity_type": "email", "identity_value": f"{name}@x", "identity_format": "raw"}
        ],
        "api_version": "1.0",
    }


if __name__ == "__main__":
    main()
