"""The record of a closed batch: the paths of `dvc.lock` with their hashes, and the receipts of
later erasures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flows.pipeline.kept_objects import EMPTY_FOLDER, Condition, KeptObjects, folder_hash
from flows.workspace import dvc_graph, shell
from tasks.common import files
from tasks.common.errors import AuditError, ReproductionError

ERASURES = Path("ledger/erasures")
"""Receipts of erasures; they name the paths of closed states that are no longer kept."""


@dataclass(frozen=True)
class RecordedFiles:
    """The files of one recorded path, by their condition.

    Attributes:
        sound: path and md5 of each file that is kept as recorded.
        damaged: paths that are kept with other bytes.
        missing: paths that are not kept. A folder whose list is lost is missing as a whole.
    """

    sound: tuple[tuple[str, str], ...] = ()
    damaged: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Record:
    """The record of a closed batch, and where its content is kept.

    Attributes:
        checkout: the batch's tag as git has it, without anything from DVC.
        objects: the caller's DVC cache and remotes.
        stages: entries of `dvc.lock` by stage, of the stages that `dvc.yaml` has.
        hashes: every recorded path with DVC's hash of it.
    """

    def __init__(self, checkout: Path, objects: KeptObjects) -> None:
        """Read `dvc.lock`.

        Raises:
            ReproductionError: one stage made a file with one hash and another read it with
                another.
        """
        self.checkout, self.objects = checkout, objects
        self.names = [stage.name for stage in dvc_graph.read(checkout)]
        self.stages = _locked_stages(checkout, self.names)
        self.hashes = _hashes(self.stages)

    def paths(self, names: Iterable[str], kind: Literal["deps", "outs"]) -> list[str]:
        """The inputs (`deps`) or outputs (`outs`) of these stages, sorted."""
        return sorted(
            {entry["path"] for name in names for entry in self.stages.get(name, {}).get(kind, [])}
        )

    def in_git(self, path: str) -> bool:
        """Whether git keeps the content itself, as for reports and requests."""
        return (self.checkout / path).exists()

    def files(self, path: str) -> RecordedFiles:
        """The files of a path that DVC keeps; they are only read."""
        listed = self._files_of(path)
        if listed is None:
            damaged = self.objects.condition(self.hashes[path]) is Condition.DAMAGED
            return RecordedFiles(damaged=(path,)) if damaged else RecordedFiles(missing=(path,))
        conditions = [(name, oid, self.objects.condition(oid)) for name, oid in listed]
        return RecordedFiles(
            tuple((name, oid) for name, oid, state in conditions if state is Condition.SOUND),
            tuple(name for name, _, state in conditions if state is Condition.DAMAGED),
            tuple(name for name, _, state in conditions if state is Condition.MISSING),
        )

    def read(self, path: str) -> bytes | None:
        """The content of a single file on record; None: it is not kept as recorded."""
        return self.objects.read(self.hashes[path]) if path in self.hashes else None

    def bring(self, path: str) -> None:
        """Write the sound files of a recorded path into the checkout."""
        if self.hashes[path] == EMPTY_FOLDER:
            (self.checkout / path).mkdir(parents=True, exist_ok=True)
        for name, oid in self.files(path).sound:
            self.objects.copy(oid, self.checkout / name)

    def _files_of(self, path: str) -> list[tuple[str, str]] | None:
        """Path and md5 of every file; None: the list is not kept or differs from the record."""
        recorded = self.hashes[path]
        if not recorded.endswith(".dir"):
            return [(path, recorded)]
        entries = self.objects.listing(recorded)
        if entries is not None:
            return [(f"{path}/{name}", oid) for name, oid in entries]
        return self._files_of_parts(path)

    def _files_of_parts(self, path: str) -> list[tuple[str, str]] | None:
        """The files of a folder that DVC keeps only as parts, each made by a stage of its own."""
        parts = [out for out in self.paths(self.stages, "outs") if out.startswith(f"{path}/")]
        listed = [self._files_of(part) for part in parts]
        entries = [entry for part_entries in listed for entry in part_entries or []]
        relative = [(name.removeprefix(f"{path}/"), oid) for name, oid in entries]
        is_whole = bool(parts) and None not in listed and folder_hash(relative) == self.hashes[path]
        return entries if is_whole else None


def within(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies in it."""
    return path == folder or path.startswith(folder + "/")


@dataclass(frozen=True)
class Receipts:
    """The receipts of one batch's erasure.

    Attributes:
        file: where they are, relative to the workspace.
        day: of the last receipt, ISO.
        not_kept: by closed state, the paths whose content was erased.
        fault: why they do not count; empty: they count.
    """

    file: str
    day: str = ""
    not_kept: dict[str, list[str]] | None = None
    fault: str = ""

    def erased(self, tag: str) -> list[str]:
        """The paths of a closed state that were erased by these receipts."""
        return (self.not_kept or {}).get(tag, [])


def receipts(workspace: Path) -> list[Receipts]:
    """All receipts of the workspace. Those that do not count have a fault.

    Receipts count if each is sealed by the SHA-256 of its own text, at least one store was
    examined, and git keeps the same file under the tag of the erasure.
    """
    return [_receipts(workspace, path) for path in sorted((workspace / ERASURES).glob("*.json"))]


def _receipts(workspace: Path, path: Path) -> Receipts:
    name = path.relative_to(workspace).as_posix()
    try:
        content = files.read_json(path)
        stores, not_kept = content["stores"], dict(content["not_kept"])
        day = str(max(store["at"] for store in stores))[:10]
        unsealed = [str(store["store"]) for store in stores if not _is_sealed(store)]
    except (AuditError, KeyError, TypeError, ValueError) as error:
        return Receipts(name, fault=f"it is not a file of receipts ({type(error).__name__})")
    if unsealed:
        return Receipts(name, fault=f"the receipt of {unsealed[0]} was changed after it was made")
    if not shell.succeeds(workspace, "diff", "--quiet", f"erased/{path.stem}", "--", name):
        return Receipts(name, fault=f"it differs from the one that git keeps as erased/{path.stem}")
    return Receipts(name, day, not_kept)


def _is_sealed(receipt: dict[str, Any]) -> bool:
    """Whether a receipt's `sha256` is that of its own text, as the erasure writes it."""
    unsealed = {key: value for key, value in receipt.items() if key != "sha256"}
    text = json.dumps(unsealed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return str(receipt["sha256"]) == hashlib.sha256(text.encode()).hexdigest()


def _locked_stages(checkout: Path, names: Iterable[str]) -> dict[str, Any]:
    """The stages of `dvc.lock` that are in `dvc.yaml`; DVC leaves former ones in the lock."""
    from ruamel.yaml import YAML

    document = YAML(typ="safe").load((checkout / "dvc.lock").read_text(encoding="utf-8")) or {}
    stage_names = set(names)
    return {
        name: stage for name, stage in (document.get("stages") or {}).items() if name in stage_names
    }


def _hashes(stages: dict[str, Any]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for name, stage in stages.items():
        for entry in (*stage.get("deps", []), *stage.get("outs", [])):
            recorded = str(entry.get("md5"))
            if hashes.setdefault(entry["path"], recorded) != recorded:
                raise ReproductionError(
                    f"dvc.lock contradicts itself: {entry['path']} has two hashes (stage {name})"
                )
    return hashes
