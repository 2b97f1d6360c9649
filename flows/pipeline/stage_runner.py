"""Runs one stage through DVC, `dvc repro --single-item`, and reads its output line by line.

DVC decides whether the stage has to run. Several stages may run side by side. All of them end when
the runner is stopped; the next run continues.
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
    """A stage was killed from outside; it can be tried again."""


class SkippedStageError(StageError):
    """A stage was not started, because another one failed or the run was stopped."""


@dataclass(frozen=True)
class StageEvent:
    """An event of a stage: its kind, the line of output if any, and the time since the stage's
    start, s. Before anything runs, each stage of the run is `planned`."""

    stage: str
    kind: Kind
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[StageEvent], None]


def nobody(event: StageEvent) -> None:
    """A listener that ignores all events."""


class StageNews(Protocol):
    """Receives news of a stage that another machine runs."""

    def __call__(self, text: str, kind: Literal["waiting", "line"] = "waiting") -> None:
        """Args:
        text: one line.
        kind: "line" for the stage's output, "waiting" for all other news.
        """


class Elsewhere(Protocol):
    """Other machines that can run a stage and leave its results in DVC's cache here."""

    def fetch_results(self, stage: str, agent: str, tell: StageNews) -> bool:
        """Run a stage on such an agent and fetch its results. Returns False if the stage has to
        run here."""

    def stop(self) -> None:
        """Withdraw all stages that were handed out."""


SIGKILL_TAKES = 2.0
"""How long to wait for killed processes to end, s; one that nobody collects never does."""


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
        self._early_runs: dict[str, _EarlyRun] = {}
        self._closed = False

    def ahead(self, stages: Sequence[str]) -> None:
        """Run stages one after the other in the background; `run` returns their outcomes later.

        After a failure the following stages are not started.
        """
        stage_runs = {stage: _EarlyRun() for stage in stages}
        self._early_runs |= stage_runs

        def run_all() -> None:
            succeeded = True
            for stage, stage_run in stage_runs.items():
                succeeded = stage_run.do(
                    partial(self._run if succeeded else _not_begun, stage, False, None)
                )

        threading.Thread(target=run_all, name="ahead", daemon=True).start()

    def run(
        self,
        stage: str,
        *,
        force: bool = False,
        agent: str | None = None,
        log: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Bring one stage up to date without its upstream.

        Args:
            stage: its name in DVC.
            force: run it here even if it is not stale.
            agent: the kind of agent that it is meant for; a stage on an agent does not count
                towards `jobs`.
            log: receives every line that DVC and the stage print.

        Returns:
            Whether the stage ran, its outputs were restored from DVC's cache, or it was up to date.

        Raises:
            StageError: the stage failed; the text is its own message.
            KilledStageError: it was killed from outside.
            SkippedStageError: the runner was closed before the stage started.
        """
        if (early_run := self._early_runs.pop(stage, None)) is not None:
            return early_run.hand_over(log or _ignore_line)
        return self._run(stage, force, agent, log or _ignore_line)

    def _run(
        self, stage: str, force: bool, agent: str | None, log: Callable[[str], None]
    ) -> Outcome:
        if agent is not None and not force:
            self._try_elsewhere(stage, agent, log)
        with self._slots:
            if self._closed:
                _not_begun(stage)
            start = time.monotonic()
            self.listener(StageEvent(stage, "started"))
            try:
                outcome = self._until_unlocked(stage, force, log, start)
            except StageError as error:
                self.listener(StageEvent(stage, "failed", str(error), time.monotonic() - start))
                raise
            self.listener(StageEvent(stage, outcome, "", time.monotonic() - start))
            return outcome

    def _try_elsewhere(self, stage: str, agent: str, log: Callable[[str], None]) -> None:
        """Have another machine fill DVC's cache, if there is one; the stage's run here then only
        restores its outputs."""
        if self.elsewhere is None or self._closed:
            return
        start = time.monotonic()

        def tell(text: str, kind: Literal["waiting", "line"] = "waiting") -> None:
            log(text)
            self.listener(StageEvent(stage, kind, text, time.monotonic() - start))

        try:
            self.elsewhere.fetch_results(stage, agent, tell)
        except StageError as error:
            self.listener(StageEvent(stage, "failed", str(error), time.monotonic() - start))
            raise

    def close(self) -> None:
        """Start no further stage; running ones go on, so that their work is not lost."""
        self._closed = True

    def stop(self, grace: float = 10.0) -> None:
        """End the running stages and start no further one. Stages that do not end within `grace`
        seconds are killed."""
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
            _signal(process, signal.SIGKILL)  # and the processes that the stage started
        deadline = time.monotonic() + SIGKILL_TAKES
        for process in running:  # a killed process ends only some time after the signal
            while _signal(process, 0) and time.monotonic() < deadline:
                time.sleep(0.01)

    def _until_unlocked(
        self, stage: str, force: bool, log: Callable[[str], None], start: float
    ) -> Outcome:
        """Run the stage; while another run holds DVC's locks, wait and try again."""
        while True:
            lines, code = self._once(stage, force, log, start)
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
                    time.monotonic() - start,
                )
            )
            dvc_locks.sweep(self._workspace)
            dvc_locks.wait()
            if self._closed:
                raise KilledStageError(f"{stage} was stopped")

    def _once(
        self, stage: str, force: bool, log: Callable[[str], None], start: float
    ) -> tuple[list[str], int]:
        command = [*shell.DVC, "repro", "--single-item", *(["--force"] if force else []), stage]
        lines: list[str] = []
        with dvc_locks.using(self._workspace), self._process(command, stage) as process:
            for line in process.stdout or ():
                text = line.rstrip()
                if text:
                    lines.append(text)
                    log(text)
                    self.listener(StageEvent(stage, "line", text, time.monotonic() - start))
        return lines, process.returncode

    @contextlib.contextmanager
    def _process(self, command: list[str], stage: str) -> Iterator[subprocess.Popen[str]]:
        """A child with a process group of its own, so that it ends together with its children, and
        with this process even if that is killed."""
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
            with guard.of_this_process().watching(process.pid), process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)


class _EarlyRun:
    """A stage that runs before its turn. Its lines are kept for the thread that asks for it."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._outcome: Future[Outcome] = Future()

    def do(self, run: Callable[[Callable[[str], None]], Outcome]) -> bool:
        """Run the stage and keep its lines; returns whether it succeeded."""
        try:
            self._outcome.set_result(run(self._lines.put))
        except BaseException as error:  # it is raised again in the thread that asks
            self._outcome.set_exception(error)
        self._lines.put(None)
        return self._outcome.exception() is None

    def hand_over(self, log: Callable[[str], None]) -> Outcome:
        """Log every line in this thread until the stage ends, and return its outcome."""
        for line in iter(self._lines.get, None):
            log(line)
        return self._outcome.result()


def _not_begun(stage: str, *_: object) -> Outcome:
    raise SkippedStageError(f"{stage} was not begun")


def _ignore_line(_line: str) -> None:
    pass


def _signal(process: subprocess.Popen[str], number: int) -> bool:
    """Signal a process group; returns whether any process of it existed."""
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
    messages = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if messages:
        return StageError(f"{stage}: {messages[-1]}")
    if code < 0 or any(f"exited with {-number}" in lines[-1] for number in (9, 15)):
        return KilledStageError(
            f"{stage} was ended from outside (exit code {code}); the next run continues"
        )
    last_lines = [line for line in lines if not line.startswith(("Running stage", "> "))]
    return StageError(f"{stage} failed without a message of its own: {' / '.join(last_lines[-3:])}")
