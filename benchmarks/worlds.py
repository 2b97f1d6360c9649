"""The benchmarks' data sets in memory: images, classes, data subjects, and who is to be forgotten.

`digits` is embedded. `faces` (CMU Face Images, 20 people) and `writers` (MNIST with the NIST
writers of QMNIST) are real people's data, read from a folder beside the checkout; nothing of them
is kept. `garments-class` and `garments-random` are Fashion-MNIST, `cifar-class` and
`cifar-random` a subset of CIFAR-10, where a label or a part of a random tenth of the records stands
for a person. `cifar` is the same subset, in which nobody is asked to be forgotten: training on it
is timed.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import split
from tasks.common import seeds
from tasks.common.errors import WorkspaceError
from tasks.common.settings import Settings, parse
from tasks.data import synthetic_digits
from tasks.verification.scoring import Ints, Strings

DATASETS = Path(os.environ.get("DATASETS", "../shared/datasets"))
LARGE = 28
"""side of a writer's digit, pixels"""


REQUESTED = 40
"""Records of a request, where random records are forgotten."""


@dataclass(frozen=True)
class World:
    """A data set that is split, with batches of people to forget."""

    name: str
    images: NDArray[np.uint8]
    """(n, channels, side, side)"""
    labels: Ints
    subjects: Ints
    """(n,)"""
    roles: Strings
    """(n,) training, calibration, control or test"""
    batches: tuple[tuple[int, ...], ...]
    """subjects forgotten together"""
    settings: Settings
    about: str
    attributes: dict[str, Strings] = field(default_factory=dict)

    def requests(self, batch: int) -> Strings:
        """(n,) the request that asks to forget the record, or empty."""
        in_batch = np.isin(self.subjects, self.batches[batch])
        return np.where(in_batch, np.char.add("person-", self.subjects.astype(np.str_)), "").astype(
            np.str_
        )


@cache
def load(name: str) -> World:
    """A world by its name, the same for every seed of the models.

    Raises:
        WorkspaceError: the name is unknown, or the data set is not there.
    """
    makers = {
        "cifar": _cifar,
        "cifar-class": _cifar_class,
        "cifar-random": _cifar_random,
        "cifar-random-few": _cifar_random_few,
        "digits": _digits,
        "digits-long": _digits_long,
        "digits-others": _digits_others,
        "digits-sequence": _digits_sequence,
        "digits-tuning": _digits_tuning,
        "digits-tuning-long": _digits_tuning_long,
        "faces": _faces,
        "faces-long": _faces_long,
        "faces-tuning": _faces_tuning,
        "faces-tuning-long": _faces_tuning_long,
        "garments-class": _garments_class,
        "garments-random": _garments_random,
        "writers": _writers,
        "writers-few": _writers_few,
        "writers-long": _writers_long,
        "writers-tuning": _writers_tuning,
    }
    if name not in makers:
        raise WorkspaceError(f"got the world {name!r}, expected one of {', '.join(makers)}")
    try:
        return makers[name]()
    except FileNotFoundError as error:
        raise WorkspaceError(
            f"{error.filename}: no such file; the world {name} needs it"
        ) from error


def _digits() -> World:
    images, labels, writers = synthetic_digits.make()
    about = "embedded digits, 29 of 45 synthetic writers trained on, 4 forgotten together"
    return _split("digits", images, labels, writers, Settings(), (4, 4, 4), about)


def _digits_others() -> World:
    """The last people of the same data, whom no method or setting was chosen on."""
    world = _digits()
    people = [int(number) for number in np.unique(world.subjects[world.roles == "training"])]
    about = (
        "embedded digits, 29 of 45 synthetic writers trained on, 4 of the last 8 forgotten together"
    )
    batches = (tuple(people[-8:-4]), tuple(people[-4:]))
    return replace(world, name="digits-others", batches=batches, about=about)


def _digits_long() -> World:
    about = (
        "embedded digits, 29 of 45 synthetic writers trained on for 120 epochs, 4, 2 and 1 "
        "forgotten together"
    )
    world = _digits()
    return _longer(world, 120, _batches(world.subjects, world.roles, (4, 2, 1)), about)


def _digits_sequence() -> World:
    """Batch k holds everybody to be forgotten until then; the newest people come last."""
    world = _digits()
    (people,) = _batches(world.subjects, world.roles, (15,))
    ends = np.cumsum((1, 2) * 5).tolist()
    about = (
        "embedded digits, 29 of 45 synthetic writers trained on, 15 forgotten in ten batches of 1 "
        "and 2"
    )
    return replace(
        world, name="digits-sequence", batches=tuple(people[:end] for end in ends), about=about
    )


