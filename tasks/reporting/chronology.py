"""Who did what about a request, and when: one table from all parts of its evidence."""

from __future__ import annotations

import contextlib
import shlex
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

ORDER = (
    *("received", "identity", "extended", "started", "approved", "refused", "rejected"),
    *("claimed", "erased", "told", "answered", "deadline"),
)
"""Of deeds at one moment."""


def deeds(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What was done about a request, in the order of time; its deadline among them.

    Args:
        item: the evidence.

    Returns:
        Of each its `kind` of `ORDER`, `at` (RFC 3339, the deadline a date), `by` (None: nobody in
        particular), and by kind `text`, `until` or `count`.
    """
    return sorted(
        _all(item), key=lambda deed: (_moment(deed["at"]), ORDER.index(str(deed["kind"])))
    )


def _all(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(TypeError, ValueError):  # a malformed request may have no valid time
        datetime.fromisoformat(item["request"]["received"])
        yield {"kind": "received", "at": item["request"]["received"], "by": None}
    yield {"kind": "started", "at": item["provenance"]["started"], "by": None}
    if item["identity"]:
        yield _action("identity", item["identity"], item["identity"]["how"])
    if item["extension"]:
        facts = item["extension"]
        yield {**_action("extended", facts, facts["reason"]), "until": facts["to"]}
    for approval in item["approvals"]:
        kind = "approved" if approval["decision"] == "approve" else "refused"
        yield _action(kind, approval, "")
    if item["refusal"]:
        yield _action("rejected", item["refusal"], item["refusal"]["reason"])
    for claim in item["exceptions"]:
        yield _action("claimed", claim, claim["ground"])
    yield from _erasures(item["copies"])
    for party in (*item["recipients"], *item["processors"]):
        if party["told_at"]:
            yield _action("told", {"at": party["told_at"], "by": party["told_by"]}, party["name"])
    for letter in item["letters"]:
        yield _action("answered", letter, letter["how"])
    if item["deadline"]["date"]:
        yield {"kind": "deadline", "at": item["deadline"]["date"], "by": None}


def _action(kind: str, facts: dict[str, Any], text: str) -> dict[str, Any]:
    return {"kind": kind, "at": facts["at"], "by": facts["by"], "text": text}


def _erasures(copies: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Erasures of one person on one day, as one deed at its last moment."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for copy in copies:
        if copy["state"] != "held":
            groups[copy["at"][:10], copy["by"]].append(copy["at"])
    for (_, by), moments in groups.items():
        last = max(moments, key=_moment)
        yield {"kind": "erased", "at": last, "by": by, "count": len(moments)}


def _moment(text: str) -> datetime:
    """A moment to sort by; a date alone is the end of its day."""
    if len(text) == 10:
        return datetime.fromisoformat(f"{text}T23:59:59+00:00")
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def standing_decisions(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each person the last decision."""
    return list({approval["by"]: approval for approval in item["approvals"]}.values())


def final_letters(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The letters sent that answer the request: the notice of an extension does not."""
    return [letter for letter in item["letters"] if letter["kind"] != "extension"]


def recorded_by(item: dict[str, Any]) -> list[str]:
    """The commands that record what may be decided, for whoever operates the tool."""
    name = shlex.quote(item["batch"])
    who = '--by "NAME" --comment "WHY"'
    commands = [f"erasure-audit approve {name} {who}"]
    if item["status"] == "audited":
        commands.append(f"erasure-audit approve {name} --model retrained {who}")
    if item["held_back_by"]:
        commands.append(f"erasure-audit split-off {name} {who}")
    return [*commands, f"erasure-audit reject {name} --next requeue {who}"]


HELPERS = {
    "deeds": deeds,
    "final_letters": final_letters,
    "recorded_by": recorded_by,
    "standing_decisions": standing_decisions,
}
"""By the names that the templates call them."""
