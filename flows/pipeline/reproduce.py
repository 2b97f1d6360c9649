"""Checking a closed batch: at its tag, in a worktree of its own, at one of three levels.

`integrity` compares every file that is on record with its hash in `dvc.lock`, and checks the
signatures. `rederive` makes verdicts and reports anew from the kept scores, which works after the
records are erased. `reexecute` does everything anew.

No level is vacuous: what is on record and is not kept has to have an erasure's receipt, or the
level does not hold. No level changes anything: DVC's cache and remotes are only read, and stages
that run anew have a cache of their own, which is gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flows.pipeline import batch_record, close_batch, stage_runner
from flows.pipeline.batch_record import Record, within
from flows.pipeline.kept_objects import EMPTY_FOLDER, KeptObjects
from flows.reports import signature_checks, signing
from flows.workspace import dvc_graph, dvc_locks, git, layout, shell, signing_keys
from tasks.common import files
from tasks.common.errors import ReproductionError, SignatureError, WorkspaceError
from tasks.signatures.statement import unseal

Level = Literal["integrity", "rederive", "reexecute"]

REDERIVED = ("verify", "propose", "report")
"""The stages that run from the scores alone."""

VERDICTS = "artifacts/verify/verdicts.json"
RESOLVED = "artifacts/resolve/register.json"
LATER = ("erased", "release", "audit")
"""Beginnings of a batch's tags, the latest state first; later still are those of its reports that
were made again."""


@dataclass
class Comparison:
    """What a level found. Paths are relative to the workspace.

    Attributes:
        level: the level asked for.
        tag: the git tag looked at.
        ran: stages that ran anew.
        identical: files and folders with the hash that is on record.
        different: what has another hash, with where and why.
        missing: what is on record and not kept, without a receipt; also if it was never pushed.
        erased: what is on record and was erased, with the file of receipts.
        notes: what else a reader has to know, such as remotes that could not be read.
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
    notes: list[str] = field(default_factory=list)
    same_verdicts: bool | None = None

    def __bool__(self) -> bool:
        """Whether the level holds: something was compared, and nothing is missing or differs."""
        compared = bool(self.identical or self.different)
        agrees = not self.different or self.same_verdicts is True
        return compared and not self.missing and agrees

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "holds": bool(self)}


def reproduce(
    folder: Path, batch: str, level: Level, listener: stage_runner.Listener = stage_runner.nobody
) -> Comparison:
    """Check a closed batch. The caller's checkout, cache and remotes stay as they are.

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
    receipts = batch_record.receipts(folder)
    if level == "reexecute":
        _refuse_erased(receipts, tag)
    with dvc_locks.using(folder), worktree(folder, tag) as checkout:
        record = Record(checkout, KeptObjects.of(folder))
        if level == "integrity":
            comparison = _integrity(folder, record, tag, receipts)
        else:
            comparison = _anew(record, tag, level, listener)
        comparison.notes += [
            f"{name} could not be read ({error})"
            for name, error in sorted(record.objects.unreachable.items())
        ]
    if not comparison.identical and not comparison.different:
        lost = comparison.missing + comparison.erased
        raise ReproductionError(
            f"{tag}: nothing could be compared; everything on record is gone: {_some(lost)}"
        )
    return comparison


@contextlib.contextmanager
def worktree(folder: Path, tag: str) -> Iterator[Path]:
    """A checkout of a closed batch's tag as git has it, gone afterwards, whatever happens.

    Its DVC has an empty cache of its own and no remotes, so that nothing that runs in it can touch
    the caller's.

    Raises:
        ReproductionError: the tag holds no `dvc.lock`.
        WorkspaceError: git fails.
    """
    parent = Path(tempfile.mkdtemp(prefix="erasure-audit-"))
    tree = parent / "workspace"
    try:
        shell.git(folder, "worktree", "add", "--quiet", "--detach", str(tree), tag)
        checkout = tree / shell.git(folder, "rev-parse", "--show-prefix")
        if not (checkout / "dvc.lock").is_file() or not (checkout / ".dvc").is_dir():
            raise ReproductionError(f"{tag} holds no dvc.lock, so it is no closed batch")
        own = (
            f"[core]\n    site_cache_dir = {parent / 'site'}\n[cache]\n    dir = "
            f"{parent / 'cache'}\n"
        )
        files.write_text(checkout / ".dvc" / "config", own)
        yield checkout
    finally:
        shutil.rmtree(parent, ignore_errors=True)
        shell.git(folder, "worktree", "prune")


# -- integrity ------------------------------------------------------------------------------------


def _integrity(
    folder: Path, record: Record, tag: str, receipts: list[batch_record.Receipts]
) -> Comparison:
    comparison = Comparison("integrity", tag)
    for path in record.hashes:
        _compare_kept(record, path, comparison)
    _compare_pipeline(record, comparison)
    _compare_checkout(folder, record, comparison)
    _excuse_erased(receipts, record.hashes, comparison)
    _check_signatures(folder, record, comparison)
    comparison.notes += [
        f"{found.file} does not count: {found.fault}" for found in receipts if found.fault
    ]
    return comparison


def _compare_kept(record: Record, path: str, comparison: Comparison) -> None:
    """Compare one recorded path with what git, DVC's cache or a remote holds of it."""
    if record.in_git(path):
        _compare(record, path, comparison)
        return
    kept = record.files(path)
    if kept.damaged:
        shown = "" if kept.damaged == (path,) else f" ({_some(list(kept.damaged))})"
        comparison.different.append(f"{path} is damaged in DVC's store{shown}")
    if kept.missing:
        comparison.missing.append(path)
    if not kept.damaged and not kept.missing:
        comparison.identical.append(path)


