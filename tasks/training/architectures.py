"""Build classifiers for a data set, and tap their features."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.common import settings
from tasks.common.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AUXILIARY = ("googlenet", "inception_v3")
"""Classifiers of torchvision with auxiliary outputs in training; they are built without these."""
VISION_TRANSFORMERS = "vit_"
"""Prefix of torchvision's classifiers that are made for one size of images."""


def build(model: settings.Model, data: settings.Data, seed: int) -> nn.Module:
    """A freshly initialised classifier.

    Args:
        model: `name` is `small_cnn`, a classifier of `torchvision.models`, or
            `package.module:factory`. A classifier of torchvision is exactly torchvision's where
            `stem` is `plain` and images have three channels.
        data: the number of classes and channels and the side of the images.
        seed: seed of the initialisation, drawn on the CPU so that it is the same for every device.

    Returns:
        A module that maps float images (n, channels, side, side) to logits (n, classes).

    Raises:
        ModelError: the name is unknown, or the factory does not give such a module.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.name == "small_cnn":
            network: nn.Module = _small_cnn(data)
        elif ":" in model.name:
            network = _from_factory(model.name, data)
        else:
            network = _from_torchvision(model, data)
        _pool_deterministically(network)
        _try_out(network, model.name, data)  # inside the fork: lazy layers draw their weights here
    return network


def _small_cnn(data: settings.Data) -> nn.Module:
    """Three convolutions with batch norm, the last map pooled to 2x2: 30 thousand weights, for
    images of 8 to 64 px."""
    from torch import nn

    def stage(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    return nn.Sequential(
        stage(data.channels, 16),
        nn.MaxPool2d(2),
        stage(16, 32),
        nn.MaxPool2d(2),
        stage(32, 64),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, data.classes),
    )


def _from_factory(name: str, data: settings.Data) -> nn.Module:
    from torch import nn

    module_name, _, attribute = name.partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module_name), attribute)
        network = factory(classes=data.classes, channels=data.channels, image_size=data.image_size)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"model.name {name!r}: {type(error).__name__}: {error}; expected "
            "package.module:factory, importable from "
            "the workspace and called as factory(classes=, channels=, image_size=)"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model.name {name!r} gave {type(network).__name__}, expected a torch.nn.Module"
        )
    return network


def _from_torchvision(model: settings.Model, data: settings.Data) -> nn.Module:
    from torchvision import models

    name, names = model.name, models.list_models(models)
    if name not in names:
        raise ModelError(
            f"model.name {name!r} is unknown; expected small_cnn, package.module:factory or one "
            f"of {', '.join(names)}"
        )
    extra: dict[str, Any] = {}
    if name in AUXILIARY:
        extra = {"aux_logits": False, "init_weights": True}
    elif name.startswith(VISION_TRANSFORMERS):
        extra = {"image_size": data.image_size}
    try:
        network: nn.Module = models.get_model(name, weights=None, num_classes=data.classes, **extra)
    except (AssertionError, ValueError) as error:  # a size that the family's patches do not divide
        raise ModelError(f"model.name {name!r}: {error}; set data.image_size") from error
    fit_first_layer(network, model.stem, data.channels)
    return network


def fit_first_layer(network: nn.Module, stem: str, channels: int) -> None:
    """Give the first convolution the data's channels, and stride 1 for the stem `small`; nothing
    else changes.

    Raises:
        ModelError: there is no convolution, or it takes channels in groups.
    """
    from torch import nn

    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise ModelError(
            "the model has no convolution; FCALB and this pipeline are for convolutional networks"
        )
    if first.in_channels != channels:
        if first.groups != 1:
            raise ModelError(
                f"the model's first convolution has {first.groups} groups of channels, expected "
                "one; write a factory"
            )
        first.weight = nn.Parameter(first.weight.detach()[:, :channels].clone())
        first.in_channels = channels
    if stem == "small":
        first.stride = (1, 1)


def _pool_deterministically(network: nn.Module) -> None:
    """Replace adaptive pooling, whose gradient is not deterministic on CUDA and is refused
    there."""
    from torch import nn

    for layer in network.modules():
        if type(layer) is nn.AdaptiveAvgPool2d and layer.output_size not in (1, (1, 1)):
            layer.forward = partial(pool, size=layer.output_size)  # type: ignore[method-assign]


def pool(maps: Tensor, size: Any) -> Tensor:
    """Adaptive average pooling with a deterministic gradient: PyTorch's, or on CUDA
    `pool_by_matrices`."""
    from torch.nn import functional

    return (
        pool_by_matrices(maps, size) if maps.is_cuda else functional.adaptive_avg_pool2d(maps, size)
    )


def pool_by_matrices(maps: Tensor, size: int | tuple[int | None, int | None]) -> Tensor:
    """Adaptive average pooling of maps (n, channels, h, w) to a size, as PyTorch's, by two matrix
    products.

    Output i is the mean of the inputs floor(i h / size) to ceil((i + 1) h / size).
    """
    import torch

    sizes = size if isinstance(size, tuple) else (size, size)
    across = []
    for inputs, outputs in zip(maps.shape[2:], sizes, strict=True):
        count = inputs if outputs is None else outputs
        shares = torch.zeros(count, inputs, dtype=maps.dtype)
        for row in range(count):
            start, end = row * inputs // count, -(-(row + 1) * inputs // count)
            shares[row, start:end] = 1 / (end - start)
        across.append(shares.to(maps.device))
    return across[0] @ maps @ across[1].T


def _try_out(network: nn.Module, name: str, data: settings.Data) -> None:
    """Run the network on two images, in evaluation mode and, if it is the user's own, in training
    mode."""
    import torch

    training = network.training
    tries = [("", network.eval())]
    images = torch.zeros(2, data.channels, data.image_size, data.image_size)
    for when, tried in tries:
        try:
            with torch.no_grad():
                logits = tried(images)
            if ":" in name and len(tries) == 1:  # a copy: training mode changes running statistics
                tries.append((" in training mode", copy.deepcopy(network).train()))
        except Exception as error:  # torchvision's and the user's code may raise anything
            raise ModelError(
                f"model {name} does not take images of "
                f"{data.channels}x{data.image_size}x{data.image_size}{when}: "
                f"{type(error).__name__}: {error}; set data.image_size larger or choose another "
                "model"
            ) from error
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, data.classes):
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ModelError(
                f"model {name} gives {got} for two images{when}, expected logits of shape (2, "
                f"{data.classes})"
            )
    network.train(training)


def hold_still(network: nn.Module, batch_norm: bool) -> None:
    """Set evaluation mode, except for batch norm, which is in training mode if `batch_norm` is
    true.

    This makes features comparable: dropout and stochastic depth would change some of them at
    random.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    network.eval()
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(batch_norm)


