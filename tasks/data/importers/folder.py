"""Import a folder of images and a table of their subjects and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.common import files
from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import images
from tasks.data.importers import classes, writing
from tasks.requests import directory

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

MOST_NAMED = 20
"""Most files that a message names."""


def import_data(
    folder: Path,
    source: Path,
    table: Path,
    identities: Path | None = None,
    *,
    white: float | None = None,
    class_names: tuple[str, ...] | None = None,
) -> writing.Summary:
    """Import a folder of images, each file byte for byte and verified to decode.

    Args:
        folder: the data folder to make.
        source: the folder with the images.
        table: CSV with `path` (relative to `source`), `subject_id`, `label`, optionally
            `record_id`, `split` and attributes.
        identities: CSV with `identity_type, identity_value, subject_id`, kept beside the manifest.
        white: the value of white in images of more than 8 bits; None: as the files say.
        class_names: names of the classes in order.

    Raises:
        DataError: a column is missing, an id is malformed or twice, a label is blank, or images are
            missing, leave the folder or do not decode. Rows are named by their number and path, and
            all images at fault at once.
    """
    if not source.is_dir():
        raise DataError(f"{source.name}: no such folder; give the folder that the images lie in")
    rows = files.read_csv(table, ("path", "subject_id", "label"))
    if not len(rows):
        raise DataError(f"{table.name}: got no records, expected one line per image")
    paths = rows["path"].tolist()

    def name_row(row: int) -> str:
        return f"row {row + 1} ({paths[row][:200]})"

    if "record_id" not in rows:
        rows = rows.assign(record_id=writing.record_ids(len(rows)))
    numbered = classes.number_classes(rows["label"].tolist(), table.name, name_row, class_names)
    writing.subject_ids(rows["subject_id"].tolist(), table.name, name_row)
    planned = rows.assign(label=[str(code) for code in numbered.codes], sha256="0" * 64)
    writing.refuse_faults(planned, source, table.name, name_row)
    columns = [name for name in rows.columns if name not in ("path", "sha256", "label")]
    pictures = _Pictures(source, paths, Data(white=white))
    return writing.write(
        folder,
        writing.Source(
            source.name,
            table.name,
            "Subjects as the table gives them.",
            numbered,
            {name: rows[name].tolist() for name in columns},
            pictures.read(),
            None if identities is None else _identities(identities),
            notes=pictures.notes,
            name_row=name_row,
        ),
    )


@dataclass
class _Pictures:
    """Reads the image files, and collects facts about all of them."""

    source: Path
    paths: list[str]
    data: Data
    faults: list[str] = field(default_factory=list)
    turned: int = 0
    transparent: int = 0
    with_more: int = 0
    peak: float = 0.0
    assumed_white: float = 0.0
    cut_peak: float | None = None

    def read(self) -> Iterator[writing.Picture]:
        """Each file, verified to decode.

        Raises:
            DataError: after all were read: some cannot be decoded, or all would be read too dark.
        """
        for path in self.paths:
            try:
                picture = self._one(path)
            except DataError as error:
                self.faults.append(str(error))
                continue
            if not self.faults:  # after the first fault the rest is only checked
                yield picture
        if self.faults:
            unnamed = len(self.faults) - MOST_NAMED
            raise DataError(
                f"{len(self.faults)} of {len(self.paths)} image files cannot be read: "
                + "; ".join(self.faults[:MOST_NAMED])
                + (f"; and {unnamed} more" if unnamed > 0 else "")
            )
        if self.assumed_white:
            writing.refuse_dark(self.peak, self.assumed_white, "images of more than 8 bits")
        if self.cut_peak is not None and self.cut_peak < writing.DARK * 255:
            raise DataError(
                "colour images of 16 bits: none uses more than a quarter of the range, so all would"
                " be read nearly black; convert them to 8 bits"
            )

    def notes(self) -> list[str]:
        """Notes for the user to compare with the preprocessing of the model's training."""
        notes = []
        if self.turned:
            notes.append(
                f"{self.turned} images are to be turned by their EXIF or XMP data, and are "
                "(data.orientation=apply); torchvision's own loader does not turn them: if the "
                "model learned from that, set data.orientation=ignore"
            )
        if self.transparent:
            notes.append(
                f"{self.transparent} images have transparent pixels, which are laid on black "
                "(data.background=0); torchvision's own loader takes the colours as they are "
                "without transparency: if the model learned from that, set data.background=ignore"
            )
        if self.with_more:
            notes.append(
                f"{self.with_more} files hold several pictures, of which the first is the record"
            )
        return notes

    def _one(self, path: str) -> writing.Picture:
        content = files.read_regular(self.source / path, limit=images.MAX_BYTES, name=path)
        decoded = images.read(content, path)
        picture = images.decode(content, path, self.data)
        self.turned += decoded.turned
        self.with_more += decoded.has_more
        self.transparent += decoded.picture.has_transparency_data
        if decoded.white is not None and not decoded.stated and self.data.white is None:
            self.assumed_white = max(self.assumed_white, decoded.white)
            self.peak = max(self.peak, decoded.peak)
        if decoded.cut:
            self.cut_peak = max(self.cut_peak or 0.0, decoded.peak)
        extension = Path(path).suffix[1:].lower()
        extension = extension if re.fullmatch("[a-z0-9]{1,5}", extension) else "img"
        colour = picture.mode == "RGB" and not _is_grey(picture)
        return writing.Picture(content, extension, picture.size, colour)


def _identities(path: Path) -> str:
    table: pd.DataFrame = files.read_csv(path, directory.COLUMNS)[list(directory.COLUMNS)]
    return table.to_csv(index=False, lineterminator="\n")


def _is_grey(picture: Image.Image) -> bool:
    """Whether a colour picture shows only greys, as scans saved in colour do."""
    red, green, blue = picture.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()
