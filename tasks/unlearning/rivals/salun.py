"""SalUn: random labels, learned by the most salient weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.shared import RivalInput, imitate_labels, learner, mislabelled, streams

if TYPE_CHECKING:
    from torch import Tensor, nn


def salun(inputs: RivalInput) -> nn.Module:
    """SalUn: random labels as in `random_labels`, but only the weights that matter most for the
    forget set learn.

    theta = m * (theta_o + delta) + (1 - m) * theta_o, where m is 1 for the share `salun_share` of
    the weights with the largest |gradient of CE(f(x_f), y_f)| at theta_o: Fan C., Liu J., Zhang Y.,
    Wong E., Wei D., Liu S., "SalUn: Empowering Machine Unlearning via Gradient-based Weight
    Saliency", ICLR 2024. Both sets are mixed as in its public code, which weighs the loss on
    retained records by alpha = |D_r| / |D_f|. Unlike that code, the weights stay where they are
    while the saliency is measured. Running statistics of batch norm are no weights: they follow.
    """
    import torch

    original, forget, retain, settings, progress = inputs
    network = learner(original, forget)
    masks = salient(
        network, forget, settings.unlearn.rivals.salun_share, settings.unlearn.batch_size
    )
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in trainable]

    def restore() -> None:
        # masking gradients is not enough: weight decay moves weights without any
        with torch.no_grad():
            for weight, mask, value in zip(trainable, masks, before, strict=True):
                weight.copy_(torch.where(mask, weight, value))

    network.train()
    with streams(settings) as generator:
        mixed = mislabelled(forget, retain, settings, generator)
        imitate_labels(network, mixed, settings, generator, progress, before_each=restore)
    restore()
    return original


def salient(
    network: nn.Module, forget: training_loop.Records, share: float, batch_size: int = 512
) -> list[Tensor]:
    """SalUn's mask: marks the learnable weights in the most salient share of the whole network.

    Args:
        network: the classifier; it is put in evaluation mode, without which gradients would depend
            on the batches.
        forget: the forget set; its gradients are summed before the absolute value is taken.
        share: share of the weights to choose, 0 … 1; of equals the first is chosen.
        batch_size: records at a time.

    Returns:
        A mask of booleans for each parameter that learns, in the order of `parameters()`.
    """
    import torch
    from torch.nn import functional

    network.eval()
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    total = [torch.zeros_like(weight) for weight in trainable]
    for start in range(0, len(forget), batch_size):
        rows = slice(start, start + batch_size)
        loss = functional.cross_entropy(
            network(forget.floats(rows)), forget.labels[rows], reduction="sum"
        )
        for sums, gradient in zip(
            total, torch.autograd.grad(loss, trainable, materialize_grads=True), strict=True
        ):
            sums += gradient
    saliency = torch.cat([sums.abs().flatten() for sums in total])
    chosen = torch.zeros_like(saliency, dtype=torch.bool)
    chosen[
        torch.argsort(saliency, descending=True, stable=True)[: round(share * len(saliency))]
    ] = True
    parts = torch.split(chosen, [weight.numel() for weight in trainable])
    return [part.reshape(weight.shape) for part, weight in zip(parts, trainable, strict=True)]
