"""Stage `score`: score every record with every model. The last stage that reads personal data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import cost_ledger, files, stage_cli
from tasks.common import settings as settings_module
from tasks.common.errors import EvidenceError
from tasks.common.settings import Settings
from tasks.data import image_pack, records
from tasks.inspection import views
from tasks.pooling import answers, table
from tasks.training import (
    checkpoints,
    compute,
    original_check,
    release_lineage,
)
from tasks.verification import scoring

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 20
"""Most values of a column that counts as a grouping; a column with more is a kind of name."""
ACTIVITY = {
    "original": "train",
    "with": "train",
    "unlearned": "unlearn",
    "retrained": "retrain",
    "without": "retrain",
}


@dataclass(frozen=True)
class ScoredModel:
    """A model to score: its name and role in the audit, and its file."""

    name: str
    role: str
    path: Path


def main(
    original: Path,
    trained: Path,
    unlearned: Path,
    retrained: Path,
    data: Path,
    pack: Path,
    split: Path,
    forget: Path,
    params: Path,
    out: Path,
) -> None:
    """Score all records with all models, and record the models' lineage.

    Example: python -m tasks.score --original artifacts/train/0/seed-0.safetensors --trained
    artifacts/train --unlearned artifacts/unlearn/unlearned.safetensors --retrained
    artifacts/retrain --data data --pack artifacts/pack --split artifacts/split.csv --forget
    artifacts/resolve/forget.csv --params params.yaml --out artifacts/score
    """
    import pandas as pd

    settings = settings_module.load(params)
    backend = compute.prepare(settings.compute)
    packed = image_pack.read(pack, data, settings.data)
    manifest = packed.manifest
    requests = records.read_forget(forget, manifest)
    names, values = attributes(manifest, requests != "")
    labels = manifest["label"].to_numpy(np.int64)
    roles = records.read_roles(split, manifest)
    entries = models_to_score(original, trained, unlearned, retrained, settings)
    if (
        settings.references.mode == "batch"
        and settings.references.with_from != settings_module.TRAINED
    ):
        paths = release_lineage.references(trained, manifest, roles == "training", settings)
        entries += [ScoredModel(f"with-{path.stem}", "with", path) for path in paths]
    material = views.material(packed, roles, requests, settings, backend)
    network = checkpoints.load_original(original, settings)
    original_check.require(original, network, packed, roles, settings, backend)
    phi, predicted = [], []
    seen_in: dict[str, list[scoring.Floats]] = {
        name: [] for name in (settings.verify.views if material else ())
    }
    for position, entry in enumerate(entries, 1):
        if entry.role != "original":
            network = checkpoints.load(entry.path, settings.model, settings.data)
        margins, classes = answers.of_all(network, packed, settings, backend)
        phi.append(margins)
        predicted.append(classes)
        for name, scored in seen_in.items():
            scored.append(views.of_all(name, network, material, requests, roles))
        if position % 10 == 0 or position == len(entries):
            stage_cli.say(f"scored {position}/{len(entries)} models on {len(manifest)} records")
    pool = (
        table.align(trained, manifest, roles == "training", settings)
        if settings.references.mode != "batch"
        else None
    )
    is_hybrid = settings.references.mode == "hybrid"
    judging = [
        "fresh" if is_hybrid and model.role == "without" else model.role for model in entries
    ]
    scores = scoring.Scores(
        np.array([*judging, *["pool"] * (len(pool.phi) if pool else 0)]),
        np.concatenate([np.stack(phi), *([pool.phi] if pool else [])]),
        np.concatenate([np.stack(predicted), *([pool.predicted] if pool else [])]),
        labels,
        roles,
        requests,
        pd.factorize(manifest["subject_id"])[0].astype(np.int64),
        np.array(names, np.str_),
        values,
        np.concatenate([np.zeros((len(entries), len(labels)), bool), pool.seen]) if pool else None,
        {name: np.stack(scored) for name, scored in seen_in.items()},
    )
    scores.check()
    scores.save(out / "scores.npz")
    trained_on, forgotten = roles == "training", requests != ""
    files.write_json(
        out / "lineage.json",
        {
            "models": [lineage_of(entry) for entry in entries],
            "manifest_sha256": files.sha256(data / "manifest.csv"),
            "history": asdict(release_lineage.history(original, int(trained_on.sum()))),
            "batch": {
                "forgotten": int((trained_on & forgotten).sum()),
                "retained": int((trained_on & ~forgotten).sum()),
            },
            **({"pool": pool.facts} if pool else {}),
        },
    )


def attributes(
    manifest: pd.DataFrame, forgotten: NDArray[np.bool_]
) -> tuple[list[str], scoring.Strings]:
    """Further columns of the manifest with few values, such as sex or site; utility is measured by
    each.

    Scores outlive the records, so the forget set has no values here.

    Args:
        manifest: n records.
        forgotten: (n,) the forget set.

    Returns:
        The a columns' names, and their values (n, a).
    """
    names = [
        str(column)
        for column in manifest.columns
        if column not in (*records.COLUMNS, "split")
        and 2 <= manifest[column].nunique() <= MOST_VALUES
    ]
    values = manifest[names].to_numpy(np.str_) if names else np.empty((len(manifest), 0), np.str_)
    return names, np.where(forgotten[:, None], "", values)


def models_to_score(
    original: Path, trained: Path, unlearned: Path, retrained: Path, settings: Settings
) -> list[ScoredModel]:
    """All models of an audit: the original, the unlearned, the retrain baseline, and the references
    of both kinds.

    The baseline is seed 0 of `retrain` and not a reference, so the self-check judges it like the
    released model. Seed 0 of `train` is the original model, or a reference if the original is the
    user's own.

    Raises:
        EvidenceError: a model is missing, or there is a block that the settings do not name.
    """
    references = settings.references
    size = references.seeds_per_block
    with_paths = (
        _seeds(trained, references.with_blocks, size)
        if references.with_from == settings_module.TRAINED
        else []
    )
    without_paths = _seeds(retrained, references.without_blocks, size)
    entries = [
        ScoredModel("original", "original", original),
        ScoredModel("unlearned", "unlearned", unlearned),
        *(ScoredModel("retrained", "retrained", path) for path in without_paths[:1]),
        *(
            ScoredModel(f"with-{n}", "with", path)
            for n, path in enumerate(with_paths)
            if path != original
        ),
        *(
            ScoredModel(f"without-{n}", "without", path)
            for n, path in enumerate(without_paths)
            if n > 0
        ),
    ]
    missing = [str(entry.path) for entry in entries if not entry.path.is_file()]
    if missing:
        raise EvidenceError(
            f"{len(missing)} models are missing, first {missing[0]}; run the stages train and "
            "retrain"
        )
    return entries


def _seeds(folder: Path, blocks: tuple[int, ...], size: int) -> list[Path]:
    """The models of some blocks by seed. Refuses other blocks in the folder."""
    present = {
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    }
    extra = sorted(present - {str(block) for block in blocks})
    if extra:
        raise EvidenceError(
            f"{folder} holds the blocks {', '.join(extra)}, which the settings do not name; "
            "remove them"
        )
    return [folder / str(n // size) / f"seed-{n}.safetensors" for n in range(size * len(blocks))]


def lineage_of(entry: ScoredModel) -> dict[str, object]:
    """A model's entry in `lineage.json`: which it is, and what it cost."""
    cost_path = entry.path.with_suffix(".json")
    cost: dict[str, object] = files.read_json(cost_path) if cost_path.is_file() else {}
    if cost:  # a model that came from another machine brings its cost along
        cost_ledger.keep(ACTIVITY[entry.role], str(cost["weights_sha256"]), cost)
    facts = {key: cost.get(key) for key in ("seconds", "device", "threads", "precision", "torch")}
    if "task" in cost:  # of the unlearned model: what FCALB had to forget
        facts["task"] = cost["task"]
    return {
        "name": entry.name,
        "role": entry.role,
        "path": entry.path.as_posix(),
        "weights_sha256": files.sha256(entry.path),
        **facts,
    }


if __name__ == "__main__":
    stage_cli.run(main)
