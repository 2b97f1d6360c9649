"""Measure what an audit's last stages cost by the number of reference models: time, processor time,
memory.

The data are the embedded digits, of which three people ask. The models are `small_cnn` with fresh
weights, which take the same time as trained ones; the verdicts mean nothing.

Example: python -m benchmarks.growth_references --references 8 --references 64 --rounds 5
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import growth_requests, measure, stand_in
from tasks.common import files, settings, stage_cli
from tasks.data import records

SIZES = [8, 16, 32, 64]
STAGES = ("score", "probe", "verify")
BLOCK = 8
ASKING = 3
MODELS = Path("models")
"""Folder of the models of the largest size; those of one size are links to some of them."""


def main(
    references: list[int] = SIZES,
    rounds: int = 5,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write the table.

    Args:
        references: sizes, models of each kind, multiples of 8.
        rounds: how often each size is measured.
        page: has the marks `growth references`.
        out: folder for the figures.
    """
    spent: dict[str, dict[str, list[measure.Spent]]] = {
        str(size): {name: [] for name in STAGES} for size in references
    }
    with tempfile.TemporaryDirectory() as folder:
        workspace = world(Path(folder), max(references))

        def take(size: int) -> float:
            choose(workspace, size)
            spent_by_stage = {name: growth_requests.command(workspace, name) for name in STAGES}
            for name, spent_here in spent_by_stage.items():
                spent[str(size)][name].append(spent_here)
            return sum(one.seconds for one in spent_by_stage.values())

        totals = measure.in_turns({str(size): partial(take, size) for size in references}, rounds)
    figures: dict[str, Any] = growth_requests.figures_of(totals, spent)
    words = " ".join(f"--references {size}" for size in references)
    line = f"python -m benchmarks.growth_references {words} --rounds {rounds}"
    heads = [f"{size} of each kind" for size in references]
    measure.write(
        "growth references",
        line,
        figures,
        growth_requests.table(figures, heads, "one more of each kind"),
        page,
        out,
    )


def world(workspace: Path, most: int) -> Path:
    """A workspace with digits, a split, three requests, and fresh models of both kinds.

    Args:
        workspace: an empty folder.
        most: models of each kind, a multiple of 8.
    """
    from flows.workspace import layout
    from tasks.common import seeds
    from tasks.data.importers import digits
    from tasks.training import architectures, checkpoints

    layout.init(workspace)
    digits.import_data(workspace / "data")
    ask(workspace, ["writer-03"])
    for name in ("pack", "check", "split"):
        growth_requests.command(workspace, name)
    manifest = records.read_manifest(workspace / "data")
    training = records.read_roles(workspace / "artifacts" / "split.csv", manifest) == "training"
    ask(workspace, sorted(set(manifest["subject_id"][training]))[:ASKING])
    growth_requests.command(workspace, "resolve")
    chosen = settings.load(workspace / "params.yaml")

    def fresh(path: Path, *names: str | int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save(
            architectures.build(chosen.model, chosen.data, seeds.derive(0, *names)), path
        )

    for number in range(most):
        for kind in ("train", "retrain"):
            fresh(
                workspace / MODELS / kind / str(number // BLOCK) / f"seed-{number}.safetensors",
                kind,
                number,
            )
    fresh(workspace / "artifacts" / "unlearn" / "unlearned.safetensors", "unlearn")
    files.write_json(workspace / "artifacts" / "unlearn" / "unlearned.json", {})
    return workspace


def ask(workspace: Path, subjects: list[str]) -> None:
    """Write the requests of some people."""
    requests = [stand_in.request(number) for number in range(len(subjects))]
    for request, subject in zip(requests, subjects, strict=True):
        request["subject_identities"][0]["identity_value"] = subject
    files.write_json(workspace / "requests" / "demo.json", requests)


def choose(workspace: Path, size: int) -> None:
    """Set the number of references of each kind."""
    blocks = list(range(size // BLOCK))
    keys = [f"references.{kind}_blocks={blocks}" for kind in ("with", "without")]
    settings.assign(workspace / "params.yaml", [f"references.seeds_per_block={BLOCK}", *keys])
    for kind in ("train", "retrain"):
        folder = workspace / "artifacts" / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for block in blocks:
            (folder / str(block)).symlink_to(workspace / MODELS / kind / str(block))


if __name__ == "__main__":
    stage_cli.run(main)
