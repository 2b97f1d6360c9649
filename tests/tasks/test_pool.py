"""The stage `pool`, and an audit that trains no reference: from images to verdicts."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import pool, score, verify
from tasks.common import files, settings
from tasks.common.errors import EvidenceError, ModelError, SettingsError
from tasks.pooling import table
from tasks.training import architectures, checkpoints, compute, training_loop
from tasks.verification.scoring import Scores
from tests.worlds import packing

PEOPLE, OWN, CLASSES = 14, 6, 3
BLOCKS = 6
GIVEN: dict[str, Any] = {
    "data": {"classes": CLASSES, "channels": 1, "image_size": 8},
    "train": {"epochs": 1, "batch_size": 32},
    "pool": {"folds": 3, "with_everybody": 1},
    "references": {
        "mode": "pool",
        "with_from": "references/pool",
        "with_blocks": [],
        "without_blocks": [],
    },
    "original": {"checkpoint": "mine/original.safetensors"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a pool of 18 + 6 models; the last four people are controls."""
    home = tmp_path_factory.mktemp("pool")
    random = np.random.default_rng(0)
    pictures: list[np.ndarray] = []
    lines, split = ["record_id,subject_id,label,path,sha256"], ["record_id,role"]
    (home / "data").mkdir()
    for number in range(PEOPLE * OWN):
        label, person = number % CLASSES, number // OWN
        picture = random.integers(0, 80, (8, 8)) + 60 * label
        pictures.append(picture.astype(np.uint8))
        path = home / "data" / f"{number}.png"
        Image.fromarray(pictures[-1]).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"r{number},s{person},{label},{path.name},{digest}")
        split.append(f"r{number},{'training' if person < PEOPLE - 4 else 'control'}")
    files.write_text(home / "data" / "manifest.csv", "\n".join(lines) + "\n")
    files.write_text(home / "split.csv", "\n".join(split) + "\n")
    forget = ["record_id,request_id", *(f"r{number},request" for number in range(OWN))]
    files.write_text(home / "forget.csv", "\n".join(forget) + "\n")
    chosen = settings.parse(GIVEN)
    files.write_text(home / "params.yaml", json.dumps(chosen.model_dump(mode="json")))
    packing.pack_for(home, chosen.data)
    trained = (PEOPLE - 4) * OWN
    records = training_loop.Records(
        np.stack(pictures)[:trained, None],
        np.arange(trained) % CLASSES,
        chosen.model,
        compute.prepare(chosen.compute),
    )
    for name, seed in (("original", 0), ("unlearned", 1)):
        network = architectures.build(chosen.model, chosen.data, seed)
        training_loop.fit(network, records, chosen.train.model_copy(update={"epochs": 20}), seed)
        checkpoints.save(network, home / "mine" / f"{name}.safetensors")
    (home / "retrained").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)  # the ledger is beside the workspace's files
        for block in range(BLOCKS):
            made(home, block)
        table.merge([home / "blocks" / str(n) for n in range(BLOCKS)], home / "references/pool")
    return home


def made(home: Path, block: int, out: str = "blocks") -> Path:
    target = home / out / str(block)
    pool.main(
        block,
        home / "data",
        home / "pack",
        home / "split.csv",
        home / "params.yaml",
        target,
    )
    return target


def scored(home: Path, params: Path, out: Path) -> None:
    score.main(
        home / "mine" / "original.safetensors",
        home / "references" / "pool",
        home / "mine" / "unlearned.safetensors",
        home / "retrained",
        home / "data",
        home / "pack",
        home / "split.csv",
        home / "forget.csv",
        params,
        out,
    )


def test_a_block_leaves_scores_and_no_weights(home: Path) -> None:
    assert sorted(path.name for path in (home / "blocks" / "0").iterdir()) == [
        "lineage.json",
        "scores.npz",
    ]
    assert not list((home / "blocks").rglob("*.safetensors"))


def test_every_training_subject_is_left_out_once_in_a_block_and_controls_are_never_in(
    home: Path,
) -> None:
    one, lineage = table.load(home / "blocks" / "0")
    assert one.folds.tolist() == [0, 1, 2, -1]
    seen = one.seen.reshape(4, PEOPLE, OWN).any(axis=2)
    assert (~seen[:3, :-4]).sum(axis=0).tolist() == [1] * (PEOPLE - 4)
    assert seen[3, :-4].all()
    assert not seen[:, -4:].any()
    assert [model["records"] for model in lineage["models"]] == one.seen.sum(axis=1).tolist()
    assert all(0 <= model["unseen_accuracy"] <= 1 for model in lineage["models"])


