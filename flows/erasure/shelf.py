"""Reads objects and versions of the data from all of DVC's stores."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.erasure.stores import dvc
from flows.erasure.stores.trees import TEMPORARY
from tasks.common import files
from tasks.common.errors import AuditError
from tasks.data import records

if TYPE_CHECKING:
    import pandas as pd


class MissingObjectError(AuditError):
    """An object that the plan of an erasure needs is in no store."""


class Shelf:
    """Reads objects from the cache, else from the first remote that has them."""

    def __init__(self, cache: dvc.DvcObjects, remotes: list[dvc.DvcObjects | dvc.Remote]) -> None:
        self._cache, self._remotes = cache, remotes
        self._contents: dict[str, bytes | None] = {}

    def read(self, oid: str) -> bytes | None:
        """The content of an object; None: no store has it.

        Raises:
            StoreError: it is not in the cache, and a remote that may have it cannot be reached.
        """
        if oid not in self._contents:
            self._contents[oid] = self.picture(oid)
        return self._contents[oid]

    def picture(self, oid: str) -> bytes | None:
        """As `read`, without keeping the content in memory."""
        content = self._cache.read(oid)
        for remote in self._remotes:
            if content is None and isinstance(remote, dvc.DvcObjects):
                content = remote.read(oid)
        return content

    def require(self, oid: str | None, name: str) -> bytes:
        """As `read`, but raises `MissingObjectError` if no store has the object."""
        content = self.read(oid) if oid else None
        if content is None:
            raise MissingObjectError(
                f"{name} of the batch is neither in DVC's cache nor in a remote, so the records to "
                "erase are unknown; restore the store that holds it"
            )
        return content

    def entries(self, version: str) -> dict[str, str] | None:
        """The files of a version of the data, md5 by path; None: the version is gone."""
        content = self.read(version)
        if content is None:
            return None
        return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}

    def data(self, version: str, folder: Path) -> pd.DataFrame:
        """Write manifest and identities of a version of the data into a folder, and read the
        manifest."""
        listed = self.entries(version)
        if listed is None:
            self.require(None, "the list of the data")
        for name in ("manifest.csv", "identities.csv"):
            if listed and name in listed:
                (folder / name).write_bytes(self.require(listed[name], name))
        return records.read_manifest(folder)

    def table(self, version: str) -> pd.DataFrame | None:
        """The manifest of any version; None: it is gone, or there is none."""
        listed = self.entries(version)
        content = self.read(listed["manifest.csv"]) if listed and "manifest.csv" in listed else None
        if content is None:
            return None
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            (Path(folder) / "manifest.csv").write_bytes(content)
            return files.read_csv(Path(folder) / "manifest.csv", records.COLUMNS)
