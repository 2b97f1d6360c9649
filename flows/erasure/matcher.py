"""Judges whether an erasure must remove a file: records, everything that lists or names them, and
models that saw them.

The judge decides whether an object or file must go. Files that a remaining record needs, files from
which verdicts are derived, and released files are kept by their hash and not judged.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import html
import io
import json
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from flows.erasure import containers, embedded
from flows.erasure.byte_search import ByteSearch

RECORDS, LISTS, ORIGINAL, REFERENCES, DERIVED, RUNS = (
    "records",
    "lists",
    "original",
    "references",
    "derived",
    "runs",
)
PACKS = "packs"
UNJUDGED = "unjudged"
"""Kinds of findings: the records' files, by hash, by decoded pixels or in an archive; files that
list or name them; models that saw them and other results computed from them; entries of DVC's
run-cache that would restore such files; packs of unknown origin; files that cannot be judged."""

NAMING_COLUMNS = (b"record_id", b"subject_id", b"identity_value", b"path")
_WORD = re.compile(rb"[A-Za-z0-9._-]+")
_PART = re.compile(rb"[^\s,;\"'<>()\[\]{}|/\\=&]+")
_ATOM = re.compile(rb"[A-Za-z0-9]+")
_ATOMS_OF_A_NAME = 6
_HEX = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_IMAGES = re.compile(
    rb"\x93NUMPY.{4,8}\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d+, ){3}\d+\)",
    re.DOTALL,
)
_FILES = re.compile(rb"PK\x03\x04.{26}manifest_sha256\.npy", re.DOTALL)
"""Beginning of a pack's file (`tasks.data.image_pack`)."""
_HEAD = 4096
"""Number of first bytes that decide whether a file is text."""
_WINDOW = 2**28
"""Bytes of a file in memory at once."""


