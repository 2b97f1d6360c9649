"""The places where copies lie: DVC's cache and remotes, work trees, temporary folders, DVC's
databases, git.

Every place can say what it holds, judge it, and erase what has to go. Nothing here knows of batches
and receipts.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from flows.erasure.matcher import DERIVED, LISTS, PACKS, RUNS, Judge, is_text
from flows.workspace import dvc_graph, shell
from tasks.common.errors import AuditError

OBJECT = re.compile(r"(?:files/md5/)?(?P<head>[0-9a-f]{2})/(?P<tail>[0-9a-f]{30}(?:\.dir)?)")
"""Where DVC puts an object, relative to the cache's or remote's folder; DVC 2 left out
`files/md5`."""
KNOWN_VERSIONS = ("local", "file", "ssh", "sftp", "memory")
"""Protocols of stores that keep one version of a file."""
TEMPORARY = "erasure-audit-"
"""Beginning of the names of the tool's temporary folders."""


class StoreError(AuditError):
    """A store cannot be reached, listed or changed."""


@dataclass(frozen=True)
class Found:
    """Something that has to go: where it lies in its store, and of which kind it is."""

    key: str
    kind: str


@dataclass
class Look:
    """What one look at a store brought: how many things were looked at, and which of them have to
    go."""

    looked_at: int = 0
    found: list[Found] = field(default_factory=list)
    foreign: int = 0
    """what holds or names a record or a person, and is not the tool's to erase"""
    examples: list[str] = field(default_factory=list)
    """some of it, by names that name nobody"""


class Store(Protocol):
    """A place with copies."""

    @property
    def name(self) -> str:
        """How receipts call it."""

    @property
    def part(self) -> str | None:
        """The store in part 7 of the report that it belongs to; None: it is in the receipts
        only."""

    @property
    def held(self) -> str | None:
        """Why it cannot be said that a thing erased here is gone; None where it can."""

    def look(self, judge: Judge, /) -> Look:
        """Everything in it that has to go. Raises `StoreError` where it cannot be looked at."""

    def erase(self, found: Iterable[Found], /) -> None:
        """Erase these; what is gone already is let be. Raises `StoreError` where that cannot be
        done."""


@contextlib.contextmanager
def _reached(name: str) -> Iterator[None]:
    """Turn whatever a file system raises into one error that names the store, and not where it
    lies."""
    try:
        yield
    except AuditError:
        raise
    except (
        Exception
    ) as error:  # clients of object stores have exceptions of their own, with no common root
        raise StoreError(
            f"{name} cannot be reached ({type(error).__name__}); nothing there counts as erased. "
            "See that it can be, "
            "and run the same command again"
        ) from error


@dataclass(frozen=True)
class _Item:
    key: str
    path: str
    version: str | None = None
    mark: bool = False
    """it says that the object was deleted, and has no content"""

    @property
    def oid(self) -> str | None:
        match = OBJECT.fullmatch(self.key)
        return match["head"] + match["tail"] if match else None


