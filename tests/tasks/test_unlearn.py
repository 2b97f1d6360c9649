"""The stage `unlearn` on input that it cannot work with: an error by name, and nothing released."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tasks import unlearn
from tasks.common import files, settings
from tasks.common.errors import AuditError, DataError, EvidenceError, ModelError
from tasks.training import architectures, checkpoints
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry
from tasks.unlearning.rivals.shared import RivalInput
from tests.worlds import packing

RETAINED, ASKED = 24, 4
CHOSEN = settings.Settings(
    data=settings.Data(classes=3, channels=1, image_size=8),
    train=settings.Train(epochs=2, batch_size=8),
)
SHORT: dict[str, Any] = {
    "method": "fcalb",
    "batch_size": 8,
    "rivals": {"epochs": 1, "unsir_noise_steps": 2},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace: `RETAINED` training records and `ASKED` to forget, of classes in turn; earlier
    output is there."""
    monkeypatch.chdir(tmp_path)  # the ledger is beside the workspace's files
    write_data(tmp_path, [number % 3 for number in range(RETAINED + ASKED)])
    write_forget(tmp_path, range(RETAINED, RETAINED + ASKED))
    checkpoints.save(
        architectures.build(CHOSEN.model, CHOSEN.data, 0), tmp_path / "original.safetensors"
    )
    for name in ("unlearned.safetensors", "unlearned.json", "trace.csv"):
        files.write_text(tmp_path / "out" / name, "of an earlier run")
    return tmp_path


def write_data(folder: Path, labels: list[int], roles: list[str] | None = None) -> None:
    rng = np.random.default_rng(0)
    lines, split = ["record_id,subject_id,label,path,sha256"], ["record_id,role"]
    (folder / "data").mkdir(exist_ok=True)
    for number, label in enumerate(labels):
        path = folder / "data" / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"r{number},s{number},{label},{path.name},{digest}")
        split.append(f"r{number},{roles[number] if roles else 'training'}")
    files.write_text(folder / "data" / "manifest.csv", "\n".join(lines) + "\n")
    files.write_text(folder / "split.csv", "\n".join(split) + "\n")


def write_forget(folder: Path, numbers: range) -> None:
    lines = ["record_id,request_id", *(f"r{number},request" for number in numbers)]
    files.write_text(folder / "forget.csv", "\n".join(lines) + "\n")


def run(folder: Path, config: settings.Settings = CHOSEN, **configured: Any) -> None:
    asked = settings.Unlearn.model_validate({**SHORT, **configured})
    config = config.model_copy(update={"unlearn": asked})
    files.write_text(
        folder / "params.yaml", json.dumps(config.model_dump(mode="json"))
    )  # JSON is YAML
    packing.pack_for(folder, config.data)
    unlearn.main(
        *(
            folder / name
            for name in (
                "original.safetensors",
                "data",
                "pack",
                "split.csv",
                "forget.csv",
                "params.yaml",
                "out",
            )
        )
    )


def refused(
    folder: Path,
    error: type[AuditError],
    words: str,
    config: settings.Settings = CHOSEN,
    **configured: Any,
) -> None:
    """The stage raises the error; no file is written, and what was there is as it was."""
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*")}
    with pytest.raises(error, match=words):
        run(folder, config, **configured)
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*")} == before
    assert not (folder / "ledger").exists()


def released(folder: Path) -> dict[str, torch.Tensor]:
    """The weights written, all of them finite and with their papers."""
    path = folder / "out" / "unlearned.safetensors"
    assert files.read_json(path.with_suffix(".json"))["weights_sha256"] == files.sha256(path)
    return dict(checkpoints.load(path, CHOSEN.model, CHOSEN.data).state_dict())


