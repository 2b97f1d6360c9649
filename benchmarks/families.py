"""Try which classifiers of torchvision can be tapped: each is built, untrained, and shown one
image.

Example: python -m benchmarks.families
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import kept, measure
from benchmarks.study import versions
from tasks.common import files, settings, stage_cli
from tasks.common.errors import ModelError
from tasks.training import architectures, compute

SIDES = (64, 96, 224)
"""Image sides to try, pixels: the first that the model takes counts."""


@dataclass(frozen=True)
class Family:
    """One classifier of torchvision."""

    name: str


def main(
    jobs: int = 1,
    keep: Path = Path(".benchmarks/families"),
    out: Path = Path("benchmarks/results"),
    page: Path = Path("docs/models.md"),
) -> None:
    """Write the table of what can be tapped into docs/models.md. The largest models take 3 GB of
    memory."""
    from torchvision import models as zoo

    trials = [Family(name) for name in zoo.list_models(zoo)]
    result = {
        "command": "python -m benchmarks.families",
        "models": kept.each(trials, attempt, keep, jobs, "families"),
        "versions": versions() | {"torchvision": _version("torchvision")},
    }
    files.write_json(out / "families.json", result)
    measure.insert(page, "families", table(result))


def attempt(trial: Family) -> dict[str, Any]:
    """Build a classifier for the smallest images that it takes, and count its taps."""
    import torch

    compute.prepare(settings.Compute())
    error = ""
    for side in SIDES:
        data = settings.Data(classes=10, channels=3, image_size=side)
        try:
            network = architectures.build(settings.Model(name=trial.name), data, seed=0).eval()
            image = torch.zeros(1, 3, side, side)
            with torch.no_grad():
                shapes = [
                    list(part.shape[1:])
                    for part in architectures.Taps(network, "all", image)(image)[1]
                ]
        except ModelError as refused:
            error = str(refused)
            continue
        weights = sum(weight.numel() for weight in network.parameters())
        return {"name": trial.name, "weights": weights, "side": side, "taps": shapes, "error": None}
    return {"name": trial.name, "weights": None, "side": None, "taps": [], "error": error}


def table(result: dict[str, Any]) -> str:
    """The counts as Markdown."""
    versions = result["versions"]
    lines = [
        "| model | weights, million | side, pixels | taps: `last` | taps: `all` | classifier's "
        "input |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family in result["models"]:
        if family["error"]:
            lines.append(
                f"| {family['name']} | | | none | none | {family['error'].replace('|', ' ')} |"
            )
            continue
        shape = " × ".join(map(str, family["taps"][-1]))
        lines.append(
            f"| {family['name']} | {family['weights'] / 1e6:.1f} | {family['side']} | 1 | "
            f"{len(family['taps'])} | {shape} |"
        )
    lines += [
        "",
        f"`{result['command']}` "
        f"(torch {versions['torch']}, torchvision {versions['torchvision']}).",
        "",
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    stage_cli.run(main)
