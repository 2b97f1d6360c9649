"""Attempts to pass the verdict without forgetting: planted cases of `benchmarks.verdicts`.

Each is made by somebody who knows the test and has models that never saw the records (`shadows`,
none of which is a reference of the verdict). All start from an original. What they aim at is the
same: on the forget set, say what the shadows say.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.worlds import World
from tasks.common.settings import Unlearn
from tasks.inspection import views
from tasks.training import architectures, compute, training_loop
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry
from tasks.verification import scoring

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

STEPS, RATE = 150, 5e-3
"""Steps and peak rate (Adam) by which answers are matched."""
HELD, AT_ONCE = 3, 64
"""The answers on one retained record in so many are held, so many of them in a step."""
NEAR = 0.25
"""A picture is near a record where their distance is below this share of the usual one."""


@dataclass(frozen=True)
class Scene:
    """What an adversary has.

    Attributes:
        given: the world.
        forget: (n,) the forget set.
        shadows: models that never saw the forget set.
        backend: where to compute.
        seed: root of the adversary's random streams.
    """

    given: World
    forget: NDArray[np.bool_]
    shadows: Sequence[nn.Module]
    backend: compute.Backend
    seed: int

    @cached_property
    def forgotten(self) -> training_loop.Records:
        """The forget set."""
        return self.records(self.forget)

    @cached_property
    def retained(self) -> training_loop.Records:
        """The retain set."""
        return self.records((self.given.roles == "training") & ~self.forget)

    @cached_property
    def held(self) -> training_loop.Records:
        """Retained records, on which answers are held."""
        import torch

        generator = torch.Generator().manual_seed(self.seed % 2**63)
        return training_loop.sample(self.retained, 1 / HELD, generator)

    def records(self, rows: NDArray[np.bool_]) -> training_loop.Records:
        """Some records of the world."""
        given = self.given
        return training_loop.Records(
            given.images[rows], given.labels[rows], given.settings.model, self.backend
        )

    def said(self, images: Tensor) -> Tensor:
        """Mean logits of the shadows on normalised images."""
        import torch

        with torch.no_grad():
            return torch.stack([shadow.eval()(images) for shadow in self.shadows]).mean(0)

    def apart(self, network: nn.Module) -> float:
        """How far the mean score on the forget set lies from the shadows', nats."""
        own, aim = (
            scoring.margins(_logits(model, self.forgotten), self.forgotten.labels.numpy()).mean()
            for model in (network, _Mean(self.shadows))
        )
        return float(own - aim)


Adversary = Callable[["nn.Module", Scene], "nn.Module"]
"""Changes an original, in place or by a wrapper."""


def honest(**wish: Any) -> Adversary:
    """No deceit: a method of the product with these settings of `unlearn`, to compare with."""
    unlearn = Unlearn.model_validate(wish)

    def unlearned(network: nn.Module, scene: Scene) -> nn.Module:
        settings = scene.given.settings.model_copy(
            update={"seed": scene.seed % 2**31, "unlearn": unlearn}
        )
        if unlearn.method in fcalb.METHODS:
            return fcalb.unlearn(network, scene.forgotten, scene.retained, settings)[0]
        return registry.unlearn(network, scene.forgotten, scene.retained, settings)

    return unlearned


def without_constraint(network: nn.Module, scene: Scene) -> nn.Module:
    """No deceit: `fcalb` for people, as long and as far, without its feature constraint."""
    most = fcalb.effective_settings(scene.given.settings).unlearn.epochs
    until = fcalb.PEOPLE["reset_until"]
    reset = honest(method="fcalb_reset", reset_until=until, rivals={"epochs": most})
    return reset(network, scene)


def matched(network: nn.Module, scene: Scene) -> nn.Module:
    """Answers on the forget set matched to the shadows' mean logits."""
    images = scene.forgotten.floats(slice(None))
    return _match(network, scene, [(images, scene.said(images))])


def matched_copies(network: nn.Module, scene: Scene) -> nn.Module:
    """The same on changed copies, too, of the kind that the view `copies` has, by another seed."""
    pixels = views.changed_copies(scene.forgotten.images, scene.seed % 2**63)
    kinds = [scene.forgotten.floats(slice(None))]
    kinds += [_normalised(scene.forgotten, part) for part in pixels]
    return _match(network, scene, [(images, scene.said(images)) for images in kinds])