def _compare(record: Record, path: str, comparison: Comparison) -> None:
    """Compare a path that lies in the worktree with its hash on record."""
    place = record.checkout / path
    if not place.exists():
        comparison.missing.append(path)
    elif dvc_graph.content_hash(place) == record.hashes[path]:
        comparison.identical.append(path)
    else:
        comparison.different.append(path)


def _compare_pipeline(record: Record, comparison: Comparison) -> None:
    """Every stage ran, by the command and the settings that the tag holds."""
    nobody_left = _nobody_left(record)
    for name in record.names:
        if name not in record.stages and not nobody_left:
            comparison.missing.append(f"dvc.lock, stage {name}")
    for stage, differs in dvc_graph.status(record.checkout).items():
        if stage in record.stages:
            told = str(differs)
            comparison.different += [f"params.yaml ({stage})"] * ("params.yaml" in told)
            comparison.different += [f"dvc.yaml ({stage})"] * ("changed command" in told)


def _nobody_left(record: Record) -> bool:
    """Whether every request was set aside, so that the stages after `resolve` had nothing to
    do."""
    content = record.read(RESOLVED)
    entries = json.loads(content).get("batch_requests", []) if content else []
    return bool(entries) and all(entry["status"] == "rejected" for entry in entries)


def _compare_checkout(folder: Path, record: Record, comparison: Comparison) -> None:
    """The reports that lie in the caller's checkout are the ones that people open, so they are
    looked at, too.

    After a release or an erasure they tell of it, and are compared with that state's.
    """
    latest = _latest(folder, comparison.tag)
    for path, recorded in record.hashes.items():
        here = folder / path
        is_report = path.startswith("reports/") and path != "reports/templates"
        if not is_report or not here.exists() or dvc_graph.content_hash(here) == recorded:
            continue
        if latest != comparison.tag:
            changed = shell.git(
                folder, "diff", "--name-only", "--relative", latest, "--", path
            ).splitlines()
            changed += shell.git(folder, "ls-files", "--others", "--", path).splitlines()
        else:
            changed = _changed_files(here, record.checkout / path)
        if changed:
            comparison.different.append(f"{path} in this checkout ({_some(changed)})")


def _excuse_erased(
    receipts: list[batch_record.Receipts], recorded: Iterable[str], comparison: Comparison
) -> None:
    """Separate what was erased, with receipts, from what is missing for no known reason.

    A folder of which a part was erased is excused only if all its other parts are there.
    """
    for receipt in receipts:
        listed = receipt.erased(comparison.tag)
        gone = {
            path for path in comparison.missing if any(within(path, erased) for erased in listed)
        }
        accounted = {*gone, *comparison.identical}
        for path in set(comparison.missing) - gone:
            parts = {other for other in recorded if other != path and within(other, path)}
            if parts & gone and parts <= accounted:
                gone.add(path)
        comparison.missing = [path for path in comparison.missing if path not in gone]
        comparison.erased += [f"{path} (on {receipt.day}, {receipt.file})" for path in sorted(gone)]


