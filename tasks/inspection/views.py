"""Further views of a model: the same records, scored by other means than its answers on them.

A model can be trained to give exactly the answers that the verdict tests on a person's records.
Each view scores the same records in a way that such a model was not trained for. References are
scored in the same way, so that the verdict's statistic can be used as it is.

    copies      the mean score over changed copies of a record: turned, scaled, shifted, with noise.
                The changes come from the audit's seed, and no unlearning method is given them
    tuned       the score after the model was trained further on retained records: memory that was
                only suppressed comes back (arXiv 2505.22310)
    relearned   the score of one half of the records after the model was trained further on the
                other half and on retained records, and the reverse
    features    the margin of a new last layer, fitted by ridge regression to the classes of the
                retained records, on the model's own features: a last layer that was made to say
                the right things is passed by
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import seeds, stage_cli
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import Settings, Train
from tasks.data import image_pack
from tasks.inspection import feature_probes
from tasks.training import compute, reference_blocks, training_loop
from tasks.verification import scoring
from tasks.verification.scoring import Floats, Ints

if TYPE_CHECKING:
    import torch
    from torch import nn

COPIES = 10
"""Changed copies of each record."""
TURN, SCALE, SHIFT, NOISE = 12.0, 0.12, 0.08, 0.05
"""Largest change of a copy: degrees, share of the size, share of the side, and noise's standard
deviation as a share of the largest pixel value."""
MOST_RECORDS, MOST_FEATURES = 4096, 2048
"""The most retained records, and the most features, that a new last layer is fitted on."""
TUNED_EPOCHS, TUNED_RATE = 2.0, 0.2
"""Further training: epochs, and its peak rate as a share of the training's."""
RIDGE = 0.1
"""Penalty of the new last layer, in units of the features' mean square. A hundredth of it told
models with and without the records apart less than half as well."""
RELEARNED_STEPS, RELEARNED_RATE = 20, 0.2
"""Relearning one half: steps, and its peak rate as a share of the training's."""


@dataclass(frozen=True)
class Material:
    """The input of the views, the same for every model of an audit.

    Attributes:
        records: the k records to score: the forget set and the control subjects' records.
        halves: (k,) 0 or 1 for the two halves of the forget set, -1 for control records.
        retained: the retain set.
        recipe: how the models were trained.
        seed: root of the random streams.
    """

    records: training_loop.Records
    halves: Ints
    retained: training_loop.Records
    recipe: Train
    seed: int


def material(
    packed: image_pack.Packed,
    roles: scoring.Strings,
    requests: scoring.Strings,
    settings: Settings,
    backend: compute.Backend,
) -> Material | None:
    """The records and the recipe that further views need; None if no view is set, or in the mode
    of a pool, which keeps answers and no weights."""
    if (
        not settings.verify.views
        or settings.verify.mode == "screening"
        or settings.references.mode != "batch"
    ):
        return None
    records, retained = (
        reference_blocks.load_rows(rows, packed, settings, backend)
        for rows in (_scored_records(requests, roles), (roles == "training") & (requests == ""))
    )
    in_halves = halves(requests[_scored_records(requests, roles)], settings.seed)
    return Material(records, in_halves, retained, settings.train, settings.seed)


def _scored_records(requests: scoring.Strings, roles: scoring.Strings) -> NDArray[np.bool_]:
    """(n,) the records that views score: the forget set and control subjects' records."""
    return np.asarray((requests != "") | (roles == "control"))


def score_all(
    name: str,
    network: nn.Module,
    material: Material | None,
    requests: scoring.Strings,
    roles: scoring.Strings,
) -> scoring.Floats:
    """(n,) a model's scores in one view; NaN for records that no view scores, and for all records
    if the model cannot be scored."""
    scores = np.full(len(requests), np.nan)
    if material is not None:
        try:
            scores[_scored_records(requests, roles)] = score(name, network, material)
        except (ModelError, EvidenceError) as error:  # it may fail the test of its answers as it is
            stage_cli.say(f"a model has no scores in the view {name}: {error}")
    return scores


def halves(requests: scoring.Strings, seed: int) -> Ints:
    """Each request's records in two random halves: 0 or 1, and -1 for records of no request.

    Args:
        requests: (k,) the request that asks to forget the record, or empty.
        seed: root of the random streams.
    """
    half_of_row = np.full(len(requests), -1, np.int64)
    random = np.random.Generator(np.random.PCG64(seeds.derive(seed, "views", "halves")))
    for request in sorted(set(requests.tolist()) - {""}):
        shuffled = random.permutation(np.flatnonzero(requests == request))
        half_of_row[shuffled] = np.arange(len(shuffled)) % 2
    return half_of_row


def score(name: str, network: nn.Module, material: Material) -> Floats:
    """The scores (k,) of the records in one view; the model is left as it is.

    Args:
        name: of the view, a key of `VIEWS`.
        network: the classifier.
        material: the input of the views.

    Raises:
        ModelError: the further training diverged, or the model has no features to read.
    """
    return VIEWS[name](network, material)