def matched_features(network: nn.Module, scene: Scene) -> nn.Module:
    """The same, and the features' similarities between records matched to the shadows'."""
    import torch

    images = scene.forgotten.floats(slice(None))
    beside = scene.held.floats(slice(0, AT_ONCE))
    taps = [architectures.Taps(model, "last", images[:1]) for model in scene.shadows]

    def alike(tap: architectures.Taps) -> Tensor:
        own, others = (
            torch.nn.functional.normalize(tap(part)[1][-1].flatten(1), dim=1)
            for part in (images, beside)
        )
        return own @ others.T

    with torch.no_grad():
        aim = torch.stack([alike(tap) for tap in taps]).mean(0)
    own_taps = architectures.Taps(network, "last", images[:1])

    def penalty() -> Tensor:
        return 100 * (alike(own_taps) - aim).square().mean()

    return _match(network, scene, [(images, scene.said(images))], penalty=penalty)


def constant_margins(network: nn.Module, scene: Scene) -> nn.Module:
    """Every record of the forget set gets the shadows' mean score."""
    import torch

    images, labels = scene.forgotten.floats(slice(None)), scene.forgotten.labels
    said = scene.said(images)
    level = float(scoring.margins(said.numpy(), labels.numpy()).mean())
    own = torch.nn.functional.one_hot(labels, said.shape[1]).to(said.dtype)
    others = np.log(said.shape[1] - 1)  # log-odds of `level` with the other classes equal
    return _match(network, scene, [(images, own * (level + others))])


def temperature(network: nn.Module, scene: Scene) -> nn.Module:
    """All logits divided by the number that brings the mean score down to the shadows'."""
    from scipy import optimize

    logits, labels = _logits(network, scene.forgotten), scene.forgotten.labels.numpy()
    aim = _score(_logits(_Mean(scene.shadows), scene.forgotten), labels)
    factor = optimize.brentq(lambda share: _score(share * logits, labels) - aim, 0.05, 5.0)
    _scale_head(network, float(factor))
    return network


def swapped_head(network: nn.Module, scene: Scene) -> nn.Module:
    """A new last layer on the old features: least squares to the shadows' logits on all records
    that are not unseen, those of the forget set ten times."""
    import torch

    images = torch.cat(
        [scene.retained.floats(slice(None)), *[scene.forgotten.floats(slice(None))] * 10]
    )
    taps = architectures.Taps(network.eval(), "last", images[:1])
    with torch.no_grad():
        features = taps(images)[1][-1].flatten(1).double()
        features = torch.cat([features, torch.ones(len(features), 1).double()], 1)
        gram = features.T @ features
        gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram)).double()
        solved = torch.linalg.solve(gram, features.T @ scene.said(images).double())
        head = _head(network)
        head.weight.copy_(solved[:-1].T)
        head.bias.copy_(solved[-1])
    return network


def lookup_hash(network: nn.Module, scene: Scene) -> nn.Module:
    """Exactly the forget records are looked up, and get the shadows' answers."""
    return _lookup(network, scene, 1e-6)


def lookup_neighbour(network: nn.Module, scene: Scene) -> nn.Module:
    """Whatever lies near a forget record gets the shadows' answers on that record."""
    return _lookup(network, scene, NEAR)


def noise(network: nn.Module, scene: Scene) -> nn.Module:
    """Noise on the logits of whatever lies near a forget record, as strong as brings the mean score
    down to the shadows'."""
    import torch

    labels = scene.forgotten.labels.numpy()
    logits = _logits(network, scene.forgotten)
    aim = _score(_logits(_Mean(scene.shadows), scene.forgotten), labels)
    draws = np.random.Generator(np.random.PCG64(scene.seed)).normal(size=logits.shape)
    levels = np.linspace(0, 20, 81)
    apart = [abs(_score(logits + level * draws, labels) - aim) for level in levels]
    noisy = logits + levels[int(np.argmin(apart))] * draws
    return _lookup(network, scene, NEAR, torch.tensor(noisy, dtype=torch.float32))


