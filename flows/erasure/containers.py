"""What other files hold: the pixels of an image file, and the members of an archive."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, BinaryIO, cast

from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import images

DEEPEST = 4
"""How many archives may lie one in the other."""
MOST_BYTES = 2 * 2**30
"""How much is unpacked of one file in all, bytes."""
_PART = 2**20

_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5", b"P6")
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_STREAMS = (_GZIP, _BZIP2, _XZ)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_CLOSED = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""7-Zip, RAR, Zstandard and LZ4: seen, and not opened."""
_TAR, _TAR_AT = b"ustar", 257


class UnopenedError(Exception):
    """An archive cannot be looked into: encrypted, damaged, of another kind, too large or deep."""


@dataclass
class Budget:
    """How much of one file may still be unpacked, and how deep."""

    depth: int = 0
    spent: list[int] = field(default_factory=lambda: [0])

    def deeper(self) -> Budget:
        """The same, one archive further in."""
        return Budget(self.depth + 1, self.spent)

    def read(self, stream: IO[bytes]) -> bytes:
        """All of a member.

        Raises:
            UnopenedError: it is larger than what is left.
        """
        parts = []
        while part := stream.read(_PART):
            self.spent[0] += len(part)
            if self.spent[0] > MOST_BYTES:
                raise UnopenedError
            parts.append(part)
        return b"".join(parts)


def is_image(head: bytes) -> bool:
    """Whether a file is an image that Pillow may read, by its first bytes."""
    return head.startswith(_IMAGES)


def pixels(content: bytes) -> str | None:
    """SHA-256 of an image's decoded pixels as RGB, with its size; None for what has none.

    Two files of the same picture have the same, whatever their format, compression and metadata,
    as long as the compression loses nothing.
    """
    try:
        picture = images.decode(content, "an image", Data()).convert("RGB")
    except DataError:
        return None
    size = f"{picture.width}x{picture.height}:".encode()
    return hashlib.sha256(size + picture.tobytes()).hexdigest()


def is_archive(head: bytes) -> bool:
    """Whether a file holds others, by its first bytes."""
    return (
        head.startswith((*_STREAMS, *_ZIP, *_CLOSED)) or head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR
    )


def members(stream: BinaryIO, head: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """The name and content of every file in an archive.

    Raises:
        UnopenedError: see there.
    """
    if budget.depth >= DEEPEST or head.startswith(_CLOSED):
        raise UnopenedError
    try:
        yield from _members(stream, head, budget)
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UnopenedError from error  # RuntimeError: an encrypted zip
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise UnopenedError from error


def _members(stream: BinaryIO, head: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    if head.startswith(_STREAMS):
        with _unpacked(stream, head) as packed:
            yield "", budget.read(packed)
        return
    if head.startswith(_ZIP):
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    yield entry.filename, b""
                    continue
                with archive.open(entry) as member:
                    yield entry.filename, budget.read(member)
        return
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for item in tar:
            packed_file = tar.extractfile(item) if item.isfile() else io.BytesIO()
            if packed_file is not None:
                with packed_file:
                    yield item.name, budget.read(packed_file)


def _unpacked(stream: BinaryIO, head: bytes) -> IO[bytes]:
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(stream, "rb"))
    return bz2.open(stream, "rb") if head.startswith(_BZIP2) else lzma.open(stream, "rb")
