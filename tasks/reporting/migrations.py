"""Evidence of earlier versions, brought to the shape of today.

A closed batch keeps the evidence that it was closed with. Whoever reads it now, the register over
all batches for one, wants one shape. What an earlier version did not measure stays unmeasured and
says so; nothing is made up, and no result becomes better than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tasks.common.errors import EvidenceError
from tasks.reporting import evidence

Raw = Mapping[str, Any]


def upgrade(found: Any, where: str = "evidence.json") -> dict[str, Any]:
    """The evidence in the current schema, checked.

    Args:
        found: the content of an `evidence.json` of this or an earlier version; it is not changed.
        where: how messages name it.

    Raises:
        EvidenceError: the version is unknown, or the content does not have its version's shape.
    """
    version = found.get("schema_version") if isinstance(found, Mapping) else None
    if type(version) is not int or not 1 <= version <= evidence.SCHEMA_VERSION:
        raise EvidenceError(
            f"{where}: got schema version {version!r}, expected 1 to {evidence.SCHEMA_VERSION}; "
            "evidence of a later version needs a later Erasure Audit"
        )
    try:
        for step in range(version, evidence.SCHEMA_VERSION):
            found = {**STEPS[step](found), "schema_version": step + 1}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise EvidenceError(
            f"{where}: got no evidence of version {version} ({error!r}); restore it with git"
        ) from None
    return evidence.validate(found, where)


def from_1(old: Raw) -> dict[str, Any]:
    """Version 2 controls false discoveries in the batch, tests assumptions and measures more beside
    the verdict."""
    records = max(1, old["request"]["records"])
    limits = old["thresholds"]
    found = {
        **old,
        "thresholds": {
            **limits,
            "mode": "references",
            "memorised": min(1.0, limits["memorised"] / records),
        },
    }
    if old["status"] == "rejected":
        return found
    unmeasured = {"reason": "evidence of version 1 has no such measurement"}
    return {
        **found,
        "test": "references",
        "assumptions": unmeasured,
        "p_pass": passing(old["gates"]) if old["verdict"] == "pass" else 1.0,
        "register": {
            "q_pass": 1.0,
            "holds": False,
        },  # nobody asked whether it holds: so it was not shown
        "attacks": unmeasured,
        "retained_exposure": unmeasured,
        "utility_by_group": unmeasured,
        "features": dict.fromkeys(evidence.Features.model_fields, unmeasured),
    }


def from_2(old: Raw) -> dict[str, Any]:
    """Version 3 says what is known beside the verdict. Version 2 knew of no decision and of no
    erasure."""
    audited = old["status"] == "audited"
    roles = [model["role"] for model in old["models"]] if audited else []
    chosen = old["unlearn"].get("method")
    saw = {"original": True, "unlearned": chosen != "retrain", "with": True}
    stores = [("workspace", "records"), ("dvc_cache", "records")]
    if audited:
        stores += [("original_model", "influence"), ("artifacts", "scores")]
    found = {
        **old,
        "progress": "awaiting_signoff" if audited else "set_aside",
        "completed": None,
        "identity_check": None,
        "scope": {
            "models": [
                {"role": role, "count": roles.count(role), "saw_records": saw.get(role, False)}
                for role in dict.fromkeys(roles)
            ],
            "outside": [],
        },
        "copies": [
            {"store": store, "kind": store, "holds": holds, "state": "held"}
            for store, holds in stores
        ],
        **{key: [] for key in ("recipients", "processors", "exceptions", "approvals")},
    }
    unmeasured = {"reason": "evidence of version 2 has no such measurement"}
    return {**found, "score_distribution": unmeasured} if audited else found


def passing(gates: list[Raw]) -> float:
    """The p-value of the least sure gate; a gate without one, or none at all, shows nothing."""
    return max((1.0 if gate["p_good"] is None else gate["p_good"] for gate in gates), default=1.0)


STEPS: dict[int, Callable[[Raw], Raw]] = {1: from_1, 2: from_2}
"""What brings evidence of a version to the next one."""
