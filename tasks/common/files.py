"""Files that appear whole or not at all, and always with the same bytes for the same content."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.common.errors import AuditError


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that replaces it when the block ends without an error.

    What killed processes left of the same target is removed. One process at a time may write a
    target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}-????????"):
        if re.fullmatch(
            "[a-z0-9_]{8}", left.name[-8:]
        ):  # as `tempfile` names them; not the draft of `<name>-2`
            shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield an empty file beside `target` that replaces it when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, never sees a part of it."""
    with whole_file(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Like `write_bytes`, in UTF-8 and with the line ends as given."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; NaN and infinity are refused, because JSON has no such numbers.

    Raises:
        AuditError: `value` holds NaN or infinity.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise AuditError(
            f"{path.name}: got a number that is not finite; expected finite numbers or null"
        ) from error
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        AuditError: the file is missing or is no JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AuditError(f"{path}: no such file; run the stage that makes it") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AuditError(f"{path}: expected JSON in UTF-8, got something else ({error})") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