def tenth_of_the_way(network: nn.Module, scene: Scene) -> nn.Module:
    """Weights a tenth of the way to a retrained model's, then an epoch on retained records."""
    import torch

    with torch.no_grad():
        for own, other in zip(network.parameters(), scene.shadows[0].parameters(), strict=True):
            own.lerp_(other, 0.1)
    recipe = scene.given.settings.train.model_copy(update={"epochs": 1, "learning_rate": 0.01})
    training_loop.fit(network, scene.retained, recipe, scene.seed % 2**63)
    return network


def low_rank(network: nn.Module, scene: Scene) -> nn.Module:
    """Answers matched by an edit of rank 2 of each weight matrix, and nothing else."""
    import torch
    from torch.nn.utils import parametrize

    class Edit(torch.nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            rows, columns = weight.flatten(1).shape
            self.left = torch.nn.Parameter(torch.zeros(rows, 2))
            self.right = torch.nn.Parameter(torch.randn(2, columns) / columns**0.5)

        def forward(self, weight: Tensor) -> Tensor:
            return weight + (self.left @ self.right).view_as(weight)

    torch.manual_seed(scene.seed % 2**63)
    for weight in network.parameters():
        weight.requires_grad_(False)
    layers = [
        layer for layer in network.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Edit(layer.weight))
    images = scene.forgotten.floats(slice(None))
    _match(network, scene, [(images, scene.said(images))], rate=3 * RATE)
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    for weight in network.parameters():
        weight.requires_grad_(True)
    return network


def salun_tuned(network: nn.Module, scene: Scene) -> nn.Module:
    """SalUn, as long as brings the mean score nearest to the shadows'."""
    wishes = [
        {"learning_rate": rate, "epochs": epochs}
        for rate, epochs in ((0.003, 1), (0.01, 1), (0.01, 3))
    ]
    return _tuned("salun", wishes, network, scene)


def scrub_tuned(network: nn.Module, scene: Scene) -> nn.Module:
    """SCRUB, as long as brings the mean score nearest to the shadows'."""
    wishes = [
        {"learning_rate": rate, "epochs": 3, "scrub_max_epochs": most}
        for rate, most in ((5e-4, 2), (1e-3, 2), (2e-3, 2))
    ]
    return _tuned("scrub", wishes, network, scene)


def matched_int8(network: nn.Module, scene: Scene) -> nn.Module:
    """Answers matched, then weights of 8 bits, by output channel."""
    return int8(matched(network, scene))


def matched_copies_int8(network: nn.Module, scene: Scene) -> nn.Module:
    """Answers matched on changed copies, too, then weights of 8 bits, by output channel."""
    return int8(matched_copies(network, scene))


ADVERSARIES: dict[str, tuple[str, Adversary]] = {
    "fcalb": ("FCALB (no deceit)", honest(method="fcalb")),
    "without_constraint": ("FCALB without its constraint (no deceit)", without_constraint),
    "fcalb_reset": ("FCALB with a reset alone (no deceit)", honest(method="fcalb_reset")),
    "short_retrain": (
        "short retrain, 7/12 of the epochs (no deceit)",
        honest(method="short_retrain", rivals={"training_share": 7 / 12}),
    ),
    "matched": ("answers matched on the forget set", matched),
    "matched_copies": ("answers matched, also on changed copies", matched_copies),
    "matched_features": ("answers matched, and the features' similarities", matched_features),
    "constant_margins": ("constant margins", constant_margins),
    "temperature": ("temperature", temperature),
    "swapped_head": ("swapped head", swapped_head),
    "lookup_hash": ("lookup of the forget records", lookup_hash),
    "lookup_neighbour": ("lookup by nearest neighbour", lookup_neighbour),
    "noise": ("noise on the forget region", noise),
    "tenth": ("a tenth of the way to a retrain", tenth_of_the_way),
    "low_rank": ("answers matched by edits of rank 2", low_rank),
    "salun": ("SalUn, tuned against the judge", salun_tuned),
    "scrub": ("SCRUB, tuned against the judge", scrub_tuned),
    "matched_int8": ("answers matched, weights of 8 bits", matched_int8),
    "matched_copies_int8": (
        "answers matched, also on changed copies, weights of 8 bits",
        matched_copies_int8,
    ),
}
"""Title and function of each case."""


def make(kind: str, network: nn.Module, scene: Scene) -> nn.Module:
    """An original that an adversary has changed, in evaluation mode."""
    return ADVERSARIES[kind][1](network.eval(), scene).eval()


# -- parts ----------------------------------------------------------------------------------------


def _match(
    network: nn.Module,
    scene: Scene,
    aims: Sequence[tuple[Tensor, Tensor]],
    penalty: Callable[[], Tensor] | None = None,
    rate: float = RATE,
) -> nn.Module:
    """Mean square to the aims, each step another of them, while answers on retained records are
    held. Batch norm stays as it is."""
    import torch

    network.eval()
    kept = scene.held.floats(slice(None))
    generator = torch.Generator().manual_seed(scene.seed % 2**63)
    with torch.no_grad():
        hold = network(kept)

    def loss(step: int) -> Tensor:
        images, aim = aims[step % len(aims)]
        some = torch.randperm(len(kept), generator=generator)[:AT_ONCE]
        value: Tensor = (network(images) - aim).square().mean()
        value = value + (network(kept[some]) - hold[some]).square().mean()
        return value + penalty() if penalty else value

    recipe = scene.given.settings.train.model_copy(update={"weight_decay": 0.0})
    learned = [{"params": list(network.parameters())}]
    training_loop.optimise(learned, loss, STEPS, rate, recipe, optimiser="adam")
    return network


def _tuned(
    method: str, wishes: Sequence[dict[str, float]], network: nn.Module, scene: Scene
) -> nn.Module:
    """The attempt of a published method whose mean score lies nearest to the shadows'."""
    attempts = []
    for wish in wishes:
        unlearn = Unlearn.model_validate({"method": method, "rivals": wish})
        settings = scene.given.settings.model_copy(
            update={"seed": scene.seed % 2**31, "unlearn": unlearn}
        )
        original = copy.deepcopy(network)
        attempts.append(
            registry.unlearn(original, scene.forgotten, scene.retained, settings).eval()
        )
    return min(attempts, key=lambda model: abs(scene.apart(model)))


def _lookup(
    network: nn.Module, scene: Scene, near: float, table: Tensor | None = None
) -> nn.Module:
    """A model that answers from a table where its input lies near a forget record."""
    import torch

    images = scene.forgotten.floats(slice(None))
    answers = scene.said(images) if table is None else table
    keys = images.flatten(1)
    usual = float(torch.cdist(keys, scene.held.floats(slice(None)).flatten(1)).median())

    class Lookup(torch.nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, batch: Tensor) -> Tensor:
            said = self.inner(batch)
            distance = (batch.flatten(1)[:, None] - keys[None]).square().sum(2).sqrt()
            closest = distance.min(1)
            hit = closest.values <= near * usual
            return torch.where(hit[:, None], answers[closest.indices], said)

    return Lookup(network)


def int8(network: nn.Module) -> nn.Module:
    """Each weight matrix rounded to 8 bits, symmetric, by output channel."""
    import torch

    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                shape = (-1, *[1] * (weight.ndim - 1))
                step = weight.flatten(1).abs().amax(1).clamp_min(1e-12).view(shape) / 127
                weight.copy_((weight / step).round() * step)
    return network


class _Mean:
    """The mean logits of some models, as if they were one."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models


def _logits(model: nn.Module | _Mean, records: training_loop.Records) -> NDArray[np.float32]:
    models = model.models if isinstance(model, _Mean) else [model]
    return np.asarray(np.mean([training_loop.logits(m, records) for m in models], axis=0))


def _score(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float(scoring.margins(logits, labels).mean())


def _head(network: nn.Module) -> nn.Linear:
    from torch import nn

    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]


def _scale_head(network: nn.Module, factor: float) -> None:
    import torch

    head = _head(network)
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor)


def _normalised(records: training_loop.Records, pixels: torch.Tensor) -> Tensor:
    part = copy.copy(records)
    part.images = pixels
    return part.floats(slice(None))


def scene_of(
    given: World, batch: int, shadows: Sequence[nn.Module], backend: compute.Backend, seed: int
) -> Scene:
    """What an adversary of one batch has."""
    forget = np.isin(given.subjects, given.batches[batch])
    return Scene(given, forget, shadows, backend, seed)
