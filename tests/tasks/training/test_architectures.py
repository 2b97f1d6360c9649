"""Any convolutional classifier: built, tapped, unlearned, kept; and what cannot be one is refused
by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn
from torch.nn import functional
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vgg import make_layers

from benchmarks import families
from tasks.common import files, settings
from tasks.common.errors import EvidenceError, ModelError
from tasks.training import architectures, checkpoints, compute, training_loop
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry

NAMED = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "regnet_x_400mf",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "googlenet",
)
"""The smallest of each family of torchvision; `python -m benchmarks.families` builds them all."""
SMALLER = tuple(f"{__name__}:{name}" for name in ("vgg", "vgg_bn", "convnext"))
"""Families whose smallest has 28 to 129 million weights: made of the same parts, a few thousand
weights each."""


def vgg(classes: int, channels: int, image_size: int, batch_norm: bool = False) -> nn.Module:
    """VGG's stages and its classifier with dropout."""
    stages = make_layers([8, "M", 16, "M", 16, 16], batch_norm)  # type: ignore[list-item]
    stages[0] = nn.Conv2d(channels, 8, 3, padding=1)
    head = nn.Sequential(nn.Linear(144, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, classes))
    return nn.Sequential(stages, nn.AdaptiveAvgPool2d((3, 3)), nn.Flatten(), head)


def vgg_bn(classes: int, channels: int, image_size: int) -> nn.Module:
    return vgg(classes, channels, image_size, True)


def convnext(classes: int, channels: int, image_size: int) -> nn.Module:
    """torchvision's ConvNeXt in small: layer norm, layer scale and stochastic depth, and no batch
    norm."""
    network = ConvNeXt(
        [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], 0.5, num_classes=classes
    )
    network.features[0][0] = nn.Conv2d(channels, 8, 2, stride=2)
    return network


class Tied(nn.Module):
    """One kernel under two names, a buffer that is no float, a frozen layer, and functional
    operations."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1)
        self.one, self.other = (nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.other.weight = self.one.weight
        self.frozen = nn.Linear(6, 8).requires_grad_(False)
        self.classifier = nn.Linear(8, classes)
        self.register_buffer("calls", torch.tensor(7))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = functional.relu(self.stem(images))
        if maps.shape[2] > 2:  # a tracer cannot follow
            maps = functional.max_pool2d(maps, 2)
        for _ in range(2):
            maps = maps + functional.relu(self.other(functional.relu(self.one(maps))))
        return self.classifier(functional.relu(self.frozen(maps.mean((2, 3)))))


def tied(classes: int, channels: int, image_size: int) -> nn.Module:
    return Tied(channels, classes)


def wish(name: str, side: int = 16, channels: int = 1, **unlearn: Any) -> settings.Settings:
    return settings.Settings(
        data=settings.Data(classes=2, channels=channels, image_size=side),
        model=settings.Model(name=name),
        train=settings.Train(epochs=4, batch_size=4, learning_rate=0.01),
        unlearn=settings.Unlearn.model_validate(
            {"method": "fcalb_plain", "batch_size": 4, "learning_rate": 0.001, **unlearn}
        ),
    )


def some(count: int, config: settings.Settings, seed: int = 0) -> training_loop.Records:
    """Images of noise; those of class 1 are brighter."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    images = rng.integers(
        0, 128, (count, config.data.channels, config.data.image_size, config.data.image_size)
    )
    images += 100 * labels[:, None, None, None]
    return training_loop.Records(
        images.astype(np.uint8), labels, config.model, compute.prepare(config.compute)
    )


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def build(config: settings.Settings, seed: int = 1) -> nn.Module:
    return architectures.build(config.model, config.data, seed)


@pytest.mark.parametrize("name", [*NAMED, *SMALLER])
def test_every_family_is_unlearned_with_either_tap_and_survives_its_file(
    name: str, tmp_path: Path
) -> None:
    for taps, way in (("last", 0.0), ("all", 0.3)):
        config = wish(name, 32, taps=taps, reset=way)
        network = build(config)
        before = state(network)
        _, trace = fcalb.unlearn(network, some(4, config, 1), some(4, config), config)
        assert len(trace) == 1
        assert np.isfinite([trace[0].forget_loss, trace[0].recover_loss]).all()
        assert not same(before, state(network))
        assert not any(part.training for part in network.modules())
    digest = checkpoints.save(network, tmp_path / "m.safetensors")
    again = checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
    assert same(state(network), state(again))
    assert digest == checkpoints.save(again, tmp_path / "again.safetensors")


