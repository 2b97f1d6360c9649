"""LoTUS: smooth the original's answers for forgotten records until they are known no better than
unseen ones."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.shared import (
    RivalInput,
    frozen_copy,
    learn,
    learner,
    part_of,
    passes,
    steps_of,
    streams,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TOLERANCE = 0.01
"""How much worse than unseen records forgotten ones are known at the end; its public code's"""


class _Reached(Exception):  # noqa: N818 - a goal, not an error
    """The forgotten records are known no better than unseen ones."""


def lotus(inputs: RivalInput) -> nn.Module:
    """LoTUS: learn the original's answers, smoothed for forgotten records and sharpened for
    retained ones.

    L = -sum over classes of t log softmax(f(x)), where t is a Gumbel-softmax draw from the
    original's logits at temperature exp(alpha (accuracy on D_f - accuracy on unseen records)) for
    forgotten records, and its one-hot draw at temperature 1 for retained ones: Spartalis C. N.,
    Semertzidis T., Gavves E., Daras P., "LoTUS: Large-Scale Machine Unlearning with a Taste of
    Uncertainty", CVPR 2025. The temperature is set anew before each epoch, a pass over the forget
    set and the part of the retained records; it ends where the forgotten records are known
    `TOLERANCE` worse than unseen ones. These are no input of a method here, so that
    `lotus_unseen_accuracy` has to say how well they are known; null is 0, as the paper has it for a
    whole class.
    """
    import torch

    original, forget, retain, settings, progress = inputs
    unlearn, backend = settings.unlearn, forget.backend
    teacher, network = frozen_copy(original, forget), learner(original, forget)
    unseen = unlearn.rivals.lotus_unseen_accuracy or 0.0
    with streams(settings) as generator:
        retained = part_of(retain, settings, generator)
        marks = torch.cat([torch.ones_like(forget.labels), torch.zeros_like(retained.labels)])
        mixed = training_loop.joined(forget, retained).with_labels(marks)
        batches = mixed.batches(unlearn.batch_size, generator, settings.train)
        epoch = max(1, passes(mixed, unlearn.batch_size, 1))
        draws = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        temperature = 1.0

        def objective(step: int) -> Tensor:
            nonlocal temperature
            if step % epoch == 0:
                above = _accuracy(network, forget) - unseen
                if above <= -TOLERANCE:
                    raise _Reached
                temperature = math.exp(unlearn.rivals.lotus_alpha * above)
                network.train()
            images, forgotten = next(batches)
            with backend.autocast():
                with torch.no_grad():
                    taught = teacher(images)
                answers = network(images)
            noise = gumbel(taught.shape, draws).to(taught.device)
            return lotus_loss(answers, taught, noise, forgotten.bool(), temperature)

        with suppress(_Reached):
            learn(network, objective, steps_of(mixed, settings), settings, progress)
    return original


def lotus_loss(
    student: Tensor, teacher: Tensor, noise: Tensor, forgotten: Tensor, temperature: float
) -> Tensor:
    """LoTUS's objective, a scalar, for logits (n, classes) of both models, Gumbel noise of the same
    shape and a mask (n,) of forgotten records."""
    import torch
    from torch.nn import functional

    drawn = teacher.float() + noise
    sharp = functional.one_hot(drawn.argmax(1), drawn.shape[1]).to(drawn.dtype)
    targets = torch.where(forgotten[:, None], (drawn / temperature).softmax(1), sharp)
    return -(targets * functional.log_softmax(student.float(), 1)).sum(1).mean()


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draws of the standard Gumbel distribution, float32."""
    import torch

    return -torch.empty(shape).exponential_(generator=generator).log()


def _accuracy(network: nn.Module, records: training_loop.Records) -> float:
    """The share of records that are classified right, 0 … 1; the network is left in evaluation
    mode."""
    logits = training_loop.logits(network.eval(), records)
    return float((logits.argmax(1) == records.labels.cpu().numpy()).mean())
