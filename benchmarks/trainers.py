"""Ways of training the same models, each in its own processes, which are warm before anything is
measured.

`public` is the way that public unlearning code trains: float32, a `DataLoader` over images that the
transforms of torchvision prepare one by one, `torch.optim.SGD` under `OneCycleLR`. `ours` is the
loop of the stages. Both have the same models, records, epochs and batch size.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import worlds
from benchmarks.worlds import World
from tasks.common.settings import Settings, Train
from tasks.training import architectures, compute, preprocessing, stacked, training_loop

if TYPE_CHECKING:
    from torch import nn

SIDE = 2048
"""Rows and columns of the matrices whose product is the measure of the hardware"""


@dataclass(frozen=True)
class Job:
    """Models that one process trains."""

    world: str
    seeds: tuple[int, ...]
    loop: Literal["public", "ours"] = "ours"
    threads: int = 1
    workers: int = 0
    """processes of the public loop's `DataLoader`"""
    at_once: int = 1
    """models stacked in one step, ours"""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    model: str = ""
    """another model than the world's"""
    epochs: int = 0
    """fewer epochs than the world's recipe"""
    records: int = 0
    """fewer records than the world's"""


@dataclass(frozen=True)
class Done:
    """The cost of a job, and the accuracy of its models."""

    seconds: float
    cpu: float
    """processor time, s, with that of the `DataLoader`'s workers"""
    accuracies: tuple[float, ...]
    """of each model on the people whom no model saw, 0 … 1"""


class Crew:
    """Warm processes, a job for each at a time; the loops have processes of their own.

    Ours leaves PyTorch and the allocator set up in its way, which must not reach the other.
    """

    def __init__(self, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # a forked copy of threads that compute hangs
        self.count = count
        self._processes = {
            loop: [ProcessPoolExecutor(1, mp_context=spawn) for _ in range(count)]
            for loop in ("ours", "public")
        }

    def do(self, jobs: Sequence[Job]) -> list[Done]:
        """Jobs of one loop side by side, one in each of its first processes."""
        processes = self._processes[jobs[0].loop]
        waiting = [
            process.submit(train, job) for process, job in zip(processes, jobs, strict=False)
        ]
        return [future.result() for future in waiting]

    def trial(self, jobs: Sequence[Job]) -> float:
        """Seconds of a small part of the jobs: one model or stack each, about ten steps."""
        fewest = 10 * settings_of(jobs[0]).train.batch_size
        count = min(fewest, len(learned(jobs[0])))
        epochs = math.ceil(fewest / count)
        parts = [
            replace(job, seeds=job.seeds[: job.at_once], epochs=epochs, records=count)
            for job in jobs
        ]
        return max(done.seconds for done in self.do(parts))

    def rate(self, count: int, threads: int, bf16: bool, device: str = "cpu") -> float:
        """Total operations per second of matrix products in several processes at once."""
        waiting = [
            process.submit(products, threads, bf16, device)
            for process in self._processes["ours"][:count]
        ]
        return sum(future.result() for future in waiting)

    def close(self) -> None:
        """End the processes."""
        for processes in self._processes.values():
            for process in processes:
                process.shutdown()


def settings_of(job: Job) -> Settings:
    """The world's settings with the job's changes."""
    own = worlds.load(job.world).settings
    recipe = own.train.model_copy(update={"epochs": job.epochs or own.train.epochs})
    model = own.model.model_copy(update={"name": job.model or own.model.name})
    compute_settings = own.compute.model_copy(
        update={"device": job.device, "threads": job.threads, "precision": job.precision}
    )
    return own.model_copy(update={"train": recipe, "model": model, "compute": compute_settings})


def learned(job: Job) -> NDArray[np.int64]:
    """Numbers (n,) of the records that the models are trained on."""
    rows = np.flatnonzero(worlds.load(job.world).roles == "training")
    return rows[: job.records or len(rows)]


def train(job: Job) -> Done:
    """Train the job's models, measure that, and then ask each about people whom no model saw."""
    world, settings, rows = worlds.load(job.world), settings_of(job), learned(job)
    backend = compute.prepare(settings.compute) if job.loop == "ours" else _as_it_comes(job)
    networks = [architectures.build(settings.model, settings.data, seed) for seed in job.seeds]
    images, labels = world.images[rows], world.labels[rows]
    began, spent = time.perf_counter(), _processor_time()
    if job.loop == "public":
        for network, seed in zip(networks, job.seeds, strict=True):
            public(network, images, labels, settings, seed, job.workers)
    else:
        training_records = training_loop.Records(images, labels, settings.model, backend)
        for first in range(0, len(networks), job.at_once):
            part, seeds = (
                networks[first : first + job.at_once],
                job.seeds[first : first + job.at_once],
            )
            if job.at_once == 1:
                training_loop.fit(part[0], training_records, settings.train, seeds[0])
            else:
                stacked.fit(part, training_records, settings.train, seeds)
    seconds, cpu = time.perf_counter() - began, _processor_time() - spent
    return Done(
        seconds, cpu, tuple(_accuracy(network, world, settings, backend) for network in networks)
    )


def _as_it_comes(job: Job) -> compute.Backend:
    """PyTorch's defaults, with a number of threads."""
    import torch

    torch.set_num_threads(job.threads)
    return compute.Backend(torch.device("cpu"), bf16=False, threads=job.threads)


def _processor_time() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _accuracy(
    network: nn.Module, world: World, settings: Settings, backend: compute.Backend
) -> float:
    rows = world.roles != "training"
    unseen = training_loop.Records(world.images[rows], world.labels[rows], settings.model, backend)
    return float((training_loop.logits(network, unseen).argmax(1) == world.labels[rows]).mean())


def public(
    network: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: Settings,
    seed: int,
    workers: int,
) -> None:
    """Train a classifier, in backend, as public unlearning code does.

    Workers live through all epochs and the loss is not read, which is faster than what much of that
    code does.

    Args:
        network: the classifier.
        images: (n, channels, side, side).
        labels: (n,).
        settings: `train` and `model`.
        seed: of the order and the augmentation.
        workers: processes that prepare images; 0 prepares them in this one.
    """
    import torch
    from torch.nn import functional

    recipe = settings.train
    torch.manual_seed(seed)
    loader: Any = torch.utils.data.DataLoader(
        # a data set has a length and items
        Pictures(images, labels, settings),  # type: ignore[arg-type]
        batch_size=min(recipe.batch_size, len(labels)),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork"
        if workers
        else None,  # the usual one, which a spawned process does not have
    )
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=recipe.learning_rate,
        total_steps=recipe.epochs * len(loader),
        pct_start=recipe.warmup,
        cycle_momentum=False,
    )
    network.train()
    for _ in range(recipe.epochs):
        for batch, targets in loader:
            optimiser.zero_grad()
            loss = functional.cross_entropy(
                network(batch), targets, label_smoothing=recipe.label_smoothing
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    network.eval()


class Pictures:
    """A data set as `torchvision.datasets` has it: a picture, through its transforms, and its
    label."""

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], settings: Settings
    ) -> None:
        self.images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self.labels, self.transform = labels, transforms(settings.train, settings)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        picture = Image.fromarray(self.images[number].squeeze())
        return self.transform(picture), int(self.labels[number])


