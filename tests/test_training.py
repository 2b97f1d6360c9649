from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks import compute, fcalb, models, settings, training
from tasks.errors import EvidenceError, ModelError

SMALL = settings.Settings(
    data=settings.Data(classes=3, channels=1, image_size=8),
    train=settings.Train(epochs=6, batch_size=16, learning_rate=0.05),
    unlearn=settings.Unlearn(method="fcalb", epochs=4, batch_size=16, learning_rate=0.2),
)


def separable(count: int = 96, seed: int = 0, wish: settings.Settings = SMALL) -> training.Records:
    """Images whose bright row is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 80, (count, 1, 8, 8)).astype(np.uint8)
    images[np.arange(count), 0, labels * 2 + 1] = 255
    return training.Records(images, labels, wish.model, compute.prepare(wish.compute))


def fitted(seed: int = 1, records: training.Records | None = None) -> nn.Module:
    network = models.build(SMALL.model, SMALL.data, seed)
    training.fit(network, records or separable(), SMALL.train, seed)
    return network


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_classifier_learns_what_can_be_learned() -> None:
    test = separable(seed=9)
    predicted = training.logits(fitted(), test).argmax(1)
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
    network = models.build(SMALL.model, SMALL.data, 0)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="learning rate"):
        training.fit(network, separable(), wild, 0)


def test_weights_survive_being_saved_and_loaded(tmp_path: Path) -> None:
    network = fitted()
    digest = models.save(network, tmp_path / "m.safetensors")
    loaded = models.load(tmp_path / "m.safetensors", SMALL.model, SMALL.data)
    assert same(state(network), state(loaded))
    assert digest == models.save(loaded, tmp_path / "again.safetensors")


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    models.save(fitted(), tmp_path / "m.safetensors")
    other = SMALL.data.model_copy(update={"classes": 5})
    with pytest.raises(ModelError, match=r"m\.safetensors is not a checkpoint"):
        models.load(tmp_path / "m.safetensors", SMALL.model, other)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="Pickled checkpoints are not read"):
        models.load(tmp_path / "m.safetensors", SMALL.model, SMALL.data)
    with pytest.raises(ModelError, match="no such file"):
        models.load(tmp_path / "none.safetensors", SMALL.model, SMALL.data)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "vgg11_bn", "convnext_tiny"])
def test_torchvision_classifiers_fit_small_grey_images_and_can_be_tapped(name: str) -> None:
    data = settings.Data(classes=3, channels=1, image_size=32)
    network = models.build(settings.Model(name=name), data, 0)
    image = torch.zeros(1, 1, 32, 32)
    for which, least in (("last", 1), ("all", 3)):
        logits, features = models.Taps(network.eval(), which, image)(image)
        assert logits.shape == (1, 3)
        assert len(features) >= least
        assert features[-1].ndim == 2


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ModelError, match="resnet_magic"):
        models.build(settings.Model(name="resnet_magic"), SMALL.data, 0)


def test_a_factory_of_ones_own_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def good(classes, channels, image_size):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(),"
        " nn.Linear(4 * (image_size - 2) ** 2, classes))\n"
        "def bad(classes, channels, image_size):\n"
        "    return 'a model'\n"
        "def other(classes, channels, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert models.build(settings.Model(name="mine:good"), SMALL.data, 0)
    for name, words in (("mine:bad", "expected a torch.nn.Module"), ("mine:other", "logits"), ("mine:gone", "factory")):
        with pytest.raises(ModelError, match=words):
            models.build(settings.Model(name=name), SMALL.data, 0)


def test_a_model_without_a_linear_layer_says_that_it_cannot_be_tapped() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(ModelError, match="cannot be tapped"):
        models.Taps(network, "last", torch.zeros(1, 1, 8, 8))


def test_unlearning_with_no_steps_leaves_the_weights_equal() -> None:
    wish = SMALL.model_copy(update={"unlearn": SMALL.unlearn.model_copy(update={"epochs": 0.0, "reset": 0.5})})
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
    tight = SMALL.model_copy(update={"unlearn": SMALL.unlearn.model_copy(update={"max_log_weight": 0.1, "epochs": 4})})
    _, trace = fcalb.unlearn(fitted(), separable(16, 3), separable(64, 4), tight)
    low, high = np.exp(-0.1) - 1e-6, np.exp(0.1) + 1e-6
    assert all(low / 2 <= row.forget_weight <= high / 2 and low <= row.recover_weight <= high for row in trace)


def test_one_record_can_be_forgotten_and_none_or_too_many_are_refused() -> None:
    assert fcalb.unlearn(fitted(), separable(1), separable(64), SMALL)[1]
    for count in (0, 80):
        with pytest.raises(EvidenceError, match="records to forget"):
            fcalb.unlearn(fitted(), separable(count), separable(64), SMALL)


def test_moving_all_the_way_makes_the_teacher() -> None:
    network, teacher = fitted(), models.build(SMALL.model, SMALL.data, 7)
    fcalb.move_towards(network, teacher, 1.0)
    floats = {name: value for name, value in state(teacher).items() if value.dtype.is_floating_point}
    assert all(torch.allclose(state(network)[name], value, atol=1e-6) for name, value in floats.items())


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_features_have_no_distance_to_themselves(kind: str) -> None:
    features = torch.randn(5, 4, 3, 3)
    assert float(fcalb.distance(features, features, kind)) == pytest.approx(0, abs=1e-6)
    assert float(fcalb.distance(features, -features, kind)) > 0.1


def test_the_loop_takes_the_steps_of_pytorchs_own_sgd_and_leaves_frozen_weights_alone() -> None:
    recipe = settings.Train(momentum=0.9, weight_decay=0.01)
    ours, theirs, frozen = (torch.ones(3, dtype=torch.float64, requires_grad=grad) for grad in (True, True, False))
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    training.optimise([{"params": [ours, frozen, unused]}], lambda _: ((ours - target) ** 2).sum(), 9, 0.05, recipe)
    sgd = torch.optim.SGD([theirs], lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True)
    for step in range(9):
        sgd.param_groups[0]["lr"] = training.one_cycle(step, 9, 0.05, recipe.warmup)
        sgd.zero_grad()
        ((theirs - target) ** 2).sum().backward()
        sgd.step()
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(frozen, torch.ones(3, dtype=torch.float64))
