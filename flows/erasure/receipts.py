"""Receipts: counts of copies searched for, found and erased in each store. They hold no id, name or
hash of a record."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.erasure import git_history
from flows.erasure.erasure_plan import ErasurePlan
from flows.erasure.matcher import ORIGINAL, REFERENCES, Judge
from flows.erasure.selection import ERASED
from flows.erasure.stores.store import Look
from tasks.common import files
from tasks.requests import decisions

FOLDER = Path("ledger/erasures")
"""Where git keeps the receipts, one file per batch; `flows.pipeline.reproduce` quotes them."""
SCHEMA_VERSION = 1

Receipt = dict[str, Any]


def read_all(home: Path) -> list[dict[str, Any]]:
    """All receipts of the workspace, by batch."""
    return [files.read_json(path) for path in sorted((home / FOLDER).glob("*.json"))]


class Filed:
    """The file with the receipts of one batch."""

    def __init__(self, home: Path, batch: str) -> None:
        self.path = home / FOLDER / f"{batch}.json"
        self._home, self._batch = home, batch

    def read(self) -> dict[str, Any]:
        """The whole file."""
        document: dict[str, Any] = files.read_json(self.path)
        return document

    def by_store(self) -> dict[str, Receipt]:
        """The filed receipts by store."""
        filed = self.read()["stores"] if self.path.exists() else []
        return {receipt["store"]: receipt for receipt in filed}

    def write(self, plan: ErasurePlan, gone: set[str], receipts: Iterable[Receipt]) -> None:
        """File receipts; those of other stores stay."""
        merged = {**self.by_store(), **{receipt["store"]: receipt for receipt in receipts}}
        files.write_json(
            self.path,
            {
                "schema_version": SCHEMA_VERSION,
                "batch": self._batch,
                "begun": plan.begun,
                "requests": plan.requests,
                "stores": list(merged.values()),
                "not_kept": _not_kept(self._home, gone),
            },
        )

    def add_comeback(self, entry: Mapping[str, Any]) -> None:
        """Note that copies came back and were erased again."""
        document = self.read()
        document["came_back"] = [*document.get("came_back", []), dict(entry)]
        files.write_json(self.path, document)


def of_store(
    plan: ErasurePlan, name: str, part: str | None, judge: Judge, look: Look, reason: str | None
) -> Receipt:
    """The receipt of a store that was erased and searched again.

    Args:
        plan: of the erasure.
        name: of the store.
        part: the store in part 7 of the report.
        judge: of the erasure.
        look: the last search.
        reason: why the store is held; None: it is erased.
    """
    noted = plan.erased.get(name, {})
    return _sealed(
        {
            **_head(plan, name, part, reason),
            "looked_for": judge.sought.counts(),
            "looked_at": look.looked_at,
            "found": dict(sorted(Counter(noted.values()).items())),
            "erased": len(noted),
            "left": len(look.findings),
            "shared_with_remaining_records": judge.sought.shared,
            "kept_to_derive_verdicts": judge.naming_objects,
        }
    )


def of_models(plan: ErasurePlan, judge: Judge, failed: Iterable[str]) -> list[Receipt]:
    """Receipts for the original and the reference models, which lay in the stores.

    Args:
        plan: of the erasure.
        judge: of the erasure.
        failed: stores that could not be erased.
    """
    receipts, failed_stores = [], sorted(failed)
    for part, kind in (("original_model", ORIGINAL), ("reference_models", REFERENCES)):
        stores = [name for name, noted in plan.erased.items() if kind in noted.values()]
        count = sum(list(plan.erased[name].values()).count(kind) for name in stores)
        reason = None
        if kind in plan.stays:
            reason = "it is the model that was released, or was retrained without the records"
        elif failed_stores:
            reason = f"it may lie in {', '.join(failed_stores)}"
        elif kind not in judge.sought.models.values():
            reason = "the tool does not keep it, so it has to be erased where it is used"
        receipts.append(
            _sealed(
                {
                    **_head(plan, part, part, reason),
                    "looked_for": judge.sought.counts(),
                    "found": {kind: count},
                    "in_stores": sorted(stores),
                    "erased": count,
                }
            )
        )
    return receipts


def of_backups(plan: ErasurePlan) -> list[Receipt]:
    """Receipts for backups, with the day on which each is overwritten."""
    today = datetime.now(UTC).date()
    return [
        _sealed(
            {
                "store": f"backup:{backup['name']}",
                "part": f"backup:{backup['name']}",
                "state": "expires",
                "expires_on": (today + timedelta(days=backup["days"])).isoformat(),
                "at": files.timestamp(),
                "by": plan.by,
            }
        )
        for backup in plan.backups
    ]


def is_record_store(part: str | None) -> bool:
    """Whether a store of part 7 holds records, so that an erasure must include it."""
    return part is not None and (
        part in ("workspace", "dvc_cache") or part.startswith("dvc_remote:")
    )


def by_hand(home: Path, batch: str) -> list[dict[str, Any]]:
    """Erasures that people entered into the batch's decisions."""
    entered: list[dict[str, Any]] = read_decisions(home, batch).get("erasure", [])
    return [
        entry
        for entry in entered
        if not str(entry.get("receipt", "")).startswith(FOLDER.as_posix())
    ]


