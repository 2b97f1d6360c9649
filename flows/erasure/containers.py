"""Reads the content of files: the pixels of an image or an array, the members of an archive, the
cells of a database."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import itertools
import lzma
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import images

DEEPEST = 4
"""Maximum nesting of archives."""
MOST_BYTES = 2 * 2**30
"""Maximum number of bytes that are unpacked from one file."""
_CHUNK = 2**20

MOST_FRAMES = 1000
"""Maximum number of frames of an image that are searched."""

_IMAGES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"qoif", b"DDS ", b"8BPS", b"icns"),
    *(b"\0\0\1\0", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\x01\xda", b"\n\5\1"),
)
_AVIF, _BRAND_AT = (b"ftypavif", b"ftypavis"), 4
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_STREAMS = (_GZIP, _BZIP2, _XZ)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_UNOPENED = (
    *(b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"),
    *(b"\x1f\x9d", b"\x1f\xa0", b"LZIP", b"MSCF", b"hsqs", b"\0\0\0\x0cJXL "),
    *(b"\x89HDF\r\n", b"PAR1", b"ARROW1", b"PACK\0\0\0", b"# v2 git bundle", b"# v3 git bundle"),
)
"""7-Zip, RAR, Zstandard, LZ4, compress, lzip, cabinet, SquashFS, JPEG XL, HDF5, Parquet, Arrow, and
git's packs and bundles: recognised, but not opened."""
_HEIF = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
_SQLITE, _NPY = b"SQLite format 3\0", b"\x93NUMPY"
_OF_GIT = re.compile(rb"\A(blob|commit|tree|tag) \d+\0")
"""The header of an object of git."""
_ZLIB, _LZMA = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), b"\x5d\0\0"
"""Beginnings of streams of zlib and of the older LZMA, and of some other files."""
_TAR, _TAR_AT = b"ustar", 257


class UnopenedError(Exception):
    """An archive cannot be opened: encrypted, damaged, of another kind, too large or too deep."""


@dataclass
class Budget:
    """How much of one file may still be unpacked, and how deep.

    Attributes:
        depth: number of archives around the current bytes.
        spent: bytes unpacked from the file so far.
        inside: whether bytes are also searched from first to last.
    """

    depth: int = 0
    spent: list[int] = field(default_factory=lambda: [0])
    inside: bool = True

    def deeper(self) -> Budget:
        """The budget one archive deeper."""
        return Budget(self.depth + 1, self.spent, self.inside)

    @property
    def remaining(self) -> int:
        """Bytes that may still be unpacked."""
        return max(1, MOST_BYTES - self.spent[0])

    def read(self, stream: IO[bytes]) -> bytes:
        """All of a member.

        Raises:
            UnopenedError: it exceeds the budget.
        """
        chunks = []
        while chunk := stream.read(_CHUNK):
            self.spent[0] += len(chunk)
            if self.spent[0] > MOST_BYTES:
                raise UnopenedError
            chunks.append(chunk)
        return b"".join(chunks)


def is_image(head: bytes) -> bool:
    """Whether a file is an image that Pillow may read, by its first bytes."""
    return head.startswith(_IMAGES) or head.startswith(_AVIF, _BRAND_AT)


def frames(content: bytes) -> set[str]:
    """`pixels` of every frame of an image; empty if it is not an image."""
    first_frame = pixels(content)
    if first_frame is None:
        return set()
    from PIL import Image, ImageSequence

    digests = {first_frame}
    with (
        contextlib.suppress(Exception),  # decoders may raise anything on damaged bytes
        Image.open(io.BytesIO(content)) as picture,
    ):
        if getattr(picture, "n_frames", 1) > 1:
            further_frames = itertools.islice(ImageSequence.Iterator(picture), MOST_FRAMES)
            digests.update(_digest(np.asarray(frame.convert("RGB"))) for frame in further_frames)
    return digests


def array_of(content: bytes) -> NDArray[Any] | None:
    """The array in a `.npy` file; None if it is not one, or holds Python objects."""
    with contextlib.suppress(ValueError, EOFError, OSError, MemoryError):
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return array
    return None