def _check_signatures(folder: Path, record: Record, comparison: Comparison) -> None:
    """The signed reports of the tag, and those in the caller's checkout; whom to trust is the
    caller's word of now."""
    trusted, stamps = signing_keys.trusted(folder), signing_keys.stamp_policy(folder)
    batch = comparison.tag.removeprefix("audit/")
    for root, where in ((record.checkout, ""), (folder, " in this checkout")):
        for place in sorted((root / signing.SIGNED / batch).glob("*/")):
            name = f"{signing.SIGNED}/{batch}/{place.name}"
            check = signature_checks.verify(place, trusted, stamps=stamps)
            if not check:
                comparison.different.append(f"{name}{where} ({check.line})")
            elif root == record.checkout:
                comparison.identical.append(name)
                comparison.different += _unlike_signed(record.checkout, place, name, trusted)
    _require_signatures(record.checkout, batch, comparison)


def _unlike_signed(checkout: Path, place: Path, name: str, trusted: Any) -> list[str]:
    """What the tag lacks of the files that a statement signs, or holds in another form.

    A tag could have been moved to another `dvc.lock`, or to one without some of the reports.
    """
    try:
        statement = unseal((place / signing.STATEMENT).read_bytes(), trusted)
    except (OSError, SignatureError) as error:
        return [f"{name} ({signing.STATEMENT}: {error})"]
    signed = {
        path: digest
        for path, digest in statement.subjects.items()
        if path.startswith((f"{signing.REPORTS}/", f"{signing.SIGNED}/"))
    } | {signing.LOCK: statement.subjects.get(signing.LOCK)}
    return [
        f"{path} is not the one that {name} signs"
        for path, digest in signed.items()
        if not (checkout / path).is_file() or files.sha256(checkout / path) != digest
    ]


def _require_signatures(checkout: Path, batch: str, comparison: Comparison) -> None:
    """Where the batch's circumstances name a signing key, every report has to be signed."""
    filed = checkout / "ledger" / "batches" / f"{batch}.json"
    circumstances = files.read_json(filed) if filed.is_file() else {}
    reports = sorted((checkout / "reports" / batch).glob("*/evidence.json"))
    unsigned = [
        f"{signing.SIGNED}/{batch}/{path.parent.name}"
        for path in reports
        if not (checkout / signing.SIGNED / batch / path.parent.name).is_dir()
    ]
    if circumstances.get("signing"):
        comparison.missing += unsigned
    elif unsigned:
        comparison.notes.append(f"{len(unsigned)} of {len(reports)} reports are not signed")


# -- rederive and reexecute -----------------------------------------------------------------------


def _refuse_erased(receipts: list[batch_record.Receipts], tag: str) -> None:
    """Data that were erased are not made again either, as the embedded ones could be."""
    for receipt in receipts:
        if "data" in receipt.erased(tag):
            raise ReproductionError(
                f"{tag} cannot be executed again: records that it read were erased on "
                f"{receipt.day}, receipts in {receipt.file}. The level rederive makes verdicts and "
                "reports again without them"
            )


def _anew(record: Record, tag: str, level: Level, listener: stage_runner.Listener) -> Comparison:
    wanted = [name for name in record.names if level == "reexecute" or name in REDERIVED]
    _bring_inputs(record, tag, level, wanted)
    comparison = Comparison(level, tag, ran=_run(record.checkout, wanted, listener))
    if not wanted or comparison.ran != wanted:
        raise ReproductionError(
            f"{tag}: expected {_some(wanted) or 'stages'} to run, ran "
            f"{_some(comparison.ran) or 'nothing'}"
        )
    comparison.missing += [
        f"dvc.lock, stage {name}" for name in wanted if name not in record.stages
    ]
    for path in record.paths(wanted, "outs"):
        _compare(record, path, comparison)
    if comparison.different:
        before = json.loads(record.read(VERDICTS) or b"{}")
        made = record.checkout / VERDICTS
        comparison.same_verdicts = _agree(before, files.read_json(made) if made.exists() else {})
    return comparison


