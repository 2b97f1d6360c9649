"""ResNet-18 for images of 32 px with fewer channels than usual, for processors without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

WIDTH = 8
"""Channels of the first stage; 64 in He et al. 2016"""


def narrow(classes: int, channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    """ResNet-18 of `WIDTH` channels; example: model.name=benchmarks.resnet18:narrow."""
    return build(classes, channels, WIDTH)


def full(classes: int, channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    """ResNet-18 of 64 channels, as the tables of the field have it."""
    return build(classes, channels, 64)


def build(classes: int, channels: int, width: int) -> nn.Module:
    """ResNet-18 with the first layer of its CIFAR variants: 3 x 3, stride 1, no pooling (He et al.
    2016)."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    def down(inputs: int, outputs: int, stride: int) -> nn.Module | None:
        if stride == 1 and inputs == outputs:
            return None
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )

    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    inputs = width
    for stage in range(4):
        outputs, stride = width * 2**stage, 1 if stage == 0 else 2
        layers += [
            BasicBlock(inputs, outputs, stride, down(inputs, outputs, stride)),
            BasicBlock(outputs, outputs),
        ]
        inputs = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes)
    )
