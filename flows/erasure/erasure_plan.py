"""What an erasure has to know, found out before anything is erased and kept in a private file.

It could not be found out again once the data are gone. The file goes last, so an erasure that was
cut off anywhere continues from it.
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
"""Folder of what an erasure under way has to know; nobody else may read it, and it goes last."""


class PlanError(AuditError):
    """It cannot be told what has to go."""


@dataclass
class ErasurePlan:
    """What has to go, and how far the erasure is.

    Attributes:
        batch: its name.
        by: who answers for it.
        begun: when, RFC 3339.
        requests: what becomes of each request, by id.
        sought: what is looked for.
        stays: kinds of models that are kept although they saw the records.
        backups: name and days of `report.backups`.
        remotes: those that the batch was audited with.
        gone: hashes of objects that were judged to go, erased or not.
        erased: by store, the address and kind of everything that was found to go.
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
    def of(cls, values: dict[str, Any]) -> ErasurePlan:
        """What `plain` gave."""
        return cls(**{**values, "sought": Sought.of(values["sought"])})


class Safe:
    """The private folder of a workspace in which plans are kept."""

    def __init__(self, home: Path, batch: str) -> None:
        self._folder, self._path = home / PRIVATE, home / PRIVATE / f"{batch}.json"

    def exists(self) -> bool:
        """Whether an erasure of the batch is under way."""
        return self._path.exists()

    def read(self) -> ErasurePlan:
        """The plan of the erasure under way."""
        return ErasurePlan.of(files.read_json(self._path))

    def write(self, plan: ErasurePlan) -> None:
        """Keep a plan."""
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
        """A private folder for the time of planning."""
        self._make()
        for left in self._folder.glob("plan-*"):
            shutil.rmtree(left)
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
    """Find out what has to go.

    Args:
        home: the workspace.
        batch: a released batch.
        by: who answers for the erasure.
        begun: the time, RFC 3339.
        register: of the requests, if there is one.
        safe: where private files may lie.

    Raises:
        AuditError: it cannot be told.
    """
    others = trees.other_checkouts(home)
    shelf = Shelf(*dvc.of_dvc(home))
    states = git_history.states(home, f"release/{batch}", others)
    audited = next(state for state in states if f"audit/{batch}" in state.names)
    on_record = audited.on_record()
    version = on_record.get(git_history.DATA)
    if version is None:
        raise PlanError(f"audit/{batch} tracks no data/, so nothing can be erased by it")
    with safe.folder() as folder:
        chosen = selection.select(home, batch, folder, shelf, on_record, register)
    versions = git_history.versions(states) | {version}
    names = selection.names_of(chosen.table, shelf, versions)
    seen = selection.names_of(chosen.table[chosen.table["trained"]], shelf, versions)
    needed, shared = _needed(git_history.at_hand(home).data, names.record_ids, shelf)
    exposed = derivations.trace(states, batch, _Knowledge(shelf, names, seen, chosen.trained))
    models = exposed.models if chosen.trained else {}
    models |= dict.fromkeys(pool_rows.holding(states, shelf, names.pool_rows), DERIVED)
    keep = exposed.keep | needed
    sought = Sought(
        records=frozenset(names.md5 - needed),
        contents=frozenset(names.sha256 - shared),
        pixels=frozenset(selection.pixels_of(names.md5 - needed, shelf)),
        shared=len(names.md5 & needed),
        record_ids=frozenset(names.record_ids),
        subject_ids=frozenset(names.subject_ids),
        paths=frozenset(names.paths),
        identities=frozenset(chosen.identities),
        models={oid: kind for oid, kind in models.items() if oid not in keep | exposed.derivation},
        keep=frozenset(keep),
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
        stays=sorted({kind for oid, kind in models.items() if oid in keep}),
        backups=[backup.model_dump() for backup in _settings_at(home, batch).report.backups],
        remotes=list(recorded.get("remotes", [])),
    )


class _Knowledge:
    """What the versions of the data and the lists of records say; see `derivations.Knowledge`."""

    def __init__(
        self,
        shelf: Shelf,
        names: selection.RecordNames,
        seen: selection.RecordNames,
        trained: Iterable[str],
    ) -> None:
        self._shelf, self._names, self._seen = shelf, names, seen
        self._trained = set(trained)
        self._listed: dict[str, set[str] | None] = {}
        self.read = shelf.read

    def lists_trained(self, version: str) -> bool | None:
        return self._lists(version, self._seen.record_ids)

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


def _needed(version: str | None, going: set[str], shelf: Shelf) -> tuple[set[str], set[str]]:
    """The MD5 of every file that a remaining record of the data at hand needs, and the SHA-256 of
    the same."""
    if version is None:
        return set(), set()
    listed, table = shelf.entries(version), shelf.table(version)
    if listed is None or table is None:
        raise MissingObjectError(
            "the list of the data at hand is neither in DVC's cache nor in a remote; restore it "
            "first"
        )
    rest = table[~table["record_id"].isin(going)]
    return {listed[path] for path in rest["path"] if path in listed}, set(rest["sha256"])


def _settings_at(home: Path, batch: str) -> settings.Settings:
    from ruamel.yaml import YAML

    text = shell.git(home, "show", f"audit/{batch}:./params.yaml")
    return settings.parse(YAML(typ="safe").load(text) or {})
