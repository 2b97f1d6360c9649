"""Git's objects: every file, name and message in its history, reachable or not."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from flows.erasure.matcher import LISTS, Judge
from flows.erasure.stores.store import EXAMPLES, FoundCopy, Look, StoreError
from flows.workspace import git


class GitHistory:
    """Git's history. It is searched and never rewritten: tags and signatures depend on it."""

    name, part = "git", "git"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._look: Look | None = None
        self._kinds: dict[str, str | None] = {}

    @property
    def held(self) -> str | None:
        """See `Store`."""
        if self._look is None or not (self._look.foreign or self._look.unjudged):
            return None
        examples = ", ".join(self._look.examples) or "see git fsck --unreachable"
        reasons = []
        if self._look.foreign:
            reasons.append(
                f"{self._look.foreign} files in git's history hold or name a person or a record "
                f"({examples})"
            )
        if self._look.unjudged:
            reasons.append(
                f"{len(self._look.unjudged)} cannot be judged "
                f"({', '.join(self._look.unjudged[:EXAMPLES])})"
            )
        return f"{' and '.join(reasons)}; docs/erasure.md says how a history is rewritten"

    def look(self, judge: Judge) -> Look:
        """See `Store`. Each object is read once, also over several searches."""
        look = Look()
        names: dict[str, str] = {}
        contents: list[str] = []
        with git.objects(self._folder) as objects:
            for listed in git.all_objects(self._folder):
                look.looked_at += 1
                if listed.kind != "tree":
                    contents.append(listed.oid)
                    continue
                content = self._read(objects, listed.oid)
                for is_folder, name, oid in git.tree_entries(content, len(listed.oid) // 2):
                    if not is_folder:
                        names.setdefault(oid, name)
                    if judge.names.in_path(name):
                        look.add("a name in a folder", LISTS, judge, is_ours=False)
            for oid in contents:
                if oid not in self._kinds:
                    self._kinds[oid] = judge.content(self._read(objects, oid))
                label = f"{names[oid]}, " if oid in names else ""
                look.add(f"{label}object {oid[:10]}", self._kinds[oid], judge, is_ours=False)
        self._look = look
        return look

    def erase(self, _findings: Iterable[FoundCopy], /) -> None:
        """See `Store`: the tool erases nothing here."""

    def blobs(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """The id of every blob, and a function that computes the MD5 of its content."""
        with git.objects(self._folder) as objects:
            for listed in git.all_objects(self._folder):
                if listed.kind == "blob":
                    yield listed.oid, functools.partial(self._md5, objects, listed.oid)

    def _md5(self, objects: git.GitObjects, oid: str) -> str:
        return hashlib.md5(self._read(objects, oid), usedforsecurity=False).hexdigest()

    @staticmethod
    def _read(objects: git.GitObjects, oid: str) -> bytes:
        content = objects.read(oid)
        if content is None:
            raise StoreError(f"git has lost its object {oid}; see `git fsck`")
        return content
