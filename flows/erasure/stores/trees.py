"""Work trees of the workspace, and the temporary folders that killed processes left."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from flows.erasure.matcher import LISTS, PACKS, RECORDS, UNJUDGED, Judge
from flows.erasure.stores.store import FoundCopy, Look, StoreError
from flows.workspace import checkouts, git, shell

TEMPORARY = "erasure-audit-"
"""Prefix of the tool's temporary folders."""
EXPERIMENTS = Path(".dvc/tmp/exps")
"""Folder of DVC's checkouts for experiments."""
_OWN_FOLDERS = ("data", "artifacts", "references", "releases", "models")
_STORES_OF_THEIR_OWN = (
    ".git",
    ".venv",
    ".prefect",
    ".register",
    ".erasure",
    ".batches",
    "__pycache__",
    "node_modules",
)
_DVC_STORES = ("cache", "tmp")
_CORNERS = (".venv", "node_modules", "__pycache__", ".prefect", ".register", ".dvc/tmp", ".git")
"""Folders with programs and databases. Only records' own bytes and pixels count there: databases
have stores of their own, and programs consist of files that cannot be judged."""
_GIT_OBJECT = re.compile(r"objects/([0-9a-f]{2}/[0-9a-f]{38,62}|pack/[^/]+\.(pack|idx|rev|bitmap))")
"""Files in git's folder that `GitHistory` reads."""


