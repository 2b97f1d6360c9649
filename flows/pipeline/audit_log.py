"""Every audit of a request, with its settings and its verdict: `ledger/audits/<batch>.json`.

Repeating an audit until it passes makes a false pass likelier. So each audit is filed here when it
ends, git keeps the file with the batch, and each later report lists the earlier audits and states
the error rate of all of them together.
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
"""Prefixes of the tags that keep the filed audits of a batch."""
UNJUDGED = ("batch", "report", "operate")
"""Settings that no verdict depends on."""


def append(workspace: Path, batch: str) -> int:
    """File the audits whose reports lie in the workspace, unless they are filed already.

    Two runs of a batch with the same settings and data are the same audit.

    Returns:
        The number of new entries.
    """
    path = workspace / FOLDER / f"{batch}.json"
    filed: dict[str, list[dict[str, Any]]] = files.read_json(path) if path.exists() else {}
    added = 0
    for file in sorted((workspace / "reports" / batch).glob("*/evidence.json")):
        evidence = files.read_json(file)
        if evidence.get("status") != "audited" or "provenance" not in evidence:
            continue  # a request that was set aside had no test
        audit, audits = _audit(evidence), filed.setdefault(evidence["request"]["id"], [])
        if audit["settings_sha256"] not in {
            filed_audit["settings_sha256"] for filed_audit in audits
        }:
            audits.append(audit)
            added += 1
    if added:
        files.write_json(path, filed)
    return added


def earlier(
    workspace: Path, chosen: settings.Settings, data_md5: str | None
) -> dict[str, list[dict[str, Any]]]:
    """The earlier audits of a batch's requests, by request.

    They are read from the workspace and from the tags of all batches, so that rejected batches and
    batches that were closed elsewhere and fetched count, too.

    Args:
        workspace: the workspace.
        chosen: settings of the audit that begins.
        data_md5: hash of its data.
    """
    requests = _requests(workspace / "requests" / f"{chosen.batch}.json")
    this_audit = (chosen.batch, settings_hash(chosen.model_dump(mode="json"), data_md5))
    audits: dict[tuple[str, str, str], dict[str, Any]] = {}
    for content in _filed(workspace):
        for request in requests & content.keys():
            for audit in content[request]:
                if (audit["batch"], audit["settings_sha256"]) != this_audit:
                    audits[request, audit["batch"], audit["settings_sha256"]] = audit
    ordered = sorted(audits.items(), key=lambda item: str(item[1]["started"]))
    by_request: dict[str, list[dict[str, Any]]] = {}
    for (request, _, _), audit in ordered:
        by_request.setdefault(request, []).append(audit)
    return by_request


def settings_hash(values: dict[str, Any], data_md5: str | None) -> str:
    """SHA-256 of the settings that a verdict depends on, and of the data's hash."""
    judged = {key: value for key, value in values.items() if key not in UNJUDGED}
    text = json.dumps([judged, data_md5], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _audit(evidence: dict[str, Any]) -> dict[str, Any]:
    influence, provenance = evidence["residual_influence"], evidence["provenance"]
    settings_changed = provenance["settings_changed"].items()
    return {
        "batch": evidence["batch"],
        "started": provenance["started"],
        "method": evidence["unlearn"]["method"],
        "settings_changed": {
            key: value for key, value in settings_changed if key.partition(".")[0] not in UNJUDGED
        },
        "alpha": provenance["settings"]["verify"]["alpha"],
        "outcome": evidence["outcome"],
        "estimate": influence["estimate"],
        "low": influence["low"],
        "high": influence["high"],
        "settings_sha256": settings_hash(provenance["settings"], evidence["data"]["data_md5"]),
    }


def _filed(workspace: Path) -> list[dict[str, Any]]:
    """The files of audits in the workspace and at every batch's tags."""
    contents = [files.read_json(path) for path in sorted((workspace / FOLDER).glob("*.json"))]
    prefix = shell.git(workspace, "rev-parse", "--show-prefix")
    tags = shell.git(workspace, "tag", "--list", *(f"{state}/*" for state in STATES)).split()
    with git.objects(workspace) as objects:
        for tag in tags:
            name = f"{prefix}{FOLDER.as_posix()}/{tag.partition('/')[2]}.json"
            if (content := objects.read(f"{tag}:{name}")) is not None:
                contents.append(json.loads(content))
    return contents


def _requests(path: Path) -> set[str]:
    """The request ids in a batch's file; empty if it cannot be read, which the stage `check`
    reports."""
    try:
        entries = files.read_json(path)
    except AuditError:
        return set()
    return {
        str(entry.get("subject_request_id", "")).lower()
        for entry in entries
        if isinstance(entry, dict)
    }
