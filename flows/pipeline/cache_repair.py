"""Repair of damaged files: DVC trusts its recorded hashes, so damage shows only by hashing again.

Damaged objects are removed from the cache and damaged files from the checkout. Both are restored
from a sound copy in the operator's own checkout, from a remote, or by the stage that makes them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.workspace import dvc_graph
from tasks.common import files
from tasks.data import image_pack

PACK = "artifacts/pack"
"""Where the stage `pack` keeps the decoded images."""


@dataclass(frozen=True)
class Damage:
    """How many objects of the cache and files of the checkout did not match their hash."""

    objects: int
    files: int


def take_out(home: Path, checkout: Path) -> Damage:
    """Take damaged objects out of the cache and damaged files out of a batch's checkout.

    Files of stages that ran and were cut off before DVC took note count as damaged: their stage
    restores or makes them again. So does a pack that notes faulty image files: DVC, which hashed
    them before they rotted, would take it for up to date when they are sound again. All outputs are
    read once, so this is for a batch whose audit failed.

    Args:
        home: the workspace, whose own files stand in for objects if they are sound.
        checkout: the batch's checkout, which shares home's cache.
    """
    objects = damaged = 0
    pack = checkout / PACK
    outdated = image_pack.notes_faults(pack)
    with dvc_graph.open_repo(checkout) as repo:
        cache = Path(repo.cache.local.path)
        outs = [
            (out.hash_info.value, Path(out.fs_path))
            for out in repo.index.outs
            if out.use_cache and out.hash_info
        ]
    for value, path in outs:
        if outdated and path.parent == pack:
            objects += _drop(_object(cache, value))
            damaged += _drop(path)
            continue
        objects += _drop_unsound(cache, value)
        for oid, file in list(_parts(cache, value, path)):
            objects += _drop_unsound(cache, oid)
            if file.is_file() and files.md5(file) != oid:
                file.unlink()
                damaged += 1
            _restore(cache, oid, home / file.resolve().relative_to(checkout.resolve()))
    return Damage(objects, damaged)


def _parts(cache: Path, value: str, path: Path) -> Iterator[tuple[str, Path]]:
    """The files of an output with their hashes; none of a folder whose list is not at hand."""
    if not value.endswith(".dir"):
        yield value, path
    elif (listing := _object(cache, value)).is_file():
        for entry in json.loads(listing.read_text(encoding="utf-8")):
            yield str(entry["md5"]), path / str(entry["relpath"])


def _drop(path: Path) -> int:
    existed = path.is_file()
    path.unlink(missing_ok=True)
    return int(existed)


def _drop_unsound(cache: Path, oid: str) -> int:
    path = _object(cache, oid)
    return _drop(path) if path.is_file() and files.md5(path) != oid.removesuffix(".dir") else 0


def _restore(cache: Path, oid: str, copy: Path) -> None:
    """Put a sound copy of an object that is gone into the cache, as DVC keeps objects: whole, and
    read-only."""
    path = _object(cache, oid)
    if path.exists() or not copy.is_file() or files.md5(copy) != oid:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    shutil.copyfile(copy, draft)
    draft.chmod(0o444)
    draft.replace(path)


def _object(cache: Path, oid: str) -> Path:
    return cache / oid[:2] / oid[2:]
