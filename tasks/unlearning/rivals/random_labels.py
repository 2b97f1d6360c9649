"""Amnesiac unlearning: forgotten records under wrong labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common.settings import Settings
from tasks.training import training_loop
from tasks.unlearning.rivals.shared import imitate_labels, learner, mislabelled, streams

if TYPE_CHECKING:
    from torch import nn


def random_labels(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """Amnesiac unlearning: train on with forgotten records under wrong labels among the retained
    ones.

    Graves L., Nagisetty V., Ganesh V., "Amnesiac Machine Learning", AAAI 2021. A label is drawn
    once per record, uniformly from all classes but its own. An epoch is a pass over both sets.
    """
    with streams(settings) as generator:
        mixed = mislabelled(forget, retain, settings, generator)
        imitate_labels(learner(original, forget), mixed, settings, generator, progress)
    return original
