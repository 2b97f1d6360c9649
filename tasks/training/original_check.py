"""Checks that the original is read correctly: it must know its own training records.

With a wrong order of classes, normalisation or stem a good model looks bad, and its audit is
worthless. So the original is scored on its own training records and on unseen ones before anything
is trained, and a model that fails stops the run. A model that is halfway right is tried with other
common preprocessing (`other_readings`).
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
"""Most records of a kind to score; more would not change the answer."""
SURE = 1e-3
"""Largest probability that a guessing model seems to know its records."""
REORDERED = 0.2
"""Accuracy that another order of the classes has to gain to count as the right one."""
ADVICE = (
    "check the order of classes (docs/tutorial.md: the mapping that `import` prints), the "
    "preprocessing (model.mean, model.std or model.preset, data.image_size and how images are "
    "resized) and the architecture (model.name, model.stem); docs/models.md has the table"
)


@dataclass(frozen=True)
class OriginalCheck:
    """How well the original classifies its training records, and others.

    Attributes:
        training: accuracy on its training records.
        unseen: accuracy on control, test and calibration records; None without any.
        majority: share of the commonest class among the training records.
        records: training records scored.
        right: of these, classified correctly.
        order: the order of classes with the highest accuracy: class i of the data is output
            `order[i]`.
        reordered: that accuracy.
        other: the common preprocessing under which it is clearly better, if any.
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
        """The reason why an audit of this model would be worthless; None if it can go on.

        Args:
            classes: number of classes.
            least: `original.accuracy`.
        """
        from scipy import stats

        finding = (
            f"the original has accuracy {self.training:.3f} on {self.records} of its own training "
            "records"
        )
        if self.unseen is not None:
            finding += f" and {self.unseen:.3f} on unseen ones"
        hint = f"; {self.other}" if self.other else ""
        explained = self.other.accuracy if self.other else 0.0
        if self.reordered > max(self.training + REORDERED, explained):
            return (
                f"{finding}, and {self.reordered:.3f} if the classes 0, 1, 2, … were its outputs "
                f"{', '.join(map(str, self.order))}: the order of classes of the data is not the "
                "model's"
            )
        guess = max(self.majority, 1 / classes)
        chance = float(stats.binom.sf(self.right - 1, self.records, guess))
        if chance > SURE:
            return (
                f"{finding}, no better than naming the commonest class ({self.majority:.3f}) or "
                f"guessing ({1 / classes:.3f}){hint}"
            )
        if least is not None and self.training < least:
            return f"{finding}, expected original.accuracy={least:g}{hint}"
        if least is None and self.other and self.other.is_right:
            return (
                f"{finding}{hint}. If the settings are right, set original.accuracy to what you "
                "measured yourself on training records"
            )
        return None


def judge(
    logits: NDArray[np.float32], labels: NDArray[np.int64], trained: NDArray[np.bool_]
) -> OriginalCheck:
    """Compare a model's answers with the labels.

    Args:
        logits: (n, classes).
        labels: (n,), 0 … classes - 1.
        trained: (n,) which records it was trained on, at least one.
    """
    from scipy.optimize import linear_sum_assignment

    predicted, classes = logits.argmax(1), logits.shape[1]
    is_right = predicted == labels
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[trained], predicted[trained]), 1)
    rows, order = linear_sum_assignment(confusion, maximize=True)
    count = int(trained.sum())
    return OriginalCheck(
        training=float(is_right[trained].mean()),
        unseen=None if trained.all() else float(is_right[~trained].mean()),
        majority=float(np.bincount(labels[trained]).max() / count),
        records=count,
        right=int(is_right[trained].sum()),
        order=tuple(order.tolist()),
        reordered=float(confusion[rows, order].sum() / count),
    )


def is_users_own(settings: Settings) -> bool:
    """Whether the original is the user's own; else the stage `train` makes it."""
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
        path: its file; if it records the settings it was made for, no other preprocessing is tried.
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
    tried_rows = _mask(chosen[0][: other_readings.MOST], roles)
    tried_records = reference_blocks.load_rows(tried_rows, packed, settings, backend)
    return replace(check, other=other_readings.better(network, tried_records, settings))


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
    """Score the original, and stop if its audit would be worthless.

    A model of the stage `train` cannot be misread, so only `original.accuracy` is checked.

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
    if not is_users_own(settings) and settings.original.accuracy is None:
        return
    check = measure(path, network, packed, roles, settings, backend)
    fault = check.fault(settings.data.classes, settings.original.accuracy)
    if fault:
        raise ModelError(f"{settings.original.checkpoint}: {fault}; {ADVICE}")
    on_unseen = "" if check.unseen is None else f", {check.unseen:.3f} on unseen ones"
    stage_cli.say(
        f"original: accuracy {check.training:.3f} on {check.records} of its training records"
        f"{on_unseen}{f'; {check.other}' if check.other else ''}"
    )


def require_before_training(
    packed: image_pack.Packed, roles: NDArray[np.str_], settings: Settings
) -> None:
    """Check the user's own model before references are trained for it.

    The file is not a dependency of these stages, because their results do not depend on it. On a
    machine without the file, the check is left to the stages `unlearn` and `score`.

    Raises:
        ModelError: as `require`, or the file is no checkpoint of the architecture.
    """
    path = Path(settings.original.checkpoint)
    if is_users_own(settings) and path.is_file():
        network = checkpoints.load_original(path, settings)
        require(path, network, packed, roles, settings, compute.prepare(settings.compute))
