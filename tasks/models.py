"""Classifiers: building them for a data set, tapping their features, keeping them as safetensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import files, settings
from tasks.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SMALL_IMAGE = 64
"""Below this side, pixels, a torchvision classifier's first layer keeps the resolution; its stride is for photos."""


def build(model: settings.Model, data: settings.Data, seed: int) -> nn.Module:
    """A freshly initialised classifier.

    Args:
        model: `name` is `small_cnn`, a classifier of `torchvision.models`, or `package.module:factory`.
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
            network = _from_torchvision(model.name, data)
    _try_out(network, model.name, data)
    return network


def _small_cnn(data: settings.Data) -> nn.Module:
    """Three convolutions with batch norm, the last map pooled to 2x2: 30 thousand weights, for images of 8 to 64 px."""
    from torch import nn

    def stage(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
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
    module_name, _, attribute = name.partition(":")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module_name), attribute)
        network = factory(classes=data.classes, channels=data.channels, image_size=data.image_size)
    except (ImportError, AttributeError, TypeError) as error:
        raise ModelError(
            f"model.name {name!r}: {error}; expected package.module:factory, importable from the workspace and "
            "called as factory(classes=, channels=, image_size=)"
        ) from error
    from torch import nn

    if not isinstance(network, nn.Module):
        raise ModelError(f"model.name {name!r} gave {type(network).__name__}, expected a torch.nn.Module")
    return network


def _from_torchvision(name: str, data: settings.Data) -> nn.Module:
    from torchvision import models

    known = models.list_models(models)
    if name not in known:
        raise ModelError(
            f"model.name {name!r} is unknown; expected small_cnn, package.module:factory or one of {', '.join(known)}"
        )
    network: nn.Module = models.get_model(name, weights=None, num_classes=data.classes)
    _fit_first_layer(network, data)
    return network


def _fit_first_layer(network: nn.Module, data: settings.Data) -> None:
    from torch import nn

    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            fitted = nn.Conv2d(
                data.channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=1 if data.image_size < SMALL_IMAGE else layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            parent, _, attribute = path.rpartition(".")
            setattr(network.get_submodule(parent), attribute, fitted)
            return
    raise ModelError("the model has no convolution; FCALB and this pipeline are for convolutional networks")


def _try_out(network: nn.Module, name: str, data: settings.Data) -> None:
    import torch

    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(torch.zeros(2, data.channels, data.image_size, data.image_size))
    except RuntimeError as error:
        raise ModelError(
            f"model {name} does not take images of {data.channels}x{data.image_size}x{data.image_size}: {error}; "
            "set data.image_size larger or choose another model"
        ) from error
    network.train(training)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, data.classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"model {name} gives {got} for two images, expected logits of shape (2, {data.classes})")


def save(network: nn.Module, path: Path) -> str:
    """Write the weights as safetensors, whole or not at all. Returns the SHA-256 of the file."""
    from safetensors.torch import save as serialise

    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    files.write_bytes(path, serialise(state))
    return files.sha256(path)


def load(path: Path, model: settings.Model, data: settings.Data) -> nn.Module:
    """Read weights into a freshly built classifier, every tensor by name and shape. Nothing is unpickled.

    Raises:
        ModelError: the file is missing, is no safetensors file, or is of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; expected the weights of {model.name}") from error
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no safetensors file ({error}). Pickled checkpoints are not read, because loading one runs its "
            "code: convert it with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    network = build(model, data, seed=0)
    expected = network.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if state[name].shape != value.shape
    ]
    if wrong:
        raise ModelError(
            f"{path} is not a checkpoint of {model.name} for {data.classes} classes and {data.channels} channels: "
            f"{len(wrong)} tensors differ, first {wrong[0]}; set model.name and data.* to what it was trained with"
        )
    network.load_state_dict(state)
    return network


class Taps:
    """Reads features while a classifier computes: its classifier's input, or all stages.

    A stage's features are the last map of one resolution, found by trying the model out, so that any convolutional
    network can be tapped, whether or not it can be traced.
    """

    def __init__(self, network: nn.Module, which: str, image: Tensor) -> None:
        """Find the taps.

        Args:
            network: any classifier with a linear last layer.
            which: `last` for the input of the last linear layer, `all` for the last map of each resolution as well.
            image: one image (1, channels, side, side) to try the model out with.

        Raises:
            ModelError: the model has no linear layer to tap.
        """
        from torch import nn

        self.network = network
        self._read: list[Tensor] = []
        calls: list[tuple[nn.Module, torch.Size]] = []
        linear: list[nn.Module] = []
        watch = [
            layer.register_forward_hook(lambda layer, _, out: calls.append((layer, out.shape)))
            for layer in network.modules()
            if not list(layer.children())
        ]
        training = network.training
        network.eval()
        network(image)
        network.train(training)
        for hook in watch:
            hook.remove()
        linear = [layer for layer, _ in calls if isinstance(layer, nn.Linear)]
        if not linear:
            raise ModelError("the model cannot be tapped: it has no linear layer, whose input would be its features")
        maps: dict[tuple[int, ...], nn.Module] = {}
        for layer, shape in calls:
            if len(shape) == 4 and min(shape[2:]) > 1:
                maps[tuple(shape[2:])] = layer
        self._stages = list(maps.values()) if which == "all" else []
        self._head = linear[-1]

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, classes) and the features of each tap, (n, ...)."""
        found: list[Tensor] = []
        # a later layer may work in place on a map that was read: keep a copy
        hooks = [stage.register_forward_hook(lambda _, __, out: found.append(out.clone())) for stage in self._stages]
        hooks.append(self._head.register_forward_pre_hook(lambda _, given: found.append(given[0])))
        try:
            logits = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, found
