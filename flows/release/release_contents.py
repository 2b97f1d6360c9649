"""The content of a release: the model with its card and lineage, the references of the next batch,
and the data set without the dropped records."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.pipeline import close_batch, results
from flows.release import model_card
from flows.release.standing import Original
from flows.workspace import dvc_graph
from tasks.common import files, settings
from tasks.common.errors import AuditError
from tasks.data import records
from tasks.training import release_lineage
from tasks.training.history import History

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

PROPOSED, SCORED = "artifacts/propose/lineage.json", "artifacts/score/lineage.json"
"""Files with the models that an audit judged: with the proposed rung's model as the unlearned one,
and with the first rung's."""
RELEASES = "releases"
REFERENCES = "references"


class ReleaseError(AuditError):
    """A batch cannot be released; the workspace is unchanged."""


def audited_file(copy: Path, batch: str, path: str) -> Path:
    """A file of the audit, in a checkout of it.

    Raises:
        ReleaseError: no store has it.
    """
    if not (copy / path).is_file():
        raise ReleaseError(
            f"{close_batch.tag_of(batch)}: {Path(path).name} is neither in DVC's cache nor in a "
            "remote; nothing was changed"
        )
    return copy / path


@dataclass(frozen=True)
class Inputs:
    """The inputs of a release: a checkout of the audited batch.

    Attributes:
        copy: the checkout; the release is written into it.
        batch: its name.
        commit: of the audit.
        settings: of the audit.
        manifest: n records.
        trained: (n,) records that models were trained on.
        forgotten: (n,) records that the model had to forget.
    """

    copy: Path
    batch: str
    commit: str
    settings: settings.Settings
    manifest: pd.DataFrame
    trained: NDArray[np.bool_]
    forgotten: NDArray[np.bool_]

    def audited_file(self, path: str) -> Path:
        """A file of the audit; see `audited_file`."""
        return audited_file(self.copy, self.batch, path)

    @property
    def remaining(self) -> NDArray[np.bool_]:
        """(n,) the remaining training records."""
        remaining: NDArray[np.bool_] = self.trained & ~self.forgotten
        return remaining

    @property
    def retained(self) -> str:
        """The hash of the remaining training records."""
        return release_lineage.training_set(self.manifest, self.remaining)

    def retrained_models(self) -> list[Path]:
        """The models that were trained without the records, by seed."""
        size = self.settings.references.seeds_per_block
        count = size * len(self.settings.references.without_blocks)
        return [
            self.audited_file(f"artifacts/retrain/{number // size}/seed-{number}.safetensors")
            for number in range(count)
        ]


@dataclass(frozen=True)
class ReleasedModel:
    """The model that is released.

    Attributes:
        kind: unlearned or retrained.
        source: its file.
        history: its unlearnings since it was last trained from scratch.
        chain: the models that it was made from, the first one first.
        verdicts: on the unlearned model, one per audited request.
        versions: hashes of the data `before` and `after`.
    """

    kind: Original
    source: Path
    history: History
    chain: Any
    verdicts: list[str]
    versions: dict[str, str | None]


def in_use(copy: Path, chosen: settings.Settings) -> settings.Settings:
    """The settings of the judged unlearned model: those of the proposed rung.

    Args:
        copy: a checkout of the audited batch.
        chosen: the settings of the batch.

    Raises:
        ReleaseError: no store has the ladder's result.
    """
    if not _is_climbed(copy):
        return chosen
    ladder = audited_file(copy, chosen.batch, str(Path(PROPOSED).with_name("ladder.json")))
    on_rung = chosen.on_rung(str(files.read_json(ladder)["reported"]))
    # references that a rung added judge its batch alone; the next one gets those of the settings
    return chosen.model_copy(update={"unlearn": on_rung.unlearn})


