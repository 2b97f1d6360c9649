"""A closed batch can be gone back to, and going back changes nothing that is kept of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from flows.pipeline import close_batch, provenance
from flows.workspace import shell
from tasks.common import settings
from tasks.common.errors import WorkspaceError
from tests.worlds import dummy

MODEL = "artifacts/train/0/model.txt"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = dummy.make(tmp_path_factory.mktemp("closed") / "workspace")
    provenance.write(home, settings.Settings())
    shell.dvc(home, "repro", "--quiet")
    close_batch.close(home, "demo")
    return home


@pytest.fixture
def home(closed: Path, tmp_path: Path) -> Path:
    return dummy.copy(closed, tmp_path / "workspace")


def kept(store: Path) -> dict[str, tuple[bytes, int]]:
    """Every object of a store, with its rights."""
    return {
        path.relative_to(store).as_posix(): (path.read_bytes(), path.stat().st_mode)
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def damage(store: Path, file: Path, mode: int) -> str:
    """Change one byte of what a store keeps of a file; the object's id.

    DVC takes an object that nobody may write to for sound, and removes a damaged one that somebody
    may write to.
    """
    oid = hashlib.md5(file.read_bytes()).hexdigest()
    copy = store / "files" / "md5" / oid[:2] / oid[2:]
    copy.chmod(0o644)
    copy.write_bytes(bytes([copy.read_bytes()[0] ^ 1]) + copy.read_bytes()[1:])
    copy.chmod(mode)
    return oid


def test_a_checkout_holds_what_git_and_dvc_keep_of_the_batch(home: Path) -> None:
    with close_batch.checkout(home, "audit/demo") as copy:
        for name in ("params.yaml", "reports/demo/index.html", MODEL, "data/manifest.csv"):
            assert (copy / name).read_bytes() == (home / name).read_bytes()
    assert not copy.exists()
    assert len(shell.git(home, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("mode", [0o444, 0o644])
@pytest.mark.parametrize("name", [MODEL, "data/manifest.csv"])
def test_a_damaged_object_is_named_and_stays_in_the_cache_as_it_is(
    home: Path, mode: int, name: str
) -> None:
    cache = home / ".dvc" / "cache"
    oid = damage(cache, home / name, mode)
    before = kept(cache / "files")
    with (
        pytest.raises(WorkspaceError, match=rf"{name} \(object {oid}\)"),
        close_batch.checkout(home, "audit/demo"),
    ):
        pytest.fail("a damaged object was handed out")
    assert kept(cache / "files") == before
    assert len(shell.git(home, "worktree", "list").splitlines()) == 1


def test_a_damaged_list_of_a_folder_is_named_and_stays(home: Path) -> None:
    cache = home / ".dvc" / "cache"
    (listing,) = [
        path for path in (cache / "files").rglob("*.dir") if "manifest.csv" in path.read_text()
    ]
    listing.chmod(0o644)
    listing.write_text(listing.read_text().replace("manifest.csv", "manifest.cxv"))
    before = kept(cache / "files")
    oid = listing.parent.name + listing.name
    with (
        pytest.raises(WorkspaceError, match=rf"data \(object {oid}\)"),
        close_batch.checkout(home, "audit/demo"),
    ):
        pytest.fail("a damaged list was followed")
    assert kept(cache / "files") == before


def test_a_sound_copy_in_a_remote_stands_in_for_a_damaged_object(
    home: Path, tmp_path: Path
) -> None:
    shell.dvc(home, "remote", "add", "--default", "store", str(tmp_path / "remote"))
    shell.dvc(home, "push")
    cache = home / ".dvc" / "cache"
    damage(cache, home / MODEL, 0o644)
    before = kept(cache / "files"), kept(tmp_path / "remote")
    with close_batch.checkout(home, "audit/demo") as copy:
        assert (copy / MODEL).read_bytes() == (home / MODEL).read_bytes()
    assert (kept(cache / "files"), kept(tmp_path / "remote")) == before


def test_what_no_store_has_is_left_out(home: Path) -> None:
    shutil.rmtree(home / ".dvc" / "cache" / "files")
    with close_batch.checkout(home, "audit/demo") as copy:
        assert (copy / "reports/demo/index.html").is_file()
        assert not (copy / "data").exists()
        assert not (copy / "artifacts/train/0").exists()
