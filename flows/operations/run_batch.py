"""Running a batch from the command line: ask DVC first, start Prefect only if there is something to
do."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flows.pipeline import close_batch, console, forecast, prepare, results, stage_runner
from flows.reports import signing
from flows.workspace import dvc_locks, environment, signing_keys
from tasks.common import settings
from tasks.common.errors import AuditError, StageError, without_records


@dataclass(frozen=True)
class Run:
    """What a run did: the stages that were stale before it, the results, the tag if the batch was
    closed, advice."""

    batch: str
    stale: list[str]
    results: list[results.Result]
    tag: str | None = None
    advice: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "batch": self.batch,
            "stale": self.stale,
            "requests": [result.plain() for result in self.results],
            "reports": f"reports/{self.batch}",
            "tag": self.tag,
            "advice": list(self.advice),
        }


def run(
    folder: Path,
    batch: str | None,
    assignments: list[str],
    jobs: int | None,
    commit: bool,
    sign: bool = False,
    as_json: bool = False,
) -> Run:
    """Bring a batch up to date, and sign and close it if asked to. Tells on stderr what it does.

    Closing signs first, if there is a key. With `as_json` stderr holds events for programs.

    Raises:
        AuditError: the settings, the workspace or a stage is at fault.
    """
    with dvc_locks.using(folder):
        return _run(folder, batch, assignments, jobs, commit, sign, as_json)


def _run(
    folder: Path,
    batch: str | None,
    assignments: list[str],
    jobs: int | None,
    commit: bool,
    sign: bool,
    as_json: bool,
) -> Run:
    before = settings.load(folder / "params.yaml")
    found = prepare.prepare(folder, batch, assignments, jobs)
    chosen = found.settings
    say = partial(console.say, as_json=as_json)
    _tell_settings(before, chosen, say)
    if found.stale:
        _tell_plan(found, jobs, say)
        say("Starting Prefect …")
        with console.progress(folder, as_json) as listener:
            audit(found, listener)
    else:
        say(f"Nothing is stale: batch {chosen.batch} is up to date.")
    close_batch.file_audits(folder, chosen.batch)
    # a closed batch keeps its signatures, also where the commit is refused
    closed = commit and close_batch.is_closed(folder, chosen.batch)
    if (commit or sign) and not closed:
        _sign(folder, chosen.batch, say)
    tag = close_batch.close(folder, chosen.batch) if commit else None
    if tag and (lack := close_batch.unpushed(folder)):
        say(f"Not pushed: {lack}")
    judged, advised = results.read(folder, chosen.batch), results.advice(folder, chosen.batch)
    return Run(chosen.batch, sorted(found.stale), judged, tag, tuple(advised))


def audit(found: prepare.Ready, listener: stage_runner.Listener) -> None:
    """Audit by the Prefect flow; the first stages run while Prefect starts.

    Raises:
        AuditError: the workspace is unusable, or a stage failed; then the text is the stage's own
            message.
    """
    failures: list[str] = []

    def take(event: stage_runner.StageEvent) -> None:
        if event.kind == "failed":
            failures.append(event.text)
        listener(event)

    environment.prepare(found.folder)
    for stage in found.pipeline:
        listener(stage_runner.StageEvent(stage.name, "planned"))
    found.runner.listener = take
    with prepare.begun(found):
        from flows.operations import audit_flow  # it imports Prefect

        try:
            with audit_flow.of(found):
                flow = partial(audit_flow.audit, found.settings.batch, folder=str(found.folder))
                _apart(flow)
        except StageError as error:  # whoever listens may know what Prefect is not to keep
            raise next(
                (StageError(text) for text in failures if without_records(text) == str(error)),
                error,
            ) from None


def _apart(flow: Callable[[], object]) -> None:
    """Run a flow in a thread of its own, unless it is part of another flow.

    In the main thread Prefect takes SIGTERM over and reports the end to its server first. A service
    manager ends that server with us, so the report would be tried again for many minutes.
    """
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is not None:
        flow()
        return
    outcome: Future[object] = Future()

    def work() -> None:
        try:
            outcome.set_result(flow())
        except BaseException as error:  # it is raised again in the main thread
            outcome.set_exception(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="flow", daemon=True).start()
    outcome.result()


def _tell_plan(found: prepare.Ready, jobs: int | None, say: Callable[[str], None]) -> None:
    """The plan in brief, where models have to be trained; see `erasure-audit plan`."""
    if any(stage.name.startswith(("train", "retrain")) for stage in found.pipeline):
        try:
            lines = forecast.make(found.folder, jobs=jobs).brief
        except AuditError as error:  # the stage that meets the fault says what to do
            lines = [f"No plan: {error}"]
        for line in lines:
            say(line)


def _sign(folder: Path, batch: str, say: Callable[[str], None]) -> None:
    key = signing_keys.at_hand(folder)
    if key is None:
        say(
            f"Not signed, for there is no key: name one in {signing_keys.FILE}, see "
            "docs/signing.md."
        )
        return
    done = signing.sign(folder, batch, key)
    mark = " with the development key, which vouches for nobody" if key.signer.development else ""
    say(
        f"Signed{mark}: {console.counted(len(done), 'report')} in signed/{batch}, "
        f"{sum(item.new for item in done)} of them now."
    )


def _tell_settings(
    before: settings.Settings, after: settings.Settings, say: Callable[[str], None]
) -> None:
    """Say which settings this command changed."""
    old, new = settings.flat(before), settings.flat(after)
    for key in new:
        if key != "batch" and new[key] != old[key]:
            say(f"Setting {key} = {new[key]}, was {old[key]}")