@dataclass(frozen=True)
class Sought:
    """What must go, and what must stay.

    Attributes:
        records: md5 of the records' files in every version of the data, except those that a
            remaining record needs.
        contents: sha256 of the same files.
        pixels: `containers.pixels` of the same files.
        shared: number of files that stay because a remaining record has the same bytes.
        record_ids: of the records.
        subject_ids: of the people without remaining records.
        paths: of the records' files in the data folder.
        identities: further identities of those people.
        models: by md5, the models that saw the records and other results computed from them, with
            their kind.
        keep: md5 of objects that stay, whatever they hold.
        derivation: md5 of objects from which verdicts and reports are derived; they stay, and are
            searched.
        other: md5 of packs known to hold none of the records, and of objects recorded as something
            else.
    """

    records: frozenset[str]
    contents: frozenset[str] = frozenset()
    pixels: frozenset[str] = frozenset()
    shared: int = 0
    record_ids: frozenset[str] = frozenset()
    subject_ids: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()
    models: Mapping[str, str] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()
    derivation: frozenset[str] = frozenset()
    other: frozenset[str] = frozenset()

    def plain(self) -> dict[str, Any]:
        """As JSON values; private, for it holds identifiers."""
        return {
            key: sorted(value) if isinstance(value, frozenset) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Sought:
        """The object from its JSON values."""
        typed: dict[str, Any] = {
            key: frozenset(value) if isinstance(value, list) else value
            for key, value in values.items()
        }
        return cls(**typed)

    def counts(self) -> dict[str, int]:
        """The numbers of things to search for."""
        return {
            "records": len(self.record_ids),
            "files": len(self.records),
            "people": len(self.subject_ids),
            "identities": len(self.identities),
            "models": len(self.models),
        }


class NameMatcher:
    """Finds the names of people and records in text."""

    def __init__(self, sought: Sought) -> None:
        ids = {name.encode() for name in (*sought.record_ids, *sought.subject_ids)}
        ids |= {_digest(name).encode() for name in (*sought.record_ids, *sought.subject_ids)}
        paths = {name.encode() for name in sought.paths}
        identities = {form for value in sought.identities for form in _forms(value)}
        identities |= {_digest(value).encode() for value in sought.identities}
        hashes = {name.encode() for name in (*sought.records, *sought.contents)}
        self._cells = ids | identities | paths
        self._words = {name for name in ids if _distinctive(name)} | hashes
        self._words |= {name for name in identities if _WORD.fullmatch(name) and _distinctive(name)}
        self._parts = {
            name
            for name in identities - self._words
            if _PART.fullmatch(name) and _distinctive(name)
        }
        self._phrases = [name for name in identities - self._words - self._parts if len(name) >= 6]
        self._search = ByteSearch((*self._words, *self._parts, *self._phrases))

    def within(self, stream: BinaryIO) -> bool:
        """Whether text contains a name: as a word, or in a CSV column of names.

        Short names, such as the number 7, are searched for only in such columns: elsewhere they
        mean something else.
        """
        columns: list[int] | None = None
        for line in stream:
            if columns is None:
                header = [cell.strip(b'"\xef\xbb\xbf ') for cell in line.strip().split(b",")]
                columns = [number for number, cell in enumerate(header) if cell in NAMING_COLUMNS]
            elif columns and self._in_cells(line, columns):
                return True
            if self._in_line(line):
                return True
        return False

    def anywhere(self, content: bytes) -> bool:
        """Whether bytes of any kind contain a name, in any case, with no letter or digit beside
        it."""
        return self._search.within(content)

    def in_path(self, path: str) -> bool:
        """Whether the name of a file or folder contains a name, as `kim-17_left.png` does."""
        line = path.encode(errors="surrogateescape")
        if self._in_line(line) or self.anywhere(line):
            return True
        atoms = [match.span() for match in _ATOM.finditer(line)]
        return any(
            line[start:end] in self._words
            for number, (start, _) in enumerate(atoms)
            for _, end in atoms[number : number + _ATOMS_OF_A_NAME]
        )

    def masked(self, path: str) -> str:
        """A path for a receipt: parts that contain a name or a hash of one are masked."""
        parts = ["…" if self._reveals(part) else part for part in path.split("/")]
        return "/".join(parts)

    def _reveals(self, part: str) -> bool:
        encoded = part.encode(errors="surrogateescape")
        return self.in_path(part) or self.in_bytes(encoded)

    def in_bytes(self, content: bytes) -> bool:
        """Whether bytes of any kind contain a name, also without a separator, as in the rows of a
        database."""
        long = (name for name in (*self._words, *self._parts) if len(name) >= 6)
        return any(name in content for name in (*long, *self._phrases))

    def _in_line(self, line: bytes) -> bool:
        for word in _WORD.findall(
            line
        ):  # `r17` stands in `r17`, in `r17.png` and at the end of a sentence
            if (
                word in self._words
                or word.strip(b"._-") in self._words
                or word.partition(b".")[0] in self._words
            ):
                return True
        if self._parts and any(
            part in self._parts or part.strip(b"._-") in self._parts for part in _PART.findall(line)
        ):
            return True
        return any(phrase in line for phrase in self._phrases)

    def _in_cells(self, line: bytes, columns: list[int]) -> bool:
        cells = [cell.strip(b'"') for cell in line.rstrip(b"\r\n").split(b",")]
        return any(number < len(cells) and cells[number] in self._cells for number in columns)


class Judge:
    """Decides what must go. Each object is judged once, since it is the same everywhere."""

    def __init__(self, sought: Sought, gone: Iterable[str] = ()) -> None:
        """Args:
        sought: what to search for.
        gone: objects that were judged before and may be erased already, for entries of the
            run-cache that name them.
        """
        self.sought = sought
        self.names = NameMatcher(sought)
        self.gone = {*gone, *sought.records, *sought.models} - sought.keep - sought.derivation
        self._judged: dict[tuple[str, bool], str | None] = {}
        self._naming_objects: set[str] = set()

    @property
    def naming_objects(self) -> int:
        """The number of objects for deriving verdicts that name a record or a person."""
        return len(self._naming_objects)

    def object(self, oid: str, opened: Callable[[], BinaryIO]) -> str | None:
        """The kind of the finding; None: the object stays. `oid` is its md5, with `.dir` for a
        folder."""
        kind = self._once(oid, opened)
        if kind not in (None, UNJUDGED):
            self.gone.add(oid)
        return kind

    def _once(self, oid: str, opened: Callable[[], BinaryIO], inside: bool = True) -> str | None:
        if (oid, inside) not in self._judged:
            self._judged[oid, inside] = self._object(oid, opened, inside)
        return self._judged[oid, inside]

    def _object(self, oid: str, opened: Callable[[], BinaryIO], inside: bool) -> str | None:
        if oid in self.sought.keep:
            return None
        if oid in self.sought.derivation:
            with opened() as stream:
                if is_text(stream) and self.names.within(stream):
                    self._naming_objects.add(oid)
            return None
        if oid in self.sought.records:
            return RECORDS
        if oid in self.sought.models:
            return self.sought.models[oid]
        with opened() as stream:
            if oid.endswith(".dir"):
                return LISTS if self._lists(stream.read()) else None
            if is_pack(stream):
                return None if oid in self.sought.other else PACKS
            return self._by_content(stream, containers.Budget(inside=inside))

    def content(self, content: bytes) -> str | None:
        """Like `object`, for bytes without a known hash, such as git's."""
        return self._of_bytes(content, containers.Budget())

    def _of_bytes(self, content: bytes, budget: containers.Budget) -> str | None:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 in self.sought.keep | self.sought.derivation:
            return None
        if (
            md5 in self.sought.records
            or hashlib.sha256(content).hexdigest() in self.sought.contents
        ):
            return RECORDS
        if md5 in self.sought.models:
            return self.sought.models[md5]
        return self._by_content(io.BytesIO(content), budget)

    def _by_content(self, stream: BinaryIO, budget: containers.Budget) -> str | None:
        """Judge a file by its content: pixels of an image or an array, packed members, text, and
        names or pictures anywhere in its bytes."""
        head = stream.read(_HEAD)
        stream.seek(0)
        try:
            if containers.is_archive(head):
                return self._packed(stream, head, budget)
            kind = self._shown(stream, head, budget)
        except containers.UnopenedError:
            return UNJUDGED
        if kind is None and is_text(stream) and self.names.within(stream):
            return LISTS
        stream.seek(0)
        return kind or (self._inside(stream, budget) if budget.inside else None)

    def _packed(self, stream: BinaryIO, head: bytes, budget: containers.Budget) -> str | None:
        """Judge the members of an archive, their names, and the bytes beside them."""
        for name, content in containers.members(stream, head, budget):
            if self.names.in_path(name):
                return LISTS
            if (kind := self._of_bytes(content, budget.deeper())) is not None:
                return kind
        stream.seek(0)
        is_named = budget.inside and any(map(self.names.anywhere, _windows(stream)))
        return LISTS if is_named else None

    def _shown(self, stream: BinaryIO, head: bytes, budget: containers.Budget) -> str | None:
        """Judge an image, an array, UTF-16 text, or a packed stream."""
        kind = None
        if containers.is_image(head):
            kind = RECORDS if self.sought.pixels & containers.frames(stream.read()) else None
        elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = stream.read().decode("utf-16", errors="replace").encode(errors="replace")
            kind = LISTS if self.names.within(io.BytesIO(text)) else None
        elif containers.is_array(head):
            array = containers.array_of(stream.read())
            kind = None if array is None else self._array(array)
        elif containers.may_be_packed(head):
            packed = containers.inflated(stream.read(), budget)
            kind = None if packed is None else self._of_bytes(packed, budget.deeper())
        stream.seek(0)
        return kind

    def _array(self, array: NDArray[Any]) -> str | None:
        if array.dtype.kind in "US":
            lines = "\n".join(map(str, array.reshape(-1).tolist())).encode(errors="replace")
            return LISTS if self.names.within(io.BytesIO(lines)) else None
        shown = any(digest in self.sought.pixels for digest in containers.pixels_in(array))
        return RECORDS if shown else None

    def _inside(self, stream: BinaryIO, budget: containers.Budget) -> str | None:
        """Judge bytes by what they contain anywhere: names, and pictures and archives that begin
        later or are encoded as text."""
        for content in _windows(stream):
            if self.names.anywhere(content):
                return LISTS
            for part in embedded.parts(content):
                if (kind := self._part(part, budget.deeper())) is not None:
                    return kind
        return None

    def _part(self, content: bytes, budget: containers.Budget) -> str | None:
        """Judge a possible picture or archive inside other bytes. It may be neither, so one that
        cannot be opened is ignored."""
        if containers.is_image(content):
            return RECORDS if self.sought.pixels & containers.frames(content) else None
        with contextlib.suppress(containers.UnopenedError):
            for name, member in containers.members(io.BytesIO(content), content[:_HEAD], budget):
                if self.names.in_path(name):
                    return LISTS
                kind = self._of_bytes(member, budget.deeper())
                if kind not in (None, UNJUDGED):
                    return kind
        return None

    def run(self, content: bytes) -> bool:
        """Whether an entry of DVC's run-cache would restore erased objects."""
        _, _, outs = content.partition(b"outs:")
        hashes = {match.group().decode() for match in _HEX.finditer(outs)}
        return not hashes.isdisjoint(oid.removesuffix(".dir") for oid in self.gone)

    def file(self, path: Path, inside: bool = True) -> str | None:
        """Like `object`, for a file of any name.

        Args:
            path: of the file.
            inside: whether its bytes are searched; else it is judged as a whole, or as an archive.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as stream:
            oid = hashlib.file_digest(stream, "md5").hexdigest()
        if oid in self.sought.derivation:
            return None
        return self._once(oid, lambda: path.open("rb"), inside)

    def remembers(self, content: bytes) -> bool:
        """Whether a database of DVC holds a hash of erased objects, or names a record."""
        hashes = {match.group().decode() for match in _HEX.finditer(content)}
        return not hashes.isdisjoint(
            oid.removesuffix(".dir") for oid in self.gone
        ) or self.names.in_bytes(content)

    def _lists(self, content: bytes) -> bool:
        try:
            entries = json.loads(content)
            listed = {str(entry["md5"]): str(entry["relpath"]) for entry in entries}
        except (ValueError, KeyError, TypeError):
            return self.names.within(io.BytesIO(content))
        going = (
            (self.sought.records | set(self.sought.models))
            - self.sought.keep
            - self.sought.derivation
        )
        if not going.isdisjoint(listed):
            return True
        # a path identifies the record only beside a manifest; elsewhere `0.png` can be anything
        return "manifest.csv" in listed.values() and not self.sought.paths.isdisjoint(
            listed.values()
        )


def is_text(stream: BinaryIO) -> bool:
    """Whether a file is text, by its first bytes; the stream is reset to its beginning."""
    head = stream.read(_HEAD)
    stream.seek(0)
    return b"\0" not in head and not head.startswith(
        (b"%PDF", b"\x1f\x8b", b"PK\x03\x04", b"\x89PNG", b"\xff\xd8")
    )


def is_pack(stream: BinaryIO) -> bool:
    """Whether a file belongs to a pack, by its first bytes; the stream is reset to its beginning.

    This finds packs that no `dvc.lock` records, because the stage or DVC was killed.
    """
    head = stream.read(_HEAD)
    stream.seek(0)
    return _IMAGES.match(head) is not None or _FILES.match(head) is not None


def _windows(stream: BinaryIO) -> Iterator[bytes]:
    """A file in overlapping parts, so that embedded files lie whole in one of them."""
    overlap = b""
    while part := stream.read(_WINDOW):
        yield overlap + part
        overlap = part[-embedded.LONGEST :]


def _distinctive(name: bytes) -> bool:
    """Whether a name is unlikely to match a number or a common word in any text."""
    return len(name) >= 8 or (
        len(name) >= 4 and re.search(rb"[0-9@]", name) is not None and not name.isdigit()
    )


def _forms(value: str) -> set[bytes]:
    """The spellings of an identity: unchanged, in both Unicode normal forms, and escaped as in
    JSON, XML and URLs."""
    if not value:
        return set()
    spellings = {value, *(unicodedata.normalize(form, value) for form in ("NFC", "NFD"))}
    escaped = {json.dumps(spelling)[1:-1] for spelling in spellings} | {
        html.escape(spelling) for spelling in spellings
    }
    escaped |= {urllib.parse.quote(spelling, errors="surrogatepass") for spelling in spellings}
    return {spelling.encode(errors="surrogatepass") for spelling in spellings | escaped}


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
