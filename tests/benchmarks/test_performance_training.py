"""The benchmarks of training and unlearning run; how long anything takes is no test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import resnet9, side_by_side, trainers, training, unlearning, worlds
from benchmarks.trainers import Done, Job
from tasks.common import files, settings
from tasks.training import architectures

SMALL = {"epochs": 2, "records": 256, "rounds": 1}
MARKS = ("training", "side by side", "unlearning")


class Here(trainers.Crew):
    """No processes: jobs are done one after the other."""

    def __init__(self, count: int) -> None:
        self.count = count

    def do(self, jobs: Sequence[Job]) -> list[Done]:
        return [trainers.train(replace(job, workers=0)) for job in jobs]

    def rate(self, count: int, threads: int, bf16: bool, device: str = "cpu") -> float:
        return 1e9

    def close(self) -> None:
        pass


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(
        "".join(f"<!-- {mark} -->\n<!-- end of {mark} -->\n" for mark in MARKS), encoding="utf-8"
    )
    return path


def test_both_loops_learn_the_same_task() -> None:
    ours, public = (
        trainers.train(Job("digits", (1,), loop=loop, epochs=6)) for loop in ("ours", "public")
    )
    assert min(*ours.accuracies, *public.accuracies) > 0.7
    assert min(ours.seconds, ours.cpu, public.seconds, public.cpu) > 0


def test_the_public_loop_prepares_the_pixels_that_ours_does() -> None:
    world = worlds.load("digits")
    pictures = trainers.Pictures(world.images[:4], world.labels[:4], world.settings)
    expected = (world.images[:4] / 255 - world.settings.model.mean) / world.settings.model.std
    for number in range(4):
        image, label = pictures[number]
        np.testing.assert_allclose(image.numpy(), expected[number], atol=1e-6)
        assert label == world.labels[number]


def test_the_operations_of_a_training_are_those_of_its_convolutions_and_products() -> None:
    job = Job("digits", (), epochs=1, records=64)
    side, sizes = 16, [(1, 16, 16), (16, 32, 8), (32, 64, 4)]  # inputs, outputs, side of the map
    assert worlds.load("digits").images.shape[-1] == side
    forward = (
        sum(2 * 9 * inputs * outputs * of * of for inputs, outputs, of in sizes) + 2 * 256 * 10
    )
    first = 2 * 9 * 1 * 16 * side * side  # pixels need no gradient
    assert trainers.operations(job) == pytest.approx(64 * (3 * forward - first))


def test_the_training_table_has_a_row_for_each_world_measured(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Crew", Here)
    training.main(["digits"], models=4, cores=1, bf16=True, out=tmp_path, page=page, **SMALL)
    row = files.read_json(tmp_path / "training.json")["worlds"]["digits"]
    assert row["float32"]["times_as_fast"]["runs"] == 1
    assert row["models"] == row["bf16, 4 at once"]["accuracy"]["models"] == 4
    assert "| digits, float32: 256 records, 2 epochs |" in page.read_text(encoding="utf-8")


def test_the_difference_of_two_ways_has_an_interval_that_holds_it() -> None:
    middle, low, high = training.difference([0.9, 0.91, 0.92], [0.9, 0.91, 0.92, 0.91])
    assert low < middle < high
    assert middle == pytest.approx(0.0, abs=1e-9)


def test_models_side_by_side_are_timed_in_each_way(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "Crew", Here)
    side_by_side.main(models=2, cores=1, out=tmp_path, page=page, **SMALL)  # type: ignore[arg-type]
    (row,) = files.read_json(tmp_path / "side-by-side.json")["rows"].values()
    assert row["against_first"]["1 processes of one thread"]["median"] == 1
    assert set(side_by_side.ways(Job("digits", (0, 1)), 2, [2])) == {
        "2 processes of one thread",
        "one process, 2 threads, one after the other",
        "2 stacked in one process",
    }
    assert set(side_by_side.ways(Job("digits", (0, 1), device="cuda"), 2, [2])) == {
        "one after the other",
        "2 stacked in one process",
    }


def test_unlearning_and_retraining_are_whole_stages(page: Path, tmp_path: Path) -> None:
    unlearning.main(["digits"], rounds=1, epochs=3, out=tmp_path, page=page)
    row = files.read_json(tmp_path / "unlearning.json")["worlds"]["digits, 3 epochs"]
    assert row["none"]["compute"]["median"] == 0
    assert row["retrain"]["cpu"]["median"] > row["retrain"]["compute"]["median"] > 0
    assert "| digits: 3 epochs |" in page.read_text(encoding="utf-8")


def test_resnet9_is_a_model_that_can_be_named() -> None:
    data = settings.Data(classes=10, channels=3, image_size=32)
    network = architectures.build(settings.Model(name="benchmarks.resnet9:build"), data, 0)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(6.6e6, rel=0.02)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert type(resnet9.build(10, 3, 32)) is type(network)
