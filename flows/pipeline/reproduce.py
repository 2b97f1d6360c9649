"""Checks a closed batch: at its tag, in a worktree of its own, at one of three levels.

`integrity` compares every recorded file with its hash in `dvc.lock`, and checks the signatures.
`rederive` makes verdicts and reports again from the kept scores; it works after the records are
erased. `reexecute` runs every stage again.

No level is vacuous: a recorded file that is not kept needs the receipt of an erasure, or the level
does not hold. No level changes anything: DVC's cache and remotes are only read, and stages run with
a temporary cache.
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
"""Prefixes of a batch's tags, the latest state first. Tags of renewed reports are later still."""


@dataclass
class Comparison:
    """The result of a level. Paths are relative to the workspace.

    Attributes:
        level: the level asked for.
        tag: the git tag looked at.
        ran: stages that ran anew.
        identical: files and folders with the hash that is on record.
        different: paths with another hash, with where and why.
        missing: recorded paths that are not kept and have no receipt, also if never pushed.
        erased: recorded paths that were erased, with the file of receipts.
        notes: further facts, such as remotes that could not be read.
        same_verdicts: whether every verdict is the same and every statistic lies inside its
            recorded interval although files differ; None: nothing differs, or verdicts are missing.
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
        level: which comparison is made.
        listener: told what happens to the stages that run.

    Returns:
        The identical and the different paths; true if the level holds.

    Raises:
        ReproductionError: there is no such tag, an input of the level is missing, a stage did not
            run, or there was nothing to compare.
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
        record = Record(checkout, KeptObjects.of_workspace(folder))
        if level == "integrity":
            comparison = _integrity(folder, record, tag, receipts)
        else:
            comparison = _run_again(record, tag, level, listener)
        comparison.notes += [
            f"{name} could not be read ({error})"
            for name, error in sorted(record.objects.unreachable.items())
        ]
    if not comparison.identical and not comparison.different:
        lost = comparison.missing + comparison.erased
        raise ReproductionError(
            f"{tag}: nothing could be compared; everything on record is gone: {_shortened(lost)}"
        )
    return comparison


@contextlib.contextmanager
def worktree(folder: Path, tag: str) -> Iterator[Path]:
    """A temporary checkout of a closed batch's tag, as git has it.

    Its DVC has an empty cache of its own and no remotes, so nothing that runs in it can touch the
    caller's.

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
        config = (
            f"[core]\n    site_cache_dir = {parent / 'site'}\n[cache]\n    dir = "
            f"{parent / 'cache'}\n"
        )
        files.write_text(checkout / ".dvc" / "config", config)
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
        f"{receipt.file} does not count: {receipt.fault}" for receipt in receipts if receipt.fault
    ]
    return comparison


def _compare_kept(record: Record, path: str, comparison: Comparison) -> None:
    """Compare one recorded path with its copy in git, DVC's cache or a remote."""
    if record.in_git(path):
        _compare(record, path, comparison)
        return
    recorded_files = record.files(path)
    if recorded_files.damaged:
        shown = (
            ""
            if recorded_files.damaged == (path,)
            else f" ({_shortened(list(recorded_files.damaged))})"
        )
        comparison.different.append(f"{path} is damaged in DVC's store{shown}")
    if recorded_files.missing:
        comparison.missing.append(path)
    if not recorded_files.damaged and not recorded_files.missing:
        comparison.identical.append(path)


def _compare(record: Record, path: str, comparison: Comparison) -> None:
    """Compare a path that lies in the worktree with its hash on record."""
    output = record.checkout / path
    if not output.exists():
        comparison.missing.append(path)
    elif dvc_graph.content_hash(output) == record.hashes[path]:
        comparison.identical.append(path)
    else:
        comparison.different.append(path)


def _compare_pipeline(record: Record, comparison: Comparison) -> None:
    """Check that every stage ran with the command and the settings of the tag."""
    nobody_left = _nobody_left(record)
    for name in record.names:
        if name not in record.stages and not nobody_left:
            comparison.missing.append(f"dvc.lock, stage {name}")
    for stage, differs in dvc_graph.status(record.checkout).items():
        if stage in record.stages:
            description = str(differs)
            comparison.different += [f"params.yaml ({stage})"] * ("params.yaml" in description)
            comparison.different += [f"dvc.yaml ({stage})"] * ("changed command" in description)


