"""Import the embedded digits of synthetic writers."""

from __future__ import annotations

from pathlib import Path

from tasks.data import synthetic_digits
from tasks.data.importers import classes, writing


def import_data(folder: Path, writers: int = 45) -> writing.Summary:
    """Import the embedded digits of synthetic writers; the same bytes on every machine.

    Args:
        folder: the data folder to make.
        writers: number of synthetic writers.

    Raises:
        DataError: the folder holds something else than a data set.
    """
    images, labels, writer = synthetic_digits.make(writers)
    return writing.write(
        folder,
        writing.Source(
            name="Digits of synthetic writers",
            source="scikit-learn's digits (UCI Optical Recognition of Handwritten Digits), drawn by"
            " tasks/digits.py",
            note="The writers are synthetic: real digits dealt out to writers that do not exist.",
            classes=classes.number_classes(labels.tolist(), "digits"),
            columns={
                "record_id": writing.record_ids(len(labels)),
                "subject_id": [f"writer-{number + 1:02d}" for number in writer.tolist()],
            },
            pictures=map(writing.encode, images),
        ),
    )
