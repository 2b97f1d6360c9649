"""The environment that Prefect, DVC and the stages run in: quiet, offline, and with the right
interpreter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SILENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}
"""Nobody is phoned: the audited data are personal, and an air-gapped machine has nobody to
phone."""

SECRET = (
    "ERASURE_AUDIT_KEY_PEM",
    "ERASURE_AUDIT_KEY_PASSPHRASE",
    "ERASURE_AUDIT_TOKENS",
    "ERASURE_AUDIT_SIGNING_CLIENTS",
)
"""The signing key, and who may use the server; no stage gets to see them: stages run model code
that a user brings."""

DEFAULTS = {
    # the command line shows progress in its own way
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    # two busy cores need more than Prefect's 20 s
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_ENABLED": "false",  # the temporary server is gone before anybody could look
    # no blocks are used, and a server starts sooner without
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}
"""What a user may set otherwise."""


def prepare(workspace: Path) -> None:
    """Set up this process. To be called before Prefect is imported, for Prefect reads its settings
    at import."""
    os.environ.update(child(workspace))


def child(workspace: Path) -> dict[str, str]:
    """The environment of a process that runs in the workspace: this one's, telemetry off, without
    the secrets.

    Prefect's database lies in the workspace's `.prefect/` unless `PREFECT_HOME` says otherwise. The
    folder of the running interpreter comes first in PATH, because stage commands say `python -m
    tasks.<stage>`.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in SECRET}
    inherited["PATH"] = _first_in_path(
        str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)
    )
    home = {"PREFECT_HOME": str(workspace.resolve() / ".prefect"), "PYTHONUNBUFFERED": "1"}
    return {**home, **DEFAULTS, **inherited, **SILENT}


def _first_in_path(folder: str, path: str) -> str:
    others = [part for part in path.split(os.pathsep) if part != folder]
    return os.pathsep.join([folder, *others])
