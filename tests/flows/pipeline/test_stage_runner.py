"""A run that is killed leaves no stage going, and the next one continues."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from flows.pipeline import stage_runner
from tests.worlds import dummy

RUN = """
import sys
from pathlib import Path
from flows.pipeline import stage_runner

def tell(event):
    if event.kind == "line" and "step 1" in event.text:
        print("going", flush=True)

stage_runner.Runner(Path.cwd(), 1, tell).run("check")
"""


def test_a_run_that_is_killed_without_a_word_leaves_no_process_and_the_next_one_continues(
    tmp_path: Path,
) -> None:
    home = dummy.make(tmp_path / "home")
    run = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=home,
        env={**os.environ, **dummy.location(), "DUMMY_PAUSE": "1000"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "going\n"
    family = psutil.Process(run.pid).children(recursive=True)
    assert any("stage.py" in " ".join(child.cmdline()) for child in family)
    run.kill()
    run.communicate()
    while any(lives(child) for child in family):  # as long as it takes: a machine may be busy
        time.sleep(0.05)
    assert stage_runner.Runner(home, 1).run("check") == "ran"


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
