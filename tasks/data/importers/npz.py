"""Import named arrays of a `.npz` file."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.data import records
from tasks.data.importers import classes, writing

MOST_BYTES = 4 * 2**30
"""Largest unpacked size of an array, bytes."""


def import_data(
    folder: Path,
    path: Path,
    images: str = "images",
    labels: str = "labels",
    subjects: str | None = "subjects",
    *,
    maxval: str | None = None,
    white: float | None = None,
    attributes: Sequence[str] = (),
    class_names: tuple[str, ...] | None = None,
) -> writing.Summary:
    """Import named arrays of a `.npz` file.

    Args:
        folder: the data folder to make.
        path: the archive. Arrays of Python objects are refused.
        images: name of the images (n, height, width), (n, height, width, 1 or 3) or (n, 1 or 3,
            height, width); unsigned integers, or floating point in 0 … 1.
        labels: name of the labels, (n,) or (n, 1). `<labels>_names`, if present, names the classes.
        subjects: name of the data subjects (n,), whose ids are kept as they are; None makes each
            record its own subject.
        maxval: name of an array (n,) with the value of white per image.
        white: the value of white of all images.
        attributes: names of arrays (n,) to be kept as columns; `<attribute>_names` gives their
            values names.
        class_names: names of the classes in order; beats `<labels>_names`.

    Raises:
        DataError: an array is missing, too large or of another shape or type, or the images would
            be read nearly black.
    """
    with _archive(path) as arrays:
        pixels = _channels_last(_array(arrays, images, path), path)
        count = len(pixels)
        values = _array(arrays, labels, path, count).tolist()
        names = _names(arrays, labels, path)
        people = None if subjects is None else _array(arrays, subjects, path, count).tolist()
        whites = np.full(count, white or _range(pixels.dtype, path))
        if maxval is not None:
            whites = _array(arrays, maxval, path, count).astype(np.float64)
        extra = _attributes(arrays, attributes, path, count)
    if white is None and maxval is None and pixels.dtype.kind != "b":
        writing.refuse_dark(float(pixels.max()), float(whites[0]), f"{path.name}: {images}")
    ids = writing.own_subjects(count)
    if people is not None:
        ids = writing.subject_ids(people, f"{path.name}: {subjects}")
    return writing.write(
        folder,
        writing.Source(
            path.stem,
            path.name,
            writing.subject_note(people is not None),
            classes.number_classes(
                values, f"{path.name}: {labels}", lambda row: f"index {row}", class_names, names
            ),
            {"record_id": writing.record_ids(count), "subject_id": ids} | extra,
            map(writing.encode, _to_bytes(pixels, whites, path)),
        ),
    )


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[Any]:
    import zipfile

    try:
        if not path.is_file():
            files.read_regular(path)  # says what it is instead
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path.name}: expected an .npz archive of named arrays, got a single array"
                )
            yield archive
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DataError(
            f"{path.name}: cannot be read as an .npz archive of plain arrays "
            f"({type(error).__name__}); arrays of Python objects are refused"
        ) from error


def _array(arrays: Any, name: str, path: Path, count: int | None = None) -> NDArray[Any]:
    if name not in arrays.files:
        raise DataError(f"{path.name}: has no array {name!r}; it has {', '.join(arrays.files)}")
    _refuse_bomb(arrays, name, path)
    values: NDArray[Any] = arrays[name]
    if count is not None and values.shape == (count, 1):  # as MedMNIST has its labels
        values = values[:, 0]
    if count is not None and values.shape != (count,):
        raise DataError(f"{path.name}: {name} has shape {values.shape}, expected ({count},)")
    return values


def _refuse_bomb(arrays: Any, name: str, path: Path) -> None:
    """Judge an array by its header before it is unpacked: a small file can hold terabytes."""
    entry = name if name in arrays.zip.namelist() else f"{name}.npy"
    with arrays.zip.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError("an unknown version of the format")
        shape, _, kind = read_header(stream)
        size = int(np.prod(shape, dtype=object)) * kind.itemsize
        stored = arrays.zip.getinfo(entry).file_size - stream.tell()
    if size > MOST_BYTES:
        raise DataError(
            f"{path.name}: {name} has {size} bytes unpacked, expected at most {MOST_BYTES}; split "
            "the archive"
        )
    if kind.hasobject:
        raise DataError(
            f"{path.name}: {name} is an array of Python objects, which are pickled and not read: "
            "save it as an array of text or numbers, e.g. array.astype(str)"
        )
    if size != stored:
        raise DataError(
            f"{path.name}: the header of {name} announces {size} bytes and the archive holds "
            f"{stored}; the file is damaged"
        )


def _names(arrays: Any, name: str, path: Path) -> tuple[str, ...] | None:
    """The names of an array's values 0, 1, … from `<name>_names`; None without such an array."""
    if f"{name}_names" not in arrays.files:
        return None
    return tuple(map(str, _array(arrays, f"{name}_names", path).ravel().tolist()))


def _attributes(arrays: Any, names: Sequence[str], path: Path, count: int) -> dict[str, list[str]]:
    """Further columns of the manifest by name; refuses a name that the manifest uses itself."""
    if set(names) & {*records.COLUMNS, "split"}:
        raise DataError(
            f"{path.name}: an attribute has the name of a column of the manifest; rename it"
        )
    return {name: _attribute(arrays, name, path, count) for name in names}


def _attribute(arrays: Any, name: str, path: Path, count: int) -> list[str]:
    values = _array(arrays, name, path, count)
    names = _names(arrays, name, path)
    if names is None or values.dtype.kind not in "iu":
        return [str(value) for value in values.tolist()]
    if values.min(initial=0) < 0 or values.max(initial=0) >= len(names):
        raise DataError(f"{path.name}: {name} has values that {name}_names does not name")
    return [names[value] for value in values.tolist()]


def _channels_last(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    shape = pixels.shape
    if pixels.ndim == 4 and pixels.shape[-1] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    is_supported = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] == 3)
    if not is_supported or 0 in pixels.shape:
        raise DataError(
            f"{path.name}: got images of shape {shape}, expected (n, height, width[, 1 or 3])"
        )
    return pixels


def _range(kind: np.dtype[Any], path: Path) -> float:
    """The value of white by the type of the pixels."""
    if kind.kind not in "buif":
        raise DataError(
            f"{path.name}: got images of type {kind}; expected whole numbers, or floating point in "
            "0 … 1"
        )
    return 1.0 if kind.kind in "bf" else float(np.iinfo(kind).max)


def _to_bytes(
    pixels: NDArray[Any], whites: NDArray[np.float64], path: Path
) -> Iterator[NDArray[np.uint8]]:
    """Pixels as 0 … 255, by the value of white of each image."""
    if not (np.isfinite(whites).all() and (whites > 0).all()):
        raise DataError(f"{path.name}: expected values of white above 0")
    for index, (image, white) in enumerate(zip(pixels, whites.tolist(), strict=True)):
        if pixels.dtype == np.uint8 and white == 255:
            yield image
            continue
        values = image.astype(np.float64) / white
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise DataError(
                f"{path.name}: image {index} has pixels outside 0 … {white:g}; set the value of "
                "white with --white or --maxval"
            )
        yield np.floor(values * 255 + 0.5).astype(np.uint8)
