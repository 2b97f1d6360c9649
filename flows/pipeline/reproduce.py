"""Checking a closed batch: at its tag, in a worktree of its own, at one of three levels.

`integrity` compares every file that is still kept with the hashes in `dvc.lock`, and checks the
signatures. `rederive` makes verdicts and reports anew from the kept scores, which works after the
records are erased. `reexecute` does everything anew. A level at which nothing was compared, or
nothing ran, is never reported as reproduced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flows.pipeline import close_batch, stage_runner
from flows.reports import signature_checks, signing
from flows.workspace import checkouts, dvc_graph, git, layout, shell, signing_keys
from tasks.common import files
from tasks.common.errors import ReproductionError, WorkspaceError

Level = Literal["integrity", "rederive", "reexecute"]

REDERIVED = ("verify", "report")
"""The stages that run from the scores alone."""

VERDICTS = "artifacts/verify/verdicts.json"
ERASURES = Path("ledger/erasures")
"""Receipts of erasures, which say what of closed states is not kept any more."""
LATER = ("erased", "release", "audit")
"""Beginnings of a batch's tags, the latest state first."""


@dataclass
class Comparison:
    """What a level found. Paths are relative to the workspace.

    Attributes:
        level: the level asked for.
        tag: the git tag looked at.
        ran: stages that ran anew.
        identical: files and folders with the hash that is on record.
        different: what has another hash, with where and why.
        missing: what is on record and not kept any more (or was never pushed).
        erased: what is on record and was erased, with the file of receipts.
        same_verdicts: whether, in spite of differences, every verdict is the same and every
            statistic inside its recorded interval; None: not looked at, because nothing differs or
            verdicts are missing.
    """

    level: Level
    tag: str
    ran: list[str] = field(default_factory=list)
    identical: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    same_verdicts: bool | None = None

    def __bool__(self) -> bool:
        """Whether the level holds."""
        compared = bool(self.identical or self.different)
        return compared and (not self.different or self.same_verdicts is True)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "holds": bool(self)}


def reproduce(
    folder: Path, batch: str, level: Level, listener: stage_runner.Listener = stage_runner.nobody
) -> Comparison:
    """Check a closed batch. The caller's checkout stays as it is.

    Args:
        folder: the workspace, a git repository.
        batch: name of the batch or its tag.
        level: how much is done anew.
        listener: told what happens to the stages that run.

    Returns:
        What was identical and what was not; it is true if the level holds.

    Raises:
        ReproductionError: there is no such tag, something that the level needs is missing, a stage
            did not run, or there was nothing to compare.
    """
    tag = close_batch.tag_of(batch)
    if not git.has_tag(folder, tag):
        raise ReproductionError(
            f"no tag {tag}; `erasure-audit run {batch} --commit` closes a batch. {_tags(folder)}"
        )
    if level == "reexecute":
        _refuse_erased(folder, tag)
    with worktree(folder, tag) as copy:
        locked = _lock(copy)
        on_record = _on_record(locked)
        if level == "integrity":
            found = _integrity(copy, tag, on_record)
            _compare_checkout(folder, copy, on_record, found)
            _quote_receipts(folder, tag, found)
            _check_signatures(folder, copy, found)
        else:
            found = _anew(copy, tag, level, locked, listener)
    if not found.identical and not found.different:
        found.missing += found.erased
        raise ReproductionError(
            f"{tag}: nothing could be compared; everything on record is gone: "
            f"{_some(found.missing)}"
        )
    return found


def _refuse_erased(folder: Path, tag: str) -> None:
    """Data that were erased are not made again either, as the embedded ones could be."""
    for path, receipts in _receipts(folder):
        if "data" in receipts["not_kept"].get(tag, []):
            raise ReproductionError(
                f"{tag} cannot be executed again: records that it read were erased on "
                f"{_day(receipts)}, receipts in "
                f"{path.relative_to(folder)}. The level rederive makes verdicts and reports again "
                "without them"
            )


def _quote_receipts(folder: Path, tag: str, found: Comparison) -> None:
    """What is missing because it was erased is told from what is missing for no known reason."""
    for path, receipts in _receipts(folder):
        listed = receipts["not_kept"].get(tag, [])
        gone = {
            one
            for one in found.missing
            if any(_within(one, path) or _within(path, one) for path in listed)
        }
        found.missing = [one for one in found.missing if one not in gone]
        found.erased += [
            f"{one} (on {_day(receipts)}, {path.relative_to(folder)})" for one in sorted(gone)
        ]