def read_decisions(home: Path, batch: str) -> dict[str, Any]:
    """The batch's decisions; empty if there is no file."""
    path = home / decisions.FOLDER / f"{batch}.json"
    document: dict[str, Any] = files.read_json(path) if path.exists() else {}
    return document


def in_decisions(home: Path, plan: ErasurePlan, receipts: list[Receipt]) -> dict[str, Any]:
    """The batch's decisions with an entry per store of part 7, replacing those of earlier runs."""
    going = [request for request, fate in plan.requests.items() if fate == ERASED]
    some_stay = any(
        fate != ERASED and not fate.startswith("set aside") for fate in plan.requests.values()
    )
    listed = _in_report(home, plan.batch)
    entries = []
    for part, receipt in _by_part(receipts).items():
        if receipt["state"] == "held" and part != "git":
            continue
        if listed and part not in listed:
            # e.g. a remote that was added after the audit: it has a receipt, the report lacks it
            continue
        digest = f"{receipt['store']}: SHA-256 {receipt['sha256']}"
        entry = {
            "store": part,
            "state": receipt["state"],
            "at": receipt["at"],
            "by": receipt["by"],
            "receipt": f"{FOLDER.as_posix()}/{plan.batch}.json, {digest}",
            **({"expires_on": receipt["expires_on"]} if receipt["state"] == "expires" else {}),
        }
        entries += [{**entry, "request": request} for request in (going if some_stay else [None])]
    decided_before = read_decisions(home, plan.batch)
    return {**decisions.EMPTY, **decided_before, "erasure": [*entries, *by_hand(home, plan.batch)]}


def _head(plan: ErasurePlan, name: str, part: str | None, reason: str | None) -> Receipt:
    return {
        "store": name,
        "part": part,
        "state": "held" if reason else "erased",
        **({"reason": reason} if reason else {}),
        "at": files.timestamp(),
        "by": plan.by,
    }


def _sealed(receipt: Receipt) -> Receipt:
    """A receipt with the SHA-256 of its own text."""
    text = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**receipt, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _by_part(receipts: list[Receipt]) -> dict[str, Receipt]:
    """One receipt per store of part 7. If several stores share a part, one that is held counts."""
    parts: dict[str, Receipt] = {}
    for receipt in receipts:
        part = receipt["part"]
        if part is not None and (part not in parts or receipt["state"] == "held"):
            parts[part] = receipt
    if parts.get("git", {}).get("state") == "erased":
        del parts["git"]  # it never held anything of the person
    return parts


def _in_report(home: Path, batch: str) -> set[str]:
    """The stores that the batch's reports list in part 7, and git, which they list if decisions
    name it."""
    listed = {
        copy["store"]
        for path in (home / "reports" / batch).glob("*/evidence.json")
        for copy in files.read_json(path).get("copies", [])
        if "kind" in copy
    }
    return listed | {"git"} if listed else set()


def _not_kept(home: Path, gone: set[str]) -> dict[str, list[str]]:
    """By closed state, the recorded paths whose content is erased; `reproduce` reads this."""
    lost: dict[str, list[str]] = {}
    for state in git_history.states(home, None):
        paths = sorted(path for path, oid in state.on_record().items() if oid in gone)
        for name in state.names:
            if paths:
                lost[name] = paths
    return lost
