"""Distillation of the original into a fresh model, on retained records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.unlearning.rivals.recipes import recipe
from tasks.unlearning.rivals.shared import (
    RivalInput,
    fresh,
    frozen_copy,
    learn,
    learner,
    part_of,
    softened,
    steps_of,
    streams,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def distil(inputs: RivalInput) -> nn.Module:
    """A fresh model that learns the original's answers to retained records: L = T^2 KL(f_o(x_r) ||
    f(x_r)) at T.

    Hinton G., Vinyals O., Dean J., "Distilling the Knowledge in a Neural Network", 2015 (arXiv
    1503.02531), soft targets only. Faster than learning from labels. The new model inherits what
    the original's answers reveal about the forget set.
    """
    import torch

    original, forget, retain, settings, progress = inputs
    backend, chosen = forget.backend, recipe(settings)
    temperature = chosen.temperature or 1.0
    teacher, network = frozen_copy(original, forget), learner(fresh(settings), forget)
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        batches = retained_part.batches(settings.unlearn.batch_size, generator, settings.train)

        def objective(_: int) -> Tensor:
            images, _labels = next(batches)
            with backend.autocast():
                with torch.no_grad():
                    teacher_logits = teacher(images)
                return softened(network(images), teacher_logits, temperature)

        learn(network, objective, steps_of(retained_part, settings), settings, progress)
    return network
