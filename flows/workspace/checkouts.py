"""The checkouts of batches that run, one per batch in `.batches/`.

Each shares the workspace's DVC cache and knows its remotes, so nothing is copied twice and nothing
is lost with it.
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
"""Folder of the workspace in which batches run; git and DVC do not look into it."""

_LOCAL = Path(".dvc/config.local")
_OURS = (
    "*.dvc",
    ".dvc/config",
    "dvc.yaml",
    "params.yaml",
    "reports/templates",
    "trusted-keys",
    "*.py",
)
_REMOVED = ".removing-"
"""Beginning of the name of a checkout that is being removed."""


def open(home: Path, batch: str) -> Path:
    """Make or find the checkout in which a batch runs, on the branch `batch/<batch>` from home's
    HEAD.

    What was left half-made is made anew; the data and models that `.dvc` files name are as
    committed.

    Returns:
        The workspace in it, which lies in it where home lies in home's repository.

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
        return _open(home, batch)


def _open(home: Path, batch: str) -> Path:
    tree = home / FOLDER / batch
    (home / FOLDER).mkdir(exist_ok=True)
    ignore = home / FOLDER / ".gitignore"
    if not ignore.exists():
        files.write_text(ignore, "*\n")
    place = path(home, batch)
    _forget_locks(home, tree, batch)
    fresh = not ((place / _LOCAL).is_file() and _is_checkout(tree))
    if fresh:
        _make(home, tree, batch)
        share_cache(home, place)  # last, so that its file says that the checkout is whole
    _lend_keys(home, place)
    _bring(place)
    if fresh:  # what stages made before, as far as it is at hand; else they make it again
        _checkout(place)
    return place


def path(home: Path, batch: str) -> Path:
    """Where the batch's workspace is, or would be."""
    return home / FOLDER / batch / shell.git(home, "rev-parse", "--show-prefix")


def workspaces(home: Path) -> dict[str, Path]:
    """The workspaces of the batches that have a checkout, by the batch's name."""
    trees = sorted(path.parent for path in (home / FOLDER).glob("*/.git"))
    return {tree.name: path(home, tree.name) for tree in trees}


def log_of(home: Path, batch: str) -> Path:
    """The file with the lines of the batch's stages; its time is the last sign of life."""
    return home / FOLDER / f"{batch}.log"


def close(home: Path, batch: str) -> None:
    """Remove the batch's checkout and its log. Branch, tag and DVC's cache stay. Harmless if there
    is none."""
    _remove(home / FOLDER / batch)
    log_of(home, batch).unlink(missing_ok=True)
    tidy(home)
    shell.git(home, "worktree", "prune")


