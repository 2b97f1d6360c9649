"""The checkouts of batches that run, one per batch in `.batches/`.

Each shares the workspace's DVC cache and remotes: nothing is copied twice, and nothing is lost when
a checkout is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.workspace import dvc_graph, dvc_locks, git, layout, shell
from tasks.common import files
from tasks.common.errors import WorkspaceError

FOLDER = ".batches"
"""Folder of the workspace in which batches run; git and DVC ignore it."""

_LOCAL = Path(".dvc/config.local")
_CODE_AND_SETTINGS = (
    "*.dvc",
    ".dvc/config",
    "dvc.yaml",
    "params.yaml",
    "reports/templates",
    "trusted-keys",
    "*.py",
)
_REMOVED = ".removing-"
"""Prefix of the name of a checkout that is being removed."""


def open(home: Path, batch: str) -> Path:
    """Make or find the checkout in which a batch runs, on the branch `batch/<batch>` from home's
    HEAD.

    A half-made checkout is made again. Data and models that `.dvc` files name are restored as
    committed.

    Returns:
        The workspace in the checkout, at the path that home has in its own repository.

    Raises:
        WorkspaceError: home has no commit yet, git or DVC fails, or data are neither in the cache
            nor in a remote.
    """
    if git.commit_of(home) is None:
        raise WorkspaceError(
            "nothing is committed here yet, and a batch starts from a commit; `git add . && git "
            "commit`"
        )
    with dvc_locks.using(home):
        return _open_locked(home, batch)


def _open_locked(home: Path, batch: str) -> Path:
    tree = home / FOLDER / batch
    (home / FOLDER).mkdir(exist_ok=True)
    ignore = home / FOLDER / ".gitignore"
    if not ignore.exists():
        files.write_text(ignore, "*\n")
    workspace = path(home, batch)
    _forget_locks(home, tree, batch)
    is_new = not ((workspace / _LOCAL).is_file() and _is_checkout(tree))
    if is_new:
        _make(home, tree, batch)
        share_cache(home, workspace)  # last: its file marks the checkout as complete
    _link_keys(home, workspace)
    _restore_data(workspace)
    if is_new:  # outputs of earlier runs, as far as the cache has them
        _checkout(workspace)
    return workspace


def path(home: Path, batch: str) -> Path:
    """Where the batch's workspace is, or would be."""
    return home / FOLDER / batch / shell.git(home, "rev-parse", "--show-prefix")


def workspaces(home: Path) -> dict[str, Path]:
    """The workspaces of the batches that have a checkout, by the batch's name."""
    trees = sorted(path.parent for path in (home / FOLDER).glob("*/.git"))
    return {tree.name: path(home, tree.name) for tree in trees}


def log_of(home: Path, batch: str) -> Path:
    """The log of the batch's stages; its modification time is the last sign of life."""
    return home / FOLDER / f"{batch}.log"


def close(home: Path, batch: str) -> None:
    """Remove the batch's checkout and its log, if there are any. Branch, tag and DVC's cache
    stay."""
    _remove(home / FOLDER / batch)
    log_of(home, batch).unlink(missing_ok=True)
    tidy(home)
    shell.git(home, "worktree", "prune")


