"""The lineage of the model and the references that a release passes to the next batch.

Models retrained for one batch have seen everybody who remains. So they can be the next batch's
references trained with everybody, and only the references without its forget set have to be
trained. This requires that they were trained on exactly the records and by exactly the recipe of
this batch's models; their lineage is compared before they are used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.settings import Method, Settings
from tasks.training.history import FROM_SCRATCH, History

if TYPE_CHECKING:
    import pandas as pd

LINEAGE = "lineage.json"
MODEL = "model.safetensors"
"""A released model, in its folder."""
SCHEMA_VERSION = 3


def training_set(manifest: pd.DataFrame, rows: NDArray[np.bool_]) -> str:
    """SHA-256 of a training set: the hashes and labels of its records, whatever their order.

    Args:
        manifest: n records.
        rows: (n,) which of them.
    """
    chosen = manifest.loc[rows, ["sha256", "label"]]
    lines = sorted(
        f"{sha256} {label}" for sha256, label in zip(chosen["sha256"], chosen["label"], strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def recipe(settings: Settings) -> dict[str, Any]:
    """Everything that determines a training, except for the records and the seed."""
    return {
        "data": settings.data.model_dump(mode="json"),
        "model": settings.model.model_dump(mode="json"),
        "train": settings.train.model_dump(mode="json"),
        "precision": settings.compute.precision,
    }


def write_references(
    folder: Path, batch: str, commit: str, trained_on: str, settings: Settings, names: list[str]
) -> None:
    """Write the lineage of the references in a folder.

    Args:
        folder: holds `<name>.safetensors` for each name.
        batch: the batch that they were trained for.
        commit: of its tag.
        trained_on: `training_set` of the records that they saw.
        settings: of that batch.
        names: the references.
    """
    files.write_json(
        folder / LINEAGE,
        {
            "schema_version": SCHEMA_VERSION,
            "batch": batch,
            "commit": commit,
            "training_set_sha256": trained_on,
            "recipe": recipe(settings),
            "models": [
                {"name": name, "weights_sha256": files.sha256(folder / f"{name}.safetensors")}
                for name in names
            ],
        },
    )


def write_release(
    folder: Path,
    batch: str,
    commit: str,
    kind: str,
    settings: Settings,
    history: History,
    retained: str,
    chain: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write the lineage of a released model, back to the first known training.

    Args:
        folder: holds `model.safetensors`.
        batch: that released it.
        commit: of the audit's tag.
        kind: unlearned, or retrained.
        settings: of the batch.
        history: of the model.
        retained: `training_set` of the retained records.
        chain: of the model that the batch started from, as `chain_of` returns it.

    Returns:
        What was written.
    """
    weights = files.sha256(folder / MODEL)
    method = settings.unlearn.method if kind == "unlearned" else "retrain"
    came_from = (
        chain[-1]["weights_sha256"] if kind == "unlearned" and method not in FROM_SCRATCH else None
    )
    content = {
        "batch": batch,
        "commit": commit,
        "method": method,
        "weights_sha256": weights,
        "made_from": came_from,
    }
    lineage = {
        "schema_version": SCHEMA_VERSION,
        "batch": batch,
        "commit": commit,
        "recipe": recipe(settings),
        "model": {
            "kind": kind,
            "method": method,
            "weights_sha256": weights,
            "history": asdict(history),
        },
        "retained_set_sha256": retained,
        "chain": [*chain, content],
    }
    files.write_json(folder / LINEAGE, lineage)
    return lineage


def chain_of(original: Path, weights_sha256: str, trained: bool) -> list[dict[str, Any]]:
    """The chain of models behind the one that a batch starts from: from its release's lineage, else
    a chain that begins here.

    Args:
        original: the model's file; only its folder is read.
        weights_sha256: its hash, as the audit has it.
        trained: whether the pipeline trained it; else it is the user's own.
    """
    lineage_file = original.parent / LINEAGE
    chain: list[dict[str, Any]] = (
        (files.read_json(lineage_file).get("chain") or []) if lineage_file.is_file() else []
    )
    if chain and chain[-1]["weights_sha256"] == weights_sha256:
        return chain
    method = "train" if trained else None
    return [
        {
            "batch": None,
            "commit": None,
            "method": method,
            "weights_sha256": weights_sha256,
            "made_from": None,
        }
    ]


def references(
    folder: Path, manifest: pd.DataFrame, rows: NDArray[np.bool_], settings: Settings
) -> list[Path]:
    """The references that an earlier batch left in a folder, if they fit this one.

    Args:
        folder: as `write_references` left it.
        manifest: n records of this batch.
        rows: (n,) all training records of this batch, its forget set included.
        settings: of this batch.

    Returns:
        Their files.

    Raises:
        EvidenceError: they were trained on other records or by another recipe, or a file is missing
            or altered.
    """
    lineage = files.read_json(folder / LINEAGE)
    owner = f"references of batch {lineage.get('batch')!r}"
    advice = "train new ones: references.with_from=artifacts/train, references.with_blocks=[0, 1]"
    if lineage.get("training_set_sha256") != training_set(manifest, rows):
        raise EvidenceError(
            f"the {owner} were not trained on the current training records; {advice}"
        )
    expected = json.loads(json.dumps(recipe(settings)))
    if lineage.get("recipe") != expected:
        differs = ", ".join(
            key for key in expected if lineage.get("recipe", {}).get(key) != expected[key]
        )
        raise EvidenceError(
            f"the {owner} were trained by another recipe ({differs} differ); {advice}"
        )
    paths = []
    for model in lineage["models"]:
        path = folder / f"{model['name']}.safetensors"
        if not path.is_file() or files.sha256(path) != model["weights_sha256"]:
            raise EvidenceError(
                f"{path} is missing or not what its lineage says; restore it with `dvc checkout`"
            )
        paths.append(path)
    return paths


def history(original: Path, trained: int) -> History:
    """The history of the model that a batch starts from: from its release's lineage, else freshly
    trained.

    Args:
        original: the model.
        trained: training records of this batch.

    Raises:
        EvidenceError: the lineage beside it is of another model, or has no history.
    """
    if not (original.parent / LINEAGE).is_file():
        return History(0, 0, trained)
    lineage = files.read_json(original.parent / LINEAGE)
    filed = (
        lineage.get("model") or lineage.get("original") or {}
    )  # `original` until schema version 2
    if filed.get("weights_sha256") != files.sha256(original):
        raise EvidenceError(
            f"{original} is not the model that {LINEAGE} beside it tells the history of; restore "
            "both with `dvc checkout`, or put a model of your own into a folder of its own"
        )
    return _history(filed.get("history"), str(original.parent / LINEAGE))


def released(lineage: Mapping[str, Any], method: Method) -> History:
    """The history of the model that an audit made from its original.

    Args:
        lineage: `lineage.json` of the stage `score`.
        method: `unlearn.method` of the audit.

    Raises:
        EvidenceError: the lineage lacks it.
    """
    try:
        forgotten, retained = (int(lineage["batch"][key]) for key in ("forgotten", "retained"))
    except (KeyError, TypeError, ValueError):
        raise EvidenceError(
            "lineage.json says nothing of the batch's records; run the stage score again"
        ) from None
    return _history(lineage.get("history"), "lineage.json").after(method, forgotten, retained)


def _history(filed: Any, where: str) -> History:
    try:
        return History(**{key: int(value) for key, value in filed.items()})
    except (AttributeError, TypeError, ValueError):
        raise EvidenceError(
            f"{where} says nothing of how often the model was unlearned; run the audit that made "
            "it again"
        ) from None
