"""Is the original read as it is used? A model that does not know its own training records is not.

The wrong order of classes, another normalisation or another stem make a good model look like a bad
one, and an audit of what is left says nothing. So the original is scored on its own training
records and on unseen ones before anything is trained, and a model that fails stops the run. One
that is halfway right is tried in the common readings (`other_readings`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import seeds, stage_cli
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import TRAINED, Settings
from tasks.data import image_pack
from tasks.training import (
    checkpoints,
    compute,
    other_readings,
    reference_blocks,
    training_loop,
)

if TYPE_CHECKING:
    from torch import nn

MOST = 2048
"""Records of a kind that are scored; more would tell no more."""
SURE = 1e-3
"""A model that guesses is taken for one that knows its records at most so often."""
REORDERED = 0.2
"""Accuracy that another order of the classes has to gain before it is held for the right one."""
ADVICE = (
    "check the order of classes (docs/tutorial.md: the mapping that `import` prints), the "
    "preprocessing (model.mean, model.std or model.preset, data.image_size and how images are "
    "resized) and the architecture (model.name, model.stem); docs/models.md has the table"
)


@dataclass(frozen=True)
class OriginalCheck:
    """What the original knows of records that it was trained on, and of others.

    Attributes:
        training: share of its training records that it classifies rightly.
        unseen: the same of control, test and calibration records; None without any.
        majority: share of the commonest class among the training records.
        records: training records scored.
        right: of these, classified rightly.
        order: the order of classes under which it would be right most often, class i of the data
            being output `order[i]`.
        reordered: that share.
        other: the common reading under which it knows clearly more of its training records.
    """

    training: float
    unseen: float | None
    majority: float
    records: int
    right: int
    order: tuple[int, ...]
    reordered: float
    other: other_readings.OtherReading | None = None

    def fault(self, classes: int, least: float | None) -> str | None:
        """Why an audit of this model would say nothing; None where it may go on.

        Args:
            classes: number of classes.
            least: `original.accuracy`.
        """
        from scipy import stats

        seen = (
            f"the original has accuracy {self.training:.3f} on {self.records} of its own training "
            "records"
        )
        if self.unseen is not None:
            seen += f" and {self.unseen:.3f} on unseen ones"
        hint = f"; {self.other}" if self.other else ""
        explained = self.other.accuracy if self.other else 0.0
        if self.reordered > max(self.training + REORDERED, explained):
            return (
                f"{seen}, and {self.reordered:.3f} if the classes 0, 1, 2, … were its outputs "
                f"{', '.join(map(str, self.order))}: the order of classes of the data is not the "
                "model's"
            )
        guess = max(self.majority, 1 / classes)
        chance = float(stats.binom.sf(self.right - 1, self.records, guess))
        if chance > SURE:
            return (
                f"{seen}, no better than naming the commonest class ({self.majority:.3f}) or "
                f"guessing ({1 / classes:.3f}){hint}"
            )
        if least is not None and self.training < least:
            return f"{seen}, expected original.accuracy={least:g}{hint}"
        if least is None and self.other and self.other.is_right:
            return (
                f"{seen}{hint}. If the settings are right, set original.accuracy to what you "
                "measured yourself on training records"
            )
        return None


def judge(
    logits: NDArray[np.float32], labels: NDArray[np.int64], trained: NDArray[np.bool_]
) -> OriginalCheck:
    """Compare what a model says with the labels.

    Args:
        logits: (n, classes).
        labels: (n,), 0 … classes - 1.
        trained: (n,) which records it was trained on, at least one.
    """
    from scipy.optimize import linear_sum_assignment

    predicted, classes = logits.argmax(1), logits.shape[1]
    right = predicted == labels
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[trained], predicted[trained]), 1)
    rows, order = linear_sum_assignment(confusion, maximize=True)
    count = int(trained.sum())
    return OriginalCheck(
        training=float(right[trained].mean()),
        unseen=None if trained.all() else float(right[~trained].mean()),
        majority=float(np.bincount(labels[trained]).max() / count),
        records=count,
        right=int(right[trained].sum()),
        order=tuple(order.tolist()),
        reordered=float(confusion[rows, order].sum() / count),
    )


def brought(settings: Settings) -> bool:
    """Whether somebody brought the original along; else the stage `train` makes it."""
    return not settings.original.checkpoint.startswith(f"{TRAINED}/")


def measure(
    path: Path,
    network: nn.Module,
    packed: image_pack.Packed,
    roles: NDArray[np.str_],
    settings: Settings,
    backend: compute.Backend,
) -> OriginalCheck:
    """Score a model on a fixed random sample of its training records, and of the others.

    Args:
        path: its file; one that names the settings it was made for is not tried in other readings.
        network: the model.
        packed: the n records; images that could not be read are left out.
        roles: (n,) by the split, at least one training record.
        settings: of the batch.
        backend: where it is computed.

    Raises:
        DataError: a label is no class.
        EvidenceError: no training record can be read.
    """
    draw = np.random.default_rng(seeds.derive(settings.seed, "original", "check"))
    chosen = [
        draw.permutation(np.flatnonzero(part & packed.sound))[:MOST]
        for part in (roles == "training", roles != "training")
    ]
    if not len(chosen[0]):
        raise EvidenceError("no training record can be read, expected some to score the original")
    rows = _mask(np.concatenate(chosen), roles)
    records = reference_blocks.load_rows(rows, packed, settings, backend)
    logits = training_loop.logits(network, records)
    check = judge(logits, records.labels.cpu().numpy(), roles[rows] == "training")
    if checkpoints.names_its_settings(path):
        return check
    some = _mask(chosen[0][: other_readings.MOST], roles)
    seen = reference_blocks.load_rows(some, packed, settings, backend)
    return replace(check, other=other_readings.better(network, seen, settings))


def _mask(rows: NDArray[np.int64], roles: NDArray[np.str_]) -> NDArray[np.bool_]:
    mask = np.zeros(len(roles), np.bool_)
    mask[rows] = True
    return mask


def require(
    path: Path,
    network: nn.Module,
    packed: image_pack.Packed,
    roles: NDArray[np.str_],
    settings: Settings,
    backend: compute.Backend,
) -> None:
    """Score the original, and stop where an audit of it would say nothing.

    A model of the stage `train` is only held to `original.accuracy`: it cannot be misread.

    Args:
        path: its file.
        network: the original.
        packed: the n records.
        roles: (n,) by the split.
        settings: of the batch.
        backend: where it is computed.

    Raises:
        ModelError: it does not know its own training records; says what to check.
    """
    if not brought(settings) and settings.original.accuracy is None:
        return
    check = measure(path, network, packed, roles, settings, backend)
    fault = check.fault(settings.data.classes, settings.original.accuracy)
    if fault:
        raise ModelError(f"{settings.original.checkpoint}: {fault}; {ADVICE}")
    others = "" if check.unseen is None else f", {check.unseen:.3f} on unseen ones"
    stage_cli.say(
        f"original: accuracy {check.training:.3f} on {check.records} of its training records"
        f"{others}{f'; {check.other}' if check.other else ''}"
    )


def require_before_training(
    packed: image_pack.Packed, roles: NDArray[np.str_], settings: Settings
) -> None:
    """Check a model that somebody brought along before references are trained for it.

    The file is no dependency of these stages, because it changes nothing of what they make. Where
    it is not at hand, on another machine, the stages `unlearn` and `score` check it: it is theirs.

    Raises:
        ModelError: as `require`, or the file is no checkpoint of the architecture.
    """
    path = Path(settings.original.checkpoint)
    if brought(settings) and path.is_file():
        network = checkpoints.load_original(path, settings)
        require(path, network, packed, roles, settings, compute.prepare(settings.compute))
