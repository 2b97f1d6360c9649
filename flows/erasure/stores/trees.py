"""Work trees of the workspace, and the temporary folders that killed processes left."""

from __future__ import annotations

import contextlib
import hashlib
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
"""Beginning of the names of the tool's temporary folders."""
EXPERIMENTS = Path(".dvc/tmp/exps")
"""Where DVC makes checkouts for its experiments."""
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
"""Folders that hold programs and databases: of what lies there only records' own bytes and pixels
count. Their text has stores of its own, and what cannot be judged is what programs are made of."""
_GIT_OBJECT = re.compile(r"objects/([0-9a-f]{2}/[0-9a-f]{38,62}|pack/[^/]+\.(pack|idx|rev|bitmap))")
"""What `GitHistory` reads, in git's folder."""


class Tree:
    """A work tree with what DVC and the tool keep in it: the workspace, or another checkout of
    it. Files that git tracks are looked at, too; only what they say as committed is left to git's
    own receipt."""

    held: str | None = None

    def __init__(self, name: str, root: Path, part: str | None = "workspace") -> None:
        self.name, self.part, self.root = name, part, root

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look = Look()
        tracked, changed = _tracked(self.root), _changed(self.root)
        for path in files_below(self.root):
            key = path.relative_to(self.root).as_posix()
            look.looked_at += 1
            kind = _kind(path, key, judge)
            if key in tracked:
                # what a committed file says is in git's history, which has a receipt of its own
                if kind in (RECORDS, UNJUDGED) or (kind is not None and key in changed):
                    look.add(key, kind, judge, ours=False)
            elif _is_ours(key):
                look.add(key, kind, judge)
            elif kind != PACKS:  # an array of somebody's own only looks like one
                look.add(key, kind, judge, ours=False)
        for path in _in_corners(self.root):
            look.looked_at += 1
            key = path.relative_to(self.root).as_posix()
            kind = _kind(path, key, judge, inside=False)
            if kind == RECORDS or (kind == UNJUDGED and path.suffix == ".pack"):
                look.add(key, kind, judge, ours=False)
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
                    f"{self.name}: a file cannot be erased ({error.strerror}); mend its rights"
                ) from error
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


