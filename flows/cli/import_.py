"""The command `erasure-audit import`: one sub-command per kind of source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import workspace

if TYPE_CHECKING:
    from tasks.data.importers.writing import Summary

app = typer.Typer(rich_markup_mode=None)

Replace = Annotated[
    bool,
    typer.Option("--replace", help="Replace the existing data set."),
]

ClassFile = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="File with the classes in the order of the model's outputs: one name per line, or "
        "JSON as torchvision's class_to_idx. Default: numbers stay numbers, and names are sorted "
        "as by torchvision's ImageFolder.",
    ),
]

White = Annotated[
    float | None,
    typer.Option(
        min=1e-9,
        help="Value of white in images of more than 8 bits. Default: from the files.",
    ),
]

MOST_CLASSES = 40
"""Maximum number of classes that are listed after an import."""


@app.command()
def digits(
    writers: Annotated[int, typer.Option(min=2, help="Number of synthetic writers.")] = 45,
    replace: Replace = False,
) -> None:
    """scikit-learn's digits, assigned to synthetic writers.

    Example: erasure-audit import digits
    """
    folder = _target_folder(replace)
    if writers == 45:
        import_digits(folder)
        return
    from tasks.data.importers import digits as source

    _import(
        folder,
        lambda data: source.import_data(data, writers),
        f"digits of {writers} synthetic writers",
    )


@app.command()
def idx(
    images: Annotated[Path, typer.Argument(help="IDX file of images, plain or gzip.")],
    labels: Annotated[Path, typer.Argument(help="IDX file of labels, or a QMNIST table.")],
    writers: Annotated[
        Path | None,
        typer.Option(
            help="QMNIST table of writers; its first rows belong to the images. Default: each "
            "record is its own subject."
        ),
    ] = None,
    subjects: Annotated[int | None, typer.Option(min=1, help="Maximum number of subjects.")] = None,
    min_records: Annotated[
        int, typer.Option(min=1, help="Minimum number of records of a subject.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of subjects.")] = 0,
    class_file: ClassFile = None,
    replace: Replace = False,
) -> None:
    """IDX files, like MNIST's, with an optional table of writers.

    Example: erasure-audit import idx images-idx3-ubyte labels-idx2-int --writers labels-idx2-int
    """
    from tasks.data.importers import idx as source

    folder = _target_folder(replace)
    _import(
        folder,
        lambda data: source.import_data(
            data,
            images,
            labels,
            writers,
            subjects=subjects,
            min_records=min_records,
            seed=seed,
            class_names=_classes(class_file),
        ),
        "idx",
    )


@app.command()
def npz(
    path: Annotated[Path, typer.Argument(help="The archive.")],
    images: Annotated[str, typer.Option(help="Name of the array of images.")] = "images",
    labels: Annotated[str, typer.Option(help="Name of the array of labels.")] = "labels",
    subjects: Annotated[
        str, typer.Option(help="Name of the array of data subjects; '' makes each record its own.")
    ] = "subjects",
    maxval: Annotated[
        str | None, typer.Option(help="Name of the array with the value of white per image.")
    ] = None,
    white: White = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Name of an array to keep as a column. Repeatable.")
    ] = None,
    class_file: ClassFile = None,
    replace: Replace = False,
) -> None:
    """Named arrays of a .npz file.

    Example: erasure-audit import npz faces.npz --labels pose --subjects person
    """
    from tasks.data.importers import npz as source

    folder = _target_folder(replace)
    _import(
        folder,
        lambda data: source.import_data(
            data,
            path,
            images,
            labels,
            subjects or None,
            maxval=maxval,
            white=white,
            attributes=attribute or [],
            class_names=_classes(class_file),
        ),
        "npz",
    )


@app.command("folder")
def image_folder(
    images: Annotated[Path, typer.Argument(help="The folder of the images.")],
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV with path, subject_id, label, optionally record_id, split, attributes."
        ),
    ],
    identities: Annotated[
        Path | None, typer.Option(help="CSV with identity_type, identity_value, subject_id.")
    ] = None,
    white: White = None,
    class_file: ClassFile = None,
    replace: Replace = False,
) -> None:
    """A folder of images with a CSV of subjects and labels.

    Example: erasure-audit import folder photos photos.csv
    """
    from tasks.data.importers import folder as source

    folder = _target_folder(replace)
    _import(
        folder,
        lambda data: source.import_data(
            data, images, table, identities, white=white, class_names=_classes(class_file)
        ),
        "folder",
        white,
    )


@app.command()
def torchvision(
    name: Annotated[str, typer.Argument(help="Name of a data set of torchvision.datasets.")],
    root: Annotated[Path, typer.Option(help="Folder of its files.")] = Path("downloads"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch them if they are absent.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of records.")] = None,
    class_file: ClassFile = None,
    replace: Replace = False,
) -> None:
    """A data set of torchvision; each record is its own subject.

    Example: erasure-audit import torchvision FashionMNIST --download
    """
    from tasks.data.importers import torchvision as source

    folder = _target_folder(replace)
    _import(
        folder,
        lambda data: source.import_data(data, name, root, download, limit, _classes(class_file)),
        f"torchvision {name}",
    )


def import_digits(folder: Path) -> None:
    """Make the embedded data set in a workspace, with the mark that it can be made again."""
    from flows.workspace import layout
    from tasks.data.importers import digits as source

    _import(folder, source.import_data, layout.DIGITS)


def _import(
    folder: Path, bring: Callable[[Path], Summary], source: str, white: float | None = None
) -> None:
    """Import the records, write the facts of the data set into `params.yaml`, and have DVC track
    the records."""
    from flows.workspace import dvc_locks

    with dvc_locks.using(folder):
        summary = _write_in(folder, bring, source, white)
    for line in _summary_lines(summary):
        typer.echo(line, err=True)


def _write_in(
    folder: Path, bring: Callable[[Path], Summary], source: str, white: float | None
) -> Summary:
    from flows.workspace import layout
    from tasks.common import settings

    summary = bring(folder / "data")
    facts = {
        "classes": summary.classes,
        "channels": summary.channels,
        "image_size": summary.image_size,
        "white": "null" if white is None else white,
    }
    settings.assign(folder / "params.yaml", [f"data.{key}={value}" for key, value in facts.items()])
    layout.track_data(folder, source)
    return summary


def _summary_lines(summary: Summary) -> list[str]:
    """Lines for the user: counts, classes, and things to check."""
    lines = [
        f"{summary.records} records of {summary.subjects} subjects in {summary.classes} classes are"
        " in data/"
    ]
    as_numbers = summary.class_names == tuple(map(str, range(summary.classes)))
    names = (
        list(summary.class_names)
        if as_numbers
        else [f"{number} {name}" for number, name in enumerate(summary.class_names)]
    )
    if as_numbers:
        lines.append(f"classes: the numbers 0 … {summary.classes - 1}, as in the source")
    else:
        lines.append(f"classes, in the order of the model's outputs: {_shortened(names)}")
    if summary.absent:
        absent = [names[number] for number in summary.absent]
        lines.append(f"warning: no record is of class {_shortened(absent)}")
    return [*lines, *(f"note: {note}" for note in summary.notes)]


def _shortened(names: list[str]) -> str:
    rest = f", … (all {len(names)}: data/dataset.json)" if len(names) > MOST_CLASSES else ""
    return ", ".join(names[:MOST_CLASSES]) + rest


def _classes(path: Path | None) -> tuple[str, ...] | None:
    from tasks.data.importers import classes

    return None if path is None else classes.read(path)


def _target_folder(replace: bool) -> Path:
    """The workspace, if it may take a new data set."""
    from tasks.common.errors import WorkspaceError

    folder = workspace()
    if (folder / "data").exists() and not replace:
        raise WorkspaceError("data/ holds a data set already; --replace replaces it")
    return folder
