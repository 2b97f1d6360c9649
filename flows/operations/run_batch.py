"""Runs a batch from the command line: DVC is asked first, and Prefect starts only if a stage is
stale."""

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
    """The outcome of a run: the stages that were stale before it, the results, the tag if the batch
    was closed, advice."""

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
    """Bring a batch up to date, and sign and close it if asked to. Progress goes to stderr.

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
    prepared = prepare.prepare(folder, batch, assignments, jobs)
    chosen = prepared.settings
    report = partial(console.say, as_json=as_json)
    _report_settings(before, chosen, report)
    if prepared.stale:
        _report_plan(prepared, jobs, report)
        report("Starting Prefect …")
        with console.progress(folder, as_json) as listener:
            audit(prepared, listener)
    else:
        report(f"Nothing is stale: batch {chosen.batch} is up to date.")
    close_batch.file_audits(folder, chosen.batch)
    # a closed batch keeps its signatures, also if the commit is refused
    closed = commit and close_batch.is_closed(folder, chosen.batch)
    if (commit or sign) and not closed:
        _sign(folder, chosen.batch, report)
    tag = close_batch.close(folder, chosen.batch) if commit else None
    if tag and (obstacle := close_batch.unpushed(folder)):
        report(f"Not pushed: {obstacle}")
    judged, advised = results.read(folder, chosen.batch), results.advice(folder, chosen.batch)
    return Run(chosen.batch, sorted(prepared.stale), judged, tag, tuple(advised))


def audit(prepared: prepare.Ready, listener: stage_runner.Listener) -> None:
    """Audit by the Prefect flow; the first stages run while Prefect starts.

    Raises:
        AuditError: the workspace is unusable, or a stage failed (with its own message).
    """
    failures: list[str] = []

    def remember(event: stage_runner.StageEvent) -> None:
        if event.kind == "failed":
            failures.append(event.text)
        listener(event)

    environment.prepare(prepared.folder)
    for stage in prepared.pipeline:
        listener(stage_runner.StageEvent(stage.name, "planned"))
    prepared.runner.listener = remember
    with prepare.running_head(prepared):
        from flows.operations import audit_flow  # it imports Prefect

        try:
            with audit_flow.taking_over(prepared):
                flow = partial(
                    audit_flow.audit, prepared.settings.batch, folder=str(prepared.folder)
                )
                _in_own_thread(flow)
        except StageError as error:  # the listener may see what Prefect must not store
            raise next(
                (StageError(text) for text in failures if without_records(text) == str(error)),
                error,
            ) from None


def _in_own_thread(flow: Callable[[], object]) -> None:
    """Run a flow in a thread of its own, unless it is part of another flow.

    In the main thread Prefect handles SIGTERM and first reports the end to its server. A service
    manager ends that server together with us, so Prefect would retry for many minutes.
    """
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is not None:
        flow()
        return
    outcome: Future[object] = Future()

    def run_flow() -> None:
        try:
            outcome.set_result(flow())
        except BaseException as error:  # raised again in the main thread
            outcome.set_exception(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run_flow,), name="flow", daemon=True).start()
    outcome.result()


def _report_plan(prepared: prepare.Ready, jobs: int | None, report: Callable[[str], None]) -> None:
    """Report the plan in brief if models have to be trained; see `erasure-audit plan`."""
    if any(stage.name.startswith(("train", "retrain")) for stage in prepared.pipeline):
        try:
            lines = forecast.make(prepared.folder, jobs=jobs).brief
        except AuditError as error:  # the stage with the fault reports what to do
            lines = [f"No plan: {error}"]
        for line in lines:
            report(line)


def _sign(folder: Path, batch: str, report: Callable[[str], None]) -> None:
    key = signing_keys.load_key(folder)
    if key is None:
        report(
            f"Not signed: there is no key. Name one in {signing_keys.FILE}, see docs/signing.md."
        )
        return
    signed = signing.sign(folder, batch, key)
    caveat = " with the development key, which vouches for nobody" if key.signer.development else ""
    report(
        f"Signed{caveat}: {console.counted(len(signed), 'report')} in signed/{batch}, "
        f"{sum(item.new for item in signed)} of them now."
    )


def _report_settings(
    before: settings.Settings, after: settings.Settings, report: Callable[[str], None]
) -> None:
    """Report the settings that this command changed."""
    old, new = settings.flat(before), settings.flat(after)
    for key in new:
        if key != "batch" and new[key] != old[key]:
            report(f"Setting {key} = {new[key]}, was {old[key]}")
