"""What became of a request beside its verdict: models in scope, copies, notices, exceptions,
approvals."""

from __future__ import annotations

from typing import Any

from tasks.common.errors import EvidenceError
from tasks.reporting.evidence_of_case import Exemption, Signoff
from tasks.reporting.evidence_sources import Sources, take
from tasks.requests import decisions
from tasks.training.history import FROM_SCRATCH

UNSEEN = "not_in_training"
"""Code of a request that was set aside because no model was trained on its records."""


def aftermath(
    sources: Sources, status: str, decided: decisions.Decisions, code: str | None = None
) -> dict[str, Any]:
    """What became of the request beside its verdict: scope, copies, notices, exceptions,
    approvals."""
    chosen = sources.settings.report
    all_copies = copies(sources, status, decided, code)

    def party_facts(name: str, what: str) -> dict[str, Any]:
        notice = next((notice for notice in reversed(decided.notices) if notice.to == name), None)
        notice_facts = (
            {"told_at": notice.at, "told_by": notice.by, "comment": notice.comment or None}
            if notice
            else {}
        )
        return {"name": name, "what": what, **notice_facts}

    parties = {party.name for party in chosen.recipients} | {
        party.name for party in chosen.processors
    }
    if strange := sorted({notice.to for notice in decided.notices} - parties):
        raise EvidenceError(
            f"the batch's decisions: a notice names {strange[0]!r}, whom neither "
            "report.recipients nor "
            "report.processors list; add it there"
        )
    progress = decisions.progress(status, decided.approvals, all_copies)
    return {
        "progress": progress,
        "completed": decisions.latest(copy["at"] for copy in all_copies if "at" in copy)
        if progress == "erased"
        else None,
        "scope": scope(sources, status),
        "copies": all_copies,
        "recipients": [party_facts(party.name, party.disclosed) for party in chosen.recipients],
        "processors": [party_facts(party.name, party.task) for party in chosen.processors],
        "exceptions": [
            claim.model_dump(include=set(Exemption.model_fields)) for claim in decided.exceptions
        ],
        "approvals": [
            approval.model_dump(include=set(Signoff.model_fields)) for approval in decided.approvals
        ],
    }


def scope(sources: Sources, status: str) -> dict[str, Any]:
    """The models that the report is about by their roles, and those that the settings name as
    outside of it."""
    roles = [
        take(entry, "role", "lineage.json")
        for entry in take(sources.lineage, "models", "lineage.json")
    ]
    saw = {
        "original": True,
        "unlearned": sources.reported_settings.unlearn.method not in FROM_SCRATCH,
        "with": True,
    }
    models = [
        {"role": role, "count": roles.count(role), "saw_records": saw.get(role, False)}
        for role in ("original", "unlearned", "retrained", "with", "without")
        if role in roles and status == "audited"
    ]
    return {
        "models": models,
        "outside": [model.model_dump() for model in sources.settings.report.out_of_scope],
    }


def copies(
    sources: Sources, status: str, decided: decisions.Decisions, code: str | None = None
) -> list[dict[str, Any]]:
    """Every place that the tool knows of with what became of it: held, unless a receipt says
    otherwise.

    Raises:
        EvidenceError: an erasure names a place that is not known.
    """
    remotes = take(sources.record, "remotes", "the batch record")
    stores: list[dict[str, Any]] = [
        {"store": "workspace", "kind": "workspace", "holds": "records"},
        {"store": "dvc_cache", "kind": "dvc_cache", "holds": "records"},
        *(
            {"store": f"dvc_remote:{name}", "kind": "dvc_remote", "name": name, "holds": "records"}
            for name in remotes
        ),
        *(
            {
                "store": f"backup:{backup.name}",
                "kind": "backup",
                **backup.model_dump(),
                "holds": "records",
            }
            for backup in sources.settings.report.backups
        ),
    ]
    if status == "audited":
        stores.append({"store": "original_model", "kind": "original_model", "holds": "influence"})
        if any(
            take(entry, "role", "lineage.json") == "with" for entry in sources.lineage["models"]
        ):
            stores.append(
                {"store": "reference_models", "kind": "reference_models", "holds": "influence"}
            )
        stores.append({"store": "artifacts", "kind": "artifacts", "holds": "scores"})
    if any(erasure.store == "git" for erasure in decided.erasure):
        stores.append({"store": "git", "kind": "git", "holds": "identifiers"})
    names = {store["store"] for store in stores}
    erasures = (
        decided.erasure if status == "audited" else []
    )  # nobody erased the records of a request that was set aside,
    if code == UNSEEN:  # unless no model was trained on them, and the data had to go all the same
        erasures = [erasure for erasure in decided.erasure if erasure.store in names]
    done = {erasure.store: erasure.model_dump(exclude={"request"}) for erasure in erasures}
    if strange := sorted(set(done) - names):
        raise EvidenceError(
            f"the batch's decisions: an erasure names {strange[0]!r}, expected one of "
            f"{', '.join(sorted(names))}"
        )
    return [{"state": "held", **store, **done.get(store["store"], {})} for store in stores]
