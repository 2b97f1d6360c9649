"""Processor time per request of the HTTP service: requests taken in, and asked for.

Example: python -m benchmarks.service --requests 500
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from flows.register.register import Register
from flows.server import app, auth
from flows.workspace import signing_keys
from tasks.common import settings

SUBMIT = "/opendsr/v1/requests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="How many of each kind.")
    parser.add_argument("--clients", type=int, default=4, help="How many send at once.")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "params.yaml").write_text(settings.defaults_yaml())
        signing_keys.make_development(home)
        asyncio.run(_run(home, chosen.requests, chosen.clients))


async def _run(home: Path, count: int, clients: int) -> None:
    token, entry = auth.new_token("crm", ["intake"])
    register = Register(home)
    transport = httpx.ASGITransport(app=app.create(home, register, auth.Gatekeeper(entry)))
    headers = {"Authorization": f"Bearer {token}"}
    ids = [str(uuid.UUID(int=number, version=4)) for number in range(count)]
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service", headers=headers
    ) as client:

        async def submit(name: str) -> int:
            return (await client.post(SUBMIT, json=_request(name))).status_code

        async def ask(name: str) -> int:
            return (await client.get(f"{SUBMIT}/{name}")).status_code

        await submit(str(uuid.uuid4()))  # whatever is done only once
        for what, call, expected in (("submit", submit, 201), ("status", ask, 200)):
            await _measure(what, call, ids, clients, expected)
    register.close()


async def _measure(
    what: str,
    call: Callable[[str], Awaitable[int]],
    ids: list[str],
    clients: int,
    expected: int,
) -> None:
    waiting, spent = list(reversed(ids)), list[float]()

    async def work() -> None:
        while waiting:
            since = time.perf_counter()
            code = await call(waiting.pop())
            spent.append(time.perf_counter() - since)
            if code != expected:
                raise RuntimeError(f"got {code}, expected {expected}")

    processor = time.process_time()
    await asyncio.gather(*(work() for _ in range(clients)))
    each = (time.process_time() - processor) / len(ids)
    spent.sort()
    print(
        f"{what}: {1000 * each:.2f} ms of processor each; {len(ids)} by {clients} clients, "
        f"p50 {1000 * spent[len(spent) // 2]:.0f} ms, p99 "
        f"{1000 * spent[len(spent) * 99 // 100]:.0f} ms"
    )


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
