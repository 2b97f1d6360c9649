"""Every state that git knows is read, wherever the workspace lies in its repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.erasure import git_history
from flows.workspace import shell
from tasks.common.errors import WorkspaceError

LOCK = "schema: '2.0'\nstages:\n  split:\n    outs: [{{path: artifacts/split.csv, md5: {0}}}]\n"
POINTER = "outs: [{{md5: {0}, path: {1}}}]\n"


@pytest.fixture(params=["sha1", "sha256"])
def top(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A repository whose second commit makes a workspace in a folder of it, and whose third changes
    it."""
    shell.git(tmp_path, "init", "--quiet", f"--object-format={request.param}")
    shell.git(tmp_path, "config", "user.email", "operator@example.org")
    shell.git(tmp_path, "config", "user.name", "Operator")
    _commit(
        tmp_path,
        {"README.md": "before", "other/data.dvc": POINTER.format("other", "data")},
        "early",
    )
    known = {"dvc.lock": LOCK.format("one"), "data.dvc": POINTER.format("d1", "data")}
    more = {
        "releases/ä b/model.dvc": POINTER.format("m1", "model"),
        "releases/ä b/notes.txt": "dvc",
    }
    _commit(
        tmp_path, {f"within/{path}": text for path, text in (known | more).items()}, "audit/one"
    )
    _commit(
        tmp_path,
        {"within/dvc.lock": LOCK.format("two"), "within/data.dvc": POINTER.format("d2", "data")},
        "second",
    )
    return tmp_path


def _commit(top: Path, contents: dict[str, str], tag: str) -> None:
    for path, text in contents.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    shell.git(top, "add", ".")
    shell.git(top, "commit", "--quiet", "-m", tag)
    shell.git(top, "tag", "--annotate", "-m", tag, tag)


def test_states_are_those_of_the_workspaces_folder_and_not_of_others(top: Path) -> None:
    found = {state.names: state for state in git_history.states(top / "within", "audit/one")}
    assert set(found) == {("early",), ("audit/one",), ("second",), ()}
    assert found["early",].pointers == {}
    assert found["early",].stages == {}
    assert not found["early",].after
    first, second = found["audit/one",], found["second",]
    assert first.pointers == {"data": "d1", "releases/ä b/model": "m1"}
    assert second.pointers == {"data": "d2", "releases/ä b/model": "m1"}
    assert (first.stages["split"]["outs"][0]["md5"], second.stages["split"]["outs"][0]["md5"]) == (
        "one",
        "two",
    )
    assert first.after
    assert second.after
    assert found[()].pointers == second.pointers


def test_a_tag_that_names_no_commit_is_passed_over(top: Path) -> None:
    blob = shell.git(top, "rev-parse", "HEAD:README.md")
    shell.git(top, "tag", "blob", blob)
    assert not any("blob" in state.names for state in git_history.states(top / "within", None))


def test_a_commit_of_another_repository_in_a_tree_is_not_looked_into(top: Path) -> None:
    commit = shell.git(top, "rev-parse", "HEAD")
    shell.git(top, "update-index", "--add", "--cacheinfo", f"160000,{commit},within/module.dvc")
    shell.git(top, "commit", "--quiet", "-m", "a module")
    assert all("module" not in state.pointers for state in git_history.states(top / "within", None))


def test_however_many_commits_there_are_git_is_started_as_often(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    popen = subprocess.Popen.__init__

    def noting(
        self: subprocess.Popen[str], command: list[str], *rest: object, **options: object
    ) -> None:
        started.append(command)
        popen(self, command, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(subprocess.Popen, "__init__", noting)
    git_history.states(top / "within", "audit/one")
    few = len(started)
    for number in range(5):
        _commit(top, {"within/dvc.lock": LOCK.format(number)}, f"later-{number}")
    started.clear()
    assert len(git_history.states(top / "within", "audit/one")) == 9
    assert len(started) == few


def test_an_object_that_git_has_lost_is_named_and_nothing_is_taken_for_empty(top: Path) -> None:
    lost = shell.git(top, "rev-parse", "audit/one:within/data.dvc")
    (top / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    with pytest.raises(WorkspaceError, match=f"git has lost its object {lost}"):
        git_history.states(top / "within", "audit/one")