def leftovers(home: Path) -> list[Path]:
    """Folders in `.batches/` that are not checkouts: a process was killed while it made or removed
    one. They may hold anything that a checkout holds."""
    worktrees = {
        Path(line.removeprefix("worktree ")).resolve()
        for line in shell.git(home, "worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    }
    return [
        folder
        for folder in sorted((home / FOLDER).glob("*"))
        if folder.is_dir()
        and not folder.is_symlink()
        and not (folder.resolve() in worktrees and (folder / ".git").is_file())
    ]


def tidy(home: Path) -> int:
    """Remove the folders that killed removals left, and return how many there were."""
    folders = sorted((home / FOLDER).glob(f"{_REMOVED}*"))
    for folder in folders:
        shutil.rmtree(folder)
    return len(folders)


def _remove(tree: Path) -> None:
    """Remove a checkout. It is renamed first: after a kill the name tells what is left, and git
    does not mistake it for a complete checkout."""
    if tree.exists():
        doomed = tree.with_name(f"{_REMOVED}{tree.name}-{os.urandom(4).hex()}")
        tree.rename(doomed)
        shutil.rmtree(doomed)


def drop(home: Path, batch: str) -> None:
    """Remove the checkout of a batch, and its branch unless the batch is tagged."""
    close(home, batch)
    if not git.has_tag(home, f"audit/{batch}") and git.has_branch(home, f"batch/{batch}"):
        shell.git(home, "branch", "--quiet", "-D", f"batch/{batch}")


def uncommitted(home: Path) -> list[str]:
    """The paths with uncommitted changes, sorted. A batch that starts now does not include them."""
    modified = shell.git(home, "diff", "--name-only", "--relative", "HEAD", "--", ".").splitlines()
    untracked = shell.git(
        home, "ls-files", "--others", "--exclude-standard", "--", *_CODE_AND_SETTINGS
    ).splitlines()
    return sorted({*modified, *untracked})


def share_cache(home: Path, copy: Path) -> None:
    """Have DVC in a checkout use home's cache and remotes, with their credentials. Only the owner
    may read the file.

    The file holds absolute paths, since the checkout lies elsewhere.
    """
    from configobj import ConfigObj  # type: ignore[import-untyped]

    home_config = home / _LOCAL
    config = ConfigObj(str(home_config) if home_config.is_file() else None, encoding="utf-8")
    with dvc_graph.open_repo(home) as repo:
        cache = Path(repo.cache.local.path)
        config.setdefault("cache", {})["dir"] = str(
            cache.parent.parent if _nested(cache) else cache
        )
        # DVC's databases of paths and hashes: elsewhere they would outlive the checkout, and no
        # erasure would search them
        config.setdefault("core", {})["site_cache_dir"] = str(
            (home / ".dvc" / "tmp" / "site").resolve()
        )
        for name, options in (repo.config.get("remote") or {}).items():
            config[f'remote "{name}"'] = {key: _text(value) for key, value in options.items()}
    target = copy / _LOCAL
    draft = target.with_name(".config.local-draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    config.filename = str(draft)
    config.write()
    draft.replace(target)


def _nested(cache: Path) -> bool:
    """DVC 3 keeps its objects in files/md5 of the folder that the setting names."""
    return cache.parts[-2:] == ("files", "md5")


def _text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _make(home: Path, tree: Path, batch: str) -> None:
    """Make the checkout. An incomplete one is removed first: nothing has run in it."""
    _remove(tree)
    # --force twice: git locks a checkout while it makes it
    shell.succeeds(home, "worktree", "remove", "--force", "--force", str(tree))
    shell.git(home, "worktree", "prune")
    branch = f"batch/{batch}"
    has_branch = git.has_branch(home, branch)
    shell.git(
        home,
        "worktree",
        "add",
        "--quiet",
        *([str(tree), branch] if has_branch else ["-b", branch, str(tree), "HEAD"]),
    )


def _is_checkout(tree: Path) -> bool:
    if not (tree / ".git").is_file():
        return False
    try:
        return Path(shell.git(tree, "rev-parse", "--show-toplevel")).resolve() == tree.resolve()
    except WorkspaceError:
        return False


def _forget_locks(home: Path, tree: Path, batch: str) -> None:
    """Remove git's lock files that a killed process left; a running git gets time to end."""
    common = git.common_folder(home)
    git_folder = common / "worktrees" / tree.name
    refs = (f"heads/batch/{batch}.lock", f"tags/audit/{batch}.lock")
    for lock in (
        git_folder / "index.lock",
        git_folder / "HEAD.lock",
        *(common / "refs" / ref for ref in refs),
    ):
        git.break_lock(lock)


def _link_keys(home: Path, workspace: Path) -> None:
    """Link home's keys, which git does not track, into the checkout."""
    keys = workspace / "keys"
    if (home / "keys").is_dir() and not keys.is_symlink() and not keys.exists():
        keys.symlink_to((home / "keys").resolve(), target_is_directory=True)


def _restore_data(workspace: Path) -> None:
    """Restore data and models as committed, also where a killed checkout left a part.

    One command restores all of them. If it fails, each is restored alone, to name the missing one.
    """
    names = sorted(dvc_graph.data_folders(workspace))
    commands = ("checkout", *(["pull"] if dvc_graph.has_remote(workspace) else []))
    if not names or _restored_by(workspace, commands[:1], *names):
        return
    for name in names:
        if not _restored_by(workspace, commands, name):
            if name != "data.dvc":
                raise WorkspaceError(
                    f"{name}: its content is neither in DVC's cache nor in a remote; add the "
                    "remote that holds it"
                )
            if (workspace / "data").exists():
                shutil.rmtree(workspace / "data")
            layout.ensure_data(workspace)  # the embedded data can be made again


def _restored_by(workspace: Path, commands: Iterable[str], *names: str) -> bool:
    """Whether one of DVC's commands restored what these `.dvc` files name."""
    for command in commands:
        with contextlib.suppress(WorkspaceError):
            shell.dvc(workspace, command, "--force", *names)
            return True
    return False


def _checkout(copy: Path) -> None:
    with contextlib.suppress(WorkspaceError):
        shell.dvc(copy, "checkout", "--allow-missing")
