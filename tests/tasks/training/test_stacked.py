"""Models trained at once are what each would be alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tasks.common import files, settings, stage_cli
from tasks.common.errors import EvidenceError, ModelError
from tasks.data import image_pack
from tasks.training import (
    architectures,
    checkpoints,
    compute,
    reference_blocks,
    stacked,
    training_loop,
)

RECIPE = settings.Train(epochs=2, batch_size=16, learning_rate=0.05, label_smoothing=0.1)
COLOUR = settings.Data(classes=3, channels=3, image_size=8)
SEEDS = (3, 4, 5)


class Residual(nn.Module):
    """Two residual blocks with batch norm, the second narrower by a stride."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        )
        self.first, self.second = (
            nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images).relu()
        maps = maps + self.first(maps)
        maps = nn.functional.max_pool2d(maps, 2)
        maps = maps + self.second(maps)
        logits: torch.Tensor = self.head(maps.mean((2, 3)))
        return logits


def residual(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Residual(COLOUR.classes, COLOUR.channels)


def small(seed: int) -> nn.Module:
    return architectures.build(settings.Model(), COLOUR, seed)


def records(precision: str = "float32", count: int = 40) -> training_loop.Records:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 80, (count, 3, 8, 8)).astype(np.uint8)
    images[np.arange(count), :, labels * 2 + 1] = 255
    backend = compute.prepare(
        settings.Compute.model_validate({"device": "cpu", "precision": precision})
    )
    return training_loop.Records(images, labels, settings.Model(), backend)


@pytest.mark.parametrize("make", [small, residual])
@pytest.mark.parametrize(
    "recipe",
    [RECIPE, RECIPE.model_copy(update={"shift": 1, "flip": True})],
    ids=["plain", "augmented"],
)
def test_trained_at_once_each_model_is_what_it_is_alone(
    make: Callable[[int], nn.Module], recipe: settings.Train
) -> None:
    known = records()
    alone, at_once = ([make(seed) for seed in SEEDS] for _ in range(2))
    for network, seed in zip(alone, SEEDS, strict=True):
        training_loop.fit(network, known, recipe, seed)
    stacked.fit(at_once, known, recipe, SEEDS)
    for one, other in zip(alone, at_once, strict=True):
        assert not other.training
        torch.testing.assert_close(
            dict(other.state_dict()), dict(one.state_dict()), rtol=1e-3, atol=1e-4
        )
    assert not torch.equal(next(at_once[0].parameters()), next(at_once[1].parameters()))


def test_a_model_does_not_depend_on_which_others_are_trained_beside_it() -> None:
    known, others = records(), [small(8), small(9)]
    pair, triple = [small(3), others[0]], [others[1], small(3), small(7)]
    stacked.fit(pair, known, RECIPE, (3, 8))
    stacked.fit(triple, known, RECIPE, (9, 3, 7))
    torch.testing.assert_close(
        dict(pair[0].state_dict()), dict(triple[1].state_dict()), rtol=1e-3, atol=1e-4
    )


def test_training_at_once_is_the_same_twice_and_does_not_touch_the_global_random_stream() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = ([small(seed) for seed in SEEDS] for _ in range(2))
    augmented = RECIPE.model_copy(update={"shift": 1})
    stacked.fit(first, records(), augmented, SEEDS)
    assert torch.equal(torch.rand(3), expected)
    stacked.fit(second, records(), augmented, SEEDS)
    for one, other in zip(first, second, strict=True):
        assert all(
            torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
        )


def test_in_half_precision_models_at_once_learn_as_well_and_their_weights_stay_whole() -> None:
    known = records("bf16")
    networks = [small(seed) for seed in SEEDS]
    stacked.fit(networks, known, RECIPE.model_copy(update={"epochs": 12}), SEEDS)
    for network in networks:
        assert all(weight.dtype == torch.float32 for weight in network.parameters())
        assert (training_loop.logits(network, known).argmax(1) == known.labels.numpy()).mean() > 0.9


def test_one_model_that_diverges_stops_them_all() -> None:
    networks = [small(seed) for seed in SEEDS]
    with torch.no_grad():
        next(networks[1].parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="learning rate"):
        stacked.fit(networks, records(), RECIPE, SEEDS)


def test_on_a_processor_models_are_trained_one_by_one_unless_asked_otherwise() -> None:
    known = records()

    def count(wish: object) -> int:
        chosen = settings.Compute.model_validate({"together": wish})
        return stacked.count(chosen, 8, lambda: small(0), known)

    assert [count(wish) for wish in ("auto", 1, 3, 100)] == [1, 1, 3, 8]


def test_a_model_that_draws_random_numbers_is_trained_alone_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 64, 3))

    assert stacked.count(settings.Compute(together=4), 8, dropping, records()) == 1
    told = capsys.readouterr()
    assert "one by one" in told.out + told.err
    assert len((told.out + told.err).strip().splitlines()) == 1


