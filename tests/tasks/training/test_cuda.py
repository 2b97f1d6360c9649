"""Training on a GPU; skipped where there is none."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from tasks.common import settings
from tasks.training import architectures, compute, stacked, training_loop

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DATA = settings.Data(classes=3, channels=3, image_size=16)
RECIPE = settings.Train(epochs=1, batch_size=64, learning_rate=1e-3)


def records(device: Literal["cpu", "cuda"], precision: str = "float32") -> training_loop.Records:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (128, 3, 16, 16)).astype(np.uint8)
    configured = settings.Compute.model_validate({"device": device, "precision": precision})
    return training_loop.Records(
        images, random.integers(0, 3, 128), settings.Model(), compute.prepare(configured)
    )


def network(seed: int) -> nn.Module:
    return architectures.build(settings.Model(), DATA, seed)


def trained(device: Literal["cpu", "cuda"], precision: str = "float32") -> np.ndarray:
    learned = records(device, precision)
    model = network(3)
    training_loop.fit(model, learned, RECIPE, 5)
    return training_loop.logits(model, learned)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_the_same_seed_gives_the_same_bits_on_one_gpu(precision: str) -> None:
    np.testing.assert_array_equal(trained("cuda", precision), trained("cuda", precision))


def test_float32_on_a_gpu_agrees_with_the_processor() -> None:
    ours, other = trained("cuda"), trained("cpu")
    np.testing.assert_allclose(ours, other, atol=1e-3 * np.abs(other).max())


def test_stacked_models_agree_with_single_ones_on_a_gpu() -> None:
    learned, seeds = records("cuda"), [3, 4, 5, 6]
    together, alone = [network(seed) for seed in seeds], [network(seed) for seed in seeds]
    stacked.fit(together, learned, RECIPE, seeds)
    for one, other, seed in zip(together, alone, seeds, strict=True):
        training_loop.fit(other, learned, RECIPE, seed)
        expected = training_loop.logits(other, learned)
        np.testing.assert_allclose(
            training_loop.logits(one, learned), expected, atol=1e-3 * np.abs(expected).max()
        )
