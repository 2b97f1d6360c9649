"""Requests from files: the drop folder `inbox/`, JSON lists and CSV, for senders without an API.

A file is claimed by renaming it, so that nobody can exchange it while it is read. Its good entries
are taken in, the others are kept in `inbox/refused/` with the reasons beside them, and the file is
removed. After a kill entries are read again, and the register recognises them. File names may hold
a person's name: they are neither logged nor kept.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from flows.intake import pseudonymise
from flows.register.register import Case, ConflictError, Register, State
from tasks.common import settings
from tasks.common.errors import RequestError
from tasks.requests import opendsr

INBOX = Path("inbox")
REFUSED = INBOX / "refused"
TAKING = INBOX / ".taking"
"""Claimed files; those that a killed run left here are taken first."""
KINDS = (".json", ".csv")
MAX_BYTES = 64 * 1024 * 1024
SETTLED = 2.0
"""Age below which a file may still be written, s."""
COLUMNS = (
    "subject_request_id",
    "regulation",
    "submitted_time",
    "identity_type",
    "identity_value",
    "identity_format",
)
"""Columns of a CSV, in any order; rows with the same subject_request_id are one request with
several identities."""

CHECKED_BEFORE = "before the request reached this tool, as report.identity_check says"

_REQUEST = ("subject_request_id", "regulation", "submitted_time")


@dataclass(frozen=True)
class DropEntry:
    """One request of a file.

    Attributes:
        position: in a JSON list from 1; in a CSV, the number of its first row below the header.
        value: as OpenDSR JSON.
        text: its text in the file.
        fault: why it cannot be a request; None: it may be one.
    """

    position: int
    value: Any = field(repr=False)
    text: str = field(repr=False)
    fault: str | None = None


@dataclass(frozen=True)
class Sheet:
    """The entries of a file; `header` is the text of a CSV's header."""

    entries: tuple[DropEntry, ...]
    header: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Refused:
    """An entry that was not taken in, and why; position 0 is the whole file."""

    position: int
    reason: str
    text: str = field(repr=False)

    def plain(self) -> dict[str, Any]:
        """As JSON values, without the entry itself."""
        return {"position": self.position, "reason": self.reason}


@dataclass(frozen=True)
class TakenFiles:
    """The outcome of files: new requests, known requests, refused entries, numbers of files that
    were taken and left."""

    new: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    files: int = 0
    left: int = 0

    def __add__(self, other: TakenFiles) -> TakenFiles:
        return TakenFiles(
            self.new + other.new,
            self.known + other.known,
            self.refused + other.refused,
            self.files + other.files,
            self.left + other.left,
        )

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "new": list(self.new),
            "known": list(self.known),
            "refused": [entry.plain() for entry in self.refused],
            "files": self.files,
            "left": self.left,
        }


def enter(home: Path, register: Register, value: Any, actor: str, source: str) -> tuple[Case, bool]:
    """Take one request in. A repetition changes nothing.

    If identities are checked before requests arrive (`operate.identities`), it is verified at once.

    Args:
        home: the workspace, for the key of pseudonyms and the settings.
        register: of the requests.
        value: an OpenDSR request as parsed JSON.
        actor: the sender.
        source: `http`, `drop folder`, `csv` or `file`.

    Returns:
        The case, and whether it is new.

    Raises:
        RequestError: it is malformed; the message names fields and quotes no value.
        ConflictError: its id is known with another content.
        PseudonymError: the key of pseudonyms cannot be used.
    """
    from flows.intake import callbacks

    request = pseudonymise.take_in(home, value)
    for url in request.callbacks:
        callbacks.check(url)
    case, new = register.receive(request, actor, source)
    # also if a kill came between the two steps
    if _is_checked_before(home) and case.state is State.RECEIVED:
        case = register.verify_identity(case.request_id, actor, CHECKED_BEFORE)
    return case, new


def _is_checked_before(home: Path) -> bool:
    """Whether identities are checked before requests arrive, by the current settings."""
    path = home / "params.yaml"
    try:
        state = path.stat()
    except OSError:
        return _identities(path, 0, 0, 0) == "before"  # loading them raises the error
    return _identities(path, state.st_mtime_ns, state.st_size, state.st_ino) == "before"


@functools.lru_cache(maxsize=8)
def _identities(path: Path, _modified_ns: int, _size: int, _inode: int) -> str:
    """The setting, cached until its file changes: reading YAML is half the work of a request."""
    return settings.load(path).operate.identities


def take(home: Path, register: Register, actor: str = "drop folder") -> TakenFiles:
    """Take in the files of the drop folder.

    Files younger than two seconds, hidden files and other kinds are left; links and folders with
    the name of a file of requests are put aside unread.

    Args:
        home: the workspace.
        register: of the requests.
        actor: the sender.

    Raises:
        BusyError: another process does this now.
        WorkspaceError: the register cannot be used; files stay, and the next call continues.
    """
    if not (home / INBOX).is_dir():
        return TakenFiles()
    with register.lease("inbox"):
        unfinished, claimed = _claim(home)
        taken = TakenFiles(left=unfinished)
        for path in claimed:
            taken += _take_file(home, register, path, actor)
    return taken


