"""One stage at a time through DVC, `dvc repro --single-item`, watched line by line.

DVC decides whether the stage has to run. Several stages may run side by side; all of them end when
the runner is stopped, and what they had not finished is done by the next run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from flows.pipeline import guard
from flows.workspace import dvc_locks, environment, shell
from tasks.common.errors import StageError

Kind = Literal["planned", "waiting", "started", "line", "ran", "restored", "unchanged", "failed"]
Outcome = Literal["ran", "restored", "unchanged"]


class KilledStageError(StageError):
    """A stage was ended from outside, not by a fault of its own; it can be tried again."""


class SkippedStageError(StageError):
    """A stage was not begun, because another one had failed or the run was stopped."""


@dataclass(frozen=True)
class StageEvent:
    """Something that happened to a stage: `kind`, for lines the line, and the time since its start,
    s. Before anything runs, each stage of the run is `planned`."""

    stage: str
    kind: Kind
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[StageEvent], None]


def nobody(event: StageEvent) -> None:
    """The listener that does not listen."""


class Tell(Protocol):
    """Takes news of a stage that another machine runs."""

    def __call__(self, text: str, kind: Literal["waiting", "line"] = "waiting") -> None:
        """Args:
        text: one line.
        kind: "line" for what the stage prints, "waiting" for what else becomes of it.
        """


class Elsewhere(Protocol):
    """Other machines that can run a stage and leave its results in DVC's cache here."""

    def brings(self, stage: str, agent: str, tell: Tell) -> bool:
        """Whether it brought the results of a stage that is meant for such an agent; if not, the
        stage runs here."""

    def stop(self) -> None:
        """Withdraw everything that was handed out."""


SIGKILL_TAKES = 2.0
"""Time that killed processes are given to be gone, s; one that nobody collects never is."""


