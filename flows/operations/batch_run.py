"""One batch on its way from its first request to its sign-off, step by step.

Each step looks at what is there and does what is missing, so a run that was killed anywhere is
continued by the next. The register says how far a batch is: batched, its audit runs; audited, its
verdicts are written down, and what is left is its commit and the tag `audit/<batch>`; awaiting
sign-off, people have their turn.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
"""How a batch is audited: in which workspace, which batch, and who is told."""


@dataclass(frozen=True)
class BatchRun:
    """A batch and all that its way needs.

    Attributes:
        home: the workspace.
        register: its register.
        lease: on the night's work; checked before what cannot be undone.
        batch: the batch's name.
        audit: how it is audited.
        listener: told what happens to stages.
    """

    home: Path
    register: Register
    lease: Lease
    batch: str
    audit: Audit
    listener: stage_runner.Listener

    def to_signoff(self) -> bool:
        """Go all the way, or as much of it as is missing.

        Returns:
            Whether people have something to decide; if not, every request was set aside.

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
    def place(self) -> Path:
        """The workspace in the batch's checkout."""
        return checkouts.path(self.home, self.batch)

    def _audit_and_close(self) -> None:
        self.open_checkout()
        self.write_requests()
        self.run_audit()
        # a machine that slept, or lost the database for long, may have been taken for dead
        self.lease.check()
        self.write_verdicts(self.place)
        if self._requests(State.AUDITED):
            self.sign_and_close()
        else:
            checkouts.drop(self.home, self.batch)

    def open_checkout(self) -> None:
        """The checkout, sound and new or as an earlier run left it. What is changed in the
        workspace and not committed is not in the batch, and that is told once."""
        exists = self.place.exists()
        changed = [] if exists else checkouts.uncommitted(self.home)
        if exists and failures(self.register, self.batch):
            self._mend_cache()
        checkouts.open(self.home, self.batch)
        if changed:
            text = f"Not in batch {self.batch}, because not committed: {', '.join(changed[:10])}"
            key = f"uncommitted {self.batch}"
            notices.send(self.home, "Changes are not committed", text, key=key)

    def _mend_cache(self) -> None:
        """A failure may come from damaged objects of the cache; they are taken out and fetched
        again."""
        damaged = cache_repair.take_out(self.home, self.place)
        if damaged.objects or damaged.files:
            self.register.note(
                "mended", ACTOR, batch=self.batch, objects=damaged.objects, files=damaged.files
            )

    def write_requests(self) -> None:
        """The batch's file of requests: those that are in the batch now, but as they were once a
        verdict is known."""
        path = self.place / "requests" / f"{self.batch}.json"
        members = self.register.bound(self.batch)
        live = [case for case in members if case.state == State.BATCHED]
        if path.exists() and len(live) != len([case for case in members if case.state in IN_BATCH]):
            return
        chosen = live if all(case.state != State.AUDITED for case in members) else members
        entries = batch_requests.entries(chosen)
        if not path.exists() or files.read_json(path) != entries:
            files.write_json(path, entries)

    def run_audit(self) -> None:
        """Run the audit with the settings that the batch is to have. That no request is left to act
        on is no failure."""
        history = self.register.history(batch=self.batch)
        judged = any(event.kind == State.AUDITED for event in history)
        wishes = (
            next_audit.wishes_of(self.register, self.batch)
            if judged
            else next_audit.wishes(self.register)
        )
        assignments = [f"{key}={json.dumps(value)}" for key, value in wishes.items()]
        settings.assign(self.place / "params.yaml", [*assignments, f'batch="{self.batch}"'])
        recorded.file(self.place, self.register, self.batch)
        with logged(self.home, self.batch, self.listener) as listener:
            try:
                self.audit(self.place, self.batch, listener)
            except AuditError:
                if not self._nothing_to_act_on():
                    raise

    def _nothing_to_act_on(self) -> bool:
        resolved = _resolved(self.place)
        ids = {case.request_id for case in self.register.cases(IN_BATCH, batch=self.batch)}
        return set(resolved) == ids and all(
            entry["status"] == "rejected" for entry in resolved.values()
        )

    def write_verdicts(self, place: Path) -> None:
        """Write down what the audit found.

        Who is judged comes first, in one step: from then on the batch's file of requests stays as
        it is. A request that was set aside goes back and is put on hold: a person decides whether
        it is asked again or refused.

        Raises:
            WorkspaceError: the audit says nothing of a request.
        """
        judged = {result.request: result for result in results.read(place, self.batch)}
        resolved = _resolved(place)
        verdicts: dict[str, str] = {}
        aside: dict[str, str] = {}
        for request in self._requests(State.BATCHED):
            code = resolved.get(request, {}).get("code")
            result = judged.get(request)
            if code == standing.NOT_IN_TRAINING:
                verdicts[request] = code
            elif code is not None:
                aside[request] = code
            elif result is not None and result.status == "audited":
                verdicts[request] = result.verdict
            else:
                raise WorkspaceError(
                    f"batch {self.batch}: the audit says nothing of request {request}; it stays in "
                    "the batch"
                )
        self.register.move(list(verdicts), State.AUDITED, ACTOR, verdicts=verdicts)
        self._set_aside(aside)

    def _set_aside(self, codes: dict[str, str]) -> None:
        for request, code in codes.items():
            reason = f"{SET_ASIDE}: {code}"
            # first the hold: a run that is killed here must not ask again by itself
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
        self.register.file_head(self.place / HEADS / f"{self.batch}.json")
        key = signing_keys.at_hand(self.place)
        if key is not None and results.read(self.place, self.batch):
            signing.sign(self.place, self.batch, key)
        close_batch.close(self.place, self.batch)

    def _requests(self, state: State) -> list[str]:
        return [case.request_id for case in self.register.cases([state], batch=self.batch)]


def failures(register: Register, batch: str) -> int:
    """How often the audit of a batch failed."""
    return len(register.history(batch=batch, kind="failed"))


@contextmanager
def logged(
    home: Path, batch: str, listener: stage_runner.Listener
) -> Iterator[stage_runner.Listener]:
    """Write what happens to stages into the batch's log, too; its time is the sign of life that the
    watch looks at."""
    lock = threading.Lock()
    with checkouts.log_of(home, batch).open("a", encoding="utf-8") as log:

        def take(event: stage_runner.StageEvent) -> None:
            at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            with lock:
                log.write(f"{at} {event.stage}: {event.kind} {event.text}".rstrip() + "\n")
                log.flush()
            listener(event)

        yield take


def _resolved(place: Path) -> dict[str, dict[str, Any]]:
    """What became of each request before any model was touched, by its id."""
    path = place / "artifacts" / "resolve" / "register.json"
    if not path.exists():
        return {}
    return {entry["request_id"]: entry for entry in files.read_json(path)["batch_requests"]}