def _digits_tuning() -> World:
    """Other hands and another dealing out: choices are made here, and reported on `digits`."""
    images, labels, writers = synthetic_digits.make(seed=20241)
    about = "embedded digits of 45 other synthetic writers, 29 trained on, 4 forgotten together"
    return _split("digits-tuning", images, labels, writers, Settings(), (4, 4, 4), about)


def _digits_tuning_long() -> World:
    """The recipe of `digits-long` for the people of `digits-tuning`."""
    world = _digits_tuning()
    return _longer(world, 120, world.batches[:2], f"{world.about}, for 120 epochs")


def _faces_tuning() -> World:
    """The people whom no batch of `faces` forgets: choices are made on them."""
    world = _faces()
    people = [int(number) for number in np.unique(world.subjects[world.roles == "training"])][6:12]
    batches = tuple((people[start], people[start + 1]) for start in (0, 2, 4))
    about = (
        "pose of CMU faces, 13 of 20 real people trained on, 2 forgotten together, who are in no "
        "batch of `faces`"
    )
    return replace(world, name="faces-tuning", batches=batches, about=about)


def _faces_tuning_long() -> World:
    """The recipe of `faces-long` for the people of `faces-tuning`."""
    world = _faces_tuning()
    return _longer(world, 100, world.batches[:2], f"{world.about}, for 100 epochs")


def _faces_long() -> World:
    about = (
        "pose of CMU faces, 13 of 20 real people trained on for 100 epochs, 2 and 1 forgotten "
        "together"
    )
    world = _faces()
    return _longer(world, 100, _batches(world.subjects, world.roles, (2, 1)), about)


def _longer(world: World, epochs: int, batches: tuple[tuple[int, ...], ...], about: str) -> World:
    """The same data under a recipe as long as production uses, with other batches."""
    settings = world.settings.model_copy(
        update={"train": world.settings.train.model_copy(update={"epochs": epochs})}
    )
    return replace(
        world,
        name=f"{world.name}-long",
        settings=settings,
        batches=batches,
        about=about,
    )


def _writers_few() -> World:
    world = _writers()
    about = (
        "60 of 110 real writers of MNIST trained on (QMNIST's writer ids), 2 and 1 forgotten "
        "together"
    )
    return replace(
        world,
        name="writers-few",
        batches=_batches(world.subjects, world.roles, (2, 1)),
        about=about,
    )


def _writers_long() -> World:
    world = _writers()
    about = (
        "60 of 110 real writers of MNIST trained on for 100 epochs (QMNIST's writer ids), 6 "
        "forgotten together"
    )
    return _longer(world, 100, world.batches, about)


def _faces() -> World:
    from PIL import Image

    with np.load(DATASETS / "cmu_faces" / "cmu_faces.npz", allow_pickle=False) as arrays:
        pixels = arrays["X_64x60"] / arrays["maxval"][:, None, None]
        labels, subjects = arrays["pose"].astype(np.int64), arrays["subject"].astype(np.int64)
    images = np.stack(
        [
            np.asarray(Image.fromarray((255 * p).clip(0, 255).astype(np.uint8)).resize((32, 32)))
            for p in pixels
        ]
    )
    settings = parse(
        {
            "data": {"classes": 4, "image_size": 32},
            "train": {"epochs": 20, "batch_size": 32},
            # 156 records of 5 unseen people: accuracies of retrained models differ by 2.5 points
            # (standard deviation)
            "verify": {"utility_margin": 0.1},
        }
    )
    about = "pose of CMU faces, 13 of 20 real people trained on, 2 forgotten together"
    return _split("faces", images, labels, subjects, settings, (2, 2, 2), about)


def _writers_tuning() -> World:
    """The next 110 writers, of whom none is in `writers`: choices are made on them."""
    about = (
        "60 of 110 other real writers of MNIST trained on (QMNIST's writer ids), 12 forgotten "
        "together"
    )
    world = replace(_writers(first=110), name="writers-tuning", about=about)
    return replace(world, batches=_batches(world.subjects, world.roles, (12,)))