@pytest.mark.parametrize("name", [*NAMED, *SMALLER])
def test_taps_are_one_map_per_resolution_and_then_the_classifiers_input(name: str) -> None:
    config = wish(name, 32)
    network = build(config).eval()
    image = some(1, config).floats(slice(None))
    logits, every = architectures.Taps(network, "all", image)(image)
    assert torch.equal(logits, network(image))
    sizes = [tuple(part.shape[2:]) for part in every[:-1]]
    assert len(sizes) == len(set(sizes)) >= 2
    assert all(
        high == wide for high, wide in sizes
    )  # maps are (channels, high, wide), not the other way about
    (last,) = architectures.Taps(network, "last", image)(image)[1]
    assert torch.equal(every[-1], last)
    # what is tapped is what the classifier reads: a new classifier on it gives the logits
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    answers = layers[-1](last)
    assert torch.allclose(
        answers if answers.ndim == 2 else answers.relu().mean((2, 3)), logits, atol=1e-6
    )


@pytest.mark.parametrize("name", [f"{__name__}:convnext", f"{__name__}:vgg", f"{__name__}:tied"])
@pytest.mark.parametrize("method", registry.METHODS)
def test_every_rival_unlearns_models_with_dropout_and_without_batch_norm(
    method: str, name: str
) -> None:
    config = wish(
        name, method=method, rivals={"epochs": 1, "unsir_noise_steps": 2, "ssd_alpha": 1.0}
    )
    results = []
    for _ in range(2):
        unlearned = registry.unlearn(build(config), some(2, config, 1), some(8, config), config)
        assert all(torch.isfinite(value).all() for value in unlearned.state_dict().values())
        results.append(state(unlearned))
    assert same(*results)
    assert method == "ssd" or not same(results[0], state(build(config)))


@pytest.mark.parametrize("balance", ["gradnorm", "imtl_g"])
@pytest.mark.parametrize("name", ["convnext", "vgg", "vgg_bn", "tied"])
def test_balances_by_gradients_find_what_both_losses_share(name: str, balance: str) -> None:
    config = wish(f"{__name__}:{name}", taps="all", balance=balance)
    _, trace = fcalb.unlearn(build(config), some(4, config, 1), some(8, config), config)
    assert all(row.forget_weight + row.recover_weight == pytest.approx(2) for row in trace)
    assert trace[-1].forget_weight != trace[-1].recover_weight


