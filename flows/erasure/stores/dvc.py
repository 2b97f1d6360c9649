"""DVC's cache and remotes, which hold copies as objects named by their hash."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flows.erasure.matcher import DERIVED, RUNS, Judge
from flows.erasure.stores.store import FoundCopy, Look, StoreError, reaching
from flows.workspace import dvc_graph

OBJECT = re.compile(r"(?:files/md5/)?(?P<head>[0-9a-f]{2})/(?P<tail>[0-9a-f]{30}(?:\.dir)?)")
"""The path of an object, relative to the cache's or remote's folder; DVC 2 had no `files/md5`."""
KNOWN_VERSIONS = ("local", "file", "ssh", "sftp", "memory")
"""Protocols of stores that keep one version of a file."""


@dataclass(frozen=True)
class _Item:
    key: str
    path: str
    version: str | None = None
    mark: bool = False
    """a delete marker, without content"""

    @property
    def oid(self) -> str | None:
        match = OBJECT.fullmatch(self.key)
        return match["head"] + match["tail"] if match else None


class DvcObjects:
    """A store of DVC: the cache or a remote."""

    def __init__(self, name: str, fs: Any, root: str, bundles: tuple[str, ...] = ()) -> None:
        """Args:
        name: `dvc_cache` or `dvc_remote:<name>`.
        fs: DVC's file system.
        root: folder or prefix of the store.
        bundles: further folders of the tool in it; whatever they hold is erased.
        """
        self.name, self.part, self.fs, self.root = name, name, fs, root.rstrip("/")
        self._bundles = bundles
        self._versioned: bool | None = None

    @property
    def held(self) -> str | None:
        """See `Store`."""
        if self._protocol in ("s3", "s3a"):
            try:
                self._keeps_versions()
            except Exception as error:  # as in `reaching`
                return (
                    f"it cannot be told whether the bucket keeps versions ({type(error).__name__})"
                )
            return None
        if self._protocol not in KNOWN_VERSIONS:
            return (
                f"whether a store of the kind {self._protocol} keeps what was deleted is not "
                "known to this tool"
            )
        return None

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look, runs = Look(), []
        with reaching(self.name):
            for item in self._items():
                look.looked_at += 1
                if item.key.startswith("runs/"):
                    runs.append(item)
                else:
                    look.add(self._address(item), self._judged(item, judge), judge)
            if not look.looked_at and self.name != "dvc_cache":
                raise StoreError(self._nothing_there())
            for item in runs:  # last: they are judged by the objects that they name
                if judge.run(self._read(item)):
                    look.findings.append(FoundCopy(self._address(item), RUNS))
        return look

    def hashes(self) -> Iterator[tuple[str, str]]:
        """The address and the hash of every object, from its name."""
        with reaching(self.name):
            for item in self._items():
                if item.oid is not None and not item.mark:
                    yield self._address(item), item.oid

    def erase(self, findings: Iterable[FoundCopy]) -> None:
        """See `Store`."""
        with reaching(self.name):
            for finding in findings:
                key, _, version = finding.key.partition("?")
                path = f"{self.root}/{key}"
                if self._keeps_versions():
                    bucket, _, name = path.partition("/")
                    self.fs.fs.call_s3("delete_object", Bucket=bucket, Key=name, VersionId=version)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        self.fs.remove(path)
            self._forget_listings()

    def read(self, oid: str) -> bytes | None:
        """The content of an object; None: it is not here. Raises `StoreError` if the store cannot
        be read."""
        with reaching(self.name):
            for prefix in ("files/md5/", ""):
                path = f"{self.root}/{prefix}{oid[:2]}/{oid[2:]}"
                with contextlib.suppress(FileNotFoundError), self.fs.open(path, "rb") as stream:
                    content: bytes = stream.read()
                    return content
        return None

    def has(self, oid: str) -> bool:
        """Whether an object is here."""
        with reaching(self.name):
            return any(
                self.fs.exists(f"{self.root}/{prefix}{oid[:2]}/{oid[2:]}")
                for prefix in ("files/md5/", "")
            )

    def refuse_empty(self) -> None:
        """Raise `StoreError` if the store is empty, for example because a disk is not mounted."""
        with reaching(self.name):
            if next(self._items(), None) is None:
                raise StoreError(self._nothing_there())

    def _nothing_there(self) -> str:
        return (
            f"{self.name} holds nothing at all; mount it if it is a disk, or `dvc push` what "
            "remains, and run the same command again. Nothing there counts as erased"
        )

    def _judged(self, item: _Item, judge: Judge) -> str | None:
        oid = item.oid
        if item.mark:  # its name is the hash of the deleted object
            return DERIVED if oid in judge.gone else None
        if oid is not None:
            return judge.object(oid, lambda: self._open(item))
        if item.key.partition("/")[0] in self._bundles:
            return DERIVED
        # a file that a killed transfer left, under another name
        with self._open(item) as stream:
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := stream.read(2**20):
                digest.update(chunk)
        return judge.object(digest.hexdigest(), lambda: self._open(item))

    def _items(self) -> Iterator[_Item]:
        self._forget_listings()
        if self._keeps_versions():
            yield from self._all_versions()
            return
        if not self.fs.exists(self.root):
            return
        for path in self._paths():
            key = path[len(self.root) :].lstrip("/")
            if self._is_ours(key):
                yield _Item(key, path)

    def _paths(self) -> Iterator[str]:
        """Every file. Links to folders on other disks are followed."""
        if self._protocol not in ("local", "file"):
            yield from map(str, self.fs.find(self.root))
            return
        visited = set[str]()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            if os.path.realpath(folder) in visited:  # a link that leads back
                folders.clear()
                continue
            visited.add(os.path.realpath(folder))
            folders.sort()
            yield from (f"{folder}/{name}" for name in sorted(names))

    def _is_ours(self, key: str) -> bool:
        """Whether a file is DVC's or the tool's: a remote's folder may hold others, the cache
        not."""
        top = key.partition("/")[0]
        return (
            self.name == "dvc_cache"
            or top in ("files", "runs", *self._bundles)
            or OBJECT.fullmatch(key) is not None
        )

    def _all_versions(self) -> Iterator[_Item]:
        """Every version of every key of a bucket, and every delete marker."""
        bucket, _, prefix = self.root.partition("/")
        marks: dict[str, str] = {}
        while True:
            page = self.fs.fs.call_s3(
                "list_object_versions",
                Bucket=bucket,
                Prefix=f"{prefix}/" if prefix else "",
                **marks,
            )
            for entry in (*page.get("Versions", []), *(later := page.get("DeleteMarkers", []))):
                key = entry["Key"][len(prefix) :].lstrip("/")
                if self._is_ours(key):
                    yield _Item(key, f"{bucket}/{entry['Key']}", entry["VersionId"], entry in later)
            if not page.get("IsTruncated"):
                return
            marks = {
                "KeyMarker": page["NextKeyMarker"],
                "VersionIdMarker": page["NextVersionIdMarker"],
            }

    def _address(self, item: _Item) -> str:
        return item.key if item.version is None else f"{item.key}?{item.version}"

    def _open(self, item: _Item) -> BinaryIO:
        if item.version is None:
            stream: BinaryIO = self.fs.open(item.path, "rb")
            return stream
        return io.BytesIO(self._read(item))

    def _read(self, item: _Item) -> bytes:
        if item.version is None:
            with self.fs.open(item.path, "rb") as stream:
                content: bytes = stream.read()
                return content
        version: bytes = self.fs.fs.cat_file(item.path, version_id=item.version)
        return version

    def _keeps_versions(self) -> bool:
        """Whether the store keeps older versions of a file, as an S3 bucket may."""
        if self._versioned is None:
            self._versioned = False
            if self._protocol in ("s3", "s3a"):
                bucket = self.root.partition("/")[0]
                state = self.fs.fs.call_s3("get_bucket_versioning", Bucket=bucket).get("Status")
                self._versioned = state in ("Enabled", "Suspended")
        return self._versioned

    def _forget_listings(self) -> None:
        """Drop the listings that clients of object stores cache: a search must see the store."""
        forget = getattr(getattr(self.fs, "fs", None), "invalidate_cache", None)
        if forget is not None:
            forget()

    @property
    def _protocol(self) -> str:
        protocol = self.fs.protocol
        return str(protocol if isinstance(protocol, str) else protocol[0])


class Remote:
    """A remote that cannot be used: it is held, with the reason."""

    def __init__(self, name: str, why: str) -> None:
        self.name, self.part, self._why = name, name, why

    @property
    def held(self) -> str | None:
        """See `Store`."""
        return self._why

    def look(self, _judge: Judge, /) -> Look:
        """See `Store`."""
        raise StoreError(f"{self.name}: {self._why}")

    def erase(self, _findings: Iterable[FoundCopy], /) -> None:
        """See `Store`."""
        raise StoreError(f"{self.name}: {self._why}")


def of_dvc(
    home: Path, bundles: tuple[str, ...] = ()
) -> tuple[DvcObjects, list[DvcObjects | Remote]]:
    """DVC's cache, and its remotes in the order of their names.

    Args:
        home: the workspace.
        bundles: see `DvcObjects`.

    Raises:
        WorkspaceError: the folder is not a workspace.
    """
    from dvc.exceptions import DvcException

    with dvc_graph.open_repo(home) as repo:
        cache = DvcObjects("dvc_cache", repo.cache.legacy.fs, repo.cache.legacy.path)
        remotes: list[DvcObjects | Remote] = []
        for name in sorted(repo.config.get("remote") or {}):
            title = f"dvc_remote:{name}"
            try:
                repo.cloud.get_remote_odb(name)  # refuses remotes that version files themselves
                remote = repo.cloud.get_remote(name)
                if remote.fs.protocol in ("http", "https"):
                    remotes.append(Remote(title, "nothing can be listed or erased over HTTP"))
                else:
                    remotes.append(DvcObjects(title, remote.fs, remote.path, bundles))
            except (DvcException, ImportError, OSError, ValueError) as error:
                remotes.append(Remote(title, f"DVC cannot use it ({type(error).__name__})"))
    return cache, remotes