def write_models(
    inputs: Inputs, kind: Original, versions: dict[str, str | None]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write `releases/<batch>` and `references/<batch>`.

    Args:
        inputs: of the release.
        kind: of the released model.
        versions: hashes of the data `before` and `after`.

    Returns:
        The settings of the next batch that name them, and facts for the ledger.

    Raises:
        ReleaseError: the model may not be released, or is not the audited one.
    """
    verdicts = _verdicts(inputs, kind)
    retrained = inputs.retrained_models()
    if kind == "retrained" and not retrained:
        raise ReleaseError(
            f"batch {inputs.batch} was only screened, so there is no exact retrain to release"
        )
    proposed = _is_climbed(inputs.copy)
    lineage = files.read_json(inputs.audited_file(PROPOSED if proposed else SCORED))
    if kind == "unlearned":
        source = inputs.audited_file(_unlearned(lineage))
        history = release_lineage.released(lineage, inputs.settings.unlearn.method)
        advice = results.advice(inputs.copy, inputs.batch)
    else:
        # the baseline is one more reference, unless it is released
        source, retrained = retrained[0], retrained[1:]
        history, advice = History(0, 0, int(inputs.remaining.sum())), []
    _refuse_others(inputs.copy, lineage, [source, *retrained])
    model = ReleasedModel(kind, source, history, _chain(inputs, lineage), verdicts, versions)
    changes, weights = write_model(inputs, model, [files.sha256(path) for path in retrained])
    # a pool of references also serves the next batch
    if retrained and inputs.settings.references.mode == "batch":
        changes |= write_references(inputs, retrained)
    return changes, {
        "model": kind,
        "weights_sha256": weights,
        "references": len(retrained),
        "unlearnings": history.unlearnings,
        "advice": advice,
    }


def write_model(
    inputs: Inputs, model: ReleasedModel, references: list[str]
) -> tuple[dict[str, str], str]:
    """Write `releases/<batch>`: the model with its lineage and card.

    Args:
        inputs: of the release.
        model: the released model.
        references: SHA-256 of the references of the next batch.

    Returns:
        The settings of the next batch that name it, and the SHA-256 of its weights.
    """
    folder = f"{RELEASES}/{inputs.batch}"
    with files.whole_folder(inputs.copy / folder) as draft:
        _copy_model(model.source, draft / release_lineage.MODEL)
        lineage = release_lineage.write_release(
            draft,
            inputs.batch,
            inputs.commit,
            model.kind,
            inputs.settings,
            model.history,
            inputs.retained,
            model.chain,
        )
        counts = {
            "forgotten": int(inputs.forgotten.sum()),
            "retained": int(inputs.remaining.sum()),
        }
        card = model_card.write(
            lineage, model.verdicts, inputs.settings, counts, model.versions, references
        )
        files.write_text(draft / "README.md", card)
    changes = {"original.checkpoint": f"{folder}/{release_lineage.MODEL}"}
    return changes, str(lineage["model"]["weights_sha256"])


def write_references(inputs: Inputs, models: Collection[Path]) -> dict[str, str]:
    """Write `references/<batch>`: the retrained models, which judge the next batch.

    Returns:
        The settings of the next batch that name them.
    """
    folder = f"{REFERENCES}/{inputs.batch}"
    with files.whole_folder(inputs.copy / folder) as draft:
        for path in models:
            _copy_model(path, draft / path.name)
        release_lineage.write_references(
            draft,
            inputs.batch,
            inputs.commit,
            inputs.retained,
            inputs.settings,
            [path.stem for path in models],
        )
    return {"references.with_from": folder, "references.with_blocks": "[]"}


def drop_records(data: Path, leaving: NDArray[np.bool_], roles: NDArray[np.str_]) -> None:
    """Remove records from the data set. The roles of the others are written into the manifest, so
    that they stay.

    Args:
        data: the folder.
        leaving: (n,) records of its manifest to remove.
        roles: (n,) role of each record.
    """
    table = records.read_table(data)
    remaining = table.assign(split=roles)[~leaving]
    files.write_text(data / "manifest.csv", remaining.to_csv(index=False, lineterminator="\n"))
    for path in table.loc[leaving, "path"]:
        (data / path).unlink(missing_ok=True)
    identities = data / "identities.csv"
    if identities.is_file():
        people = files.read_csv(identities, ("identity_type", "identity_value", "subject_id"))
        remaining_people = people[people["subject_id"].isin(remaining["subject_id"])]
        files.write_text(identities, remaining_people.to_csv(index=False, lineterminator="\n"))


def _is_climbed(copy: Path) -> bool:
    """Whether the audit has a ladder; audits of earlier versions have none."""
    return dvc_graph.recorded_hash(copy, PROPOSED) is not None


def _unlearned(lineage: dict[str, Any]) -> str:
    """The path of the judged unlearned model."""
    return next(str(model["path"]) for model in lineage["models"] if model["role"] == "unlearned")


def _chain(inputs: Inputs, lineage: dict[str, Any]) -> Any:
    original = next(
        model["weights_sha256"] for model in lineage["models"] if model["role"] == "original"
    )
    checkpoint = inputs.settings.original.checkpoint
    is_trained_here = checkpoint.startswith(settings.TRAINED)
    return release_lineage.chain_of(inputs.copy / checkpoint, original, is_trained_here)


def _verdicts(inputs: Inputs, kind: Original) -> list[str]:
    """The verdicts of the evidence on the audited requests; approvals cannot override them."""
    verdicts = [
        result.verdict
        for result in results.read(inputs.copy, inputs.batch)
        if result.status == "audited"
    ]
    if kind == "unlearned" and (not verdicts or set(verdicts) != {"pass"}):
        raise ReleaseError(
            f"batch {inputs.batch}: {verdicts.count('pass')} of {len(verdicts)} requests passed, "
            "so the unlearned model cannot be released; approve the exact retrain with --model "
            "retrained"
        )
    return verdicts


def _refuse_others(copy: Path, lineage: dict[str, Any], models: Collection[Path]) -> None:
    """Raise `ReleaseError` unless the models are the audited ones, byte for byte."""
    audited = {model["path"]: model["weights_sha256"] for model in lineage["models"]}
    for path in models:
        name = path.relative_to(copy).as_posix()
        if files.sha256(path) != audited.get(name):
            raise ReleaseError(
                f"{name} is not the model that was audited: its object in DVC's cache is damaged. "
                "Take it from a remote or a backup (remove it from the cache, `dvc fetch`), then "
                "release again"
            )


def _copy_model(source: Path, target: Path) -> None:
    """Copy a model and the file with its cost."""
    shutil.copyfile(source, target)
    cost = source.with_suffix(".json")
    if cost.is_file():
        shutil.copyfile(cost, target.with_suffix(".json"))
