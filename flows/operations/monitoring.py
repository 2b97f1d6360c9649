"""The watch: deadlines that come near, letters that were not sent, runs that are stuck, batches
that wait too long, a register that was touched.

A deadline is told of once at each of the days of `operate.warn_days`, and daily when it is over; a
letter likewise, but only once when it is over, for it may have been sent and not recorded. What is
stuck is told of daily as long as it is. What was told stands in the register, so nothing is
told twice, and it is written there only after it was told, so nothing is lost.
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
"""Hours after which the next night is missed, where there are nights at all."""
WAITING_DAYS = {State.AWAITING_SIGNOFF: 3, State.RELEASED: 1}
"""Days that a batch may wait for people, or for its erasure, before it is told of."""

Emit = Callable[[str, str, dict[str, Any]], None]
"""Takes the name of an event, what it is about, and facts."""
Runs = Callable[[timedelta], list[str]]
"""What the scheduler says of runs that take longer than so."""


@dataclass(frozen=True)
class Alert:
    """Something that somebody has to know.

    Attributes:
        about: what it is, the same for what is not to be told again.
        text: for people; no personal data.
        request_id: the request that it is about, if it is about one.
        batch: the batch.
        facts: for the event.
    """

    about: str
    text: str
    request_id: str | None = None
    batch: str | None = None
    facts: dict[str, Any] | None = None


@dataclass(frozen=True)
class Watched:
    """What was told now, of deadlines and of what is stuck, and the messages that a channel did not
    take yet."""

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
    """Look at everything, and tell what was not told before.

    Args:
        home: the workspace.
        register: its register.
        emit: is given an event for each finding.
        runs: tells of the scheduler's runs.
        now: the moment that counts; None: now.

    Raises:
        BusyError: another watch does this right now.
        WorkspaceError: the register cannot be used.
    """
    moment = now or datetime.now(UTC)
    chosen = settings.load(home / "params.yaml").operate
    with register.lease(LEASE):
        told = {
            (event.request_id, event.details["about"]) for event in register.history(kind="warned")
        }

        def new(findings: Iterator[Alert]) -> list[Alert]:
            return [each for each in findings if (each.request_id, each.about) not in told]

        today = moment.date()
        near = new(_deadlines(register, chosen.warn_days, today))
        near += new(_letters(home, register, chosen.warn_days, today))
        stuck = new(_stuck(home, register, timedelta(hours=chosen.stuck_hours), runs, moment))
        for findings, title, event in (
            (near, ("deadline is near or over", "deadlines are near or over"), "deadline"),
            (stuck, ("thing needs a look", "things need a look"), "stuck"),
        ):
            _tell(home, register, findings, title, f"erasure-audit.{event}", emit)
        waiting = notices.deliver(home).waiting
    return Watched(tuple(each.text for each in near), tuple(each.text for each in stuck), waiting)


def _tell(
    home: Path,
    register: Register,
    findings: list[Alert],
    title: tuple[str, str],
    event: str,
    emit: Emit,
) -> None:
    """One message for all of them, an event and a line in the register for each."""
    if not findings:
        return
    body = "\n".join(each.text for each in findings)
    notices.send(
        home,
        counted(len(findings), *title),
        body,
        key=repr([(each.request_id, each.about) for each in findings]),
    )
    for each in findings:
        what = (
            f"request.{each.request_id}"
            if each.request_id
            else f"batch.{each.batch}"
            if each.batch
            else "workspace"
        )
        emit(event, f"erasure-audit.{what}", {"text": each.text, **(each.facts or {})})
        register.note(
            "warned", ACTOR, request_id=each.request_id, batch=each.batch, about=each.about
        )


def _deadlines(register: Register, warn_days: tuple[int, ...], today: date) -> Iterator[Alert]:
    for case in register.cases(OPEN):
        if case.due is None:
            continue
        left = (case.due - today).days
        crossed = [days for days in warn_days if left <= days]
        if left < 0:
            yield _deadline(case, f"due {case.due}: over on {today}", left)
        elif crossed:  # who was not told at seven days is told at two, and once
            yield _deadline(case, f"due {case.due}: {min(crossed)} days", left)


def _letters(
    home: Path, register: Register, warn_days: tuple[int, ...], today: date
) -> Iterator[Alert]:
    """Letters that are not recorded as sent while their own last day comes near."""
    for letter in letters_sent.due(home, register):
        if letter.due is None:
            continue
        left = (letter.due - today).days
        crossed = [days for days in warn_days if left <= days]
        if left >= 0 and not crossed:
            continue
        reached = "over" if left < 0 else f"{min(crossed)} days"
        yield Alert(
            f"letter {letter.letter}, due {letter.due}: {reached}",
            f"Request {letter.request_id}: the letter ({letter.letter}) is not recorded as sent; "
            f"{_when(left)}, due {letter.due}. Once it is: erasure-audit letters sent "
            f"{letter.request_id}",
            letter.request_id,
            None,
            {"due": str(letter.due), "days_left": left, "letter": letter.letter},
        )


def _when(left: int) -> str:
    return f"{counted(left, 'day')} left" if left >= 0 else f"{counted(-left, 'day')} over"


def _deadline(case: Case, about: str, left: int) -> Alert:
    when = _when(left)
    batch = f", batch {case.batch}" if case.batch else ""
    facts = {"due": str(case.due), "days_left": left, "state": case.shown}
    return Alert(
        about,
        f"Request {case.request_id}: {when}, due {case.due}, {case.shown.replace('_', ' ')}{batch}",
        case.request_id,
        case.batch,
        facts,
    )


def _came_back(home: Path, now: datetime) -> Iterator[Alert]:
    """Copies of erased records that are there again, as where an old clone was pushed. What comes
    back once more after it was erased again is told again on the same day."""
    erased = sum(len(document.get("came_back", [])) for document in receipts.read_all(home))
    for text in comebacks.look(home).lines:
        yield Alert(f"{text} on {now.date()}, after {erased} erasures of copies", text)


def _behind(home: Path, register: Register) -> Iterator[Alert]:
    """Erased batches whose reports lack what was recorded since; told of once until they are made
    again."""
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
    """Work that is held by a living process and shows no sign of life."""
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
    """The stage of the log's last line; the line itself may be anything."""
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
            passed = (now - datetime.fromisoformat(since)).days
            if passed >= days:
                what = (
                    "awaits sign-off"
                    if state == State.AWAITING_SIGNOFF
                    else "is released and not erased"
                )
                yield Alert(
                    f"{state} on {now.date()}",
                    f"Batch {batch} {what} for {counted(passed, 'day')}, since {since[:10]}.",
                    None,
                    batch,
                )
