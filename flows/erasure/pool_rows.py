"""Removes rows of erased people from the current pool, and finds all other versions of pools that
hold one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from flows.erasure.git_history import WorkspaceState
from flows.erasure.shelf import Shelf
from flows.workspace import shell
from tasks.common import files
from tasks.data import records
from tasks.pooling import table


def holding(states: Iterable[WorkspaceState], shelf: Shelf, rows: Collection[bytes]) -> set[str]:
    """The MD5 of pools that hold one of the rows, of the table and of the folder.

    A table that no store has any more counts as holding one.

    Args:
        states: all states of the workspace.
        shelf: DVC's stores.
        rows: as in `table.keys`.
    """
    folders = {
        oid
        for state in states
        for path, oid in state.pointers.items()
        if path.startswith("references/") and oid.endswith(".dir")
    }
    going: set[str] = set()
    for folder in sorted(folders):
        content = shelf.read(folder)
        for entry in json.loads(content) if content else []:
            if entry["relpath"] != table.SCORES:
                continue
            scores = shelf.read(str(entry["md5"]))
            if scores is None or table.holds(scores, rows):
                going |= {folder, str(entry["md5"])}
    return going


def drop_leaving_rows(home: Path) -> int:
    """Remove rows of records that are no longer in the data from the current pool, and have DVC
    track it. Returns the number of removed rows."""
    pool = home / table.FOLDER
    if not pool.with_name(f"{pool.name}.dvc").exists():
        return 0
    if not pool.exists():
        shell.dvc(home, "checkout", f"{table.FOLDER}.dvc")
    now = files.timestamp()
    dropped = table.keep_only(pool, records.read_manifest(home / "data"), now)
    if dropped:
        shell.dvc(home, "add", table.FOLDER)
    return dropped
