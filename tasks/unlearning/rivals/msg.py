"""MSG: draw convolution weights with small gradients anew, then repair on retained records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common import seeds
from tasks.training import training_loop
from tasks.unlearning.rivals.shared import (
    RivalInput,
    convolutions,
    imitate_labels,
    learner,
    part_of,
    steps_of,
    streams,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

REMAINING_RATE = 0.1
"""How much of the learning rate remains for the weights that are not drawn anew"""


def msg(inputs: RivalInput) -> nn.Module:
    """Masked small gradients: convolution weights that tell forgotten and retained records apart
    least are drawn anew; the others learn at a tenth of the rate while retained records repair.

    Second place of the NeurIPS 2023 unlearning competition, as Cadet X. F., Borovykh A., Malekzadeh
    M., Ahmadi-Abhari S., Haddadi H., "Deep Unlearn: Benchmarking Machine Unlearning for Image
    Classification", EuroS&P 2025 (arXiv 2410.01276), describes it. The share `msg_share` of each
    convolution with the smallest |gradient of CE(D_r') - CE(D_f)| is drawn from He et al.'s normal
    distribution (fan out); D_r' is a random part of D_r, as many as there are in D_f.

    Raises:
        ModelError: there is no convolution.
    """
    import torch
    from torch import nn

    original, forget, retain, settings, progress = inputs
    network = learner(original, forget)
    layers = convolutions(network)
    with streams(settings) as generator:
        retained = part_of(retain, settings, generator)
        if not steps_of(retained, settings):
            return original
        order = torch.randperm(len(retain), generator=generator)[: len(forget)]
        slopes = convolution_gradients(
            network, forget, retain.rows(order), settings.unlearn.batch_size
        )
        weight_draws = torch.Generator().manual_seed(
            seeds.derive(settings.seed, "unlearn", "weights")
        )
        hooks = []
        for layer, slope in zip(layers, slopes, strict=True):
            anew = smallest(slope.abs(), settings.unlearn.rivals.msg_share)
            values = torch.empty(layer.weight.shape)
            nn.init.kaiming_normal_(
                values, mode="fan_out", nonlinearity="relu", generator=weight_draws
            )
            with torch.no_grad():
                layer.weight.copy_(torch.where(anew, values.to(layer.weight.device), layer.weight))
            if layer.weight.requires_grad:
                rates = torch.where(anew, 1.0, REMAINING_RATE)
                hooks.append(layer.weight.register_hook(rates.mul))  # type: ignore[no-untyped-call]
        network.train()
        imitate_labels(network, retained, settings, generator, progress)
        for hook in hooks:
            hook.remove()
    return original


def convolution_gradients(
    network: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    batch_size: int = 512,
) -> list[Tensor]:
    """The gradient of CE on retained less CE on forgotten records, means over batches summed, for
    the weights of each convolution.

    Args:
        network: the classifier; it is put in evaluation mode, without which gradients would depend
            on the batches.
        forget: the forget set.
        retain: retained records to compare with.
        batch_size: records at a time.
    """
    import torch
    from torch.nn import functional

    network.eval()
    frozen = [layer.weight.requires_grad for layer in convolutions(network)]
    weights = [layer.weight.requires_grad_() for layer in convolutions(network)]
    total = [torch.zeros_like(weight) for weight in weights]
    for records, sign in ((retain, 1.0), (forget, -1.0)):
        for start in range(0, len(records), batch_size):
            rows = slice(start, start + batch_size)
            loss = functional.cross_entropy(network(records.floats(rows)), records.labels[rows])
            for sums, slope in zip(
                total, torch.autograd.grad(loss, weights, materialize_grads=True), strict=True
            ):
                sums += sign * slope
    for weight, learns in zip(weights, frozen, strict=True):
        weight.requires_grad_(learns)
    return total


def smallest(values: Tensor, share: float) -> Tensor:
    """Which values belong to the smallest share, a mask of their shape; of equals the first."""
    import torch

    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    order = torch.argsort(values.flatten(), stable=True)
    chosen[order[: round(share * values.numel())]] = True
    return chosen.reshape(values.shape)
