"""The pipeline's graph as DVC sees it. No stage is known by name here, and only DVC decides what is
stale."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.workspace import dvc_locks, environment
from tasks.common.errors import WorkspaceError

if TYPE_CHECKING:
    from dvc.repo import Repo


@dataclass(frozen=True)
class Stage:
    """One stage of `dvc.yaml`; each item of a matrix is a stage of its own.

    Attributes:
        name: as DVC addresses it, `train@0`.
        upstream: names of the stages whose outputs it reads.
        desc: its purpose, from `dvc.yaml`.
        agent: where it runs, from `meta: {agent: …}`; None: anywhere.
    """

    name: str
    upstream: tuple[str, ...] = ()
    desc: str | None = None
    agent: str | None = None


def read(workspace: Path) -> list[Stage]:
    """The stages in topological order, ties as in `dvc.yaml`.

    Raises:
        WorkspaceError: the folder is not a DVC repository, or DVC cannot read `dvc.yaml`.
    """
    import networkx

    with open_repo(workspace) as repo:
        graph = repo.index.graph  # edges point from a stage to what it reads from
        position = {stage: number for number, stage in enumerate(repo.index.stages)}
        ordered = networkx.lexicographical_topological_sort(
            graph.reverse(), key=position.__getitem__
        )
        return [_stage(stage, graph) for stage in ordered if stage.cmd]


def stale(workspace: Path) -> set[str]:
    """The names of stages and `.dvc` files whose inputs, settings or outputs differ from the
    recorded ones.

    A stage that only reads from a stale one is not in the set.

    Raises:
        WorkspaceError: as `read`.
    """
    return set(status(workspace))


def due(pipeline: list[Stage], stale: set[str]) -> list[Stage]:
    """The stages that have to be brought up to date: the stale ones and all that read from them."""
    due_names: set[str] = set()
    for stage in pipeline:
        if stage.name in stale or due_names.intersection(stage.upstream):
            due_names.add(stage.name)
    return [stage for stage in pipeline if stage.name in due_names]


def status(workspace: Path) -> dict[str, Any]:
    """DVC's status: for each stage that is not as recorded, the differences."""
    with open_repo(workspace) as repo:
        names = {stage.addressing: _name(stage) for stage in repo.index.stages}
        differences: dict[str, Any] = _patiently(repo.status)
        return {names[address]: differs for address, differs in differences.items()}


def data_folders(workspace: Path) -> dict[str, str | None]:
    """The `.dvc` files of the workspace and the hash that each records of its folder or file."""
    with open_repo(workspace) as repo:
        tracked = [stage for stage in repo.index.stages if not stage.cmd]
        return {_name(stage): stage.outs[0].hash_info.value for stage in tracked}


def recorded_hash(workspace: Path, path: str) -> str | None:
    """The hash that `dvc.lock` records of an output; None: no stage makes it, or none has yet."""
    with open_repo(workspace) as repo:
        outs = [out for stage in repo.index.stages if stage.cmd for out in stage.outs]
        return next((out.hash_info.value for out in outs if out.def_path == path), None)


def outputs(workspace: Path) -> dict[str, str]:
    """The hash of every output of a stage and of every file or folder that a `.dvc` file names, by
    its path."""
    with open_repo(workspace) as repo:
        return {
            Path(out.fs_path).relative_to(repo.root_dir).as_posix(): str(out.hash_info.value)
            for out in repo.index.outs
            if out.use_cache and out.hash_info
        }


def has_remote(workspace: Path) -> bool:
    """Whether DVC knows a remote to fetch from."""
    return bool(remotes(workspace))


def remotes(workspace: Path) -> list[str]:
    """The names of DVC's remotes, sorted, without their addresses."""
    with open_repo(workspace) as repo:
        return sorted(repo.config.get("remote") or {})


def content_hash(path: Path) -> str:
    """DVC's hash of a file or folder, computed from its bytes, without DVC's memory of hashes."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    disk: Any = LocalFileSystem
    store = HashFileDB(disk(), str(path.parent))  # without state; nothing is added to it
    _, _, built = build(store, str(path.resolve()), disk(), "md5", dry_run=True)
    return str(built.hash_info.value)


@contextlib.contextmanager
def open_repo(workspace: Path) -> Iterator[Repo]:
    """DVC's view of a workspace, its errors turned into `WorkspaceError`."""
    environment.prepare(workspace)
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(workspace)) as repo:
            yield repo
    except NotDvcRepoError as error:
        raise WorkspaceError(
            f"{workspace} is not a workspace; `erasure-audit init` makes one"
        ) from error
    except DvcException as error:
        raise WorkspaceError(f"DVC cannot read the workspace: {error}") from error
    except sqlite3.Error as error:  # of the databases in which DVC remembers hashes
        raise WorkspaceError(
            f"DVC cannot use its databases ({error}); see that the disk has room, then try again"
        ) from error


def _stage(stage: Any, graph: Any) -> Stage:
    upstream = sorted(_name(source) for source in graph.successors(stage) if source.cmd)
    return Stage(_name(stage), tuple(upstream), stage.desc, (stage.meta or {}).get("agent"))


def _name(stage: Any) -> str:
    """How DVC addresses the stage in the workspace's folder; its own `addressing` goes by the
    current folder."""
    if not stage.cmd:
        return str(stage.path_in_repo)
    return str(
        stage.name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{stage.name}"
    )


def _patiently(action: Any, tries: int = 3600) -> Any:
    """Retry while another run holds DVC's lock; it holds it only briefly between stages."""
    from dvc.lock import LockError

    for _ in range(tries - 1):
        with contextlib.suppress(LockError):
            return action()
        dvc_locks.wait()
    return action()
