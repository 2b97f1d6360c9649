"""DELETE: the original's answers with the true class ruled out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.shared import (
    RivalInput,
    divergence,
    frozen_copy,
    learn,
    learner,
    steps_of,
    streams,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def delete(inputs: RivalInput) -> nn.Module:
    """DELETE: on forgotten records, answer as the original model would if the true class did not
    exist.

    L = KL(softmax(z_o with minus infinity at y) || softmax(z)): Zhou Y., Zheng D., Mo Q., Lu R.,
    Lin K.-Y., Zheng W.-S., "Decoupled Distillation to Erase: A General Unlearning Method for Any
    Class-centric Tasks", CVPR 2025. Only forgotten records are used; an epoch is a pass over them.
    The student stays in evaluation mode, which is the paper's code with `disable_bn`: a few records
    of one person would overwrite the running statistics of batch norm.
    """
    import torch

    original, forget, _retain, settings, progress = inputs
    backend = forget.backend
    teacher, network = frozen_copy(original, forget), learner(original, forget).eval()
    with streams(settings) as generator:
        forget_set = training_loop.paired(forget)
        batches = forget_set.batches(settings.unlearn.batch_size, generator, settings.train)

        def objective(_: int) -> Tensor:
            images, labels = next(batches)
            with backend.autocast():
                with torch.no_grad():
                    teacher_logits = teacher(images)
                return divergence(network(images), without_class(teacher_logits, labels))

        learn(network, objective, steps_of(forget_set, settings), settings, progress)
    return original


def without_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (n, classes) of logits when each record's class, labels (n,), is ruled out;
    they sum to 1."""
    return logits.float().scatter(1, labels[:, None], -math.inf).softmax(1)
