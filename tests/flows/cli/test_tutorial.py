"""The commands of the tutorial run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.workspace import shell
from tasks.data import records
from tests.worlds import dummy

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial.md"
SETTING_UP = 3
"""The blocks of commands before the audit, which has tests of its own."""


def commands() -> list[list[str]]:
    """The words of each command of the tutorial's first blocks."""
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks[:SETTING_UP]).replace("&&", "\n").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def provide(home: Path) -> None:
    """What the tutorial takes for granted: photos, whose they are, and a checkpoint."""
    (home / "photos").mkdir()
    for number in range(4):
        pixels = np.full((8, 8), 60 * number, np.uint8)
        Image.fromarray(pixels).save(home / "photos" / f"{number}.png")
    rows = [f"{number}.png,p{number},{['cat', 'dog'][number % 2]}" for number in range(4)]
    lines = ["path,subject_id,label,split", *(f"{row},training" for row in rows)]
    (home / "people.csv").write_text("\n".join(lines) + "\n")
    (home / "models").mkdir()
    (home / "models" / "mine.safetensors").write_bytes(b"weights")


def test_the_commands_up_to_the_audit_run_as_written(tmp_path: Path) -> None:
    workspace = tmp_path
    for program, *arguments in commands():
        if program == "cd":
            workspace /= arguments[0]
            provide(workspace)
        elif program == "dvc":
            shell.dvc(workspace, *arguments)
        elif program == "erasure-audit":
            ended = dummy.command(workspace, *arguments)
            assert ended.returncode == 0, ended.stderr
        else:
            pytest.fail(f"the tutorial has a command that this test does not know: {program}")
    assert records.read_manifest(workspace / "data")["label"].tolist() == [0, 1, 0, 1]
    assert (workspace / "models" / "mine.safetensors.dvc").exists()