def transforms(recipe: Train, settings: Settings) -> Any:
    """torchvision's transforms of one picture."""
    from torchvision import transforms as known

    steps: list[Any] = []
    if recipe.shift:
        steps.append(known.RandomCrop(settings.data.image_size, padding=recipe.shift))
    if recipe.flip:
        steps.append(known.RandomHorizontalFlip())
    return known.Compose(
        [
            *steps,
            known.ToTensor(),
            known.Normalize(*preprocessing.normalisation(settings.model, settings.data.channels)),
        ]
    )


def products(threads: int, bf16: bool, device: str = "cpu", least: float = 0.3) -> float:
    """Operations a second of products of large matrices in the precision given: the hardware's
    limit as it is now."""
    import torch

    torch.set_num_threads(threads)
    kind = torch.bfloat16 if bf16 else torch.float32
    first, second = (torch.ones(SIDE, SIDE, dtype=kind, device=device) for _ in range(2))
    first @ second
    count, began = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - began < least:
        product = first @ second
        count += 1
        product[0, 0].item()  # a GPU is waited for
    return 2 * SIDE**3 * count / (time.perf_counter() - began)


def operations(job: Job) -> float:
    """Operations of the products and convolutions in the training of one model, forward and
    backward."""
    import torch
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    settings, count = settings_of(job), len(learned(job))
    size = min(settings.train.batch_size, count)
    network = architectures.build(settings.model, settings.data, 0).train()
    images = torch.zeros(
        size, settings.data.channels, settings.data.image_size, settings.data.image_size
    )
    with FlopCounterMode(display=False) as counter:
        loss = functional.cross_entropy(network(images), torch.zeros(size, dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() * training_loop.steps(count, settings.train))
