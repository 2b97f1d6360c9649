"""The files that the evidence is built from, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any

from tasks.common import language
from tasks.common.errors import EvidenceError
from tasks.common.settings import Settings
from tasks.reporting import advice
from tasks.training import release_lineage


@dataclass(frozen=True)
class Sources:
    """Everything the evidence is built from, as the stages before wrote it.

    Attributes:
        verdicts: `artifacts/propose/verdicts.json`.
        lineage: `artifacts/propose/lineage.json`.
        register: `artifacts/resolve/register.json`.
        data_checks: `artifacts/check/data.json`.
        request_checks: `artifacts/check/requests.json`.
        trace: rows of `artifacts/propose/trace.csv`, as text.
        record: `ledger/batches/<batch>.json`.
        probes: `artifacts/probe/probes.json`; empty: what the features hold was not measured.
        decisions: `ledger/decisions/<batch>.json`; empty: nothing was decided yet.
        ladder: `artifacts/propose/ladder.json`; empty: no ladder was climbed.
    """

    batch: str
    verdicts: Mapping[str, Any]
    lineage: Mapping[str, Any]
    register: Mapping[str, Any]
    data_checks: Mapping[str, Any]
    request_checks: Mapping[str, Any]
    trace: Sequence[Mapping[str, str]]
    record: Mapping[str, Any]
    settings: Settings
    probes: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, Any] = field(default_factory=dict)
    ladder: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def reported_settings(self) -> Settings:
        """The settings by which the model was made that the verdicts are about."""
        return self.settings.on_rung(str(self.ladder.get("reported")))

    @cached_property
    def sentences(self) -> dict[str, Any]:
        """What the sentences of all files were made of, by their English text."""
        collected: dict[str, Any] = {}
        for file in (
            self.verdicts,
            self.register,
            self.data_checks,
            self.request_checks,
            self.probes,
        ):
            collected |= file.get(language.SENTENCES, {})
        return collected

    @cached_property
    def retrain_advice(self) -> list[dict[str, Any]]:
        """Why a full retrain is advised after this batch, see `advice`."""
        loss = take(
            take(self.verdicts, "batch", "verdicts.json"), "control_loss", "verdicts.json, batch"
        )
        method = self.reported_settings.unlearn.method
        facts = advice.BatchFacts(
            list(self.verdicts["requests"].values()),
            None if "reason" in loss else loss,
            release_lineage.released(self.lineage, method),
            self.settings.advice,
        )
        return advice.advise(method, facts)


def entry_id(entry: Mapping[str, Any]) -> str:
    """The id of a register entry."""
    return str(take(entry, "request_id", "register.json"))


def take(mapping: Mapping[str, Any], key: str, where: str) -> Any:
    """`mapping[key]`. Raises `EvidenceError` that names the place where it is missing."""
    try:
        return mapping[key]
    except (KeyError, TypeError):
        raise EvidenceError(f"{where}: {key} is missing; run `erasure-audit run` again") from None


def moment(text: str) -> datetime:
    """A time stamp in RFC 3339. Raises `EvidenceError` where it is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise EvidenceError(
            f"got {text!r}, expected a time stamp like 2026-11-21T01:02:03Z"
        ) from None


def plain(value: Any) -> Any:
    """The same in types that JSON has: tuples become lists, dates text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
