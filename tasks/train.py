"""Stage `train`: train models on everybody's records. It reads no request, so its models serve all
batches."""

from __future__ import annotations

from pathlib import Path

from tasks.common import settings, stage_cli
from tasks.data import image_pack, records
from tasks.training import original_check, reference_blocks


def main(block: int, data: Path, pack: Path, split: Path, params: Path, out: Path) -> None:
    """Train a block of models on all training records; seed 0 is the original model, the others are
    references.

    Example: python -m tasks.train --block 0 --data data --pack artifacts/pack --split
    artifacts/split.csv --params params.yaml --out artifacts/train/0
    """
    chosen = settings.load(params)
    packed = image_pack.read(pack, data, chosen.data)
    roles = records.read_roles(split, packed.manifest)
    original_check.require_before_training(packed, roles, chosen)
    reference_blocks.train_block("train", block, roles == "training", packed, chosen, out)


if __name__ == "__main__":
    stage_cli.run(main)
