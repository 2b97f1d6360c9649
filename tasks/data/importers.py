"""Where data sets come from. Each importer makes a whole data folder or none.

A data folder holds `manifest.csv`, `images/<record_id>.<ext>`, `dataset.json`, and `identities.csv`
where one was given. File names hold record ids only. Nothing is unpickled here.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.data import records
from tasks.data import synthetic_digits as embedded

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

MAX_SIDE = 224
"""Largest image side that an import suggests, pixels."""


@dataclass(frozen=True)
class Summary:
    """What was imported, for `params.yaml` and the user. `image_size` is a suggestion, pixels."""

    records: int
    subjects: int
    classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: int


@dataclass(frozen=True)
class Picture:
    """One image file to be: its bytes, extension, (width, height) and whether it has colour."""

    content: bytes
    extension: str
    size: tuple[int, int]
    colour: bool


@dataclass(frozen=True)
class Source:
    """A data set before it is written: columns of equal length, pictures in the same order, and
    where it is from."""

    name: str
    source: str
    note: str
    class_names: tuple[str, ...]
    columns: dict[str, list[Any]]
    pictures: Iterable[Picture]
    identities: str | None = field(default=None, repr=False)


def digits(folder: Path, writers: int = 45) -> Summary:
    """Import the embedded digits of synthetic writers; the same bytes on every machine.

    Args:
        folder: the data folder to make.
        writers: number of synthetic writers.

    Raises:
        DataError: the folder holds something else than a data set.
    """
    images, labels, writer = embedded.make(writers)
    return write(
        folder,
        Source(
            name="Digits of synthetic writers",
            source="scikit-learn's digits (UCI Optical Recognition of Handwritten Digits), drawn by tasks/digits.py",
            note="The writers are synthetic: real digits dealt out to writers that do not exist.",
            class_names=tuple(str(digit) for digit in range(10)),
            columns=_columns(
                len(labels),
                [f"writer-{number + 1:02d}" for number in writer.tolist()],
                labels.tolist(),
            ),
            pictures=map(encode, images),
        ),
    )


def idx(
    folder: Path,
    images: Path,
    labels: Path,
    writers: Path | None = None,
    *,
    subjects: int | None = None,
    min_records: int = 1,
    seed: int = 0,
) -> Summary:
    """Import IDX files, plain or gzip.

    Args:
        folder: the data folder to make.
        images: (n, height, width) unsigned bytes.
        labels: (n,) unsigned bytes, or a QMNIST table (n, 8) of which column 0 is the label.
        writers: QMNIST table (n, 8) of which column 2 is the writer; without it each record is its
            own subject.
        subjects: at most so many subjects, drawn with `seed`.
        min_records: only subjects with at least so many records.
        seed: of the draw.

    Returns:
        What was imported. A record's id is its row in the file, from 1.

    Raises:
        DataError: a file is truncated or of another shape, the tables disagree, or no subject is
            left.
    """
    pixels = read_idx(images)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"{images.name}: got shape {pixels.shape}, expected unsigned bytes of shape (n, "
            "height, width)"
        )
    classes = _table(labels, 0)
    people = None if writers is None else _table(writers, 2)
    if len(classes) != len(pixels) or (people is not None and len(people) != len(pixels)):
        raise DataError(
            f"{images.name}: got {len(pixels)} images and {len(classes)} labels; expected as many "
            "of each"
        )
    if (
        writers is not None
        and (own := read_idx(writers)).ndim == 2
        and (own[:, 0] != classes).any()
    ):
        raise DataError(
            f"{writers.name}: its labels differ from {labels.name}; take the images' own table"
        )
    names = (
        [f"s{row + 1:06d}" for row in range(len(pixels))]
        if people is None
        else [f"writer-{w:04d}" for w in people]
    )
    rows = _chosen(names, subjects, min_records, seed)
    codes, class_names = _classes(classes.tolist())
    return write(
        folder,
        Source(
            name=images.name.split(".")[0],
            source=", ".join(path.name for path in (images, labels, writers) if path),
            note=_subject_note(people is not None),
            class_names=class_names,
            columns=_columns(len(pixels), names, codes, rows),
            pictures=(encode(pixels[row]) for row in rows),
        ),
    )


def npz(
    folder: Path,
    path: Path,
    images: str = "images",
    labels: str = "labels",
    subjects: str | None = "subjects",
    *,
    maxval: str | None = None,
    attributes: Sequence[str] = (),
) -> Summary:
    """Import named arrays of a `.npz` file.

    Args:
        folder: the data folder to make.
        path: the archive. Arrays of Python objects are refused.
        images: name of the images (n, height, width), (n, height, width, 1 or 3) or (n, 1 or 3,
            height, width); unsigned integers, or floating point in 0 … 1.
        labels: name of the labels (n,). An array `<labels>_names`, where present, names the
            classes.
        subjects: name of the data subjects (n,); None makes each record its own subject.
        maxval: name of an array (n,) with the value of white per image.
        attributes: names of arrays (n,) to be kept as columns; `<attribute>_names` gives their
            values names.

    Raises:
        DataError: an array is missing or of another shape or type.
    """
    with _archive(path) as arrays:
        pixels = _array(arrays, images, path)
        count = len(pixels)
        values = _array(arrays, labels, path, count)
        named = _names(arrays, labels, path, values)
        people = None if subjects is None else _array(arrays, subjects, path, count).tolist()
        white = None if maxval is None else _array(arrays, maxval, path, count).astype(np.float64)
        extra = {name: _attribute(arrays, name, path, count) for name in attributes}
    if set(extra) & {*records.COLUMNS, "split"}:
        raise DataError(
            f"{path.name}: an attribute has the name of a column of the manifest; rename it"
        )
    names = _subject_names(people, count)
    codes, class_names = _classes(values.tolist()) if named is None else (values.tolist(), named)
    columns = _columns(count, names, codes) | extra
    pictures = map(encode, _to_bytes(_channels_last(pixels, path), white, path))
    note = _subject_note(people is not None)
    return write(folder, Source(path.stem, path.name, note, class_names, columns, pictures))


def image_folder(
    folder: Path, source: Path, table: Path, identities: Path | None = None
) -> Summary:
    """Import a folder of images, each file byte for byte and verified to decode.

    Args:
        folder: the data folder to make.
        source: where the images lie.
        table: CSV with `path` (relative to `source`), `subject_id`, `label`, optionally
            `record_id`, `split` and attributes. Labels that are not 0 … k-1 become their place in
            sorted order.
        identities: CSV with `identity_type, identity_value, subject_id`, kept beside the manifest.

    Raises:
        DataError: a column is missing, an id is malformed or twice, an image is missing, leaves the
            folder or does not decode; names the record.
    """
    rows = files.read_csv(table, ("path", "subject_id", "label"))
    if not len(rows):
        raise DataError(f"{table.name}: got no records, expected one line per image")
    if "record_id" not in rows:
        rows = rows.assign(record_id=_record_ids(len(rows)))
    codes, class_names = _classes(rows["label"].tolist())
    checked = rows.assign(label=[str(code) for code in codes], sha256="0" * 64)
    _refuse_faults(checked, source, table.name)
    columns = {
        name: rows[name].tolist() for name in rows.columns if name not in ("path", "sha256")
    } | {"label": codes}
    pictures = _originals(source, rows)
    known = None if identities is None else _identities(identities)
    note = "Subjects as the table gives them."
    return write(
        folder, Source(source.name, table.name, note, class_names, columns, pictures, known)
    )


def torchvision_dataset(
    folder: Path, name: str, root: Path, download: bool = False, limit: int | None = None
) -> Summary:
    """Import the training part of a data set of `torchvision.datasets`; each record is its own
    subject.

    Args:
        folder: the data folder to make.
        name: name of the class, e.g. `FashionMNIST`.
        root: where its files lie.
        download: fetch them if they are absent (needs a network).
        limit: at most so many records, the first ones.

    Raises:
        DataError: no such data set, its files are absent, or its items are not pairs of an image
            and a class.
    """
    data = _open_torchvision(name, root, download)
    count = min(len(data), limit or len(data))
    labels = (
        [_whole(data[row][1], name) for row in range(count)]
        if not _targets(data)
        else _targets(data)[:count]
    )
    codes, found = _classes(labels)
    given = tuple(map(str, getattr(data, "classes", ())))
    class_names = given if len(given) > max(labels, default=0) and codes == labels else found
    pictures = (_from_pillow(data[row][0], name) for row in range(count))
    columns = _columns(count, _subject_names(None, count), codes)
    return write(
        folder,
        Source(
            name,
            f"torchvision.datasets.{name}",
            _subject_note(False),
            class_names,
            columns,
            pictures,
        ),
    )


def write(folder: Path, source: Source) -> Summary:
    """Write a data folder whole or not at all; a data set that lies there already is replaced.

    Raises:
        DataError: the folder holds something else than a data set, or a record breaks a rule of the
            manifest.
    """
    import pandas as pd

    if (
        folder.exists()
        and not (folder / "manifest.csv").exists()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise DataError(
            f"{folder.name}: holds files that are no data set; choose a folder that is new or empty"
        )
    with files.whole_folder(folder) as draft:
        (draft / "images").mkdir()
        table = pd.DataFrame(source.columns)
        planned = table.assign(
            label=table["label"].astype(str), path=table["record_id"], sha256="0" * 64
        )
        _refuse_faults(planned, draft, "the data set")
        paths, hashes, sizes, colours = [], [], Counter[int](), False
        for record_id, picture in zip(table["record_id"].tolist(), source.pictures, strict=True):
            paths.append(f"images/{record_id}.{picture.extension}")
            (draft / paths[-1]).write_bytes(picture.content)
            hashes.append(hashlib.sha256(picture.content).hexdigest())
            sizes[max(picture.size)] += 1
            colours = colours or picture.colour
        rest = [name for name in table.columns if name not in records.COLUMNS]
        table = table.assign(path=paths, sha256=hashes)[[*records.COLUMNS, *rest]]
        table.to_csv(draft / "manifest.csv", index=False, lineterminator="\n")
        files.write_json(draft / "dataset.json", _description(source))
        if source.identities is not None:
            files.write_text(draft / "identities.csv", source.identities)
        _verify(draft)
    side = min(sizes, key=lambda size: (-sizes[size], size))
    return Summary(
        records=len(table),
        subjects=table["subject_id"].nunique(),
        classes=len(source.class_names),
        class_names=source.class_names,
        channels=3 if colours else 1,
        image_size=min(MAX_SIDE, max(8, -(-side // 4) * 4)),
    )


def _refuse_faults(table: pd.DataFrame, folder: Path, where: str) -> None:
    for rule, bad in records.faults(table, folder).items():
        if bad.any():
            named = records.name_records(table, bad)
            raise DataError(
                f"{where}: {named}: expected that {records.RULES[rule]}. Correct the source"
            )


def _verify(draft: Path) -> None:
    from tasks.requests.directory import read_directory

    read_directory(draft, records.read_manifest(draft))


def _description(source: Source) -> dict[str, Any]:
    facts = {"name": source.name, "source": source.source, "note": source.note}
    return facts | {"class_names": list(source.class_names)}


def encode(pixels: NDArray[np.uint8]) -> Picture:
    """A PNG of (height, width) or (height, width, 3) unsigned bytes; not compressed, so that no
    library changes it."""
    from PIL import Image

    out = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(out, "PNG", compress_level=0)
    return Picture(out.getvalue(), "png", picture.size, pixels.ndim == 3)


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file, plain or gzip; bytes or big-endian integers, of the shape that its header
    gives.

    Raises:
        DataError: the file is missing, truncated, or no IDX file.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path.name}: cannot be read ({type(error).__name__}); expected an IDX file, plain "
            "or gzip"
        ) from error
    kinds: dict[int, np.dtype[Any]] = {
        0x08: np.dtype(np.uint8),
        0x09: np.dtype(np.int8),
        0x0B: np.dtype(">i2"),
        0x0C: np.dtype(">i4"),
    }
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in kinds:
        raise DataError(
            f"{path.name}: expected an IDX file of whole numbers, plain or gzip, got something else"
        )
    kind, start = kinds[content[2]], 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    expected = int(np.prod(shape, dtype=object)) * kind.itemsize
    if len(content) - start != expected:
        raise DataError(
            f"{path.name}: got {max(len(content) - start, 0)} bytes of values, its header says "
            f"{expected};"
            " the file is truncated: fetch it again"
        )
    return np.frombuffer(content, kind, offset=start).reshape(shape)


def _table(path: Path, column: int) -> NDArray[np.int64]:
    """One column of a QMNIST table (n, 8), or a plain list (n,)."""
    values = read_idx(path)
    if values.ndim == 2 and values.shape[1] == 8:
        values = values[:, column]
    if values.ndim != 1:
        raise DataError(
            f"{path.name}: got shape {values.shape}, expected (n,) or a QMNIST table (n, 8)"
        )
    return values.astype(np.int64)


def _chosen(names: list[str], subjects: int | None, min_records: int, seed: int) -> list[int]:
    """Rows of the subjects that are kept, in order."""
    import random

    counts = Counter(names)
    kept = sorted(name for name, count in counts.items() if count >= min_records)
    if subjects is not None and len(kept) < subjects:
        raise DataError(
            f"got {len(kept)} subjects with at least {min_records} records, expected {subjects}: "
            "ask for fewer"
        )
    if subjects is not None:
        rng = random.Random(seed)
        kept = sorted(kept, key=lambda _: rng.random())[:subjects]
    chosen = set(kept)
    if not chosen:
        raise DataError(f"no subject has {min_records} records; lower the number")
    return [row for row, name in enumerate(names) if name in chosen]


def _record_ids(count: int) -> list[str]:
    width = max(5, len(str(count)))
    return [f"r{number:0{width}d}" for number in range(1, count + 1)]


def _columns(
    count: int, subjects: list[str], labels: list[int], rows: list[int] | None = None
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "record_id": _record_ids(count),
        "subject_id": subjects,
        "label": labels,
    }
    return (
        columns
        if rows is None
        else {name: [values[row] for row in rows] for name, values in columns.items()}
    )


def _subject_names(values: list[Any] | None, count: int) -> list[str]:
    if values is None:
        return [f"s{number:06d}" for number in range(1, count + 1)]
    return [f"subject-{value:02d}" if isinstance(value, int) else str(value) for value in values]


def _subject_note(known: bool) -> str:
    return (
        "Subjects as the source gives them."
        if known
        else "The source names no subjects: each record is its own."
    )


def _classes(values: list[Any]) -> tuple[list[int], tuple[str, ...]]:
    """Labels as 0 … k-1 and the classes' names; whole numbers 0 … k-1 stay, others become their
    place in order."""
    texts = [str(value).strip() for value in values]
    whole = all(re.fullmatch("[0-9]{1,9}", text) for text in texts)
    texts = [str(int(text)) for text in texts] if whole else texts
    known = sorted(set(texts), key=int) if whole else sorted(set(texts))
    code = {text: number for number, text in enumerate(known)}
    return [code[text] for text in texts], tuple(known)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[Any]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path.name}: expected an .npz archive of named arrays, got a single array"
                )
            yield archive
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DataError(
            f"{path.name}: cannot be read as an .npz archive of plain arrays "
            f"({type(error).__name__});"
            " arrays of Python objects are refused"
        ) from error


def _array(arrays: Any, name: str, path: Path, count: int | None = None) -> NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{path.name}: has no array {name!r}; it has {', '.join(arrays.files)}")
    values: NDArray[Any] = arrays[name]
    if count is not None and values.shape != (count,):
        raise DataError(f"{path.name}: {name} has shape {values.shape}, expected ({count},)")
    return values


def _names(arrays: Any, name: str, path: Path, values: NDArray[Any]) -> tuple[str, ...] | None:
    """What `<name>_names` calls the values 0, 1, … of an array; None without such an array."""
    if f"{name}_names" not in arrays or values.dtype.kind not in "iu":
        return None
    names = tuple(map(str, arrays[f"{name}_names"].tolist()))
    if values.min(initial=0) < 0 or values.max(initial=0) >= len(names):
        raise DataError(f"{path.name}: {name} has values that {name}_names does not name")
    return names


def _attribute(arrays: Any, name: str, path: Path, count: int) -> list[str]:
    values = _array(arrays, name, path, count)
    names = _names(arrays, name, path, values)
    return [str(value) if names is None else names[value] for value in values.tolist()]


def _channels_last(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    if pixels.ndim == 4 and pixels.shape[-1] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if (
        pixels.ndim not in (3, 4)
        or (pixels.ndim == 4 and pixels.shape[-1] != 3)
        or 0 in pixels.shape
    ):
        raise DataError(
            f"{path.name}: got images of shape {pixels.shape}, expected (n, height, width[, 1 or "
            "3])"
        )
    return pixels


def _to_bytes(
    pixels: NDArray[Any], white: NDArray[np.float64] | None, path: Path
) -> Iterator[NDArray[np.uint8]]:
    """Pixels as 0 … 255, by the type's range or by the value of white per image."""
    kind = pixels.dtype
    if kind.kind not in "buf" or (
        white is not None and not (np.isfinite(white).all() and (white > 0).all())
    ):
        raise DataError(
            f"{path.name}: got images of type {kind}; expected unsigned integers, or floating"
            " point in 0 … 1, and values of white above 0"
        )
    full = 1.0 if kind.kind in "bf" else float(np.iinfo(kind).max)
    for row, image in enumerate(pixels):
        top = full if white is None else float(white[row])
        if kind == np.uint8 and top == 255:
            yield image
            continue
        values = image.astype(np.float64) / top
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise DataError(f"{path.name}: image {row} has pixels outside 0 … {top:g}; give maxval")
        yield np.floor(values * 255 + 0.5).astype(np.uint8)


