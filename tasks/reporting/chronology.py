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
    *("claimed", "erased", "told", "answered"),
)
"""Of deeds at one moment."""


def deeds(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What was done about a request, in the order of time.

    Args:
        item: the evidence.

    Returns:
        Of each its `kind` of `ORDER`, `at` (RFC 3339), `by` (None: nobody in particular), and by
        kind `text`, `until` or `count`.
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
    """A moment to sort by."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def standing_decisions(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each person the last decision."""
    return list({approval["by"]: approval for approval in item["approvals"]}.values())


def final_letters(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The letters sent that answer the request: the notice of an extension does not."""
    return [letter for letter in item["letters"] if letter["kind"] != "extension"]


def choices(item: dict[str, Any]) -> list[tuple[str, str]]:
    """What can be decided now, each with the command that records it, as `erasure-audit sign-off`
    offers it: no model is offered that the verdicts hold back."""
    if item["approvals"] or item["refusal"] or item["outcome"] == "rejected":
        return []
    if item["outcome"] == "data_only":
        return [_choice(item, "erase", "approve"), _choice(item, "refuse", "reject --next refuse")]
    retrain_waits = bool(item["ladder"]) and item["ladder"]["model"] == "retrained"
    may_go = item["outcome"] == "pass" and not item["held_back_by"]
    is_retrain = retrain_waits or item["unlearn"]["method"] == "retrain"
    releases = []
    if may_go or retrain_waits:
        releases.append(_choice(item, "retrain" if is_retrain else "unlearned", "approve"))
    if not is_retrain and any(model["role"] == "retrained" for model in item["models"]):
        releases.append(_choice(item, "retrain", "approve --model retrained"))
    if item["held_back_by"] and not retrain_waits:
        releases.append(_choice(item, "split_off", "split-off"))
    return [
        *releases,
        _choice(item, "more_references", "reject --next more_references"),
        _choice(item, "another_method", "reject --next another_method --method retrain"),
        _choice(item, "refuse", "reject --next refuse"),
    ]


def _choice(item: dict[str, Any], kind: str, words: str) -> tuple[str, str]:
    command, _, options = words.partition(" ")
    parts = ["erasure-audit", command, shlex.quote(item["batch"]), options, '--by "NAME"']
    return kind, " ".join(filter(None, [*parts, '--comment "WHY"']))


HELPERS = {
    "choices": choices,
    "deeds": deeds,
    "final_letters": final_letters,
    "standing_decisions": standing_decisions,
}
"""By the names that the templates call them."""