def leftovers(home: Path) -> list[Path]:
    """Folders beside the checkouts of batches that are no checkouts, as a kill while one was
    removed or made leaves. They may hold anything that a checkout holds."""
    known = {
        Path(line.removeprefix("worktree ")).resolve()
        for line in shell.git(home, "worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    }
    return [
        folder
        for folder in sorted((home / FOLDER).glob("*"))
        if folder.is_dir()
        and not folder.is_symlink()
        and not (folder.resolve() in known and (folder / ".git").is_file())
    ]


def tidy(home: Path) -> int:
    """Remove the folders that killed removals left (`leftovers`, those under our own name of such);
    how many there were."""
    left = sorted((home / FOLDER).glob(f"{_REMOVED}*"))
    for folder in left:
        shutil.rmtree(folder)
    return len(left)


def _remove(tree: Path) -> None:
    """Remove a checkout: renamed first, so that a kill in between leaves something that says what
    it is, and git does not take half a checkout for a whole one."""
    if tree.exists():
        doomed = tree.with_name(f"{_REMOVED}{tree.name}-{os.urandom(4).hex()}")
        tree.rename(doomed)
        shutil.rmtree(doomed)


def drop(home: Path, batch: str) -> None:
    """Remove the checkout of a batch that comes to nothing, with its branch. A batch that has its
    tag keeps it."""
    close(home, batch)
    if not git.has_tag(home, f"audit/{batch}") and git.has_branch(home, f"batch/{batch}"):
        shell.git(home, "branch", "--quiet", "-D", f"batch/{batch}")


def uncommitted(home: Path) -> list[str]:
    """What is changed in the operator's checkout and therefore not in a batch that starts now,
    sorted."""
    changed = shell.git(home, "diff", "--name-only", "--relative", "HEAD", "--", ".").splitlines()
    new = shell.git(home, "ls-files", "--others", "--exclude-standard", "--", *_OURS).splitlines()
    return sorted({*changed, *new})


def share_cache(home: Path, copy: Path) -> None:
    """Have DVC in a checkout use home's cache and remotes, with their credentials; nobody else may
    read the file.

    A remote in a folder is named from where it is read, so a checkout that lies elsewhere is told
    its full path.
    """
    from configobj import ConfigObj  # type: ignore[import-untyped]

    own = home / _LOCAL
    config = ConfigObj(str(own) if own.is_file() else None, encoding="utf-8")
    with dvc_graph.opened(home) as repo:
        cache = Path(repo.cache.local.path)
        config.setdefault("cache", {})["dir"] = str(
            cache.parent.parent if _nested(cache) else cache
        )
        # DVC's databases of paths and hashes, which would outlive the checkout elsewhere, and be
        # found by no erasure
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
    """Nothing was run yet in a checkout that is not whole, so nothing is lost with it."""
    _remove(tree)
    # twice, for git locks a checkout that it is making
    shell.succeeds(home, "worktree", "remove", "--force", "--force", str(tree))
    shell.git(home, "worktree", "prune")
    branch = f"batch/{batch}"
    known = git.has_branch(home, branch)
    shell.git(
        home,
        "worktree",
        "add",
        "--quiet",
        *([str(tree), branch] if known else ["-b", branch, str(tree), "HEAD"]),
    )


def _is_checkout(tree: Path) -> bool:
    if not (tree / ".git").is_file():
        return False
    try:
        return Path(shell.git(tree, "rev-parse", "--show-toplevel")).resolve() == tree.resolve()
    except WorkspaceError:
        return False


def _forget_locks(home: Path, tree: Path, batch: str) -> None:
    """Remove git's lock files that a killed process left; one at work is given time to end."""
    common = git.common_folder(home)
    own = common / "worktrees" / tree.name
    refs = (f"heads/batch/{batch}.lock", f"tags/audit/{batch}.lock")
    for lock in (own / "index.lock", own / "HEAD.lock", *(common / "refs" / ref for ref in refs)):
        git.break_lock(lock)


def _lend_keys(home: Path, place: Path) -> None:
    """The keys that git does not know lie in home alone; the checkout points to them."""
    keys = place / "keys"
    if (home / "keys").is_dir() and not keys.is_symlink() and not keys.exists():
        keys.symlink_to((home / "keys").resolve(), target_is_directory=True)


def _bring(place: Path) -> None:
    """Data and models as the commit names them, also where a killed checkout had left a part.

    All at once, for every released batch has some; where that fails, one after the other tells
    which cannot be had.
    """
    names = sorted(dvc_graph.data_folders(place))
    commands = ("checkout", *(["pull"] if dvc_graph.has_remote(place) else []))
    if not names or _brought(place, commands[:1], *names):
        return
    for name in names:
        if not _brought(place, commands, name):
            if name != "data.dvc":
                raise WorkspaceError(
                    f"{name}: its content is neither in DVC's cache nor in a remote; add the "
                    "remote that holds it"
                )
            if (place / "data").exists():
                shutil.rmtree(place / "data")
            layout.ensure_data(place)  # the embedded data can be made again


def _brought(place: Path, commands: Iterable[str], *names: str) -> bool:
    """Whether one of DVC's commands could bring what these `.dvc` files name."""
    for command in commands:
        with contextlib.suppress(WorkspaceError):
            shell.dvc(place, command, "--force", *names)
            return True
    return False


def _checkout(copy: Path) -> None:
    with contextlib.suppress(WorkspaceError):
        shell.dvc(copy, "checkout", "--allow-missing")
