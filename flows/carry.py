"""From one batch to the next: its retrained models become the next one's references, so that only half are trained.

Models retrained for a batch have seen everybody who remains, and so has the model that is used from then on. What is
carried over comes from the batch's tag and nowhere else.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flows import closing, reproduce, results, shell, workspace
from tasks import carried, files, records, settings
from tasks.advice import History
from tasks.errors import WorkspaceError

FOLDER = "references"
Original = Literal["unlearned", "retrained"]


@dataclass(frozen=True)
class Carried:
    """What was carried over."""

    batch: str
    references: int
    original: Original
    records_dropped: int
    folder: str
    unlearnings: int
    """of the model that goes on, since it was last trained from scratch"""
    advice: tuple[str, ...]
    """why a full retrain is advised, which `original="retrained"` would be"""

    def plain(self) -> dict[str, object]:
        """As JSON values."""
        return {**vars(self), "advice": list(self.advice)}


def carry(folder: Path, batch: str, original: Original = "unlearned") -> Carried:
    """Make the workspace ready for the batch after a closed one.

    The batch's retrained models become `references/<batch>`, tracked by DVC, with their lineage; the model that the
    next batch starts from lies beside them. The forgotten records leave the data set, in which every subject keeps
    his role. Copies of the records in DVC's cache and remotes are not erased by this.

    Args:
        folder: the workspace.
        batch: a closed batch.
        original: the model that goes on: the unlearned one, for which every verdict has to be a pass, or the exact
            retrain.

    Raises:
        WorkspaceError: the batch is not closed, did not pass, its models cannot be had, or its data are not the ones
            at hand. Nothing is changed then.
    """
    tag = closing.tag_of(batch)
    name = tag.removeprefix("audit/")
    target = folder / FOLDER / name
    if not shell.succeeds(folder, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}"):
        raise WorkspaceError(f"no tag {tag}; `erasure-audit run {name} --commit` closes a batch")
    if target.exists():
        raise WorkspaceError(f"{FOLDER}/{name} is there already; the batch was carried over before")
    with reproduce.worktree(folder, tag) as copy:
        _may_go_on(copy, name, original)
        _same_data(folder, copy, tag)
        wish = settings.load(copy / "params.yaml")
        manifest = records.read_manifest(copy / "data")
        roles = records.read_roles(_there(copy / "artifacts" / "split.csv", tag), manifest)
        forgotten = records.read_forget(_there(copy / "artifacts" / "resolve" / "forget.csv", tag), manifest) != ""
        paths = _retrained(copy, wish, tag)
        with files.whole_folder(target) as draft:
            first = (
                _there(copy / "artifacts/unlearn/unlearned.safetensors", tag) if original == "unlearned" else paths[0]
            )
            shutil.copyfile(first, draft / carried.ORIGINAL)
            shutil.copyfile(first.with_suffix(".json"), (draft / carried.ORIGINAL).with_suffix(".json"))
            # the baseline is one more reference, unless it is the model that goes on
            chosen = paths if original == "unlearned" else paths[1:]
            for path in chosen:
                shutil.copyfile(path, draft / path.name)
                shutil.copyfile(path.with_suffix(".json"), draft / path.with_suffix(".json").name)
            remaining = (roles == "training") & ~forgotten
            if original == "unlearned":
                lineage = files.read_json(_there(copy / "artifacts" / "score" / "lineage.json", tag))
                history, advised = carried.released(lineage, wish.unlearn.method), results.advice(copy, name)
            else:
                history, advised = History(0, 0, int(remaining.sum())), []
            trained_on = carried.training_set(manifest, remaining)
            commit = shell.git(folder, "rev-parse", f"{tag}^{{commit}}")
            carried.write(draft, name, commit, trained_on, wish, [path.stem for path in chosen], history)
    try:
        shell.dvc(folder, "add", "--quiet", f"{FOLDER}/{name}")
    except BaseException:  # so that it can be tried again
        shutil.rmtree(target, ignore_errors=True)
        raise
    _drop(folder / "data", forgotten, roles)
    workspace.track_data(folder)
    settings.assign(
        folder / "params.yaml",
        [
            f"references.with_from={FOLDER}/{name}",
            "references.with_blocks=[]",
            f"original.checkpoint={FOLDER}/{name}/{carried.ORIGINAL}",
        ],
    )
    return Carried(
        name,
        len(chosen),
        original,
        int(forgotten.sum()),
        f"{FOLDER}/{name}",
        history.unlearnings,
        tuple(advised),
    )


def _may_go_on(copy: Path, name: str, original: Original) -> None:
    verdicts = [result.verdict for result in results.read(copy, name) if result.status == "audited"]
    if original == "unlearned" and (not verdicts or set(verdicts) != {"pass"}):
        raise WorkspaceError(
            f"batch {name}: {verdicts.count('pass')} of {len(verdicts)} requests passed, so the unlearned model cannot "
            "go on; take the exact retrain: --original retrained"
        )


def _same_data(folder: Path, copy: Path, tag: str) -> None:
    here, there = folder / "data" / "manifest.csv", _there(copy / "data" / "manifest.csv", tag)
    if not here.is_file() or files.sha256(here) != files.sha256(there):
        raise WorkspaceError(f"data/manifest.csv is not that of {tag}; carry a batch over before the data change")


def _retrained(copy: Path, wish: settings.Settings, tag: str) -> list[Path]:
    size = wish.references.seeds_per_block
    numbers = range(size * len(wish.references.without_blocks))
    return [_there(copy / f"artifacts/retrain/{n // size}/seed-{n}.safetensors", tag) for n in numbers]


def _there(path: Path, tag: str) -> Path:
    if not path.is_file():
        raise WorkspaceError(f"{tag}: {path.name} is neither in DVC's cache nor in a remote; nothing was carried over")
    return path


def _drop(data: Path, forgotten: NDArray[np.bool_], roles: NDArray[np.str_]) -> None:
    """Take the forgotten records out of the data set; the roles of the others are written down, so that they stay."""
    table = records.read_table(data)
    kept = table.assign(split=roles)[~forgotten]
    files.write_text(data / "manifest.csv", kept.to_csv(index=False, lineterminator="\n"))
    for path in table.loc[forgotten, "path"]:
        (data / path).unlink(missing_ok=True)
    known = data / "identities.csv"
    if known.is_file():
        people = records.read_csv(known, ("identity_type", "identity_value", "subject_id"))
        left = people[people["subject_id"].isin(kept["subject_id"])]
        files.write_text(known, left.to_csv(index=False, lineterminator="\n"))
