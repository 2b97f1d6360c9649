"""The register of a batch: a line per request, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import files

OUTCOMES = ("fail", "inconclusive", "below_detection", "rejected", "pass")
"""The worst first."""


def row(item: dict[str, Any], folder: str, draft: Path) -> dict[str, Any]:
    """A request's line in the register, with the hashes of its files."""
    return {
        "request_id": item["request"]["id"],
        "position": item["request"]["position"],
        "folder": folder,
        "status": item["status"],
        "test": item["test"],
        "verdict": item["verdict"],
        "outcome": item["outcome"],
        "register": item["register"],
        "reason": item["reason"],
        "regulation": item["request"]["regulation"],
        "received": item["request"]["received"],
        "subject_pseudonym": item["request"]["subject_pseudonym"],
        "records": item["request"]["records"],
        "deadline": item["deadline"]["date"],
        "days_left": item["deadline"]["days_left"],
        "residual_influence": item["residual_influence"],
        "sha256": {path.name: files.sha256(path) for path in sorted((draft / folder).iterdir())},
    }


def urgency(line: dict[str, Any]) -> tuple[int, str, int]:
    """Sorting key of the register: the worst outcome first, then the nearest deadline."""
    return OUTCOMES.index(line["outcome"]), line["deadline"] or "9999-99-99", line["position"]


def passes(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many requests passed, and how many of those passes hold with false discoveries controlled in the batch."""
    passed = [line for line in rows if line["verdict"] == "pass"]
    return {"passes": len(passed), "passes_that_hold": sum(line["register"]["holds"] for line in passed)}


def batch_view(found: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the index page shows."""
    counts = Counter(line["outcome"] for line in rows)
    return {"rows": rows, "counts": {name: counts[name] for name in OUTCOMES}, **passes(rows), "e": found[0]}
