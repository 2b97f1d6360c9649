"""Functions that several rivals share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tasks.common import seeds
from tasks.common.errors import ModelError
from tasks.common.settings import Settings
from tasks.training import architectures, training_loop
from tasks.unlearning.rivals.recipes import recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class RivalInput(NamedTuple):
    """The input of every rival; `registry.unlearn` describes its parts."""

    original: nn.Module
    forget: training_loop.Records
    retain: training_loop.Records
    settings: Settings
    progress: training_loop.Progress | None


def divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over records of KL(targets || softmax(logits)), nats, for logits and probabilities
    (n, classes)."""
    from torch.nn import functional

    return functional.kl_div(
        functional.log_softmax(logits.float(), 1), targets.float(), reduction="batchmean"
    )


def softened(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`divergence` from a teacher's logits, both at a temperature, times its square (Hinton et al.
    2015)."""
    return temperature**2 * divergence(
        logits.float() / temperature, (teacher_logits.float() / temperature).softmax(1)
    )


def part_of(
    retain: training_loop.Records, settings: Settings, generator: torch.Generator
) -> training_loop.Records:
    """The part of the retained records that the recipe allows, drawn at random."""
    share = recipe(settings).retained_share
    return training_loop.sample(retain, 1.0 if share is None else share, generator)


def mislabelled(
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    generator: torch.Generator,
) -> training_loop.Records:
    """The forget set, every record under a wrong label, and the part of the retained records that
    the recipe allows."""
    import torch

    generator_of_labels = torch.Generator().manual_seed(
        seeds.derive(settings.seed, "unlearn", "labels")
    )
    shift = torch.randint(
        1, settings.data.classes, (len(forget),), generator=generator_of_labels
    ).to(forget.labels.device)
    forget_mislabelled = forget.with_labels((forget.labels + shift) % settings.data.classes)
    return training_loop.joined(forget_mislabelled, part_of(retain, settings, generator))


def imitate_labels(
    network: nn.Module,
    records: training_loop.Records,
    settings: Settings,
    generator: torch.Generator,
    progress: training_loop.Progress | None,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Train by cross-entropy as the recipe says."""
    from torch.nn import functional

    batches = records.batches(settings.unlearn.batch_size, generator, settings.train)

    def objective(_: int) -> Tensor:
        before_each()
        images, labels = next(batches)
        with records.backend.autocast():
            return functional.cross_entropy(network(images), labels)

    learn(network, objective, steps_of(records, settings), settings, progress)


def learn(
    network: nn.Module,
    objective: Callable[[int], Tensor],
    steps: int,
    settings: Settings,
    progress: training_loop.Progress | None,
    rate: str = "learning_rate",
) -> None:
    """Minimise as the recipe says, over the weights of this network alone.

    `rate` is the key of `unlearn.rivals` that the peak learning rate is from.
    """
    chosen = recipe(settings)
    optimiser = chosen.optimiser or "sgd"
    group: dict[str, object] = {"params": list(network.parameters())}
    if optimiser == "adam":
        group["weight_decay"] = 0.0
    peak = getattr(chosen if rate == "learning_rate" else settings.unlearn.rivals, rate)
    training_loop.optimise(
        [group],
        objective,
        steps,
        peak,
        settings.train,
        progress,
        optimiser,
        setting=f"unlearn.rivals.{rate}",
    )


def steps_of(records: training_loop.Records, settings: Settings) -> int:
    """Steps of the recipe's epochs over some records."""
    return passes(records, settings.unlearn.batch_size, recipe(settings).epochs or 0)


def passes(records: training_loop.Records, batch_size: int, epochs: float) -> int:
    """Steps of some passes over some records; none for no passes, else at least one."""
    return math.ceil(epochs) and max(
        1, round(epochs * len(records) / min(batch_size, len(records)))
    )


def fresh(settings: Settings) -> nn.Module:
    """A new model, the one that `retrain` starts from."""
    return architectures.build(
        settings.model, settings.data, seeds.derive(settings.seed, "unlearn", 0, "weights")
    )


def learner(network: nn.Module, records: training_loop.Records) -> nn.Module:
    """The same network, on the device and in training mode."""
    return records.place(network).train()


def frozen_copy(network: nn.Module, records: training_loop.Records) -> nn.Module:
    """A copy on the device that never learns, in evaluation mode."""
    return records.place(copy.deepcopy(network)).eval().requires_grad_(False)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """The network's two-dimensional convolutions, in its order.

    Raises:
        ModelError: there are none.
    """
    from torch import nn

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    if not layers:
        raise ModelError(
            "got a model without convolutions, expected some: msg and ct change nothing else; "
            "choose another unlearn.method"
        )
    return layers


@contextmanager
def streams(settings: Settings) -> Iterator[torch.Generator]:
    """Random streams of a method: a generator for the batches, and the global one for layers such
    as dropout."""
    import torch

    seed = seeds.derive(settings.seed, "unlearn", "order")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
