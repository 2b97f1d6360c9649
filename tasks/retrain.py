"""Stage `retrain`: train models without the forget set, by the recipe of `train`."""

from __future__ import annotations

from pathlib import Path

from tasks.common import settings, stage_cli
from tasks.data import image_pack, records
from tasks.training import original_check, reference_blocks


def main(
    block: int, data: Path, pack: Path, split: Path, forget: Path, params: Path, out: Path
) -> None:
    """Train a block of models on the retain set; seed 0 is the retrain baseline, the others are
    references.

    Example: python -m tasks.retrain --block 0 --data data --pack artifacts/pack --split
    artifacts/split.csv --forget artifacts/resolve/forget.csv --params params.yaml --out
    artifacts/retrain/0
    """
    chosen = settings.load(params)
    packed = image_pack.read(pack, data, chosen.data)
    roles = records.read_roles(split, packed.manifest)
    original_check.require_before_training(packed, roles, chosen)
    retained = (roles == "training") & (records.read_forget(forget, packed.manifest) == "")
    reference_blocks.train_block("retrain", block, retained, packed, chosen, out)


if __name__ == "__main__":
    stage_cli.run(main)
