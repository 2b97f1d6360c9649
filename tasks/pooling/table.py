"""The table of a pool: the answers of its models for every record, and who was in which model.

A folder with `scores.npz` and `lineage.json`. The stage `pool` writes one for each block; `merge`
makes the pool of them. Weights are in neither. Each record is named by the hash of its id, subject,
label and content. So a pool serves later versions of the data: records that left are not looked up,
and new or changed records are unknown to it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.common.settings import Settings
from tasks.training import release_lineage
from tasks.verification.scoring import Floats, Ints

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "references/pool"
"""Where a workspace has its pool."""
SCORES = "scores.npz"
LINEAGE = "lineage.json"
SCHEMA_VERSION = 1
LEAST_KNOWN = 0.8
"""A pool that knows less than this share of the training records of now judges nobody."""
ADVICE = "make a new one with `erasure-audit pool`, or use references.mode=batch"


@dataclass(frozen=True)
class PoolTable:
    """The answers of m models for n records."""

    keys: NDArray[np.uint8]
    """(n, 32) hash of each record, see `keys`"""
    phi: NDArray[np.float32]
    """(m, n) margins"""
    predicted: NDArray[np.int16]
    """(m, n) predicted classes"""
    seen: NDArray[np.bool_]
    """(m, n) whether the model was trained on the record"""
    folds: Ints
    """(m,) number of the model among those trained without a fold, -1: trained with everybody"""

    def check(self, where: str) -> None:
        """Refuse a table that is unfit for a verdict.

        Raises:
            EvidenceError: shapes differ, a score is NaN or infinite, or a record occurs twice.
        """
        m, n = len(self.folds), len(self.keys)
        shapes = {self.phi.shape, self.predicted.shape, self.seen.shape}
        if shapes != {(m, n)} or self.keys.shape != (n, 32) or not m or not n:
            raise EvidenceError(
                f"{where}: got arrays that do not fit each other, expected {m} models x {n} "
                f"records; {ADVICE}"
            )
        broken = int((~np.isfinite(self.phi).all(axis=1)).sum())
        if broken:
            raise EvidenceError(
                f"{where}: scores of {broken} models are NaN or infinite, their training diverged; "
                f"{ADVICE}"
            )
        if len(np.unique(self.keys, axis=0)) < n:
            raise EvidenceError(f"{where}: got a record twice, expected each once; {ADVICE}")

    def rows(self, mask: NDArray[np.bool_]) -> PoolTable:
        """The pool with only some of its records."""
        return replace(
            self,
            keys=self.keys[mask],
            phi=self.phi[:, mask],
            predicted=self.predicted[:, mask],
            seen=self.seen[:, mask],
        )


@dataclass(frozen=True)
class Aligned:
    """A pool in the order of a manifest."""

    phi: Floats
    """(m, n) margins, NaN where the pool does not know the record"""
    predicted: Ints
    """(m, n) predicted classes, -1 where it does not"""
    seen: NDArray[np.bool_]
    """(m, n) whether the model was trained on the record"""
    facts: dict[str, Any]
    """for the lineage of an audit: the pool's name, its hash and how many models it has"""


def keys(manifest: pd.DataFrame) -> NDArray[np.uint8]:
    """(n, 32) SHA-256 of each record's id, subject, label and content."""
    columns = ("record_id", "subject_id", "label", "sha256")
    lines = zip(*(manifest[column].astype(str) for column in columns), strict=True)
    digests = b"".join(hashlib.sha256("\n".join(line).encode()).digest() for line in lines)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def save(folder: Path, pool: PoolTable, lineage: dict[str, Any]) -> None:
    """Write a pool, or a block of one, whole or not at all; the hash of the scores goes into the
    lineage.

    Args:
        folder: appears, or is replaced.
        pool: the table.
        lineage: `recipe`, `seed`, `folds`, `models`, `erased`.
    """
    pool.check(str(folder))
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        keys=pool.keys,
        phi=pool.phi,
        predicted=pool.predicted,
        seen=np.packbits(pool.seen, axis=1),
        folds=pool.folds,
    )
    with files.whole_folder(folder) as draft:
        files.write_bytes(draft / SCORES, buffer.getvalue())
        facts = {"schema_version": SCHEMA_VERSION, "scores_sha256": files.sha256(draft / SCORES)}
        files.write_json(draft / LINEAGE, {**lineage, **facts})


def load(folder: Path) -> tuple[PoolTable, dict[str, Any]]:
    """Read what `save` wrote: the table and its lineage; nothing is unpickled.

    Raises:
        EvidenceError: a file is missing or malformed, or the scores are not those of the lineage.
    """
    if not (folder / LINEAGE).is_file() or not (folder / SCORES).is_file():
        raise EvidenceError(
            f"{folder} holds no pool, expected {SCORES} and {LINEAGE}; restore it with "
            f"`dvc checkout`, or {ADVICE}"
        )
    lineage = files.read_json(folder / LINEAGE)
    if files.sha256(folder / SCORES) != lineage.get("scores_sha256"):
        raise EvidenceError(
            f"{folder / SCORES} is not what its lineage says: its scores were edited or damaged; "
            "restore it with `dvc checkout`"
        )
    try:
        with np.load(folder / SCORES, allow_pickle=False) as arrays:
            count = len(arrays["keys"])
            pool = PoolTable(
                arrays["keys"],
                arrays["phi"],
                arrays["predicted"],
                np.unpackbits(arrays["seen"], axis=1, count=count).astype(bool),
                arrays["folds"],
            )
    except (OSError, KeyError, ValueError) as error:
        raise EvidenceError(
            f"{folder / SCORES}: expected the table of a pool ({error}); {ADVICE}"
        ) from error
    pool.check(str(folder))
    return pool, lineage


