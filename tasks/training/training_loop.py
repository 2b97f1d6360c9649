"""The one training loop: it serves `train`, `retrain` and the unlearning methods."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.common import settings
from tasks.common.errors import EvidenceError, ModelError
from tasks.training.compute import Backend
from tasks.training.preprocessing import normalisation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Progress = Callable[[int, float], None]
"""Called after each step with the number of steps done and the loss."""
Optimiser = Literal["sgd", "adam"]


class Records:
    """Records on the device: images (n, channels, side, side) uint8 and labels (n,) int64."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        model: settings.Model,
        backend: Backend,
    ) -> None:
        import torch

        self.images = torch.tensor(images, device=backend.device)
        self.labels = torch.tensor(labels, dtype=torch.int64, device=backend.device)
        self.backend = backend
        self._normalise_as(model)

    def _normalise_as(self, model: settings.Model) -> None:
        import torch

        mean, std = normalisation(model, self.images.shape[1], self.images.shape[-1])
        self._mean, self._std = (
            torch.tensor(values, device=self.backend.device)[:, None, None]
            for values in (mean, std)
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory layout of images and weights on the device."""
        return self.backend.memory_format(self.images.shape[1])

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device of the records, in their memory format. Returns it."""
        placed: nn.Module = network.to(  # type: ignore[call-overload]
            self.backend.device, memory_format=self.memory_format
        )
        return placed

    def floats(self, rows: Tensor | slice) -> Tensor:
        """Normalised images of some rows, float32, in the memory format."""
        return self._normalised(self.images[rows])

    def _normalised(self, pixels: Tensor) -> Tensor:
        import torch

        values = pixels.to(torch.float32) / 255
        return ((values - self._mean) / self._std).contiguous(memory_format=self.memory_format)

    def rows(self, rows: Tensor) -> Records:
        """Some of the records, by number (k,), in that order; a number may come twice."""
        part = copy.copy(self)
        rows = rows.to(self.labels.device)
        part.images, part.labels = self.images[rows], self.labels[rows]
        return part

    def with_labels(self, labels: Tensor) -> Records:
        """The same images under other labels (n,) int64."""
        part = copy.copy(self)
        part.labels = labels
        return part

    def with_images(self, images: Tensor) -> Records:
        """The same labels for other images, of the same shape and type."""
        part = copy.copy(self)
        part.images = images
        return part

    def normalised_as(self, model: settings.Model) -> Records:
        """The same records, with the mean and std of another model."""
        part = copy.copy(self)
        part._normalise_as(model)  # noqa: SLF001 - of this class
        return part

    def batches(
        self,
        size: int,
        generator: torch.Generator,
        recipe: settings.Train,
        among: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches (images, labels), every record once per epoch; a rest too small for a
        batch waits.

        Order and augmentation are drawn from the generator, on the CPU and so the same for every
        device. With `among`, numbers of records, only these are in the batches.

        Raises:
            EvidenceError: there are fewer than two records, too few for batch norm.
        """
        import torch

        count = len(self) if among is None else len(among)
        if count < 2:
            raise EvidenceError(f"got {count} records to train on, expected at least 2")
        size = min(size, count)
        while True:
            order = torch.randperm(count, generator=generator)
            if among is not None:
                order = among.cpu()[order]
            order = order.to(self.backend.device)
            for start in range(0, count - size + 1, size):
                rows = order[start : start + size]
                pixels = augmented(self.images[rows], recipe, generator)
                yield self._normalised(pixels), self.labels[rows]


def paired(records: Records) -> Records:
    """The records, a single one doubled: batch norm needs two."""
    import torch

    return records.rows(torch.tensor([0, 0])) if len(records) == 1 else records


def check(original: nn.Module, forget: Records, retain: Records) -> None:
    """Check that a method can make this model forget.

    Raises:
        EvidenceError: the forget set is empty or larger than the retain set.
        ModelError: all weights are frozen.
    """
    if not any(weight.requires_grad for weight in original.parameters()):
        raise ModelError(
            "got a model whose weights are all frozen, expected some with requires_grad: it "
            "cannot forget"
        )
    if not 0 < len(forget) <= len(retain):
        raise EvidenceError(
            f"got {len(forget)} records to forget and {len(retain)} to retain; expected at least "
            "one to forget and no "
            "more than are retained: retrain instead (unlearn.method=retrain)"
        )


def sample(records: Records, share: float, generator: torch.Generator) -> Records:
    """A random share of the records, at least two."""
    import torch

    count = min(len(records), max(2, round(share * len(records))))
    return records.rows(torch.randperm(len(records), generator=generator)[:count])


def joined(first: Records, second: Records) -> Records:
    """The records of both, of the same shape and on the same device."""
    import torch

    both = copy.copy(first)
    both.images = torch.cat([first.images, second.images])
    both.labels = torch.cat([first.labels, second.labels])
    return both


def augmented(pixels: Tensor, recipe: settings.Train, generator: torch.Generator) -> Tensor:
    """Images (n, channels, side, side) uint8, each flipped and shifted on its own; what comes in at
    an edge is black.

    It is what torchvision's `RandomHorizontalFlip` and `RandomCrop` with padding do to one image
    after the other; those of its transforms that take a batch draw once for all of it.
    """
    import torch
    from torch.nn import functional

    count, side = len(pixels), pixels.shape[-1]
    if recipe.flip:
        turned = torch.rand(count, generator=generator).to(pixels.device) < 0.5
        pixels = torch.where(turned[:, None, None, None], pixels.flip(-1), pixels)
    if recipe.shift:
        padded = functional.pad(pixels, [recipe.shift] * 4)
        down, across = torch.randint(2 * recipe.shift + 1, (2, count), generator=generator).to(
            pixels.device
        )
        windows = padded.unfold(2, side, 1).unfold(
            3, side, 1
        )  # a view, so that whole rows are copied
        pixels = windows[torch.arange(count, device=pixels.device), :, down, across]
    return pixels


def optimise(
    parameters: list[dict[str, Any]],
    objective: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    recipe: settings.Train,
    progress: Progress | None = None,
    optimiser: Optimiser = "sgd",
    setting: str = "train.learning_rate",
) -> None:
    """Minimise `objective` on a one-cycle schedule (Smith and Topin 2019).

    Args:
        parameters: groups as PyTorch has them: `params`, and where it differs from the recipe
            `weight_decay`.
        objective: step number -> loss, a scalar with a gradient.
        steps: number of steps; none changes nothing.
        learning_rate: the schedule's peak.
        recipe: momentum, weight decay and warm-up.
        progress: told each step.
        optimiser: `sgd` with Nesterov momentum, or `adam` with the decay rates 0.9 and 0.999 of
            Kingma and Ba 2015 and weight decay as an L2 penalty.
        setting: the key that `learning_rate` is from, for the error.

    Raises:
        ModelError: the loss is not finite, or no weight learns.
    """
    import torch

    groups = [
        (_trainable(group["params"]), group.get("weight_decay", recipe.weight_decay))
        for group in parameters
    ]
    if steps and not any(weights for weights, _ in groups):
        raise ModelError("got no weights with requires_grad, expected some: nothing can learn")
    updates = [
        _adam(weights, decay) if optimiser == "adam" else _sgd(weights, decay, recipe.momentum)
        for weights, decay in groups
    ]
    for step in range(steps):
        loss = objective(step)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ModelError(
                f"the loss became {value} at step {step + 1} of {steps}: training stops and "
                "nothing is released; lower "
                f"the learning rate ({setting} is {learning_rate:g})"
            )
        rate = one_cycle(step, steps, learning_rate, recipe.warmup)
        learned = [weight for weights, _ in groups for weight in weights]
        # the gradient of a weight that the loss does not reach is zero
        gradients = iter(torch.autograd.grad(loss, learned, materialize_grads=True))
        with torch.no_grad():
            for (weights, _), update in zip(groups, updates, strict=True):
                update([next(gradients) for _ in weights], rate)
        if progress:
            progress(step + 1, value)


def _trainable(weights: Iterable[Tensor]) -> list[Tensor]:
    return [weight for weight in weights if weight.requires_grad]


Update = Callable[[list["Tensor"], float], None]
"""One step of an optimiser on the weights that it was made for: their gradients and the learning
rate."""


def _sgd(weights: list[Tensor], decay: float, momentum: float) -> Update:
    # the plain function: the optimiser class imports the compiler, 7 s per process
    from torch.optim.sgd import sgd

    buffers: list[Tensor | None] = [None] * len(weights)

    def update(gradients: list[Tensor], rate: float) -> None:
        sgd(
            weights,
            gradients,
            buffers,
            weight_decay=decay,
            momentum=momentum,
            lr=rate,
            dampening=0.0,
            nesterov=momentum > 0,
            maximize=False,
            foreach=True,
        )

    return update


def _adam(weights: list[Tensor], decay: float) -> Update:
    import torch
    from torch.optim.adam import adam  # the plain function, as with SGD

    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    counts = [torch.zeros(()) for _ in weights]

    def update(gradients: list[Tensor], rate: float) -> None:
        adam(
            weights,
            gradients,
            means,
            squares,
            [],
            counts,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=decay,
            eps=1e-8,
            maximize=False,
        )

    return update


def one_cycle(step: int, steps: int, peak: float, warmup: float) -> float:
    """The learning rate of a step: up to `peak` in the share `warmup` of the steps, then down to 0,
    along cosines.

    It starts at peak / 25 (Smith and Topin 2019).
    """
    done = (step + 0.5) / steps
    if done < warmup:
        low, high, share = peak / 25, peak, done / warmup
    else:
        low, high, share = peak, 0.0, (done - warmup) / (1 - warmup)
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


def fit(
    network: nn.Module,
    records: Records,
    recipe: settings.Train,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Train a classifier by cross-entropy, in place; it is left in evaluation mode.

    Args:
        network: the classifier, on the CPU or the device.
        records: what it learns from.
        recipe: epochs and all the rest.
        seed: seed of the order of records and of the augmentation.
        progress: told each step.
    """
    import torch
    from torch.nn import functional

    records.place(network).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers such as dropout draw from the global generator
        batches = records.batches(recipe.batch_size, torch.Generator().manual_seed(seed), recipe)

        def objective(_: int) -> Tensor:
            images, labels = next(batches)
            with records.backend.autocast():
                return functional.cross_entropy(
                    network(images), labels, label_smoothing=recipe.label_smoothing
                )

        weights = [{"params": list(network.parameters())}]
        optimise(
            weights, objective, steps(len(records), recipe), recipe.learning_rate, recipe, progress
        )
    network.eval()


def steps(count: int, recipe: settings.Train) -> int:
    """Steps of a training on so many records: whole batches of every epoch, at least one."""
    return max(1, recipe.epochs * (count // min(recipe.batch_size, max(count, 1))))


def logits(network: nn.Module, records: Records, batch_size: int = 512) -> NDArray[np.float32]:
    """A classifier's answers for every record: logits (n, classes), always in float32, without
    augmentation."""
    import torch

    network.to(records.backend.device).eval()
    with torch.no_grad():
        parts = [
            network(records.floats(slice(start, start + batch_size))).float().cpu().numpy()
            for start in range(0, len(records), batch_size)
        ]
    return np.concatenate(parts)
