"""A plan says what a run will take and whether it can decide, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.pipeline import forecast
from flows.workspace import shell
from tasks import pack
from tasks.common import files, settings
from tasks.data import records
from tasks.training import architectures, checkpoints, compute, training_loop
from tests.worlds import dummy

EARLIER = [(10, 1.0, False), (12, 1.2, False), (40, 4.0, True), (45, 5.0, True), (50, 6.0, True)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy.make(tmp_path_factory.mktemp("plan") / "workspace")


def test_models_stages_time_memory_and_disk_are_named_and_nothing_changes(home: Path) -> None:
    before = shell.git(home, "status", "--porcelain", "--ignored")
    found = forecast.make(home, jobs=2)
    assert found.stages == dummy.STAGES
    assert found.models_to_train == {"train": 16}
    assert found.step_seconds is not None
    assert found.step_seconds > 0
    assert min(found.memory_mb, found.disk_mb, found.free_mb) > 0
    assert found.jobs == 2
    assert "data/ cannot be read" in found.problems[0]  # the dummy manifest has no images
    assert "16 models to train" in found.brief[0]
    assert json.dumps(found.plain())
    assert shell.git(home, "status", "--porcelain", "--ignored") == before


def test_another_batch_needs_its_own_stages(home: Path) -> None:
    assert forecast.make(home, "second").batch == "second"
    assert settings.load(home / "params.yaml").batch == "demo"


def test_a_checkpoint_that_is_missing_is_a_problem(tmp_path: Path, home: Path) -> None:
    other = dummy.copy(home, tmp_path / "workspace")
    settings.assign(other / "params.yaml", ["original.checkpoint=models/mine.safetensors"])
    found = forecast.make(other)
    assert found.model.state == "unusable"
    assert "models/mine.safetensors" in found.problems[0]


def test_too_few_references_are_a_problem_before_they_are_trained(
    tmp_path: Path, home: Path
) -> None:
    other = dummy.copy(home, tmp_path / "workspace")
    settings.assign(
        other / "params.yaml", ["references.seeds_per_block=2", "references.without_blocks=[0]"]
    )
    found = forecast.make(other)
    assert any("1 references without the records, expected at least 6" in p for p in found.problems)
    assert {request.decides for request in found.requests} == {"no"}


def test_the_exact_retrain_of_a_batch_that_a_pool_judges_is_counted(
    tmp_path: Path, home: Path
) -> None:
    other = dummy.copy(home, tmp_path / "workspace")
    pool = ["references.mode=pool", "references.with_from=references/pool"]
    without = ["references.with_blocks=[0]", "references.without_blocks=[]"]
    path = other / "params.yaml"
    settings.assign(path, [*pool, *without, "references.seeds_per_block=1"])
    assert forecast.make(other).models_to_train == {"train": 1}
    settings.assign(path, ["pool.retrain=always"])
    planned = forecast.make(other)
    assert planned.models_to_train == {"train": 1, "retrain": 1}
    assert "retrain@0" in planned.stages
    assert settings.load(path).references.without_blocks == ()


@pytest.mark.parametrize(
    ("records", "earlier", "decides"),
    [(44, EARLIER, "likely"), (11, EARLIER[:3], "unlikely"), (11, [], "unknown"), (0, [], "no")],
)
def test_earlier_requests_of_about_as_many_records_say_what_to_expect(
    records: int, earlier: list[tuple[int, float, bool]], decides: str
) -> None:
    found = forecast.expected("r", records, earlier)
    assert found.decides == decides
    assert (found.detectability is None) == (decides in ("unknown", "no"))


def grey_levels(home: Path) -> settings.Settings:
    """Put images of three classes, told apart by their brightness, and a model that knows them."""
    chosen = ["data.classes=3", "data.image_size=8", "original.checkpoint=mine.safetensors"]
    given = settings.assign(home / "params.yaml", chosen)
    random, data = np.random.default_rng(0), home / "data"
    lines, split, pictures = [",".join(records.COLUMNS)], ["record_id,role"], []
    for number in range(60):
        picture = (random.integers(0, 60, (8, 8)) + 80 * (number % 3)).astype(np.uint8)
        pictures.append(picture)
        Image.fromarray(picture).save(data / f"{number}.png")
        digest = files.sha256(data / f"{number}.png")
        lines.append(f"r{number},s{number},{number % 3},{number}.png,{digest}")
        split.append(f"r{number},{'training' if number < 40 else 'control'}")
    files.write_text(data / "manifest.csv", "\n".join(lines) + "\n")
    files.write_text(home / "artifacts" / "split.csv", "\n".join(split) + "\n")
    pack.make(data, given.data, home / "artifacts" / "pack")
    known = training_loop.Records(
        np.stack(pictures)[:40, None],
        np.arange(40) % 3,
        given.model,
        compute.prepare(given.compute),
    )
    network = architectures.build(given.model, given.data, 0)
    recipe = given.train.model_copy(update={"epochs": 20, "batch_size": 8})
    training_loop.fit(network, known, recipe, 0)
    checkpoints.save(network, home / "mine.safetensors")
    return given


def test_a_model_is_judged_before_the_run_as_the_stages_will_judge_it(
    tmp_path: Path, home: Path
) -> None:
    other = dummy.copy(home, tmp_path / "workspace")
    given = grey_levels(other)
    found = forecast.make(other).model
    assert found.state == "sound"
    assert found.accuracy == 1.0
    settings.assign(other / "params.yaml", ["original.accuracy=1.0"])
    assert forecast.make(other).model.state == "sound"
    settings.assign(
        other / "params.yaml", ["original.accuracy=null", "model.mean=0", "model.std=1"]
    )
    misread = forecast.make(other).model
    assert misread.state == "unusable"
    assert "with model.mean=0.5 and model.std=0.5" in misread.note
    settings.assign(other / "params.yaml", ["model.mean=0.5", "model.std=0.5"])
    network = checkpoints.load(other / "mine.safetensors", given.model, given.data)
    with torch.no_grad():
        list(network.parameters())[-1].add_(torch.tensor([100.0, 0, 0]))  # names one class alone
    checkpoints.save(network, other / "mine.safetensors")
    found = forecast.make(other).model
    assert found.state == "unusable"
    assert "no better than naming the commonest class" in found.note
