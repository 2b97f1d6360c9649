"""The images of a data set, decoded once: what the stage `pack` made and the other stages read.

A pack is a folder with `images.npy`, every record's pixels in the order of the manifest; `files.npz`, what the stage
`check` has to know of every image file; and `pack.json`, which says what they were made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tasks import files, records
from tasks.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from tasks.settings import Data

IMAGES, FILES, ABOUT = "images.npy", "files.npz", "pack.json"
"""The files of a pack. Only the last holds nothing of the records."""

THUMB = 8
"""Side of a thumbnail, pixels."""


@dataclass(frozen=True)
class Files:
    """What the n image files are.

    Attributes:
        readable: (n,) bool, whether it is there and can be read.
        same: (n,) bool, whether it has the SHA-256 of the manifest.
        decodes: (n,) bool, whether it decodes whole.
        thumbs: (n, 64) uint8 grey levels of the picture averaged over an 8 x 8 grid; zeros where it does not decode.
    """

    readable: NDArray[np.bool_]
    same: NDArray[np.bool_]
    decodes: NDArray[np.bool_]
    thumbs: NDArray[np.uint8]

    @classmethod
    def none(cls, size: int) -> Files:
        """Of n files none of which was looked at yet."""
        unknown = np.zeros(size, bool)
        return cls(unknown, unknown.copy(), unknown.copy(), np.zeros((size, THUMB * THUMB), np.uint8))

    @property
    def sound(self) -> NDArray[np.bool_]:
        """(n,) which of them a model may be shown."""
        return self.same & self.decodes


@dataclass(frozen=True)
class Packed:
    """A data set whose images are decoded.

    Attributes:
        manifest: n records.
        pixels: (n, channels, side, side) uint8, of a file that is mapped into memory: only what is asked for is read.
        faulty: (n,) where there are none, for the image file is missing, altered or damaged.
    """

    manifest: pd.DataFrame
    pixels: NDArray[np.uint8]
    faulty: NDArray[np.bool_]

    def images(self, rows: NDArray[np.bool_] | slice) -> NDArray[np.uint8]:
        """The pixels of some records.

        Raises:
            DataError: the file of one of them is missing, altered or damaged; names it.
        """
        bad = np.zeros_like(self.faulty)
        bad[rows] = self.faulty[rows]
        if bad.any():
            raise DataError(
                f"{records.name_records(self.manifest, bad)}: expected a sound image file; run the stage check, which "
                "says what is wrong"
            )
        found = np.asarray(self.pixels[rows])
        if found.shape[1] > 1:
            return found
        # one channel lies first and last at once; said to be last, PyTorch takes the kernels that are faster here
        return found.reshape(len(found), *found.shape[2:], 1).transpose(0, 3, 1, 2)


def read(pack: Path, data: Path, wish: Data) -> Packed:
    """The manifest of a data folder and its images.

    Args:
        pack: folder of the pack.
        data: the data folder, of which nothing but `manifest.csv` is read.
        wish: channels and side of the images, as the settings have them.

    Raises:
        DataError: the manifest is at fault, or the pack is missing, damaged, of another manifest or of other settings.
    """
    manifest = records.read_manifest(data)
    about = _about(pack, data)
    shape = (len(manifest), wish.channels, wish.image_size, wish.image_size)
    try:
        pixels = np.load(pack / IMAGES, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise _refusal(pack, f"{IMAGES} cannot be read ({type(error).__name__})") from error
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise _refusal(pack, f"got images of shape {pixels.shape}, {pixels.dtype}, expected {shape}, uint8")
    faulty = np.zeros(len(manifest), bool)
    faulty[about["faulty"]] = True
    return Packed(manifest, pixels, faulty)


def read_files(pack: Path, data: Path) -> Files:
    """What is known of the image files of a data folder.

    Raises:
        DataError: the pack is missing, damaged or of another manifest.
    """
    size = int(_about(pack, data)["records"])
    try:
        with (pack / FILES).open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            known = Files(found["readable"], found["same"], found["decodes"], found["thumbs"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise _refusal(pack, f"{FILES} cannot be read ({type(error).__name__})") from error
    if {len(part) for part in (known.readable, known.same, known.decodes, known.thumbs)} != {size}:
        raise _refusal(pack, f"{FILES} is not of {size} records")
    return known


def write_about(pack: Path, data: Path, known: Files) -> None:
    """Write which manifest a pack is of, and which rows of it hold no image."""
    faulty = np.flatnonzero(~known.sound).tolist()
    digest = files.sha256(data / "manifest.csv")
    files.write_json(pack / ABOUT, {"manifest_sha256": digest, "records": len(known.same), "faulty": faulty})


def write_files(pack: Path, known: Files) -> None:
    """Write what is known of the image files; the same bytes for the same facts."""
    with files.whole_file(pack / FILES) as draft, draft.open("wb") as stream:
        np.savez(stream, readable=known.readable, same=known.same, decodes=known.decodes, thumbs=known.thumbs)


def _about(pack: Path, data: Path) -> dict[str, Any]:
    if not (pack / ABOUT).is_file():
        raise _refusal(pack, f"there is no {ABOUT}")
    about: dict[str, Any] = files.read_json(pack / ABOUT)
    if about.get("manifest_sha256") != files.sha256(data / "manifest.csv"):
        raise _refusal(pack, "it is of another manifest.csv than the data are")
    return about


def _refusal(pack: Path, why: str) -> DataError:
    return DataError(f"{pack}: {why}; run the stage pack")
