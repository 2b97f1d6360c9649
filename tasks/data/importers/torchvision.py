"""Import a data set of `torchvision.datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.common.errors import DataError
from tasks.data.importers import classes, writing


def import_data(
    folder: Path,
    name: str,
    root: Path,
    download: bool = False,
    limit: int | None = None,
    class_names: tuple[str, ...] | None = None,
) -> writing.Summary:
    """Import the training part of a data set of `torchvision.datasets`; each record is its own
    subject.

    Args:
        folder: the data folder to make.
        name: name of the class, e.g. `FashionMNIST`.
        root: folder with its files.
        download: fetch them if they are absent (needs a network).
        limit: at most so many records, the first ones.
        class_names: names of the classes in order.

    Raises:
        DataError: no such data set, its files are absent, or its items are not pairs of an image
            and a class.
    """
    data = _opened(name, root, download)
    count = min(len(data), limit or len(data))
    labels = _targets(data)[:count] or [_whole(data[row][1], name) for row in range(count)]
    source_names = tuple(map(str, getattr(data, "classes", ())))
    numbered = classes.number_classes(
        labels,
        f"torchvision.datasets.{name}",
        lambda row: f"item {row}",
        class_names,
        source_names if len(source_names) > max(labels, default=0) else None,
    )
    return writing.write(
        folder,
        writing.Source(
            name,
            f"torchvision.datasets.{name}",
            writing.subject_note(False),
            numbered,
            {"record_id": writing.record_ids(count), "subject_id": writing.own_subjects(count)},
            (_from_pillow(data[row][0], name) for row in range(count)),
        ),
    )


def _opened(name: str, root: Path, download: bool) -> Any:
    import inspect

    import torchvision

    kind = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, torchvision.datasets.VisionDataset)):
        raise DataError(
            f"got {name!r}, expected the name of a data set in torchvision.datasets, e.g. "
            "FashionMNIST"
        )
    accepted = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {
        "root": str(root),
        "train": True,
        "split": "train",
        "download": download,
    }
    try:
        return kind(**{key: value for key, value in arguments.items() if key in accepted})
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
            f"torchvision.datasets.{name}: its targets are not class labels; choose one for "
            "classification"
        ) from error


def _from_pillow(picture: Any, name: str) -> writing.Picture:
    from PIL import Image

    if not isinstance(picture, Image.Image):
        raise DataError(
            f"torchvision.datasets.{name}: its items are not images; choose a data set for image "
            "classification"
        )
    if picture.mode[0] in "IF":
        raise DataError(
            f"torchvision.datasets.{name}: its images have more than 8 bits; save them as files, "
            "and import these with `import folder`"
        )
    mode = "L" if picture.mode in ("L", "1") else "RGB"
    return writing.encode(np.asarray(picture.convert(mode)))
