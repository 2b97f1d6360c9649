"""Makes the commit of a release in a checkout of its own; the workspace stays unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.pipeline import close_batch
from flows.register.anchors import HEADS
from flows.release import decided_reports, next_audit
from flows.release.release_contents import (
    REFERENCES,
    RELEASES,
    Inputs,
    ReleaseError,
    audited_file,
    drop_records,
    in_use,
    write_models,
)
from flows.release.standing import NOT_IN_TRAINING, Standing
from flows.release.workspace_switch import (
    BatchRelease,
    SwitchPlan,
    changed_paths,
    refuse_uncommitted,
)
from flows.workspace import dvc_graph, shell
from tasks.common import files, settings
from tasks.common.errors import WorkspaceError
from tasks.data import records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

LEDGER = Path("ledger/releases")
"""Folder of releases, one file per batch; git keeps it."""


def prepare(release: BatchRelease, standing: Standing) -> SwitchPlan:
    """Make the commit of a release outside the workspace, and the journal of the switch to it.

    Args:
        release: the batch.
        standing: of the batch.

    Raises:
        ReleaseError: files that the release changes have uncommitted changes, or a file of the
            audit is missing.
        AuditError: git, DVC or the remote fails.
    """
    release.log("prepare")
    _refuse_unready(release)
    start = shell.git(release.home, "rev-parse", "HEAD^{commit}")
    with close_batch.checkout(release.home, release.audit) as copy:
        facts = _fill(release, copy, standing)
        release.log("commit")
        _commit(release, copy, start)
        target = shell.git(copy, "rev-parse", "HEAD^{commit}")
        refuse_uncommitted(release, changed_paths(release.home, start, target))
        release.log("push")
        if dvc_graph.has_remote(copy):
            tracked = [path for path in (*release.pointers, "data.dvc") if (copy / path).exists()]
            shell.dvc(copy, "push", *tracked)
    plan = SwitchPlan(start, target, (release.home / "data").exists(), facts["weights_sha256"])
    release.log("journal")
    plan.write(release.journal)
    return plan


def _fill(release: BatchRelease, copy: Path, standing: Standing) -> dict[str, Any]:
    """Write the content of the release's commit. Returns its facts for the ledger."""
    import numpy as np

    commit = shell.git(copy, "rev-parse", "HEAD^{commit}")
    manifest = records.read_manifest(audited_file(copy, release.batch, "data/manifest.csv").parent)
    roles = records.read_roles(audited_file(copy, release.batch, "artifacts/split.csv"), manifest)
    unseen = _unseen(release, copy, manifest, standing)
    facts: dict[str, Any] = {
        "model": None,
        "weights_sha256": None,
        "references": 0,
        "unlearnings": 0,
        "advice": [],
    }
    forgotten = np.zeros_like(unseen)
    if not standing.data_only:
        forget = audited_file(copy, release.batch, "artifacts/resolve/forget.csv")
        forgotten = records.read_forget(forget, manifest) != ""
        if standing.model is None:
            raise ReleaseError(f"batch {release.batch}: nobody decided which model is released")
        decided_reports.write(release.home, copy, release.register, release.batch, release.log)
    before, changes = dvc_graph.data_folders(copy)["data.dvc"], _settings_before(release)
    release.log("data")
    drop_records(copy / "data", forgotten | unseen, roles)
    if standing.model is not None and not standing.data_only:
        versions = {"before": before, "after": dvc_graph.content_hash(copy / "data")}
        release.log("model")
        chosen = in_use(copy, settings.load(copy / "params.yaml"))
        inputs = Inputs(
            copy, release.batch, commit, chosen, manifest, roles == "training", forgotten
        )
        model_settings, model_facts = write_models(inputs, standing.model, versions)
        changes |= model_settings
        facts |= model_facts
    tracked = [path.removesuffix(".dvc") for path in (*release.pointers, "data.dvc")]
    shell.dvc(copy, "add", *(path for path in tracked if (copy / path).exists()))
    settings.assign(copy / "params.yaml", [f"{key}={value}" for key, value in changes.items()])
    now = files.timestamp()
    facts |= {
        "batch": release.batch,
        "tag": release.tag,
        "records_dropped": int((forgotten | unseen).sum()),
        "at": now,
    }
    files.write_json(copy / LEDGER / f"{release.batch}.json", facts)
    release.register.file_head(copy / HEADS / f"release-{release.batch}.json")
    return facts


