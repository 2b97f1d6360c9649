"""Git and DVC as commands, with their failures as errors that a user can read."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from flows.workspace import dvc_locks, environment
from tasks.common.errors import WorkspaceError

LOCK_PATIENCE = 3600.0
"""Time that a DVC command waits for the lock of another one, s."""
DVC = [sys.executable, "-P", "-m", "dvc"]
"""DVC in the running interpreter; -P keeps the workspace's own files from being imported as
DVC's."""


def git(folder: Path, *arguments: str, text: str = "") -> str:
    """Run git in a folder and return what it prints, stripped. Raises `WorkspaceError` with git's
    message.

    Args:
        folder: where.
        arguments: of git.
        text: its standard input.
    """
    return _run(["git", *arguments], folder, f"git {arguments[0]}", text)


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC in a folder and return what it prints, stripped. Raises `WorkspaceError` with DVC's
    message.

    What it prints is shown to nobody, so there is no need for `--quiet`, which would hide the
    message, too. While another process holds DVC's lock, the command is given again.
    """
    begun = time.monotonic()
    while True:
        try:
            return _run([*DVC, *arguments], folder, f"dvc {arguments[0]}")
        except WorkspaceError as error:
            locked = any(sign in str(error) for sign in dvc_locks.SIGNS)
            if not locked or time.monotonic() - begun > LOCK_PATIENCE:
                raise
        dvc_locks.sweep(folder)
        dvc_locks.wait()


def succeeds(folder: Path, *command: str) -> bool:
    """Whether a git command ends with exit code 0."""
    return (
        subprocess.run(["git", *command], cwd=folder, capture_output=True, check=False).returncode
        == 0
    )


def _run(command: list[str], folder: Path, name: str, text: str = "") -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=environment.child(folder),
            capture_output=True,
            text=True,
            input=text,
            check=False,
        )
    except FileNotFoundError as error:
        raise WorkspaceError(f"{command[0]}: no such command; install it and try again") from error
    if ended.returncode != 0:
        raise WorkspaceError(
            f"{name} failed: {_reason(ended.stderr) or _reason(ended.stdout) or 'no message'}"
        )
    return ended.stdout.strip()


def _reason(text: str) -> str:
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.startswith("Having any troubles")
    ]
    told = [line for line in lines if line.lower().startswith(("error", "fatal"))]
    return " ".join(told or lines[-3:])
