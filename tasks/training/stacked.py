"""Trains several models of one recipe at once in one process; each becomes what it would become
alone, up to rounding.

Each model has its own order of records and its own augmentation. On a processor a plain chain of
layers becomes one network with the channels of all (`channel_stack`), which is faster than one
model at a time. Otherwise the weights are stacked, and `torch.func.vmap` makes a step of one model
a step of all. This pays off on a GPU, which one small model leaves idle; on a processor it is
slower than one model at a time (docs/performance.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.common import settings, stage_cli
from tasks.common.errors import EvidenceError
from tasks.training import channel_stack, compute, training_loop

if TYPE_CHECKING:
    from torch import Tensor, nn

Stack = tuple[dict[str, "Tensor"], dict[str, "Tensor"]]
"""Parameters and buffers of k models by name, each (k, ...)."""
IN_CHANNELS = 4
"""Models that share their channels: more of them leave the processor's cache."""


def fit(
    networks: Sequence[nn.Module],
    records: training_loop.Records,
    recipe: settings.Train,
    seeds: Sequence[int],
    progress: training_loop.Progress | None = None,
    rows: Sequence[Tensor] | None = None,
) -> None:
    """Train classifiers of one architecture by cross-entropy, in place; they are left in evaluation
    mode.

    Args:
        networks: k classifiers that can be trained together, see `why_not`.
        records: what they learn from.
        recipe: epochs and all the rest.
        seeds: k seeds of the order of records and of the augmentation, each as in `training.fit`.
        progress: called after each step, with the mean of the losses.
        rows: numbers of the records that each learns from, so many that all have the same number
            of steps; None: each learns from all.

    Raises:
        EvidenceError: there are fewer than two records, or the models differ in their steps.
        ModelError: the loss of a model is not finite.
    """
    import torch

    backend = records.backend
    for network in networks:
        records.place(network).train()
    among = list(rows) if rows is not None else [torch.arange(len(records))] * len(networks)
    lengths = {training_loop.steps(len(model_rows), recipe) for model_rows in among}
    if len(lengths) > 1:
        raise EvidenceError(
            f"got models of {', '.join(map(str, sorted(lengths)))} steps, expected the same number "
            "for all that are trained at once"
        )
    (steps,) = lengths
    batches = [
        records.batches(recipe.batch_size, torch.Generator().manual_seed(seed), recipe, model_rows)
        for seed, model_rows in zip(seeds, among, strict=True)
    ]
    report = None if progress is None else _mean_of(progress, len(networks))
    fit_all = _fit_in_channels if in_channels(networks[0], backend) else _fit_by_vmap
    fit_all(networks, batches, steps, recipe, backend, report)


def _mean_of(progress: training_loop.Progress, count: int) -> training_loop.Progress:
    """Reports the mean where the loss is the sum of `count` models."""
    return lambda step, loss: progress(step, loss / count)


def count_of_pool(wish: settings.Compute, network: nn.Module, backend: compute.Backend) -> int:
    """How many models of a pool are trained at once.

    As `count`; but `auto` is `IN_CHANNELS` where models share their channels, for nobody compares
    models of a pool with models trained one by one.

    Args:
        wish: `together`.
        network: one of the models.
        backend: where they are trained.
    """
    if not in_channels(network, backend):
        return 1
    return IN_CHANNELS if wish.together == "auto" else wish.together


def in_channels(network: nn.Module, backend: compute.Backend) -> bool:
    """Whether models like this one are trained as one network with the channels of all."""
    return backend.device.type == "cpu" and channel_stack.chain(network) is not None


