"""Secrets: from the environment, else from Prefect's Secret blocks; never from a workspace's file or a parameter."""

from __future__ import annotations

import os
from typing import Any


def get(name: str) -> str | None:
    """The secret of a name, or None where there is none.

    Args:
        name: of the environment variable, `ERASURE_AUDIT_DATABASE`; the block's is the same in small letters with
            dashes, `erasure-audit-database`. A block is looked for only where `PREFECT_API_URL` names a server.
    """
    if found := os.environ.get(name):
        return found
    if not os.environ.get("PREFECT_API_URL"):
        return None
    from prefect.blocks.system import Secret

    try:
        block: Any = Secret.load(name.lower().replace("_", "-"), _sync=True)  # type: ignore[call-arg]
    except ValueError:  # Prefect's way to say that there is no such block
        return None
    value = block.get()
    return str(value) if value else None