def _nobody_left(record: Record) -> bool:
    """Whether every request was set aside: then no stage after `resolve` had anything to do."""
    content = record.read(RESOLVED)
    entries = json.loads(content).get("batch_requests", []) if content else []
    return bool(entries) and all(entry["status"] == "rejected" for entry in entries)


def _compare_checkout(folder: Path, record: Record, comparison: Comparison) -> None:
    """Compare the reports in the caller's checkout, which are the ones that people open.

    After a release or an erasure they are compared with the reports of that state.
    """
    latest = _latest(folder, comparison.tag)
    for path, recorded in record.hashes.items():
        report = folder / path
        is_report = path.startswith("reports/") and path != "reports/templates"
        if not is_report or not report.exists() or dvc_graph.content_hash(report) == recorded:
            continue
        if latest != comparison.tag:
            changed_names = shell.git(
                folder, "diff", "--name-only", "--relative", latest, "--", path
            ).splitlines()
            changed_names += shell.git(folder, "ls-files", "--others", "--", path).splitlines()
        else:
            changed_names = _changed_files(report, record.checkout / path)
        if changed_names:
            comparison.different.append(f"{path} in this checkout ({_shortened(changed_names)})")


def _excuse_erased(
    receipts: list[batch_record.Receipts], recorded: Iterable[str], comparison: Comparison
) -> None:
    """Separate paths that were erased with receipts from paths that are missing without a reason.

    A folder with an erased part is excused only if all its other parts are there.
    """
    for receipt in receipts:
        listed = receipt.erased(comparison.tag)
        excused = {
            path for path in comparison.missing if any(within(path, erased) for erased in listed)
        }
        accounted = {*excused, *comparison.identical}
        for path in set(comparison.missing) - excused:
            parts = {inner for inner in recorded if inner != path and within(inner, path)}
            if parts & excused and parts <= accounted:
                excused.add(path)
        comparison.missing = [path for path in comparison.missing if path not in excused]
        comparison.erased += [
            f"{path} (on {receipt.day}, {receipt.file})" for path in sorted(excused)
        ]


def _check_signatures(folder: Path, record: Record, comparison: Comparison) -> None:
    """Check the signed reports of the tag and of the caller's checkout against the keys that the
    caller trusts now."""
    trusted, stamps = signing_keys.trusted(folder), signing_keys.stamp_policy(folder)
    batch = comparison.tag.removeprefix("audit/")
    for root, suffix in ((record.checkout, ""), (folder, " in this checkout")):
        for signed_folder in sorted((root / signing.SIGNED / batch).glob("*/")):
            name = f"{signing.SIGNED}/{batch}/{signed_folder.name}"
            check = signature_checks.verify(signed_folder, trusted, stamps=stamps)
            if not check:
                comparison.different.append(f"{name}{suffix} ({check.line})")
            elif root == record.checkout:
                comparison.identical.append(name)
                comparison.different += _unlike_signed(
                    record.checkout, signed_folder, name, trusted
                )
    _require_signatures(record.checkout, batch, comparison)


def _unlike_signed(checkout: Path, signed_folder: Path, name: str, trusted: Any) -> list[str]:
    """The files that a statement signs and the tag lacks or holds with other bytes.

    Somebody may have moved the tag to another `dvc.lock`, or to a commit without some reports.
    """
    try:
        statement = unseal((signed_folder / signing.STATEMENT).read_bytes(), trusted)
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
    """If the batch was run with a signing key, every report must be signed."""
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
    """Refuse to execute a batch whose data were erased, even if the data could be made again, as
    the embedded digits could."""
    for receipt in receipts:
        if "data" in receipt.erased(tag):
            raise ReproductionError(
                f"{tag} cannot be executed again: records that it read were erased on "
                f"{receipt.day}, receipts in {receipt.file}. The level rederive makes verdicts and "
                "reports again without them"
            )


def _run_again(
    record: Record, tag: str, level: Level, listener: stage_runner.Listener
) -> Comparison:
    stages = [name for name in record.names if level == "reexecute" or name in REDERIVED]
    _bring_inputs(record, tag, level, stages)
    comparison = Comparison(level, tag, ran=_run_stages(record.checkout, stages, listener))
    if not stages or comparison.ran != stages:
        raise ReproductionError(
            f"{tag}: expected {_shortened(stages) or 'stages'} to run, ran "
            f"{_shortened(comparison.ran) or 'nothing'}"
        )
    comparison.missing += [
        f"dvc.lock, stage {name}" for name in stages if name not in record.stages
    ]
    for path in record.paths(stages, "outs"):
        _compare(record, path, comparison)
    if comparison.different:
        recorded = json.loads(record.read(VERDICTS) or b"{}")
        verdicts = record.checkout / VERDICTS
        comparison.same_verdicts = _agree(
            recorded, files.read_json(verdicts) if verdicts.exists() else {}
        )
    return comparison


