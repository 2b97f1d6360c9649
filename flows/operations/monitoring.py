"""The watch: near deadlines, letters that were not sent, stuck runs, batches that wait too long, a
damaged register.

A deadline is reported once at each of the days of `operate.warn_days`, and daily after it passed.
So is a letter, but only once after its last day: it may have been sent and not recorded. Stuck work
is reported daily. Sent alerts are recorded in the register, so none is sent twice; they are
recorded only after they were sent, so none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.correspondence import known_since, letters_sent
from flows.erasure import comebacks, receipts
from flows.operations import night_run, notices
from flows.pipeline.console import counted
from flows.register import anchors
from flows.register.register import OPEN, Case, Register, RegisterError, State
from flows.workspace import checkouts
from tasks.common import settings
from tasks.common.errors import WorkspaceError

ACTOR = "watch"
LEASE = "watch"
NIGHT_HOURS = 26.0
"""Hours after a nightly run by which the next one should have ended."""
WAITING_DAYS = {State.AWAITING_SIGNOFF: 3, State.RELEASED: 1}
"""Days that a batch may wait for people, or for its erasure, before an alert."""

Emit = Callable[[str, str, dict[str, Any]], None]
"""Takes the name of an event, its subject, and facts."""
Runs = Callable[[timedelta], list[str]]
"""Returns the scheduler's problems, such as runs that take longer than the given time."""


@dataclass(frozen=True)
class Alert:
    """An alert for people.

    Attributes:
        key: alerts with the same key and request are sent once.
        text: for people; no personal data.
        request_id: the request that it is about, if any.
        batch: the batch, if any.
        facts: for the event.
    """

    key: str
    text: str
    request_id: str | None = None
    batch: str | None = None
    facts: dict[str, Any] | None = None


@dataclass(frozen=True)
class Watched:
    """The alerts that were sent now, and the number of messages that still wait for a channel."""

    deadlines: tuple[str, ...]
    stuck: tuple[str, ...]
    waiting: int

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "deadlines": list(self.deadlines),
            "stuck": list(self.stuck),
            "waiting": self.waiting,
        }


def run(
    home: Path,
    register: Register,
    emit: Emit = lambda *_: None,
    runs: Runs = lambda _: [],
    now: datetime | None = None,
) -> Watched:
    """Check everything, and send the alerts that were not sent before.

    Args:
        home: the workspace.
        register: its register.
        emit: receives an event for each alert.
        runs: returns the scheduler's problems.
        now: the moment that counts; None: now.

    Raises:
        BusyError: another watch does this right now.
        WorkspaceError: the register cannot be used.
    """
    moment = now or datetime.now(UTC)
    chosen = settings.load(home / "params.yaml").operate
    with register.lease(LEASE):
        earlier = {
            (event.request_id, event.details["about"]) for event in register.history(kind="warned")
        }

        def new(alerts: Iterator[Alert]) -> list[Alert]:
            return [alert for alert in alerts if (alert.request_id, alert.key) not in earlier]

        today = moment.date()
        deadline_alerts = new(_deadlines(register, chosen.warn_days, today))
        deadline_alerts += new(_letters(home, register, chosen.warn_days, today))
        stuck_alerts = new(
            _stuck(home, register, timedelta(hours=chosen.stuck_hours), runs, moment)
        )
        for alerts, title, event in (
            (
                deadline_alerts,
                ("deadline is near or over", "deadlines are near or over"),
                "deadline",
            ),
            (stuck_alerts, ("thing needs a look", "things need a look"), "stuck"),
        ):
            _send_alerts(home, register, alerts, title, f"erasure-audit.{event}", emit)
        waiting = notices.deliver(home).waiting
    return Watched(
        tuple(alert.text for alert in deadline_alerts),
        tuple(alert.text for alert in stuck_alerts),
        waiting,
    )


def _send_alerts(
    home: Path,
    register: Register,
    alerts: list[Alert],
    title: tuple[str, str],
    event: str,
    emit: Emit,
) -> None:
    """Send one message for all alerts; emit an event and record a note for each."""
    if not alerts:
        return
    body = "\n".join(alert.text for alert in alerts)
    notices.send(
        home,
        counted(len(alerts), *title),
        body,
        key=repr([(alert.request_id, alert.key) for alert in alerts]),
    )
    for alert in alerts:
        resource = (
            f"request.{alert.request_id}"
            if alert.request_id
            else f"batch.{alert.batch}"
            if alert.batch
            else "workspace"
        )
        emit(event, f"erasure-audit.{resource}", {"text": alert.text, **(alert.facts or {})})
        register.note(
            "warned", ACTOR, request_id=alert.request_id, batch=alert.batch, about=alert.key
        )


def _deadlines(register: Register, warn_days: tuple[int, ...], today: date) -> Iterator[Alert]:
    for case in register.cases(OPEN):
        if case.due is None:
            continue
        days_left = (case.due - today).days
        crossed = [days for days in warn_days if days_left <= days]
        if days_left < 0:
            yield _deadline_alert(case, f"due {case.due}: over on {today}", days_left)
        elif crossed:  # once per threshold, also if earlier ones were missed
            yield _deadline_alert(case, f"due {case.due}: {min(crossed)} days", days_left)


