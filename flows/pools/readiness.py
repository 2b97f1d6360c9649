"""Computes whose deletion the pool could verify, before anybody asks."""

from __future__ import annotations

import html
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.pools.making import FOLDER
from tasks import score
from tasks.common import settings
from tasks.common.errors import EvidenceError
from tasks.data import records
from tasks.pooling import renewal, table
from tasks.requests import pseudonyms
from tasks.verification import verdicts
from tasks.verification.gates import GateRules
from tasks.verification.scoring import Scores


@dataclass(frozen=True)
class Person:
    """How well the pool can judge one training subject.

    Attributes:
        pseudonym: by the workspace's key.
        records: training records.
        detectability: d' of the statistic on all records; None if the pool cannot judge the person.
        smallest_rho0: the smallest margin that a perfect retrain is certified at four times in
            five; None: none below 1.
        verifiable: whether that is within `verify.rho0`.
        models_more: models to add to the pool for that; 0: none, None: no number suffices.
        reason: why the pool cannot judge the person, else None.
    """

    pseudonym: str
    records: int
    detectability: float | None
    smallest_rho0: float | None
    verifiable: bool
    models_more: int | None
    reason: str | None

    def in_words(self) -> str:
        """In one line."""
        if self.detectability is None:
            return str(self.reason)
        limit = "none below 1" if self.smallest_rho0 is None else f"{self.smallest_rho0:.2f}"
        if self.models_more is None:
            more = "; no number of models would help"
        else:
            more = f"; {self.models_more} models more would help" if self.models_more else ""
        return f"d' {self.detectability:.1f}, smallest rho0 {limit}{more}"

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Readiness:
    """How well the pool can judge everybody."""

    rho0: float
    models: int
    people: list[Person]
    groups: dict[str, dict[str, dict[str, Any]]]
    """by column of the manifest and its value: people, verifiable, median d'"""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "rho0": self.rho0,
            "models": self.models,
            "people": [person.plain() for person in self.people],
            "verifiable": sum(person.verifiable for person in self.people),
            "groups": self.groups,
        }


def assess(home: Path, folder: str = FOLDER) -> Readiness:
    """Compute how well the pool could judge each training subject.

    Args:
        home: the workspace, with its data and `artifacts/split.csv`.
        folder: the pool, relative to it.

    Raises:
        AuditError: there is no pool, or it may not judge the data of now.
    """
    chosen = settings.load(home / "params.yaml")
    rules = GateRules(**chosen.verify.model_dump(exclude={"mode"}))
    manifest = records.read_manifest(home / "data")
    roles = records.read_roles(home / "artifacts" / "split.csv", manifest)
    training = roles == "training"
    pool = table.align(home / folder, manifest, training, chosen)
    names, values = score.attributes(manifest, np.zeros(len(manifest), bool))
    subjects = manifest["subject_id"].to_numpy(np.str_)
    key = pseudonyms.load_key(home)
    people, rows_of = [], {}
    scores = Scores(
        np.array(["pool"] * len(pool.phi)),
        pool.phi,
        pool.predicted,
        manifest["label"].to_numpy(np.int64),
        roles,
        np.full(len(manifest), "", "<U16"),
        np.unique(subjects, return_inverse=True)[1].astype(np.int64),
        np.array(names, np.str_),
        values,
        pool.seen,
    )
    for subject in np.unique(subjects[training]):
        rows = training & (subjects == subject)
        person = _person(key.of("subject_id", str(subject)), scores, rows, rules, chosen)
        rows_of[person.pseudonym] = int(np.flatnonzero(rows)[0])
        people.append(person)
    people.sort(key=lambda person: (person.detectability or 0.0, person.pseudonym))
    groups = {
        name: _by_value(people, {p: str(values[row, column]) for p, row in rows_of.items()})
        for column, name in enumerate(names)
    }
    return Readiness(rules.rho0, len(pool.phi), people, groups)


def _person(
    pseudonym: str, scores: Scores, rows: Any, rules: GateRules, chosen: settings.Settings
) -> Person:
    count = int(rows.sum())
    try:
        power = verdicts.power(scores, rows, rules, chosen.pool.folds, chosen.pool.with_everybody)
    except EvidenceError as error:
        return Person(pseudonym, count, None, None, False, None, str(error))
    limit = power.smallest_rho0
    return Person(
        pseudonym,
        count,
        power.detectability,
        limit,
        limit is not None and limit <= rules.rho0,
        power.models_more,
        None,
    )


def _by_value(people: list[Person], value_of: dict[str, str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Person]] = {}
    for person in people:
        groups.setdefault(value_of[person.pseudonym], []).append(person)
    return {
        value: {
            "people": len(members),
            "verifiable": sum(person.verifiable for person in members),
            "median_detectability": statistics.median(p.detectability or 0.0 for p in members),
        }
        for value, members in sorted(groups.items())
    }


STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left}"
    "tr.no td{background:#fdecea}"
)


def page(ready: Readiness, age: renewal.Renewal) -> str:
    """The result as one HTML page without scripts or links; it names people by pseudonym."""
    able = sum(person.verifiable for person in ready.people)
    people = [
        f"<tr{'' if person.verifiable else ' class=no'}><td>{html.escape(person.pseudonym[:17])}"
        f"</td><td>{person.records}</td><td>{html.escape(person.in_words())}</td></tr>"
        for person in ready.people
    ]
    groups = [
        f"<tr><td>{html.escape(column)}</td><td>{html.escape(value)}</td><td>{group['verifiable']} "
        f"of {group['people']}</td><td>{group['median_detectability']:.1f}</td></tr>"
        for column, values in ready.groups.items()
        for value, group in values.items()
    ]
    head = "<tr><th>Group</th><th>Value</th><th>Verifiable</th><th>Median d&prime;</th></tr>"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>Readiness</title><style>{STYLE}</style></head><body>",
            "<h1>Whose deletion the pool can verify</h1>",
            f"<p>{able} of {len(ready.people)} people can be verified at rho0 {ready.rho0:g} with "
            f"{ready.models} models.</p>",
            f"<p>{'Renew the pool' if age.renew else 'The pool may stay'}: "
            f"{html.escape(age.reason)}.</p>",
            "<table><tr><th>Person</th><th>Records</th><th>Result</th></tr>",
            *people,
            "</table>",
            *(["<h2>Groups</h2><table>", head, *groups, "</table>"] if groups else []),
            "</body></html>",
            "",
        ]
    )
