"""The plan of an erasure, made before anything is erased and kept in a private file.

It could not be made again once data are gone. The file is removed last, so an interrupted erasure
continues from it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.erasure import derivations, git_history, pool_rows, selection
from flows.erasure.matcher import DERIVED, Sought
from flows.erasure.shelf import MissingObjectError, Shelf
from flows.erasure.stores import dvc, trees
from flows.workspace import shell
from tasks.common import files, settings
from tasks.common.errors import AuditError

if TYPE_CHECKING:
    from flows.register.register import Register

PRIVATE = ".erasure"
"""Folder of the plans of erasures under way; only its owner may read it."""


class PlanError(AuditError):
    """The data to erase cannot be determined."""


@dataclass
class ErasurePlan:
    """The data to erase, and the progress of the erasure.

    Attributes:
        batch: its name.
        by: the responsible person.
        begun: the start, RFC 3339.
        requests: the fate of each request, by id.
        sought: what is searched for.
        stays: kinds of models that are kept although they saw the records.
        backups: name and days of `report.backups`.
        remotes: the remotes at the time of the audit.
        gone: hashes of objects that must go, erased or not.
        erased: by store, the address and kind of every finding.
    """

    batch: str
    by: str
    begun: str
    requests: dict[str, str]
    sought: Sought
    stays: list[str]
    backups: list[dict[str, Any]]
    remotes: list[str]
    gone: list[str] = field(default_factory=list)
    erased: dict[str, dict[str, str]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON values; private, for they hold identifiers."""
        return {**vars(self), "sought": self.sought.plain()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> ErasurePlan:
        """The plan from its JSON values."""
        return cls(**{**values, "sought": Sought.from_plain(values["sought"])})


class Safe:
    """The private folder of a workspace that holds plans."""

    def __init__(self, home: Path, batch: str) -> None:
        self._folder, self._path = home / PRIVATE, home / PRIVATE / f"{batch}.json"

    def exists(self) -> bool:
        """Whether an erasure of the batch is under way."""
        return self._path.exists()

    def read(self) -> ErasurePlan:
        """The plan of the erasure under way."""
        return ErasurePlan.from_plain(files.read_json(self._path))

    def write(self, plan: ErasurePlan) -> None:
        """Write the plan."""
        self._make()
        files.write_json(self._path, plan.plain())
        self._path.chmod(0o600)

    def forget(self) -> None:
        """Erase the plan."""
        self._path.unlink(missing_ok=True)
        if {path.name for path in self._folder.iterdir()} <= {".gitignore"}:
            shutil.rmtree(self._folder)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A temporary private folder for planning."""
        self._make()
        for leftover in self._folder.glob("plan-*"):
            shutil.rmtree(leftover)
        folder = Path(tempfile.mkdtemp(prefix="plan-", dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _make(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o700)
        files.write_text(self._folder / ".gitignore", "*\n")


def make(
    home: Path, batch: str, by: str, begun: str, register: Register | None, safe: Safe
) -> ErasurePlan:
    """Make the plan of an erasure.

    Args:
        home: the workspace.
        batch: a released batch.
        by: the responsible person.
        begun: the time, RFC 3339.
        register: of the requests, if there is one.
        safe: folder for private files.

    Raises:
        AuditError: the data to erase cannot be determined.
    """
    shelf = Shelf(*dvc.of_dvc(home))
    states = git_history.states(home, f"release/{batch}", trees.other_checkouts(home))
    on_record = next(state for state in states if f"audit/{batch}" in state.names).on_record()
    if (version := on_record.get(git_history.DATA)) is None:
        raise PlanError(f"audit/{batch} tracks no data/, so nothing can be erased for it")
    with safe.folder() as folder:
        chosen = selection.select(home, batch, folder, shelf, on_record, register)
    versions = git_history.versions(states) | {version}
    names = selection.names_of(chosen.table, shelf, versions)
    trained_names = selection.names_of(chosen.table[chosen.table["trained"]], shelf, versions)
    needed_md5, needed_sha256 = _needed_hashes(home, names.record_ids, shelf)
    knowledge = _Knowledge(shelf, names, trained_names, chosen.trained)
    exposed = derivations.trace(states, batch, knowledge)
    models = exposed.models if chosen.trained else {}
    models |= dict.fromkeys(pool_rows.holding(states, shelf, names.pool_rows), DERIVED)
    spared = exposed.keep | needed_md5
    sought = Sought(
        records=frozenset(names.md5 - needed_md5),
        contents=frozenset(names.sha256 - needed_sha256),
        pixels=frozenset(selection.pixels_of(names.md5 - needed_md5, shelf)),
        shared=len(names.md5 & needed_md5),
        record_ids=frozenset(names.record_ids),
        subject_ids=frozenset(names.subject_ids),
        paths=frozenset(names.paths),
        identities=frozenset(chosen.identities),
        models={
            oid: kind for oid, kind in models.items() if oid not in spared | exposed.derivation
        },
        keep=frozenset(spared),
        derivation=frozenset(exposed.derivation),
        other=frozenset(exposed.other),
    )
    recorded = files.read_json(home / "ledger/batches" / f"{batch}.json")
    return ErasurePlan(
        batch,
        by,
        begun,
        chosen.requests,
        sought,
        stays=sorted({kind for oid, kind in models.items() if oid in spared}),
        backups=[backup.model_dump() for backup in _settings_at(home, batch).report.backups],
        remotes=list(recorded.get("remotes", [])),
    )


class _Knowledge:
    """Reads versions of the data and lists of records; see `derivations.Knowledge`."""

    def __init__(
        self,
        shelf: Shelf,
        names: selection.RecordNames,
        trained_names: selection.RecordNames,
        trained: Iterable[str],
    ) -> None:
        self._shelf, self._names, self._trained_names = shelf, names, trained_names
        self._trained = set(trained)
        self._listed: dict[str, set[str] | None] = {}
        self.read = shelf.read

    def lists_trained(self, version: str) -> bool | None:
        return self._lists(version, self._trained_names.record_ids)

    def lists_any(self, version: str) -> bool | None:
        return self._lists(version, self._names.record_ids)

    def forgets_all(self, oid: str) -> bool | None:
        content = self._shelf.read(oid)
        if content is None:
            return None
        lines = content.decode().splitlines()
        return self._trained <= {line.partition(",")[0] for line in lines[1:]}

    def _lists(self, version: str, record_ids: set[str]) -> bool | None:
        if version not in self._listed:
            table = self._shelf.table(version)
            ids = set() if table is None else set(table["record_id"])
            self._listed[version] = None if self._shelf.entries(version) is None else ids
        listed = self._listed[version]
        return None if listed is None else not record_ids.isdisjoint(listed)


def _needed_hashes(home: Path, going: set[str], shelf: Shelf) -> tuple[set[str], set[str]]:
    """The MD5 and the SHA-256 of every file that a remaining record of the current data needs."""
    version = git_history.current_state(home).data
    if version is None:
        return set(), set()
    listed, table = shelf.entries(version), shelf.table(version)
    if listed is None or table is None:
        raise MissingObjectError(
            "the list of the current data is neither in DVC's cache nor in a remote; restore it "
            "first"
        )
    remaining = table[~table["record_id"].isin(going)]
    return {listed[path] for path in remaining["path"] if path in listed}, set(remaining["sha256"])


def _settings_at(home: Path, batch: str) -> settings.Settings:
    from ruamel.yaml import YAML

    text = shell.git(home, "show", f"audit/{batch}:./params.yaml")
    return settings.parse(YAML(typ="safe").load(text) or {})
