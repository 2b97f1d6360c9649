"""Measured costs, kept in git under `ledger/` so that a reproduced audit gives the same files.

A second run of a stage takes different time. So the cost of a model is filed under the hash of its
weights and never overwritten: a run that makes the same weights reads it back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.common import files
from tasks.common.errors import AuditError

MODELS = Path("ledger/models")
BATCHES = Path("ledger/batches")


def keep(
    activity: str, weights_sha256: str, measured: dict[str, Any], folder: Path = MODELS
) -> dict[str, Any]:
    """File the cost of making a model, or return the cost already on file.

    Args:
        activity: `train`, `retrain` or `unlearn`; part of the key, because unlearning by `none`
            gives the original's weights at another cost.
        weights_sha256: hash of the model's safetensors file.
        measured: the figures of this run: `seconds` (wall clock, s), `device`, `threads`,
            `precision`, `torch`.
        folder: where the files lie.

    Returns:
        The cost on file, with `weights_sha256`.

    Raises:
        AuditError: `weights_sha256` is not a hash.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        raise AuditError(
            f"got {weights_sha256!r} as a model's hash, expected 64 hexadecimal digits"
        )
    path = folder / f"{activity}-{weights_sha256[:32]}.json"
    if path.exists():
        on_file: dict[str, Any] = files.read_json(path)
        return on_file
    record = {**measured, "weights_sha256": weights_sha256}
    files.write_json(path, record)
    return record
