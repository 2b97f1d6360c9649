"""AMUN: train on with the nearest adversarial examples of forgotten records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.training import training_loop
from tasks.unlearning.rivals.shared import (
    RivalInput,
    imitate_labels,
    learner,
    part_of,
    steps_of,
    streams,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

FIRST_RADIUS = 0.04
"""L2 radius that the attack starts with, for pixels 0 … 1; its public code's"""
DOUBLINGS = 12
"""Radii tried; the last is 82, farther than the most distant image of 32 x 32 pixels in colour"""


def amun(inputs: RivalInput) -> nn.Module:
    """AMUN: train on with forgotten and retained records and, under the label that the model gives
    them, the nearest adversarial examples of the forgotten ones.

    L = CE on D_f, D_r and D_a, mixed: Ebrahimpour-Boroojeny A., Sundaram H., Chandrasekaran V.,
    "Not All Wrong is Bad: Using Adversarial Examples for Unlearning", ICML 2025. An epoch is a pass
    over all three.
    """
    original, forget, retain, settings, progress = inputs
    network = learner(original, forget)
    with streams(settings) as generator:
        retained = part_of(retain, settings, generator)
        mixed = training_loop.joined(training_loop.joined(forget, forget), retained)
        if not steps_of(mixed, settings):
            return original
        near = adversarial_examples(
            network, forget, settings.unlearn.rivals.amun_steps, settings.unlearn.batch_size
        )
        network.train()
        mixed = training_loop.joined(training_loop.joined(forget, near), retained)
        imitate_labels(network, mixed, settings, generator, progress)
    return original


def adversarial_examples(
    network: nn.Module, records: training_loop.Records, steps: int, batch_size: int = 512
) -> training_loop.Records:
    """The nearest images that a classifier takes for another class, each under that class.

    Projected gradient ascent on the cross-entropy within an L2 ball (Madry et al. 2018), step size
    a tenth of the radius; the radius doubles for the records that are still classified as labelled.
    A record that is misclassified as it is stays as it is.

    Args:
        network: the classifier; it is put in evaluation mode and does not learn.
        records: images to start from, with their labels.
        steps: steps in a ball.
        batch_size: records at a time.

    Returns:
        Records in the same order, with images in float32, 0 … 255, and the classes that the network
        gives them. Where no radius is large enough, the label stays.
    """
    import torch

    network.eval()
    images, classes = [], []
    for start in range(0, len(records), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(records)))
        group = records.rows(rows.to(records.labels.device))
        pixels = _attacked(network, group, steps)
        images.append(pixels)
        with torch.no_grad():
            classes.append(_answers(network, group, pixels).argmax(1))
    return records.with_images(torch.cat(images)).with_labels(torch.cat(classes))


def _answers(network: nn.Module, records: training_loop.Records, pixels: Tensor) -> Tensor:
    with records.backend.autocast():
        logits: Tensor = network(records.with_images(pixels).floats(slice(None)))
    return logits.float()


def _attacked(network: nn.Module, records: training_loop.Records, steps: int) -> Tensor:
    """Pixels (n, channels, side, side) float32, 0 … 255, moved until each class changes."""
    import torch
    from torch.nn import functional

    start = records.images.to(torch.float32)
    pixels = start.clone()
    with torch.no_grad():
        is_recognised = _answers(network, records, pixels).argmax(1) == records.labels
    radius = FIRST_RADIUS * 255
    for _ in range(DOUBLINGS):
        for _ in range(steps):
            rows = is_recognised.nonzero().flatten()
            if not len(rows):
                return pixels
            part, moved = records.rows(rows), pixels[rows].requires_grad_()
            loss = functional.cross_entropy(
                _answers(network, part, moved), part.labels, reduction="sum"
            )
            (slope,) = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                away = moved + radius / 10 * _unit(slope) - start[rows]
                length = away.flatten(1).norm(dim=1).clamp_min(1e-12)
                away *= (radius / length).clamp_max(1)[:, None, None, None]
                pixels[rows] = (start[rows] + away).clamp(0, 255)
                is_recognised[rows] = _answers(network, part, pixels[rows]).argmax(1) == part.labels
        radius *= 2
    return pixels


def _unit(slopes: Tensor) -> Tensor:
    """Each image's gradient, of length 1."""
    unit: Tensor = slopes / slopes.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return unit
