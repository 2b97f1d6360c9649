"""The answers of models for the records of an audit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common.settings import Settings
from tasks.data import image_pack, records
from tasks.inspection import views
from tasks.training import compute, reference_blocks, training_loop
from tasks.verification import scoring
from tasks.verification.scoring import Floats, Ints, ModelScores, Strings

if TYPE_CHECKING:
    from torch import nn

BATCH = 512
"""Images that a model is shown at once."""
SLAB = 64 * 2**20
"""Pixels that are in memory at once, as whole batches; at least one."""


def margins_and_classes(
    network: nn.Module, packed: image_pack.Packed, settings: Settings, backend: compute.Backend
) -> tuple[Floats, Ints]:
    """The margins of all n records and the predicted classes, (n,) each, computed in parts of
    `SLAB`."""
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


@dataclass(frozen=True)
class AuditRecords:
    """The records of an audit, which its models are scored on.

    Attributes:
        data: folder of the data set.
        pack: its decoded images.
        split: the role of each record.
        forget: the records to forget.
        settings: of the audit, or of a rung of its ladder.
    """

    data: Path
    pack: Path
    split: Path
    forget: Path
    settings: Settings

    @cached_property
    def backend(self) -> compute.Backend:
        """Where the arithmetic is done."""
        return compute.prepare(self.settings.compute)

    @cached_property
    def packed(self) -> image_pack.Packed:
        """Manifest and pixels."""
        return image_pack.read(self.pack, self.data, self.settings.data)

    @cached_property
    def requests(self) -> Strings:
        """(n,) the request that asks to forget each record, or empty."""
        return records.read_forget(self.forget, self.packed.manifest)

    @cached_property
    def roles(self) -> Strings:
        """(n,) the role of each record."""
        return records.read_roles(self.split, self.packed.manifest)

    @property
    def labels(self) -> Ints:
        """(n,) the class of each record."""
        return self.packed.manifest["label"].to_numpy(np.int64)

    @cached_property
    def material(self) -> views.Material | None:
        """The input of the further views; None if no view is set."""
        return views.material(self.packed, self.roles, self.requests, self.settings, self.backend)

    def load(self, rows: NDArray[np.bool_]) -> training_loop.Records:
        """The images and labels of some records, ready for a model."""
        return reference_blocks.load_rows(rows, self.packed, self.settings, self.backend)

    def scores(self, network: nn.Module) -> ModelScores:
        """The scores of a model by its answers, and in the further views that are set."""
        margins, classes = margins_and_classes(network, self.packed, self.settings, self.backend)
        names = self.settings.verify.views if self.material else ()
        in_views: dict[str, Floats] = {
            name: views.score_all(name, network, self.material, self.requests, self.roles)
            for name in names
        }
        return ModelScores(margins, classes, in_views)

    def train(self, stage: str, block: int, out: Path) -> Iterator[Path]:
        """Train a block of references as the stage `train` or `retrain` does, and yield the path
        of each."""
        rows = self.roles == "training"
        if stage == "retrain":
            rows &= self.requests == ""
        reference_blocks.train_block(stage, block, rows, self.packed, self.settings, out)
        size = self.settings.references.seeds_per_block
        for number in range(block * size, (block + 1) * size):
            yield out / f"seed-{number}.safetensors"
