"""CT: transpose all kernels, then repair on retained records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common.errors import ModelError
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
    from torch import nn


def ct(inputs: RivalInput) -> nn.Module:
    """Convolution transpose: transpose the kernels of all convolutions, then repair on retained
    records.

    Fifth place of the NeurIPS 2023 unlearning competition, as Cadet et al. 2025 describe it (see
    `msg`).

    Raises:
        ModelError: there is no convolution, or one whose kernels are not square.
    """
    import torch

    original, forget, retain, settings, progress = inputs
    network = learner(original, forget)
    layers = convolutions(network)
    if any(layer.weight.shape[2] != layer.weight.shape[3] for layer in layers):
        raise ModelError(
            "got a model with kernels that are not square, expected square ones: ct transposes "
            "them; choose another unlearn.method"
        )
    with streams(settings) as generator:
        retained = part_of(retain, settings, generator)
        if not steps_of(retained, settings):
            return original
        with torch.no_grad():
            for layer in layers:
                layer.weight.copy_(layer.weight.transpose(2, 3).clone())
        imitate_labels(network, retained, settings, generator, progress)
    return original