@pytest.mark.parametrize("name", ["convnext", "vgg", "vgg_bn"])
def test_chance_in_a_model_is_the_same_again_for_a_seed_and_another_for_another(name: str) -> None:
    config = wish(f"{__name__}:{name}", taps="all", learning_rate=0.01)

    def run(seed: int, elsewhere: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(elsewhere)  # the global stream has no say
        chosen = config.model_copy(update={"seed": seed})
        return state(fcalb.unlearn(build(config), some(4, config, 1), some(8, config), chosen)[0])

    runs = [run(0, 5), run(0, 6), run(1, 5)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("name", "matters"), [("convnext", False), ("vgg", False), ("tied", False), ("vgg_bn", True)]
)
def test_the_teachers_mode_matters_to_batch_norm_and_to_nothing_else(
    name: str, matters: bool
) -> None:
    def run(mode: str) -> dict[str, torch.Tensor]:
        config = wish(f"{__name__}:{name}", taps="all", teacher_mode=mode)
        return state(fcalb.unlearn(build(config), some(4, config, 1), some(8, config), config)[0])

    assert same(run("train"), run("eval")) is not matters


def test_a_model_that_is_its_own_teacher_has_nothing_to_forget_whatever_dropout_does() -> None:
    for name in ("convnext", "vgg", "vgg_bn"):
        config = wish(
            f"{__name__}:{name}", taps="all", reset=1.0
        )  # the random teacher, weight by weight
        _, trace = fcalb.unlearn(build(config), some(4, config, 1), some(8, config), config)
        assert trace[0].forget_loss == pytest.approx(0, abs=1e-9)


def test_batches_never_hold_one_record_since_batch_norm_at_one_pixel_cannot_learn_from_it() -> None:
    config = wish("resnet18", 16)  # its last maps are 1x1
    for count in (2, 3, 5, 9):
        batches = some(count, config).batches(4, torch.Generator().manual_seed(0), config.train)
        assert {len(next(batches)[1]) for _ in range(6)} == {min(4, count)}
    network = build(config)
    training_loop.fit(network, some(5, config), config.train, 0)
    one = some(5, config).rows(torch.tensor([0]))
    assert fcalb.unlearn(network, one, some(5, config), config)[1]
    with pytest.raises(EvidenceError, match="at least 2"):
        training_loop.fit(network, one, config.train, 0)


def test_tied_weights_are_written_and_read_under_all_names_or_one(tmp_path: Path) -> None:
    config = wish(f"{__name__}:tied")
    network = build(config)
    checkpoints.save(network, tmp_path / "all.safetensors")
    save_model(network, str(tmp_path / "one.safetensors"))
    assert len(load_file(tmp_path / "one.safetensors")) < len(
        load_file(tmp_path / "all.safetensors")
    )
    for name in ("all", "one"):
        path = checkpoints.load(tmp_path / f"{name}.safetensors", config.model, config.data)
        assert same(state(network), state(path))
        assert path.one.weight is path.other.weight


def test_a_reset_moves_tied_weights_once_and_frozen_ones_and_counts_never() -> None:
    config = wish(f"{__name__}:tied")
    network, teacher = build(config, 1), build(config, 2)
    before, target = state(network), state(teacher)
    fcalb.move_towards(network, teacher, 0.5)
    after = state(network)
    for name in ("stem.weight", "one.weight", "other.weight", "classifier.bias"):
        torch.testing.assert_close(after[name], before[name].lerp(target[name], 0.5))
    for name in ("frozen.weight", "frozen.bias", "calls"):
        assert torch.equal(after[name], before[name])


def test_frozen_weights_stay_whatever_the_method() -> None:
    for method in ("fcalb", "fcalb_plain", "scrub", "ssd", "salun"):
        config = wish(
            f"{__name__}:tied", method=method, reset=0.5, rivals={"ssd_alpha": 1.0, "epochs": 1}
        )
        network = build(config)
        before = state(network)
        run = fcalb.unlearn if method in fcalb.METHODS else registry.unlearn
        run(network, some(2, config, 1), some(8, config), config)
        assert torch.equal(network.frozen.weight, before["frozen.weight"]), method
        assert not torch.equal(network.stem.weight, before["stem.weight"]), method


def test_a_model_with_all_weights_frozen_is_refused() -> None:
    config = wish("small_cnn")
    with pytest.raises(ModelError, match="all frozen"):
        fcalb.unlearn(
            build(config).requires_grad_(False), some(2, config, 1), some(8, config), config
        )
    with pytest.raises(ModelError, match="requires_grad"):
        training_loop.fit(build(config).requires_grad_(False), some(8, config), config.train, 0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_first_layer_takes_the_datas_channels_and_the_stem_that_was_asked_for(
    name: str,
) -> None:
    def first(side: int, channels: int, stem: str = "plain") -> nn.Conv2d:
        config = wish(name, side, channels)
        model = config.model.model_copy(update={"stem": stem})
        network = architectures.build(model, config.data, 1)
        return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))

    photo, grey, small, kept = first(64, 3), first(64, 1), first(32, 3), first(32, 3, "small")
    assert (photo.in_channels, grey.in_channels) == (3, 1)
    assert torch.equal(grey.weight, photo.weight[:, :1])  # the family's own initialisation
    assert small.stride == photo.stride == grey.stride == (2, 2)
    assert kept.stride == (1, 1)


def test_unusual_first_layers_keep_padding_and_dilation_and_channel_groups_are_refused() -> None:
    grey = settings.Data(classes=2, channels=1, image_size=16)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=2, dilation=2, padding_mode="circular"), nn.ReLU()
    )
    architectures.fit_first_layer(network, "small", grey.channels)
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 4, 16, 16)
    assert (network[0].dilation, network[0].padding_mode, network[0].stride) == (
        (2, 2),
        "circular",
        (1, 1),
    )
    with pytest.raises(ModelError, match="3 groups"):
        architectures.fit_first_layer(
            nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), "plain", grey.channels
        )
    with pytest.raises(ModelError, match="no convolution"):
        architectures.fit_first_layer(nn.Sequential(nn.Linear(3, 2)), "plain", grey.channels)


