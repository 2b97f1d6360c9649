"""Write a data folder, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import DataError
from tasks.data import records, rules
from tasks.data.importers.classes import NO_VALUE, Classes

if TYPE_CHECKING:
    import pandas as pd

MAX_SIDE = 224
"""Largest image side that an import suggests, pixels."""

LEAST_CLASSES = 2
"""Fewest classes of a classifier."""

DARK = 0.25
"""Share of white that the brightest pixel of a data set reaches if the range is right."""


@dataclass(frozen=True)
class Summary:
    """The result of an import, for `params.yaml` and the user.

    Attributes:
        records: number of records.
        subjects: number of data subjects.
        class_names: of class 0, 1, …
        absent: classes without records.
        channels: 1 grey, 3 colour.
        image_size: side suggested, pixels.
        notes: what the user should check.
    """

    records: int
    subjects: int
    class_names: tuple[str, ...]
    absent: tuple[int, ...]
    channels: int
    image_size: int
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes, those without records included."""
        return len(self.class_names)


@dataclass(frozen=True)
class Picture:
    """One image file to be: its bytes, extension, (width, height) and whether it has colour."""

    content: bytes
    extension: str
    size: tuple[int, int]
    colour: bool


@dataclass(frozen=True)
class Source:
    """A data set before it is written.

    Attributes:
        name: of the data set.
        source: its origin.
        note: what a reader should know of it.
        classes: of the records, in order.
        columns: of the manifest, of equal length, without label, path and sha256.
        pictures: in the same order.
        identities: the text of `identities.csv`.
        notes: what the user should check.
        name_row: the name of a row of the source in errors, from 0; None: its record id.
    """

    name: str
    source: str
    note: str
    classes: Classes
    columns: dict[str, list[Any]]
    pictures: Iterable[Picture]
    identities: str | None = field(default=None, repr=False)
    notes: Callable[[], Sequence[str]] = tuple
    name_row: Callable[[int], str] | None = None


