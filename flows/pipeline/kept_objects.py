"""Reads the objects of DVC's cache and remotes without changing either.

DVC's own verification deletes damaged objects. A check must leave the evidence unchanged, so
objects are read and hashed here, and nothing is written, fetched or removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from flows.workspace import dvc_graph
from tasks.common.errors import ReproductionError, WorkspaceError

EMPTY_FOLDER = "d751713988987e9331980363e24189ce.dir"
"""DVC's hash of a folder without files."""
_CHUNK = 1 << 20


class Condition(StrEnum):
    """The condition of a recorded object."""

    SOUND = "sound"
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True)
class ObjectCopy:
    """A copy of an object: the store's name, its file system and the path in it."""

    store: str
    disk: Any
    path: str


@dataclass
class KeptObjects:
    """The objects of a workspace's cache and remotes, by DVC's md5.

    Attributes:
        stores: name and object database of each store, the cache first.
        unreachable: remotes that could not be read, with the kind of error.
    """

    stores: list[tuple[str, Any]]
    unreachable: dict[str, str] = field(default_factory=dict)
    _conditions: dict[str, Condition] = field(default_factory=dict)

    @classmethod
    def of_workspace(cls, workspace: Path) -> KeptObjects:
        """The stores that the workspace's DVC settings name.

        Raises:
            WorkspaceError: the folder is no DVC repository.
        """
        unreachable = {}
        with dvc_graph.open_repo(workspace) as repo:
            stores = [("DVC's cache", repo.cache.local)]
            for name in sorted(repo.config.get("remote") or {}):
                try:
                    stores.append((f"the remote {name}", repo.cloud.get_remote_odb(name)))
                except Exception as error:  # each kind of remote has errors of its own
                    unreachable[f"the remote {name}"] = type(error).__name__
        return cls(stores, unreachable)

    def condition(self, oid: str) -> Condition:
        """Whether an object is kept and hashes to its name. The first copy that exists decides."""
        if oid not in self._conditions:
            self._conditions[oid] = self._examine(oid)
        return self._conditions[oid]

    def listing(self, oid: str) -> list[tuple[str, str]] | None:
        """The files of a folder's object, relative path and md5; None: it is missing or
        damaged."""
        if oid == EMPTY_FOLDER:
            return []
        if self.condition(oid) is not Condition.SOUND:
            return None
        with self._open(oid) as stream:
            entries = json.load(stream)
        return [(str(entry["relpath"]), str(entry["md5"])) for entry in entries]

    def read(self, oid: str) -> bytes | None:
        """The content of an object; None: it is missing or damaged."""
        if self.condition(oid) is not Condition.SOUND:
            return None
        with self._open(oid) as stream:
            return stream.read()

    def write_to(self, oid: str, sink: IO[bytes]) -> Condition:
        """Write the content of an object, from the first store that has a sound copy.

        Args:
            oid: of the object.
            sink: an empty file; its content counts only if the result is `SOUND`.

        Returns:
            `DAMAGED` if there are copies and none of them is sound.
        """
        condition = Condition.MISSING
        for copy in self._copies(oid):
            sink.seek(0)
            sink.truncate()
            with copy.disk.open(copy.path, "rb") as stream:
                if _md5(stream, sink) == oid.removesuffix(".dir"):
                    return Condition.SOUND
            condition = Condition.DAMAGED
        return condition

    def copy(self, oid: str, target: Path) -> None:
        """Write the content of a sound object to a new file.

        Raises:
            ReproductionError: the copy does not hash to the object's name.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._open(oid) as stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy, _CHUNK)
        with target.open("rb") as copied:
            if _md5(copied) != oid:
                raise ReproductionError(f"object {oid} changed while it was read; check again")

    def _examine(self, oid: str) -> Condition:
        copy = next(self._copies(oid), None)
        if copy is None:
            return Condition.MISSING
        with copy.disk.open(copy.path, "rb") as stream:
            sound = _md5(stream) == oid.removesuffix(".dir")
        return Condition.SOUND if sound else Condition.DAMAGED

    def _open(self, oid: str) -> IO[bytes]:
        copy = next(self._copies(oid), None)
        if copy is None:
            raise WorkspaceError(f"object {oid} vanished from DVC's cache while it was read")
        stream: IO[bytes] = copy.disk.open(copy.path, "rb")
        return stream

    def _copies(self, oid: str) -> Iterator[ObjectCopy]:
        for name, database in self.stores:
            path = database.oid_to_path(oid)
            try:
                exists = database.fs.exists(path)
            except Exception as error:  # each kind of remote has errors of its own
                self.unreachable[name] = type(error).__name__
                continue
            if exists:
                yield ObjectCopy(name, database.fs, path)


def folder_hash(entries: list[tuple[str, str]]) -> str:
    """DVC's hash of a folder with these files, relative path and md5."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree: Any = Tree()  # type: ignore[no-untyped-call]
    for path, oid in entries:
        tree.add(tuple(path.split("/")), None, HashInfo("md5", oid))
    tree.digest()
    return str(tree.hash_info.value)


def _md5(stream: IO[bytes], sink: IO[bytes] | None = None) -> str:
    """The MD5 of a stream, which is also copied into the sink, if there is one."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
    return digest.hexdigest()