@pytest.mark.parametrize(
    ("inputs", "size"), [((7, 5), (2, 2)), ((2, 3), (7, 7)), ((6, 6), 3), ((5, 9), (None, 4))]
)
def test_pooling_by_matrices_is_pytorchs_adaptive_pooling(
    inputs: tuple[int, int], size: Any
) -> None:
    maps = torch.randn(2, 3, *inputs, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(
        2, 3, *functional.adaptive_avg_pool2d(maps, size).shape[2:], dtype=torch.float64
    )
    result, expected = (
        architectures.pool_by_matrices(maps, size),
        functional.adaptive_avg_pool2d(maps, size),
    )
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad((out * weights).sum(), maps)[0] for out in (result, expected))
    )


def test_adaptive_pooling_that_cuda_refuses_to_learn_through_is_replaced_everywhere() -> None:
    for name in ("small_cnn", f"{__name__}:vgg"):
        pools = [
            layer
            for layer in build(wish(name, 32)).modules()
            if isinstance(layer, nn.AdaptiveAvgPool2d)
        ]
        assert pools
        assert all(layer.forward.func is architectures.pool for layer in pools)


OWN = """
import torch
from torch import nn
from torch.nn import functional

class Net(nn.Module):
    def __init__(self, classes, channels, auxiliary=False, fussy=False):
        super().__init__()
        self.conv, self.second = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3)
        self.classifier, self.auxiliary, self.fussy = nn.Linear(4, classes), auxiliary, fussy

    def forward(self, images):
        maps = functional.relu(self.conv(images))
        if not self.fussy or float(images.mean()) == 0:
            maps = self.second(maps)
        logits = self.classifier(maps.mean((2, 3)))
        return (logits, logits) if self.auxiliary and self.training else logits

class Weights(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.conv, self.weight = nn.Conv2d(channels, 4, 3), nn.Parameter(torch.zeros(classes, 4))

    def forward(self, images):
        return functional.linear(functional.relu(self.conv(images)).mean((2, 3)), self.weight)

def good(classes, channels, image_size):
    return Net(classes, channels)

def auxiliary(classes, channels, image_size):
    return Net(classes, channels, auxiliary=True)

def fussy(classes, channels, image_size):
    return Net(classes, channels, fussy=True)

def hidden(classes, channels, image_size):
    return Weights(classes, channels)

def text(classes, channels, image_size):
    return "a model"

def raises(classes, channels, image_size):
    raise ValueError("only on Sundays")

def wider(classes, channels, image_size):
    return Net(classes + 1, channels)

def breaks(classes, channels, image_size):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Linear(3, classes))

def alone(classes, channels, image_size):
    return nn.Sequential(nn.Conv2d(channels, classes, image_size), nn.Flatten())

def lazy(classes, channels, image_size):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))

def normed(classes, channels, image_size):
    head = nn.utils.parametrizations.weight_norm(nn.Linear(4, classes))
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a module of one's own."""
    (tmp_path / "own_networks.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("text", "expected a torch.nn.Module"),
        ("raises", "ValueError: only on Sundays"),
        ("gone", "expected package.module:factory"),
        ("wider", r"gives \(2, 3\) for two images, expected logits of shape \(2, 2\)"),
        ("breaks", "does not take images of 1x16x16"),
        ("auxiliary", "gives tuple for two images in training mode"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_factory_that_gives_no_classifier_is_refused_and_says_why(
    factory: str, words: str
) -> None:
    with pytest.raises(ModelError, match=words) as error:
        build(wish(f"own_networks:{factory}"))
    assert f"own_networks:{factory}" in str(error.value)


@pytest.mark.parametrize("factory", ["alone", "hidden"])
@pytest.mark.usefixtures("own")
def test_a_classifier_whose_features_have_no_layer_to_be_read_at_cannot_be_tapped(
    factory: str,
) -> None:
    for method in ("fcalb", "fcalb_plain"):
        config = wish(f"own_networks:{factory}", method=method)
        with pytest.raises(
            ModelError,
            match=r"cannot be tapped: its last layer has to be a .*unlearn\.method=fcalb_reset",
        ):
            fcalb.unlearn(build(config), some(2, config, 1), some(8, config), config)
    for method in ("fcalb_reset", "scrub"):  # they read no features
        config = wish(f"own_networks:{factory}", method=method, rivals={"epochs": 1})
        run = fcalb.unlearn if method in fcalb.METHODS else registry.unlearn
        assert run(build(config), some(2, config, 1), some(8, config), config)


@pytest.mark.usefixtures("own")
def test_a_model_that_calls_other_layers_for_other_images_cannot_be_tapped_there() -> None:
    config = wish("own_networks:fussy")
    network = build(config)
    taps = architectures.Taps(network, "all", torch.zeros(1, 1, 16, 16))
    assert len(taps(torch.zeros(1, 1, 16, 16))[1]) == 3
    with pytest.raises(ModelError, match="depends on the images"):
        taps(torch.ones(1, 1, 16, 16))


@pytest.mark.parametrize("factory", ["good", "lazy", "normed"])
@pytest.mark.usefixtures("own")
def test_a_factory_of_ones_own_is_built_the_same_again_and_unlearned(
    factory: str, tmp_path: Path
) -> None:
    config = wish(f"own_networks:{factory}", taps="all")
    torch.manual_seed(3)
    network = build(config)
    torch.manual_seed(4)
    assert same(state(network), state(build(config)))
    network, trace = fcalb.unlearn(network, some(2, config, 1), some(8, config), config)
    assert trace
    checkpoints.save(network, tmp_path / "m.safetensors")
    assert same(
        state(network),
        state(checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)),
    )


def test_a_factory_is_found_in_the_workspace_that_a_stage_runs_in(own: Path) -> None:
    code = (
        "from tasks.common import settings; from tasks.training import architectures;"
        "own = settings.Model(name='own_networks:good');"
        "print(type(architectures.build(own, settings.Data(), 0)).__name__)"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=own,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "Net", done.stderr


def test_unknown_models_and_images_too_small_are_named() -> None:
    for name, side, words in (
        ("resnet_magic", 16, "'resnet_magic' is unknown"),
        ("inception_v3", 32, "set data.image_size larger"),
        ("vit_b_16", 60, "indivisible by patch size.*set data.image_size"),
    ):
        with pytest.raises(ModelError, match=words):
            build(wish(name, side))


def test_weights_survive_being_saved_and_loaded(tmp_path: Path) -> None:
    config = wish("small_cnn")
    network = build(config)
    digest = checkpoints.save(network, tmp_path / "m.safetensors")
    loaded = checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
    assert same(state(network), state(loaded))
    assert digest == checkpoints.save(loaded, tmp_path / "again.safetensors")


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    config = wish("small_cnn")
    checkpoints.save(build(config), tmp_path / "m.safetensors")
    classes = config.data.model_copy(update={"classes": 5})
    for model, data in ((config.model, classes), (settings.Model(name="resnet18"), config.data)):
        with pytest.raises(ModelError, match=r"m\.safetensors is not a checkpoint"):
            checkpoints.load(tmp_path / "m.safetensors", model, data)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    config = wish("small_cnn")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="Pickled checkpoints are not read"):
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
    with pytest.raises(ModelError, match="no such file"):
        checkpoints.load(tmp_path / "none.safetensors", config.model, config.data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    value: float, tmp_path: Path
) -> None:
    config = wish("small_cnn")
    network = build(config)
    checkpoints.save(network, tmp_path / "m.safetensors")
    kept = (tmp_path / "m.safetensors").read_bytes()
    network[0][1].running_var[3] = value
    with pytest.raises(ModelError, match=r"first 0\.1\.running_var.*nothing is released"):
        checkpoints.save(network, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == kept
    save_file(state(network), str(tmp_path / "bad.safetensors"))
    with pytest.raises(ModelError, match=r"bad\.safetensors has NaN or infinite values in 1 of"):
        checkpoints.load(tmp_path / "bad.safetensors", config.model, config.data)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    config = wish("small_cnn")
    path = tmp_path / "m.safetensors"
    checkpoints.save(build(config), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is no safetensors file"):
        checkpoints.load(path, config.model, config.data)


def test_the_table_of_what_can_be_tapped_is_that_of_a_real_run() -> None:
    root = Path(__file__).parents[3]
    kept = files.read_json(root / "benchmarks" / "results" / "families.json")
    rows = {row["name"]: row for row in kept["models"]}
    for name in ("mobilenet_v3_small", "squeezenet1_1"):
        assert families.attempt(families.Family(name)) == rows[name]
    assert families.table(kept) in (root / "docs" / "models.md").read_text(encoding="utf-8")
