"""Build the evidence of every request of a batch from the files of the stages before."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from tasks.common import language
from tasks.common.errors import EvidenceError, RequestError
from tasks.common.language import say
from tasks.common.settings import Report
from tasks.reporting.evidence_aftermath import UNSEEN, aftermath
from tasks.reporting.evidence_measurements import audited
from tasks.reporting.evidence_provenance import checks, data_set, provenance, reproduction
from tasks.reporting.evidence_schema import SCHEMA_VERSION, validate
from tasks.reporting.evidence_sources import Sources, entry_id, moment, take
from tasks.requests import deadlines, decisions

VERDICTS_VERSION = 3
"""Version of `verdicts.json` that the evidence is built from."""
OF_REGISTER = (
    *(
        "position",
        "regulation",
        "received",
        "subject_pseudonym",
        "records",
        "labels",
        "whole_subject",
        "code",
    ),
    "languages",
)
REJECTED = say("the request was set aside")


def build_all(sources: Sources) -> list[dict[str, Any]]:
    """The evidence of every request of the batch, in the register's order.

    Raises:
        EvidenceError: a number or a file's key is missing, or accepted requests and verdicts do not
            match one to one.
    """
    entries = take(sources.register, "batch_requests", "register.json")
    match(entries, take(sources.verdicts, "requests", "verdicts.json"))
    if (version := take(sources.verdicts, "schema_version", "verdicts.json")) != VERDICTS_VERSION:
        raise EvidenceError(
            f"verdicts.json: got schema version {version!r}, expected {VERDICTS_VERSION}; verify "
            "again"
        )
    if take(sources.record, "batch", "the batch record") != sources.batch:
        raise EvidenceError(
            f"the batch record is of {sources.record['batch']!r}, expected {sources.batch!r}; run "
            "again"
        )
    all_decisions = decisions.parse(
        sources.decisions, [entry_id(entry) for entry in entries], "the batch's decisions"
    )
    return [build(sources, entry, all_decisions.of(entry_id(entry))) for entry in entries]


def match(entries: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Any]) -> None:
    """Every accepted request has a verdict, every verdict an accepted request, and no two share
    one; else an error."""
    accepted = [
        entry_id(entry) for entry in entries if take(entry, "status", "register.json") == "accepted"
    ]
    if not entries:
        raise EvidenceError(
            "register.json: got no request, expected at least one; run the stage resolve again"
        )
    if twice := sorted(name for name, count in Counter(accepted).items() if count > 1):
        raise EvidenceError(f"register.json accepts {twice[0]} twice; run the stage resolve again")
    if missing := sorted(set(accepted) - set(verdicts)):
        raise EvidenceError(
            f"verdicts.json has no verdict for the accepted request {missing[0]}; run verify again"
        )
    if extra := sorted(set(verdicts) - set(accepted)):
        raise EvidenceError(
            f"verdicts.json has a verdict for {extra[0]}, which register.json does not accept"
        )


def build(
    sources: Sources, entry: Mapping[str, Any], decided: decisions.Decisions
) -> dict[str, Any]:
    """The evidence of one request of the register, a plain dictionary of fixed shape.

    Args:
        sources: what the stages before wrote.
        entry: the request's line in the register.
        decided: what was decided on it.

    Raises:
        EvidenceError: something is missing or of the wrong type; the message names the request and
            the place.
    """
    where = f"request {entry_id(entry)}"
    status = take(entry, "status", where)
    if status == "accepted":
        verdict = take(
            take(sources.verdicts, "requests", "verdicts.json"), entry_id(entry), "verdicts.json"
        )
        special = audited(sources, verdict, entry_id(entry), where)
    elif status == "rejected":
        unseen = entry.get("code") == UNSEEN
        special = {
            "status": "rejected",
            "reason": entry.get("reason") or REJECTED,
            "outcome": "data_only" if unseen else "rejected",
            "advice": [],  # it is about a model, and nothing was done to one for this request
        }
    else:
        raise EvidenceError(f"{where}: got status {status!r}, expected accepted or rejected")
    follows = aftermath(sources, special["status"], decided, entry.get("code"))
    evidence = {**common(sources, entry, where), **follows, **special}
    evidence |= register_facts(evidence, sources, decided.registered.get(entry_id(entry)))
    evidence |= release(evidence, sources, decided)
    evidence |= earlier_audits(evidence, sources)
    return validate({**evidence, language.SENTENCES: sentences_of(sources, evidence)}, where)


def register_facts(
    evidence: Mapping[str, Any], sources: Sources, facts: decisions.Registered | None
) -> dict[str, Any]:
    """What the register of requests knows of the request; its deadline as it was extended."""
    if facts is None:
        return {}
    registered_facts = facts.model_dump(mode="json")
    if facts.extension is None:
        return registered_facts
    until = date.fromisoformat(facts.extension.to)
    started = moment(take(sources.record, "started", "the batch record")).date()
    extended = {"date": until.isoformat(), "days_left": (until - started).days}
    return {**registered_facts, "deadline": {**evidence["deadline"], **extended}}


def release(
    evidence: Mapping[str, Any], sources: Sources, decided: decisions.Decisions
) -> dict[str, Any]:
    """Which model the decision releases, and what that means for the request.

    Advice to retrain is dropped where the released model is a retrain.
    """
    released = decided.released if evidence["progress"] in ("released", "erased") else None
    fresh = {model["role"] for model in evidence["scope"]["models"] if not model["saw_records"]}
    retrain = released == "retrained" or sources.reported_settings.unlearn.method == "retrain"
    deleted = released is not None and retrain and released in fresh
    others = [
        verdict["verdict"]
        for name, verdict in sources.verdicts["requests"].items()
        if name != evidence["request"]["id"]
    ]
    mates = sum(verdict != "pass" for verdict in others) if evidence.get("verdict") == "pass" else 0
    return {
        "released": released,
        "deleted_by_retraining": deleted,
        "held_back_by": 0 if released else mates,
        **({"advice": []} if deleted else {}),
    }


def earlier_audits(evidence: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """The earlier audits of the request, and the error rate of all of them together.

    That at least one of k tests passes wrongly is at most as likely as the sum of their error
    rates (union bound, Bonferroni), however the tests depend on each other.
    """
    earlier = sources.record.get("audits", {}).get(evidence["request"]["id"], [])
    if evidence["status"] != "audited":
        return {"earlier_audits": earlier}
    rates = [audit["alpha"] for audit in earlier] + [sources.settings.verify.alpha]
    return {"earlier_audits": earlier, "error_rate": min(sum(rates), 1.0)}


def sentences_of(sources: Sources, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What the sentences of a request's evidence were made of, by their English text."""
    sentences = ChainMap(sources.sentences, language.sentences(evidence))
    return {text: sentences[text] for text in language.texts(evidence) if text in sentences}


