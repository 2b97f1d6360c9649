from __future__ import annotations

import ctypes
import resource

import numpy as np
import pytest
import torch
from torch import nn

from tasks.common import settings
from tasks.common.errors import EvidenceError, ModelError
from tasks.training import architectures, compute, training_loop
from tasks.unlearning import fcalb

SMALL = settings.Settings(
    data=settings.Data(classes=3, channels=1, image_size=8),
    train=settings.Train(epochs=6, batch_size=16, learning_rate=0.05),
    unlearn=settings.Unlearn(method="fcalb_plain", epochs=4, batch_size=16, learning_rate=0.2),
)
PIECE = 8 << 20
"""Bytes of a tensor that is large beside those of these models"""


def separable(
    count: int = 96, seed: int = 0, wish: settings.Settings = SMALL
) -> training_loop.Records:
    """Images whose bright row is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 80, (count, 1, 8, 8)).astype(np.uint8)
    images[np.arange(count), 0, labels * 2 + 1] = 255
    return training_loop.Records(images, labels, wish.model, compute.prepare(wish.compute))


def fitted(seed: int = 1, records: training_loop.Records | None = None) -> nn.Module:
    network = architectures.build(SMALL.model, SMALL.data, seed)
    training_loop.fit(network, records or separable(), SMALL.train, seed)
    return network


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_classifier_learns_what_can_be_learned() -> None:
    test = separable(seed=9)
    predicted = training_loop.logits(fitted(), test).argmax(1)
    assert (predicted == test.labels.numpy()).mean() > 0.95


def test_training_twice_gives_the_same_weights_and_another_seed_gives_others() -> None:
    assert same(state(fitted(1)), state(fitted(1)))
    assert not same(state(fitted(1)), state(fitted(2)))


def test_training_does_not_touch_the_global_random_stream() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fitted()
    assert torch.equal(torch.rand(3), expected)


def test_every_record_is_seen_once_per_epoch() -> None:
    records = separable(32)
    batches = records.batches(8, torch.Generator().manual_seed(0), settings.Train())
    seen = torch.cat([next(batches)[0] for _ in range(4)])
    rows = {tuple(image.flatten().tolist()) for image in seen}
    assert rows == {tuple(image.flatten().tolist()) for image in records.floats(slice(None))}


def test_one_record_is_too_few_to_train_on() -> None:
    with pytest.raises(EvidenceError, match="at least 2"):
        fitted(records=separable(1))


def test_a_diverging_loss_is_an_error() -> None:
    wild = SMALL.train.model_copy(update={"learning_rate": 10.0, "epochs": 60, "weight_decay": 0.9})
    network = architectures.build(SMALL.model, SMALL.data, 0)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="learning rate"):
        training_loop.fit(network, separable(), wild, 0)


def test_unlearning_with_no_steps_leaves_the_weights_equal() -> None:
    wish = SMALL.model_copy(
        update={"unlearn": SMALL.unlearn.model_copy(update={"epochs": 0.0, "reset": 0.5})}
    )
    network = fitted()
    before = state(network)
    unlearned, trace = fcalb.unlearn(network, separable(8, 3), separable(64, 4), wish)
    assert trace == []
    assert same(before, state(unlearned))


def test_fcalb_brings_the_forget_features_towards_the_random_teacher() -> None:
    _, trace = fcalb.unlearn(fitted(), separable(16, 3), separable(64, 4), SMALL)
    assert trace[-1].forget_loss < 0.5 * trace[0].forget_loss
    assert trace[-1].step == len(trace) == 16


def test_the_learned_weights_stay_within_their_clamp() -> None:
    tight = SMALL.model_copy(
        update={"unlearn": SMALL.unlearn.model_copy(update={"max_log_weight": 0.1, "epochs": 4})}
    )
    _, trace = fcalb.unlearn(fitted(), separable(16, 3), separable(64, 4), tight)
    low, high = np.exp(-0.1) - 1e-6, np.exp(0.1) + 1e-6
    assert all(
        low / 2 <= row.forget_weight <= high / 2 and low <= row.recover_weight <= high
        for row in trace
    )


def test_one_record_can_be_forgotten_and_none_or_too_many_are_refused() -> None:
    assert fcalb.unlearn(fitted(), separable(1), separable(64), SMALL)[1]
    for count in (0, 80):
        with pytest.raises(EvidenceError, match="records to forget"):
            fcalb.unlearn(fitted(), separable(count), separable(64), SMALL)


def test_moving_all_the_way_makes_the_teacher() -> None:
    network, teacher = fitted(), architectures.build(SMALL.model, SMALL.data, 7)
    fcalb.move_towards(network, teacher, 1.0)
    floats = {
        name: value for name, value in state(teacher).items() if value.dtype.is_floating_point
    }
    assert all(
        torch.allclose(state(network)[name], value, atol=1e-6) for name, value in floats.items()
    )


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_features_have_no_distance_to_themselves(kind: str) -> None:
    features = torch.randn(5, 4, 3, 3)
    assert float(fcalb.distance(features, features, kind)) == pytest.approx(0, abs=1e-6)
    assert float(fcalb.distance(features, -features, kind)) > 0.1


def test_the_loop_takes_the_steps_of_pytorchs_own_sgd_and_leaves_frozen_weights_alone() -> None:
    recipe = settings.Train(momentum=0.9, weight_decay=0.01)
    ours, theirs, frozen = (
        torch.ones(3, dtype=torch.float64, requires_grad=grad) for grad in (True, True, False)
    )
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    training_loop.optimise(
        [{"params": [ours, frozen, unused]}],
        lambda _: ((ours - target) ** 2).sum(),
        9,
        0.05,
        recipe,
    )
    sgd = torch.optim.SGD([theirs], lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True)
    for step in range(9):
        sgd.param_groups[0]["lr"] = training_loop.one_cycle(step, 9, 0.05, recipe.warmup)
        sgd.zero_grad()
        ((theirs - target) ** 2).sum().backward()
        sgd.step()
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(frozen, torch.ones(3, dtype=torch.float64))


def test_colour_lies_channels_last_on_a_processor_and_grey_as_ever() -> None:
    float32 = SMALL.compute.model_copy(update={"precision": "float32"})
    backend = compute.prepare(float32)
    assert backend.memory_format(3) == torch.channels_last
    assert backend.memory_format(1) == torch.contiguous_format
    colour = training_loop.Records(
        np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int64), SMALL.model, backend
    )
    assert colour.floats(slice(None)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="another allocator than glibc's"
)
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    compute.prepare(SMALL.compute)

    def step() -> None:
        _ = [torch.ones(PIECE // 4) for _ in range(8)]

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    fresh = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert fresh < 8 * PIECE // resource.getpagesize(), "pages came anew for each step"


def moved(picture: np.ndarray, shift: int, flip: bool) -> dict[bytes, tuple[bool, int, int]]:
    """Every way in which the augmentation may move a picture, by what comes out."""
    found = {}
    for turned in (False, True)[: 1 + flip]:
        padded = np.pad(
            picture[..., ::-1] if turned else picture, ((0, 0), (shift, shift), (shift, shift))
        )
        for down in range(2 * shift + 1):
            for across in range(2 * shift + 1):
                side = picture.shape[-1]
                found[padded[:, down : down + side, across : across + side].tobytes()] = (
                    turned,
                    down,
                    across,
                )
    return found


@pytest.mark.parametrize(("shift", "flip"), [(0, False), (0, True), (2, False), (1, True)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_of_a_batch_is_flipped_and_shifted_on_its_own(
    shift: int, flip: bool, channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (400, channels, 6, 6)).astype(np.uint8)
    recipe = SMALL.train.model_copy(update={"shift": shift, "flip": flip})
    given = training_loop.augmented(torch.tensor(pixels), recipe, torch.Generator().manual_seed(1))
    assert given.dtype == torch.uint8
    seen = [
        moved(before, shift, flip)[after.tobytes()]  # a KeyError: no such move is meant
        for before, after in zip(pixels, given.numpy(), strict=True)
    ]
    every = (2 * shift + 1) ** 2 * (1 + flip)
    assert len(set(seen)) == every, "some move never came, or all images moved alike"
    assert all(seen.count(one) > 400 / every / 3 for one in set(seen))


def test_the_augmentation_is_drawn_from_the_generator_alone() -> None:
    recipe = SMALL.train.model_copy(update={"shift": 2, "flip": True})
    known, drawn = separable(), []
    for noise in (1, 2):
        torch.manual_seed(noise)
        drawn.append(next(known.batches(96, torch.Generator().manual_seed(7), recipe))[0])
    assert torch.equal(*drawn)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_with_the_same_number_of_threads_the_weights_are_the_same(
    threads: int, precision: str
) -> None:
    wish = settings.Settings.model_validate(
        {
            "data": {"classes": 3, "channels": 3, "image_size": 32},
            "train": {"epochs": 2, "batch_size": 32, "shift": 2},
            "compute": {"device": "cpu", "threads": threads, "precision": precision},
        }
    )
    images = np.random.default_rng(0).integers(0, 256, (128, 3, 32, 32)).astype(np.uint8)
    known = training_loop.Records(
        images, np.arange(128) % 3, wish.model, compute.prepare(wish.compute)
    )
    assert known.backend.facts()["threads"] == torch.get_num_threads() == threads
    twins = [architectures.build(wish.model, wish.data, 1) for _ in range(2)]
    for twin in twins:
        training_loop.fit(twin, known, wish.train, 1)
    assert same(state(twins[0]), state(twins[1]))