def packed(seed: int = 0) -> image_pack.Packed:
    """Forty colour images of three classes."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    labels = pd.DataFrame({"label": np.arange(40) % 3})
    return image_pack.Packed(labels, pixels, np.ones(40, bool), image_pack.checksums(pixels))


def test_a_model_that_was_finished_before_an_interruption_is_kept_and_trained_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wish = settings.Settings(
        data=COLOUR, train=RECIPE, references=settings.References(seeds_per_block=3)
    )
    rows = np.ones(40, bool)
    reference_blocks.train_block("train", 0, rows, packed(), wish, tmp_path / "whole")

    save, saved = checkpoints.save, list[Path]()

    def interrupted(network: nn.Module, path: Path, made_for: settings.Model) -> object:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        return save(network, path, made_for)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reference_blocks.train_block("train", 0, rows, packed(), wish, tmp_path / "0")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not (tmp_path / "0").exists()
    capsys.readouterr()
    reference_blocks.train_block("train", 0, rows, packed(), wish, tmp_path / "0")
    assert capsys.readouterr().out.count("kept from a run that was interrupted") == 2
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )
    for number in (0, 1, 2):
        name = f"seed-{number}.safetensors"
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_model_that_was_said_to_be_done_is_kept_whatever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wish = settings.Settings(
        data=COLOUR, train=RECIPE, references=settings.References(seeds_per_block=2)
    )

    def interrupted(text: str) -> None:
        if "(seed 0): done" in text:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage_cli, "say", interrupted)
        reference_blocks.train_block("train", 0, np.ones(40, bool), packed(), wish, Path("0"))
    reference_blocks.train_block("train", 0, np.ones(40, bool), packed(), wish, Path("0"))
    assert "(seed 0): kept from a run that was interrupted" in capsys.readouterr().out


def test_kept_models_of_other_data_or_settings_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wish = settings.Settings(
        data=COLOUR, train=RECIPE, references=settings.References(seeds_per_block=1)
    )
    rows = np.ones(40, bool)
    reference_blocks.train_block("train", 0, rows, packed(1), wish, tmp_path / "expected")
    kept = tmp_path / ".0-kept"
    kept.mkdir()
    (kept / reference_blocks.RECIPE).write_text("another")
    (kept / "seed-0.safetensors").write_bytes(b"another model")
    (kept / "seed-0.json").write_text("{}")
    reference_blocks.train_block("train", 0, rows, packed(1), wish, tmp_path / "0")
    assert (tmp_path / "0" / "seed-0.safetensors").read_bytes() == (
        tmp_path / "expected" / "seed-0.safetensors"
    ).read_bytes()


def test_a_block_trained_at_once_has_the_models_of_one_trained_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.ones(40, bool)
    plain = settings.Settings(
        data=COLOUR, train=RECIPE, references=settings.References(seeds_per_block=3)
    )
    for together_wish in (1, 2):
        compute_wish = settings.Compute(together=together_wish, precision="float32")
        wish = plain.model_copy(update={"compute": compute_wish})
        reference_blocks.train_block(
            "train", 1, rows, packed(), wish, tmp_path / str(together_wish)
        )
    for number in (3, 4, 5):
        one, other = (
            checkpoints.load(
                tmp_path / folder / f"seed-{number}.safetensors", plain.model, plain.data
            )
            for folder in ("1", "2")
        )
        torch.testing.assert_close(
            dict(other.state_dict()), dict(one.state_dict()), rtol=1e-3, atol=1e-4
        )
    counts = [
        files.read_json(tmp_path / "2" / f"seed-{number}.json").get("together")
        for number in (3, 4, 5)
    ]
    assert counts == [2, 2, None]  # what was done stands with each model: the last one was alone


def test_each_model_can_learn_from_records_of_its_own() -> None:
    known = records()
    own = [torch.arange(0, 32), torch.arange(8, 40), torch.arange(40)[torch.arange(40) % 5 != 0]]
    at_once = [small(seed) for seed in SEEDS]
    stacked.fit(at_once, known, RECIPE, SEEDS, rows=own)
    for seed, rows, network in zip(SEEDS, own, at_once, strict=True):
        alone = small(seed)
        training_loop.fit(alone, known.rows(rows), RECIPE, seed)
        for one, other in zip(
            alone.state_dict().values(), network.state_dict().values(), strict=True
        ):
            assert torch.allclose(one, other, atol=1e-4)


def test_models_of_different_lengths_are_not_trained_in_one_step() -> None:
    with pytest.raises(EvidenceError, match="of 2, 4 steps"):
        stacked.fit(
            [small(3), small(4)],
            records(),
            RECIPE,
            (3, 4),
            rows=[torch.arange(40), torch.arange(20)],
        )


@pytest.mark.parametrize(
    ("network", "shares"),
    [
        (small(0), True),
        (residual(0), False),
        (nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.Flatten(), nn.LazyLinear(3)), False),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(216, 3)), False),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)), False),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)), True),
    ],
)
def test_only_plain_chains_of_layers_share_their_channels(network: nn.Module, shares: bool) -> None:
    assert stacked.in_channels(network, records().backend) == shares


def test_models_of_a_pool_are_trained_several_at_once_where_they_share_channels() -> None:
    backend = records().backend
    assert stacked.count_of_pool(settings.Compute(), small(0), backend) == stacked.IN_CHANNELS
    assert stacked.count_of_pool(settings.Compute(together=2), small(0), backend) == 2
    assert stacked.count_of_pool(settings.Compute(), residual(0), backend) == 1
