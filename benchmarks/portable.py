"""Compare the bits of a training under fixed instruction sets, and measure what fixing them costs.

Every row is a process of its own that trains the same model on the same records on one thread, so
the hash of its weights and its processor time belong to the row's environment alone. Two machines
agree where they print the same hash in the same row.

Example: python -m benchmarks.portable --world digits --world cifar
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, worlds
from tasks.common import portable, stage_cli
from tasks.common.errors import ModelError
from tasks.training import architectures, compute, training_loop

TRAIN = "train"
ROWS: dict[str, dict[str, str]] = {
    "as the processor comes": {},
    "ATen, AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "ATen and oneDNN, AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "portable": portable.VARIABLES,
    "SSE4.1": {
        **portable.VARIABLES,
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}
"""Environments by name; `portable` is what `compute.portable` sets."""


def main(
    world: list[str] = ["digits"],  # noqa: B006  # an option that may be given several times
    rounds: int = 5,
    epochs: int = 2,
    records: int = 0,
    row: list[str] = [],  # noqa: B006
    out: Path = measure.RESULTS,
    page: Path = Path("docs/models.md"),
) -> None:
    """Train in each environment, in turns, and put the table into the page.

    `row` names the environments to try; none given, all are.

    Example: python -m benchmarks.portable --world digits --row portable
    """
    rows: dict[str, Any] = {}
    chosen = {name: ROWS[name] for name in row or ROWS}
    for name in world:
        hashes: dict[str, str] = {}
        ways = {
            title: partial(_spent, title, variables, (name, epochs, records), hashes)
            for title, variables in chosen.items()
        }
        seconds = measure.in_turns(ways, rounds)
        first = next(iter(chosen))
        rows[name] = {
            title: {
                "weights": hashes[title],
                "cpu_seconds": measure.Spread.of(seconds[title]).plain(),
                "against_first": measure.ratio(seconds[title], seconds[first]).plain(),
            }
            for title in chosen
        }
    command = "python -m benchmarks.portable" + "".join(f" --world {name}" for name in world)
    measure.write("portable", command, {"worlds": rows}, _text(rows), page, out)


def _spent(
    title: str, variables: dict[str, str], task: tuple[str, int, int], hashes: dict[str, str]
) -> float:
    """Processor time of one training, s; its weights have to be those of the round before."""
    trained = _in_environment(variables, *task)
    if hashes.setdefault(title, trained["weights"]) != trained["weights"]:
        raise ModelError(f"{title}: two trainings on one machine came to different weights")
    return float(trained["cpu_seconds"])


def _in_environment(
    variables: dict[str, str], world: str, epochs: int, records: int
) -> dict[str, Any]:
    """The output of a process that trains with these environment variables and no others of their
    kind."""
    environment = {key: value for key, value in os.environ.items() if key not in portable.VARIABLES}
    words = [sys.executable, "-m", "benchmarks.portable", TRAIN, world, str(epochs), str(records)]
    done = subprocess.run(
        words, env={**environment, **variables}, stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def train(world: str, epochs: int, records: int) -> dict[str, Any]:
    """Train one model of the world's recipe here.

    Returns:
        The hash of its weights, their 16 first hexadecimal digits, and the processor time, s.
    """
    chosen = worlds.load(world)
    rows = np.flatnonzero(chosen.roles == "training")
    rows = rows[: records or len(rows)]
    one_thread = chosen.settings.compute.model_copy(update={"threads": 1, "device": "cpu"})
    backend = compute.prepare(one_thread)
    model, data = chosen.settings.model, chosen.settings.data
    training_records = training_loop.Records(
        chosen.images[rows], chosen.labels[rows], model, backend
    )
    network = architectures.build(model, data, seed=7)
    recipe = chosen.settings.train.model_copy(update={"epochs": epochs})
    began = time.process_time()
    training_loop.fit(network, training_records, recipe, seed=8)
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().contiguous().numpy().tobytes())
    return {"weights": digest.hexdigest()[:16], "cpu_seconds": time.process_time() - began}


def _text(rows: dict[str, Any]) -> str:
    lines = [
        [
            f"{world}: {title}",
            f"`{row['weights']}`",
            f"{row['cpu_seconds']['median']:.2f}",
            f"{measure.Spread(**row['against_first']):.2f}",
        ]
        for world, titles in rows.items()
        for title, row in titles.items()
    ]
    return measure.table(["environment", "weights", "processor s", "against the first"], lines)


if __name__ == "__main__":
    if sys.argv[1:2] == [TRAIN]:
        print(json.dumps(train(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        stage_cli.run(main)