def take_entries(
    home: Path, register: Register, sheet: Sheet, actor: str, source: str
) -> TakenFiles:
    """Take in the good entries of a file; the others are returned with their reasons.

    Args:
        home: the workspace.
        register: of the requests.
        sheet: from `read`.
        actor: the sender.
        source: `drop folder`, `csv` or `file`.
    """
    new: list[str] = []
    repeated: list[str] = []
    refused: list[Refused] = []
    for entry in sheet.entries:
        if entry.fault is not None:
            refused.append(Refused(entry.position, entry.fault, entry.text))
            continue
        try:
            case, is_new = enter(home, register, entry.value, actor, source)
        except (RequestError, ConflictError) as error:
            refused.append(Refused(entry.position, str(error), entry.text))
        else:
            (new if is_new else repeated).append(case.request_id)
    return TakenFiles(tuple(new), tuple(repeated), tuple(refused))


def read(content: bytes, kind: str) -> Sheet:
    """The entries of a file.

    Args:
        content: its bytes.
        kind: `.json` (one request, or a list of them) or `.csv`.

    Raises:
        RequestError: the file cannot be read; the message quotes none of it.
    """
    if len(content) > MAX_BYTES:
        raise RequestError(
            f"got {len(content)} bytes, expected at most {MAX_BYTES}; split the file"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("this is not text in UTF-8; save it as UTF-8 and try again") from None
    return _read_csv(text) if kind == ".csv" else _read_json(text)


def strict_json(text: str) -> Any:
    """Strict JSON: no NaN or infinity, and no key twice in an object.

    Raises:
        RequestError: it is not strict JSON, or is nested too deeply.
    """
    try:
        return _decoder().decode(text)
    except (ValueError, RecursionError) as error:
        position = (
            f" (line {error.lineno}, column {error.colno})"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise RequestError(
            f"this is not JSON{position}; expected an OpenDSR request, each key of an object once"
        ) from None


def _claim(home: Path) -> tuple[int, list[Path]]:
    """Rename finished files into the folder of claimed files. Returns the number of unfinished
    files and all claimed ones."""
    taking = home / TAKING
    taking.mkdir(mode=0o700, exist_ok=True)
    unfinished, now = 0, time.time()
    for path in sorted((home / INBOX).iterdir()):
        if path.suffix.lower() not in KINDS or path.name.startswith("."):
            continue
        with contextlib.suppress(FileNotFoundError):  # its owner removed it
            if -86400 < now - path.lstat().st_mtime < SETTLED and path.is_file():
                unfinished += 1
                continue
            path.rename(taking / f"{secrets.token_hex(8)}{path.suffix.lower()}")
    return unfinished, sorted(taking.iterdir())


def _take_file(home: Path, register: Register, path: Path, actor: str) -> TakenFiles:
    try:
        content = _content(path)
    except RequestError as error:
        path.rename(_refused(home) / f"{secrets.token_hex(8)}{path.suffix}")
        register.note("intake_refused", actor, reason=str(error), entries=0)
        return TakenFiles(refused=(Refused(0, str(error), ""),), files=1)
    if content is None:
        return TakenFiles(left=1)
    sheet: Sheet | None = None
    try:
        sheet = read(content, path.suffix)
    except RequestError as error:
        result = TakenFiles(refused=(Refused(0, str(error), ""),))
    else:
        result = take_entries(
            home, register, sheet, actor, "csv" if path.suffix == ".csv" else "drop folder"
        )
    if result.refused:
        _keep_refused(home, content, path.suffix, sheet, result.refused)
        register.note("intake_refused", actor, entries=len(result.refused))
    path.unlink()
    return result + TakenFiles(files=1)


def _content(path: Path) -> bytes | None:
    """The content of a claimed file; None: somebody still writes it.

    Raises:
        RequestError: it is not a plain file, or too large; it is not read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise RequestError(
            "this is a link, a folder or the like; expected a plain file with requests in it"
        )
    try:  # nobody else can put a link here: only the owner can write to the folder
        stream = path.open("rb")
    except OSError as error:
        raise RequestError(f"the file cannot be opened ({error.strerror})") from error
    with stream:
        before = os.fstat(stream.fileno())
        if before.st_size > MAX_BYTES:
            raise RequestError(
                f"got {before.st_size} bytes, expected at most {MAX_BYTES}; split the file"
            )
        content = stream.read(MAX_BYTES + 1)
        after = os.fstat(stream.fileno())
    is_unchanged = (before.st_size, before.st_mtime_ns) == (
        after.st_size,
        after.st_mtime_ns,
    ) and len(content) == after.st_size
    return content if is_unchanged else None


def _keep_refused(
    home: Path, content: bytes, kind: str, sheet: Sheet | None, refused: Sequence[Refused]
) -> None:
    """Keep refused entries in a file of the same form, with the reasons beside it.

    Names are made from the content, so that a repetition after a kill writes the same files.
    """
    name = hashlib.sha256(content).hexdigest()[:16]
    texts = [entry.text for entry in refused]
    if sheet is None:
        kept_content = content
    elif sheet.header is None:
        kept_content = ("[\n" + ",\n".join(texts) + "\n]\n").encode()
    else:
        kept_content = "".join([sheet.header, *texts]).encode()
    reasons = json.dumps([entry.plain() for entry in refused], indent=2, ensure_ascii=False)
    folder = _refused(home)
    _write(folder / f"{name}.reasons.txt", reasons.encode() + b"\n")
    _write(folder / f"{name}{kind}", kept_content)


def _refused(home: Path) -> Path:
    folder = home / REFUSED
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read; it is on the disk before the original is
    removed."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def _read_json(text: str) -> Sheet:
    """Read a list of requests, each with its text, or a single request."""
    hint = "expected a JSON list of OpenDSR erasure requests"
    decoder, position = _decoder(), _skip(text, 0)
    if text[position : position + 1] != "[":
        return Sheet((DropEntry(1, strict_json(text), text.strip()),))
    entries: list[DropEntry] = []
    position = _skip(text, position + 1)
    try:
        while text[position : position + 1] != "]" or entries:
            value, end = decoder.raw_decode(text, position)
            entries.append(DropEntry(len(entries) + 1, value, text[position:end]))
            position = _skip(text, end)
            if text[position : position + 1] == "]":
                break
            if text[position : position + 1] != ",":
                raise ValueError("a comma is missing")  # noqa: TRY301 - caught below
            position = _skip(text, position + 1)
        if text[position + 1 :].strip():
            raise ValueError("something stands behind the list")  # noqa: TRY301
    except (ValueError, RecursionError):
        raise RequestError(f"this is not JSON (after entry {len(entries)}); {hint}") from None
    if not entries:
        raise RequestError(f"the list is empty; {hint}, at least one")
    return Sheet(tuple(entries))


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=opendsr.unambiguous, parse_constant=_no_number)


def _no_number(_name: str) -> NoReturn:
    raise ValueError("NaN and infinity are not JSON")


def _read_csv(text: str) -> Sheet:
    header, _, body = text.partition("\n")
    delimiter = ";" if ";" in header and "," not in header else ","
    names = [name.strip().lower() for name in next(iter(_rows(header, delimiter)), ("", []))[1]]
    hint = f"expected the columns {', '.join(COLUMNS)}, each once and no other"
    if sorted(names) != sorted(COLUMNS):
        raise RequestError(f"the header is not as expected; {hint}")
    entries: dict[str, DropEntry] = {}
    for number, (line, cells) in enumerate(_rows(body, delimiter), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
        # a malformed row must not be joined with another request
        name = (
            row.get("subject_request_id", "").lower()
            if len(cells) == len(names)
            else f"row {number}"
        )
        entry = entries.get(name)
        entries[name] = (
            _row(number, row, line, len(cells) - len(names))
            if entry is None
            else _joined(entry, row, line)
        )
    if not entries:
        raise RequestError(f"there is no row below the header; {hint}")
    return Sheet(tuple(entries.values()), header + "\n")


def _rows(text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Rows with their text in the file."""
    used: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            used.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            raise RequestError(
                f"line {reader.line_num} below the header is not CSV; see its quotation marks"
            ) from None
        line = "".join(used)
        used.clear()
        yield line if line.endswith("\n") else line + "\n", cells


def _row(number: int, row: dict[str, str], line: str, too_many: int) -> DropEntry:
    if too_many:
        fault = f"got {len(COLUMNS) + too_many} cells, expected {len(COLUMNS)}"
        return DropEntry(number, None, line, fault)
    value = {
        **{name: row[name] for name in _REQUEST},
        "subject_request_type": "erasure",
        "subject_identities": [_identity(row)],
    }
    return DropEntry(number, value, line)


def _joined(entry: DropEntry, row: dict[str, str], line: str) -> DropEntry:
    """An entry with one more identity, if its row agrees on the request."""
    if entry.fault is None and any(entry.value[name] != row[name] for name in _REQUEST[1:]):
        fault = (
            "rows with this subject_request_id differ in regulation or submitted_time; make them "
            "the same"
        )
        return DropEntry(entry.position, entry.value, entry.text + line, fault)
    identities = [*entry.value["subject_identities"], _identity(row)]
    return DropEntry(
        entry.position,
        {**entry.value, "subject_identities": identities},
        entry.text + line,
        entry.fault,
    )


def _identity(row: dict[str, str]) -> dict[str, str]:
    return {name: row[name] for name in COLUMNS[3:]}
