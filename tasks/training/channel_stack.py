"""Computes several models, each a plain chain of layers, as one network with the channels of all.

Model i of k has the i-th part of the channels of every map. So a convolution has a group per model,
and batch norm, activation and pooling are those of one wide network: each call does the work of k
models, and a processor reads the maps channels last, for which it has fast code. Max pooling and a
ReLU before it change places, which gives the same values and gradients on fewer elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


class ChannelStack:
    """k models as one network; their weights are copied, and given back by `unstack`."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        import torch
        from torch import nn

        self.count = len(networks)
        self._layers = _in_order(chain(networks[0]) or [])
        self._weights: dict[str, Tensor] = {}
        self._running: dict[str, Tensor] = {}
        states = [network.state_dict() for network in networks]
        learned = dict(networks[0].named_parameters())
        for name, layer in self._layers:
            for key in layer.state_dict():
                parts = [state[f"{name}.{key}"].detach() for state in states]
                if key == "num_batches_tracked":
                    continue
                linear = isinstance(layer, nn.Linear)
                together = torch.stack(parts) if linear else torch.cat(parts)
                if together.dim() == 4:
                    together = together.contiguous(memory_format=torch.channels_last)
                whole = f"{name}.{key}"
                if whole in learned:
                    together.requires_grad_(learned[whole].requires_grad)
                    self._weights[whole] = together
                else:
                    self._running[whole] = together
        self._steps = 0

    @property
    def weights(self) -> list[Tensor]:
        """The parameters, each of all models together."""
        return list(self._weights.values())

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """(k, n, classes) of a batch (n, channels, side, side) for each of the k models.

        Running statistics are updated in place, as in training alone.
        """
        import torch

        self._steps += 1
        maps = torch.cat(list(images), 1).contiguous(memory_format=torch.channels_last)
        for name, layer in self._layers:
            maps = self._apply(name, layer, maps)
        return maps

    def _apply(self, name: str, layer: nn.Module, maps: Tensor) -> Tensor:
        import torch
        from torch import nn
        from torch.nn import functional

        weight, bias = (self._weights.get(f"{name}.{key}") for key in ("weight", "bias"))
        if isinstance(layer, nn.Conv2d) and weight is not None:
            return functional.conv2d(
                maps, weight, bias, layer.stride, layer.padding, layer.dilation, self.count
            )
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = (self._running[f"{name}.running_{of}"] for of in ("mean", "var"))
            momentum = layer.momentum if layer.momentum is not None else 1 / self._steps
            return functional.batch_norm(
                maps, mean, variance, weight, bias, True, momentum, layer.eps
            )
        if isinstance(layer, nn.Flatten):
            return maps.reshape(len(maps), self.count, -1).transpose(0, 1)
        if isinstance(layer, nn.Linear) and weight is not None:
            products = maps @ weight.transpose(1, 2)
            return products if bias is None else products + bias[:, None]
        if isinstance(layer, nn.ReLU):
            return torch.relu(maps)
        pooled: Tensor = layer(maps)
        return pooled

    def unstack(self, networks: Sequence[nn.Module]) -> None:
        """Give each model its own weights and running statistics back."""
        import torch
        from torch import nn

        with torch.no_grad():
            for number, network in enumerate(networks):
                targets = dict(network.named_parameters()) | dict(network.named_buffers())
                for name, together in (self._weights | self._running).items():
                    targets[name].copy_(together.reshape(self.count, *targets[name].shape)[number])
                for layer in network.modules():
                    if isinstance(layer, nn.BatchNorm2d) and layer.num_batches_tracked is not None:
                        layer.num_batches_tracked += self._steps


def chain(network: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """The layers of a network in their order, by name; None where it is no plain chain of layers
    that can share channels: convolutions of one group, batch norm, ReLU, pooling, and linear layers
    after one flattening."""
    from torch import nn

    layers: list[tuple[str, nn.Module]] = []

    def gather(prefix: str, module: nn.Module) -> bool:
        if type(module) is nn.Sequential:
            return all(gather(f"{prefix}{name}.", child) for name, child in module.named_children())
        layers.append((prefix.removesuffix("."), module))
        return _shares_channels(module)

    if type(network) is not nn.Sequential or not gather("", network):
        return None
    kinds = [type(layer) for _, layer in layers]
    flat = kinds.index(nn.Flatten) if kinds.count(nn.Flatten) == 1 else -1
    spatial, linear = kinds[: flat + 1], kinds[flat + 1 :]
    if flat < 0 or nn.Linear in spatial or not set(linear) <= {nn.Linear, nn.ReLU}:
        return None
    return layers


def _shares_channels(layer: nn.Module) -> bool:
    """Whether the layer treats each channel, or each group of channels, by itself."""
    from torch import nn

    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    if type(layer) is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    pooling = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    return type(layer) in (nn.ReLU, nn.Linear, *pooling)


def _in_order(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The layers with each max pooling before the ReLU that came before it."""
    from torch import nn

    ordered = list(layers)
    for index in range(1, len(ordered)):
        (_, before), (_, layer) = ordered[index - 1 : index + 1]
        if type(before) is nn.ReLU and type(layer) is nn.MaxPool2d and not layer.return_indices:
            ordered[index - 1 : index + 1] = ordered[index - 1 : index + 1][::-1]
    return ordered
