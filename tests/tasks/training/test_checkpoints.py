"""A user's own checkpoint is computed exactly as its architecture says, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import Normalize

from tasks.common import settings
from tasks.common.errors import ModelError, SettingsError
from tasks.training import architectures, checkpoints, compute, preprocessing, training_loop

SMALLEST = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11": 32,
    "vit_b_32": 32,
}
"""The smallest of each family of torchvision, and a side, pixels, that it takes."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASSES = 4


def chosen(name: str, side: int = 32, **model: object) -> settings.Settings:
    return settings.parse(
        {
            "data": {"classes": CLASSES, "channels": 3, "image_size": side},
            "model": {"name": name, **model},
        }
    )


def plain(name: str, side: int = 32) -> nn.Module:
    """A classifier made by torchvision alone, its running statistics moved from their start."""
    torch.manual_seed(3)
    extra = {"image_size": side} if name.startswith("vit_") else {}
    network: nn.Module = torchvision.models.get_model(name, num_classes=CLASSES, **extra)
    with torch.no_grad():
        for buffer in network.buffers():
            if buffer.is_floating_point() and buffer.ndim == 1:
                buffer.add_(torch.rand_like(buffer) * 0.1)
    return network.eval()


def pixels(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 3, side, side)).astype(np.uint8)


def answers(path: Path, config: settings.Settings) -> np.ndarray:
    """What the audit computes of some images with a checkpoint."""
    network = checkpoints.load(path, config.model, config.data)
    backend = compute.prepare(config.compute)
    records = training_loop.Records(
        pixels(config.data.image_size), np.zeros(3, np.int64), config.model, backend
    )
    return training_loop.logits(network, records)


def in_plain_torch(network: nn.Module, side: int, mean: object, std: object) -> np.ndarray:
    images = torch.tensor(pixels(side)).float() / 255
    with torch.no_grad():
        return network(Normalize(mean, std)(images)).numpy()


@pytest.mark.parametrize("name", SMALLEST)
def test_a_checkpoint_of_every_family_gives_torchvisions_own_logits(
    name: str, tmp_path: Path
) -> None:
    side = SMALLEST[name]
    network = plain(name, side)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    expected = in_plain_torch(network, side, [0.5] * 3, [0.5] * 3)
    path = answers(tmp_path / "mine.safetensors", chosen(name, side))
    np.testing.assert_allclose(path, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_mean_and_std_per_channel_are_torchvisions_normalize(tmp_path: Path) -> None:
    network = plain("resnet18")
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    expected = in_plain_torch(network, 32, *IMAGENET)
    for texts in (
        chosen("resnet18", mean=list(IMAGENET[0]), std=list(IMAGENET[1])),
        chosen("resnet18", mean=0.45, std=0.225),
    ):
        path = answers(tmp_path / "mine.safetensors", texts)
        same = np.allclose(path, expected, atol=1e-4)
        assert same is isinstance(texts.model.mean, tuple)


def test_a_preset_says_what_torchvisions_weights_were_trained_with() -> None:
    model = chosen("resnet18", preset="ResNet18_Weights.IMAGENET1K_V1").model
    assert preprocessing.normalisation(model, 3, 224) == IMAGENET
    for preset, channels, side, words in (
        ("ResNet18_Weights.IMAGENET1K_V1", 3, 32, "set data.image_size=224, or leave the preset"),
        ("ResNet18_Weights.IMAGENET1K_V1", 1, 224, "set data.channels=3"),
        ("ResNet18_Weights.NO_SUCH", 3, 224, "expected weights of a classifier"),
        ("Raft_Small_Weights.C_T_V1", 3, 224, "expected weights of a classifier"),
    ):
        with pytest.raises(SettingsError, match=words):
            preprocessing.normalisation(model.model_copy(update={"preset": preset}), channels, side)


def test_mean_and_std_that_are_not_one_per_channel_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"model\.mean has 2 values"):
        chosen("resnet18", mean=[0.5, 0.5])


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "net."])
def test_a_wrappers_prefix_is_recognised(prefix: str, tmp_path: Path) -> None:
    state = plain("resnet18").state_dict()
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "m.safetensors")
    config = chosen("resnet18")
    network = checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_an_average_that_torch_keeps_is_recognised(tmp_path: Path) -> None:
    network = plain("resnet18")
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    save_file(averaged.state_dict(), tmp_path / "m.safetensors")
    config = chosen("resnet18")
    path = checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
    torch.testing.assert_close(path.state_dict()["fc.weight"], network.state_dict()["fc.weight"])


def two_copies(prefixes: tuple[str, str], path: Path) -> dict[str, torch.Tensor]:
    """Write a model under the first prefix and its average under the second; returns the latter."""
    state = plain("resnet18").state_dict()
    average = {name: value * 0.5 for name, value in state.items()}
    both = {
        prefix + name: value.clone()
        for prefix, copy in zip(prefixes, (state, average), strict=True)
        for name, value in copy.items()
    }
    save_file(both, path)
    return average


PREFIXES = [("", "ema."), ("model.", "model_ema.module.")]


