"""Databases: DVC's own of paths and hashes, and those that should hold no personal data."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from flows.erasure.matcher import LISTS, Judge
from flows.erasure.stores.store import FoundCopy, Look, Witness, reaching
from flows.erasure.stores.trees import EXPERIMENTS, files_below
from flows.workspace import dvc_graph


class Databases:
    """DVC's own databases: hashes and names of files, by repository. All can be made again.

    Databases of other repositories on the machine stay: DVC may be using them.
    """

    name, part = "dvc_databases", "workspace"
    held: str | None = None

    def __init__(self, trees: Iterable[Path]) -> None:
        """Args:
        trees: the workspace and its other checkouts.
        """
        self._trees = list(trees)

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look = Look()
        folders = [*(tree / ".dvc" / "tmp" for tree in self._trees), *_site_caches(self._trees)]
        for folder in folders:
            remembers = False
            for path in _of_databases(folder):
                look.looked_at += 1
                with contextlib.suppress(OSError):  # removed meanwhile, or another user's
                    remembers = remembers or judge.remembers(path.read_bytes())
            if remembers:
                look.findings.append(FoundCopy(str(folder), LISTS))
        return look

    def erase(self, findings: Iterable[FoundCopy]) -> None:
        """See `Store`."""
        for finding in findings:
            for path in _of_databases(Path(finding.key)):
                with contextlib.suppress(OSError):
                    path.unlink()


class Witnesses(Witness):
    """Stores that should hold no personal data (Prefect's, the register's folder, the drop folder);
    scanned to confirm."""

    def __init__(self, name: str, roots: Iterable[Path]) -> None:
        self.name, self._roots = name, list(roots)

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look = Look()
        for path in (path for root in self._roots for path in files_below(root, with_stores=True)):
            look.looked_at += 1
            with contextlib.suppress(OSError):
                if path.is_file() and judge.names.in_bytes(path.read_bytes()):
                    look.add(f"{self.name}/{path.name}", LISTS, judge, is_ours=False)
        return look


class RegisterRows(Witness):
    """The register's database, row by row. It holds pseudonyms, so nothing should be found."""

    name = "register_rows"

    def __init__(self, home: Path) -> None:
        self._home = home

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        import sqlalchemy as sa

        from flows.register import database

        look, engine = Look(), database.connect(self._home)
        try:
            with reaching(self.name), engine.connect() as connection:
                tables = sa.MetaData()
                tables.reflect(connection)
                for table in tables.sorted_tables:
                    for row in connection.execute(sa.select(table)):
                        look.looked_at += 1
                        if judge.names.in_bytes(repr(tuple(row)).encode()):
                            look.add(f"table {table.name}", LISTS, judge, is_ours=False)
        finally:
            engine.dispose()
        return look


def prefect_home(home: Path) -> Path:
    """The folder of Prefect's database."""
    return Path(os.environ.get("PREFECT_HOME", home / ".prefect"))


def _of_databases(folder: Path) -> Iterable[Path]:
    """The files below `.dvc/tmp` or a site cache, without the checkouts of experiments, which are a
    store of their own."""
    experiments = folder / EXPERIMENTS.name
    return (path for path in files_below(folder) if not path.is_relative_to(experiments))


def _site_caches(trees: Iterable[Path]) -> list[Path]:
    """The folders of DVC's databases outside the checkouts; if DVC_SITE_CACHE_DIR is set, those in
    it."""
    from dvc.env import DVC_SITE_CACHE_DIR

    if folder := os.environ.get(DVC_SITE_CACHE_DIR):
        return sorted(Path(folder).glob("repo/*"))
    caches = []
    for tree in trees:
        if (tree / ".dvc").is_dir():
            with dvc_graph.open_repo(tree) as repo:
                caches.append(Path(repo.site_cache_dir))
    return caches
