"""What a killed git leaves does not stop the next command; objects are read or named, never
guessed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flows.workspace import git, shell
from tasks.common.errors import WorkspaceError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shell.git(tmp_path, "init", "--quiet")
    shell.git(tmp_path, "config", "user.email", "operator@example.org")
    shell.git(tmp_path, "config", "user.name", "Operator")
    (tmp_path / "one.txt").write_text("one")
    git.commit(tmp_path, ["one.txt"], "first")
    return tmp_path


def test_a_lock_of_a_killed_git_does_not_keep_the_next_commit_from_being_made(home: Path) -> None:
    lock = home / ".git" / "index.lock"
    lock.touch()
    before = time.time() - git.PATIENCE
    os.utime(lock, (before, before))
    (home / "one.txt").write_text("two")
    git.commit(home, ["one.txt"], "second")
    assert not lock.exists()
    assert shell.git(home, "log", "-1", "--format=%s") == "second"


def test_what_is_as_committed_makes_no_commit(home: Path) -> None:
    head = git.commit_of(home)
    git.commit(home, ["one.txt"], "again")
    assert git.commit_of(home) == head


def test_references_are_told_from_what_is_none(home: Path) -> None:
    git.tag(home, "audit/b", "audit")
    assert git.has_tag(home, "audit/b")
    assert not git.has_tag(home, "audit/c")
    assert git.has_path(home, "audit/b", "one.txt")
    assert not git.has_path(home, "audit/b", "two.txt")
    assert git.commit_of(home, "nothing") is None
    assert git.user(home) == "Operator"


def test_an_object_that_is_missing_is_none_and_no_repository_is_an_error(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blob = shell.git(home, "rev-parse", "HEAD:one.txt")
    with git.objects(home) as objects:
        assert objects.read(blob) == b"one"
        assert objects.read("0" * 40) is None
    with (
        git.objects(tmp_path_factory.mktemp("elsewhere")) as objects,
        pytest.raises(WorkspaceError, match="git fsck"),
    ):
        objects.read(blob)
