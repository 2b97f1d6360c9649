"""The watch: each deadline is told of once at each of its days, what is stuck daily, and no message
is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flows.correspondence import letters_sent
from flows.operations import monitoring, notices
from flows.register.register import BusyError, Intake, Register, State
from flows.workspace import checkouts, shell
from tasks.common import settings
from tests.worlds import dummy
from tests.worlds.receiver import Receiver

REQUEST, OTHER = dummy.REQUESTS
NIGHT = """
from pathlib import Path
from flows.operations import night_run
from flows.pipeline import prepare, stage_runner
from flows.register.register import Register

# as the flow does, without Prefect's server, which takes long to start
def audit(place, batch, listener):
    prepare.prepare(place, batch, [])
    for name in ("check", "train@0", "train@1", "score", "verify", "report"):
        stage_runner.Runner(place, 1, listener).run(name)

assert night_run.run(Path.cwd(), Register(Path.cwd()), audit=audit).outcome == "awaits_signoff"
"""
DUE = date(2026, 12, 2)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver()
    monkeypatch.setenv(notices.CHANNELS, f"# the team\n{found.url}\n")
    yield found
    found.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(settings.defaults_yaml())
    shell.git(tmp_path, "init", "--quiet")  # it keeps the ends of the register's chain
    return tmp_path


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    found = Register(home)
    yield found
    found.close()


def ask(
    register: Register, request: str = REQUEST, submitted: str = "2026-11-02T09:00:00Z"
) -> None:
    identity = {
        "identity_type": "email",
        "identity_value": f"0a1b2c3d:{request.replace('-', '') * 2}",
        "identity_format": "hmac-sha256",
    }
    arrival = datetime.fromisoformat(submitted)  # not now: the clock of a machine may be behind
    register.receive(Intake(request, "gdpr", submitted, (identity,)), "crm", "http", arrival)
    register.verify_identity(request, "clerk", "by letter")


def look(home: Path, register: Register, day: date) -> monitoring.Watched:
    return monitoring.run(home, register, now=datetime(day.year, day.month, day.day, 7, tzinfo=UTC))


def test_a_deadline_is_told_at_seven_days_at_two_and_daily_when_it_is_over(
    home: Path, register: Register, receiver: Receiver
) -> None:
    ask(register)
    told = {}
    for days in range(-12, 4):
        day = DUE + timedelta(days=days)
        for _ in range(2):  # a second look on the same day tells nothing
            for text in look(home, register, day).deadlines:
                told.setdefault(days, []).append(text)
    assert {days: len(texts) for days, texts in told.items()} == {-7: 1, -2: 1, 1: 1, 2: 1, 3: 1}
    assert "7 days left" in told[-7][0]
    assert REQUEST in told[-7][0]
    assert "1 day over" in told[1][0]
    assert len(receiver.taken) == 5
    assert receiver.taken[0]["title"] == "1 deadline is near or over"


def test_who_was_not_told_at_seven_days_is_told_at_two_and_once(
    home: Path, register: Register, receiver: Receiver
) -> None:
    ask(register)
    assert len(look(home, register, DUE - timedelta(days=1)).deadlines) == 1
    assert look(home, register, DUE).deadlines == ()


def test_an_extended_deadline_is_told_anew_and_a_closed_request_is_not_told(
    home: Path, register: Register, receiver: Receiver
) -> None:
    ask(register)
    ask(register, OTHER)
    assert len(look(home, register, DUE - timedelta(days=7)).deadlines) == 2
    due = register.extend(REQUEST, "Ada", "many requests").due
    register.reject(OTHER, "Ada", "withdrawn")
    assert due is not None
    letters_sent.sent(home, register, [REQUEST, OTHER], "Ada", "by post")
    assert look(home, register, DUE).deadlines == ()
    (text,) = look(home, register, due - timedelta(days=6)).deadlines
    assert REQUEST in text


def test_a_request_on_hold_is_told_of_too_and_the_hold_is_said(
    home: Path, register: Register, receiver: Receiver
) -> None:
    ask(register)
    register.hold(REQUEST, "counsel", "a claim")
    (text,) = look(home, register, DUE - timedelta(days=3)).deadlines
    assert "on hold" in text


def test_each_finding_is_an_event_about_its_request(home: Path, register: Register) -> None:
    ask(register)
    found: list[tuple[Any, ...]] = []
    monitoring.run(
        home,
        register,
        lambda *event: found.append(event),
        now=datetime(2026, 11, 30, 7, tzinfo=UTC),
    )
    ((event, about, facts),) = found
    assert (event, about) == ("erasure-audit.deadline", f"erasure-audit.request.{REQUEST}")
    assert (facts["due"], facts["days_left"]) == ("2026-12-02", 2)


def test_a_watch_killed_before_it_wrote_down_what_it_told_tells_it_again(
    home: Path, register: Register, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(register)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(register, "note", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        look(home, register, DUE)
    assert len(look(home, register, DUE).deadlines) == 1
    assert len(receiver.taken) == 2


def test_a_channel_that_is_away_gets_the_message_later_once_and_no_log_holds_its_password(
    home: Path, register: Register, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ask(register)
    receiver.away = True
    assert look(home, register, DUE).waiting == 1
    assert receiver.taken == []
    kept = list((home / notices.OUTBOX).iterdir())
    assert len(kept) == 1
    assert "hush" not in kept[0].read_text() + caplog.text
    receiver.away = False
    assert look(home, register, DUE) == monitoring.Watched((), (), 0)
    look(home, register, DUE)
    assert len(receiver.taken) == 1
    assert REQUEST in receiver.texts[0]


def test_one_channel_away_keeps_no_other_from_the_message_and_none_gets_it_twice(
    home: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Receiver()
    second.away = True
    monkeypatch.setenv(notices.CHANNELS, f"{receiver.url}\n{second.url}\nnonsense://\n")
    assert notices.send(home, "title", "body") == notices.Sent(1, 2)
    second.away = False
    assert notices.deliver(home) == notices.Sent(1, 1)
    assert (len(receiver.taken), len(second.taken)) == (1, 1)
    monkeypatch.setenv(
        notices.CHANNELS, receiver.url
    )  # a channel that is named no more is not waited for
    assert notices.deliver(home) == notices.Sent(0, 0)
    assert list((home / notices.OUTBOX).iterdir()) == []
    second.close()


def test_without_a_channel_the_register_still_knows_what_was_told(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(notices.CHANNELS, raising=False)
    ask(register)
    look(home, register, DUE)
    (event,) = register.history(REQUEST, kind="warned")
    assert event.details["about"] == "due 2026-12-02: 2 days"
    assert not (home / notices.OUTBOX).exists()


def test_two_watches_at_once_are_one(home: Path, register: Register) -> None:
    with register.lease(monitoring.LEASE), pytest.raises(BusyError):
        monitoring.run(home, register)


def test_a_batch_that_waits_for_days_is_told_of_daily(
    home: Path, register: Register, receiver: Receiver
) -> None:
    ask(register)
    register.collect("b", "nightly")
    register.move([REQUEST], State.AUDITED, "nightly", verdicts={REQUEST: "pass"})
    register.move([REQUEST], State.AWAITING_SIGNOFF, "nightly")
    now = datetime.now(UTC)
    assert monitoring.run(home, register, now=now + timedelta(days=2)).stuck == ()
    third = now + timedelta(days=3, hours=1)
    (text,) = monitoring.run(home, register, now=third).stuck
    assert "awaits sign-off for 3 days" in text
    assert (
        monitoring.run(home, register, now=third.replace(hour=23, minute=59)).stuck == ()
    )  # the same day still
    assert len(monitoring.run(home, register, now=third + timedelta(days=1)).stuck) == 1


def test_a_schedule_that_stopped_is_told_of(
    home: Path, register: Register, receiver: Receiver
) -> None:
    now = datetime.now(UTC)
    assert monitoring.run(home, register, now=now + timedelta(days=9)).stuck == ()
    register.note("night", "nightly", outcome="nothing_due")
    assert monitoring.run(home, register, now=now + timedelta(hours=25)).stuck == ()
    (text,) = monitoring.run(home, register, now=now + timedelta(hours=27)).stuck
    assert "No nightly run" in text


def test_a_status_callback_that_was_given_up_is_told_of_once(
    home: Path, register: Register
) -> None:
    ask(register)
    register.note(
        "callback_given_up", "callbacks", request_id=REQUEST, event=1, tries=10, outcome="HTTP 500"
    )
    assert len(monitoring.run(home, register).stuck) == 1
    assert monitoring.run(home, register, now=datetime.now(UTC) + timedelta(days=1)).stuck == ()


def test_what_the_scheduler_says_of_its_runs_is_told(home: Path, register: Register) -> None:
    found = monitoring.run(
        home, register, runs=lambda patience: [f"Prefect run x runs for more than {patience}"]
    )
    assert found.stuck == ("Prefect run x runs for more than 12:00:00",)


def test_a_register_that_somebody_changed_is_told_of(
    home: Path, register: Register, receiver: Receiver
) -> None:
    ask(register)
    database = sa.create_engine(f"sqlite:///{home / '.register' / 'register.db'}")
    with database.begin() as connection:
        names = connection.scalars(
            sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        ).all()
        for name in names:
            connection.execute(sa.text(f'DROP TRIGGER "{name}"'))
        connection.execute(sa.text("UPDATE events SET actor = 'nobody' WHERE seq = 1"))
    (text,) = monitoring.run(home, register, now=datetime(2026, 11, 3, tzinfo=UTC)).stuck
    assert "damaged" in text
    assert "damaged" in receiver.texts[0]


def test_a_run_that_hangs_is_noticed_and_said_and_after_its_end_the_next_one_continues(
    tmp_path: Path, receiver: Receiver
) -> None:
    home = dummy.make(tmp_path / "home")
    (home / ".gitignore").write_text("/data\n/artifacts\n/keys\n/.batches\n/.prefect\n/.register\n")
    settings.assign(home / "params.yaml", ["operate.stuck_hours=0.001"])
    shell.git(home, "commit", "--quiet", "--all", "-m", "settings")
    register = Register(home)
    ask(register)
    ask(register, OTHER)
    hanging = subprocess.Popen(
        [sys.executable, "-c", NIGHT],
        cwd=home,
        env={**os.environ, **dummy.location(), "DUMMY_PAUSE": "1000"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        log = checkouts.log_of(home, datetime.now(UTC).date().isoformat())
        wait_until(lambda: log.exists() and "check: step 1" in log.read_text())
        assert (
            dummy.command(home, "nightly").returncode == 0
        )  # the second one says so, and leaves it alone
        time.sleep(5)
        told = dummy.command(home, "watch").stdout
        assert "Stuck: nightly works since" in told
        assert "last seen: check" in told
        assert any("Stuck: nightly" in text for text in receiver.texts)
        assert "Nothing new" in dummy.command(home, "watch").stdout
    finally:
        end(hanging)
    subprocess.run(
        [sys.executable, "-c", NIGHT], cwd=home, env={**os.environ, **dummy.location()}, check=True
    )
    assert {case.state for case in register.cases()} == {State.AWAITING_SIGNOFF}
    assert not any("hush" in path.read_text() for path in (home / ".batches").glob("*.log"))
    register.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a run with the stages that it started, each of which is a session of its own."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True)
    for child in (psutil.Process(process.pid), *children):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def wait_until(reached: Any) -> None:
    """Wait as long as it takes, for a machine may be busy."""
    while not reached():
        time.sleep(0.2)
