"""Would a model know its training records if it were read in another common way?

A model that is shown pixels in another range than it was trained on, or the colours in another
order, is often halfway right: far from chance, and far from what it is. So it is tried in the ways
that are common. Where the settings are right, no other reading is much better, unless the model is
hardly trained: after a few dozen steps the statistics of its batch norm are not its data's yet.
docs/models.md has what was measured.
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
"""Training records that are shown in each way."""
GAIN = 0.15
"""Accuracy on training records that another reading has to gain."""
KNOWN = 0.8
"""Accuracy on training records from which on another reading is held for the right one."""
SURE = 1e-6
"""A reading that is no better gains as many of the records on which the two differ at most so
often (McNemar's exact test)."""

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
"""Common values of mean and std, by whose they are."""


@dataclass(frozen=True)
class OtherReading:
    """A reading under which a model knows clearly more of its training records.

    Attributes:
        advice: what it is, and what to set.
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
        """Whether the model was trained so, as far as its accuracy can tell."""
        return self.accuracy >= KNOWN


def better(
    network: nn.Module, known: training_loop.Records, chosen: settings.Settings
) -> OtherReading | None:
    """The common reading under which a model knows most of its training records, where that is
    clearly more than under the settings; else None.

    Args:
        network: the model as the settings read it.
        known: n of its training records.
        chosen: `model` and `data`.
    """
    right = _right(network, known)
    if right.mean() > 1 - GAIN:
        return None
    tried = [
        (_right(other, records), advice)
        for advice, other, records in _readings(network, known, chosen)
    ]
    gained, advice = max(tried, key=lambda reading: int(reading[0].sum()))
    if gained.mean() < right.mean() + GAIN or _chance(right, gained) > SURE / len(tried):
        return None
    return OtherReading(advice, len(known), float(right.mean()), float(gained.mean()))


def _right(network: nn.Module, known: training_loop.Records) -> NDArray[np.bool_]:
    """(n,) which records a model classifies rightly."""
    right: NDArray[np.bool_] = np.equal(
        training_loop.logits(network, known).argmax(1), known.labels.cpu().numpy()
    )
    return right


def _chance(right: NDArray[np.bool_], gained: NDArray[np.bool_]) -> float:
    """p of McNemar's exact one-sided test: the other reading is no better."""
    from scipy import stats

    won, lost = int((gained & ~right).sum()), int((right & ~gained).sum())
    return float(stats.binom.sf(won - 1, won + lost, 0.5))


def _readings(
    network: nn.Module, known: training_loop.Records, chosen: settings.Settings
) -> Iterator[tuple[str, nn.Module, training_loop.Records]]:
    model, channels = chosen.model, chosen.data.channels
    given = preprocessing.normalisation(model, channels)
    for name, (mean, std) in (EITHER | (GREY if channels == 1 else COLOUR)).items():
        other = model.model_copy(update={"preset": None, "mean": mean, "std": std})
        if preprocessing.normalisation(other, channels) != given:
            advice = f"model.mean={_shown(mean)} and model.std={_shown(std)} ({name})"
            yield advice, network, known.normalised_as(other)
    if channels > 1:
        yield (
            "its channels in reverse order, as OpenCV reads them (blue first): write a factory "
            "(model.name=package.module:factory) that turns them round",
            network,
            known.with_images(known.images.flip(1)),
        )
    if model.name != "small_cnn" and ":" not in model.name:
        stem = "plain" if model.stem == "small" else "small"
        adapted = architectures.build(model.model_copy(update={"stem": stem}), chosen.data, 0)
        adapted.load_state_dict(copy.deepcopy(network.state_dict()))
        yield f"model.stem={stem}", adapted, known


def _shown(values: float | tuple[float, ...]) -> str:
    return str(list(values)) if isinstance(values, tuple) else f"{values:.6g}"
