"""UNSIR: impair with noise, then repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common import seeds
from tasks.common.settings import Settings
from tasks.training import training_loop
from tasks.unlearning.rivals.shared import RivalInput, learn, learner, part_of, steps_of, streams

if TYPE_CHECKING:
    from torch import Tensor, nn


NOISE_RATE = 0.1
"""Learning rate of UNSIR's noise, Adam (Tarun et al.'s code)."""
NOISE_PENALTY = 0.1
"""Weight of the squared norm of UNSIR's noise (lambda of Tarun et al. 2023)."""


def unsir(inputs: RivalInput) -> nn.Module:
    """UNSIR: impair with noise on which the forgotten classes have the highest loss, then repair on
    retained data.

    noise N = argmin of -CE(f(N), y_f) + lambda |N|^2; impair by CE on (N, y_f) and retained
    records; repair by CE on retained records: Tarun A. K., Chundawat V. S., Mandal M., Kankanhalli
    M., "Fast Yet Effective Machine Unlearning", IEEE Transactions on Neural Networks and Learning
    Systems 2023 (arXiv 2111.08947).

    The paper forgets whole classes. Here noise bears the classes of the records to be forgotten,
    and retained records of these classes take part in both steps, as in public comparisons. Each
    impairing step sees one batch of noise and one of retained records; the paper's code shuffles 20
    copies of the noise of a class with 1000 records per class. `epochs` passes over the retained
    part make each of the two steps; the rate is the impairing one, the repairing one is
    `unsir_repair_rate`. The part is 0.2 of the retained records: the paper's 1000 of 5000 per
    class.
    """
    import torch
    from torch.nn import functional

    original, forget, retain, settings, progress = inputs
    unlearn, backend = settings.unlearn, forget.backend
    network = learner(original, forget)
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        steps = steps_of(retained_part, settings)
        if not steps:
            return original
        images, labels = error_maximising_noise(
            network, forget, min(unlearn.batch_size, len(retained_part)), settings
        )
        network.train()
        batches = retained_part.batches(unlearn.batch_size, generator, settings.train)

        def impair(_: int) -> Tensor:
            kept_images, kept_labels = next(batches)
            with backend.autocast():
                answers = network(torch.cat([images, kept_images]))
                return functional.cross_entropy(answers, torch.cat([labels, kept_labels]))

        def repair(_: int) -> Tensor:
            kept_images, kept_labels = next(batches)
            with backend.autocast():
                return functional.cross_entropy(network(kept_images), kept_labels)

        learn(network, impair, steps, settings, progress)
        report = None if progress is None else lambda step, loss: progress(steps + step, loss)
        learn(network, repair, steps, settings, report, rate="unsir_repair_rate")
    return original


def error_maximising_noise(
    network: nn.Module, forget: training_loop.Records, count: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """UNSIR's noise: normalised images of small norm on which a classifier's loss is as high as
    possible.

    Args:
        network: the classifier; it is put in evaluation mode and does not learn.
        forget: the forget set, whose labels the noise takes in turn.
        count: images to make.
        settings: `unsir_noise_steps` and the seed; 0 steps leave normal noise.

    Returns:
        Images (count, channels, side, side) float32 and labels (count,) int64.
    """
    import torch
    from torch.nn import functional

    network.eval()
    generator = torch.Generator().manual_seed(seeds.derive(settings.seed, "unlearn", "noise"))
    start = torch.randn((count, *forget.images.shape[1:]), generator=generator)
    noise = start.to(forget.backend.device, memory_format=forget.memory_format).requires_grad_()
    labels = forget.labels[torch.arange(count, device=forget.labels.device) % len(forget)]

    def objective(_: int) -> Tensor:
        with forget.backend.autocast():
            loss = functional.cross_entropy(network(noise), labels)
        return NOISE_PENALTY * noise.square().flatten(1).sum(1).mean() - loss

    steps = settings.unlearn.rivals.unsir_noise_steps
    group = {"params": [noise], "weight_decay": 0.0}
    training_loop.optimise(
        [group], objective, steps, NOISE_RATE, settings.train, None, "adam", "the noise's own"
    )
    return noise.detach(), labels