def test_the_same_block_has_the_same_scores(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = table.load(home / "blocks" / "1"), table.load(made(home, 1, "again"))
    assert np.array_equal(first[0].phi, second[0].phi)


def test_an_audit_by_a_pool_trains_no_reference_and_says_what_judged_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scored(home, home / "params.yaml", tmp_path / "score")
    verify.main(tmp_path / "score" / "scores.npz", home / "params.yaml", tmp_path / "verify")
    verdict = files.read_json(tmp_path / "verify" / "verdicts.json")["requests"]["request"]
    # one epoch remembers nobody, so nothing can be passed
    assert verdict["verdict"] != "pass"
    assert verdict["references"] == {"with": 18, "without": 6}
    assert len(verdict["gates"]) == 5
    lineage = files.read_json(tmp_path / "score" / "lineage.json")
    assert lineage["pool"]["models"] == 24
    assert [model["role"] for model in lineage["models"]] == ["original", "unlearned"]


def test_no_pool_is_trained_for_an_original_that_is_misread(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are those of the fixture's original, with the classes in another order."""
    monkeypatch.chdir(tmp_path)
    chosen = settings.parse(GIVEN)
    network = checkpoints.load(home / "mine" / "original.safetensors", chosen.model, chosen.data)
    state = network.state_dict()
    last = [name for name in state if name.endswith("weight")][-1].removesuffix("weight")
    for name in ("weight", "bias"):
        state[last + name].copy_(state[last + name].roll(1, 0).clone())
    checkpoints.save(network, tmp_path / "mine" / "original.safetensors")
    with pytest.raises(ModelError, match="the order of classes"):
        made(home, 0, str(tmp_path / "blocks"))
    assert not (tmp_path / "blocks").exists()


def test_a_pool_of_another_recipe_judges_nobody(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = settings.parse({**GIVEN, "train": {"epochs": 2, "batch_size": 32}})
    params = tmp_path / "params.yaml"
    files.write_text(params, json.dumps(other.model_dump(mode="json")))
    with pytest.raises(EvidenceError, match="another recipe"):
        scored(home, params, tmp_path / "score")
    assert not (tmp_path / "score").exists()


def test_a_hybrid_audit_takes_retrains_of_the_batch_beside_the_pool(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    references = {
        **GIVEN["references"],
        "mode": "hybrid",
        "without_blocks": [0],
        "seeds_per_block": 3,
    }
    chosen = settings.parse({**GIVEN, "references": references})
    files.write_text(tmp_path / "params.yaml", json.dumps(chosen.model_dump(mode="json")))
    (tmp_path / "retrained" / "0").mkdir(parents=True)
    for seed in range(3):
        shutil.copy(
            home / "mine" / "unlearned.safetensors",
            tmp_path / "retrained" / "0" / f"seed-{seed}.safetensors",
        )
    score.main(
        home / "mine" / "original.safetensors",
        home / "references" / "pool",
        home / "mine" / "unlearned.safetensors",
        tmp_path / "retrained",
        home / "data",
        home / "pack",
        home / "split.csv",
        home / "forget.csv",
        tmp_path / "params.yaml",
        tmp_path / "score",
    )
    roles = Scores.load(tmp_path / "score" / "scores.npz").model_roles.tolist()
    assert roles[:5] == ["original", "unlearned", "retrained", "fresh", "fresh"]
    assert set(roles[5:]) == {"pool"}
    verify.main(tmp_path / "score" / "scores.npz", tmp_path / "params.yaml", tmp_path / "verify")
    verdict = files.read_json(tmp_path / "verify" / "verdicts.json")["requests"]["request"]
    assert "exact retrains of this batch" in json.dumps(verdict["reason"])


def test_a_hybrid_needs_two_retrains_at_least() -> None:
    references = {
        **GIVEN["references"],
        "mode": "hybrid",
        "without_blocks": [0],
        "seeds_per_block": 1,
    }
    with pytest.raises(SettingsError, match="makes 1 retrained models; expected at least 2"):
        settings.parse({**GIVEN, "references": references})


def test_a_pool_needs_its_folder_in_the_settings() -> None:
    with pytest.raises(SettingsError, match="with_from has to name the pool's folder"):
        settings.parse({**GIVEN, "references": {"mode": "pool", "without_blocks": []}})
