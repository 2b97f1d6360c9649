"""Stage `pack`: read every image file once, compare its hash and decode it, for all later
stages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import files, settings, stage_cli, worker_pool
from tasks.common.errors import DataError
from tasks.data import image_pack, images, records, rules

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

MOST_BYTES = 32 * 2**20
"""Most pixels that a process holds, unless a single image has more."""

MOST_FILES = 1000
"""Most files that a process gets at a time."""

SAY_EVERY = 20_000
"""Number of images between two lines of progress."""


Facts = tuple[image_pack.PackedFiles, NDArray[np.uint32]]
"""Facts about image files, and the checksums of their pixels."""


@dataclass(frozen=True)
class ManifestSlice:
    """Consecutive records of the manifest.

    Attributes:
        first: row of the first.
        root: the data folder.
        paths: of their files in it; None where the path leads out of it.
        hashes: their SHA-256 by the manifest.
    """

    first: int
    root: Path
    paths: list[str | None]
    hashes: list[str]


def main(data: Path, params: Path, out: Path) -> None:
    """Decode all images into one array, and record facts about every file.

    A file that is missing, altered or damaged is recorded; the stage `check` refuses it together
    with all other faults in the data. A path that leads out of the data folder is not opened.

    Example: python -m tasks.pack --data data --params params.yaml --out artifacts/pack
    """
    make(data, settings.load(params).data, out)


def make(data: Path, data_settings: settings.Data, out: Path, **shares: int) -> None:
    """Write the pack of a data folder into a folder; `shares` are options of `write`."""
    table = records.read_table(data)
    for stale_draft in out.glob(f".{image_pack.IMAGES}-*"):  # of a process that was killed
        stale_draft.unlink()
    with files.whole_file(out / image_pack.IMAGES) as draft:
        facts, sums = write(draft, data, table, data_settings, **shares)
    image_pack.write(out, data, facts, sums)


def write(
    target: Path,
    data: Path,
    table: pd.DataFrame,
    data_settings: settings.Data,
    jobs: int | None = None,
    most_files: int = MOST_FILES,
    say_every: int = SAY_EVERY,
) -> Facts:
    """Decode the images of a manifest into a file, (n, channels, side, side) uint8, zeros where
    there is no image.

    Args:
        target: the file, in NumPy's format.
        data: the data folder.
        table: n records as strings.
        data_settings: channels and side of the images.
        jobs: processes; None: as many as there are cores for this one.
        most_files: files that a process gets at a time.
        say_every: images between two lines of progress.

    Returns:
        Facts about every file, and the checksum (n,) of its pixels.
    """
    shape = (len(table), data_settings.channels, data_settings.image_size, data_settings.image_size)
    array = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    array.flush()
    del array
    facts, sums, reported = (
        image_pack.PackedFiles.unread(len(table)),
        np.zeros(len(table), np.uint32),
        0,
    )
    for part, (part_facts, part_sums) in _decoded(
        list(_parts(data, table, data_settings, most_files)),
        target,
        data_settings,
        jobs or worker_pool.cores(),
    ):
        rows = slice(part.first, part.first + len(part.paths))
        for name in ("readable", "same", "decodes", "thumbs"):
            getattr(facts, name)[rows] = getattr(part_facts, name)
        sums[rows] = part_sums
        if rows.stop // say_every > reported:
            reported = rows.stop // say_every
            stage_cli.say(f"decoded {rows.stop} of {len(table)} images")
    return facts, sums


def decode(part: ManifestSlice, target: Path, data_settings: settings.Data) -> Facts:
    """Decode some images into their rows of the target; return facts about their files, and
    checksums."""
    facts = image_pack.PackedFiles.unread(len(part.paths))
    shape = (
        len(part.paths),
        data_settings.channels,
        data_settings.image_size,
        data_settings.image_size,
    )
    decoded = np.zeros(shape, np.uint8)
    for row, (path, sha256) in enumerate(zip(part.paths, part.hashes, strict=True)):
        try:
            content = files.read_regular(part.root / path, limit=images.MAX_BYTES) if path else None
        except DataError:
            continue
        if content is None:
            continue
        facts.readable[row] = True
        facts.same[row] = hashlib.sha256(content).hexdigest() == sha256
        try:
            picture = images.decode(content, "", data_settings)
        except DataError:
            continue
        facts.decodes[row] = True
        facts.thumbs[row] = thumbnail(picture)
        decoded[row] = images.pixels(picture, data_settings)
    np.load(target, mmap_mode="r+")[part.first : part.first + len(decoded)] = decoded
    return facts, image_pack.checksums(decoded)


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """(64,) grey levels 0 … 255 of a picture averaged over an 8 x 8 grid."""
    from PIL import Image

    grey = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(
        grey.resize((image_pack.THUMB, image_pack.THUMB), Image.Resampling.BOX), np.uint8
    ).reshape(-1)


def _parts(
    data: Path, table: pd.DataFrame, data_settings: settings.Data, most_files: int
) -> Iterator[ManifestSlice]:
    size = max(
        1, min(most_files, MOST_BYTES // (data_settings.channels * data_settings.image_size**2))
    )
    root, inside = data.resolve(), rules.inside(table["path"], data)
    for first in range(0, len(table), size):
        rows = slice(first, first + size)
        paths = [
            path if ok else None for path, ok in zip(table["path"][rows], inside[rows], strict=True)
        ]
        yield ManifestSlice(first, root, paths, table["sha256"][rows].tolist())


def _decoded(
    parts: list[ManifestSlice], target: Path, data_settings: settings.Data, jobs: int
) -> Iterator[tuple[ManifestSlice, Facts]]:
    """Each part once it is decoded, in order; several parts are shared among processes."""
    if jobs == 1 or len(parts) == 1:
        for part in parts:
            yield part, decode(part, target, data_settings)
        return
    with ProcessPoolExecutor(min(jobs, len(parts))) as pool:
        yield from zip(
            parts,
            pool.map(decode, parts, [target] * len(parts), [data_settings] * len(parts)),
            strict=True,
        )


if __name__ == "__main__":
    stage_cli.run(main)