Spot = tuple["nn.Module", int]
"""A layer and the number of its call in a pass, from 0: a layer may be called several times."""


def _calls(network: nn.Module, image: Tensor) -> tuple[list[tuple[Spot, torch.Size]], int]:
    """The calls of a network's layers for one image, in order, each with its output's shape; and
    the number of outputs."""
    import torch
    from torch import nn

    calls: list[tuple[Spot, torch.Size]] = []
    times: Counter[nn.Module] = Counter()

    def note(layer: nn.Module, _: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            calls.append(((layer, times[layer]), out.shape))
        times[layer] += 1

    hooks = [
        layer.register_forward_hook(note)
        for layer in network.modules()
        if not list(layer.children())
        or isinstance(layer, nn.Linear | nn.Conv2d)  # a parametrised one has children
    ]
    training = network.training
    try:
        with torch.no_grad():
            classes = network.eval()(image).shape[1]
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return calls, classes


class Taps:
    """Reads features while a network computes: the input of its classifier, or all stages.

    The classifier is the last linear layer, or the last convolution of a network that ends in one.
    A stage's features are the last map of one resolution. Both are found by running the model once,
    so that any convolutional network can be tapped, whether or not it can be traced.
    """

    def __init__(self, network: nn.Module, which: str, image: Tensor) -> None:
        """Find the taps.

        Args:
            network: any classifier whose last layer is linear or a convolution, with an output per
                class.
            which: `last` for the input of the last layer, `all` for the last map of each resolution
                as well.
            image: one image (1, channels, side, side) to try the model out with.

        Raises:
            ModelError: the model has no such layer, or it reads the image itself.
        """
        from torch import nn

        self.network = network
        pooling = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
        calls, classes = _calls(network, image)
        weighted = [
            number
            for number, ((layer, _), _) in enumerate(calls)
            if isinstance(layer, nn.Linear | nn.Conv2d)
        ]
        if len(weighted) < 2 or calls[weighted[-1]][1][1] != classes:
            raise ModelError(
                "the model cannot be tapped: its last layer has to be a torch.nn.Linear or Conv2d "
                "with an output per class, and another such layer has to come before it; its input "
                "would be the model's features"
            )
        before = calls[: weighted[-1]]
        resolutions = {
            tuple(shape[2:])
            for (layer, _), shape in before
            if isinstance(layer, (nn.Conv2d, *pooling))
        }  # others may have four axes, too, in another order
        maps: dict[tuple[int, ...], Spot] = {}
        for spot, shape in before:
            if len(shape) == 4 and min(shape[2:]) > 1 and tuple(shape[2:]) in resolutions:
                maps[tuple(shape[2:])] = spot
        self._stages = list(maps.values()) if which == "all" else []
        self._head = calls[weighted[-1]][0]

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, classes) and the features of each tap, (n, ...).

        Raises:
            ModelError: the model calls other layers for these images than for the one that it was
                tried out with.
        """
        outputs: dict[Spot, Tensor] = {}
        times: Counter[nn.Module] = Counter()
        stages = set(self._stages)

        def read(layer: nn.Module, _: Any, out: Tensor) -> None:
            spot = (layer, times[layer])
            times[layer] += 1
            if spot in stages:
                outputs[spot] = (
                    out.clone()
                )  # a later layer may work in place on a map that was read

        head, number = self._head
        inputs: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(read) for layer in {layer for layer, _ in self._stages}
        ]
        hooks.append(
            head.register_forward_pre_hook(
                lambda _, args, kwargs: inputs.append((*args, *kwargs.values())[0]),
                with_kwargs=True,
            )
        )
        try:
            logits = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        if len(outputs) < len(stages) or len(inputs) <= number:
            raise ModelError(
                "the model cannot be tapped: which of its layers are called depends on the images"
            )
        return logits, [*(outputs[spot] for spot in self._stages), inputs[number]]
