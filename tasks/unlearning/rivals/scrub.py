"""SCRUB: away from the original on forgotten records, close to it on retained ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.recipes import recipe
from tasks.unlearning.rivals.shared import (
    RivalInput,
    frozen_copy,
    learn,
    learner,
    part_of,
    passes,
    softened,
    streams,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def scrub(inputs: RivalInput) -> nn.Module:
    """SCRUB: move away from the original model on forgotten records, stay with it on retained ones,
    in turn.

    min over theta of alpha KL(f_o(x_r) || f(x_r)) + gamma CE(f(x_r), y_r) - KL(f_o(x_f) || f(x_f)):
    Kurmanji M., Triantafillou P., Hayes J., Triantafillou E., "Towards Unbounded Machine
    Unlearning", NeurIPS 2023. Each of the first `scrub_max_epochs` epochs opens with a pass over
    the forget set that raises the last term; a pass over the retained records, which lowers the
    others, ends every epoch. Divergences are at the recipe's temperature T and times T^2. Its
    rewinding variant SCRUB+R is not offered, nor its weight decay of 0.1.
    """
    import torch
    from torch.nn import functional

    original, forget, retain, settings, progress = inputs
    unlearn, backend = settings.unlearn, forget.backend
    chosen = recipe(settings)
    temperature = chosen.temperature or 1.0
    teacher, network = frozen_copy(original, forget), learner(original, forget)
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        forget_set = training_loop.paired(forget)
        kept_batches = retained_part.batches(unlearn.batch_size, generator, settings.train)
        forget_batches = forget_set.batches(unlearn.batch_size, generator, settings.train)
        plan = scrub_plan(
            math.ceil(chosen.epochs or 0),
            unlearn.rivals.scrub_max_epochs,
            passes(forget_set, unlearn.batch_size, 1),
            passes(retained_part, unlearn.batch_size, 1),
        )

        def objective(step: int) -> Tensor:
            images, labels = next(forget_batches if plan[step] else kept_batches)
            with backend.autocast():
                with torch.no_grad():
                    teacher_logits = teacher(images)
                answers = network(images)
                divergence = softened(answers, teacher_logits, temperature)
                if plan[step]:
                    return -divergence
                return (
                    unlearn.rivals.scrub_alpha * divergence
                    + unlearn.rivals.scrub_gamma * functional.cross_entropy(answers, labels)
                )

        learn(network, objective, len(plan), settings, progress)
    return original


def scrub_plan(epochs: int, max_epochs: int, max_steps: int, min_steps: int) -> list[bool]:
    """Which steps of SCRUB raise the divergence on forgotten records: see `scrub`. The others lower
    it on retained."""
    return [
        raising
        for epoch in range(epochs)
        for raising in [True] * (max_steps if epoch < max_epochs else 0) + [False] * min_steps
    ]