def _letters(
    home: Path, register: Register, warn_days: tuple[int, ...], today: date
) -> Iterator[Alert]:
    """Letters that are not recorded as sent and whose last day is near or over."""
    for letter in letters_sent.due(home, register):
        if letter.due is None:
            continue
        days_left = (letter.due - today).days
        crossed = [days for days in warn_days if days_left <= days]
        if days_left >= 0 and not crossed:
            continue
        threshold = "over" if days_left < 0 else f"{min(crossed)} days"
        yield Alert(
            f"letter {letter.letter}, due {letter.due}: {threshold}",
            f"Request {letter.request_id}: the letter ({letter.letter}) is not recorded as sent; "
            f"{_days_text(days_left)}, due {letter.due}. Once it is: erasure-audit letters sent "
            f"{letter.request_id}",
            letter.request_id,
            None,
            {"due": str(letter.due), "days_left": days_left, "letter": letter.letter},
        )


def _days_text(days_left: int) -> str:
    return (
        f"{counted(days_left, 'day')} left"
        if days_left >= 0
        else f"{counted(-days_left, 'day')} over"
    )


def _deadline_alert(case: Case, key: str, days_left: int) -> Alert:
    days = _days_text(days_left)
    batch = f", batch {case.batch}" if case.batch else ""
    facts = {"due": str(case.due), "days_left": days_left, "state": case.shown}
    return Alert(
        key,
        f"Request {case.request_id}: {days}, due {case.due}, {case.shown.replace('_', ' ')}{batch}",
        case.request_id,
        case.batch,
        facts,
    )


def _came_back(home: Path, now: datetime) -> Iterator[Alert]:
    """Copies of erased records that came back, for example when an old clone was pushed. The key
    counts erasures, so that a copy that comes back once more is reported again on the same day."""
    erased = sum(len(document.get("came_back", [])) for document in receipts.read_all(home))
    for text in comebacks.look(home).lines:
        yield Alert(f"{text} on {now.date()}, after {erased} erasures of copies", text)


def _behind(home: Path, register: Register) -> Iterator[Alert]:
    """Erased batches whose reports lack facts that were recorded later; reported once until the
    reports are renewed."""
    for batch, filed in known_since.behind(home, register).items():
        text = (
            f"Batch {batch}: its reports lack what was recorded since it was erased; "
            f"erasure-audit letters renew {batch}"
        )
        yield Alert(f"reports behind since {filed}", text, None, batch)


def _stuck(
    home: Path, register: Register, patience: timedelta, runs: Runs, now: datetime
) -> Iterator[Alert]:
    yield from _silent(home, register, patience, now)
    yield from _missed(register, now)
    yield from _waiting(register, now)
    yield from _came_back(home, now)
    yield from _behind(home, register)
    for text in runs(patience):
        yield Alert(f"{text} on {now.date()}", text)
    for event in register.history(kind="callback_given_up"):
        text = (
            f"Request {event.request_id}: a status callback was given up after "
            f"{event.details.get('tries')} tries"
        )
        yield Alert(
            f"callback of event {event.details.get('event', event.seq)}", text, event.request_id
        )
    try:
        anchors.anchor(home, register)
    except RegisterError as error:
        yield Alert(f"chain on {now.date()}", f"The register is damaged: {error}")
    except WorkspaceError as error:
        text = f"The end of the register's chain could not be kept in git: {error}"
        yield Alert(f"anchor on {now.date()}", text)


def _silent(home: Path, register: Register, patience: timedelta, now: datetime) -> Iterator[Alert]:
    """Work whose process is alive but shows no sign of life."""
    for name, since, _ in register.working():
        if name == LEASE:
            continue
        last, stage = datetime.fromisoformat(since), ""
        if name == night_run.LEASE and (log := _newest_log(home)) is not None:
            last = max(last, datetime.fromtimestamp(log.stat().st_mtime, UTC))
            stage = f" (last seen: {_last_stage(log)})"
        if now - last > patience:
            hours = (now - last).total_seconds() / 3600
            yield Alert(
                f"{name} since {since} on {now.date()}",
                f"Stuck: {name} works since {since[:16]}Z and has shown no sign of life for "
                f"{hours:.1f} hours{stage}."
                " End its process; the next run continues.",
            )


def _newest_log(home: Path) -> Path | None:
    return max(
        (home / checkouts.FOLDER).glob("*.log"), key=lambda path: path.stat().st_mtime, default=None
    )


def _last_stage(log: Path) -> str:
    """The stage of the log's last line, without the line's text."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].split(" ")[1].rstrip(":") if lines and " " in lines[-1] else "nothing"


def _missed(register: Register, now: datetime) -> Iterator[Alert]:
    nights = register.history(kind="night")
    working = {name for name, _, _ in register.working()}
    if nights and night_run.LEASE not in working:
        last = datetime.fromisoformat(nights[-1].at)
        if now - last > timedelta(hours=NIGHT_HOURS):
            text = (
                f"No nightly run came to its end since {nights[-1].at[:16]}Z; see the schedule "
                "and its worker."
            )
            yield Alert(f"night missed on {now.date()}", text)


def _waiting(register: Register, now: datetime) -> Iterator[Alert]:
    for state, days in WAITING_DAYS.items():
        for batch in sorted({str(case.batch) for case in register.cases([state])}):
            since = max(event.at for event in register.history(batch=batch, kind=str(state)))
            waited = (now - datetime.fromisoformat(since)).days
            if waited >= days:
                status = (
                    "awaits sign-off"
                    if state == State.AWAITING_SIGNOFF
                    else "is released and not erased"
                )
                yield Alert(
                    f"{state} on {now.date()}",
                    f"Batch {batch} {status} for {counted(waited, 'day')}, since {since[:10]}.",
                    None,
                    batch,
                )
