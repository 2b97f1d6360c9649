"""Further views score every model alike, leave it as it was, and bring back what was hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tasks.common.errors import ModelError
from tasks.inspection import views
from tasks.training import architectures, training_loop
from tasks.verification import scoring
from tests.tasks.inspection.test_feature_probes import (
    TINY,
    fitted,
    misaligned,
    records,
    same,
    state,
)

ASKED = 40


class Plain(nn.Module):
    """A linear layer that is none of PyTorch's, so that no tap finds it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = inner.weight, inner.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values @ self.weight.T + self.bias


def material(seed: int = 3) -> views.Material:
    requests = np.array(["r"] * 9 + ["s"] * 11 + [""] * (ASKED - 20))
    return views.Material(
        records(ASKED, seed=2), views.halves(requests, seed), records(96), TINY.train, seed
    )


@pytest.mark.parametrize("name", views.VIEWS)
def test_a_view_leaves_the_model_as_it_was_and_comes_out_the_same_twice(name: str) -> None:
    network = fitted(records(96))
    before = state(network)
    first = views.score(name, network, material())
    assert first.shape == (ASKED,)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(views.score(name, network, material()), first)
    assert same(state(network), before)


def test_the_changes_of_copies_come_from_the_seed() -> None:
    images = records(6).images
    first, second, other = (views.changed_copies(images, seed) for seed in (1, 1, 2))
    assert len(first) == views.COPIES
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for copies in first:
        assert copies.shape == images.shape
        assert float(copies.min()) >= 0
        assert float(copies.max()) <= 255
        assert not torch.equal(copies, images.to(torch.float32))


def test_all_images_of_a_copy_are_turned_alike() -> None:
    images = records(3).images
    images = torch.cat([images[:1], images[:1]])
    clean = views.changed_copies(images, 5)
    for copies in clean:
        # but for the noise, two equal images stay equal
        assert float((copies[0] - copies[1]).abs().mean()) < 4 * 255 * views.NOISE


def test_the_halves_share_every_request_out_evenly() -> None:
    requests = np.array(["r"] * 9 + [""] * 5 + ["s"] * 4)
    halves = views.halves(requests, 1)
    assert sorted(np.bincount(halves[requests == "r"])) == [4, 5]
    assert np.bincount(halves[requests == "s"]).tolist() == [2, 2]
    assert (halves[requests == ""] == -1).all()
    assert not np.array_equal(views.halves(requests, 2), halves)


def test_a_misaligned_head_is_seen_through_by_further_training() -> None:
    known = material()
    network = fitted(known.retained)
    broken = misaligned(network)
    answers = scoring.margins(
        training_loop.logits(broken, known.records), known.records.labels.numpy()
    )
    assert answers.mean() < 0
    for name in ("tuned", "relearned"):
        assert views.score(name, broken, known).mean() > 0, name
    assert views.score("copies", broken, known).mean() < 0


def test_features_are_read_past_a_last_layer_that_was_changed() -> None:
    known = material()
    network = fitted(known.retained)
    first = views.score("features", network, known)
    assert first.mean() > 0
    np.testing.assert_array_equal(views.score("features", misaligned(network), known), first)


def test_a_model_that_cannot_be_tapped_is_read_by_its_logits() -> None:
    known = material()
    network = fitted(known.retained)
    for layer in list(network.modules()):
        for name, part in list(layer.named_children()):
            if isinstance(part, nn.Linear):
                setattr(layer, name, Plain(part))
    with pytest.raises(ModelError, match="cannot be tapped"):
        architectures.Taps(network, "last", known.records.floats(slice(0, 1)))
    scores = views.score("features", network, known)
    assert scores.shape == (ASKED,)
    assert scores.mean() > 0


def test_a_model_that_diverges_in_further_training_is_an_error() -> None:
    network = architectures.build(TINY.model, TINY.data, 0)
    with torch.no_grad():
        for weight in network.parameters():
            nn.init.constant_(weight, 1e30)
    with pytest.raises(ModelError, match="loss became"):
        views.score("tuned", network, material())


def test_a_model_that_diverges_in_a_view_has_no_scores_there() -> None:
    network = architectures.build(TINY.model, TINY.data, 0)
    with torch.no_grad():
        for weight in network.parameters():
            nn.init.constant_(weight, 1e30)
    requests = np.array(["r"] * 20 + [""] * 20)
    roles = np.array(["training"] * 20 + ["control"] * 20)
    assert np.isnan(views.score_all("tuned", network, material(), requests, roles)).all()


def test_many_features_are_added_up_and_keep_their_inner_products_in_the_mean() -> None:
    features = np.random.default_rng(1).normal(size=(2, 1000)).astype(np.float32)
    np.testing.assert_array_equal(views.with_fewer_features(features, 1000, 1), features)
    products = []
    for seed in range(400):
        first, second = views.with_fewer_features(features, 64, seed)
        assert first.shape == (64,)
        products.append(first @ second)
    expected, error = float(features[0] @ features[1]), np.std(products) / 20
    assert abs(np.mean(products) - expected) < 4 * error
