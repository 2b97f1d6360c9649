"""Ctrl-C and SIGTERM on real training: in a terminal, and as a service manager sends it."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.workspace import layout, shell
from tasks.common import files, settings
from tasks.data.importers import digits
from tests.worlds import dummy

EPOCHS = ["train.epochs=30", "compute.together=1", "compute.threads=1", "compute.portable=false"]
REQUEST = "11111111-aaaa-4aaa-8aaa-000000000001"
FINISHED = "model 1/6 (seed 0): done"
"""What the stage says when the first model of a block is finished."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose models take a few seconds each."""
    home = tmp_path_factory.mktemp("interruption") / "home"
    layout.init(home)
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    digits.import_data(home / "data", writers=20)
    layout.track_data(home)
    settings.assign(
        home / "params.yaml",
        ['batch="b"', *EPOCHS, "references.seeds_per_block=6", "references.with_blocks=[0]"],
    )
    identity = {
        "identity_type": "controller_customer_id",
        "identity_value": "writer-03",
        "identity_format": "raw",
    }
    entry = {
        "regulation": "gdpr",
        "subject_request_id": REQUEST,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-02T09:00:00Z",
        "subject_identities": [identity],
        "api_version": "1.0",
    }
    files.write_json(home / "requests" / "b.json", [entry])
    return home


@pytest.fixture
def home(fresh: Path, tmp_path: Path) -> Path:
    return dummy.copy(fresh, tmp_path / "home")


class Terminal:
    """A terminal of its own, with a command in its foreground."""

    def __init__(self, home: Path, *words: str) -> None:
        self.child, self._master = pty.fork()
        if self.child == 0:  # pragma: no cover - another process
            os.chdir(home)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            arguments = dummy.invocation(*words)
            os.execve(arguments[0], arguments, {**os.environ, **dummy.location(), "TERM": "xterm"})

    def lines(self) -> Iterator[str]:
        """What is shown, as it comes."""
        rest = ""
        with contextlib.suppress(OSError):  # the terminal is closed with its last process
            while shown := os.read(self._master, 4096):
                *whole, rest = (rest + shown.decode(errors="replace")).split("\n")
                yield from whole
        yield rest

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


def finished_model(home: Path) -> dict[str, str]:
    """The models of a block that are finished, with their hashes."""
    kept = home / "artifacts" / "train" / ".0-kept"
    return {
        path.stem: files.sha256(path.with_suffix(".safetensors"))
        for path in kept.glob("seed-*.json")
    }


def goes_on(home: Path, kept: dict[str, str]) -> None:
    """The next run keeps what was finished."""
    process = subprocess.Popen(
        dummy.invocation("run", "--json"),
        cwd=home,
        env={**os.environ, **dummy.location()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "kept from a run that was interrupted" in line:
                break
        else:
            pytest.fail("no model was kept")
        assert kept.items() <= finished_model(home).items()
        process.send_signal(signal.SIGTERM)


@pytest.mark.timeout(3600)
def test_ctrl_c_in_a_terminal_ends_training_within_5_s_with_one_line_and_keeps_finished_models(
    home: Path,
) -> None:
    terminal = Terminal(home, "run")
    shown = terminal.lines()
    for _ in shown:
        if finished_model(home):
            break
    family = psutil.Process(terminal.child).children(recursive=True)
    assert any("tasks.train" in " ".join(each.cmdline()) for each in family)
    begun = time.monotonic()
    terminal.press_ctrl_c()
    after = [line.strip() for line in shown]
    code = terminal.exit_code()
    seconds = time.monotonic() - begun
    assert code == 130
    assert [line for line in after if line.startswith("error: ")] == [
        "error: interrupted; finished work is kept, and the same command continues"
    ]
    assert not [line for line in after if "Traceback" in line or "Exception" in line]
    assert not [each for each in family if lives(each)]
    print(f"ended in {seconds:.1f} s")
    goes_on(home, finished_model(home))


@pytest.mark.timeout(3600)
def test_sigterm_of_a_service_manager_ends_training_and_keeps_finished_models(home: Path) -> None:
    process = subprocess.Popen(
        dummy.invocation("run", "--json"),
        cwd=home,
        env={**os.environ, **dummy.location()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if FINISHED in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        for each in (psutil.Process(process.pid), *family):  # systemd: the whole control group
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        after = process.stderr.readlines()
        code = process.wait()
        seconds = time.monotonic() - begun
    assert code == 143
    assert [line for line in after if line.startswith("error: ")] == after[-1:]
    assert not [line for line in after if "Traceback" in line]
    assert not [each for each in family if lives(each)]
    print(f"ended in {seconds:.1f} s")
    goes_on(home, finished_model(home))


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
