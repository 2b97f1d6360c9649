"""Import IDX files, such as MNIST's, and QMNIST's tables of writers."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.data.importers import classes, writing

MOST_BYTES = 2 * 2**30
"""Largest unpacked size of a file's values, bytes."""

MOST_DIMENSIONS = 4
QMNIST_COLUMNS, LABEL, WRITER = 8, 0, 2
"""Width of a QMNIST table, and the columns in use."""

_KINDS: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
}


def import_data(
    folder: Path,
    images: Path,
    labels: Path,
    writers: Path | None = None,
    *,
    subjects: int | None = None,
    min_records: int = 1,
    seed: int = 0,
    class_names: tuple[str, ...] | None = None,
) -> writing.Summary:
    """Import IDX files, plain or gzip.

    QMNIST's tables may have more rows than there are images: their first rows belong to MNIST's own
    test images.

    Args:
        folder: the data folder to make.
        images: (n, height, width) unsigned bytes.
        labels: (n,) unsigned bytes, or a QMNIST table (n or more, 8) whose column 0 is the label.
        writers: QMNIST table (n or more, 8) of which column 2 is the writer; without it each record
            is its own subject.
        subjects: at most so many subjects, drawn with `seed`.
        min_records: only subjects with at least so many records.
        seed: of the draw.
        class_names: names of the classes in order.

    Returns:
        What was imported. A record's id is its row in the file, from 1.

    Raises:
        DataError: a file is truncated, too large or of another shape, the tables disagree, or no
            subject is left.
    """
    pixels = _pixels(images)
    notes: list[str] = []
    numbers = _labels(_rows(labels, images, len(pixels), notes))
    names = writing.own_subjects(len(pixels))
    if writers is not None:
        names = _writers(_rows(writers, images, len(pixels), notes), numbers, writers, labels)
    rows = _drawn(names, subjects, min_records, seed)
    record_ids = writing.record_ids(len(pixels))
    return writing.write(
        folder,
        writing.Source(
            name=images.name.split(".")[0],
            source=", ".join(path.name for path in (images, labels, writers) if path),
            note=writing.subject_note(writers is not None),
            classes=classes.number_classes(
                numbers[rows].tolist(), labels.name, lambda row: f"row {rows[row] + 1}", class_names
            ),
            columns={
                "record_id": [record_ids[row] for row in rows],
                "subject_id": [names[row] for row in rows],
            },
            pictures=(writing.encode(pixels[row]) for row in rows),
            notes=lambda: list(dict.fromkeys(notes)),
        ),
    )


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file, plain or gzip; bytes or big-endian integers, of the shape that its header
    gives.

    Raises:
        DataError: the file is missing, truncated, too large, or no IDX file.
    """
    content = files.read_regular(path, limit=MOST_BYTES)
    packed = content[:2] == b"\x1f\x8b"
    stream = gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)
    try:
        return _read(stream, path.name)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path.name}: cannot be read ({type(error).__name__}); expected an IDX file, plain "
            "or gzip"
        ) from error


def _read(stream: io.BufferedIOBase, name: str) -> NDArray[Any]:
    """Read the header, then only as many bytes as it announces: a small file can unpack to
    terabytes."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _KINDS:
        raise DataError(
            f"{name}: expected an IDX file of whole numbers, plain or gzip, got something else"
        )
    kind, dimensions = _KINDS[head[2]], head[3]
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise DataError(f"{name}: got {dimensions} dimensions, expected 1 to {MOST_DIMENSIONS}")
    sizes = stream.read(4 * dimensions)
    shape = tuple(
        int.from_bytes(sizes[start : start + 4], "big") for start in range(0, 4 * dimensions, 4)
    )
    expected = int(np.prod(shape, dtype=object)) * kind.itemsize
    if expected > MOST_BYTES:
        raise DataError(
            f"{name}: its header announces {expected} bytes of values, expected at most "
            f"{MOST_BYTES}; split the file"
        )
    values = stream.read(expected + 1)
    if len(values) != expected:
        got = f"{len(values)}" if len(values) < expected else "more"
        raise DataError(
            f"{name}: got {got} bytes of values, its header says {expected}; the file is damaged: "
            "fetch it again"
        )
    return np.frombuffer(values, kind).reshape(shape)


def _rows(path: Path, images: Path, count: int, notes: list[str]) -> NDArray[np.int64]:
    """A list (n,), or the first n rows of a QMNIST table (n or more, 8)."""
    values = read_idx(path)
    is_table = values.ndim == 2 and values.shape[1] == QMNIST_COLUMNS
    if values.ndim != 1 and not is_table:
        raise DataError(
            f"{path.name}: got shape {values.shape}, expected (n,) or a QMNIST table (n, 8)"
        )
    if len(values) < count or (len(values) > count and not is_table):
        raise DataError(
            f"{path.name} has {len(values)} rows and {images.name} {count} images; expected as many"
            f" of each{'' if is_table else ', or a QMNIST table that begins with them'}"
        )
    if len(values) > count:
        notes.append(
            f"{path.name} has {len(values)} rows; its first {count} are taken for {images.name}, as"
            " QMNIST's tables begin with MNIST's own images"
        )
    return values[:count].astype(np.int64)


def _pixels(path: Path) -> NDArray[np.uint8]:
    """(n, height, width) images."""
    pixels = read_idx(path)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"{path.name}: got shape {pixels.shape}, expected unsigned bytes of shape (n, "
            "height, width)"
        )
    return pixels


def _labels(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the labels of a list, or of a QMNIST table."""
    return table[:, LABEL] if table.ndim == 2 else table


def _writers(
    table: NDArray[np.int64], numbers: NDArray[np.int64], path: Path, labels: Path
) -> list[str]:
    """The writer of each image; refuses a table with other labels than the images have."""
    if table.ndim == 1:
        return [str(writer) for writer in table]
    if (_labels(table) != numbers).any():
        raise DataError(
            f"{path.name}: its labels differ from {labels.name}; take the images' own table"
        )
    return [str(writer) for writer in table[:, WRITER]]


def _drawn(names: list[str], subjects: int | None, min_records: int, seed: int) -> list[int]:
    """Rows of the subjects that are kept, in order."""
    import random

    counts = Counter(names)
    eligible = sorted(name for name, count in counts.items() if count >= min_records)
    if subjects is not None:
        rng = random.Random(seed)
        eligible = sorted(eligible, key=lambda _: rng.random())[:subjects]
    if not eligible:
        raise DataError(f"no subject has {min_records} records; lower the number")
    chosen_subjects = set(eligible)
    return [row for row, name in enumerate(names) if name in chosen_subjects]