def _receipts(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    return [(path, files.read_json(path)) for path in sorted((folder / ERASURES).glob("*.json"))]


def _day(receipts: dict[str, Any]) -> str:
    return str(max(one["at"] for one in receipts["stores"]))[:10]


def _integrity(copy: Path, tag: str, on_record: dict[str, str]) -> Comparison:
    found = Comparison("integrity", tag)
    gone = [path for path in on_record if not (copy / path).exists()]
    for path, recorded in on_record.items():
        if any(
            _within(part, path) for part in gone
        ):  # a folder of which a part is gone is not all there, either
            found.missing.append(path)
        else:
            _compare(copy / path, path, recorded, found)
    found.missing = sorted(set(found.missing))
    for stage, differs in dvc_graph.status(copy).items():
        found.different += [f"params.yaml ({stage})"] * ("params.yaml" in str(differs))
    return found


def _compare(place: Path, path: str, recorded: str, found: Comparison) -> None:
    if not place.exists():
        found.missing.append(path)
    elif dvc_graph.content_hash(place) == recorded:
        found.identical.append(path)
    else:
        found.different.append(path)


def _compare_checkout(
    folder: Path, copy: Path, on_record: dict[str, str], found: Comparison
) -> None:
    """The reports that lie in the caller's checkout are the ones that people open, so they are
    looked at, too.

    After a release or an erasure they tell of it, and are compared with that state's.
    """
    latest = _latest(folder, found.tag)
    for path, recorded in on_record.items():
        here = folder / path
        is_report = path.startswith("reports/") and path != "reports/templates"
        if not is_report or not here.exists() or dvc_graph.content_hash(here) == recorded:
            continue
        if latest != found.tag:
            changed = shell.git(
                folder, "diff", "--name-only", "--relative", latest, "--", path
            ).splitlines()
            changed += shell.git(folder, "ls-files", "--others", "--", path).splitlines()
        else:
            changed = _changed_files(here, copy / path)
        if changed:
            found.different.append(f"{path} in this checkout ({_some(changed)})")


def _latest(folder: Path, tag: str) -> str:
    """The batch's latest state that has a tag."""
    batch = tag.removeprefix("audit/")
    tags = [f"{state}/{batch}" for state in LATER]
    return next((name for name in tags if git.has_tag(folder, name)), tag)


def _check_signatures(folder: Path, copy: Path, found: Comparison) -> None:
    """The signed reports of the tag, and those in the caller's checkout; whom to trust is the
    caller's word of now."""
    trusted, batch = (
        signing_keys.trusted(folder),
        f"{signing.SIGNED}/{found.tag.removeprefix('audit/')}",
    )
    for root, where in ((copy, ""), (folder, " in this checkout")):
        for place in sorted((root / batch).glob("*/")):
            checked = signature_checks.verify(place, trusted)
            if not checked:
                found.different.append(f"{batch}/{place.name}{where} ({checked.line})")
            elif root == copy:
                found.identical.append(f"{batch}/{place.name}")


def _anew(
    copy: Path, tag: str, level: Level, locked: dict[str, Any], listener: stage_runner.Listener
) -> Comparison:
    wanted = [
        stage.name
        for stage in dvc_graph.read(copy)
        if level == "reexecute" or stage.name in REDERIVED
    ]
    _require_inputs(copy, tag, level, wanted, locked)
    before = _verdicts(copy)
    found = Comparison(level, tag)
    runner = stage_runner.Runner(copy, 1, listener)
    try:
        found.ran = [name for name in wanted if runner.run(name, force=True) == "ran"]
    except BaseException:
        runner.stop()
        raise
    if not wanted or found.ran != wanted:
        raise ReproductionError(
            f"{tag}: expected {_some(wanted) or 'stages'} to run, ran "
            f"{_some(found.ran) or 'nothing'}"
        )
    on_record = _on_record(locked)
    for path in _paths(locked, wanted, "outs"):
        _compare(copy / path, path, on_record[path], found)
    if found.different:
        found.same_verdicts = _agree(before, _verdicts(copy))
    return found


def _require_inputs(
    copy: Path, tag: str, level: Level, wanted: list[str], locked: dict[str, Any]
) -> None:
    """Everything that the stages read and do not make themselves has to be there, and as it was."""
    if level == "reexecute" and (copy / "data.dvc").exists():
        try:
            layout.ensure_data(copy)
        except WorkspaceError as error:
            raise ReproductionError(f"{tag} cannot be executed again: {error}") from error
    on_record, made = _on_record(locked), _paths(locked, wanted, "outs")
    needed = [
        path
        for path in _paths(locked, wanted, "deps")
        if not any(_within(path, out) or _within(out, path) for out in made)
    ]
    missing = [path for path in needed if not (copy / path).exists()]
    if missing:
        raise ReproductionError(
            f"{tag}: the level {level} needs what is neither in DVC's cache nor in a remote: "
            f"{_some(missing)}"
        )
    altered = [path for path in needed if dvc_graph.content_hash(copy / path) != on_record[path]]
    if altered:
        raise ReproductionError(f"{tag}: these inputs are not the ones on record: {_some(altered)}")


@contextlib.contextmanager
def worktree(folder: Path, tag: str) -> Iterator[Path]:
    """A checkout of a closed batch's tag that shares the DVC cache and is gone afterwards, whatever
    happens."""
    with checkouts.at(folder, tag) as copy:
        if not (copy / "dvc.lock").is_file():
            raise ReproductionError(f"{tag} holds no dvc.lock, so it is no closed batch")
        yield copy


def _lock(copy: Path) -> dict[str, Any]:
    """The stages of `dvc.lock` that `dvc.yaml` has; DVC leaves former ones in."""
    from ruamel.yaml import YAML

    document = YAML(typ="safe").load((copy / "dvc.lock").read_text(encoding="utf-8")) or {}
    current = {stage.name for stage in dvc_graph.read(copy)}
    return {
        name: stage for name, stage in (document.get("stages") or {}).items() if name in current
    }


def _on_record(locked: dict[str, Any]) -> dict[str, str]:
    """Every path in `dvc.lock` with its hash.

    Raises:
        ReproductionError: one stage made a file with one hash and another read it with another.
    """
    found: dict[str, str] = {}
    for name, stage in locked.items():
        for entry in (*stage.get("deps", []), *stage.get("outs", [])):
            recorded = str(entry.get("md5"))
            if found.setdefault(entry["path"], recorded) != recorded:
                raise ReproductionError(
                    f"dvc.lock contradicts itself: {entry['path']} has two hashes (stage {name})"
                )
    return found


def _paths(locked: dict[str, Any], names: list[str], kind: Literal["deps", "outs"]) -> list[str]:
    """What these stages read or make, sorted."""
    return sorted({entry["path"] for name in names for entry in locked.get(name, {}).get(kind, [])})


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _verdicts(copy: Path) -> dict[str, Any]:
    path = copy / VERDICTS
    found: dict[str, Any] = files.read_json(path).get("requests", {}) if path.exists() else {}
    return found


def _agree(before: dict[str, Any], after: dict[str, Any]) -> bool | None:
    """Whether verdicts are equal and new estimates lie in the recorded intervals; machines differ
    in last bits."""
    if not before or before.keys() != after.keys():
        return None if not before else False
    return all(_same_finding(before[request], after[request]) for request in before)


def _same_finding(old: dict[str, Any], new: dict[str, Any]) -> bool:
    influence = old.get("residual_influence") or {}
    low, high = influence.get("low"), influence.get("high")
    estimate = (new.get("residual_influence") or {}).get("estimate")
    if estimate is None or low is None or high is None:
        return bool(
            old.get("verdict") == new.get("verdict") and influence.get("estimate") == estimate
        )
    return bool(old.get("verdict") == new.get("verdict") and low <= estimate <= high)


def _changed_files(here: Path, there: Path) -> list[str]:
    if here.is_file() or not there.is_dir():
        return [here.name]
    names = {
        path.relative_to(root).as_posix()
        for root in (here, there)
        for path in root.rglob("*")
        if path.is_file()
    }
    return sorted(name for name in names if _content(here / name) != _content(there / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _tags(folder: Path) -> str:
    there = shell.git(folder, "tag", "--list", "audit/*").split()
    return f"Closed batches here: {', '.join(there) or 'none'}"


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
