"""What an audit measured once and cannot measure again: cost and circumstances, kept in git under
`ledger/`.

A second run of the same stage takes other seconds, and an audit that is reproduced must give the
same files. So a measurement belongs to what was measured: the cost of a model is filed under the
hash of its weights, the first one stands, and whoever makes the same weights again reads it back
instead of writing his own.
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
    """File what it cost to make a model, or return the cost already on file.

    Args:
        activity: `train`, `retrain` or `unlearn` (unlearning by `none` makes the original's weights
            again, for less).
        weights_sha256: hash of the model's safetensors file.
        measured: what this run measured: `seconds` (wall clock, s), `device`, `threads`,
            `precision`, `torch`.
        folder: where the files lie.

    Returns:
        The cost on file, with `weights_sha256`.

    Raises:
        AuditError: the hash is none.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        raise AuditError(
            f"got {weights_sha256!r} as the hash of a model, expected 64 hexadecimal digits"
        )
    path = folder / f"{activity}-{weights_sha256[:32]}.json"
    if path.exists():
        on_file: dict[str, Any] = files.read_json(path)
        return on_file
    record = {**measured, "weights_sha256": weights_sha256}
    files.write_json(path, record)
    return record
