"""The steps of one batch from its first request to its sign-off.

Each step does only what is missing, so the next run continues after a kill at any point. The
register holds the progress: `batched`, the audit runs; `audited`, the verdicts are recorded, and
the commit with the tag `audit/<batch>` is missing; `awaiting_signoff`, people decide.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.intake import batch_requests
from flows.operations import notices
from flows.pipeline import cache_repair, close_batch, results, stage_runner
from flows.register import recorded
from flows.register.anchors import HEADS
from flows.register.register import IN_BATCH, SET_ASIDE, Lease, Register, State
from flows.release import next_audit, standing
from flows.reports import signing
from flows.workspace import checkouts, git, shell, signing_keys
from tasks.common import files, settings
from tasks.common.errors import AuditError, WorkspaceError

ACTOR = "nightly"

Audit = Callable[[Path, str, stage_runner.Listener], None]
"""Audits a batch: takes the workspace, the batch and the listener of its stages."""


@dataclass(frozen=True)
class BatchRun:
    """A batch and everything that its steps need.

    Attributes:
        home: the operator's workspace.
        register: its register.
        lease: on the night's work; checked before steps that cannot be undone.
        batch: the batch's name.
        audit: audits it.
        listener: receives the events of stages.
    """

    home: Path
    register: Register
    lease: Lease
    batch: str
    audit: Audit
    listener: stage_runner.Listener

    def to_signoff(self) -> bool:
        """Do all steps that are missing.

        Returns:
            Whether people have something to decide; False: every request was set aside.

        Raises:
            AuditError: a step failed; the next run continues.
        """
        if not self.is_tagged:
            self._audit_and_close()
        elif self._requests(State.BATCHED):  # it was audited by hand in its checkout
            with close_batch.checkout(self.home, self.tag) as copy:
                self.write_verdicts(copy)
        if not self.is_tagged:
            return False
        commit = shell.git(self.home, "rev-parse", f"{self.tag}^{{commit}}")
        audited = self._requests(State.AUDITED)
        self.register.move(audited, State.AWAITING_SIGNOFF, ACTOR, tag=self.tag, commit=commit)
        return True

    @property
    def tag(self) -> str:
        """The tag of the batch's audit."""
        return close_batch.tag_of(self.batch)

    @property
    def is_tagged(self) -> bool:
        """Whether the audit is closed."""
        return git.has_tag(self.home, self.tag)

    @cached_property
    def workspace(self) -> Path:
        """The workspace in the batch's checkout."""
        return checkouts.path(self.home, self.batch)

    def _audit_and_close(self) -> None:
        self.open_checkout()
        self.write_requests()
        self.run_audit()
        # another process may have taken over if this machine slept or lost the database for long
        self.lease.check()
        self.write_verdicts(self.workspace)
        if self._requests(State.AUDITED):
            self.sign_and_close()
        else:
            checkouts.drop(self.home, self.batch)

    def open_checkout(self) -> None:
        """Open the checkout, a new one or the one of an earlier run. Uncommitted changes of the
        workspace are not in the batch; one notice says so."""
        exists = self.workspace.exists()
        uncommitted = [] if exists else checkouts.uncommitted(self.home)
        if exists and failures(self.register, self.batch):
            self._mend_cache()
        checkouts.open(self.home, self.batch)
        if uncommitted:
            text = (
                f"Not in batch {self.batch}, because not committed: {', '.join(uncommitted[:10])}"
            )
            key = f"uncommitted {self.batch}"
            notices.send(self.home, "Changes are not committed", text, key=key)

    def _mend_cache(self) -> None:
        """Remove damaged objects from the cache, which may have caused an earlier failure; they
        are fetched again."""
        damaged = cache_repair.take_out(self.home, self.workspace)
        if damaged.objects or damaged.files:
            self.register.note(
                "mended", ACTOR, batch=self.batch, objects=damaged.objects, files=damaged.files
            )

    def write_requests(self) -> None:
        """Write the batch's file of requests: those in the batch now. Once a verdict is recorded,
        the file stays as it is."""
        path = self.workspace / "requests" / f"{self.batch}.json"
        members = self.register.bound(self.batch)
        batched = [case for case in members if case.state == State.BATCHED]
        if path.exists() and len(batched) != len(
            [case for case in members if case.state in IN_BATCH]
        ):
            return
        chosen = batched if all(case.state != State.AUDITED for case in members) else members
        entries = batch_requests.entries(chosen)
        if not path.exists() or files.read_json(path) != entries:
            files.write_json(path, entries)

    def run_audit(self) -> None:
        """Run the audit with the batch's settings. It may fail if every request was set aside."""
        history = self.register.history(batch=self.batch)
        judged = any(event.kind == State.AUDITED for event in history)
        wishes = (
            next_audit.wishes_of(self.register, self.batch)
            if judged
            else next_audit.wishes(self.register)
        )
        assignments = [f"{key}={json.dumps(value)}" for key, value in wishes.items()]
        settings.assign(self.workspace / "params.yaml", [*assignments, f'batch="{self.batch}"'])
        recorded.file(self.workspace, self.register, self.batch)
        with logged(self.home, self.batch, self.listener) as listener:
            try:
                self.audit(self.workspace, self.batch, listener)
            except AuditError:
                if not self._nothing_to_act_on():
                    raise

    def _nothing_to_act_on(self) -> bool:
        resolved = _resolutions(self.workspace)
        ids = {case.request_id for case in self.register.cases(IN_BATCH, batch=self.batch)}
        return set(resolved) == ids and all(
            entry["status"] == "rejected" for entry in resolved.values()
        )

    def write_verdicts(self, workspace: Path) -> None:
        """Record the verdicts of the audit.

        All judged requests move in one step; from then on the batch's file of requests stays as it
        is. A request that was set aside leaves the batch and is put on hold: a person decides
        whether it is queued again or refused.

        Raises:
            WorkspaceError: the audit says nothing of a request.
        """
        judged = {result.request: result for result in results.read(workspace, self.batch)}
        resolved = _resolutions(workspace)
        verdicts: dict[str, str] = {}
        set_aside: dict[str, str] = {}
        for request in self._requests(State.BATCHED):
            code = resolved.get(request, {}).get("code")
            result = judged.get(request)
            if code == standing.NOT_IN_TRAINING:
                verdicts[request] = code
            elif code is not None:
                set_aside[request] = code
            elif result is not None and result.status == "audited":
                verdicts[request] = result.verdict
            else:
                raise WorkspaceError(
                    f"batch {self.batch}: the audit says nothing of request {request}; it stays in "
                    "the batch"
                )
        self.register.move(list(verdicts), State.AUDITED, ACTOR, verdicts=verdicts)
        self._set_aside(set_aside)

    def _set_aside(self, codes: dict[str, str]) -> None:
        for request, code in codes.items():
            reason = f"{SET_ASIDE}: {code}"
            # the hold first: after a kill here the request must not be queued again by itself
            if not self.register.case(request).held:
                self.register.hold(request, ACTOR, reason, ground=SET_ASIDE)
            self.register.move([request], State.IDENTITY_VERIFIED, ACTOR, reason=reason, code=code)
        if codes:
            lines = "\n".join(f"Request {request}: {code}" for request, code in codes.items())
            notices.send(
                self.home,
                f"Batch {self.batch}: requests were set aside",
                f"{lines}\nCorrect the data set and queue a request again by `erasure-audit "
                "requests "
                "lift`; or send the corrected request under the same id; or refuse it by "
                "`erasure-audit requests reject`.",
                key=f"aside {self.batch}",
            )

    def sign_and_close(self) -> None:
        """Sign, commit and tag the batch, together with the end of the register's chain."""
        self.register.file_head(self.workspace / HEADS / f"{self.batch}.json")
        key = signing_keys.load_key(self.workspace)
        if key is not None and results.read(self.workspace, self.batch):
            signing.sign(self.workspace, self.batch, key)
        close_batch.close(self.workspace, self.batch)

    def _requests(self, state: State) -> list[str]:
        return [case.request_id for case in self.register.cases([state], batch=self.batch)]


def failures(register: Register, batch: str) -> int:
    """How often the audit of a batch has failed."""
    return len(register.history(batch=batch, kind="failed"))


@contextmanager
def logged(
    home: Path, batch: str, listener: stage_runner.Listener
) -> Iterator[stage_runner.Listener]:
    """Also write events of stages into the batch's log. The watch reads its time as a sign of
    life."""
    lock = threading.Lock()
    with checkouts.log_of(home, batch).open("a", encoding="utf-8") as log:

        def take(event: stage_runner.StageEvent) -> None:
            at = files.timestamp()
            with lock:
                log.write(f"{at} {event.stage}: {event.kind} {event.text}".rstrip() + "\n")
                log.flush()
            listener(event)

        yield take


def _resolutions(workspace: Path) -> dict[str, dict[str, Any]]:
    """The decision of the stage `resolve` on each request, by its id; empty before it ran."""
    path = workspace / "artifacts" / "resolve" / "register.json"
    if not path.exists():
        return {}
    return {entry["request_id"]: entry for entry in files.read_json(path)["batch_requests"]}