class Tree:
    """A work tree with the files of DVC and the tool: the workspace, or another checkout of it.
    Files that git tracks are searched, too, but names in their committed state belong to git's own
    receipt."""

    held: str | None = None

    def __init__(self, name: str, root: Path, part: str | None = "workspace") -> None:
        self.name, self.part, self.root = name, part, root

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look = Look()
        tracked, changed_files = _tracked(self.root), _modified(self.root)
        for path in files_below(self.root):
            key = path.relative_to(self.root).as_posix()
            look.looked_at += 1
            kind = _kind(path, key, judge)
            if key in tracked:
                # names in committed files belong to git's history, which has its own receipt
                if kind in (RECORDS, UNJUDGED) or (kind is not None and key in changed_files):
                    look.add(key, kind, judge, is_ours=False)
            elif _is_ours(key):
                look.add(key, kind, judge)
            elif kind != PACKS:  # other people's arrays only look like packs
                look.add(key, kind, judge, is_ours=False)
        for path in _in_corners(self.root):
            look.looked_at += 1
            key = path.relative_to(self.root).as_posix()
            kind = _kind(path, key, judge, inside=False)
            if kind == RECORDS or (kind == UNJUDGED and path.suffix == ".pack"):
                look.add(key, kind, judge, is_ours=False)
        for path in _links_outside(self.root):
            look.add(path.relative_to(self.root).as_posix(), UNJUDGED, judge)
        return look

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every file, by its path within the tree."""
        for path in (*files_below(self.root), *_in_corners(self.root)):
            with contextlib.suppress(OSError):
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path

    def is_ours(self, key: str) -> bool:
        """Whether the tool may erase a file."""
        return _is_ours(key) and key not in _tracked(self.root)

    def erase(self, findings: Iterable[FoundCopy]) -> None:
        """See `Store`."""
        for finding in findings:
            path = self.root / finding.key
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{self.name}: a file cannot be erased ({error.strerror}); fix its permissions"
                ) from error
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


class Temporary:
    """The tool's temporary folders on this machine, leftovers of checkouts in `.batches`, and DVC's
    checkouts for experiments. A folder with a finding, or with a file that cannot be judged, is
    removed as a whole: each of them is a copy."""

    name, part = "temporary_files", "workspace"
    held: str | None = None

    def __init__(self, home: Path, folders: Iterable[Path] | None = None) -> None:
        """Args:
        home: the workspace.
        folders: that hold temporary folders; None: the machine's.
        """
        self._home, self._git = home, git.common_folder(home)
        self._roots = list(folders) if folders is not None else [Path(tempfile.gettempdir())]

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look = Look()
        for folder in self._folders():
            kinds = []
            for path in files_below(folder, with_stores=True):
                look.looked_at += 1
                with contextlib.suppress(FileNotFoundError):  # its owner removed it meanwhile
                    kinds.append(_kind(path, path.relative_to(folder).as_posix(), judge))
            if kind := next((kind for kind in kinds if kind), None):
                look.findings.append(FoundCopy(str(folder), LISTS if kind == UNJUDGED else kind))
        return look

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every file, with its temporary folder."""
        for folder in self._folders():
            for path in files_below(folder, with_stores=True):
                with contextlib.suppress(OSError):
                    if path.is_file():
                        yield str(folder), path

    def erase(self, findings: Iterable[FoundCopy]) -> None:
        """See `Store`."""
        for finding in findings:
            path = Path(finding.key)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        shell.git(self._home, "worktree", "prune")

    def _folders(self) -> Iterator[Path]:
        for root in self._roots:
            for folder in sorted(root.glob(f"{TEMPORARY}*")):
                if not self._is_of_another(folder):
                    yield folder
        yield from checkouts.leftovers(self._home)
        yield from sorted((self._home / EXPERIMENTS).glob("*"))

    def _is_of_another(self, folder: Path) -> bool:
        """Whether it is a checkout of another workspace, still in use."""
        pointer = folder / "workspace" / ".git"
        if not pointer.is_file():
            return False
        leads = Path(pointer.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        return leads.exists() and not leads.resolve().is_relative_to(self._git)


def other_checkouts(home: Path) -> list[Path]:
    """The other checkouts of the workspace's repository, with the workspace's folder in each."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    resolved_home = home.resolve()
    listed = [
        Path(line.removeprefix("worktree ")) / prefix
        for line in shell.git(home, "worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    ]
    return [tree for tree in listed if tree.exists() and tree.resolve() != resolved_home]


def files_below(root: Path, with_stores: bool = False) -> Iterator[Path]:
    """Every file and link below a folder, and below links that stand for a folder of the tool.

    Args:
        root: the folder, or a single file.
        with_stores: include folders that are stores of their own in a workspace.
    """
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        skipped: tuple[str, ...] = ()
        if not with_stores and Path(folder) == root:
            skipped = _STORES_OF_THEIR_OWN
        elif not with_stores and Path(folder) == root / ".dvc":
            skipped = _DVC_STORES
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(names):
            yield Path(folder) / name
        for name in list(folders):
            if (Path(folder) / name).is_symlink():
                folders.remove(name)
                if _is_own_link(root, Path(folder) / name):
                    yield from files_below(Path(folder) / name, with_stores=True)


def _is_own_link(root: Path, link: Path) -> bool:
    """Whether a link stands for a folder of the tool, such as `data` on another disk."""
    return link.parent == root and link.name in _OWN_FOLDERS


def _links_outside(root: Path) -> Iterator[Path]:
    """Links to folders outside the workspace and its repository, which are not searched."""
    known_roots = [root.resolve()]
    if shell.succeeds(root, "rev-parse", "--git-dir"):
        known_roots.append(git.common_folder(root).resolve().parent)
    for folder, folders, _ in os.walk(root):
        skipped = {root: _STORES_OF_THEIR_OWN, root / ".dvc": _DVC_STORES}.get(Path(folder), ())
        folders[:] = [name for name in folders if name not in skipped]
        for name in sorted(folders):
            link = Path(folder) / name
            if link.is_symlink() and not _is_own_link(root, link):
                target = link.resolve()
                if not any(target.is_relative_to(root_folder) for root_folder in known_roots):
                    yield link


def _in_corners(root: Path) -> Iterator[Path]:
    """Files in the folders of programs and databases, and files beside the checkouts."""
    for name in _CORNERS:
        corner = root / name
        if not corner.is_dir() or corner.is_symlink():
            continue
        for path in files_below(corner, with_stores=True):
            within = path.relative_to(corner).as_posix()
            if name == ".git" and _GIT_OBJECT.fullmatch(within):
                continue
            if name == ".dvc/tmp" and within.startswith(f"{EXPERIMENTS.name}/"):
                continue  # a store of its own
            yield path
    yield from (path for path in sorted((root / checkouts.FOLDER).glob("*")) if path.is_file())


def _kind(path: Path, key: str, judge: Judge, inside: bool = True) -> str | None:
    """The kind of a file, by its content, else by its name."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # a link into the cache, to an object that was erased
        return LISTS if path.is_symlink() else None
    except OSError:
        return UNJUDGED
    if not stat.S_ISREG(mode):  # pipes and devices hold nothing, and reading them may never end
        return None
    try:
        return judge.file(path, inside) or (LISTS if judge.names.in_path(key) else None)
    except FileNotFoundError:
        return None
    except OSError:
        return UNJUDGED


def _is_ours(key: str) -> bool:
    """Whether a file of a work tree is the tool's: in one of its folders, or in a draft that a
    killed process left."""
    top = PurePosixPath(key).parts[0]
    return any(top == name or top.startswith(f".{name}") for name in _OWN_FOLDERS)


def _tracked(root: Path) -> set[str]:
    if not shell.succeeds(root, "rev-parse", "--git-dir"):
        return set()
    return set(shell.git(root, "ls-files", "-z").split("\0"))


def _modified(root: Path) -> set[str]:
    """Tracked files that differ from their committed state."""
    if git.commit_of(root) is None:
        return _tracked(root)
    return set(shell.git(root, "diff", "--name-only", "--relative", "-z", "HEAD").split("\0"))