def _fit_in_channels(
    networks: Sequence[nn.Module],
    batches: Sequence[Iterator[tuple[Tensor, Tensor]]],
    steps: int,
    recipe: settings.Train,
    backend: compute.Backend,
    progress: training_loop.Progress | None,
) -> None:
    """As `fit`, by a `ChannelStack`."""
    import torch
    from torch.nn import functional

    stack = channel_stack.ChannelStack(networks)

    def objective(_: int) -> Tensor:
        images, labels = zip(*(next(each) for each in batches), strict=True)
        with backend.autocast():
            logits = stack.logits(images).flatten(0, 1)
            loss = functional.cross_entropy(
                logits, torch.cat(labels), label_smoothing=recipe.label_smoothing
            )
        return loss * len(networks)  # the sum of the models' losses

    weights = [{"params": stack.weights}]
    training_loop.optimise(weights, objective, steps, recipe.learning_rate, recipe, progress)
    stack.unstack(networks)
    for network in networks:
        network.eval()


def _fit_by_vmap(
    networks: Sequence[nn.Module],
    batches: Sequence[Iterator[tuple[Tensor, Tensor]]],
    steps: int,
    recipe: settings.Train,
    backend: compute.Backend,
    progress: training_loop.Progress | None,
) -> None:
    """As `fit`, by stacked weights."""
    import torch

    stack = torch.func.stack_module_state(list(networks))

    def objective(_: int) -> Tensor:
        images, labels = zip(*(next(each) for each in batches), strict=True)
        return _losses(
            networks[0],
            stack,
            torch.stack(images),
            torch.stack(labels),
            backend,
            recipe.label_smoothing,
        ).sum()

    weights = [{"params": list(stack[0].values())}]
    training_loop.optimise(weights, objective, steps, recipe.learning_rate, recipe, progress)
    _unstack(networks, stack)


def count(
    wish: settings.Compute,
    block: int,
    build: Callable[[], nn.Module],
    records: training_loop.Records,
) -> int:
    """How many models of a block are trained at once; 1 if this model cannot be stacked, which is
    printed.

    It follows from the device and the settings alone, so that a reproduction does the same.

    Args:
        wish: `together`.
        block: models in a block.
        build: makes one of them, to try.
        records: what they learn from.
    """
    size = min(block, 1 if wish.together == "auto" else wish.together)
    if size == 1:
        return 1
    reason = why_not(build(), records)
    if reason:
        stage_cli.say(f"models are trained one by one, since this one cannot be stacked: {reason}")
    return 1 if reason else size


def why_not(network: nn.Module, records: training_loop.Records) -> str | None:
    """Why models like this one cannot be trained together, or None where they can: a step of two
    copies is tried.

    A layer that draws random numbers, such as dropout, cannot be stacked: alone it would draw
    others.
    """
    import torch

    backend = records.backend
    if in_channels(network, backend):
        return None
    pair = [records.place(copy.deepcopy(network)).train() for _ in range(2)]
    images, labels = records.floats(slice(0, 2)), records.labels[:2]
    try:
        stack = torch.func.stack_module_state(pair)
        losses = _losses(
            pair[0], stack, torch.stack([images] * 2), torch.stack([labels] * 2), backend
        )
        torch.autograd.grad(losses.sum(), list(stack[0].values()), materialize_grads=True)
    except Exception as error:  # vmap reports unsupported layers by errors of many kinds
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None


def _losses(
    like: nn.Module,
    stack: Stack,
    images: Tensor,
    labels: Tensor,
    backend: compute.Backend,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy (k,) of k models on a batch each, images (k, n, channels, side, side) and
    labels (k, n).

    Running statistics among the buffers are updated in place, as in training alone.
    """
    import torch
    from torch.nn import functional

    def loss(
        weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> Tensor:
        logits = torch.func.functional_call(like, (weights, buffers), (images,))
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    with backend.autocast():
        losses: Tensor = torch.func.vmap(loss)(*stack, images, labels)
    return losses


def _unstack(networks: Sequence[nn.Module], stack: Stack) -> None:
    """Give each model its own weights and buffers back."""
    import torch

    with torch.no_grad():
        for number, network in enumerate(networks):
            targets = dict(network.named_parameters()) | dict(network.named_buffers())
            for name, values in (stack[0] | stack[1]).items():
                targets[name].copy_(values[number])
            network.eval()
