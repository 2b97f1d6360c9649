"""Transfers stages between a workspace and an agent, through the DVC remote only.

Records, models and results travel as DVC objects. Files that DVC does not hold (the pipeline, the
settings, files that git tracks) travel as one parcel in `handover/<batch>/<id>/`. So an agent needs
neither git nor a connection to the workspace, and works on the caller's current files, committed or
not. The parcel's SHA-256 goes through Prefect: somebody who can only write to the remote cannot
inject a command.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flows.workspace import dvc_graph, dvc_locks
from tasks.common import files
from tasks.common.errors import AuditError, WorkspaceError

HANDOVER = "handover"
"""Folder of the DVC remote for parcels, beside DVC's own `files` and `runs`, with a folder per
batch."""

PARCEL, ALIVE = "parcel.tar", "alive"
"""Name of a parcel's file, and prefix of the files with agents' signs of life."""

_DESCRIPTION, _FILES = "parcel.json", "files"
_DEPOT = "depot-"
_dvc_at_work = threading.Lock()
"""Only one thread at a time uses DVC's library."""


class RemoteError(AuditError):
    """The DVC remote cannot be reached, or does not hold what it should."""


class UnportableError(AuditError):
    """A stage cannot be handed to another machine."""


@dataclass(frozen=True)
class Parcel:
    """A stage with everything that it needs to run elsewhere.

    Attributes:
        stage: its name in DVC.
        batch: the batch.
        key: DVC's key of the stage in the run cache, made from command, inputs and settings.
        tool: version of this tool.
        inputs: paths of its inputs, with DVC's hash of each.
        files: paths and contents of files that DVC does not keep.
    """

    stage: str
    batch: str
    key: str
    tool: str
    inputs: dict[str, str]
    files: dict[str, bytes]

    @property
    def name(self) -> str:
        """Its folder on the remote. The same work has the same name, so that a run after a kill
        finds it again."""
        return f"{HANDOVER}/{self.batch}/{self.key[:32]}"

    @property
    def runs(self) -> str:
        """The folder of the results in DVC's run cache, the same in the cache and on remotes."""
        return f"runs/{self.key[:2]}/{self.key}"

    def pack(self) -> bytes:
        """The parcel as an archive; equal parcels have equal bytes."""
        described = {name: value for name, value in asdict(self).items() if name != "files"}
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            _add(archive, _DESCRIPTION, json.dumps(described, sort_keys=True).encode())
            for path, content in sorted(self.files.items()):
                _add(archive, f"{_FILES}/{path}", content)
        return stream.getvalue()

    def lay_out(self, folder: Path) -> None:
        """Write the files into a folder."""
        for path, content in self.files.items():
            files.write_bytes(folder / path, content)


def digest(packed: bytes) -> str:
    """The SHA-256 of a packed parcel."""
    return hashlib.sha256(packed).hexdigest()


def unpack(packed: bytes, expected: str) -> Parcel:
    """The parcel in an archive.

    Raises:
        RemoteError: the archive is not the one that was handed out, or a path in it leaves its
            folder.
    """
    if digest(packed) != expected:
        raise RemoteError(
            "the parcel on the remote is not the one handed out (other SHA-256); nothing is run"
        )
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                contents[member.name] = content.read()
    described = json.loads(contents.pop(_DESCRIPTION))
    parcel = Parcel(
        **described,
        files={path.removeprefix(f"{_FILES}/"): data for path, data in contents.items()},
    )
    for path in (*parcel.files, *parcel.inputs):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise RemoteError(f"the parcel names a path outside its folder: {path}")
    return parcel


def collect(workspace: Path, name: str, batch: str) -> Parcel | None:
    """The parcel of a stage; None: the stage is up to date.

    Its upstream must be up to date.

    Raises:
        UnportableError: DVC could not find its results again: it has no inputs or outputs, or some
            that the cache does not keep.
        WorkspaceError: DVC cannot read the workspace.
    """
    with _locked_repo(workspace) as repo:
        stage = _find(repo, name)
        return _collect(repo, stage, batch) if stage.changed() else None


def key_of(workspace: Path, name: str) -> str:
    """DVC's key of a stage in the run cache, with its current inputs. Raises as `collect`."""
    with _locked_repo(workspace) as repo:
        return _key(_find(repo, name))


def cache_of(workspace: Path) -> Path:
    """The folder of the workspace's DVC cache, with its objects and its run cache."""
    with _dvc_at_work, dvc_graph.open_repo(workspace) as repo:
        return Path(repo.cache.legacy.path)