def common(sources: Sources, entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The parts that every report has."""
    chosen = sources.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "batch": sources.batch,
        "request": request(entry, where),
        "deadline": due(
            entry, take(sources.record, "started", "the batch record"), chosen.report.holidays
        ),
        "organisation": organisation(chosen.report),
        "thresholds": chosen.verify.model_dump() | {"alpha": sources.verdicts["alpha"]},
        "data": data_set(sources),
        "checks": checks(sources, entry_id(entry)),
        "identity_check": chosen.report.identity_check or None,
        "advice": sources.retrain_advice,
        "provenance": provenance(sources),
        "reproduction": reproduction(sources.batch),
        "languages": language.of_report(chosen.report.languages, entry.get("languages", [])),
    }


def organisation(chosen: Report) -> dict[str, Any]:
    """What only the organisation knows; what it did not say is null or empty."""
    optional = ("contact", "authority", "processing_record", "deletion_rule")
    return {
        "controller": chosen.controller,
        "system": chosen.system,
        **{name: getattr(chosen, name) or None for name in optional},
        "retention": [entry.model_dump() for entry in chosen.retention],
        "deciders": [entry.model_dump() for entry in chosen.deciders],
        "derived_models": [entry.model_dump() for entry in chosen.derived_models],
    }


def request(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The facts of a request from its entry in the register."""
    return {"id": entry_id(entry), **{key: take(entry, key, where) for key in OF_REGISTER}}


def due(entry: Mapping[str, Any], started: str, holidays: Sequence[date]) -> dict[str, Any]:
    """The deadline of a request, counted from the day that its time stamp writes; a sentence where
    there is none."""
    try:
        deadline = deadlines.deadline(
            str(entry.get("regulation")), moment(str(entry.get("received"))).date(), holidays
        )
    except (RequestError, EvidenceError):
        rule = say(
            "No deadline was counted: the request names no known regulation, or no valid time of "
            "receipt."
        )
        return {"rule": rule, "date": None, "days_left": None}
    if deadline.date is None:
        return {"rule": deadline.rule, "date": None, "days_left": None}
    days_left = (deadline.date - moment(started).date()).days
    return {"rule": deadline.rule, "date": deadline.date.isoformat(), "days_left": days_left}