class Objects:
    """A store of DVC's: the cache, or a remote."""

    def __init__(self, name: str, fs: Any, root: str, bundles: tuple[str, ...] = ()) -> None:
        """Args:
        name: `dvc_cache` or `dvc_remote:<name>`.
        fs: DVC's file system.
        root: folder or prefix of the store.
        bundles: further folders in it that are the tool's own; whatever is left in them goes.
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
            except Exception as error:  # as in `_reached`
                return (
                    f"it cannot be told whether the bucket keeps versions ({type(error).__name__})"
                )
            return None
        if self._protocol not in KNOWN_VERSIONS:
            return f"whether a store of the kind {self._protocol} keeps what was deleted is not known to this tool"
        return None

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        found, runs = Look(), []
        with _reached(self.name):
            for item in self._items():
                found.looked_at += 1
                if item.key.startswith("runs/"):
                    runs.append(item)
                elif kind := self._judged(item, judge):
                    found.found.append(Found(self._address(item), kind))
            if not found.looked_at and self.name != "dvc_cache":
                raise StoreError(self._nothing_there())
            for item in runs:  # last: they are judged by the objects that they name
                if judge.run(self._read(item)):
                    found.found.append(Found(self._address(item), RUNS))
        return found

    def erase(self, found: Iterable[Found]) -> None:
        """See `Store`."""
        with _reached(self.name):
            for one in found:
                key, _, version = one.key.partition("?")
                path = f"{self.root}/{key}"
                if self._keeps_versions():
                    bucket, _, name = path.partition("/")
                    self.fs.fs.call_s3("delete_object", Bucket=bucket, Key=name, VersionId=version)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        self.fs.remove(path)
            self._forget_listings()

    def read(self, oid: str) -> bytes | None:
        """The content of an object, None where it is not here. Raises `StoreError` where that
        cannot be told."""
        with _reached(self.name):
            for prefix in ("files/md5/", ""):
                path = f"{self.root}/{prefix}{oid[:2]}/{oid[2:]}"
                with contextlib.suppress(FileNotFoundError), self.fs.open(path, "rb") as stream:
                    content: bytes = stream.read()
                    return content
        return None

    def has(self, oid: str) -> bool:
        """Whether an object is here."""
        with _reached(self.name):
            return any(
                self.fs.exists(f"{self.root}/{prefix}{oid[:2]}/{oid[2:]}")
                for prefix in ("files/md5/", "")
            )

    def refuse_empty(self) -> None:
        """Raise `StoreError` where there is nothing at all, as where a disk is not mounted."""
        with _reached(self.name):
            if next(self._items(), None) is None:
                raise StoreError(self._nothing_there())

    def _nothing_there(self) -> str:
        return (
            f"{self.name} holds nothing at all; mount it if it is a disk, or `dvc push` what "
            "remains, and run the same "
            "command again. Nothing there counts as erased"
        )

    def _judged(self, item: _Item, judge: Judge) -> str | None:
        oid = item.oid
        if item.mark:  # its name is the hash of what was deleted
            return DERIVED if oid in judge.gone else None
        if oid is not None:
            return judge.object(oid, lambda: self._open(item))
        if item.key.partition("/")[0] in self._bundles:
            return DERIVED
        # what a killed transfer left behind, under a name of its own
        with self._open(item) as stream:
            found = hashlib.md5(usedforsecurity=False)
            while part := stream.read(2**20):
                found.update(part)
        return judge.object(found.hexdigest(), lambda: self._open(item))

    def _items(self) -> Iterator[_Item]:
        self._forget_listings()
        if self._keeps_versions():
            yield from self._all_versions()
            return
        if not self.fs.exists(self.root):
            return
        for path in self.fs.find(self.root):
            key = str(path)[len(self.root) :].lstrip("/")
            if self._is_ours(key):
                yield _Item(key, str(path))

    def _is_ours(self, key: str) -> bool:
        """A remote's folder may hold other things, too; the cache is DVC's alone."""
        top = key.partition("/")[0]
        return (
            self.name == "dvc_cache"
            or top in ("files", "runs", *self._bundles)
            or OBJECT.fullmatch(key) is not None
        )

    def _all_versions(self) -> Iterator[_Item]:
        """Every version of every key of a bucket, and every mark of a deletion."""
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
        """Object stores' clients keep listings; a look has to see what is there."""
        forget = getattr(getattr(self.fs, "fs", None), "invalidate_cache", None)
        if forget is not None:
            forget()

    @property
    def _protocol(self) -> str:
        named = self.fs.protocol
        return str(named if isinstance(named, str) else named[0])


class Remote:
    """A remote that cannot be used at all, in a place among the others: it is held, and says
    why."""

    def __init__(self, name: str, why: str) -> None:
        self.name, self.part, self._why = name, name, why

    @property
    def held(self) -> str | None:
        """See `Store`."""
        return self._why

    def look(self, _judge: Judge, /) -> Look:
        """See `Store`."""
        raise StoreError(f"{self.name}: {self._why}")

    def erase(self, _found: Iterable[Found], /) -> None:
        """See `Store`."""
        raise StoreError(f"{self.name}: {self._why}")


class Tree:
    """A work tree with what DVC and the tool keep in it: the workspace, or another checkout of
    it."""

    held: str | None = None

    def __init__(self, name: str, root: Path, part: str | None = "workspace") -> None:
        self.name, self.part, self.root = name, part, root

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        looked = Look()
        in_git = _in_git(self.root)
        for path in _files(self.root):
            key = path.relative_to(self.root).as_posix()
            if key in in_git:
                continue  # that is git's
            looked.looked_at += 1
            try:
                kind = judge.file(path)
            except FileNotFoundError:
                if path.is_symlink():  # it led into the cache, to an object that was erased
                    looked.found.append(Found(key, LISTS))
                continue
            except OSError as error:
                raise StoreError(
                    f"{self.name}: a file cannot be read ({error.strerror}); mend its rights"
                ) from error
            if kind and _ours(key):
                looked.found.append(Found(key, kind))
            elif kind and kind != PACKS:  # an array of somebody's own only looks like one
                looked.foreign += 1
                if len(looked.examples) < 5 and not judge.names.in_bytes(key.encode()):
                    looked.examples.append(key)
        return looked

    def erase(self, found: Iterable[Found]) -> None:
        """See `Store`."""
        for one in found:
            path = self.root / one.key
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{self.name}: a file cannot be erased ({error.strerror}); mend its rights"
                ) from error
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()


