"""Tries other common preprocessing for a model that hardly knows its training records.

A model that sees pixels in another range than in training, or colours in another order, is often
halfway right: well above chance, and well below its true accuracy. So common alternatives are
tried. If the settings are right, no alternative is much better, unless the model is hardly trained:
after a few dozen steps its batch-norm statistics do not yet match its data. docs/models.md has
measurements.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import settings
from tasks.training import architectures, preprocessing, training_loop

if TYPE_CHECKING:
    from torch import nn

MOST = 512
"""Training records to try each alternative on."""
GAIN = 0.15
"""Accuracy on training records that an alternative has to gain."""
KNOWN = 0.8
"""Least accuracy on training records for an alternative to count as the right one."""
SURE = 1e-6
"""Level of McNemar's exact test that an alternative is better."""

_Constants = tuple[float | tuple[float, ...], float | tuple[float, ...]]

COLOUR: dict[str, _Constants] = {
    "torchvision's weights": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
}
GREY: dict[str, _Constants] = {
    "MNIST": (0.1307, 0.3081),
    "Fashion-MNIST": (0.286, 0.353),
    "torchvision's weights in grey": (0.449, 0.226),
}
EITHER: dict[str, _Constants] = {
    "pixels in -1 … 1": (0.5, 0.5),
    "pixels in 0 … 1": (0.0, 1.0),
    "pixels in 0 … 255": (0.0, 1 / 255),
}
"""Common values of mean and std, by their origin."""


@dataclass(frozen=True)
class OtherReading:
    """A preprocessing under which a model is clearly better on its training records.

    Attributes:
        advice: the settings to change.
        records: training records that were tried.
        configured: accuracy on them under the settings.
        accuracy: accuracy on them under this reading.
    """

    advice: str
    records: int
    configured: float
    accuracy: float

    def __str__(self) -> str:
        return (
            f"with {self.advice} it is right on {self.accuracy:.3f} of {self.records} training "
            f"records instead of {self.configured:.3f}"
        )

    @property
    def is_right(self) -> bool:
        """Whether its accuracy suggests that the model was trained this way."""
        return self.accuracy >= KNOWN


def better(
    network: nn.Module, training_records: training_loop.Records, chosen: settings.Settings
) -> OtherReading | None:
    """The common preprocessing under which a model is best on its training records; None if it is
    not clearly better than that of the settings.

    Args:
        network: the model as the settings read it.
        training_records: n of its training records.
        chosen: `model` and `data`.
    """
    is_right = _right(network, training_records)
    if is_right.mean() > 1 - GAIN:
        return None
    readings = [
        (_right(other, records), advice)
        for advice, other, records in _readings(network, training_records, chosen)
    ]
    is_right_then, advice = max(readings, key=lambda reading: int(reading[0].sum()))
    if is_right_then.mean() < is_right.mean() + GAIN or _chance(
        is_right, is_right_then
    ) > SURE / len(readings):
        return None
    return OtherReading(
        advice, len(training_records), float(is_right.mean()), float(is_right_then.mean())
    )


def _right(network: nn.Module, training_records: training_loop.Records) -> NDArray[np.bool_]:
    """(n,) which records a model classifies correctly."""
    is_right: NDArray[np.bool_] = np.equal(
        training_loop.logits(network, training_records).argmax(1),
        training_records.labels.cpu().numpy(),
    )
    return is_right


def _chance(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """p of McNemar's exact one-sided test: the other reading is no better."""
    from scipy import stats

    gains, losses = int((after & ~before).sum()), int((before & ~after).sum())
    return float(stats.binom.sf(gains - 1, gains + losses, 0.5))


def _readings(
    network: nn.Module, training_records: training_loop.Records, chosen: settings.Settings
) -> Iterator[tuple[str, nn.Module, training_loop.Records]]:
    model, channels = chosen.model, chosen.data.channels
    current = preprocessing.normalisation(model, channels)
    for name, (mean, std) in (EITHER | (GREY if channels == 1 else COLOUR)).items():
        changed = model.model_copy(update={"preset": None, "mean": mean, "std": std})
        if preprocessing.normalisation(changed, channels) != current:
            advice = f"model.mean={_shown(mean)} and model.std={_shown(std)} ({name})"
            yield advice, network, training_records.normalised_as(changed)
    if channels > 1:
        yield (
            "its channels in reverse order, as OpenCV reads them (blue first): write a factory "
            "(model.name=package.module:factory) that turns them round",
            network,
            training_records.with_images(training_records.images.flip(1)),
        )
    if model.name != "small_cnn" and ":" not in model.name:
        stem = "plain" if model.stem == "small" else "small"
        adapted = architectures.build(model.model_copy(update={"stem": stem}), chosen.data, 0)
        adapted.load_state_dict(copy.deepcopy(network.state_dict()))
        yield f"model.stem={stem}", adapted, training_records


def _shown(values: float | tuple[float, ...]) -> str:
    return str(list(values)) if isinstance(values, tuple) else f"{values:.6g}"
