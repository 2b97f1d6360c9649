"""Fine-tuning: train on with retained records only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.unlearning.rivals.shared import RivalInput, imitate_labels, learner, part_of, streams

if TYPE_CHECKING:
    from torch import nn


def fine_tune(inputs: RivalInput) -> nn.Module:
    """Train on with retained records only, in the hope that the others fade: L = CE(f(x_r), y_r).

    Golatkar A., Achille A., Soatto S., "Eternal Sunshine of the Spotless Net", CVPR 2020: their
    baseline "fine-tune".
    """
    original, forget, retain, settings, progress = inputs
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        imitate_labels(learner(original, forget), retained_part, settings, generator, progress)
    return original
