"""A batch is not closed while something that it was computed from is kept nowhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import close_batch
from flows.workspace import layout, shell
from tasks.common import settings
from tasks.common.errors import WorkspaceError

MODEL = "models/mine.safetensors"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose batch was computed from a model of the user's."""
    home = tmp_path / "home"
    layout.init(home)
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    (home / "requests" / "demo.json").write_text("[]")
    (home / "models").mkdir()
    (home / MODEL).write_bytes(b"weights")
    digest = hashlib.md5(b"weights").hexdigest()

    def entry(path: str) -> dict[str, Any]:
        return {"path": path, "hash": "md5", "md5": digest, "size": 7}

    stages = {
        "train": {"cmd": "train", "outs": [entry("artifacts/train")]},
        "unlearn": {
            "cmd": "unlearn",
            "deps": [entry(path) for path in (MODEL, "artifacts/train/0", "requests/demo.json")],
        },
    }
    # JSON is YAML, too
    (home / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
    return home


def test_a_model_in_the_folder_models_is_tracked_as_the_tutorial_says(workspace: Path) -> None:
    with pytest.raises(WorkspaceError, match=rf"^{MODEL}: .*dvc add"):
        close_batch.close(workspace, "demo")
    assert shell.git(workspace, "tag").split() == [], "nothing was closed"
    shell.dvc(workspace, "add", MODEL)
    assert close_batch.close(workspace, "demo") == "audit/demo"
    kept = shell.git(workspace, "ls-tree", "-r", "--name-only", "audit/demo").splitlines()
    assert {f"{MODEL}.dvc", ".gitattributes"} <= set(kept)
    assert MODEL not in kept


def test_another_version_of_the_model_than_the_one_used_does_not_do(workspace: Path) -> None:
    (workspace / MODEL).write_bytes(b"other weights")
    shell.dvc(workspace, "add", MODEL)
    with pytest.raises(WorkspaceError, match=MODEL):
        close_batch.close(workspace, "demo")


def test_the_code_of_a_users_model_has_to_be_in_git(workspace: Path) -> None:
    shell.dvc(workspace, "add", MODEL)
    (workspace / "mine.py").write_text("def make(): ...\n")
    settings.assign(workspace / "params.yaml", ["model.name=mine:make"])
    with pytest.raises(WorkspaceError, match=r"^mine\.py: "):
        close_batch.close(workspace, "demo")
    shell.git(workspace, "add", "mine.py")
    shell.git(workspace, "commit", "--quiet", "-m", "Our model")
    (workspace / "mine.py").write_text("def make(): return None\n")
    with pytest.raises(WorkspaceError, match=r"^mine\.py: "):
        close_batch.close(workspace, "demo")
    shell.git(workspace, "checkout", "--quiet", "mine.py")
    assert close_batch.close(workspace, "demo") == "audit/demo"