class Runner:
    """Runs stages of one workspace, at most `jobs` at once on this machine.

    Attributes:
        listener: told what happens to the stages.
        elsewhere: other machines that may run stages; None: all run here.
    """

    def __init__(
        self,
        workspace: Path,
        jobs: int | None = None,
        listener: Listener = nobody,
        *,
        elsewhere: Elsewhere | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._workspace = workspace
        self.listener = listener
        self.elsewhere = elsewhere
        self._variables = dict(variables or {})
        self._slots = threading.Semaphore(jobs or os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ahead: dict[str, _Ahead] = {}
        self._closed = False

    def ahead(self, stages: Sequence[str]) -> None:
        """Run stages one after the other in the background; whoever asks for one by `run` is given
        what came of it.

        After a failure those that follow are not begun.
        """
        begun = {stage: _Ahead() for stage in stages}
        self._ahead |= begun

        def work() -> None:
            well = True
            for stage, one in begun.items():
                well = one.do(partial(self._run if well else _not_begun, stage, False, None))

        threading.Thread(target=work, name="ahead", daemon=True).start()

    def run(
        self,
        stage: str,
        *,
        force: bool = False,
        agent: str | None = None,
        log: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Bring one stage up to date, its inputs as they are.

        Args:
            stage: its name in DVC.
            force: run it even if it is not stale, and here.
            agent: the kind of agent that it is meant for; what runs elsewhere takes none of the
                places here.
            log: is given every line that DVC and the stage print, as it comes.

        Returns:
            Whether the stage ran, its outputs were restored from DVC's cache, or nothing had to be
            done.

        Raises:
            StageError: the stage failed; the text is its own message.
            KilledStageError: it was ended from outside.
            SkippedStageError: the runner was closed before its turn came.
        """
        if (begun := self._ahead.pop(stage, None)) is not None:
            return begun.hand_over(log or _nowhere)
        return self._run(stage, force, agent, log or _nowhere)

    def _run(
        self, stage: str, force: bool, agent: str | None, log: Callable[[str], None]
    ) -> Outcome:
        if agent is not None and not force:
            self._try_elsewhere(stage, agent, log)
        with self._slots:
            if self._closed:
                _not_begun(stage)
            begun = time.monotonic()
            self.listener(StageEvent(stage, "started"))
            try:
                outcome = self._until_unlocked(stage, force, log, begun)
            except StageError as error:
                self.listener(StageEvent(stage, "failed", str(error), time.monotonic() - begun))
                raise
            self.listener(StageEvent(stage, outcome, "", time.monotonic() - begun))
            return outcome

    def _try_elsewhere(self, stage: str, agent: str, log: Callable[[str], None]) -> None:
        """Have another machine fill DVC's cache, if there is one; the stage's own turn here then
        only restores."""
        if self.elsewhere is None or self._closed:
            return
        begun = time.monotonic()

        def tell(text: str, kind: Literal["waiting", "line"] = "waiting") -> None:
            log(text)
            self.listener(StageEvent(stage, kind, text, time.monotonic() - begun))

        try:
            self.elsewhere.brings(stage, agent, tell)
        except StageError as error:
            self.listener(StageEvent(stage, "failed", str(error), time.monotonic() - begun))
            raise

    def close(self) -> None:
        """Begin no further stage; running ones go on, so that their work is not lost."""
        self._closed = True

    def stop(self, grace: float = 10.0) -> None:
        """End the running stages and begin no further one; those that do not end in `grace` seconds
        are killed."""
        self.close()
        if self.elsewhere is not None:
            self.elsewhere.stop()
        with self._lock:
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
            _signal(process, signal.SIGKILL)  # also what the stage has started itself
        given_up = time.monotonic() + SIGKILL_TAKES
        for process in running:  # the signal comes back before what it kills is gone
            while _signal(process, 0) and time.monotonic() < given_up:
                time.sleep(0.01)

    def _until_unlocked(
        self, stage: str, force: bool, log: Callable[[str], None], begun: float
    ) -> Outcome:
        """Another run in the same workspace, or what a killed one left going, is waited for."""
        while True:
            lines, code = self._once(stage, force, log, begun)
            if code == 0:
                return _outcome(stage, lines)
            if self._closed and code < 0:
                raise KilledStageError(f"{stage} was stopped")
            if not any(sign in line for line in lines for sign in dvc_locks.SIGNS):
                raise _failure(stage, lines, code)
            self.listener(
                StageEvent(
                    stage,
                    "waiting",
                    "waits for another run in this workspace",
                    time.monotonic() - begun,
                )
            )
            dvc_locks.sweep(self._workspace)
            dvc_locks.wait()
            if self._closed:
                raise KilledStageError(f"{stage} was stopped")

    def _once(
        self, stage: str, force: bool, log: Callable[[str], None], begun: float
    ) -> tuple[list[str], int]:
        command = [*shell.DVC, "repro", "--single-item", *(["--force"] if force else []), stage]
        lines: list[str] = []
        with dvc_locks.using(self._workspace), self._process(command, stage) as process:
            for line in process.stdout or ():
                text = line.rstrip()
                if text:
                    lines.append(text)
                    log(text)
                    self.listener(StageEvent(stage, "line", text, time.monotonic() - begun))
        return lines, process.returncode

    @contextlib.contextmanager
    def _process(self, command: list[str], stage: str) -> Iterator[subprocess.Popen[str]]:
        """A child with a process group of its own, so that it and its children can be ended
        together; it ends with this process even if that is killed."""
        with self._lock:
            if self._closed:
                raise SkippedStageError("the run was stopped")
            process = subprocess.Popen(
                command,
                cwd=self._workspace,
                env={**environment.stage(self._workspace, stage), **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            with guard.own().over(process.pid), process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)


class _Ahead:
    """A stage that is run before anybody asks for it. Its lines wait for the thread that does."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._outcome: Future[Outcome] = Future()

    def do(self, run: Callable[[Callable[[str], None]], Outcome]) -> bool:
        """Run it, its lines going where it is told; whether that went well."""
        try:
            self._outcome.set_result(run(self._lines.put))
        except BaseException as error:  # it is raised again in the thread that asks
            self._outcome.set_exception(error)
        self._lines.put(None)
        return self._outcome.exception() is None

    def hand_over(self, log: Callable[[str], None]) -> Outcome:
        """Wait for its end, and be told every line in this thread."""
        for line in iter(self._lines.get, None):
            log(line)
        return self._outcome.result()


def _not_begun(stage: str, *_: object) -> Outcome:
    raise SkippedStageError(f"{stage} was not begun")


def _nowhere(_line: str) -> None:
    pass


def _signal(process: subprocess.Popen[str], number: int) -> bool:
    """Whether any process of the group was still there, if only to be collected by its parent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
        return True
    return False


def _outcome(stage: str, lines: list[str]) -> Outcome:
    if any(line.startswith(f"Running stage '{stage}'") for line in lines):
        return "ran"
    return (
        "restored"
        if any("skipping run, checking out outputs" in line for line in lines)
        else "unchanged"
    )


def _failure(stage: str, lines: list[str], code: int) -> StageError:
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if own:
        return StageError(f"{stage}: {own[-1]}")
    if code < 0 or any(f"exited with {-number}" in lines[-1] for number in (9, 15)):
        return KilledStageError(
            f"{stage} was ended from outside (exit code {code}); the next run continues"
        )
    told = [line for line in lines if not line.startswith(("Running stage", "> "))]
    return StageError(f"{stage} failed without a message of its own: {' / '.join(told[-3:])}")
