"""A caller's workspace and agents' clones, on the dummy pipeline."""

from __future__ import annotations

from pathlib import Path

from flows.workspace import shell
from tests.worlds import dummy

STAGE = dummy.STAGE.replace(
    '"fail-" + name', 'pathlib.Path(__file__).with_name("fail-" + name)'
).replace(
    "    time.sleep(",
    "    pause = pathlib.Path(__file__).with_name('pause')\n"
    "    time.sleep(float(pause.read_text()) if pause.exists() else ",
)
"""The dummy stage as a user's own module: it is found in the agent's clone, and does not travel.
The clone may hold a file that makes it fail, and one that says how long its steps take, s."""


def make(folder: Path, remote: str, **options: str) -> Path:
    """A caller's workspace with a DVC remote, whose stages for agents read a file and a folder."""
    workspace = dummy.make(folder)
    (workspace / "stage.py").write_text(STAGE)
    pipeline = (workspace / "dvc.yaml").read_text().replace("python stage.py", "python -m stage")
    (workspace / "dvc.yaml").write_text(
        pipeline.replace("deps: [artifacts/check.txt]", "deps: [artifacts/check.txt, data]")
    )
    shell.dvc(workspace, "remote", "add", "--quiet", "--default", "store", remote)
    for name, value in options.items():
        shell.dvc(workspace, "remote", "modify", "--quiet", "store", name, value)
    shell.git(workspace, "commit", "--quiet", "--all", "-m", "for agents")
    return workspace