def _bring_inputs(record: Record, tag: str, level: Level, wanted: list[str]) -> None:
    """Bring everything that the stages read and do not make themselves, as it is on record."""
    made = record.paths(wanted, "outs")
    needed = [path for path in record.paths(wanted, "deps") if not _is_made(path, made, record)]
    if level == "reexecute" and (record.checkout / "data.dvc").exists():
        needed = [path for path in needed if not within(path, "data")]
        _bring_data(record, tag)
    missing, altered = [], []
    for path in needed:
        if record.in_git(path):
            altered += [path] * (
                dvc_graph.content_hash(record.checkout / path) != record.hashes[path]
            )
            continue
        kept = (
            record.files(path)
            if record.hashes[path] != EMPTY_FOLDER
            else batch_record.RecordedFiles()
        )
        altered += [path] * bool(kept.damaged)
        missing += [path] * bool(kept.missing)
        record.bring(path)
    if missing:
        raise ReproductionError(
            f"{tag}: the level {level} needs what is neither in DVC's cache nor in a remote: "
            f"{_some(missing)}"
        )
    if altered:
        raise ReproductionError(f"{tag}: these inputs are not the ones on record: {_some(altered)}")


def _is_made(path: str, made: list[str], record: Record) -> bool:
    """Whether the stages make a path themselves, or all that is on record of what lies in it."""
    if any(within(path, out) for out in made):
        return True
    parts = {other for other in record.hashes if other != path and within(other, path)}
    return bool(parts) and parts <= set(made)


def _bring_data(record: Record, tag: str) -> None:
    """Bring the records as `data.dvc` names them; the embedded ones can be made again."""
    pointer = dvc_graph.data_folders(record.checkout)["data.dvc"]
    record.hashes.setdefault("data", str(pointer))
    if record.hashes["data"] != pointer:
        raise ReproductionError(f"{tag}: data.dvc and dvc.lock name different data")
    kept = record.files("data")
    if kept.damaged:
        raise ReproductionError(
            f"{tag}: these inputs are not the ones on record: {_some(list(kept.damaged))}"
        )
    if not kept.missing:
        record.bring("data")
        return
    try:
        layout.ensure_data(record.checkout)
    except WorkspaceError as error:
        raise ReproductionError(f"{tag} cannot be executed again: {error}") from error


def _run(checkout: Path, wanted: list[str], listener: stage_runner.Listener) -> list[str]:
    """The stages that ran anew."""
    runner = stage_runner.Runner(checkout, 1, listener)
    for name in wanted:
        listener(stage_runner.StageEvent(name, "planned"))
    try:
        return [name for name in wanted if runner.run(name, force=True) == "ran"]
    except BaseException:
        runner.stop()
        raise


def _agree(before: dict[str, Any], after: dict[str, Any]) -> bool | None:
    """Whether verdicts are equal and new estimates lie in the recorded intervals; machines differ
    in last bits."""
    old, new = before.get("requests") or {}, after.get("requests") or {}
    if not old:
        return None
    return old.keys() == new.keys() and all(
        _same_finding(old[request], new[request]) for request in old
    )


def _same_finding(old: dict[str, Any], new: dict[str, Any]) -> bool:
    influence = old.get("residual_influence") or {}
    low, high = influence.get("low"), influence.get("high")
    estimate = (new.get("residual_influence") or {}).get("estimate")
    if estimate is None or low is None or high is None:
        same = influence.get("estimate") == estimate
    else:
        same = low <= estimate <= high
    return bool(old.get("verdict") == new.get("verdict") and same)


# -- small things ---------------------------------------------------------------------------------


def _latest(folder: Path, tag: str) -> str:
    """The batch's latest state that has a tag."""
    batch = tag.removeprefix("audit/")
    tags = [f"{state}/{batch}" for state in LATER]
    tags = close_batch.renewals(folder, batch) + tags
    return next((name for name in tags if git.has_tag(folder, name)), tag)


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
    closed = shell.git(folder, "tag", "--list", "audit/*").split()
    return f"Closed batches here: {', '.join(closed) or 'none'}"


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
