"""ResNet-9, the residual network of public speed records on CIFAR-10: 6.6 million weights, for
`model.name`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def build(classes: int, channels: int, image_size: int) -> nn.Module:
    """A classifier for images of 32 px; example: model.name=benchmarks.resnet9:build."""
    from torch import nn

    def stage(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            *([nn.MaxPool2d(2)] if pool else []),
        )

    return nn.Sequential(
        stage(channels, 64),
        stage(64, 128, pool=True),
        _around(nn.Sequential(stage(128, 128), stage(128, 128))),
        stage(128, 256, pool=True),
        stage(256, 512, pool=True),
        _around(nn.Sequential(stage(512, 512), stage(512, 512))),
        nn.MaxPool2d(image_size // 8),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


def _around(inner: nn.Module) -> nn.Module:
    """A module whose output is added to its input."""
    from torch import Tensor, nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, maps: Tensor) -> Tensor:
            added: Tensor = maps + self.inner(maps)
            return added

    return Residual()
