"""What a model says of every record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.common.settings import Settings
from tasks.data import image_pack
from tasks.training import compute, reference_blocks, training_loop
from tasks.verification import scoring
from tasks.verification.scoring import Floats, Ints

if TYPE_CHECKING:
    from torch import nn

BATCH = 512
"""Images that a model is shown at once."""
SLAB = 64 * 2**20
"""Pixels that are in memory at once, as whole batches; at least one."""


def of_all(
    network: nn.Module, packed: image_pack.Packed, settings: Settings, backend: compute.Backend
) -> tuple[Floats, Ints]:
    """The margins of all n records and the classes predicted, (n,) each. As many images at once as
    `SLAB` says."""
    size = max(1, SLAB // (BATCH * settings.data.channels * settings.data.image_size**2)) * BATCH
    slabs = (slice(first, first + size) for first in range(0, len(packed.manifest), size))
    logits = np.concatenate(
        [
            training_loop.logits(
                network, reference_blocks.load_rows(rows, packed, settings, backend), BATCH
            )
            for rows in slabs
        ]
    )
    labels = packed.manifest["label"].to_numpy(np.int64)
    return scoring.margins(logits, labels), logits.argmax(1).astype(np.int64)
