"""The decoded images of a data set, which the stage `pack` writes and the other stages read.

A pack is a folder with `images.npy`, every record's pixels in the order of the manifest;
`rows.npz`, checksums by which a reader verifies them; and `files.npz`, facts about every image file
for the stage `check`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.data import records

if TYPE_CHECKING:
    import pandas as pd

    from tasks.common.settings import Data

IMAGES, ROWS, FILES = "images.npy", "rows.npz", "files.npz"
"""The files of a pack."""

THUMB = 8
"""Side of a thumbnail, pixels."""


@dataclass(frozen=True)
class PackedFiles:
    """Facts about n image files.

    Attributes:
        readable: (n,) bool, whether it is there and can be read.
        same: (n,) bool, whether it has the SHA-256 of the manifest.
        decodes: (n,) bool, whether it decodes whole.
        thumbs: (n, 64) uint8 grey levels of the picture averaged over an 8 x 8 grid; zeros where it
            does not decode.
    """

    readable: NDArray[np.bool_]
    same: NDArray[np.bool_]
    decodes: NDArray[np.bool_]
    thumbs: NDArray[np.uint8]

    @classmethod
    def unread(cls, size: int) -> PackedFiles:
        """Facts about n files that were not read yet."""
        unknown = np.zeros(size, bool)
        return cls(
            unknown, unknown.copy(), unknown.copy(), np.zeros((size, THUMB * THUMB), np.uint8)
        )

    @property
    def sound(self) -> NDArray[np.bool_]:
        """(n,) which of them models may see."""
        return self.same & self.decodes


@dataclass(frozen=True)
class Packed:
    """A data set whose images are decoded.

    Attributes:
        manifest: n records.
        pixels: (n, channels, side, side) uint8, a file mapped into memory: only the rows in use are
            read.
        sound: (n,) whether the image file is there, unaltered and undamaged.
        sums: (n,) uint32, as `checksums` gives them.
    """

    manifest: pd.DataFrame
    pixels: NDArray[np.uint8]
    sound: NDArray[np.bool_]
    sums: NDArray[np.uint32]

    def images(self, rows: NDArray[np.bool_] | slice) -> NDArray[np.uint8]:
        """The pixels of some records.

        Raises:
            DataError: the file of one of them is missing, altered or damaged, or its pixels are;
                names it.
        """
        self._refuse(
            rows,
            ~self.sound[rows],
            "a sound image file; run the stage check, which says what is wrong",
        )
        pixels = np.asarray(self.pixels[rows])
        self._refuse(
            rows,
            checksums(pixels) != self.sums[rows],
            f"{IMAGES} as it was written; run the stage pack anew",
        )
        if pixels.shape[1] > 1:
            return pixels
        # With one channel both layouts are identical; this one makes PyTorch take faster kernels.
        return pixels.reshape(len(pixels), *pixels.shape[2:], 1).transpose(0, 3, 1, 2)

    def _refuse(
        self, rows: NDArray[np.bool_] | slice, faulty: NDArray[np.bool_], expected: str
    ) -> None:
        if faulty.any():
            faulty_rows = np.zeros(len(self.manifest), bool)
            faulty_rows[rows] = faulty
            raise DataError(
                f"{records.name_records(self.manifest, faulty_rows)}: expected {expected}"
            )


def checksums(images: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(n,) CRC-32 of each of n images; it detects damage on disk."""
    return np.fromiter((zlib.crc32(image) for image in images), np.uint32, len(images))


def read(pack: Path, data: Path, data_settings: Data) -> Packed:
    """The manifest of a data folder and its images.

    Args:
        pack: folder of the pack.
        data: the data folder; only its `manifest.csv` is read.
        data_settings: channels and side of the images, as the settings have them.

    Raises:
        DataError: the manifest is at fault, or the pack is missing, damaged, of another manifest or
            of other settings.
    """
    manifest = records.read_manifest(data)
    facts = _load(pack, ROWS, data, len(manifest))
    shape = (
        len(manifest),
        data_settings.channels,
        data_settings.image_size,
        data_settings.image_size,
    )
    try:
        pixels = np.load(pack / IMAGES, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise _refusal(pack, f"{IMAGES} cannot be read ({type(error).__name__})") from error
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise _refusal(
            pack, f"got images of shape {pixels.shape}, {pixels.dtype}, expected {shape}, uint8"
        )
    return Packed(manifest, pixels, facts["sound"], facts["sums"])


def read_files(pack: Path, data: Path, size: int) -> PackedFiles:
    """Facts about the image files of a data folder with `size` records.

    Raises:
        DataError: the pack is missing, damaged or of another manifest.
    """
    facts = _load(pack, FILES, data, size)
    return PackedFiles(facts["readable"], facts["same"], facts["decodes"], facts["thumbs"])


def notes_faults(pack: Path) -> bool:
    """Whether image files were missing, altered or damaged when a pack was made; False without a
    readable pack."""
    try:
        with (pack / ROWS).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return not arrays["sound"].all()
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return False


def write(pack: Path, data: Path, facts: PackedFiles, sums: NDArray[np.uint32]) -> None:
    """Write the facts beside the images of a data folder; equal facts give equal bytes."""
    _save(pack / ROWS, data, sound=facts.sound, sums=sums)
    _save(
        pack / FILES,
        data,
        readable=facts.readable,
        same=facts.same,
        decodes=facts.decodes,
        thumbs=facts.thumbs,
    )


def _save(path: Path, data: Path, **arrays: NDArray[Any]) -> None:
    with files.whole_file(path) as draft, draft.open("wb") as stream:
        np.savez(
            stream,
            manifest_sha256=np.array(files.sha256(data / "manifest.csv")),
            allow_pickle=False,
            **arrays,
        )


def _load(pack: Path, name: str, data: Path, size: int) -> dict[str, NDArray[Any]]:
    try:
        with (pack / name).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            facts = dict(arrays)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise _refusal(pack, f"{name} cannot be read ({type(error).__name__})") from error
    if str(facts.pop("manifest_sha256", "")) != files.sha256(data / "manifest.csv"):
        raise _refusal(pack, "it is of another manifest.csv than the data are")
    expected = {ROWS: {"sound", "sums"}, FILES: {"readable", "same", "decodes", "thumbs"}}[name]
    if facts.keys() != expected or {len(part) for part in facts.values()} != {size}:
        raise _refusal(pack, f"{name} is not of {size} records")
    return facts


def _refusal(pack: Path, reason: str) -> DataError:
    return DataError(f"{pack}: {reason}; run the stage pack")