def _settings_before(release: BatchRelease) -> dict[str, str]:
    """The workspace's values of settings that were changed for this batch only."""
    workspace_settings = json.loads(settings.load(release.home / "params.yaml").model_dump_json())
    restored = {}
    for key in next_audit.wishes_of(release.register, release.batch):
        section, _, leaf = key.partition(".")
        restored[key] = json.dumps(workspace_settings[section][leaf])
    return restored


def _unseen(
    release: BatchRelease, copy: Path, manifest: pd.DataFrame, standing: Standing
) -> NDArray[np.bool_]:
    """(n,) the records that are dropped although no model was trained on them."""
    from tasks.data.people import requests_by_record
    from tasks.requests.directory import read_directory
    from tasks.requests.opendsr import read_batch

    request_ids = {case.request_id for case in standing.requests if case.verdict == NOT_IN_TRAINING}
    entries = [
        entry
        for entry in read_batch(copy / "requests" / f"{release.batch}.json")
        if entry.request_id in request_ids
    ]
    unseen: NDArray[np.bool_] = (
        requests_by_record(entries, manifest, read_directory(copy / "data", manifest)) != ""
    )
    return unseen


def _commit(release: BatchRelease, copy: Path, start: str) -> None:
    """Commit everything, and merge it with the workspace's own commits."""
    paths = [
        "data.dvc",
        "dvc.lock",
        "ledger",
        "params.yaml",
        f"reports/{release.batch}",
        f"signed/{release.batch}",
        *release.pointers,
        f"{RELEASES}/.gitignore",
        f"{REFERENCES}/.gitignore",
    ]
    shell.git(copy, "add", "--", *(path for path in paths if (copy / path).exists()))
    message = f"Release of batch {release.batch}"
    shell.git(copy, "commit", "--quiet", "-m", message)
    commit = shell.git(copy, "rev-parse", "HEAD^{commit}")
    if shell.succeeds(copy, "merge-base", "--is-ancestor", start, commit):
        return
    shell.git(copy, "checkout", "--quiet", "--detach", start)
    try:
        shell.git(copy, "merge", "--quiet", "--no-ff", "-m", message, commit)
    except WorkspaceError as error:
        conflicts = shell.git(copy, "diff", "--name-only", "--diff-filter=U").splitlines()
        raise ReleaseError(
            f"commits made here since {release.audit} began conflict with it in "
            f"{', '.join(conflicts) or error}; nothing was changed. Merge the branch or tag by "
            f"hand (`git merge {release.audit}`), then release again"
        ) from None
    settings.load(copy / "params.yaml")


def _refuse_unready(release: BatchRelease) -> None:
    """Check that the workspace has the audit's data, and no uncommitted changes in files that the
    release changes."""
    within = shell.git(release.home, "rev-parse", "--show-prefix")
    always_changed = {within + path for path in ("params.yaml", "data.dvc", "dvc.lock")}
    refuse_uncommitted(
        release, always_changed | set(changed_paths(release.home, f"HEAD...{release.audit}"))
    )
    current_data, audited_data = (
        _pointer(release.home, revision) for revision in ("HEAD", release.audit)
    )
    if current_data != audited_data:
        raise ReleaseError(
            f"data.dvc differs from that of {release.audit}, so the data changed; restore them "
            f"(`git checkout {release.audit} -- data.dvc && dvc checkout data.dvc`, commit), "
            "release, then change them"
        )
    if (release.home / "data").exists() and not _has_data(release):
        raise ReleaseError(
            "data/ is not what data.dvc records; `dvc add data` or `dvc checkout data.dvc` first"
        )
    for path in release.folders:
        if (release.home / path).exists():
            raise ReleaseError(f"{path} exists and does not belong to a release; move it away")


def _has_data(release: BatchRelease) -> bool:
    """Whether data/ is what `data.dvc` records. Files that only DVC's cache lacks are added to
    it."""
    if not json.loads(shell.dvc(release.home, "status", "--json", "data.dvc") or "{}"):
        return True
    if (
        dvc_graph.content_hash(release.home / "data")
        != dvc_graph.data_folders(release.home)["data.dvc"]
    ):
        return False
    shell.dvc(release.home, "commit", "--force", "data.dvc")
    return True


def _pointer(home: Path, revision: str) -> str | None:
    """The hash of the data in a commit."""
    from ruamel.yaml import YAML

    try:
        text = shell.git(home, "show", f"{revision}:./data.dvc")
    except WorkspaceError:
        return None
    return str(YAML(typ="safe").load(text)["outs"][0]["md5"])
