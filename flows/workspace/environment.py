"""The environment that Prefect, DVC and the stages run in: quiet, offline, and with the right
interpreter."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import Any

SILENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}
"""No telemetry: the audited data are personal, and the machine may be air-gapped."""

KEY_PEM, KEY_PASSPHRASE = "ERASURE_AUDIT_KEY_PEM", "ERASURE_AUDIT_KEY_PASSPHRASE"
SECRET = (
    KEY_PEM,
    KEY_PASSPHRASE,
    "ERASURE_AUDIT_KEY",
    "ERASURE_AUDIT_TOKENS",
    "ERASURE_AUDIT_SIGNING_CLIENTS",
    "ERASURE_AUDIT_DATABASE",
    "ERASURE_AUDIT_NOTIFY",
    "ERASURE_AUDIT_PSEUDONYM_KEY",
    "ERASURE_AUDIT_CHAIN_KEY",
)
"""This tool's own secrets. No process that it starts sees them: stages run the user's model code,
and git runs the user's hooks."""

_CREDENTIAL = re.compile(
    r"""^(AWS|AZURE|ARM|GOOGLE|GCLOUD|GCS|OSS|ALIYUN|B2|HF|HUGGING_FACE|WANDB|GITHUB|GH|GITLAB
        |CI_JOB|VAULT|PG|MYSQL|SMTP|APPRISE)_?.*
    |.*(SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|PRIVATE_KEY|ACCESS_KEY|AUTH_STRING
        |CONNECTION_URL|DATABASE_URL|DSN).*$""",
    re.VERBOSE,
)
"""Names of variables that hold credentials: by their service, or by a word in the name."""
_NO_CREDENTIAL = ("PGTZ", "PG_COLOR", "CI_JOB_ID", "CI_JOB_NAME", "TOKENIZERS_PARALLELISM")

DEFAULTS = {
    # the command line shows progress in its own way
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    # A slow machine is not a failure. Prefect's own limits are 20 s for its temporary server, 10 s
    # for a lock of its database, 60 s and 5 tries for a request.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "3600",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "600",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "600",
    "PREFECT_API_REQUEST_TIMEOUT": "600",
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_SERVER_UI_ENABLED": "false",  # the temporary server ends with the run
    # no blocks are used, and a server starts sooner without
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}
"""Variables that a user may override."""


def prepare(workspace: Path) -> None:
    """Set up this process. Call it before Prefect is imported: Prefect reads its settings at
    import."""
    os.environ.update(child(workspace))


def secret(name: str) -> str | None:
    """A secret: from the environment, else from a Prefect Secret block; None where there is none.

    Never from a file of the workspace or a parameter.

    Args:
        name: of the environment variable, `ERASURE_AUDIT_DATABASE`; the block's is the same in
            lower case with dashes, `erasure-audit-database`. A block is read only if
            `PREFECT_API_URL` names a server, and once per process: restart the process after a
            block was changed.
    """
    if value := os.environ.get(name):
        return value
    server = os.environ.get("PREFECT_API_URL")
    return _block(server, name) if server else None


@functools.cache
def _block(_server: str, name: str) -> str | None:
    from prefect.blocks.system import Secret

    try:
        block: Any = Secret.load(  # type: ignore[call-arg]
            name.lower().replace("_", "-"), _sync=True
        )
    except ValueError:  # Prefect's error for a missing block
        return None
    value = block.get()
    return str(value) if value else None


def export_secret(name: str) -> None:
    """Put a secret from a Prefect block into this process's environment, for the stages that
    declare it (`stage`)."""
    if value := secret(name):
        os.environ[name] = value


def child(workspace: Path) -> dict[str, str]:
    """The environment of git and DVC: this process's, with telemetry off and without this tool's
    secrets. DVC keeps the credentials of its remotes.

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


def stage(workspace: Path, name: str) -> dict[str, str]:
    """The environment of a stage: that of `child` without credentials, except for the variables
    that the stage declares in `dvc.yaml` (`meta: {secrets: [NAME, ...]}`).

    Args:
        workspace: the folder with the `dvc.yaml`.
        name: of the stage, `train@0` for one of a matrix.
    """
    harmless = {
        variable: value
        for variable, value in child(workspace).items()
        if variable in _NO_CREDENTIAL or not _CREDENTIAL.fullmatch(variable.upper())
    }
    declared = _declared_secrets(workspace / "dvc.yaml", name.partition("@")[0])
    return {
        **harmless,
        **{variable: os.environ[variable] for variable in declared if variable in os.environ},
    }


def _declared_secrets(pipeline: Path, stage: str) -> list[str]:
    """The secret variables that a stage declares."""
    from ruamel.yaml import YAML

    if not pipeline.is_file():
        return []
    document = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8")) or {}
    entry = (document.get("stages") or {}).get(stage) or {}
    return [str(name) for name in (entry.get("meta") or {}).get("secrets") or []]


def _first_in_path(folder: str, path: str) -> str:
    folders = [entry for entry in path.split(os.pathsep) if entry != folder]
    return os.pathsep.join([folder, *folders])