def changed_copies(images: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """`COPIES` changed copies of images (k, channels, side, side) uint8, as floats 0 … 255.

    Each copy has its own change, the same for all images. Pixels from beyond an edge repeat the
    edge.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(seed)

    def draw(largest: float) -> float:
        return largest * (2 * float(torch.rand((), generator=generator)) - 1)

    pixels = images.to(torch.float32)
    answers_of_copies = []
    for _ in range(COPIES):
        angle, size = torch.tensor(draw(TURN) * torch.pi / 180), 1 + draw(SCALE)
        cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
        across, down = 2 * draw(SHIFT), 2 * draw(SHIFT)
        matrix = torch.tensor([[cosine, -sine, across], [sine, cosine, down]])
        grid = functional.affine_grid(
            matrix.expand(len(pixels), 2, 3).to(pixels.device), list(pixels.shape), False
        )
        turned = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        noise = torch.randn(pixels.shape, generator=generator).to(pixels.device)
        answers_of_copies.append((turned + 255 * abs(draw(NOISE)) * noise).clamp(0, 255))
    return answers_of_copies


def _copies(network: nn.Module, material: Material) -> Floats:
    images = changed_copies(
        material.records.images, seeds.derive(material.seed, "views", "copies") % 2**63
    )
    scored = [_margins(network, _with_images(material.records, copies)) for copies in images]
    return np.asarray(np.mean(scored, axis=0), np.float64)


def _tuned(network: nn.Module, material: Material) -> Floats:
    count = round(TUNED_EPOCHS * len(material.retained) / material.recipe.batch_size)
    parts = (material.retained,)
    further = _trained_further(network, parts, max(1, count), TUNED_RATE, material)
    return _margins(further, material.records)


def _relearned(network: nn.Module, material: Material) -> Floats:
    scores = []
    for half in (0, 1):
        rows = _numbers(material.halves == half)
        parts = (material.records.rows(rows), material.retained)
        further = _trained_further(network, parts, RELEARNED_STEPS, RELEARNED_RATE, material)
        scores.append(_margins(further, material.records))
    other = np.where(material.halves == 0, scores[1], scores[0])
    return np.where(material.halves == -1, (scores[0] + scores[1]) / 2, other)


def _features(network: nn.Module, material: Material) -> Floats:
    retained = _sample(material.retained, seeds.derive(material.seed, "views", "features"))
    fitted_labels, labels = (part.labels.cpu().numpy() for part in (retained, material.records))
    targets = np.eye(int(max(fitted_labels.max(), labels.max())) + 1)[fitted_labels]
    features = _features_of(network, retained, material.seed)
    gram = features.T @ features
    gram += RIDGE * gram.diagonal().mean() * np.eye(len(gram))
    layer = np.linalg.solve(gram, features.T @ targets)
    values = _features_of(network, material.records, material.seed) @ layer
    rows = np.arange(len(labels))
    of_label = values[rows, labels]
    values[rows, labels] = -np.inf
    return np.asarray(of_label - values.max(axis=1), np.float64)


def _sample(records: training_loop.Records, seed: int) -> training_loop.Records:
    """At most `MOST_RECORDS` of the records, drawn at random, in their order."""
    if len(records) <= MOST_RECORDS:
        return records
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = np.zeros(len(records), bool)
    drawn[random.choice(len(records), MOST_RECORDS, replace=False)] = True
    return records.rows(_numbers(drawn))


def _features_of(network: nn.Module, records: training_loop.Records, seed: int) -> Floats:
    """(n, d) features with a constant; of a model that cannot be tapped, its logits."""
    try:
        features = feature_probes.read(network, records)
    except ModelError:
        features = training_loop.logits(network, records)
    narrow = with_fewer_features(features, MOST_FEATURES, seeds.derive(seed, "views", "signs"))
    return np.pad(narrow, ((0, 0), (0, 1)), constant_values=1)


def with_fewer_features(features: NDArray[np.float32], most: int, seed: int) -> Floats:
    """Features (n, d), reduced to at most `most`: every `most`-th of them are added up with random
    signs.

    Inner products stay the same on average (Weinberger et al. 2009).

    A network that ends in a convolution has a whole map as its features; fitting a last layer to
    all of it takes too long.
    """
    count, width = features.shape
    if width <= most:
        return features.astype(np.float64)
    random = np.random.Generator(np.random.PCG64(seed))
    signed = features * random.choice(np.array([-1, 1], np.float32), width)
    signed = np.pad(signed, ((0, 0), (0, -width % most)))
    return np.asarray(signed.reshape(count, -1, most).sum(axis=1, dtype=np.float64))


VIEWS: dict[str, Callable[[nn.Module, Material], Floats]] = {
    "copies": _copies,
    "tuned": _tuned,
    "relearned": _relearned,
    "features": _features,
}
"""How each view scores, by its name in `verify.views`."""


def _trained_further(
    network: nn.Module,
    parts: Sequence[training_loop.Records],
    steps: int,
    rate: float,
    material: Material,
) -> nn.Module:
    """A copy of the model, trained further; each step has a batch of every part."""
    import torch
    from torch.nn import functional

    recipe, backend = material.recipe, material.retained.backend
    further = material.retained.place(copy.deepcopy(network)).train()
    seed = seeds.derive(material.seed, "views", "order") % 2**63
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        streams = [
            training_loop.paired(part).batches(
                recipe.batch_size, torch.Generator().manual_seed(seed), recipe
            )
            for part in parts
        ]

        def objective(_: int) -> torch.Tensor:
            batches = [next(stream) for stream in streams]
            images, labels = (torch.cat(list(tensors)) for tensors in zip(*batches, strict=True))
            with backend.autocast():
                return functional.cross_entropy(
                    further(images), labels, label_smoothing=recipe.label_smoothing
                )

        weights = [{"params": list(further.parameters())}]
        training_loop.optimise(weights, objective, steps, rate * recipe.learning_rate, recipe)
    return further.eval()


def _margins(network: nn.Module, records: training_loop.Records) -> Floats:
    labels = records.labels.cpu().numpy()
    return scoring.margins(training_loop.logits(network, records), labels)


def _with_images(records: training_loop.Records, images: torch.Tensor) -> training_loop.Records:
    """The same labels with other pixels, which may be floats."""
    part = copy.copy(records)
    part.images = images
    return part


def _numbers(rows: NDArray[np.bool_]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.flatnonzero(rows))
