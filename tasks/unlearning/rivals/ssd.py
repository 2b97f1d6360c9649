"""Selective Synaptic Dampening: shrink the weights that matter for forgotten records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.shared import RivalInput, learner, part_of, streams

if TYPE_CHECKING:
    from torch import Tensor, nn


def ssd(inputs: RivalInput) -> nn.Module:
    """Selective Synaptic Dampening: shrink the weights that matter far more for forgotten records
    than for all.

    theta_i becomes beta theta_i with beta = min(lambda I_D,i / I_f,i, 1) where I_f,i > alpha I_D,i,
    lambda = `ssd_lambda`, alpha = `ssd_alpha`, I the diagonal of the Fisher information over all
    training records D and the forget set: Foster J., Schoepf S., Brintrup A., "Fast Machine
    Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI 2024. No training.
    Squares are of each record's gradient, as in the formula; the paper's code squares the mean
    gradient of a batch, which inflates I_f where the forget set is smaller than one. As D holds the
    forget set, I_D >= I_f |D_f| / |D|: nothing is dampened where |D_f| >= |D| / alpha.
    """
    import torch

    original, forget, retain, settings, progress = inputs
    rivals = settings.unlearn.rivals
    network = learner(original, forget).eval()
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
    of_forget = fisher(network, forget, progress)
    of_kept = fisher(network, retained_part, progress)
    share = len(forget) / (len(forget) + len(retain))
    with torch.no_grad():
        for weight, gone, stays in zip(network.parameters(), of_forget, of_kept, strict=True):
            weight.mul_(
                dampening(
                    gone, share * gone + (1 - share) * stays, rivals.ssd_alpha, rivals.ssd_lambda
                )
            )
    return network


def fisher(
    network: nn.Module,
    records: training_loop.Records,
    progress: training_loop.Progress | None = None,
) -> list[Tensor]:
    """The diagonal of the empirical Fisher information: the mean over records of (d log p(y | x) /
    d theta)^2.

    Record by record in evaluation mode and float32: `torch.func`'s vectorised gradients import the
    compiler, which takes longer than they save. Zero where a weight does not learn.

    Returns:
        A tensor for each parameter, in the order of `parameters()`.
    """
    import torch
    from torch.nn import functional

    network.eval()
    weights = list(network.parameters())
    trainable = [weight for weight in weights if weight.requires_grad]
    total = {weight: torch.zeros_like(weight) for weight in weights}
    for row in range(len(records)):
        record = slice(row, row + 1)
        loss = functional.cross_entropy(network(records.floats(record)), records.labels[record])
        for weight, gradient in zip(
            trainable, torch.autograd.grad(loss, trainable, materialize_grads=True), strict=True
        ):
            total[weight] += gradient.square()
        if progress:
            progress(row + 1, float(loss.detach()))
    return [sums / len(records) for sums in total.values()]


def dampening(forget: Tensor, training: Tensor, alpha: float, constant: float) -> Tensor:
    """SSD's factor beta for weights of Fisher information `forget` and `training`: see `ssd`. In
    0 … 1."""
    import torch

    factor = (constant * training / forget).clamp(
        max=1.0
    )  # 0 / 0 where neither matters: not selected
    return torch.where(forget > alpha * training, factor, torch.ones_like(factor))
