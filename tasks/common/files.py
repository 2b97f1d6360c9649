"""Reads and writes files: our own atomically and deterministically, the user's with limits."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common.errors import AuditError, DataError

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES = 2 * 2**30
"""Largest file that is read whole, bytes."""


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that replaces it when the block ends without an error.

    Drafts of the same target that killed processes left behind are removed. Only one process at a
    time may write a target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for old_draft in target.parent.glob(f".{glob.escape(target.name)}-????????"):
        # `tempfile` names drafts like this; the pattern excludes the draft of `<name>-2`
        if re.fullmatch("[a-z0-9_]{8}", old_draft.name[-8:]):
            shutil.rmtree(old_draft, ignore_errors=True)
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
    """Write a file atomically: no reader and no crash sees a part of it."""
    with whole_file(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Like `write_bytes`, in UTF-8; line ends stay as given."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys. JSON has no NaN and no infinity, so they are refused.

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
        AuditError: the file is missing or is not JSON; names the file.
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


def md5(path: Path) -> str:
    """The MD5 of a file's bytes, 32 hexadecimal digits, by which DVC names it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def timestamp() -> str:
    """The current time as files have it: RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_regular(
    path: Path, hint: str = "correct the path", limit: int = MOST_BYTES, name: str | None = None
) -> bytes:
    """Read a user's file whole. A pipe or a device is refused: reading it may never end.

    Args:
        path: the file.
        hint: what the user can do if it cannot be read.
        limit: largest size, bytes.
        name: what an error calls it; None: the file's name.

    Raises:
        DataError: the file does not exist, is not a regular file or is too large; names it.
    """
    name = name or path.name
    try:
        facts = path.stat()
        # checked before opening: opening a pipe without a writer would block
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{name}: expected a file, got a {_kind(facts)}; {hint}")
        if facts.st_size > limit:
            raise DataError(f"{name}: got {facts.st_size} bytes, expected at most {limit}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; {hint}") from error
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, no permission, no path
        reason = getattr(error, "strerror", None) or "it is no path"
        raise DataError(f"{name}: cannot be read ({reason}); {hint}") from error


def _kind(facts: os.stat_result) -> str:
    return "folder" if stat.S_ISDIR(facts.st_mode) else "pipe or a device"


def read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV file as strings without the blanks around them.

    Raises:
        DataError: the file is missing, is not CSV in UTF-8, repeats a column, has not all of
            `columns`, or a row has fewer values than there are columns; names the row, counted
            from 1 below the header.
    """
    import io

    import pandas as pd

    name = path.name
    hint = "import a data set or restore it with `dvc pull`"
    content = read_regular(path, hint)
    try:  # header=None, so that a line with too many values is an error and not an index
        rows = pd.read_csv(
            io.BytesIO(content),
            header=None,
            dtype=str,
            na_filter=False,
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(
            f"{name}: got an empty file, expected the columns {', '.join(columns)}"
        ) from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        line = re.search(r"line \d+", str(error))
        raise DataError(
            f"{name}: expected CSV in UTF-8 with as many values as columns"
            f"{', but not so in ' + line[0] if line else ''}. Correct the file"
        ) from error
    header = [str(column).strip() for column in rows.iloc[0]]
    _refuse_header(name, header, columns)
    if (rows.iloc[:, -1] == "").any():  # pandas fills a short row with blanks
        _refuse_short_rows(name, content, len(header))
    table = rows.iloc[1:].reset_index(drop=True)
    table.columns = pd.Index(header)
    for column in table:
        table[column] = table[column].str.strip()
    return table


def _refuse_header(name: str, header: list[str], columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in header]
    if missing or len(set(header)) < len(header):
        fault = (
            f"the column {', '.join(missing)} is missing"
            if missing
            else "a column name occurs twice"
        )
        raise DataError(
            f"{name}: {fault}; expected {', '.join(columns)}{_header_hint(header, missing)}"
        )


def _header_hint(header: list[str], missing: list[str]) -> str:
    """The likely fault of a header. A header may be personal data, so it is not repeated."""
    first = header[0] if len(header) == 1 else ""
    for sign, called in ((";", "semicolons"), ("\t", "tabs")):
        if sign in first:
            return f". Its columns seem to be separated by {called}: separate them by commas"
    if set(missing) & {column.lower() for column in header}:
        return ". Names of columns are written in lower case"
    return ""


def _refuse_short_rows(name: str, content: bytes, columns: int) -> None:
    """Count values with another reader: pandas fills short rows with blanks."""
    import csv

    lines = content.decode("utf-8-sig").splitlines(keepends=True)
    lengths = [len(row) for row in csv.reader(lines) if row][1:]
    short = [number for number, length in enumerate(lengths, start=1) if length < columns]
    if short:
        more = f" and {len(short) - 1} more" if len(short) > 1 else ""
        raise DataError(
            f"{name}: row {short[0]}{more}: got fewer values than columns. Correct the file"
        )
