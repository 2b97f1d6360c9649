"""Stage `retrain`: models trained without the forget set, by the recipe of `train`."""

from __future__ import annotations

from pathlib import Path

from tasks import blocks, records, settings, stage


def main(block: int, data: Path, split: Path, forget: Path, params: Path, out: Path) -> None:
    """Train a block of models on the retain set; seed 0 is the retrain baseline, the others are references.

    Example: python -m tasks.retrain --block 0 --data data --split artifacts/split.csv
    --forget artifacts/resolve/forget.csv --params params.yaml --out artifacts/retrain/0
    """
    manifest = records.read_manifest(data)
    retained = (records.read_roles(split, manifest) == "training") & (records.read_forget(forget, manifest) == "")
    blocks.train_block("retrain", block, retained, data, settings.load(params), out)


if __name__ == "__main__":
    stage.run(main)
