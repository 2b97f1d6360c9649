"""The command `erasure-audit import`: one sub-command per kind of source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tasks.data.importers import Summary

app = typer.Typer(
    help="Bring in the records that the model was trained on, as data/ with a manifest, tracked by DVC.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Replace = Annotated[
    bool,
    typer.Option("--replace", help="Put the new data set in the place of the one that is there."),
]


@app.command()
def digits(
    writers: Annotated[int, typer.Option(min=2, help="Number of synthetic writers.")] = 45,
    replace: Replace = False,
) -> None:
    """scikit-learn's digits, dealt out to synthetic writers.

    Example: erasure-audit import digits
    """
    folder = _place(replace)
    if writers == 45:
        bring_in_digits(folder)
        return
    from tasks.data import importers

    _bring_in(
        folder,
        lambda data: importers.digits(data, writers),
        f"digits of {writers} synthetic writers",
    )


@app.command()
def idx(
    images: Annotated[Path, typer.Argument(help="IDX file of images, plain or gzip.")],
    labels: Annotated[Path, typer.Argument(help="IDX file of labels, or a QMNIST table.")],
    writers: Annotated[
        Path | None,
        typer.Option(help="QMNIST table of writers. Without it each record is its own subject."),
    ] = None,
    subjects: Annotated[int | None, typer.Option(min=1, help="At most so many subjects.")] = None,
    min_records: Annotated[
        int, typer.Option(min=1, help="Only subjects with at least so many records.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of subjects.")] = 0,
    replace: Replace = False,
) -> None:
    """IDX files, as MNIST's, with an optional table of writers.

    Example: erasure-audit import idx images-idx3-ubyte labels-idx2-int --writers labels-idx2-int --subjects 60
    """
    from tasks.data import importers

    folder = _place(replace)
    _bring_in(
        folder,
        lambda data: importers.idx(
            data, images, labels, writers, subjects=subjects, min_records=min_records, seed=seed
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
    attribute: Annotated[
        list[str] | None, typer.Option(help="Name of an array kept as a column. Repeatable.")
    ] = None,
    replace: Replace = False,
) -> None:
    """Named arrays of a .npz file.

    Example: erasure-audit import npz faces.npz --labels pose --subjects person
    """
    from tasks.data import importers

    folder = _place(replace)
    _bring_in(
        folder,
        lambda data: importers.npz(
            data, path, images, labels, subjects or None, maxval=maxval, attributes=attribute or []
        ),
        "npz",
    )


@app.command("folder")
def image_folder(
    images: Annotated[Path, typer.Argument(help="The folder that the images lie in.")],
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV with path, subject_id, label, optionally record_id, split, attributes."
        ),
    ],
    identities: Annotated[
        Path | None, typer.Option(help="CSV with identity_type, identity_value, subject_id.")
    ] = None,
    replace: Replace = False,
) -> None:
    """A folder of images with a CSV of subjects and labels.

    Example: erasure-audit import folder photos photos.csv
    """
    from tasks.data import importers

    folder = _place(replace)
    _bring_in(
        folder, lambda data: importers.image_folder(data, images, table, identities), "folder"
    )


@app.command()
def torchvision(
    name: Annotated[str, typer.Argument(help="Name of a data set of torchvision.datasets.")],
    root: Annotated[Path, typer.Option(help="Where its files lie.")] = Path("downloads"),
    download: Annotated[
        bool, typer.Option("--download", help="Fetch them if they are absent.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None,
    replace: Replace = False,
) -> None:
    """A data set of torchvision; each record is its own subject.

    Example: erasure-audit import torchvision FashionMNIST --download
    """
    from tasks.data import importers

    folder = _place(replace)
    _bring_in(
        folder,
        lambda data: importers.torchvision_dataset(data, name, root, download, limit),
        f"torchvision {name}",
    )


def bring_in_digits(folder: Path) -> None:
    """Make the embedded data set in a workspace, marked as one that can be made again."""
    from flows.workspace import layout
    from tasks.data import importers

    _bring_in(folder, importers.digits, layout.DIGITS)


def _bring_in(folder: Path, bring: Callable[[Path], Summary], source: str) -> None:
    """Import, then write the facts of the data set into `params.yaml`, then have DVC track the
    records."""
    from flows.workspace import layout
    from tasks.common import settings

    facts = bring(folder / "data")
    settings.assign(
        folder / "params.yaml",
        [f"data.{key}={value}" for key, value in _facts(facts).items()],
    )
    layout.track_data(folder, source)
    typer.echo(
        f"{facts.records} records of {facts.subjects} subjects in {facts.classes} classes are in "
        "data/",
        err=True,
    )


def _facts(summary: Summary) -> dict[str, int]:
    return {
        "classes": summary.classes,
        "channels": summary.channels,
        "image_size": summary.image_size,
    }


def _place(replace: bool) -> Path:
    """The workspace, if it may take a new data set."""
    from flows.workspace import layout
    from tasks.common.errors import WorkspaceError

    folder = layout.find(Path.cwd())
    if (folder / "data").exists() and not replace:
        raise WorkspaceError(
            "data/ holds a data set already; --replace puts the new one in its place"
        )
    return folder