def pixels_in(array: NDArray[Any]) -> Iterator[str]:
    """`pixels` of every picture that an array of bytes may hold: one or many, grey or in colour,
    the channels first or last."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4):
        return
    stacks = [array] if array.ndim == 4 else [array[np.newaxis]]
    if array.ndim == 3:
        stacks.append(array[..., np.newaxis])  # many grey ones
    if array.ndim == 2:
        stacks = [array[np.newaxis, ..., np.newaxis]]
    for stack in stacks:
        for picture in stack:
            if picture.shape[-1] in (1, 3):
                yield _digest(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            if picture.shape[0] in (1, 3):
                channels_last = np.moveaxis(picture, 0, -1)
                yield _digest(np.broadcast_to(channels_last, (*channels_last.shape[:2], 3)))


def pixels(content: bytes) -> str | None:
    """SHA-256 of an image's decoded pixels as RGB, with its size; None if it is not an image.

    Files of the same picture have the same digest, whatever their format, lossless compression and
    metadata.
    """
    try:
        picture = images.decode(content, "an image", Data()).convert("RGB")
    except DataError:
        return None
    return _digest(np.asarray(picture))


def _digest(picture: NDArray[Any]) -> str:
    """SHA-256 of a picture's size and pixels, (height, width, 3) uint8."""
    size = f"{picture.shape[1]}x{picture.shape[0]}:".encode()
    return hashlib.sha256(size + picture.tobytes()).hexdigest()


def is_archive(head: bytes) -> bool:
    """Whether a file is an archive or a database, by its first bytes."""
    return (
        head.startswith((*_STREAMS, *_ZIP, *_UNOPENED, _SQLITE))
        or head.startswith(_HEIF, _BRAND_AT)
        or head.startswith(_TAR, _TAR_AT)
    )


def is_array(head: bytes) -> bool:
    """Whether a file is one array of numpy's, by its first bytes."""
    return head.startswith(_NPY)


def may_be_packed(head: bytes) -> bool:
    """Whether a file may be a stream of zlib or of the older LZMA, by its first bytes."""
    return head.startswith((*_ZLIB, _LZMA))


def inflated(content: bytes, budget: Budget) -> bytes | None:
    """The unpacked content of a stream of zlib or of the older LZMA; None if it is not such a
    stream.

    Raises:
        UnopenedError: it is too large, or packed too deep.
    """
    if budget.depth >= DEEPEST:
        raise UnopenedError
    with contextlib.suppress(zlib.error, lzma.LZMAError, EOFError):
        if content.startswith(_LZMA):
            with lzma.open(io.BytesIO(content), format=lzma.FORMAT_ALONE) as packed:
                return budget.read(packed)
        stream = zlib.decompressobj()
        unpacked = stream.decompress(content, budget.remaining)
        if stream.unconsumed_tail:
            raise UnopenedError
        return _OF_GIT.sub(b"", unpacked, count=1) if stream.eof else None
    return None


def members(stream: BinaryIO, head: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """The name and content of every file in an archive.

    Raises:
        UnopenedError: the archive cannot be opened.
    """
    if budget.depth >= DEEPEST or head.startswith(_UNOPENED) or head.startswith(_HEIF, _BRAND_AT):
        raise UnopenedError
    try:
        yield from _members(stream, head, budget)
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UnopenedError from error  # RuntimeError: an encrypted zip
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        sqlite3.Error,
    ) as error:
        raise UnopenedError from error


def _members(stream: BinaryIO, head: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    if head.startswith(_STREAMS):
        with _unpacked(stream, head) as packed:
            yield "", budget.read(packed)
        return
    if head.startswith(_SQLITE):
        yield from _cells(budget.read(stream))
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


def _cells(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The texts and blobs of a SQLite database, each with the name of its table."""
    image = bytearray(content)
    image[18:20] = b"\1\1"  # mark it as without a write-ahead log, which would be a second file
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.text_factory = bytes
        database.deserialize(bytes(image))
        database.execute("PRAGMA trusted_schema = OFF")
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        names = [name.decode(errors="replace") for (name,) in database.execute(query)]
        for name in names:
            quoted = name.replace('"', '""')
            for row in database.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608
                for cell in row:
                    if isinstance(cell, bytes):
                        yield name, cell
