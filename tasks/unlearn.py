"""Stage `unlearn`: remove the influence of the forget set from the original model."""

from __future__ import annotations

from pathlib import Path

from tasks.common import settings, stage_cli
from tasks.inspection.answers import AuditRecords
from tasks.unlearning import apply


def main(
    original: Path, data: Path, pack: Path, split: Path, forget: Path, params: Path, out: Path
) -> None:
    """Make the original model forget, by the method of `unlearn.method`.

    Example: python -m tasks.unlearn --original artifacts/train/0/seed-0.safetensors --data data
    --pack artifacts/pack --split artifacts/split.csv --forget artifacts/resolve/forget.csv --params
    params.yaml --out artifacts/unlearn

    Files are written only if the whole stage succeeds; an error leaves earlier results in place.
    """
    audit = AuditRecords(data, pack, split, forget, settings.load(params))
    apply.to_original(original, audit, out)


if __name__ == "__main__":
    stage_cli.run(main)