METHODS = [method for method in get_args(settings.Method) if method != "none"]
BLOWN_UP = CHOSEN.model_copy(
    update={"train": settings.Train(epochs=2, batch_size=8, weight_decay=0.99)}
)
"""With a learning rate of 10 each step multiplies the weights by about -9, in any arithmetic."""
DIVERGING: dict[str, Any] = {
    "fcalb_reset": {"rivals": {"learning_rate": 10, "epochs": 60}},
    "fcalb": {"rivals": {"learning_rate": 10, "epochs": 60}},
    "fcalb_plain": {"learning_rate": 10, "epochs": 60},
    "neg_grad": {"rivals": {"learning_rate": 10, "epochs": 60}},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_single_record_is_forgotten_by_every_method(method: str, folder: Path) -> None:
    write_forget(folder, range(1))
    run(folder, method=method)
    assert released(folder)


@pytest.mark.parametrize("method", [*fcalb.METHODS, *registry.METHODS])
def test_more_records_to_forget_than_are_retained_are_refused(method: str, folder: Path) -> None:
    write_forget(folder, range(RETAINED))
    refused(
        folder,
        EvidenceError,
        "got 24 records to forget and 4 to retain.*retrain instead",
        method=method,
    )


def test_what_methods_refuse_a_retrain_can_do(folder: Path) -> None:
    write_forget(folder, range(RETAINED))
    run(folder, method="retrain")
    assert released(folder)


@pytest.mark.parametrize("method", [*METHODS, "none"])
def test_without_retained_records_nothing_is_released(method: str, folder: Path) -> None:
    write_forget(folder, range(RETAINED + ASKED))
    refused(folder, EvidenceError, "no training record is retained", method=method)


def test_without_records_to_forget_nothing_is_released(folder: Path) -> None:
    write_forget(folder, range(0))
    refused(folder, EvidenceError, "names no record", method="fcalb")


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_only_the_forget_set_holds_crashes_no_method_and_is_warned_of(
    method: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(folder, [number % 2 for number in range(RETAINED)] + [2] * ASKED)
    run(folder, method=method)
    assert released(folder)
    assert "warning: no retained record is of class 2:" in capsys.readouterr().out


def test_where_every_class_is_retained_nobody_is_warned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, method="fcalb")
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("method", DIVERGING)
def test_a_diverging_loss_stops_the_stage_and_names_the_setting(method: str, folder: Path) -> None:
    key = "unlearn.learning_rate" if method == "fcalb_plain" else "unlearn.rivals.learning_rate"
    words = (
        r"(the loss became|NaN or infinite).*nothing is released.*lower the learning "
        rf"rate.*{re.escape(key)}"
    )
    refused(folder, ModelError, words, BLOWN_UP, method=method, **DIVERGING[method])


def test_a_diverging_phase_names_its_own_rate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tasks.unlearning.fcalb.distance", lambda *_: torch.tensor(float("nan"), requires_grad=True)
    )
    refused(
        folder,
        ModelError,
        r"lower the learning rate \(unlearn\.forget_rate",
        method="fcalb_plain",
        phases="forget_recover",
    )


def test_a_model_whose_last_step_made_its_answers_infinite_is_not_released(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(inputs: RivalInput) -> torch.nn.Module:
        with torch.no_grad():
            for weight in inputs.original.parameters():
                weight.fill_(1e30)
        return inputs.original

    monkeypatch.setitem(registry.METHODS, "scrub", explode)
    refused(
        folder, ModelError, r"answers became NaN.*unlearn\.rivals\.learning_rate", method="scrub"
    )


@pytest.mark.parametrize("method", ["fcalb", "retrain", "scrub"])
def test_a_label_beyond_the_classes_is_refused_by_all(method: str, folder: Path) -> None:
    for label, words in ((3, "got label 3, expected 0 to 2"), (-1, "label")):
        write_data(folder, [label] * 2 + [number % 3 for number in range(2, RETAINED + ASKED)])
        refused(folder, DataError, words, method=method)


def test_an_original_that_is_broken_or_of_another_architecture_is_refused(folder: Path) -> None:
    state = architectures.build(CHOSEN.model, CHOSEN.data, 0).state_dict()
    path = folder / "original.safetensors"
    save_file(
        {**state, "0.0.weight": torch.full_like(state["0.0.weight"], float("nan"))}, str(path)
    )
    refused(folder, ModelError, "NaN or infinite values in 1 of")
    path.write_bytes(path.read_bytes()[:-50])
    refused(folder, ModelError, "no safetensors file")
    checkpoints.save(torch.nn.Sequential(torch.nn.Conv2d(1, 3, 8), torch.nn.Flatten()), path)
    refused(folder, ModelError, "not a checkpoint of small_cnn")
