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
from tasks.data import records
from tasks.inspection.answers import AuditRecords
from tasks.pooling import table
from tasks.training import checkpoints, original_check, release_lineage
from tasks.verification import scoring
from tasks.verification.scoring import ModelScores

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
    settings = settings_module.load(params)
    audit = AuditRecords(data, pack, split, forget, settings)
    manifest, forgotten = audit.packed.manifest, audit.requests != ""
    training = audit.roles == "training"
    entries = models_to_score(original, trained, unlearned, retrained, settings)
    if settings.references.mode == "batch":
        entries += _released_references(trained, audit)
        pool = None
    else:
        pool = table.align(trained, manifest, training, settings)
    scores = _table(entries, _score(entries, audit), pool, audit)
    scores.check()
    scores.save(out / "scores.npz")
    files.write_json(
        out / "lineage.json",
        {
            "models": [lineage_of(entry) for entry in entries],
            "manifest_sha256": files.sha256(data / "manifest.csv"),
            "history": asdict(release_lineage.history(original, int(training.sum()))),
            "batch": {
                "forgotten": int((training & forgotten).sum()),
                "retained": int((training & ~forgotten).sum()),
            },
            **({"pool": pool.facts} if pool else {}),
        },
    )


def _released_references(folder: Path, audit: AuditRecords) -> list[ScoredModel]:
    """References that the previous release left, if the settings name its folder."""
    if audit.settings.references.with_from == settings_module.TRAINED:
        return []
    training = audit.roles == "training"
    paths = release_lineage.references(folder, audit.packed.manifest, training, audit.settings)
    return [ScoredModel(f"with-{path.stem}", "with", path) for path in paths]


def _score(entries: list[ScoredModel], audit: AuditRecords) -> list[ModelScores]:
    """The scores of each model. The first entry is the original, which is checked before all."""
    settings = audit.settings
    network = checkpoints.load_original(entries[0].path, settings)
    original_check.require(
        entries[0].path, network, audit.packed, audit.roles, settings, audit.backend
    )
    scored = [audit.scores(network)]
    for position, entry in enumerate(entries[1:], 2):
        scored.append(audit.scores(checkpoints.load(entry.path, settings.model, settings.data)))
        if position % 10 == 0 or position == len(entries):
            count = len(audit.packed.manifest)
            stage_cli.say(f"scored {position}/{len(entries)} models on {count} records")
    return scored


def _table(
    entries: list[ScoredModel],
    scored: list[ModelScores],
    pool: table.Aligned | None,
    audit: AuditRecords,
) -> scoring.Scores:
    """The table of all scores: the models' own, and below them those of the pool's models."""
    import pandas as pd

    manifest = audit.packed.manifest
    names, values = attributes(manifest, audit.requests != "")
    is_hybrid = audit.settings.references.mode == "hybrid"
    roles = ["fresh" if is_hybrid and entry.role == "without" else entry.role for entry in entries]
    phi = np.stack([model.phi for model in scored])
    predicted = np.stack([model.predicted for model in scored])
    seen = None
    if pool:
        roles += ["pool"] * len(pool.phi)
        phi, predicted = (
            np.concatenate([phi, pool.phi]),
            np.concatenate([predicted, pool.predicted]),
        )
        seen = np.concatenate([np.zeros((len(entries), len(manifest)), bool), pool.seen])
    return scoring.Scores(
        np.array(roles),
        phi,
        predicted,
        audit.labels,
        audit.roles,
        audit.requests,
        pd.factorize(manifest["subject_id"])[0].astype(np.int64),
        np.array(names, np.str_),
        values,
        seen,
        {name: np.stack([model.views[name] for model in scored]) for name in scored[0].views},
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
