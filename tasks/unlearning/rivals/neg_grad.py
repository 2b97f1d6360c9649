"""NegGrad+: descend on retained records and ascend on forgotten ones at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.shared import RivalInput, learn, learner, part_of, steps_of, streams

if TYPE_CHECKING:
    from torch import Tensor, nn


def neg_grad(inputs: RivalInput) -> nn.Module:
    """NegGrad+: descend on retained and ascend on forgotten records at once.

    L = alpha CE(f(x_r), y_r) - (1 - alpha) CE(f(x_f), y_f), alpha = `neg_grad_alpha`: Kurmanji M.,
    Triantafillou P., Hayes J., Triantafillou E., "Towards Unbounded Machine Unlearning", NeurIPS
    2023, among the baselines. An epoch is a pass over the retained records; forgotten ones are gone
    through as often as needed. L has no lower bound: with a small alpha it diverges, which is an
    error.
    """
    from torch.nn import functional

    original, forget, retain, settings, progress = inputs
    unlearn, backend = settings.unlearn, forget.backend
    network = learner(original, forget)
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        kept_batches = retained_part.batches(unlearn.batch_size, generator, settings.train)
        forget_batches = training_loop.paired(forget).batches(
            unlearn.batch_size, generator, settings.train
        )

        def objective(_: int) -> Tensor:
            images, labels = next(kept_batches)
            forget_images, forget_labels = next(forget_batches)
            with backend.autocast():
                descend = functional.cross_entropy(network(images), labels)
                ascend = functional.cross_entropy(network(forget_images), forget_labels)
            return neg_grad_loss(descend, ascend, unlearn.rivals.neg_grad_alpha)

        learn(network, objective, steps_of(retained_part, settings), settings, progress)
    return original


def neg_grad_loss(retain_loss: Tensor, forget_loss: Tensor, alpha: float) -> Tensor:
    """NegGrad+'s objective, a scalar: alpha times the loss to lower less 1 - alpha times the loss
    to raise."""
    return alpha * retain_loss - (1 - alpha) * forget_loss