def merge(blocks: list[Path], folder: Path, made_at: str | None = None) -> dict[str, Any]:
    """Make one pool of its blocks.

    Args:
        blocks: folders that `save` wrote.
        folder: where the pool is to be.
        made_at: RFC 3339, for the lineage.

    Returns:
        Its lineage.

    Raises:
        EvidenceError: there is no block, or they are of other records or recipes.
    """
    if not blocks:
        raise EvidenceError("got no block of a pool, expected at least one; set pool.blocks")
    loaded = [load(block) for block in blocks]
    first, lineage = loaded[0]
    for block, (pool, block_lineage) in zip(blocks, loaded, strict=True):
        if not np.array_equal(pool.keys, first.keys):
            raise EvidenceError(f"{block} is of other records than {blocks[0]}; run it again")
        differs = [key for key in ("recipe", "seed", "folds") if block_lineage[key] != lineage[key]]
        if differs:
            raise EvidenceError(
                f"{block} differs from {blocks[0]} in {', '.join(differs)}; run it again"
            )
    whole = replace(
        first,
        phi=np.concatenate([pool.phi for pool, _ in loaded]),
        predicted=np.concatenate([pool.predicted for pool, _ in loaded]),
        seen=np.concatenate([pool.seen for pool, _ in loaded]),
        folds=np.concatenate([pool.folds for pool, _ in loaded]),
    )
    together = {
        **lineage,
        "models": [model for _, block_lineage in loaded for model in block_lineage["models"]],
    }
    if made_at is not None:
        together["made"] = made_at
    save(folder, whole, together)
    return together


def keep_only(folder: Path, manifest: pd.DataFrame, when: str) -> int:
    """Take the rows of all records that are not in a manifest out of a pool.

    Args:
        folder: the pool; it is replaced as a whole.
        manifest: the records of now.
        when: time of the erasure, for the lineage.

    Returns:
        How many rows went; 0 changes nothing.
    """
    pool, lineage = load(folder)
    columns = _columns(keys(manifest), pool.keys)
    remaining = np.isin(np.arange(len(pool.keys)), columns[columns >= 0])
    gone = int((~remaining).sum())
    if gone:
        erased = [*lineage.get("erased", []), {"records": gone, "at": when}]
        save(folder, pool.rows(remaining), {**lineage, "erased": erased})
    return gone


def align(
    folder: Path, manifest: pd.DataFrame, training: NDArray[np.bool_], settings: Settings
) -> Aligned:
    """A pool's answers for the records of an audit, if it may judge them.

    Args:
        folder: the pool.
        manifest: n records of now.
        training: (n,) which of them are for training.
        settings: of the audit.

    Raises:
        EvidenceError: the pool is missing, damaged or edited; it is of another recipe or
            architecture; it holds rows of records that the data no longer have; or it knows too few
            of the training records of now.
    """
    pool, lineage = load(folder)
    expected = json.loads(json.dumps(release_lineage.recipe(settings)))
    if lineage.get("recipe") != expected:
        recipe = lineage.get("recipe") or {}
        differs = ", ".join(key for key in expected if recipe.get(key) != expected[key])
        raise EvidenceError(
            f"the pool {folder} was trained by another recipe ({differs} differ); {ADVICE}"
        )
    columns = _columns(keys(manifest), pool.keys)
    in_pool = columns >= 0
    foreign = len(pool.keys) - int(in_pool.sum())
    if foreign:
        raise EvidenceError(
            f"the pool {folder} holds {foreign} rows of records that are not in the data now: of "
            "erased people, or of another version of the data; take them out with "
            f"`erasure-audit pool --erase`, or {ADVICE}"
        )
    trained = np.asarray(pool.seen.any(axis=0))[columns] & in_pool
    share = float((trained & training).sum() / max(1, training.sum()))
    if share < LEAST_KNOWN:
        raise EvidenceError(
            f"the pool {folder} was trained on {share:.0%} of the training records of now, "
            f"expected at least {LEAST_KNOWN:.0%}; it is of another version of the data: {ADVICE}"
        )
    phi = np.where(in_pool, pool.phi[:, columns], np.nan).astype(np.float64)
    predicted = np.where(in_pool, pool.predicted[:, columns], -1).astype(np.int64)
    facts = {
        "path": folder.as_posix(),
        "scores_sha256": lineage["scores_sha256"],
        "models": len(pool.folds),
        "with_everybody": int((pool.folds < 0).sum()),
        "training_records_known": share,
        "seconds": _median_seconds(lineage),
        "erased": lineage.get("erased", []),
    }
    return Aligned(phi, predicted, pool.seen[:, columns] & in_pool, facts)


def _median_seconds(lineage: dict[str, Any]) -> float | None:
    """Median time of training one model of the pool, s; None if it was not measured."""
    measured = [model["seconds"] for model in lineage["models"] if "seconds" in model]
    return float(np.median(measured)) if measured else None


def holds(content: bytes, rows: Collection[bytes]) -> bool:
    """Whether the file of a pool's scores has one of these rows. A file that cannot be read counts
    as having one.

    Args:
        content: of the file.
        rows: 32 bytes each, as `keys` makes them.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return any(key.tobytes() in rows for key in arrays["keys"])
    except (OSError, KeyError, ValueError, BadZipFile):
        return True


def _columns(record_keys: NDArray[np.uint8], pool_keys: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(n,) index of each record's key among the pool's, -1 where the pool lacks it."""
    place_of = {key.tobytes(): column for column, key in enumerate(pool_keys)}
    return np.array([place_of.get(key.tobytes(), -1) for key in record_keys], np.intp)