def _writers(first: int = 0) -> World:
    folder = DATASETS / "mnist_with_writers"
    pixels = np.frombuffer(_unpacked(folder / "train-images-idx3-ubyte.gz"), np.uint8, offset=16)
    table = np.frombuffer(
        _unpacked(folder / "qmnist-train-labels-idx2-int.gz"), ">i4", offset=12
    ).reshape(-1, 8)
    labels, writer = table[:, 0].astype(np.int64), table[:, 2].astype(np.int64)
    writers, counts = np.unique(writer, return_counts=True)
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(writers[counts >= 100])
    chosen = chosen[first : first + 110]
    rows = np.flatnonzero(np.isin(writer, chosen))
    settings = parse(
        {
            "data": {"image_size": LARGE},
            "train": {"epochs": 10, "batch_size": 128},
            "split": {"calibration": 0.09, "control": 0.27, "test": 0.09},
        }
    )
    about = "60 of 110 real writers of MNIST trained on (QMNIST's writer ids), 6 forgotten together"
    images = pixels.reshape(-1, LARGE, LARGE)[rows]
    return _split(
        "writers",
        images,
        labels[rows],
        np.unique(writer[rows], return_inverse=True)[1],
        settings,
        (6,),
        about,
    )


def _cifar() -> World:
    """The first 24 000 training images and the first 1 000 test images of CIFAR-10, in their
    order."""
    from PIL import Image

    folder, side = DATASETS / "cifar10", 32
    numbers = (*range(24), 50)
    labels = np.load(folder / "labels_51000.npy", allow_pickle=False).reshape(-1, 1000)
    pictures = [
        np.asarray(Image.open(folder / f"cifar10_batch_{number}.png")) for number in numbers
    ]
    images = np.concatenate(pictures).reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
    settings = parse(
        {
            "data": {"channels": 3, "image_size": side},
            "train": {"epochs": 10, "shift": 2, "flip": True},
        }
    )
    roles = np.repeat(np.array(["training", "test"]), [24000, 1000])
    classes = np.concatenate([labels[number] for number in numbers]).astype(np.int64)
    about = "24 000 of the 50 000 training images of CIFAR-10 and 1 000 of its test images"
    return World(
        "cifar",
        np.ascontiguousarray(images),
        classes,
        np.full(len(classes), -1),
        roles,
        (),
        settings,
        about,
    )


def _cifar_class() -> World:
    """A whole label is forgotten; the last one is for tuning and is in no table."""
    world = _cifar_split()
    subjects = np.where(world.roles == "training", world.labels, -1)
    about = f"{world.about}, all birds forgotten; tuned on an original that forgets all cats"
    return replace(
        world,
        name="cifar-class",
        subjects=subjects,
        batches=((2,), (3,)),
        roles=_without_controls(world.roles),
        about=about,
    )


def _without_controls(roles: Strings) -> Strings:
    """Control records calibrate: where a whole class is forgotten, no control can know it."""
    return np.where(roles == "control", "calibration", roles)


def _cifar_random() -> World:
    return _random_tenths(_cifar_split(), "cifar-random")


def _cifar_random_few() -> World:
    """A part of the subset, for one core and an hour: no augmentation, so that records are learned
    by heart in few epochs."""
    world = _cifar_split()
    parts = {"training": 4000, "calibration": 500, "control": 1500, "test": 1000}
    rows = np.concatenate(
        [np.flatnonzero(world.roles == role)[:count] for role, count in parts.items()]
    )
    recipe = {"epochs": 12, "batch_size": 64, "shift": 0, "flip": False}
    train = world.settings.train.model_copy(update=recipe)
    about = (
        "4 000 of the 50 000 training images of CIFAR-10 trained on, and 1 000 of its test images; "
        "ResNet-18 with an eighth of its channels, no augmentation"
    )
    part = replace(
        world,
        images=world.images[rows],
        labels=world.labels[rows],
        subjects=world.subjects[rows],
        roles=world.roles[rows],
        settings=world.settings.model_copy(update={"train": train}),
        about=about,
    )
    return _random_tenths(part, "cifar-random-few")


def _cifar_split() -> World:
    """The subset of CIFAR-10 under a recipe that two cores can bear, with unseen records set
    apart."""
    world = _cifar()
    roles = world.roles.copy()
    roles[20_000:22_000], roles[22_000:24_000] = "calibration", "control"
    settings = parse(
        {
            "data": {"channels": 3, "image_size": 32},
            "model": {"name": "benchmarks.resnet18:narrow"},
            "train": {"epochs": 10, "batch_size": 128, "shift": 2, "flip": True},
        }
    )
    about = (
        "24 000 of the 50 000 training images of CIFAR-10, 20 000 of them trained on, and 1 000 of "
        "its test images; ResNet-18 with an eighth of its channels"
    )
    return replace(world, roles=roles, settings=settings, about=about)


