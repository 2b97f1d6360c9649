"""Measure what the stage `unlearn` costs, as a share of one retrain by the same stage.

Whole stages are run as the pipeline runs them: a process starts, imports, reads the records and the
model, computes and writes. Beside that stands the compute alone, as the stage measures it, and a
stage that computes nothing, which is what every stage pays. Processor time is the fairer measure on
a machine with other work.

Example: python -m benchmarks.unlearning --world digits --world faces
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, worlds
from benchmarks.measure import Spread
from benchmarks.worlds import World
from tasks import pack
from tasks.common import files, settings, stage_cli
from tasks.data.importers import classes, writing
from tasks.training import architectures, checkpoints, compute, training_loop

UNLEARN, RETRAIN, NOTHING = "fcalb", "retrain", "none"
METHODS = (UNLEARN, RETRAIN, NOTHING)


def main(
    world: list[str] = ["digits"],  # noqa: B006  # an option that may be given several times
    rounds: int = 5,
    epochs: int = 0,
    out: Path = measure.RESULTS,
    page: Path = measure.PAGE,
) -> None:
    """Unlearn and retrain in turns on each world, and put its row into the page.

    Example: python -m benchmarks.unlearning --world digits --world faces
    """
    path = out / "unlearning.json"
    for name in world:
        rows = files.read_json(path)["worlds"] if path.exists() else {}
        rows[f"{name}, {epochs} epochs" if epochs else name] = measured(
            worlds.load(name), rounds, epochs
        )
        measure.write("unlearning", _line(rows), {"worlds": rows}, text(rows), page, out)


def _line(rows: dict[str, dict[str, Any]]) -> str:
    """The commands that give these rows: one for the worlds' own recipes, one for each other
    length."""
    worlds_by_epochs: dict[int, str] = {}
    for row in rows.values():
        worlds_by_epochs[row["asked_epochs"]] = (
            worlds_by_epochs.get(row["asked_epochs"], "") + f" --world {row['world']}"
        )
    return " && ".join(
        f"python -m benchmarks.unlearning{names}" + f" --epochs {epochs}" * bool(epochs)
        for epochs, names in worlds_by_epochs.items()
    )


def measured(world: World, rounds: int, epochs: int = 0) -> dict[str, Any]:
    """The figures of one world; its records are in a temporary folder meanwhile."""
    chosen = world.settings
    if epochs:
        chosen = chosen.model_copy(
            update={"train": chosen.train.model_copy(update={"epochs": epochs})}
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(world, chosen, folder)
        timings: dict[str, dict[str, list[float]]] = {
            method: defaultdict(list) for method in METHODS
        }
        ways = {
            method: partial(_run, folder, chosen, method, timings[method]) for method in METHODS
        }
        measure.in_turns(ways, rounds)
    shares = {
        what: measure.ratio(timings[UNLEARN][what], timings[RETRAIN][what]).plain()
        for what in ("cpu", "wall", "compute")
    }
    return {
        "about": world.about,
        "world": world.name,
        "asked_epochs": epochs,
        "epochs": chosen.train.epochs,
        "share": shares,
        **{
            method: {what: Spread.of(values).plain() for what, values in by.items()}
            for method, by in timings.items()
        },
    }


def lay_out(world: World, chosen: settings.Settings, folder: Path) -> None:
    """Write the stage's input: data, split, forget set and the original model."""
    count = len(world.labels)
    ids = [f"r{number:05d}" for number in range(count)]
    subjects = [f"person-{number:04d}" for number in world.subjects.tolist()]
    pixels = world.images.transpose(0, 2, 3, 1)
    writing.write(
        folder / "data",
        writing.Source(
            name=world.name,
            source="benchmarks/worlds.py",
            note="",
            classes=classes.from_codes(
                world.labels.tolist(), tuple(map(str, range(chosen.data.classes)))
            ),
            columns={"record_id": ids, "subject_id": subjects},
            pictures=(writing.encode(image.squeeze()) for image in pixels),
        ),
    )
    pack.make(folder / "data", chosen.data, folder / "pack")
    requests = world.requests(0)
    _table(folder / "split.csv", "role", zip(ids, world.roles.tolist(), strict=True))
    forgotten = zip(
        np.array(ids)[requests != ""].tolist(), requests[requests != ""].tolist(), strict=True
    )
    _table(folder / "forget.csv", "request_id", forgotten)
    training_records = training_loop.Records(
        world.images[world.roles == "training"],
        world.labels[world.roles == "training"],
        chosen.model,
        compute.prepare(chosen.compute),
    )
    _params(folder, chosen)
    original = architectures.build(chosen.model, chosen.data, seed=1)
    training_loop.fit(original, training_records, chosen.train, seed=1)
    checkpoints.save(original, folder / "original.safetensors")


def _table(path: Path, column: str, rows: Any) -> None:
    files.write_text(
        path, "".join([f"record_id,{column}\n", *(f"{one},{other}\n" for one, other in rows)])
    )


def _params(folder: Path, chosen: settings.Settings) -> None:
    from ruamel.yaml import YAML

    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(chosen.model_dump(mode="json"), stream)


def _run(
    folder: Path, chosen: settings.Settings, method: str, timings: dict[str, list[float]]
) -> float:
    """Run the stage once. Returns its processor time, s."""
    unlearn = chosen.unlearn.model_copy(update={"method": method})
    _params(folder, chosen.model_copy(update={"unlearn": unlearn}))
    shutil.rmtree(
        folder / "ledger", ignore_errors=True
    )  # else the first round's seconds would stand
    words = (
        "--original original.safetensors --data data --pack pack --split split.csv --forget "
        "forget.csv"
    )
    spent = measure.command(
        [
            sys.executable,
            "-m",
            "tasks.unlearn",
            *words.split(),
            "--params",
            "params.yaml",
            "--out",
            "out",
        ],
        folder,
    )
    timings["cpu"].append(spent.cpu)
    timings["wall"].append(spent.seconds)
    timings["compute"].append(files.read_json(folder / "out" / "unlearned.json")["seconds"])
    return spent.cpu


def text(rows: dict[str, dict[str, Any]]) -> str:
    """The table, a row per world."""
    head = ["data", "unlearn, s", "retrain, s", "a stage that computes nothing, s"]
    head += ["share of a retrain", "share, compute alone"]
    lines = [
        [
            f"{row['world']}: {row['epochs']} epochs",
            *(f"{row[method]['cpu']['median']:.1f}" for method in METHODS),
            f"{Spread(**row['share']['cpu']):.0%}",
            f"{Spread(**row['share']['compute']):.0%}",
        ]
        for row in rows.values()
    ]
    return measure.table(head, lines)


if __name__ == "__main__":
    stage_cli.run(main)
