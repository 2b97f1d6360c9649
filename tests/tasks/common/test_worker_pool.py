"""Work that processes share: all is done once, by whoever comes to it, and the error of one is an
error of all."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.common import worker_pool
from tasks.common.errors import AuditError, EvidenceError

WITH_A_HELPER = """
import functools, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from tasks.common import worker_pool
from tests.tasks.common import test_worker_pool
if __name__ == "__main__":
    worker_pool.cores = lambda: 2
    make = functools.partial(str, {folder!r})
    for _ in worker_pool.each(test_worker_pool.slowly, range(1000), make, make, worth=1):
        pass
"""


def write_pid(folder: str, number: int) -> None:
    """Say who did it, a little slowly, so that nobody does it all."""
    time.sleep(0.02)
    with (Path(folder) / str(number)).open("x") as file:  # twice would be an error
        file.write(str(os.getpid()))


def slowly(folder: str, number: int) -> None:
    """Long enough to be interrupted."""
    time.sleep(0.1)
    write_pid(folder, number)


def fail(_folder: str, number: int) -> None:
    """Fail at the first thing, which a helping process takes."""
    time.sleep(0.05)
    if number == 0:
        raise EvidenceError("thing 0 is broken")


def end(_folder: str, number: int) -> None:
    """Be killed at the first thing, which a helping process takes."""
    time.sleep(0.05)
    if number == 0:
        os._exit(9)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "cores", lambda: 2)


def test_everything_is_done_once_and_by_two_processes(tmp_path: Path) -> None:
    make = functools.partial(str, tmp_path)
    done = list(worker_pool.each(write_pid, range(200), make, make, worth=10))
    assert sorted(done) == list(range(200))
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 2


def test_a_few_things_are_done_by_this_process_alone_and_in_order(tmp_path: Path) -> None:
    make = functools.partial(str, tmp_path)
    assert list(worker_pool.each(write_pid, range(5), make, make, worth=5)) == list(range(5))
    assert {path.read_text() for path in tmp_path.iterdir()} == {str(os.getpid())}


def test_an_error_in_a_helping_process_is_raised_here_with_its_own_words() -> None:
    make = functools.partial(str, "")
    with pytest.raises(EvidenceError, match="thing 0 is broken"):
        list(worker_pool.each(fail, range(100), make, make, worth=10))


def test_a_helping_process_that_is_killed_is_an_error_and_no_missing_thing() -> None:
    make = functools.partial(str, "")
    with pytest.raises(AuditError, match="a worker process ended"):
        list(worker_pool.each(end, range(100), make, make, worth=10))


def unmade(message: str) -> str:
    """A tool that cannot be made."""
    raise AuditError(message)


def test_a_tool_that_no_process_can_make_is_one_error_in_its_own_words(
    capfd: pytest.CaptureFixture[str],
) -> None:
    make = functools.partial(unmade, "no tool")
    with pytest.raises(AuditError, match=r"^no tool$"):
        list(worker_pool.each(write_pid, range(100), make, make, worth=10))
    assert not any(capfd.readouterr())


def test_a_tool_that_only_a_helping_process_cannot_make_is_an_error_too(tmp_path: Path) -> None:
    here, make = functools.partial(str, tmp_path), functools.partial(unmade, "no tool")
    with pytest.raises(AuditError, match=r"^no tool$"):
        list(worker_pool.each(write_pid, range(100), here, make, worth=10))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_helping_processes_end_with_the_one_that_they_help(
    how: signal.Signals, tmp_path: Path
) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "done"
    folder.mkdir()
    program.write_text(
        WITH_A_HELPER.format(tests=str(Path(__file__).parents[3]), folder=str(folder))
    )
    main = subprocess.Popen(
        [sys.executable, program],
        stderr=subprocess.DEVNULL,
        # a test run in the background hands on an ignored SIGINT, a terminal does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(pids := {text for path in folder.iterdir() if (text := path.read_text())}) < 2:
        assert main.poll() is None
        time.sleep(0.02)
    main.send_signal(how)
    main.wait()
    helper = int(next(pid for pid in pids if int(pid) != main.pid))
    while (
        Path(f"/proc/{helper}").exists()
        and "State:\tZ" not in Path(f"/proc/{helper}/status").read_text()
    ):
        time.sleep(0.02)
    count = len(list(folder.iterdir()))
    time.sleep(0.3)
    assert len(list(folder.iterdir())) == count < 1000
