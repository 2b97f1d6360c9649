"""The states of a workspace: every `dvc.lock` and `.dvc` file that git knows, reachable or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.workspace import git, shell
from tasks.common.errors import WorkspaceError

DATA = "data"
"""The folder of the records."""


@dataclass(frozen=True)
class WorkspaceState:
    """One state of the workspace.

    Attributes:
        names: its tags.
        stages: of `dvc.lock`, by name.
        pointers: md5 of the objects that `.dvc` files track, by the tracked path.
        after: whether it is the release of the batch, or comes after it.
    """

    names: tuple[str, ...]
    stages: dict[str, Any]
    pointers: dict[str, str]
    after: bool = False

    @property
    def data(self) -> str | None:
        """The version of the data."""
        return self.pointers.get(DATA)

    def on_record(self) -> dict[str, str]:
        """Every path with its md5."""
        entries = [
            entry
            for stage in self.stages.values()
            for entry in (*stage.get("deps", []), *stage.get("outs", []))
        ]
        return {**{str(entry["path"]): str(entry.get("md5")) for entry in entries}, **self.pointers}


def states(
    folder: Path, release: str | None, checkouts: Iterable[Path] = ()
) -> list[WorkspaceState]:
    """Every state that git knows, and the uncommitted states of work trees.

    Args:
        folder: the workspace.
        release: tag of the release; None: there is none.
        checkouts: further checkouts.
    """
    tags: dict[str, list[str]] = {}
    for line in shell.git(
        folder, "tag", "--list", "--format=%(refname:short) %(objectname) %(*objectname)"
    ).splitlines():
        name, *hashes = line.split()
        tags.setdefault(hashes[-1], []).append(name)
    later: set[str] = set()
    if release:
        descendants = shell.git(
            folder, "rev-list", "--all", "--ancestry-path", f"{release}.."
        ).split()
        later = set(descendants) | {shell.git(folder, "rev-parse", f"{release}^{{commit}}")}
    commits = dict.fromkeys([*_commits(folder), *tags])
    with git.objects(folder) as objects:
        reader = _Reader(objects, shell.git(folder, "rev-parse", "--show-prefix").rstrip("/"))
        committed = [
            reader.state(commit, tuple(sorted(tags.get(commit, ()))), commit in later)
            for commit in commits
        ]
    return [
        *(state for state in committed if state),
        *(current_state(tree) for tree in (folder, *checkouts)),
    ]


def _commits(folder: Path) -> list[str]:
    """The commits whose states may differ: those that change a file of the pipeline, ends of
    branches, and all unreachable ones, such as dropped stashes of DVC's experiments."""
    changing = shell.git(
        folder, "log", "--all", "--full-history", "--format=%H", "--", "dvc.lock", "*.dvc"
    ).split()
    ends = shell.git(
        folder, "for-each-ref", "--format=%(objectname)", "refs/heads", "refs/exps", "refs/stash"
    ).split()
    reachable = set(shell.git(folder, "rev-list", "--all").split())
    lost = [
        listed.oid
        for listed in git.all_objects(folder)
        if listed.kind == "commit" and listed.oid not in reachable
    ]
    return [*changing, *ends, *lost]


def current_state(tree: Path) -> WorkspaceState:
    """The current state of a work tree, committed or not."""
    stages = (
        _stages((tree / "dvc.lock").read_text(encoding="utf-8"))
        if (tree / "dvc.lock").is_file()
        else {}
    )
    pointers: dict[str, str] = {}
    for path in _pointer_files(tree):
        pointers |= _pointer(path.read_text(encoding="utf-8"), path.relative_to(tree).as_posix())
    return WorkspaceState((), stages, pointers)


def versions(states: Iterable[WorkspaceState]) -> set[str]:
    """Every version of the data."""
    listed = list(states)
    recorded = {state.data for state in listed} | {
        str(entry["md5"])
        for state in listed
        for stage in state.stages.values()
        for entry in stage.get("deps", [])
        if entry["path"] == DATA and entry.get("md5")
    }
    return {version for version in recorded if version is not None}


class _Reader:
    """Reads states from git; files and folders that states share are read once."""

    def __init__(self, objects: git.GitObjects, prefix: str) -> None:
        """Args:
        objects: reads git's objects.
        prefix: the workspace's folder in the repository.
        """
        self._objects, self._prefix = objects, prefix
        self._locks: dict[str, dict[str, Any]] = {}
        self._below: dict[tuple[str, str], dict[str, str]] = {}

    def state(self, commit: str, names: tuple[str, ...], after: bool) -> WorkspaceState | None:
        """The state of a commit; None: it is not a commit, since tags may name other objects."""
        if self._objects.read(f"{commit}^{{commit}}") is None:
            return None
        content = self._objects.read(f"{commit}:{self._prefix}")
        if content is None:  # before the workspace was made
            return WorkspaceState(names, {}, {}, after)
        width = len(commit) // 2
        lock = next(
            (oid for _, name, oid in git.tree_entries(content, width) if name == "dvc.lock"), ""
        )
        if lock not in self._locks:
            self._locks[lock] = _stages(self._text(lock)) if lock else {}
        return WorkspaceState(names, self._locks[lock], self._pointers(content, width), after)

    def _pointers(self, tree: bytes, width: int, folder: str = "") -> dict[str, str]:
        pointers: dict[str, str] = {}
        for is_folder, name, oid in git.tree_entries(tree, width):
            path = f"{folder}{name}"
            if not (is_folder or name.endswith(".dvc")):
                continue
            if (oid, path) not in self._below:
                self._below[oid, path] = (
                    self._pointers(self._require(oid), width, f"{path}/")
                    if is_folder
                    else _pointer(self._text(oid), path)
                )
            pointers |= self._below[oid, path]
        return pointers

    def _text(self, oid: str) -> str:
        return self._require(oid).decode()

    def _require(self, oid: str) -> bytes:
        content = self._objects.read(oid)
        if content is None:  # unread copies could not be erased
            raise WorkspaceError(
                f"git has lost its object {oid}; see `git fsck`, and fetch what is missing"
            )
        return content


def _stages(text: str) -> dict[str, Any]:
    stages: dict[str, Any] = (_yaml(text) or {}).get("stages") or {}
    return stages


def _pointer(text: str, path: str) -> dict[str, str]:
    folder = path.rpartition("/")[0]
    outs = (_yaml(text) or {}).get("outs") or []
    return {
        f"{folder}/{out['path']}" if folder else str(out["path"]): str(out["md5"])
        for out in outs
        if "md5" in out
    }


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def _pointer_files(tree: Path) -> list[Path]:
    names = shell.git(
        tree, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.dvc"
    ).split("\0")
    return [tree / name for name in names if name and (tree / name).is_file()]