class Temporary:
    """The tool's temporary folders of this machine, what is left of checkouts in `.batches`, and
    those that DVC makes for its experiments. One that holds anything that has to go, or that
    cannot be judged, is removed as a whole: each of them is a copy."""

    name, part = "temporary_files", "workspace"
    held: str | None = None

    def __init__(self, home: Path, folders: Iterable[Path] | None = None) -> None:
        """Args:
        home: the workspace.
        folders: in which temporary ones lie; None: the machine's.
        """
        self._home, self._git = home, git.common_folder(home)
        self._roots = list(folders) if folders is not None else [Path(tempfile.gettempdir())]

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        look = Look()
        for folder in self._folders():
            kinds = []
            for path in files_below(folder, whole=True):
                look.looked_at += 1
                with contextlib.suppress(FileNotFoundError):  # somebody cleans up after himself
                    kinds.append(_kind(path, path.relative_to(folder).as_posix(), judge))
            if kind := next((kind for kind in kinds if kind), None):
                look.findings.append(FoundCopy(str(folder), LISTS if kind == UNJUDGED else kind))
        return look

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every file, by the folder that it lies in."""
        for folder in self._folders():
            for path in files_below(folder, whole=True):
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
        """Whether it is the checkout of another workspace that is still in use."""
        pointer = folder / "workspace" / ".git"
        if not pointer.is_file():
            return False
        leads = Path(pointer.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        return leads.exists() and not leads.resolve().is_relative_to(self._git)


def other_checkouts(home: Path) -> list[Path]:
    """The other checkouts of the workspace's repository, with the workspace's folder in each."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    own = home.resolve()
    listed = [
        Path(line.removeprefix("worktree ")) / prefix
        for line in shell.git(home, "worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    ]
    return [tree for tree in listed if tree.exists() and tree.resolve() != own]


def files_below(root: Path, whole: bool = False) -> Iterator[Path]:
    """Every file and link below a folder, and below links that stand for one of the tool's own
    folders of a workspace.

    Args:
        root: the folder, or a single file.
        whole: also what is a store of its own in a workspace.
    """
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        skipped: tuple[str, ...] = ()
        if not whole and Path(folder) == root:
            skipped = _STORES_OF_THEIR_OWN
        elif not whole and Path(folder) == root / ".dvc":
            skipped = _DVC_STORES
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(names):
            yield Path(folder) / name
        for name in list(folders):
            if (Path(folder) / name).is_symlink():
                folders.remove(name)
                if _is_own_link(root, Path(folder) / name):
                    yield from files_below(Path(folder) / name, whole=True)


def _is_own_link(root: Path, link: Path) -> bool:
    """Whether a link stands for one of the tool's own folders, as `data` on another disk."""
    return link.parent == root and link.name in _OWN_FOLDERS


def _links_outside(root: Path) -> Iterator[Path]:
    """Links to folders that lie outside of the workspace and of its repository: what is there is
    not looked at."""
    known = [root.resolve()]
    if shell.succeeds(root, "rev-parse", "--git-dir"):
        known.append(git.common_folder(root).resolve().parent)
    for folder, folders, _ in os.walk(root):
        skipped = {root: _STORES_OF_THEIR_OWN, root / ".dvc": _DVC_STORES}.get(Path(folder), ())
        folders[:] = [name for name in folders if name not in skipped]
        for name in sorted(folders):
            link = Path(folder) / name
            if link.is_symlink() and not _is_own_link(root, link):
                target = link.resolve()
                if not any(target.is_relative_to(place) for place in known):
                    yield link


def _in_corners(root: Path) -> Iterator[Path]:
    """Files in the folders of programs and databases, and those that lie among the checkouts."""
    for name in _CORNERS:
        corner = root / name
        if not corner.is_dir() or corner.is_symlink():
            continue
        for path in files_below(corner, whole=True):
            within = path.relative_to(corner).as_posix()
            if name == ".git" and _GIT_OBJECT.fullmatch(within):
                continue
            if name == ".dvc/tmp" and within.startswith(f"{EXPERIMENTS.name}/"):
                continue  # a store of its own
            yield path
    yield from (path for path in sorted((root / checkouts.FOLDER).glob("*")) if path.is_file())


def md5(path: Path) -> str:
    """DVC's hash of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _kind(path: Path, key: str, judge: Judge, inside: bool = True) -> str | None:
    """What a file is, by its content, else by its name."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # a link into the cache, to an object that was erased
        return LISTS if path.is_symlink() else None
    except OSError:
        return UNJUDGED
    if not stat.S_ISREG(mode):  # a pipe or a device holds nothing, and would never end
        return None
    try:
        return judge.file(path, inside) or (LISTS if judge.names.in_path(key) else None)
    except FileNotFoundError:
        return None
    except OSError:
        return UNJUDGED


def _is_ours(key: str) -> bool:
    """Whether a file of a work tree is the tool's: in a folder of its own, or in a draft that a
    killed process left."""
    top = PurePosixPath(key).parts[0]
    return any(top == name or top.startswith(f".{name}") for name in _OWN_FOLDERS)


def _tracked(root: Path) -> set[str]:
    if not shell.succeeds(root, "rev-parse", "--git-dir"):
        return set()
    return set(shell.git(root, "ls-files", "-z").split("\0"))


def _changed(root: Path) -> set[str]:
    """Tracked files that lie there other than committed."""
    if git.commit_of(root) is None:
        return _tracked(root)
    return set(shell.git(root, "diff", "--name-only", "--relative", "-z", "HEAD").split("\0"))