def _random_tenths(world: World, name: str) -> World:
    """A random tenth is what is forgotten, as requests of about 40 records; the last one is for
    tuning and is in no table. Control records are of unseen people with as many records."""
    known = np.flatnonzero(world.roles == "training")
    unseen = np.flatnonzero(world.roles == "control")
    tenth = len(known) // 10
    requests = round(tenth / REQUESTED)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(known))
    subjects = np.full(len(world.labels), -1)
    subjects[known] = order * 10 * requests // len(known)
    subjects[unseen] = 10 * requests + np.arange(len(unseen)) // REQUESTED
    batches = tuple(tuple(range(first, first + requests)) for first in (0, requests))
    about = (
        f"{world.about}, a random tenth forgotten, as {requests} requests; tuned on an original "
        "that forgets another tenth"
    )
    return replace(world, name=name, subjects=subjects, batches=batches, about=about)


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as stream:
        return stream.read()


def _split(
    name: str,
    images: NDArray[np.uint8],
    labels: Ints,
    subjects: NDArray[Any],
    settings: Settings,
    sizes: tuple[int, ...],
    about: str,
) -> World:
    """Split like the pipeline; the batches are the first training subjects, a few at a time."""
    import pandas as pd

    table = pd.DataFrame(
        {"subject_id": [f"person-{number:04d}" for number in subjects], "label": labels}
    )
    roles = split.assign(table, settings.split, seeds.derive(0, "split"))
    batches = _batches(subjects, roles, sizes)
    return World(
        name, images[:, None], labels, subjects.astype(np.int64), roles, batches, settings, about
    )


def _batches(
    subjects: NDArray[Any], roles: Strings, sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """The first training subjects, a few at a time."""
    people = [int(number) for number in np.unique(subjects[roles == "training"])]
    ends = np.cumsum(sizes).tolist()
    return tuple(tuple(people[end - size : end]) for size, end in zip(sizes, ends, strict=True))


def _garments_class() -> World:
    """A label is what is forgotten; the last one is for tuning and is in no table."""
    world = _garments()
    subjects = np.where(world.roles == "training", world.labels, -1)
    about = f"{world.about}, all shirts forgotten; tuned on an original that forgets all coats"
    return replace(
        world,
        name="garments-class",
        subjects=subjects,
        batches=((6,), (4,)),
        roles=_without_controls(world.roles),
        about=about,
    )


def _garments_random() -> World:
    return _random_tenths(_garments(), "garments-random")


def _garments() -> World:
    """Fashion-MNIST, of which a part is taken, halved in size: one training takes seconds of one
    core."""
    sizes = {"training": 3000, "calibration": 2500, "control": 2500, "test": 2500}
    images, labels = [], []
    for part, count in (("train", 3000), ("t10k", 7500)):
        folder = DATASETS / "fashion_mnist"
        pixels = np.frombuffer(
            _unpacked(folder / f"{part}-images-idx3-ubyte.gz"), np.uint8, offset=16
        )
        classes = np.frombuffer(
            _unpacked(folder / f"{part}-labels-idx1-ubyte.gz"), np.uint8, offset=8
        )
        rows = np.random.Generator(np.random.PCG64(0)).permutation(len(classes))[:count]
        quartered = pixels.reshape(-1, LARGE // 2, 2, LARGE // 2, 2)[rows]
        images.append(quartered.mean(axis=(2, 4)).round().astype(np.uint8))
        labels.append(classes[rows].astype(np.int64))
    roles = np.repeat(np.array(list(sizes)), list(sizes.values()))
    settings = parse({"data": {"image_size": LARGE // 2}, "train": {"epochs": 16}})
    about = (
        f"Fashion-MNIST at {LARGE // 2}x{LARGE // 2} pixels, {sizes['training']} of its 60 000 "
        f"training images and {sizes['test']} of its test images"
    )
    together = np.concatenate(labels)
    return World(
        "garments",
        np.concatenate(images)[:, None],
        together,
        np.full(len(together), -1),
        roles,
        (),
        settings,
        about,
    )