def outputs_of(entry: bytes) -> dict[str, str] | None:
    """The outputs that an entry of the run cache names, with their hashes; None: it cannot be
    read."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return {str(out["path"]): str(out["md5"]) for out in YAML(typ="safe").load(entry)["outs"]}
    except (YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def depot(home: Path, tracked: dict[str, str], cache: Path) -> Iterator[Path]:
    """A temporary folder in which DVC sees only these objects, with home's remote, to push or fetch
    them.

    It has locks of its own, so transfers of many files block no stage of the workspace.

    Args:
        home: the workspace whose remote is used.
        tracked: paths with DVC's hashes.
        cache: the cache to use.
    """
    parent = home / ".dvc" / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_DEPOT}{os.getpid()}-", dir=parent))
    try:
        lay_tracks(home, folder, tracked, cache)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_depots(home: Path) -> None:
    """Remove the depots of killed processes; they hold hashes of records."""
    import psutil

    for folder in (home / ".dvc" / "tmp").glob(f"{_DEPOT}*"):
        owner = folder.name.removeprefix(_DEPOT).partition("-")[0]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            shutil.rmtree(folder, ignore_errors=True)


def lay_tracks(
    home: Path, folder: Path, tracked: dict[str, str], cache: Path | None = None
) -> list[Path]:
    """Set up a folder in which DVC sees only these objects; returns its `.dvc` files.

    All of DVC's notes about them lie inside, also those that it usually keeps elsewhere on the
    machine.
    """
    from configobj import ConfigObj  # type: ignore[import-untyped]

    name, options = _remote_of(home)
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    config = ConfigObj(encoding="utf-8")
    config.filename = str(folder / ".dvc" / "config")
    config["core"] = {
        "no_scm": "true",
        "analytics": "false",
        "autostage": "false",
        "remote": name,
        "site_cache_dir": str(folder / ".dvc" / "site"),
    }
    config["cache"] = {"type": "reflink,hardlink,copy", **({"dir": str(cache)} if cache else {})}
    config[f'remote "{name}"'] = options
    Path(config.filename).touch(mode=0o600)  # options may hold credentials
    config.write()
    tracks = []
    for number, (path, md5) in enumerate(sorted(tracked.items())):
        tracks.append(folder / f"track-{number}.dvc")
        files.write_text(
            tracks[-1], json.dumps({"outs": [{"path": path, "md5": md5, "hash": "md5"}]})
        )
    return tracks


class Post:
    """Small files on the DVC remote of a workspace. Every method raises `RemoteError` if the remote
    does not answer."""

    def __init__(self, home: Path) -> None:
        """Find the remote.

        Raises:
            RemoteError: there is none, there are several without a default, or its settings are
                unusable.
        """
        name, _ = _remote_of(home)
        self.name = name
        self._lock = threading.Lock()
        with _dvc_at_work, _remote_errors(name), dvc_graph.open_repo(home) as repo:
            remote = repo.cloud.get_remote(name)
            self._fs: Any = remote.fs
            self._root = remote.path
            if remote.worktree or remote.fs.version_aware:
                raise RemoteError(
                    f"remote {name}: agents cannot use a remote that versions files itself"
                )

    def put(self, path: str, content: bytes) -> None:
        """Write a file."""
        with self._session():
            target = self._fs.join(self._root, path)
            self._fs.makedirs(self._fs.parent(target), exist_ok=True)
            self._fs.pipe_file(target, content)

    def get(self, path: str) -> bytes | None:
        """A file's content; None: there is no such file."""
        with self._session():
            try:
                content: bytes = self._fs.cat_file(self._fs.join(self._root, path))
            except FileNotFoundError:
                return None
            return content

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with self._session():
            return bool(self._fs.exists(self._fs.join(self._root, path)))

    def below(self, folder: str) -> list[str]:
        """The files below a folder, as paths from the remote's root, sorted."""
        with self._session():
            root = self._fs.join(self._root, folder)
            if not self._fs.exists(root):
                return []
            return sorted(
                self._fs.as_posix(self._fs.relpath(path, self._root))
                for path in self._fs.find(root)
            )

    def remove(self, folder: str) -> list[str]:
        """Remove all files below a folder; returns them."""
        paths = self.below(folder)
        with self._session():
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._fs.join(self._root, path))
            if self._fs.protocol == "local":  # elsewhere empty folders do not exist
                shutil.rmtree(self._fs.join(self._root, folder), ignore_errors=True)
        return paths

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        with self._lock, _remote_errors(self.name):
            self._fs.fs.invalidate_cache()  # others write there, too
            yield


