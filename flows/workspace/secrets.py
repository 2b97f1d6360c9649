"""Secrets: from the environment, else from Prefect's Secret blocks; never from a workspace's file
or a parameter."""

from __future__ import annotations

import functools
import os
from typing import Any


def get(name: str) -> str | None:
    """The secret of a name, or None where there is none.

    Args:
        name: of the environment variable, `ERASURE_AUDIT_DATABASE`; the block's is the same in
            small letters with dashes, `erasure-audit-database`. A block is looked for only where
            `PREFECT_API_URL` names a server, once in a process: whoever changes a block starts the
            process again.
    """
    if found := os.environ.get(name):
        return found
    server = os.environ.get("PREFECT_API_URL")
    return _block(server, name) if server else None


@functools.cache
def _block(_server: str, name: str) -> str | None:
    from prefect.blocks.system import Secret

    try:
        block: Any = Secret.load(name.lower().replace("_", "-"), _sync=True)  # type: ignore[call-arg]
    except ValueError:  # Prefect's way to say that there is no such block
        return None
    value = block.get()
    return str(value) if value else None


def export(name: str) -> None:
    """Put a secret that a Prefect block holds into this process's environment, for the processes
    that it starts."""
    if found := get(name):
        os.environ[name] = found
