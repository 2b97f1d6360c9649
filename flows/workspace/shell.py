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

    `--quiet` would hide the message, too. The command is repeated while another process holds
    DVC's lock.
    """
    start = time.monotonic()
    while True:
        try:
            return _run([*DVC, *arguments], folder, f"dvc {arguments[0]}")
        except WorkspaceError as error:
            locked = any(sign in str(error) for sign in dvc_locks.SIGNS)
            if not locked or time.monotonic() - start > LOCK_PATIENCE:
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
        completed = subprocess.run(
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
    if completed.returncode != 0:
        reason = _reason(completed.stderr) or _reason(completed.stdout) or "no message"
        raise WorkspaceError(f"{name} failed: {reason}")
    return completed.stdout.strip()


def _reason(text: str) -> str:
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.startswith("Having any troubles")
    ]
    error_lines = [line for line in lines if line.lower().startswith(("error", "fatal"))]
    return " ".join(error_lines or lines[-3:])
