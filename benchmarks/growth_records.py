"""Measure what a data set costs by its number of records: reading the manifest, packing and loading
images.

For `check`, `split` and `resolve` a manifest is made up, ten records to a person, with a batch of
100 requests; there are no image files, only what `pack` would have found out. Every stage is a
process of its own, as DVC starts it. The images are Fashion-MNIST's, written as PNG files: they are
packed, and a block's records are loaded from the pack and, as before, from the files.

Example: python -m benchmarks.growth_records --rounds 5
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure, stand_in, worlds
from tasks import pack
from tasks.common import files, settings, stage_cli
from tasks.common.errors import WorkspaceError
from tasks.data import image_pack, images, records
from tasks.data.importers import classes, idx, writing

SIZES = [1_000, 10_000, 100_000, 1_000_000]
IMAGES = [1_000, 10_000, 60_000]
STAGES = {
    "check": "--data data --pack pack --requests requests.json --params params.yaml --out check",
    "split": "--data data --checked check/data.json --params params.yaml --out split.csv",
    "resolve": (
        "--data data --split split.csv --requests requests.json --checked check/requests.json "
        "--out resolve"
    ),
}
EACH, CLASSES, REQUESTS = 10, 10, 100
TRAINED = 0.64
"""Share of the records that a block of models is trained on, by the default split."""
KINDS = ("images-idx3", "labels-idx1")
LARGE = 200_000
"""Sizes above are measured in the first rounds only."""


def main(
    sizes: list[int] = SIZES,
    images: list[int] = IMAGES,
    rounds: int = 5,
    large_rounds: int = 2,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write the tables.

    Args:
        sizes: records of the synthetic manifests.
        images: records with real images; 60 000 at most.
        rounds: how often each size is measured.
        large_rounds: the same for more than 200 000 records.
        page: has the marks `growth records`.
        out: folder for the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        staged = {
            str(size): stages(workspace / f"m{size}", size, rounds, large_rounds) for size in sizes
        }
        loaded = {str(size): loading(workspace / f"i{size}", size, rounds) for size in images}
        saved = (
            pipeline(workspace / f"i{images[min(1, len(images) - 1)]}", rounds) if images else None
        )
    figures: dict[str, Any] = {"stages": staged, "images": loaded, "pipeline": saved}
    words = [*(f"--sizes {size}" for size in sizes), *(f"--images {size}" for size in images)]
    line = (
        f"python -m benchmarks.growth_records {' '.join(words)} --rounds {rounds} --large-rounds "
        f"{large_rounds}"
    )
    measure.write("growth records", line, figures, text(figures), page, out)


# -- a synthetic manifest -------------------------------------------------------------------------


def stages(workspace: Path, size: int, rounds: int, large_rounds: int) -> dict[str, Any]:
    """Time, processor time and memory of each stage, for one number of records."""
    synthetic(workspace, size)
    spent: dict[str, list[measure.Spent]] = {name: [] for name in STAGES}
    for number in range(large_rounds if size > LARGE else rounds):
        for name, words in STAGES.items():
            spent[name].append(
                measure.command([sys.executable, "-m", f"tasks.{name}", *words.split()], workspace)
            )
        seconds = sum(found[-1].seconds for found in spent.values())
        stage_cli.say(f"{size} records, round {number + 1}: {seconds:.1f} s")
    return {name: _spread(found) for name, found in spent.items()}


def synthetic(workspace: Path, size: int) -> None:
    """The stages' input: a manifest, facts about files that do not exist, settings and a batch."""
    random = np.random.default_rng(size)
    subjects = random.integers(0, max(size // EACH, 20), size)
    classes = random.integers(0, CLASSES, size)
    rows = (
        f"r{row:07d},{stand_in.subject_id(subject)},{label},"
        f"images/{row // 1000:04d}/r{row:07d}.png,"
        f"{hashlib.sha256(str(row).encode()).hexdigest()}\n"
        for row, (subject, label) in enumerate(
            zip(subjects.tolist(), classes.tolist(), strict=True)
        )
    )
    files.write_text(
        workspace / "data" / "manifest.csv", ",".join(records.COLUMNS) + "\n" + "".join(rows)
    )
    everybody = np.ones(size, bool)
    thumbs = random.integers(0, 256, (size, image_pack.THUMB**2), np.uint8)
    facts = image_pack.PackedFiles(everybody, everybody, everybody, thumbs)
    image_pack.write(workspace / "pack", workspace / "data", facts, np.zeros(size, np.uint32))
    files.write_text(workspace / "params.yaml", settings.defaults_yaml())
    asking = np.unique(subjects)[:REQUESTS].tolist()
    files.write_json(workspace / "requests.json", [stand_in.request(number) for number in asking])


# -- real images ----------------------------------------------------------------------------------


def loading(workspace: Path, size: int, rounds: int) -> dict[str, Any]:
    """The time to pack some images, and to load a block's share of them from the pack and from the
    files."""
    garments(workspace, size)
    words = "--data data --params params.yaml --out pack"
    spent = [
        measure.command([sys.executable, "-m", "tasks.pack", *words.split()], workspace)
        for _ in range(max(rounds, 1))
    ]
    ways = {"pack": partial(from_pack, workspace), "files": partial(from_files, workspace)}
    timings = measure.in_turns(
        {name: partial(measure.seconds, way) for name, way in ways.items()}, rounds
    )
    if not (from_pack(workspace) == from_files(workspace)).all():
        raise WorkspaceError("the pack holds other pixels than the files")
    return {
        "packing": _spread(spent),
        "megabytes": (workspace / "pack" / image_pack.IMAGES).stat().st_size / 1e6,
        **{name: measure.Spread.of(values).plain() for name, values in timings.items()},
        "ratio": measure.ratio(timings["files"], timings["pack"]).plain(),
    }


def garments(workspace: Path, size: int) -> None:
    """A data folder of the first images of Fashion-MNIST, ten to a person, as PNG files without
    compression."""
    source = worlds.DATASETS / "fashion_mnist"
    if not source.is_dir():
        raise WorkspaceError(
            f"{source} is not there; measure without images, or put Fashion-MNIST there"
        )
    pictures, labels = (idx.read_idx(source / f"train-{kind}-ubyte.gz")[:size] for kind in KINDS)
    writing.write(
        workspace / "data",
        writing.Source(
            name="Fashion-MNIST",
            source="benchmarks/growth_records.py",
            note="",
            classes=classes.from_codes(labels.tolist(), tuple(map(str, range(CLASSES)))),
            columns={
                "record_id": [f"r{row:05d}" for row in range(size)],
                "subject_id": [f"person-{row // EACH:04d}" for row in range(size)],
            },
            pictures=map(writing.encode, pictures),
        ),
    )
    files.write_text(workspace / "params.yaml", settings.defaults_yaml())
    settings.assign(workspace / "params.yaml", ["data.image_size=28"])


def block(size: int) -> NDArray[np.bool_]:
    """(n,) the records of a block."""
    return np.random.default_rng(0).random(size) < TRAINED


def from_pack(workspace: Path) -> NDArray[np.uint8]:
    """A block's images as the stages load them."""
    packed = image_pack.read(
        workspace / "pack", workspace / "data", settings.load(workspace / "params.yaml").data
    )
    return packed.images(block(len(packed.manifest)))


def from_files(workspace: Path) -> NDArray[np.uint8]:
    """A block's images as every stage loaded them before: each file read, compared with its hash
    and decoded."""
    data_settings = settings.load(workspace / "params.yaml").data
    manifest = records.read_manifest(workspace / "data")
    return np.stack(
        list(_decoded(workspace / "data", manifest[block(len(manifest))], data_settings))
    )


def _decoded(
    folder: Path, manifest: Any, data_settings: settings.Data
) -> Iterator[NDArray[np.uint8]]:
    for path, sha256 in zip(manifest["path"], manifest["sha256"], strict=True):
        content = (folder / path).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise WorkspaceError("a file is not what the manifest says")
        yield images.pixels(images.decode(content, "", data_settings), data_settings)


# -- a whole pipeline -----------------------------------------------------------------------------


def pipeline(workspace: Path, rounds: int) -> dict[str, Any]:
    """The time of all loads in an audit with the default settings: each from the files, or from a
    pack made once."""
    chosen = settings.load(workspace / "params.yaml")
    blocks = len(chosen.references.with_blocks) + len(chosen.references.without_blocks)
    loads = blocks + 3  # unlearn, probe and score

    def as_before() -> None:
        for _ in range(1 + loads):  # `check` decoded all, too
            from_files(workspace)

    def packed_once() -> None:
        pack.main(workspace / "data", workspace / "params.yaml", workspace / "pack")
        for _ in range(loads):
            from_pack(workspace)

    ways: dict[str, Callable[[], float]] = {
        "files": partial(measure.seconds, as_before),
        "pack": partial(measure.seconds, packed_once),
    }
    timings = measure.in_turns(ways, rounds)
    return {
        "loads": loads,
        "records": len(records.read_manifest(workspace / "data")),
        **{name: measure.Spread.of(values).plain() for name, values in timings.items()},
        "ratio": measure.ratio(timings["files"], timings["pack"]).plain(),
    }


# -- the tables -----------------------------------------------------------------------------------


def _spread(spent: Sequence[measure.Spent]) -> dict[str, Any]:
    return {
        kind: measure.Spread.of([getattr(one, kind) for one in spent]).plain()
        for kind in ("seconds", "cpu", "peak")
    }


def text(figures: dict[str, Any]) -> str:
    """The two tables, and the sentence on a whole pipeline."""
    parts = [of_stages(figures["stages"])]
    if figures["pipeline"]:
        parts += [of_images(figures["images"]), of_pipeline(figures["pipeline"])]
    return "\n\n".join(parts)


def of_stages(results: dict[str, Any]) -> str:
    """Each stage by the number of records, and all three."""
    head = ["records", *STAGES, "all three", "most memory", "runs"]
    rows = []
    for size, spent in results.items():
        seconds, cpu = (
            sum(spent[name][kind]["median"] for name in STAGES) for kind in ("seconds", "cpu")
        )
        peak = max(spent[name]["peak"]["median"] for name in STAGES)
        rows.append(
            [
                f"{int(size):,}".replace(",", " "),
                *(
                    _times(spent[name]["seconds"]["median"], spent[name]["cpu"]["median"])
                    for name in STAGES
                ),
                _times(seconds, cpu),
                f"{peak:.0f} MiB",
                f"{spent['check']['seconds']['runs']:.0f}",
            ]
        )
    return measure.table(head, rows)


def of_images(results: dict[str, Any]) -> str:
    """Packing and loading by the number of images."""
    head = [
        "images",
        "`pack`",
        "its memory",
        "array",
        "a block from the pack",
        "from the files",
        "times as long",
    ]
    rows = [
        [
            f"{int(size):,}".replace(",", " "),
            _times(one["packing"]["seconds"]["median"], one["packing"]["cpu"]["median"]),
            f"{one['packing']['peak']['median']:.0f} MiB",
            f"{one['megabytes']:.0f} MB",
            f"{one['pack']['median']:.2f} s",
            f"{one['files']['median']:.2f} s",
            f"{measure.Spread(**one['ratio']):.1f}",
        ]
        for size, one in results.items()
    ]
    return measure.table(head, rows)


def of_pipeline(results: dict[str, Any]) -> str:
    """The time of a whole audit's loading, as text."""
    return (
        f"All loads of an audit with the default settings on {results['records']} of these images "
        f"({results['loads']} and that of `check`): {results['files']['median']:.1f} s from the "
        f"files, {results['pack']['median']:.1f} s packed once and read from there, "
        f"{measure.Spread(**results['ratio']):.1f} times as fast."
    )


def _times(seconds: float, cpu: float) -> str:
    return f"{seconds:.1f} s ({cpu:.1f} s)"


if __name__ == "__main__":
    stage_cli.run(main)