class Temporary:
    """The tool's temporary folders of this machine. One that holds anything that has to go is
    removed as a whole."""

    name, part = "temporary_files", "workspace"
    held: str | None = None

    def __init__(self, home: Path, folders: Iterable[Path] | None = None) -> None:
        """Args:
        home: the workspace.
        folders: in which they lie; None: the machine's.
        """
        self._git = (home / shell.git(home, "rev-parse", "--git-common-dir")).resolve()
        self._roots = list(folders) if folders is not None else [Path(tempfile.gettempdir())]

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        looked = Look()
        for folder in (
            place for root in self._roots for place in sorted(root.glob(f"{TEMPORARY}*"))
        ):
            if self._is_of_another(folder):
                continue
            kinds = []
            for path in _files(folder):
                looked.looked_at += 1
                with contextlib.suppress(
                    OSError
                ):  # another process may be cleaning up after itself
                    kinds.append(judge.file(path))
            if any(kinds):
                looked.found.append(Found(str(folder), next(kind for kind in kinds if kind)))
        return looked

    def erase(self, found: Iterable[Found]) -> None:
        """See `Store`."""
        for one in found:
            place = Path(one.key)
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)

    def _is_of_another(self, folder: Path) -> bool:
        """Whether it is the checkout of another workspace that is still in use."""
        pointer = folder / "workspace" / ".git"
        if not pointer.is_file():
            return False
        leads = Path(pointer.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        return leads.exists() and not leads.resolve().is_relative_to(self._git)


class Databases:
    """DVC's own databases: hashes and names of files by the repository that they lie in. All can be
    made again.

    Those of other repositories on the machine are let be: DVC may be at work in them.
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
        looked = Look()
        places = [*(tree / ".dvc" / "tmp" for tree in self._trees), *_site_caches(self._trees)]
        for place in places:
            found = False
            for path in _files(place):
                looked.looked_at += 1
                with contextlib.suppress(
                    OSError
                ):  # DVC processes come and go; other users' cannot be read
                    found = found or judge.remembers(path.read_bytes())
            if found:
                looked.found.append(Found(str(place), LISTS))
        return looked

    def erase(self, found: Iterable[Found]) -> None:
        """See `Store`."""
        for one in found:
            for path in _files(Path(one.key)):
                with contextlib.suppress(OSError):
                    path.unlink()


class Witnesses:
    """Places that must hold nothing, because nothing of the kind is ever given to them: Prefect's,
    the register."""

    part = None
    held: str | None = None

    def __init__(self, name: str, roots: Iterable[Path]) -> None:
        self.name, self._roots = name, list(roots)

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        looked = Look()
        for path in (path for root in self._roots for path in _files(root)):
            looked.looked_at += 1
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                looked.foreign += judge.names.in_bytes(content)
        return looked

    def erase(self, _found: Iterable[Found], /) -> None:
        """See `Store`."""


class Rows:
    """The register's database wherever it is, row by row. It holds pseudonyms, so that nothing has
    to be found."""

    name, part = "register_rows", None
    held: str | None = None

    def __init__(self, home: Path) -> None:
        self._home = home

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        import sqlalchemy as sa

        from flows.register import database

        looked, engine = Look(), database.connect(self._home)
        try:
            with _reached(self.name), engine.connect() as connection:
                tables = sa.MetaData()
                tables.reflect(connection)
                for table in tables.sorted_tables:
                    for row in connection.execute(sa.select(table)):
                        looked.looked_at += 1
                        looked.foreign += judge.names.in_bytes(repr(tuple(row)).encode())
        finally:
            engine.dispose()
        return looked

    def erase(self, _found: Iterable[Found], /) -> None:
        """See `Store`."""


class History:
    """Git's history. It is looked at and never rewritten: tags and signatures stand on it."""

    name, part = "git", "git"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named: int | None = None

    @property
    def held(self) -> str | None:
        """See `Store`."""
        if not self._named:
            return None
        return (
            f"{self._named} files in git's history name a person or a record, as requests that "
            "were written by hand "
            "do; docs/erasure.md says how a history is rewritten"
        )

    def look(self, judge: Judge) -> Look:
        """See `Store`."""
        looked = Look()
        for content in _blobs(self._folder):
            looked.looked_at += 1
            with io.BytesIO(content) as stream:
                looked.foreign += is_text(stream) and judge.names.within(stream)
        self._named = looked.foreign
        return looked

    def erase(self, _found: Iterable[Found], /) -> None:
        """See `Store`."""


def of_dvc(home: Path, bundles: tuple[str, ...] = ()) -> tuple[Objects, list[Objects | Remote]]:
    """DVC's cache, and its remotes in the order of their names.

    Args:
        home: the workspace.
        bundles: see `Objects`.

    Raises:
        WorkspaceError: the folder is no workspace.
    """
    from dvc.exceptions import DvcException

    with dvc_graph.opened(home) as repo:
        cache = Objects("dvc_cache", repo.cache.legacy.fs, repo.cache.legacy.path)
        remotes: list[Objects | Remote] = []
        for name in sorted(repo.config.get("remote") or {}):
            title = f"dvc_remote:{name}"
            try:
                repo.cloud.get_remote_odb(name)  # refuses remotes that version files themselves
                remote = repo.cloud.get_remote(name)
                if remote.fs.protocol in ("http", "https"):
                    remotes.append(Remote(title, "nothing can be listed or erased over HTTP"))
                else:
                    remotes.append(Objects(title, remote.fs, remote.path, bundles))
            except (DvcException, ImportError, OSError, ValueError) as error:
                remotes.append(Remote(title, f"DVC cannot use it ({type(error).__name__})"))
    return cache, remotes


def trees(home: Path) -> list[Path]:
    """The other checkouts of the workspace's repository, with the workspace's place in each."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    own = home.resolve()
    listed = [
        Path(line.removeprefix("worktree ")) / prefix
        for line in shell.git(home, "worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    ]
    return [place for place in listed if place.exists() and place.resolve() != own]


def _site_caches(trees: Iterable[Path]) -> list[Path]:
    """Where DVC keeps databases outside of the checkouts; a folder that is set for it by
    DVC_SITE_CACHE_DIR is all."""
    from dvc.env import DVC_SITE_CACHE_DIR

    if folder := os.environ.get(DVC_SITE_CACHE_DIR):
        return sorted(Path(folder).glob("repo/*"))
    found = []
    for tree in trees:
        if (tree / ".dvc").is_dir():
            with dvc_graph.opened(tree) as repo:
                found.append(Path(repo.site_cache_dir))
    return found


def prefect_home(home: Path) -> Path:
    """Where Prefect keeps its database."""
    return Path(os.environ.get("PREFECT_HOME", home / ".prefect"))


def operator(home: Path) -> str:
    """Who is at work, as git knows him."""
    named = (
        shell.git(home, "config", "user.name")
        if shell.succeeds(home, "config", "user.name")
        else ""
    )
    return named or getpass.getuser()


_NOT_LOOKED_AT = (
    ".git",
    ".venv",
    ".prefect",
    ".register",
    ".erasure",
    ".batches",
    "__pycache__",
    "node_modules",
)


def _files(root: Path) -> Iterator[Path]:
    """Every file and link below a folder, without folders that are stores of their own."""
    if root.is_file():
        yield root
        return
    for place, folders, names in os.walk(root):
        at_top = Path(place) == root
        folders[:] = sorted(name for name in folders if not (at_top and name in _NOT_LOOKED_AT))
        if Path(place).name == ".dvc":
            folders[:] = [name for name in folders if name not in ("cache", "tmp")]
        for name in sorted(names):
            yield Path(place) / name
        for name in list(folders):
            if (Path(place) / name).is_symlink():
                folders.remove(name)


_OWN_FOLDERS = ("data", "artifacts", "references", "releases", "models")


def _ours(key: str) -> bool:
    """Whether a file of a work tree is the tool's: in a folder of its own, or in a draft that a
    killed process left."""
    top = PurePosixPath(key).parts[0]
    return any(top == name or top.startswith(f".{name}") for name in _OWN_FOLDERS)


def _in_git(root: Path) -> set[str]:
    if not shell.succeeds(root, "rev-parse", "--git-dir"):
        return set()
    return set(shell.git(root, "ls-files", "-z").split("\0"))


def _blobs(folder: Path) -> Iterator[bytes]:
    """Every file that git holds in any version, reachable or not."""
    listing = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    names = [line.split()[0] for line in listing.stdout.splitlines() if not line.endswith(b"tree")]
    reader = subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if reader.stdin is None or reader.stdout is None:
        raise StoreError("git cannot be read; see that `git cat-file --batch` works")
    try:
        for name in names:
            reader.stdin.write(name + b"\n")
            reader.stdin.flush()
            size = int(reader.stdout.readline().split()[2])
            yield reader.stdout.read(size)
            reader.stdout.read(1)
    finally:
        reader.stdin.close()
        reader.wait()
        reader.stdout.close()