def write(folder: Path, source: Source) -> Summary:
    """Write a data folder; a data set that lies there already is replaced.

    Raises:
        DataError: the folder holds something else than a data set, or a record breaks a rule of the
            manifest.
    """
    import pandas as pd

    _refuse_other_files(folder)
    with files.whole_folder(folder) as draft:
        (draft / "images").mkdir()
        table = pd.DataFrame(source.columns).assign(label=source.classes.codes)
        planned = table.assign(
            label=table["label"].astype(str), path=table["record_id"], sha256="0" * 64
        )
        refuse_faults(planned, draft, source.source, source.name_row)
        if len(source.classes.names) < LEAST_CLASSES:
            raise DataError(
                f"{source.source}: got records of one class, expected at least {LEAST_CLASSES}"
            )
        paths, hashes, sizes, colours = [], [], Counter[int](), False
        for record_id, picture in zip(table["record_id"].tolist(), source.pictures, strict=True):
            paths.append(f"images/{record_id}.{picture.extension}")
            (draft / paths[-1]).write_bytes(picture.content)
            hashes.append(hashlib.sha256(picture.content).hexdigest())
            sizes[max(picture.size)] += 1
            colours = colours or picture.colour
        extra_columns = [name for name in table.columns if name not in records.COLUMNS]
        table = table.assign(path=paths, sha256=hashes)[[*records.COLUMNS, *extra_columns]]
        table.to_csv(draft / "manifest.csv", index=False, lineterminator="\n")
        files.write_json(draft / "dataset.json", _description(source))
        if source.identities is not None:
            files.write_text(draft / "identities.csv", source.identities)
        _read_again(draft)
    side = min(sizes, key=lambda size: (-sizes[size], size))
    return Summary(
        records=len(table),
        subjects=table["subject_id"].nunique(),
        class_names=source.classes.names,
        absent=source.classes.absent,
        channels=3 if colours else 1,
        image_size=min(MAX_SIDE, max(8, -(-side // 4) * 4)),
        notes=(
            *([source.classes.note] if source.classes.note else []),
            *_personal_classes(table, source.classes),
            *source.notes(),
        ),
    )


def _personal_classes(table: pd.DataFrame, classes: Classes) -> list[str]:
    """A warning if classes seem to be people, as in face recognition, since reports name classes.
    They seem so if a class has the name of a data subject, or if each named class holds the records
    of one subject and each subject's records are in one class.
    """
    have_names = not all(name.isdigit() for name in classes.names)
    share_a_name = have_names and not set(classes.names).isdisjoint(table["subject_id"].astype(str))
    pairs = table[["label", "subject_id"]].drop_duplicates()
    one_person_each = pairs["label"].is_unique and pairs["subject_id"].is_unique
    if not share_a_name and not (have_names and one_person_each):
        return []
    return [
        "classes seem to be people. Reports and evidence.json name the classes, and are kept after "
        "an erasure: import again with --classes FILE and codes instead of names, with labels to "
        "match"
    ]


def encode(pixels: NDArray[np.uint8]) -> Picture:
    """A PNG of (height, width) or (height, width, 3) unsigned bytes; not compressed, so that no
    library changes it."""
    from PIL import Image

    out = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(out, "PNG", compress_level=0)
    return Picture(out.getvalue(), "png", picture.size, pixels.ndim == 3)


def refuse_faults(
    table: pd.DataFrame,
    folder: Path,
    source: str,
    name_row: Callable[[int], str] | None = None,
) -> None:
    """Raise `DataError` for the first rule of the manifest that rows break; names them as the
    source does."""
    for rule, faulty in rules.faults(table, folder).items():
        if faulty.any():
            faulty_records = records.name_records(table, faulty)
            if name_row is not None:
                faulty_records = shortened_list(
                    [name_row(int(row)) for row in np.flatnonzero(faulty)]
                )
            raise DataError(
                f"{source}: {faulty_records}: expected that {rule.sentence}. Correct the source"
            )


def shortened_list(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def record_ids(count: int) -> list[str]:
    """`r00001`, `r00002`, …"""
    width = max(5, len(str(count)))
    return [f"r{number:0{width}d}" for number in range(1, count + 1)]


def own_subjects(count: int) -> list[str]:
    """Subject ids for a source without subjects: each record is its own."""
    return [f"s{number:06d}" for number in range(1, count + 1)]


def subject_ids(
    values: Sequence[Any],
    source: str,
    name_row: Callable[[int], str] = lambda row: f"index {row}",
) -> list[str]:
    """Ids as the source has them, as text.

    Raises:
        DataError: one is blank, NaN or None; its row is named.
    """
    ids = []
    for row, value in enumerate(values):
        text = (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()
        if text in NO_VALUE or (isinstance(value, float) and not math.isfinite(value)):
            raise DataError(
                f"{source}: {name_row(row)}: its subject is blank, NaN or None; say whose record "
                "it is, or remove it"
            )
        ids.append(text)
    return ids


def subject_note(has_subjects: bool) -> str:
    """The note on subjects in `dataset.json`."""
    if has_subjects:
        return "Subjects as the source gives them."
    return "The source names no subjects: each record is its own."


def refuse_dark(peak: float, white: float, source: str) -> None:
    """Raise `DataError` if no pixel comes near the assumed white: all images would silently be
    nearly black."""
    if peak < DARK * white:
        likely = next((2**bits - 1 for bits in (1, 4, 8, 10, 12, 14, 16) if peak < 2**bits), 1)
        raise DataError(
            f"{source}: the largest value is {peak:g}, and white would be {white:g}, so all would "
            f"be read nearly black; set the value of white, e.g. --white {likely}, or --white "
            f"{white:g} if the images are that dark"
        )


def _refuse_other_files(folder: Path) -> None:
    holds_data = (folder / "manifest.csv").exists()
    if folder.exists() and not holds_data and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder.name}: holds files that are no data set; choose a folder that is new or empty"
        )


def _read_again(draft: Path) -> None:
    """Read the draft again, so that a fault shows before it replaces the folder."""
    from tasks.requests.directory import read_directory

    read_directory(draft, records.read_manifest(draft))


def _description(source: Source) -> dict[str, Any]:
    facts = {"name": source.name, "source": source.source, "note": source.note}
    absent = {"absent": list(source.classes.absent)} if source.classes.absent else {}
    return facts | {"class_names": list(source.classes.names)} | absent
