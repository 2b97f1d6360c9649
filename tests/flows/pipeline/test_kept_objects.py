"""Objects are read where DVC keeps them; a store that fails is named and never taken for empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.pipeline.kept_objects import EMPTY_FOLDER, Condition, KeptObjects, folder_hash
from flows.workspace import dvc_graph
from tasks.common.errors import ReproductionError

OID = "5d41402abc4b2a76b9719d911017c592"
"""MD5 of "hello"."""


class Memory:
    """A store whose objects are in a dictionary, or that cannot be reached at all."""

    def __init__(self, content: dict[str, bytes] | None) -> None:
        self.content = content
        self.fs = self

    def oid_to_path(self, oid: str) -> str:
        return oid

    def exists(self, path: str) -> bool:
        if self.content is None:
            raise ConnectionError("no route to host")
        return path in self.content

    def open(self, path: str, mode: str) -> Any:
        import io

        assert self.content is not None
        return io.BytesIO(self.content[path])


def test_an_object_is_sound_damaged_or_missing() -> None:
    objects = KeptObjects([("cache", Memory({OID: b"hello", "0" * 32: b"hello"}))])
    conditions = [objects.condition(oid) for oid in (OID, "0" * 32, "1" * 32)]
    assert conditions == [Condition.SOUND, Condition.DAMAGED, Condition.MISSING]
    assert (objects.read(OID), objects.read("0" * 32)) == (b"hello", None)


def test_a_store_that_cannot_be_reached_is_named_and_the_next_one_asked() -> None:
    objects = KeptObjects([("the remote far", Memory(None)), ("near", Memory({OID: b"hello"}))])
    assert objects.condition(OID) is Condition.SOUND
    assert objects.unreachable == {"the remote far": "ConnectionError"}


def test_a_copy_that_is_not_the_object_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReproductionError, match="changed while it was read"):
        KeptObjects([("cache", Memory({OID: b"hallo"}))]).copy(OID, tmp_path / "copy")


def test_folders_hash_as_dvc_hashes_them(tmp_path: Path) -> None:
    (tmp_path / "made" / "0").mkdir(parents=True)
    (tmp_path / "made" / "0" / "model").write_bytes(b"hello")
    assert folder_hash([("0/model", OID)]) == dvc_graph.content_hash(tmp_path / "made")
    (tmp_path / "none").mkdir()
    assert dvc_graph.content_hash(tmp_path / "none") == EMPTY_FOLDER
