"""Every audit of a request, with its settings and its verdict: `ledger/audits/<batch>.json`.

Whoever repeats an audit until it passes makes a false pass likelier. So each audit is filed here
when it ends, git keeps the file with the batch, and each later report lists the earlier ones and
states the error rate of all of them together.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flows.workspace import git, shell
from tasks.common import files, settings
from tasks.common.errors import AuditError

FOLDER = Path("ledger/audits")
STATES = ("audit", "rejected")
"""Beginnings of the tags that keep what was filed for a batch."""
UNJUDGED = ("batch", "report", "operate")
"""Settings that no verdict depends on."""


def append(workspace: Path, batch: str) -> int:
    """File the audits whose reports lie in the workspace; what is filed already is left alone.

    Two runs of a batch with the same settings and data are the same audit.

    Returns:
        How many were new.
    """
    path = workspace / FOLDER / f"{batch}.json"
    filed: dict[str, list[dict[str, Any]]] = files.read_json(path) if path.exists() else {}
    new = 0
    for file in sorted((workspace / "reports" / batch).glob("*/evidence.json")):
        evidence = files.read_json(file)
        if evidence.get("status") != "audited" or "provenance" not in evidence:
            continue  # a request that was set aside had no test
        audit, audits = _audit(evidence), filed.setdefault(evidence["request"]["id"], [])
        if audit["settings_sha256"] not in {other["settings_sha256"] for other in audits}:
            audits.append(audit)
            new += 1
    if new:
        files.write_json(path, filed)
    return new


def earlier(
    workspace: Path, chosen: settings.Settings, data_md5: str | None
) -> dict[str, list[dict[str, Any]]]:
    """The audits, by request, that the requests of a batch had before the one that begins.

    They are read from the workspace and from every batch's tags, so that a rejected batch, and one
    that was closed elsewhere and fetched, count, too.

    Args:
        workspace: the workspace.
        chosen: settings of the audit that begins.
        data_md5: hash of its data.
    """
    requests = _requests(workspace / "requests" / f"{chosen.batch}.json")
    own = (chosen.batch, settings_hash(chosen.model_dump(mode="json"), data_md5))
    audits: dict[tuple[str, str, str], dict[str, Any]] = {}
    for content in _filed(workspace):
        for request in requests & content.keys():
            for audit in content[request]:
                if (audit["batch"], audit["settings_sha256"]) != own:
                    audits[request, audit["batch"], audit["settings_sha256"]] = audit
    ordered = sorted(audits.items(), key=lambda item: str(item[1]["started"]))
    found: dict[str, list[dict[str, Any]]] = {}
    for (request, _, _), audit in ordered:
        found.setdefault(request, []).append(audit)
    return found


def settings_hash(values: dict[str, Any], data_md5: str | None) -> str:
    """SHA-256 of the settings that a verdict depends on, and of the data's hash."""
    judged = {key: value for key, value in values.items() if key not in UNJUDGED}
    text = json.dumps([judged, data_md5], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _audit(evidence: dict[str, Any]) -> dict[str, Any]:
    influence, provenance = evidence["residual_influence"], evidence["provenance"]
    changed = provenance["settings_changed"].items()
    return {
        "batch": evidence["batch"],
        "started": provenance["started"],
        "method": evidence["unlearn"]["method"],
        "settings_changed": {
            key: value for key, value in changed if key.partition(".")[0] not in UNJUDGED
        },
        "alpha": provenance["settings"]["verify"]["alpha"],
        "outcome": evidence["outcome"],
        "estimate": influence["estimate"],
        "low": influence["low"],
        "high": influence["high"],
        "settings_sha256": settings_hash(provenance["settings"], evidence["data"]["data_md5"]),
    }


def _filed(workspace: Path) -> list[dict[str, Any]]:
    """What is filed in the workspace, and at every batch's tags."""
    found = [files.read_json(path) for path in sorted((workspace / FOLDER).glob("*.json"))]
    prefix = shell.git(workspace, "rev-parse", "--show-prefix")
    tags = shell.git(workspace, "tag", "--list", *(f"{state}/*" for state in STATES)).split()
    with git.objects(workspace) as objects:
        for tag in tags:
            name = f"{prefix}{FOLDER.as_posix()}/{tag.partition('/')[2]}.json"
            if (content := objects.read(f"{tag}:{name}")) is not None:
                found.append(json.loads(content))
    return found


def _requests(path: Path) -> set[str]:
    """The ids that a batch's file of requests names; the stage `check` judges the file."""
    try:
        entries = files.read_json(path)
    except AuditError:
        return set()
    return {
        str(entry.get("subject_request_id", "")).lower()
        for entry in entries
        if isinstance(entry, dict)
    }
