"""Amnesiac unlearning: forgotten records under wrong labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.unlearning.rivals.shared import RivalInput, imitate_labels, learner, mislabelled, streams

if TYPE_CHECKING:
    from torch import nn


def random_labels(inputs: RivalInput) -> nn.Module:
    """Amnesiac unlearning: train on with forgotten records under wrong labels among the retained
    ones.

    Graves L., Nagisetty V., Ganesh V., "Amnesiac Machine Learning", AAAI 2021. A label is drawn
    once per record, uniformly from all classes but its own. An epoch is a pass over both sets.
    """
    original, forget, retain, settings, progress = inputs
    with streams(settings) as generator:
        mixed = mislabelled(forget, retain, settings, generator)
        imitate_labels(learner(original, forget), mixed, settings, generator, progress)
    return original