def _originals(source: Path, rows: pd.DataFrame) -> Iterator[Picture]:
    for record_id, path in zip(rows["record_id"].tolist(), rows["path"].tolist(), strict=True):
        try:
            content = (source / path).read_bytes()
        except OSError as error:
            raise DataError(
                f"record {record_id}: its image file cannot be read ({error.strerror}); correct "
                "its path"
            ) from error
        picture = records.decode(content, record_id)
        extension = Path(path).suffix[1:].lower()
        extension = extension if re.fullmatch("[a-z0-9]{1,5}", extension) else "img"
        yield Picture(
            content, extension, picture.size, picture.mode == "RGB" and not _is_grey(picture)
        )


def _identities(path: Path) -> str:
    columns = ("identity_type", "identity_value", "subject_id")
    return files.read_csv(path, columns)[list(columns)].to_csv(index=False, lineterminator="\n")


def _is_grey(picture: Image.Image) -> bool:
    """Whether a colour picture shows only greys, as scans saved in colour do."""
    red, green, blue = picture.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def _open_torchvision(name: str, root: Path, download: bool) -> Any:
    import inspect

    import torchvision

    kind = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, torchvision.datasets.VisionDataset)):
        raise DataError(
            f"got {name!r}, expected the name of a data set in torchvision.datasets, e.g. "
            "FashionMNIST"
        )
    accepted = inspect.signature(kind).parameters
    wanted: dict[str, Any] = {
        "root": str(root),
        "train": True,
        "split": "train",
        "download": download,
    }
    try:
        return kind(**{key: value for key, value in wanted.items() if key in accepted})
    except Exception as error:  # each data set fails in its own way when its files are absent
        hint = (
            "check the network and the root"
            if download
            else "fetch its files, or import with --download"
        )
        raise DataError(
            f"torchvision.datasets.{name} cannot be opened ({type(error).__name__}); {hint}"
        ) from error


def _targets(data: Any) -> list[int]:
    """The labels, where the data set lists them; saves decoding every image twice."""
    values = getattr(data, "targets", None)
    if (
        values is None
        or len(values) != len(data)
        or getattr(data, "target_transform", None) is not None
    ):
        return []
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError):
        return []


def _whole(value: Any, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"torchvision.datasets.{name}: its targets are no class labels; take one for "
            "classification"
        ) from error


def _from_pillow(picture: Any, name: str) -> Picture:
    from PIL import Image

    if not isinstance(picture, Image.Image):
        raise DataError(
            f"torchvision.datasets.{name}: its items are no images; take one for image "
            "classification"
        )
    return encode(np.asarray(picture.convert("L" if picture.mode in ("L", "1", "I;16") else "RGB")))
