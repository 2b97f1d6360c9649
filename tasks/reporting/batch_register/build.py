"""Build a batch's register from the evidence of its requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.language import SENTENCES
from tasks.reporting.batch_register.schema import (
    SCHEMA_VERSION,
    BatchRegister,
    Cost,
    checked,
    urgency,
)


def of(
    all_evidence: Sequence[dict[str, Any]], folders: Sequence[str], batch_folder: Path
) -> BatchRegister:
    """The register of a batch.

    Args:
        all_evidence: the evidence of every request.
        folders: the folder of each, in the same order.
        batch_folder: where the folders lie; the lines carry the hashes of their files.

    Raises:
        EvidenceError: there is no request, or one's evidence is of another shape.
    """
    if not all_evidence:
        raise EvidenceError(
            f"{batch_folder.name}: got no request, expected at least one; run `erasure-audit run` "
            "again"
        )
    first = all_evidence[0]
    lines = [
        line(item, folder, batch_folder) for item, folder in zip(all_evidence, folders, strict=True)
    ]
    passed = [entry for entry in lines if entry["outcome"] == "pass"]
    register = checked(
        {
            "schema_version": SCHEMA_VERSION,
            "batch": first["batch"],
            "started": first["provenance"]["started"],
            "tool_version": first["provenance"]["tool_version"],
            **first["organisation"],
            "mode": first["thresholds"]["mode"],
            "alpha": first["thresholds"]["alpha"],
            **spent(all_evidence),
            "passes": len(passed),
            "passes_that_hold": sum(entry["register"]["holds"] for entry in passed),
            "languages": first["provenance"]["settings"].get("report", {}).get("languages", ["en"]),
            "requests": lines,
            SENTENCES: {
                text: sentence
                for item in all_evidence
                for text, sentence in item.get(SENTENCES, {}).items()
                if text == item["reason"]
            },
        },
        batch_folder.name,
    )
    return register.model_copy(update={"requests": sorted(register.requests, key=urgency)})


def line(item: dict[str, Any], folder: str, batch_folder: Path) -> dict[str, Any]:
    """A request's line, with the hashes of its files."""
    return {
        "request_id": item["request"]["id"],
        "position": item["request"]["position"],
        "folder": folder,
        "status": item["status"],
        "progress": item["progress"],
        "test": item["test"],
        "verdict": item["verdict"],
        "outcome": "retrained" if item["deleted_by_retraining"] else item["outcome"],
        "register": item["register"],
        "reason": item["reason"],
        "regulation": item["request"]["regulation"],
        "received": item["request"]["received"],
        "subject_pseudonym": item["request"]["subject_pseudonym"],
        "records": item["request"]["records"],
        "deadline": item["deadline"]["date"],
        "days_left": item["deadline"]["days_left"],
        "residual_influence": item["residual_influence"],
        "not_told": not_told(item),
        "earlier_audits": len(item["earlier_audits"]),
        "error_rate": item.get("error_rate"),
        "sha256": {
            path.name: files.sha256(path) for path in sorted((batch_folder / folder).iterdir())
        },
    }


def not_told(item: dict[str, Any]) -> list[str]:
    """The recipients who have to be told of an erasure and were not yet (Art. 19 GDPR)."""
    if item["progress"] != "erased":
        return []
    return [party["name"] for party in item["recipients"] if party["told_at"] is None]


def spent(all_evidence: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The batch's method and what it cost; every request that was carried out tells the same."""
    for item in all_evidence:
        if item["status"] == "audited":
            seconds = [
                model["seconds"]
                for model in item["models"]
                if model["role"] in ("with", "without") and model["seconds"] is not None
            ]
            cost = {key: item["seconds"][key] for key in ("train", "unlearn", "retrain")}
            return {
                "method": item["unlearn"]["method"],
                "cost": {**cost, "references": sum(seconds) if seconds else None},
            }
    return {"method": None, "cost": dict.fromkeys(Cost.model_fields)}