def _bring_inputs(record: Record, tag: str, level: Level, stages: list[str]) -> None:
    """Restore every recorded input of the stages that they do not make themselves."""
    outputs = record.paths(stages, "outs")
    needed = [
        path for path in record.paths(stages, "deps") if not _is_output(path, outputs, record)
    ]
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
        recorded_files = (
            record.files(path)
            if record.hashes[path] != EMPTY_FOLDER
            else batch_record.RecordedFiles()
        )
        altered += [path] * bool(recorded_files.damaged)
        missing += [path] * bool(recorded_files.missing)
        record.bring(path)
    if missing:
        raise ReproductionError(
            f"{tag}: the level {level} needs these files, which are neither in DVC's cache nor in "
            "a remote: "
            f"{_shortened(missing)}"
        )
    if altered:
        raise ReproductionError(
            f"{tag}: these inputs are not the ones on record: {_shortened(altered)}"
        )


def _is_output(path: str, outputs: list[str], record: Record) -> bool:
    """Whether the stages make a path themselves, or every recorded path inside it."""
    if any(within(path, out) for out in outputs):
        return True
    parts = {inner for inner in record.hashes if inner != path and within(inner, path)}
    return bool(parts) and parts <= set(outputs)


def _bring_data(record: Record, tag: str) -> None:
    """Restore the records that `data.dvc` names; the embedded digits can be made again."""
    pointer = dvc_graph.data_folders(record.checkout)["data.dvc"]
    record.hashes.setdefault("data", str(pointer))
    if record.hashes["data"] != pointer:
        raise ReproductionError(f"{tag}: data.dvc and dvc.lock name different data")
    recorded_files = record.files("data")
    if recorded_files.damaged:
        raise ReproductionError(
            f"{tag}: these inputs are not the ones on record: "
            f"{_shortened(list(recorded_files.damaged))}"
        )
    if not recorded_files.missing:
        record.bring("data")
        return
    try:
        layout.ensure_data(record.checkout)
    except WorkspaceError as error:
        raise ReproductionError(f"{tag} cannot be executed again: {error}") from error


def _run_stages(checkout: Path, stages: list[str], listener: stage_runner.Listener) -> list[str]:
    """Run the stages again and return those that ran."""
    runner = stage_runner.Runner(checkout, 1, listener)
    for name in stages:
        listener(stage_runner.StageEvent(name, "planned"))
    try:
        return [name for name in stages if runner.run(name, force=True) == "ran"]
    except BaseException:
        runner.stop()
        raise


def _agree(before: dict[str, Any], after: dict[str, Any]) -> bool | None:
    """Whether verdicts are equal and new estimates lie in the recorded intervals: machines differ
    in the last bits."""
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
        estimate_agrees = influence.get("estimate") == estimate
    else:
        estimate_agrees = low <= estimate <= high
    return bool(old.get("verdict") == new.get("verdict") and estimate_agrees)


# -- small things ---------------------------------------------------------------------------------


def _latest(folder: Path, tag: str) -> str:
    """The batch's latest state that has a tag."""
    batch = tag.removeprefix("audit/")
    tags = [f"{state}/{batch}" for state in LATER]
    tags = close_batch.renewals(folder, batch) + tags
    return next((name for name in tags if git.has_tag(folder, name)), tag)


def _changed_files(current: Path, recorded: Path) -> list[str]:
    if current.is_file() or not recorded.is_dir():
        return [current.name]
    names = {
        path.relative_to(root).as_posix()
        for root in (current, recorded)
        for path in root.rglob("*")
        if path.is_file()
    }
    return sorted(name for name in names if _content(current / name) != _content(recorded / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _tags(folder: Path) -> str:
    closed = shell.git(folder, "tag", "--list", "audit/*").split()
    return f"Closed batches here: {', '.join(closed) or 'none'}"


def _shortened(names: list[str], limit: int = 6) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