@pytest.mark.parametrize("prefixes", PREFIXES)
def test_of_two_copies_the_one_in_use_is_named_by_a_setting(
    prefixes: tuple[str, str], tmp_path: Path
) -> None:
    average = two_copies(prefixes, tmp_path / "m.safetensors")
    config = settings.parse(
        {**chosen("resnet18").model_dump(mode="json"), "original": {"prefix": prefixes[1]}}
    )
    path = checkpoints.load_original(tmp_path / "m.safetensors", config).state_dict()
    assert torch.equal(path["fc.weight"], average["fc.weight"])
    first = checkpoints.load(tmp_path / "m.safetensors", config.model, config.data, prefixes[0])
    assert torch.equal(first.state_dict()["fc.weight"], 2 * average["fc.weight"])


@pytest.mark.parametrize("prefixes", PREFIXES)
def test_two_copies_without_that_setting_are_refused_with_both_named(
    prefixes: tuple[str, str], tmp_path: Path
) -> None:
    two_copies(prefixes, tmp_path / "m.safetensors")
    config = chosen("resnet18")
    words = f"holds 2 copies of the model.*{prefixes[0]!r}, {prefixes[1]!r}.*original.prefix"
    with pytest.raises(ModelError, match=words):
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)


def test_a_prefix_that_no_copy_has_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    two_copies(("", "ema."), tmp_path / "m.safetensors")
    config = chosen("resnet18")
    with pytest.raises(ModelError, match=r"original\.prefix='avg\.'; expected one of '', 'ema\.'"):
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data, "avg.")


def test_counts_of_batches_may_be_missing(tmp_path: Path) -> None:
    network = plain("resnet18")
    state = {k: v for k, v in network.state_dict().items() if "num_batches_tracked" not in k}
    save_file(state, tmp_path / "m.safetensors")
    path = answers(tmp_path / "m.safetensors", chosen("resnet18"))
    np.testing.assert_allclose(path, in_plain_torch(network, 32, [0.5] * 3, [0.5] * 3), atol=1e-4)


def test_a_refusal_lists_the_first_missing_and_unexpected_names_and_shapes(tmp_path: Path) -> None:
    state = plain("resnet18").state_dict()
    state["head.weight"], state["head.bias"] = state.pop("fc.weight"), state.pop("fc.bias")
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    save_file(state, tmp_path / "m.safetensors")
    config = chosen("resnet18")
    with pytest.raises(ModelError) as refused:
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
    for words in (
        "2 missing (fc.weight, fc.bias)",
        "2 unexpected (head.bias, head.weight)",
        "1 of another shape (conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7))",
    ):
        assert words in str(refused.value)


def test_our_own_checkpoint_remembers_its_stem_and_normalisation(tmp_path: Path) -> None:
    ours = chosen("resnet18", stem="small", mean=[0.4, 0.5, 0.6])
    network = architectures.build(ours.model, ours.data, 1)
    checkpoints.save(network, tmp_path / "m.safetensors", ours.model)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert '"stem": "small"' in file.metadata()["model"]
    checkpoints.load(tmp_path / "m.safetensors", ours.model, ours.data)
    for key, value in (("stem", "plain"), ("mean", 0.5), ("name", "resnet34")):
        other = ours.model.model_copy(update={key: value})
        with pytest.raises(ModelError, match=f"made for model.{key}=.*set model.{key}"):
            checkpoints.load(tmp_path / "m.safetensors", other, ours.data)


def test_quantised_weights_are_refused_and_not_taken_for_numbers(tmp_path: Path) -> None:
    state = plain("resnet18").state_dict()
    state["fc.weight"] = (state["fc.weight"] * 100).to(torch.int8)
    save_file(state, tmp_path / "m.safetensors")
    config = chosen("resnet18")
    with pytest.raises(ModelError, match=r"1 of another type .fc\.weight int8 instead of float32"):
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read(kind: torch.dtype, tmp_path: Path) -> None:
    network = plain("resnet18")
    state = {k: v.to(kind) if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(state, tmp_path / "m.safetensors")
    network.load_state_dict(state)
    path = answers(tmp_path / "m.safetensors", chosen("resnet18"))
    np.testing.assert_allclose(path, in_plain_torch(network, 32, [0.5] * 3, [0.5] * 3), atol=1e-4)


@pytest.mark.parametrize(
    "beside", ["0.mean", "optimizer.state.0.momentum", "ema.shadow_params.0", "layer5.weight"]
)
def test_a_file_that_holds_more_than_the_model_is_refused_with_what_to_do(
    beside: str, tmp_path: Path
) -> None:
    state = plain("resnet18").state_dict() | {beside: torch.zeros(3)}
    save_file(state, tmp_path / "m.safetensors")
    config = chosen("resnet18")
    with pytest.raises(ModelError, match=f"1 unexpected .{beside}.*Nothing is missing"):
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)


def test_a_key_of_another_programs_metadata_is_not_taken_for_ours(tmp_path: Path) -> None:
    network, config = plain("resnet18"), chosen("resnet18")
    for reported in ("resnet18", '"resnet18"', '{"name": "ResNet18", "pretrained": true}'):
        save_file(network.state_dict(), tmp_path / "m.safetensors", metadata={"model": reported})
        checkpoints.load(tmp_path / "m.safetensors", config.model, config.data)
        assert not checkpoints.names_its_settings(tmp_path / "m.safetensors")
    checkpoints.save(network, tmp_path / "m.safetensors", config.model)
    assert checkpoints.names_its_settings(tmp_path / "m.safetensors")
