"""Fine-tuning: train on with retained records only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common.settings import Settings
from tasks.training import training_loop
from tasks.unlearning.rivals.shared import imitate_labels, learner, part_of, streams

if TYPE_CHECKING:
    from torch import nn


def fine_tune(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """Train on with retained records only, in the hope that the others fade: L = CE(f(x_r), y_r).

    Golatkar A., Achille A., Soatto S., "Eternal Sunshine of the Spotless Net", CVPR 2020: their
    baseline "fine-tune".
    """
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        imitate_labels(learner(original, forget), retained_part, settings, generator, progress)
    return original
