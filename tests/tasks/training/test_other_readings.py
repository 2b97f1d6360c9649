"""A model that is read in another way than it was trained on is recognised, and the way is named.

The models are not trained: their own answers under one reading are taken for the labels, so that
under this reading, and no other, they are right about every record.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tasks.common import settings
from tasks.training import architectures, compute, other_readings, training_loop

CLASSES, COUNT, SIDE = 4, 300, 16

TORCHVISIONS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RAW = {"mean": 0, "std": 1 / 255}
UNIT = {"mean": 0, "std": 1}


def chosen(channels: int, **model: Any) -> settings.Settings:
    data = {"classes": CLASSES, "channels": channels, "image_size": SIDE}
    return settings.parse({"model": model, "data": data})


def images(channels: int) -> np.ndarray:
    """Images whose brightness and contrast differ, as photographs' do."""
    draw = np.random.default_rng(3)
    level = draw.uniform(20, 235, (COUNT, channels, 1, 1))
    noise = draw.normal(0, 1, (COUNT, channels, SIDE, SIDE)) * draw.uniform(5, 60, (COUNT, 1, 1, 1))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def records(config: settings.Settings, labels: np.ndarray | None = None) -> training_loop.Records:
    known = np.zeros(COUNT, np.int64) if labels is None else labels
    backend = compute.prepare(config.compute)
    return training_loop.Records(images(config.data.channels), known, config.model, backend)


class Brightness(nn.Module):
    """Tells brightness from dark by the first channel; as sure as its thresholds are exact."""

    def __init__(self, thresholds: torch.Tensor) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(thresholds)

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        level = shown[:, 0].mean((1, 2))
        above = (level[:, None] > self.thresholds).sum(1)
        return nn.functional.one_hot(above, CLASSES).float()


def trained(config: settings.Settings) -> tuple[nn.Module, np.ndarray]:
    """A model, and labels that it is right about if it is read as the settings say."""
    seen = records(config)
    levels = seen.floats(slice(None))[:, 0].mean((1, 2))
    network = Brightness(levels.quantile(torch.tensor([0.25, 0.5, 0.75])))
    return network, training_loop.logits(network, seen).argmax(1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("configured", [{}, RAW, UNIT, {"mean": 0.2, "std": 0.1}])
@pytest.mark.parametrize("right", [{}, RAW, UNIT])
def test_the_mean_and_std_of_the_training_are_named(
    channels: int, configured: dict[str, Any], right: dict[str, Any]
) -> None:
    config = chosen(channels, **right)
    network, labels = trained(config)
    assert other_readings.better(network, records(config, labels), config) is None
    if configured == right:
        return
    misread = chosen(channels, **configured)
    result = other_readings.better(network, records(misread, labels), misread)
    assert result is not None
    assert result.accuracy == 1
    assert result.is_right
    mean, std = right.get("mean", 0.5), right.get("std", 0.5)
    assert f"model.mean={mean:.6g} and model.std={std:.6g}" in str(result)


def test_the_values_of_torchvisions_weights_are_named_per_channel() -> None:
    network, labels = trained(chosen(3, **TORCHVISIONS))
    result = other_readings.better(network, records(chosen(3), labels), chosen(3))
    assert "model.mean=[0.485, 0.456, 0.406] and model.std=[0.229, 0.224, 0.225]" in str(result)


def test_a_preset_is_compared_by_its_values() -> None:
    config = chosen(3, preset="ResNet18_Weights.IMAGENET1K_V1")
    config = config.model_copy(update={"data": config.data.model_copy(update={"image_size": 224})})
    network, labels = trained(chosen(3, **TORCHVISIONS))
    backend = compute.prepare(config.compute)
    shown = np.repeat(np.repeat(images(3), 14, 2), 14, 3)[:40]
    training_records = training_loop.Records(shown, labels[:40], config.model, backend)
    assert other_readings.better(network, training_records, config) is None


def test_a_model_of_blue_first_is_recognised() -> None:
    config = chosen(3)
    network, labels = trained(config)
    turned = records(config, labels)
    turned = turned.with_images(turned.images.flip(1))
    result = other_readings.better(network, turned, config)
    assert "channels in reverse order" in str(result)
    assert result is not None
    assert result.accuracy == 1


@pytest.mark.parametrize(("right", "configured"), [("small", "plain"), ("plain", "small")])
def test_a_stem_that_is_not_the_models_is_recognised(right: str, configured: str) -> None:
    config, misread = (chosen(3, name="resnet18", stem=stem) for stem in (right, configured))
    network = architectures.build(config.model, config.data, 0)
    with torch.no_grad():  # no class is preferred
        mean = torch.from_numpy(training_loop.logits(network, records(config)).mean(0))
        list(network.parameters())[-1].sub_(mean)
    labels = training_loop.logits(network, records(config)).argmax(1)
    other = architectures.build(misread.model, misread.data, 0)
    other.load_state_dict(network.state_dict())
    assert other_readings.better(network, records(config, labels), config) is None
    result = other_readings.better(other, records(misread, labels), misread)
    assert f"model.stem={right}" in str(result)


def test_a_model_that_no_reading_makes_right_gets_none() -> None:
    config = chosen(3)
    network, _ = trained(config)
    labels = np.random.default_rng(0).integers(CLASSES, size=COUNT)
    assert other_readings.better(network, records(config, labels), config) is None