def sweep(home: Path, batch: str) -> list[str]:
    """Remove a batch's parcels from the remote, if there are any; returns their paths.

    Agents that still run a stage of the batch find their parcel gone, stop, and return nothing.
    Leftovers of killed callers in this workspace are removed, too.

    Raises:
        RemoteError: the remote does not answer.
    """
    clear_depots(home)
    return Post(home).remove(f"{HANDOVER}/{batch}")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@contextlib.contextmanager
def _locked_repo(workspace: Path) -> Iterator[Any]:
    """DVC's view of the workspace while no other process writes `dvc.lock`."""
    with _dvc_at_work, dvc_graph.open_repo(workspace) as repo:
        from dvc.lock import LockError

        for _ in range(60):
            try:
                repo.lock.lock()
                break
            except LockError:
                dvc_locks.sweep(workspace)
                dvc_locks.wait()
        else:
            raise WorkspaceError(
                "another DVC process holds this workspace's lock; end it, or wait for it"
            )
        try:
            yield repo
        finally:
            repo.lock.unlock()


def _find(repo: Any, name: str) -> Any:
    for stage in repo.index.stages:
        if stage.cmd and stage.path_in_repo == "dvc.yaml" and stage.name == name:
            return stage
    raise UnportableError(f"{name}: no stage of this name in the workspace's own dvc.yaml")


def _key(stage: Any) -> str:
    from dvc.stage.cache import _can_hash, _get_stage_hash

    stage.save_deps()
    if not _can_hash(stage) or not all(out.use_cache for out in stage.outs):
        raise UnportableError(
            f"{stage.name}: DVC keeps no results of this stage that could be handed back"
        )
    return str(_get_stage_hash(stage))


def _collect(repo: Any, stage: Any, batch: str) -> Parcel:
    from dvc.dependency import ParamsDependency

    from tasks import __version__

    root, key = Path(repo.root_dir), _key(stage)
    inputs: dict[str, str] = {}
    loose = {root / "dvc.yaml", root / "params.yaml", root / ".dvcignore"}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            loose.add(Path(dep.fs_path))
            continue
        objects = _objects(repo, dep)
        inputs.update(objects)
        if not objects:
            path = Path(dep.fs_path)
            loose.update(
                [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
            )
    content = {
        path.relative_to(root).as_posix(): path.read_bytes() for path in loose if path.is_file()
    }
    return Parcel(stage.name, batch, key, __version__, _outermost(inputs), content)


def _objects(repo: Any, dep: Any) -> dict[str, str]:
    """The objects of a dependency in DVC's cache, by path; empty if it is not an output."""

    def path_of(out: Any) -> str:
        return str(repo.fs.as_posix(repo.fs.relpath(out.fs_path, repo.root_dir)))

    recorded = dep.hash_info
    if recorded.name == "md5" and not recorded.isdir and repo.cache.local.exists(recorded.value):
        return {path_of(dep): str(recorded.value)}
    related = (
        out
        for out in repo.index.outs
        if out.protocol == "local"
        and out.use_cache
        and out.hash_info
        and out.hash_info.name == "md5"
        if dep.fs.isin_or_eq(out.fs_path, dep.fs_path) or dep.fs.isin(dep.fs_path, out.fs_path)
    )
    return {path_of(out): str(out.hash_info.value) for out in related if Path(out.fs_path).exists()}


def _outermost(inputs: dict[str, str]) -> dict[str, str]:
    """The inputs without those that lie in a folder which is an input itself."""
    return {
        path: md5
        for path, md5 in inputs.items()
        if not any(str(up) in inputs for up in PurePosixPath(path).parents)
    }


def _remote_of(home: Path) -> tuple[str, dict[str, str]]:
    """The default remote, or the only one: its name and its options."""
    with _dvc_at_work, dvc_graph.open_repo(home) as repo:
        remotes = repo.config.get("remote") or {}
        name = repo.config["core"].get("remote") or (
            next(iter(remotes)) if len(remotes) == 1 else None
        )
        if name is None or name not in remotes:
            raise RemoteError(
                f"{'no' if not remotes else 'no default'} DVC remote here; agents hand their "
                "results back through one: `dvc remote add --default <name> <url>`"
            )
        return name, {
            key: _as_text(value) for key, value in remotes[name].items() if value is not None
        }


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, list) else str(value)


@contextlib.contextmanager
def _remote_errors(name: str) -> Iterator[None]:
    """Turn errors of the libraries behind remotes into a `RemoteError` without addresses."""
    try:
        yield
    except AuditError:
        raise
    except Exception as error:
        raise RemoteError(
            f"remote {name} does not answer as it should ({type(error).__name__}); check its "
            "address and credentials with `erasure-audit agent check`"
        ) from error
