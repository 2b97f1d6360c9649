"""The graph comes from DVC, and so does what is stale."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flows.workspace import dvc_graph, dvc_locks
from tasks.common.errors import WorkspaceError
from tests.worlds import dummy

A, B, C, D = (dvc_graph.Stage(name) for name in "abcd")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy.make(tmp_path_factory.mktemp("graph") / "workspace")


def test_every_stage_comes_after_what_it_reads_from(workspace: Path) -> None:
    pipeline = dvc_graph.read(workspace)
    assert [stage.name for stage in pipeline] == dummy.STAGES
    seen: set[str] = set()
    for stage in pipeline:
        assert seen.issuperset(stage.upstream)
        seen.add(stage.name)


def test_a_folder_read_as_a_whole_is_upstream_with_all_its_blocks(workspace: Path) -> None:
    upstream = {stage.name: stage.upstream for stage in dvc_graph.read(workspace)}
    assert upstream["score"] == ("train@0", "train@1")
    assert upstream["check"] == ()


def test_description_and_agent_come_from_the_pipeline_file(workspace: Path) -> None:
    found = {stage.name: stage for stage in dvc_graph.read(workspace)}
    assert found["check"].desc == "Are the data what they have to be?"
    assert (found["train@1"].agent, found["check"].agent) == ("gpu", None)


def test_names_do_not_depend_on_the_current_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dvc_graph.stale(workspace)
    monkeypatch.chdir(workspace)
    assert dvc_graph.stale(workspace) == here == set(dummy.STAGES)


def test_a_folder_without_dvc_is_an_error_that_says_how_to_make_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="erasure-audit init"):
        dvc_graph.read(tmp_path)


def test_a_broken_pipeline_file_is_a_workspace_error(workspace: Path, tmp_path: Path) -> None:
    broken = dummy.copy(workspace, tmp_path / "broken")
    (broken / "dvc.yaml").write_text("stages:\n  check:\n    nonsense: 1\n")
    with pytest.raises(WorkspaceError, match=r"dvc\.yaml"):
        dvc_graph.read(broken)


def test_what_reads_from_a_stale_stage_is_due_and_nothing_else() -> None:
    pipeline = [
        A,
        dvc_graph.Stage("b", ("a",)),
        dvc_graph.Stage("c", ("a",)),
        dvc_graph.Stage("d", ("b",)),
    ]
    assert [stage.name for stage in dvc_graph.due(pipeline, {"b"})] == ["b", "d"]
    assert dvc_graph.due(pipeline, set()) == []


def test_locks_of_dead_processes_are_swept_and_those_of_others_numbers_too(
    workspace: Path, tmp_path: Path
) -> None:
    folder = dummy.copy(workspace, tmp_path / "locked")
    table = folder / ".dvc" / "tmp" / "rwlock"
    dead = {"pid": 2**22 + 1, "cmd": "dvc repro"}
    init = {"pid": 1, "cmd": "dvc repro"}  # the number now belongs to another program
    table.write_text(json.dumps({"write": {"a": dead, "b": init}, "read": {"c": [dead, init]}}))
    dvc_locks.sweep(folder)
    assert json.loads(table.read_text()) == {"write": {}, "read": {}}


def test_a_lock_file_cut_off_in_the_middle_is_removed(workspace: Path, tmp_path: Path) -> None:
    folder = dummy.copy(workspace, tmp_path / "locked")
    table = folder / ".dvc" / "tmp" / "rwlock"
    table.write_text('{"write": {"a": {"pid": ' + str(os.getpid()))
    dvc_locks.sweep(folder)
    assert not table.exists()
