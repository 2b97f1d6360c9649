"""Check that all inputs of a batch are kept, in git or in DVC, so that it can be computed again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from flows.workspace import shell
from tasks.common import settings
from tasks.common.errors import WorkspaceError


def refuse_lost(folder: Path, committed: Iterable[str]) -> None:
    """Refuse to close a batch if an input is neither in git nor in DVC, or was changed since its
    use.

    Args:
        folder: the workspace.
        committed: files and folders that closing commits.

    Raises:
        WorkspaceError: names the inputs and what to do.
    """
    inputs = _inputs(folder)
    if (code := _factory_file(folder)) is not None:
        inputs[code] = None
    in_dvc = dict(_tracked_by_dvc(folder))
    committed = tuple(committed)
    lost = [
        path
        for path, digest in sorted(inputs.items())
        if not _covered(path, committed)
        and not _in_dvc(path, digest, in_dvc)
        and not _in_git(folder, path)
    ]
    if lost:
        raise WorkspaceError(
            f"{', '.join(lost)}: the batch was computed from it, and it is not kept as it was used;"
            " track a model with `dvc add <file>` and code with `git add` and `git commit`, then "
            "close the batch again"
        )


def _inputs(folder: Path) -> dict[str, str | None]:
    """The MD5 of every file that a stage read and no stage made, by its path in `dvc.lock`."""
    stages = (_yaml(folder / "dvc.lock").get("stages") or {}).values()
    outputs = [out["path"] for stage in stages for out in stage.get("outs") or []]
    return {
        dep["path"]: dep.get("md5")
        for stage in stages
        for dep in stage.get("deps") or []
        if not _covered(dep["path"], outputs)
        and not any(_covered(out, [dep["path"]]) for out in outputs)  # a folder of outputs
    }


def _factory_file(folder: Path) -> str | None:
    """The workspace's file with the model's code if `model.name` is a factory, else None."""
    if not (folder / "params.yaml").is_file():
        return None
    module, colon, _ = settings.load(folder / "params.yaml").model.name.partition(":")
    if not colon:
        return None
    path = module.replace(".", "/")
    files = (f"{path}.py", f"{path}/__init__.py")
    return next((name for name in files if (folder / name).is_file()), None)


def _tracked_by_dvc(folder: Path) -> Iterator[tuple[str, str | None]]:
    listed = shell.git(folder, "ls-files", "--cached", "--others", "--exclude-standard", "*.dvc")
    for name in listed.splitlines():
        for out in _yaml(folder / name).get("outs") or []:
            yield (PurePosixPath(name).parent / out["path"]).as_posix(), out.get("md5")


def _in_dvc(path: str, digest: str | None, tracked: dict[str, str | None]) -> bool:
    """Whether DVC holds an input in the version that was used."""
    if path in tracked:
        return digest is None or tracked[path] == digest
    return _covered(path, tracked)


def _in_git(folder: Path, path: str) -> bool:
    tracked = shell.git(folder, "ls-files", "--", path).strip()
    return bool(tracked) and shell.succeeds(folder, "diff", "--quiet", "HEAD", "--", path)


def _covered(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    if not path.is_file():
        return {}
    return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
