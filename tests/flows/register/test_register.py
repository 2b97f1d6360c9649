"""The register, in SQLite and in PostgreSQL: no request is lost, no step made twice, no change goes
unseen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flows.register import (
    anchors,
    callback_queue,
    chain,
    chain_key,
    database,
    encoding,
    kept_end,
    leases,
    migrate,
    register,
    tables,
)
from flows.register.register import (
    SET_ASIDE,
    BusyError,
    ConflictError,
    Head,
    Intake,
    LostLeaseError,
    Register,
    RegisterError,
    State,
    UnknownRequestError,
)
from tasks.common import settings as parameters
from tasks.common.errors import PseudonymError, RequestError, WorkspaceError
from tests.worlds import authorities, dummy, postgres

WAY = [
    State.IDENTITY_VERIFIED,
    State.BATCHED,
    State.AUDITED,
    State.AWAITING_SIGNOFF,
    State.RELEASED,
    State.ERASED,
    State.CLOSED,
]
ARRIVAL = datetime(2028, 1, 1, tzinfo=UTC)
"""When requests arrive unless said otherwise: later than they are dated."""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose register is in one of the two databases."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if request.param == "sqlite":
        monkeypatch.delenv(database.URL, raising=False)
    else:
        monkeypatch.setenv(database.URL, request.getfixturevalue("server").new())
    return tmp_path


@pytest.fixture
def book(home: Path) -> Iterator[Register]:
    opened = Register(home)
    yield opened
    opened.close()


def asked(number: int = 1, who: int | None = None, **changes: Any) -> Intake:
    """A request of its own, about a person of its own unless said otherwise."""
    name = f"0a1b2c3d:{number if who is None else who:064x}"
    values = {
        "request_id": str(uuid.UUID(int=number, version=4)),
        "regulation": "gdpr",
        "submitted": "2026-11-20T09:30:00Z",
        "identities": (
            {"identity_type": "email", "identity_value": name, "identity_format": "hmac-sha256"},
        ),
    }  # fmt: skip
    return Intake(**(values | changes))


def received(book: Register, number: int = 1, at: datetime = ARRIVAL, **changes: Any) -> str:
    return book.receive(asked(number, **changes), "crm", "http", at)[0].request_id


def verified(book: Register, number: int = 1, **changes: Any) -> str:
    return book.verify_identity(received(book, number, **changes), "Ada", "passport").request_id


def change(book: Register, statement: str) -> None:
    """What somebody does who opens the database himself and is strong enough to get around the
    triggers."""
    with book.engine.connect() as connection:
        sqlite = book.engine.dialect.name == "sqlite"
        if sqlite:
            names = (
                connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
                .scalars()
                .all()
            )
            for name in names:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("ALTER TABLE events DISABLE TRIGGER ALL")
        connection.exec_driver_sql(statement)
        connection.commit()


def test_pages_together_are_all_cases_in_their_order(book: Register) -> None:
    for number in range(1, 8):
        (received if number % 3 else verified)(book, number)
    book.hold(book.cases()[2].request_id, "Ada", "a claim")
    for states in (None, [State.RECEIVED], []):
        whole = book.cases(states)
        pages = [book.page(states, first=first, limit=3) for first in range(0, 9, 3)]
        assert [case for _, cases in pages for case in cases] == whole
        assert {total for total, _ in pages} == {len(whole)}
    assert book.page(held=True) == (1, [case for case in book.cases() if case.held])
    assert book.page(batch="' OR 1=1 --") == book.page(batch="\0") == (0, [])


# -- the life of a request ------------------------------------------------------------------------


def test_a_request_goes_all_the_way_and_every_step_is_on_file(book: Register) -> None:
    one = received(book)
    assert book.case(one).due == date(2026, 12, 21)  # the 20th is a Sunday
    for number, state in enumerate(WAY):
        book.move([one], state, f"person {number}", batch="b1" if state is State.BATCHED else None)
    assert book.case(one).state is State.CLOSED
    assert [event.kind for event in book.history(one)] == ["received", *map(str, WAY)]
    assert [event.actor for event in book.history(one)][1:] == [
        f"person {number}" for number in range(len(WAY))
    ]
    assert {event.request_id for event in book.history(batch="b1")} == {one}
    assert all(event.at.endswith("Z") for event in book.history())
    assert book.check_chain().seq == 8


@pytest.mark.parametrize("state", [*WAY[1:], State.RECEIVED])
def test_no_step_is_left_out(book: Register, state: State) -> None:
    one = received(book)
    if state is State.RECEIVED:
        book.verify_identity(one, "Ada", "passport")
    with pytest.raises(RegisterError, match="expected next"):
        book.move([one], state, "Ada", batch="b1" if state is State.BATCHED else None)
    assert book.case(one).state is (
        State.IDENTITY_VERIFIED if state is State.RECEIVED else State.RECEIVED
    )


def test_all_requests_of_a_step_move_or_none(book: Register) -> None:
    one, two = verified(book, 1), received(book, 2)
    before = book.head()
    with pytest.raises(RegisterError):
        book.move([one, two], State.BATCHED, "nightly", batch="b1")
    assert book.head() == before
    assert book.case(one).state is State.IDENTITY_VERIFIED


def test_a_step_that_was_made_is_not_made_again(book: Register) -> None:
    one = verified(book)
    before = book.head()
    assert book.verify_identity(one, "Ada", "passport").state is State.IDENTITY_VERIFIED
    assert book.head() == before


def test_a_request_sent_again_is_the_same_and_one_with_another_content_is_refused(
    book: Register,
) -> None:
    case, new = book.receive(asked(callbacks=("https://controller.example/a",)), "crm", "http")
    again, newly = book.receive(
        asked(callbacks=("https://controller.example/a",)), "crm", "drop folder"
    )
    assert (new, newly) == (True, False)
    assert again == case
    assert len(book.history()) == 1
    for changes in (
        {"submitted": "2026-11-21T09:30:00Z"},
        {"callbacks": ("https://controller.example/b",)},
        {"who": 9},
    ):
        with pytest.raises(ConflictError, match="another content"):
            book.receive(asked(**changes), "crm", "http")
    assert len(book.history()) == 1


def set_aside(book: Register, number: int = 1) -> str:
    """A request that a batch took up and that its audit could not act on."""
    one = verified(book, number)
    book.move([one], State.BATCHED, "nightly", batch=f"b{number}")
    book.hold(one, "nightly", "set aside by the audit: unknown_subject", SET_ASIDE)
    book.move([one], State.IDENTITY_VERIFIED, "nightly", reason="unknown_subject")
    return one


def test_a_request_that_was_set_aside_comes_again_under_its_id_and_the_earlier_one_stays_visible(
    book: Register,
) -> None:
    one = set_aside(book)
    due = book.extend(one, "Ada", "many requests").due
    (first,) = book.history(one, kind="received")
    case, taken = book.receive(asked(who=9, submitted="2026-11-25T08:00:00Z"), "crm", "http")
    assert taken
    # whoever it names now is to be verified anew, and the deadline is that of the first time
    assert (case.state, case.held) == (State.RECEIVED, False)
    assert (case.submitted, case.due, case.extended) == ("2026-11-20T09:30:00Z", due, True)
    (event,) = book.history(one, "b1", "corrected")
    assert event.details["changed"] == "identities"
    assert event.details["earlier"] == first.details["digest"] != event.details["digest"]
    again, taken = book.receive(asked(who=9, submitted="2026-11-25T08:00:00Z"), "crm", "http")
    assert (again, taken) == (case, False)
    with pytest.raises(ConflictError, match="another content"):  # only once, until it is judged
        book.receive(asked(who=8), "crm", "http")
    assert book.case(received(book, 2, who=9)).duplicate_of == one
    assert book.case(received(book, 3, who=1)).duplicate_of is None
    book.verify_identity(one, "Ada", "passport")
    assert [each.request_id for each in book.collect("b2", "nightly")] == [one]
    assert book.check_chain()


def test_a_request_on_a_legal_hold_or_decided_on_cannot_be_corrected(book: Register) -> None:
    held, lifted, refused = verified(book, 1), set_aside(book, 2), set_aside(book, 3)
    book.hold(held, "Ada", "claim 12/345")
    book.lift(lifted, "Ada", "the data set is corrected")
    book.reject(refused, "Ada", "nobody of that name")
    for number in (1, 2, 3):
        with pytest.raises(ConflictError, match="another content"):
            book.receive(asked(number, who=9), "crm", "http")


def test_a_second_request_of_a_person_is_marked_and_kept(book: Register) -> None:
    first, other = received(book, 1), received(book, 2)
    second = book.case(received(book, 3, who=1))
    assert (second.duplicate_of, book.case(other).duplicate_of) == (first, None)
    book.reject(first, "Ada", "withdrawn")
    third = book.case(received(book, 4, who=1))
    assert third.duplicate_of == second.request_id  # only open requests count
    assert book.check_chain()


def test_pseudonyms_of_another_key_are_refused_while_requests_are_open(book: Register) -> None:
    one = received(book, 1)
    foreign = asked(2)
    name = "ffffffff" + foreign.identities[0]["identity_value"][8:]
    foreign = asked(2, identities=({**foreign.identities[0], "identity_value": name},))
    with pytest.raises(PseudonymError, match="0a1b2c3d"):
        book.receive(foreign, "crm", "http")
    book.reject(one, "Ada", "withdrawn")
    assert book.receive(foreign, "crm", "http")[1]


def test_a_closed_request_keeps_nothing_that_says_whom_it_was_about(book: Register) -> None:
    wishes = {"record_pseudonyms": ["0a1b2c3d:" + "e" * 64], "languages": ["zh"]}
    one = verified(book, 7, wishes=wishes)
    for state in WAY[1:]:
        book.move([one], state, "Ada", batch="b1" if state is State.BATCHED else None)
    case = book.case(one)
    assert (case.identities, case.wishes) == ((), {"languages": ["zh"]})
    with book.engine.connect() as connection:
        for table in tables.metadata.sorted_tables:
            rows = str(connection.execute(sa.select(table)).all())
            assert "0a1b2c3d" not in rows, table.name
    assert (
        book.receive(asked(7, wishes=wishes), "crm", "http")[1] is False
    )  # and is known all the same
    book.check_chain()


def test_a_hold_keeps_a_request_out_of_batches_and_its_batch_from_release_and_erasure(
    book: Register,
) -> None:
    one, two = verified(book, 1), verified(book, 2)
    assert book.hold(one, "Ada", "a court asked for it").shown == "on_hold"
    assert [case.request_id for case in book.collect("b1", "nightly")] == [two]
    with pytest.raises(RegisterError, match="on hold"):
        book.move([one], State.BATCHED, "nightly", batch="b1")
    book.hold(two, "Ada", "a court asked for it, too")
    book.move([two], State.AUDITED, "nightly", batch="b1")
    book.move([two], State.AWAITING_SIGNOFF, "nightly")
    with pytest.raises(RegisterError, match="on hold; lift the hold before it is released"):
        book.move([two], State.RELEASED, "Ada")
    with pytest.raises(RegisterError, match="cannot be set"):
        book.hold(two, "Ada", "again")
    assert book.lift(two, "Ada", "the court is done").shown == "awaiting_signoff"
    book.move([two], State.RELEASED, "Ada")
    book.hold(two, "Ada", "the court again")
    with pytest.raises(RegisterError, match="on hold"):
        book.move([two], State.ERASED, "Ada")
    book.lift(two, "Ada", "done")
    book.move([two], State.ERASED, "Ada")
    with pytest.raises(RegisterError, match="cannot be set"):
        book.hold(two, "Ada", "too late")
    book.check_chain()


def test_a_request_on_hold_can_be_rejected(book: Register) -> None:
    one = verified(book)
    book.hold(one, "Ada", "claims")
    assert book.reject(one, "Ada", "claims stand").shown == "rejected"


def test_a_hold_and_a_refusal_name_no_provision_of_another_law(book: Register) -> None:
    one = received(book, regulation="ccpa")
    before = book.case(one)
    for change in (book.hold, book.cancel):
        with pytest.raises(RequestError, match="under the CCPA"):
            change(one, "Ada", "a claim", "Art. 17(3)(e) GDPR")
    with pytest.raises(RequestError, match="name the provision"):
        book.hold(one, "Ada", "a claim")
    assert book.case(one) == before
    assert book.hold(one, "Ada", "a claim", "CCPA § 1798.145(a)").shown == "on_hold"
    book.check_chain()


@pytest.mark.parametrize(
    ("regulation", "submitted", "due", "extended"),
    [
        (
            "gdpr",
            "2026-01-31T23:30:00+02:00",
            "2026-03-02",
            "2026-04-30",
        ),  # no 31st of February; the 28th is a Saturday
        ("gdpr", "2027-11-30T10:00:00Z", "2027-12-31", "2028-02-29"),  # the 30th is a holiday here
        ("ccpa", "2026-01-31T23:30:00-08:00", "2026-03-17", "2026-05-01"),
        ("lgpd", "2026-12-24T00:00:00-03:00", "2027-01-08", None),
        ("pipl", "2026-12-24T00:00:00+08:00", None, None),
    ],
)
def test_deadlines_follow_the_regulation_from_the_day_that_the_request_names(
    home: Path, regulation: str, submitted: str, due: str | None, extended: str | None
) -> None:
    book = Register(home, [date(2027, 12, 30)])
    one = received(book, regulation=regulation, submitted=submitted)
    assert book.case(one).due == (due and date.fromisoformat(due))
    if extended is None:
        with pytest.raises(RegisterError, match="cannot be extended"):
            book.extend(one, "Ada", "complex")
    else:
        assert str(book.extend(one, "Ada", "complex").due) == extended
        with pytest.raises(RegisterError, match="extended before"):
            book.extend(one, "Ada", "again")
    book.check_chain()
    book.close()


def test_a_deadline_that_cannot_be_counted_refuses_the_request_and_keeps_nothing(
    book: Register,
) -> None:
    with pytest.raises(RequestError, match="hipaa"):
        received(book, regulation="hipaa")
    with pytest.raises(RequestError, match="9999"):
        received(book, submitted="9999-12-15T00:00:00Z", at=datetime.max.replace(tzinfo=UTC))
    assert book.history() == []


@pytest.mark.parametrize(
    ("submitted", "kept", "due", "extended"),
    [
        # forwarded after a week, and at the very moment: the time stamp counts
        ("2026-11-12T09:30:00Z", "2026-11-12T09:30:00Z", "2026-12-14", "2027-02-12"),
        ("2026-11-19T22:30:00Z", "2026-11-19T22:30:00Z", "2026-12-21", "2027-02-19"),
        # a clock is ahead, by a day, or by 8000 years: the arrival counts, by the sender's offset
        ("2026-11-20T09:30:00Z", "2026-11-19T22:30:00+00:00", "2026-12-21", "2027-02-19"),
        ("2026-11-21T09:30:00+08:00", "2026-11-20T06:30:00+08:00", "2026-12-21", "2027-02-22"),
        ("2026-11-19T18:00:00-05:00", "2026-11-19T17:30:00-05:00", "2026-12-21", "2027-02-19"),
        ("9999-12-15T00:00:00Z", "2026-11-19T22:30:00+00:00", "2026-12-21", "2027-02-19"),
    ],
)
def test_a_deadline_counts_from_the_earlier_of_time_stamp_and_arrival(
    book: Register, submitted: str, kept: str, due: str, extended: str
) -> None:
    arrival = datetime(2026, 11, 19, 22, 30, tzinfo=UTC)
    request = asked(submitted=submitted)
    case, _ = book.receive(request, "crm", "http", arrival)
    assert (case.submitted, str(case.due)) == (kept, due)
    (event,) = book.history()
    assert event.details.get("dated", kept) == submitted  # what was sent is on record
    # the same again, later, gains nothing and is no conflict
    assert book.receive(request, "crm", "http", ARRIVAL) == (case, False)
    assert str(book.extend(case.request_id, "Ada", "complex").due) == extended
    book.check_chain()


def test_batches_take_the_most_urgent_first_one_batch_at_a_time_and_no_name_twice(
    book: Register,
) -> None:
    late, soon, never = (
        verified(book, 1, submitted="2026-11-20T09:30:00Z"),
        verified(book, 2, submitted="2026-11-01T09:30:00Z"),
        verified(book, 3, regulation="pipl"),
    )
    assert [case.request_id for case in book.collect("b1", "nightly", limit=1)] == [soon]
    assert book.in_flight() == "b1"
    with pytest.raises(RegisterError, match="batch b1 is not erased yet"):
        book.collect("b2", "nightly")
    book.move([soon], State.IDENTITY_VERIFIED, "Ada")
    assert book.in_flight() is None
    with pytest.raises(RegisterError, match="name of its own"):
        book.collect("b1", "nightly")
    assert [case.request_id for case in book.collect("b2", "nightly")] == [soon, late, never]
    with pytest.raises(RegisterError, match="in batch b2, got b3"):
        book.move([soon], State.AUDITED, "nightly", batch="b3")
    book.move(
        [soon, late], State.AUDITED, "nightly", batch="b2", verdicts={soon: "pass", late: "fail"}
    )
    assert [book.case(one).verdict for one in (soon, late, never)] == ["pass", "fail", None]
    book.check_chain()


def test_what_people_write_is_cut_and_cannot_harm_the_database(book: Register) -> None:
    one = received(book)
    book.reject(one, "A\0da\ud800" + "a" * 500, "no\0\ud800" + "n" * 5000)
    event = book.history(one)[-1]
    assert len(event.actor) == 200
    assert len(event.details["reason"]) == encoding.LONGEST
    book.check_chain()
    for odd in ("\0", "\ud800", "' OR 1=1 --", "../x", "x" * 10_000):
        with pytest.raises(UnknownRequestError, match="expected a UUID"):
            book.case(odd)
        assert book.history(batch=odd) == book.cases(batch=odd) == []
        assert book.note("odd", odd, batch=None, odd=odd).kind == "odd"
    book.check_chain()


def test_a_note_cannot_pass_for_a_change(book: Register) -> None:
    one = received(book)
    with pytest.raises(RegisterError, match="such events record a change"):
        book.note("released", "Eve", request_id=one)
    book.note("warned", "watch", request_id=one, days=7)
    assert book.history(kind="warned")[0].details == {"days": 7}
    book.check_chain()


def test_a_request_is_found_by_the_beginning_of_its_id(book: Register) -> None:
    one = received(book, 0xABCDEF << 104)
    received(book, 0xABCD00 << 104)
    assert book.find("abcdef") == book.find(one.upper()) == one
    for wrong, why in (("abcd", "several"), ("ab", "UUID"), ("ffff", "no request"), ("%", "UUID")):
        with pytest.raises(UnknownRequestError, match=why):
            book.find(wrong)


# -- who is told ----------------------------------------------------------------------------------


def test_every_change_of_a_request_is_told_to_its_addresses_and_notes_are_not(
    book: Register,
) -> None:
    urls = ("https://controller.example/a", "https://controller.example/b")
    one = verified(book, callbacks=urls)
    book.hold(one, "Ada", "court")
    book.lift(one, "Ada", "done")
    book.extend(one, "Ada", "complex")
    book.note("warned", "watch", request_id=one)
    told = []
    while waiting := book.undelivered():
        for event, url, *_ in waiting:
            told.append((event.kind, url))
            book.record_try(event.seq, url, "200", None)
    kinds = ["received", "identity_verified", "on_hold", "hold_lifted", "extended"]
    assert (
        [kind for kind, url in told if url == urls[0]]
        == [kind for kind, url in told if url == urls[1]]
        == kinds
    )


def test_clients_take_turns_and_none_fills_the_queue(book: Register) -> None:
    for number in range(1, 41):
        request = asked(number, callbacks=("https://many.example/",))
        book.receive(request, "many", "http")
    book.receive(asked(50, callbacks=("https://few.example/",)), "few", "http")
    waiting = book.undelivered(limit=200)
    assert [due.client for due in waiting[:2]] == ["many", "few"]
    assert sum(due.client == "many" for due in waiting) == callback_queue.QUOTA


# -- nobody changes what was ----------------------------------------------------------------------


COPIED = (
    "'Eve', request_id, batch, kind, details, previous, hash, row_digest, mac, keeper FROM events"
)
REPLACED = {
    "sqlite": f"INSERT OR REPLACE INTO events SELECT seq, at, {COPIED}",
    "postgresql": "TRUNCATE events",
}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'Eve'",
        "DELETE FROM events WHERE seq = 2",
        f"INSERT INTO events SELECT seq + 8, at, {COPIED}",
        REPLACED,
    ],
)
def test_the_database_refuses_to_change_events(
    book: Register, statement: str | dict[str, str]
) -> None:
    verified(book)
    before = book.history()
    told = statement if isinstance(statement, str) else statement[book.engine.dialect.name]
    with book.engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="events are"):
        connection.exec_driver_sql(told)
    assert book.history() == before


SOMEBODY_ELSE = (
    '[{"identity_type": "email", "identity_value": "0a1b2c3d:'
    + "f" * 64
    + '", "identity_format": "hmac-sha256"}]'
)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE events SET actor = 'Eve' WHERE seq = 2", "event 2"),
        ("UPDATE events SET details = '{}' WHERE seq = 1", "event 1"),
        ("UPDATE events SET details = 'no JSON' WHERE seq = 1", "event 1"),
        ("UPDATE events SET at = '2020-01-01T00:00:00.000000Z' WHERE seq = 3", "event 3"),
        ("DELETE FROM events WHERE seq = 2", "event 2"),
        ("DELETE FROM events WHERE seq = 1", "event 1"),
        ("DELETE FROM events WHERE seq = 3", "ends before event 3"),
        ("UPDATE requests SET state = 'closed'", "not as its events say"),
        ("UPDATE requests SET due = '2030-01-01'", "not as its events say"),
        ("UPDATE requests SET due = NULL", "not as its events say"),
        ("UPDATE requests SET submitted = '2026-11-21T09:30:00Z'", "not as its events say"),
        ("UPDATE requests SET held = (1 = 1)", "not as its events say"),
        ("UPDATE requests SET extended = (1 = 1)", "not as its events say"),
        ("UPDATE requests SET verdict = 'pass'", "not as its events say"),
        ("UPDATE requests SET batch = 'b1'", "not as its events say"),
        ("UPDATE requests SET duplicate_of = request_id", "not as its events say"),
        ("UPDATE requests SET regulation = 'pipl'", "not as its events say"),
        ("UPDATE requests SET source = 'csv'", "not as its events say"),
        ("UPDATE requests SET digest = request_id", "not as its events say"),
        (f"UPDATE requests SET identities = '{SOMEBODY_ELSE}'", "not as its events say"),
        ("UPDATE requests SET identities = '[]'", "not as its events say"),
        (
            """UPDATE requests SET wishes = '{"record_pseudonyms": ["x"]}'""",
            "not as its events say",
        ),
        ("UPDATE requests SET callbacks = '[]'", "not as its events say"),
        ("""UPDATE requests SET callbacks = '["https://eve.example/"]'""", "not as its events say"),
        ("UPDATE callbacks SET url = 'https://eve.example/'", "did not name"),
        ("UPDATE identities SET pseudonym = 'x'", "not as its events say"),
        ("DELETE FROM identities", "not as its events say"),
        ("INSERT INTO identities SELECT 'x', request_id FROM requests", "not as its events say"),
        ("INSERT INTO identities SELECT pseudonym, '0' FROM identities", "which is gone"),
        ("UPDATE events SET row_digest = NULL WHERE seq = 2", "event 2"),
        ("UPDATE events SET mac = NULL WHERE seq = 2", "event 2"),
        ("UPDATE events SET mac = hash WHERE seq = 1", "event 1"),
        ("DELETE FROM requests", "is gone"),
        (
            "INSERT INTO requests SELECT '0', digest, regulation, submitted, source, identities, "
            "wishes, callbacks, due, extended, state, held, batch, verdict, duplicate_of "
            "FROM requests",
            "not as its events say",
        ),
    ],
)  # fmt: skip
def test_every_change_by_another_hand_is_found(book: Register, statement: str, why: str) -> None:
    one = verified(book, callbacks=("https://controller.example/",))
    book.note("warned", "watch", request_id=one)
    known = [book.head()]
    assert book.check_chain(known) == known[0]
    change(book, statement)
    with pytest.raises(RegisterError, match=why):
        book.check_chain(known)


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE requests SET identities = '{SOMEBODY_ELSE}'",
        """UPDATE requests SET wishes = '{"record_pseudonyms": ["x"]}'""",
        "UPDATE requests SET due = '2030-01-01'",
        "UPDATE identities SET pseudonym = 'x'",
    ],
)
def test_a_change_by_another_hand_is_neither_acted_on_nor_covered_up(
    book: Register, statement: str
) -> None:
    one = verified(book)
    change(book, statement)
    before = book.head()
    for act in (
        lambda: book.collect("b1", "nightly"),
        lambda: book.move([one], State.BATCHED, "nightly", batch="b1"),
        lambda: book.hold(one, "Ada", "a claim"),
        lambda: book.extend(one, "Ada", "complex"),
        lambda: book.cancel(one, "crm", "withdrawn"),
    ):
        with pytest.raises(RegisterError, match="not as its events say"):
            act()
    assert book.head() == before
    assert book.in_flight() is None


def test_members_of_a_batch_are_given_only_as_they_were_collected(book: Register) -> None:
    one = verified(book)
    book.collect("b1", "nightly")
    assert [case.request_id for case in book.bound("b1")] == [one]
    change(book, f"UPDATE requests SET identities = '{SOMEBODY_ELSE}'")
    with pytest.raises(RegisterError, match="not as its events say"):
        book.bound("b1")


def test_a_queued_callback_to_an_address_that_the_request_did_not_name_is_not_sent(
    book: Register,
) -> None:
    received(book, callbacks=("https://controller.example/",))
    assert len(book.undelivered()) == 1
    change(book, "UPDATE callbacks SET url = 'https://eve.example/'")
    assert book.undelivered() == []


def written_anew(book: Register, statement: str, strip: bool = False) -> None:
    """What a database's owner does who knows the format but not the key: a change, and the whole
    chain made anew so that every hash is right."""
    change(book, statement)
    previous = "0" * 64
    with book.engine.begin() as connection:
        for row in connection.execute(sa.select(tables.events).order_by("seq")).mappings().all():
            names = ("seq", "at", "actor", "request_id", "batch", "kind", "details")
            facts = [previous, *(row[name] for name in names)]
            facts += [] if strip or row["row_digest"] is None else [row["row_digest"]]
            facts += [] if strip or row["keeper"] is None else [{"keeper": row["keeper"]}]
            text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            anew = hashlib.sha256(text.encode()).hexdigest()
            values = {"previous": previous, "hash": anew}
            values |= {"row_digest": None, "mac": None, "keeper": None} if strip else {}
            connection.execute(
                tables.events.update().where(tables.events.c.seq == row["seq"]).values(**values)
            )
            previous = anew


def test_a_chain_written_anew_without_the_key_is_found_without_any_anchor(
    book: Register, home: Path
) -> None:
    one = verified(book)
    written_anew(book, "UPDATE events SET actor = actor")  # the same again is the same
    assert book.check_chain().seq == 2
    written_anew(book, "UPDATE events SET actor = 'Eve' WHERE seq = 1")
    with pytest.raises(RegisterError, match="not made with the key"):
        book.check_chain()
    with pytest.raises(RegisterError, match="not the one whose end is kept"):
        book.note("warned", "watch", request_id=one)
    (home / kept_end.FILE).unlink()  # not even without what is kept outside the database
    with pytest.raises(RegisterError, match="not made with the key"):
        book.check_chain()


# each: the column, its other value, and the kind and details of the event that say so, too
AT_BOTH_ENDS = [
    ("state", "rejected", "rejected", {"how": "passport", "from": "received"}),
    ("due", "2027-11-20", "extended", {"to": "2027-11-20"}),
    ("verdict", "pass", "identity_verified", {"verdict": "pass"}),
    ("regulation", "ccpa", "identity_verified", {"regulation": "ccpa"}),
    ("identities", SOMEBODY_ELSE, "corrected", {"changed": "identities"}),
]


@pytest.mark.parametrize(("column", "value", "kind", "details"), AT_BOTH_ENDS)
@pytest.mark.parametrize("rehashed", [False, True])
def test_a_row_and_its_event_that_were_changed_to_agree_are_found(
    book: Register, column: str, value: str, kind: str, details: dict[str, Any], rehashed: bool
) -> None:
    """The row, the table of identities, the event's kind, its details and its digest of the row
    all say the same; without the key nobody can make the event's MAC."""
    one = verified(book)
    change(book, f"UPDATE requests SET {column} = '{value}'")
    if column == "identities":
        change(book, f"UPDATE identities SET pseudonym = '0a1b2c3d:{'f' * 64}'")
    with book.engine.connect() as connection:
        digest = chain.contents(connection, [one])[one].digest
    text = json.dumps(details, sort_keys=True, separators=(",", ":"))
    agreeing = (
        f"UPDATE events SET kind = '{kind}', details = '{text}', row_digest = '{digest}' "
        "WHERE seq = 2"
    )
    if rehashed:
        written_anew(book, agreeing)
    else:
        change(book, agreeing)
    with pytest.raises(RegisterError, match="not made with the key" if rehashed else "event 2"):
        book.check_chain()
    for act in (
        lambda: book.hold(one, "Ada", "a claim"),
        lambda: book.move([one], State.BATCHED, "nightly", batch="b1"),
    ):
        with pytest.raises(RegisterError):
            act()


# what the database's owner can put into it beforehand, so that it changes rows by itself
TRAPS = {
    "sqlite": (
        "CREATE TRIGGER trap AFTER UPDATE ON requests BEGIN UPDATE requests SET "
        f"identities = '{SOMEBODY_ELSE}' WHERE request_id = new.request_id AND "
        f"identities <> '{SOMEBODY_ELSE}'; END",
    ),
    "postgresql": (
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.identities := "
        f"'{SOMEBODY_ELSE}'; RETURN NEW; END $$",
        "CREATE TRIGGER trap BEFORE UPDATE ON requests FOR EACH ROW EXECUTE FUNCTION trap()",
    ),
}


def test_a_trigger_that_changes_what_the_tool_writes_is_found_and_not_vouched_for(
    book: Register,
) -> None:
    one, two = received(book), verified(book, 2)
    for statement in TRAPS[book.engine.dialect.name]:
        change(book, statement)
    before = book.head()
    for act in (
        lambda: book.verify_identity(one, "Ada", "passport"),
        lambda: book.collect("b1", "nightly"),
        lambda: book.hold(two, "Ada", "a claim"),
        lambda: book.extend(two, "Ada", "complex"),
    ):
        with pytest.raises(RegisterError, match="stored other values than were written"):
            act()
    assert book.head() == before == book.check_chain()


def test_a_view_that_answers_differently_each_time_is_believed_only_where_it_is_right(
    book: Register,
) -> None:
    """Whoever acts on a request uses the very answer that was compared with the chain."""
    verified(book)
    (right,) = book.collect("b1", "nightly")
    columns = ", ".join(
        column.name for column in tables.requests.columns if column.name != "identities"
    )
    json_type, by_chance = {
        "postgresql": ("json", "random() < 0.5"),
        "sqlite": ("text", "random() < 0"),
    }[book.engine.dialect.name]
    change(book, "ALTER TABLE requests RENAME TO kept_requests")
    change(
        book,
        f"CREATE VIEW requests AS SELECT {columns}, CASE WHEN {by_chance} THEN identities ELSE "
        f"CAST('{SOMEBODY_ELSE}' AS {json_type}) END AS identities FROM kept_requests",
    )
    answers = []
    for _ in range(40):
        with contextlib.suppress(RegisterError):
            answers += book.bound("b1")
    assert len(answers) < 40
    assert all(case.identities == right.identities for case in answers)


def test_a_trigger_on_requests_that_come_in_is_found(book: Register) -> None:
    change(
        book,
        {
            "sqlite": "CREATE TRIGGER trap AFTER INSERT ON identities BEGIN UPDATE identities SET "
            "pseudonym = 'x' WHERE request_id = new.request_id; END",
            "postgresql": "CREATE RULE trap AS ON INSERT TO identities DO ALSO "
            "DELETE FROM identities",
        }[book.engine.dialect.name],
    )
    with pytest.raises(RegisterError, match="stored other values than were written"):
        received(book)
    assert book.cases() == []


def test_a_chain_made_to_look_as_of_an_earlier_version_is_no_way_around_the_key(
    book: Register, home: Path
) -> None:
    one = verified(book)
    kept = book.head()
    written_anew(book, f"UPDATE requests SET identities = '{SOMEBODY_ELSE}'", strip=True)
    with pytest.raises(RegisterError, match="not the one whose end is kept"):
        book.bind("Ada")  # which a person could be talked into
    (home / kept_end.FILE).unlink()  # of the keeper, too, nothing is left in the events
    with pytest.raises(RegisterError, match="carry no key"):
        book.check_chain()
    with pytest.raises(RegisterError, match="not as its events say"):
        book.collect("b1", "nightly")
    with pytest.raises(RegisterError, match="not the one whose end is kept"):
        book.bind("Ada", [kept])
    again = Register(home)
    with pytest.raises(RegisterError, match="carry no key"):
        again.note("warned", "watch", request_id=one)
    again.close()


def test_what_an_earlier_version_wrote_is_vouched_for_once_by_a_person(
    book: Register, home: Path
) -> None:
    one = verified(book)
    written_anew(book, "UPDATE events SET actor = actor", strip=True)
    (home / kept_end.FILE).unlink()  # earlier versions kept none
    head = book.bind("Ada")
    assert book.check_chain() == head
    assert [event.kind for event in book.history(one)] == ["received", "identity_verified", "bound"]
    assert book.collect("b1", "nightly")
    with pytest.raises(RegisterError, match="has a key already"):
        book.bind("Ada")


def test_a_register_without_its_key_can_be_read_and_not_changed(
    book: Register, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = verified(book)
    (home / chain_key.FILE).unlink()
    without = Register(home)
    assert not (home / chain_key.FILE).exists()  # no second key is made
    assert without.case(one).state is State.IDENTITY_VERIFIED
    for act in (without.check_chain, lambda: without.collect("b1", "nightly")):
        with pytest.raises(RegisterError, match="key of the register's chain is not at hand"):
            act()
    without.close()
    monkeypatch.setenv(chain_key.KEY, "another key of a length that will do")
    other = Register(home)
    with pytest.raises(RegisterError, match=r"keys/chain\.end was not made with the chain's key"):
        other.check_chain()
    with pytest.raises(RegisterError, match=r"keys/chain\.end was not made with the chain's key"):
        received(other, 2)
    (home / kept_end.FILE).unlink()
    with pytest.raises(RegisterError, match="not made with the key"):
        other.check_chain()
    with pytest.raises(RegisterError, match="not made with the key"):
        received(other, 2)
    assert kept_end.KeptEnd(home, chain_key.make(home)).read() is None  # nothing wrong is kept
    other.close()


def test_the_key_is_private_to_its_owner_and_long_enough(
    home: Path, book: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / chain_key.FILE
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o640)
    with pytest.raises(RegisterError, match="chmod 600"):
        Register(home)
    monkeypatch.setenv(chain_key.KEY, "short")
    with pytest.raises(RegisterError, match="expected at least 32") as caught:
        Register(home)
    assert "short" not in str(caught.value)


def test_a_chain_that_was_written_anew_as_a_whole_lacks_the_ends_that_git_keeps(
    book: Register, home: Path
) -> None:
    one = received(book)
    filed = book.file_head(home / anchors.HEADS / "b1.json")
    book.verify_identity(one, "Ada", "passport")
    assert anchors.heads(home) == [filed]
    assert book.check_chain(anchors.heads(home)).seq == 2
    with pytest.raises(RegisterError, match="not the one whose end is kept"):
        book.check_chain([Head(1, "0" * 64)])
    with pytest.raises(RegisterError, match="ends before event 3"):
        book.check_chain([filed, Head(3, "0" * 64)])
    (home / anchors.HEADS / "b2.json").write_text('{"seq": "x"}')
    with pytest.raises(RegisterError, match=r"b2\.json"):
        anchors.heads(home)


# -- ends of the chain that git keeps -------------------------------------------------------------


@pytest.fixture
def repository(home: Path) -> Path:
    """The workspace in a git repository with a commit and a file that is changed."""
    for command in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["config", "user.email", "ada@example.org"],
        ["config", "user.name", "Ada"],
        ["commit", "--quiet", "--allow-empty", "-m", "begin"],
    ):
        subprocess.run(["git", *command], cwd=home, check=True)
    (home / "README").write_text("changed by a person\n")
    shutil.copy(Path(__file__).parents[3] / "params.yaml", home / "params.yaml")
    return home


def everything(book: Register) -> dict[str, list[dict[str, Any]]]:
    """A backup of the database, whichever it is."""
    with book.engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in tables.metadata.sorted_tables
        }


def restore(book: Register, backup: dict[str, list[dict[str, Any]]]) -> None:
    change(book, "DELETE FROM leases")
    with book.engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(table.delete())
            if rows := backup[table.name]:
                connection.execute(table.insert(), sorted(rows, key=lambda row: row.get("seq", 0)))


def test_the_end_is_anchored_on_a_branch_of_its_own(book: Register, repository: Path) -> None:
    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=repository, text=True)

    one = received(book)
    before = git("rev-parse", "HEAD"), git("status", "--porcelain")
    first = anchors.anchor(repository, book)
    assert anchors.anchor(repository, book) == first  # nothing happened, so nothing is added
    book.verify_identity(one, "Ada", "passport")
    second = anchors.anchor(repository, book)
    assert anchors.heads(repository) == [first, second]
    assert git("rev-list", "--count", anchors.BRANCH) == "2\n"
    assert (git("rev-parse", "HEAD"), git("status", "--porcelain")) == before


@pytest.mark.parametrize("column", ["identities", "wishes", "callbacks"])
def test_a_value_that_is_no_json_any_more_is_an_alarm_and_is_not_repeated(
    book: Register, column: str
) -> None:
    verified(book)
    if book.engine.dialect.name == "postgresql":  # which refuses such a value
        with pytest.raises(sa.exc.DBAPIError):
            change(book, f"UPDATE requests SET {column} = '[secret'")
        return
    change(book, f"UPDATE requests SET {column} = '[secret'")
    for act in (book.check_chain, book.cases, lambda: book.collect("b1", "nightly")):
        with pytest.raises(RegisterError, match="is not JSON") as caught:
            act()
        assert "secret" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_a_cut_tail_is_an_alarm(book: Register, home: Path, repository: Path) -> None:
    one = received(book)
    backup = everything(book)
    book.verify_identity(one, "Ada", "passport")
    anchors.anchor(repository, book)
    change(book, "DELETE FROM events WHERE seq = 2")
    change(book, "UPDATE requests SET state = 'received'")
    with pytest.raises(RegisterError, match="ends before event 2"):
        book.check_chain()  # by the end that this machine kept
    (home / kept_end.FILE).unlink()
    with pytest.raises(RegisterError, match=r"keys/chain\.end is gone"):
        book.check_chain()  # although by itself the shorter chain is whole
    assert everything(book)["requests"] == backup["requests"]
    with pytest.raises(RegisterError, match="ends before event 2"):
        anchors.check(repository, book)
    with pytest.raises(RegisterError, match="ends before event 2"):
        anchors.anchor(repository, book)


def test_an_older_backup_is_an_alarm_also_when_it_goes_on(
    book: Register, home: Path, repository: Path
) -> None:
    one = received(book)
    backup = everything(book)
    book.verify_identity(one, "Ada", "passport")
    anchors.anchor(repository, book)
    restore(book, backup)
    with pytest.raises(RegisterError, match="ends before event 2"):
        anchors.check(repository, book)
    with pytest.raises(RegisterError, match="ends before event 2"):
        book.cancel(one, "Eve", "nobody asked")
    (home / kept_end.FILE).unlink()
    with pytest.raises(RegisterError, match=r"keys/chain\.end is gone"):
        book.cancel(one, "Eve", "nobody asked")
    book.accept_restored("Eve", "the disk broke")  # whoever is talked into it leaves his name, and
    with pytest.raises(RegisterError, match="not the one whose end is kept"):
        anchors.check(repository, book)  # git keeps what came before


@pytest.mark.parametrize("gone", ["removed", "emptied"])
def test_a_kept_end_that_is_gone_is_an_alarm_until_a_person_accepts_it(
    book: Register, home: Path, gone: str
) -> None:
    one = received(book)
    with closing(Register(home)) as again:
        again.verify_identity(one, "Ada", "passport")
    if gone == "removed":
        (home / kept_end.FILE).unlink()
    else:
        (home / kept_end.FILE).write_bytes(b"")
    with closing(Register(home)) as again:
        for act in (
            book.check_chain,
            again.check_chain,
            lambda: received(book, 2),
            lambda: again.collect("b1", "nightly"),
        ):
            with pytest.raises(RegisterError, match="requests restored --by") as caught:
                act()
            assert str(kept_end.FILE) in str(caught.value)
        head = again.accept_restored("Ada", "the folder keys/ was lost")
    assert book.check_chain() == head == book.kept_end()
    (event,) = book.history(kind="restored")
    assert event.details["kept_until"] == "the file with the kept end was gone"
    with pytest.raises(RegisterError, match="nothing is lost"):
        book.accept_restored("Ada", "again")
    assert book.collect("b1", "nightly")


def test_a_register_that_was_emptied_together_with_its_kept_end_is_found_by_git(
    book: Register, home: Path, repository: Path
) -> None:
    received(book)
    anchors.anchor(repository, book)
    restore(book, {name: [] for name in everything(book)})
    (home / kept_end.FILE).unlink()
    with pytest.raises(RegisterError, match="ends before event 1"):
        anchors.check(repository, book)


def test_a_machine_that_is_new_to_a_register_has_no_end_to_miss(
    server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(database.URL, server.new())
    monkeypatch.setenv(chain_key.KEY, "k" * 32)
    first, second = Register(tmp_path / "first"), Register(tmp_path / "second")
    one = received(first)
    assert second.check_chain() == first.head()
    second.verify_identity(one, "Ada", "passport")
    assert first.check_chain() == second.check_chain() == second.kept_end()
    (tmp_path / "second" / kept_end.FILE).unlink()
    with pytest.raises(RegisterError, match=r"keys/chain\.end is gone"):
        second.check_chain()
    assert first.check_chain().seq == 2  # it is the second machine that lost it
    first.close()
    second.close()


def test_a_process_that_is_killed_before_it_keeps_its_first_end_leaves_no_alarm(
    book: Register, home: Path
) -> None:
    received(book)
    path = home / kept_end.FILE
    whole = path.read_bytes()
    path.unlink()
    empty = Head(0, chain.GENESIS)
    kept_end.KeptEnd(home, chain_key.make(home)).keep(empty)  # as it is before the first commit
    assert path.read_bytes() != whole
    assert book.check_chain().seq == 1
    received(book, 2)
    assert book.kept_end() == book.head()


def test_what_happened_since_the_last_anchor_cannot_be_taken_back_either(
    book: Register, home: Path
) -> None:
    one = received(book)
    backup = everything(book)
    book.verify_identity(one, "Ada", "passport")
    assert book.kept_end() == book.head()
    restore(book, backup)
    for act in (book.check_chain, lambda: received(book, 2), lambda: book.collect("b1", "Eve")):
        with pytest.raises(RegisterError, match="ends before event 2"):
            act()
    with closing(Register(home)) as again, pytest.raises(RegisterError, match="ends before"):
        again.note("warned", "watch")


def test_an_end_that_somebody_without_the_key_wrote_is_an_alarm(book: Register, home: Path) -> None:
    received(book)
    path = home / kept_end.FILE
    sound = path.read_bytes()
    for damaged in (sound.replace(b'"seq": 1', b'"seq": 0'), b"no JSON", b"[]", b"\xff" * 256):
        path.write_bytes(damaged)
        with pytest.raises(RegisterError, match="was not made with the chain's key"):
            book.check_chain()
        with pytest.raises(RegisterError, match="was not made with the chain's key"):
            received(book, 2)
    path.write_bytes(sound)
    assert book.check_chain().seq == 1


def test_nothing_is_written_where_the_end_cannot_be_kept(book: Register, home: Path) -> None:
    path = home / kept_end.FILE
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(RegisterError, match="the end of the chain cannot be kept there"):
        received(book)
    path.rmdir()
    assert book.head().seq == 0


def test_a_restored_backup_is_accepted_by_a_person_and_the_chain_says_so(book: Register) -> None:
    one = received(book)
    backup = everything(book)
    with pytest.raises(RegisterError, match="nothing is lost"):
        book.accept_restored("Ada", "the disk broke")
    book.verify_identity(one, "Ada", "passport")
    restore(book, backup)
    head = book.accept_restored("Ada", "the disk broke")
    assert book.check_chain() == head == book.kept_end()
    (event,) = book.history(kind="restored")
    assert (event.details["kept_until"], event.details["restored_until"]) == (2, 1)


def test_an_emptied_register_is_an_alarm(book: Register, repository: Path) -> None:
    received(book)
    anchors.anchor(repository, book)
    restore(book, {name: [] for name in everything(book)})
    with pytest.raises(RegisterError, match="ends before event 1"):
        anchors.check(repository, book)


def test_a_damaged_anchor_is_an_alarm_and_no_pass(book: Register, repository: Path) -> None:
    received(book)
    anchors.anchor(repository, book)
    for line in ("no JSON", "[]", '{"seq": 1}'):
        damaged = f"{line}\n"
        blob = subprocess.check_output(
            ["git", "hash-object", "-w", "--stdin"], cwd=repository, text=True, input=damaged
        )
        tree = "ledger/chain/daily.jsonl"
        commands = (
            f"commit refs/heads/{anchors.BRANCH}\ncommitter Eve <eve@example.org> 0 +0000\n"
            f"data 0\nfrom refs/heads/{anchors.BRANCH}^0\nM 100644 {blob.strip()} {tree}\n"
        )
        subprocess.run(
            ["git", "fast-import", "--quiet"],
            cwd=repository,
            input=commands,
            text=True,
            check=True,
        )
        with pytest.raises(RegisterError, match="is damaged"):
            anchors.check(repository, book)


@pytest.fixture
def authority(repository: Path) -> Iterator[authorities.Authority]:
    """A time-stamping authority that the workspace asks and trusts."""
    with authorities.serving(authorities.make()) as authority:
        parameters.assign(repository / "params.yaml", [f"operate.time_stamps={authority.url}"])
        (repository / "trusted-tsa").mkdir()
        (repository / "trusted-tsa" / "authority.pem").write_bytes(authority.pem)
        yield authority


def with_lines(repository: Path, lines: list[dict[str, Any]]) -> None:
    """Put other lines on the branch of anchors, as somebody with access to git can."""
    content = "".join(json.dumps(line) + "\n" for line in lines)
    commands = (
        f"commit refs/heads/{anchors.BRANCH}\ncommitter Eve <eve@example.org> 0 +0000\n"
        f"data 0\nfrom refs/heads/{anchors.BRANCH}^0\n"
        f"M 100644 inline {anchors.LINES}\ndata {len(content)}\n{content}\n"
    )
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=repository, input=commands, text=True, check=True
    )


def lines_of(repository: Path) -> list[dict[str, Any]]:
    """The lines on the branch of anchors."""
    shown = subprocess.check_output(
        ["git", "show", f"{anchors.BRANCH}:{anchors.LINES}"], cwd=repository, text=True
    )
    return [json.loads(line) for line in shown.splitlines()]


def test_an_anchor_bears_a_time_stamp_of_its_own_moment(
    book: Register, repository: Path, authority: authorities.Authority
) -> None:
    received(book)
    head = anchors.anchor(repository, book)
    (line,) = lines_of(repository)
    assert anchors.check(repository, book, every_stamp=True) == head
    for changed in (
        {**line, "at": "2026-01-01T00:00:00.000000Z"},  # dated back
        {**line, "stamp": line["stamp"][:-8]},
        {**line, "stamp": 7},
    ):
        with_lines(repository, [changed])
        with pytest.raises(RegisterError, match="the end at event 1 does not count"):
            anchors.check(repository, book)
    with_lines(repository, [line])
    (repository / "trusted-tsa" / "authority.pem").write_bytes(authorities.make("Eve").pem)
    with pytest.raises(RegisterError, match="not trusted"):
        anchors.check(repository, book)


def test_an_anchor_without_a_time_stamp_counts_only_where_none_is_required(
    book: Register, repository: Path, authority: authorities.Authority
) -> None:
    received(book)
    authority.mood = "is broken"
    head = anchors.anchor(repository, book)  # better than none
    assert anchors.check(repository, book) == head
    parameters.assign(repository / "params.yaml", ["operate.require_time_stamps=true"])
    with pytest.raises(RegisterError, match="no time stamp, and one is required"):
        anchors.check(repository, book)
    with_lines(repository, [])
    with pytest.raises(RegisterError, match="is not kept in git: the time-stamping authority"):
        anchors.anchor(repository, book)
    authority.mood = "right"
    assert anchors.anchor(repository, book) == anchors.check(repository, book, every_stamp=True)


def test_a_killed_git_does_not_keep_ends_from_being_anchored(
    book: Register, repository: Path
) -> None:
    received(book)
    lock = repository / ".git" / "refs" / "heads" / f"{anchors.BRANCH}.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    head = anchors.anchor(repository, book)
    assert anchors.heads(repository) == [head]


def test_a_workspace_outside_git_has_nowhere_to_anchor(book: Register, tmp_path: Path) -> None:
    received(book)
    shutil.copy(Path(__file__).parents[3] / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(WorkspaceError, match="git rev-parse"):
        anchors.anchor(tmp_path, book)


# -- who works ------------------------------------------------------------------------------------


def test_exclusive_work_is_done_by_one_at_a_time(book: Register, home: Path) -> None:
    other = Register(home)
    with book.lease("nightly") as held:
        held.check()
        assert [name for name, *_ in other.working()] == ["nightly"]
        with pytest.raises(BusyError, match="another process works on it"), other.lease("nightly"):
            pytest.fail("two at once")
        with other.lease("release"):
            pass
    with other.lease("nightly"):
        pass
    assert other.working() == []
    other.close()


def test_a_lease_is_renewed_as_long_as_the_work_goes_on(book: Register, home: Path) -> None:
    other = Register(home)
    with book.lease("nightly", seconds=3) as held:
        time.sleep(4)
        held.check()
        with pytest.raises(BusyError), other.lease("nightly"):
            pytest.fail("two at once")
    other.close()


def let_last(book: Register, seconds: float) -> None:
    """Let all leases last so long from now on; less than 0: they ran out."""
    with book.engine.begin() as connection:
        until = encoding.text_of(datetime.now(UTC) + timedelta(seconds=seconds))
        connection.execute(tables.leases.update().values(until=until))


def test_a_lease_that_ran_out_and_was_taken_over_is_noticed_by_its_holder(
    book: Register, home: Path
) -> None:
    other = Register(home)
    # its holder takes it for run out at once, as one whose database was away
    held = register.Lease(book.engine, "nightly", 0, renewed_every=600)
    held.take()
    let_last(book, -1)
    held.check()  # nobody took it meanwhile: it is taken up again
    let_last(book, 600)
    with pytest.raises(BusyError), other.lease("nightly"):
        pytest.fail("two at once")
    let_last(book, -1)
    with other.lease("nightly"):
        with pytest.raises(LostLeaseError, match="nightly"):
            held.check()
        held.release()  # takes nothing from the one that holds it now
        assert [name for name, *_ in other.working()] == ["nightly"]
    assert other.working() == []
    other.close()


HOLDER = """
import sys, time
from pathlib import Path
from flows.register.register import Register
with Register(Path(sys.argv[1])).lease("nightly", 600):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lease_of_a_killed_process_ends_at_once(book: Register, home: Path) -> None:
    with started(HOLDER, str(home)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError), book.lease("nightly"):
            pytest.fail("two at once")
        process.kill()
        os.waitid(
            os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
        )  # nobody has taken note of its end yet
        with book.lease("nightly"):
            pass


def held_by(book: Register, holder: str, seconds: float) -> None:
    """Another process holds the lease of the night: machine:pid:began:number."""
    since = datetime.now(UTC)
    with book.engine.begin() as connection:
        connection.execute(
            tables.leases.insert().values(
                name="nightly",
                holder=holder,
                since=encoding.text_of(since),
                until=encoding.text_of(since + timedelta(seconds=seconds)),
            )
        )


def test_a_later_process_of_the_same_number_does_not_hold_the_lease(book: Register) -> None:
    own = leases.started(os.getpid())
    held_by(book, f"{leases.machine()}:{os.getpid()}:{own}:00", 600)
    with pytest.raises(BusyError), book.lease("nightly"):
        pytest.fail("two at once")
    change(book, "DELETE FROM leases")
    held_by(book, f"{leases.machine()}:{os.getpid()}:{own}0:00", 600)
    with book.lease("nightly"):
        pass


def test_a_lease_of_another_machine_counts_until_it_runs_out(book: Register) -> None:
    held_by(book, f"elsewhere:{os.getpid()}:1:00", 600)
    with pytest.raises(BusyError), book.lease("nightly"):
        pytest.fail("two at once")
    let_last(book, -1)
    with book.lease("nightly"):
        pass


# -- several processes ----------------------------------------------------------------------------

WORKER = """
import sys, uuid
from pathlib import Path
from flows.register.register import Intake, Register, State
home, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
book = Register(home)
for number in range(first, first + count):
    who = {
        "identity_type": "email",
        "identity_value": f"0a1b2c3d:{number:064x}",
        "identity_format": "hmac-sha256",
    }
    name = str(uuid.UUID(int=number, version=4))
    callbacks = ("https://controller.example/",)
    request = Intake(name, "gdpr", "2026-11-20T09:30:00Z", (who,), {}, callbacks)
    book.receive(request, "crm", "http")
    print("received", name, flush=True)
    book.move([name], State.IDENTITY_VERIFIED, "crm", how="passport")
    print("verified", name, flush=True)
"""


@contextlib.contextmanager
def started(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **dummy.location()},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_processes_that_begin_and_write_at_once_make_one_chain(home: Path) -> None:
    with contextlib.ExitStack() as stack:
        # two of them bring the same requests; and none of them finds tables
        firsts = (100, 200, 300, 300)
        processes = [
            stack.enter_context(started(WORKER, str(home), str(first), "25")) for first in firsts
        ]
        told = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0, 0]
    book = Register(home)
    cases = book.cases()
    assert len(cases) == 75
    assert {case.request_id for case in cases} == {
        line.split()[1] for text in told for line in text.splitlines()
    }
    assert {case.state for case in cases} == {State.IDENTITY_VERIFIED}
    assert book.check_chain().seq == 150
    assert [case.duplicate_of for case in cases] == [None] * 75
    book.close()


def test_whoever_is_killed_leaves_whole_steps_and_the_next_one_continues(home: Path) -> None:
    said: list[str] = []
    for number, lines in enumerate((3, 8, 20)):
        with started(WORKER, str(home), "100", "25") as process:
            assert process.stdout is not None
            said += [process.stdout.readline() for _ in range(lines + number)]
            process.send_signal(signal.SIGKILL)
            said += process.communicate()[0].splitlines()
    book = Register(home)
    head = book.check_chain()
    known = {case.request_id: case.state for case in book.cases()}
    for line in said:
        if len(words := line.split()) == 2 and len(words[1]) == 36:  # the last one may be cut off
            assert known[words[1]] is State.IDENTITY_VERIFIED or words[0] == "received"
    with started(WORKER, str(home), "100", "25") as process:
        process.communicate()
        assert process.returncode == 0
    assert head.seq < book.check_chain([head]).seq == 50
    assert len(book.undelivered()) == 25
    book.close()


def test_one_collects_when_two_begin_a_batch_at_once(home: Path) -> None:
    books = [Register(home) for _ in range(2)]
    for number in range(20):
        verified(books[0], number)
    outcomes: list[Any] = []

    def collect(number: int) -> None:
        try:
            outcomes.append(len(books[number].collect(f"b{number}", "nightly")))
        except RegisterError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=collect, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 20 in outcomes
    assert any("is not erased yet" in str(outcome) for outcome in outcomes)
    assert books[0].check_chain().seq == 60
    for book in books:
        book.close()


# -- the database ---------------------------------------------------------------------------------


def test_the_migrated_tables_are_those_that_the_code_means(book: Register) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with book.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        assert migrate.version(connection) == migrate.LATEST
    scripts = ScriptDirectory.from_config(_config())
    assert scripts.get_heads() == [migrate.LATEST]


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    return config


def test_tables_of_a_newer_tool_are_left_alone(home: Path, book: Register) -> None:
    one = received(book)
    change(book, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(WorkspaceError, match="of version 9999"):
        Register(home)
    assert book.case(one).request_id == one


def test_tables_that_are_up_to_date_cost_one_look(home: Path, book: Register) -> None:
    looked = "import sys; from flows.register.register import Register; from pathlib import Path\n"
    looked += "Register(Path(sys.argv[1])); print('alembic' in sys.modules)"
    with started(looked, str(home)) as process:
        assert process.communicate()[0] == "False\n"


def test_a_migration_that_fails_changes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(op, "execute", fail)
        with pytest.raises(RuntimeError):
            Register(home)
    book = Register(home)
    assert received(book)
    book.close()


def test_an_address_that_cannot_be_used_is_an_error_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (
        "postgresql://eve:geheim@127.0.0.1:9/none",
        "mysql://eve:geheim@127.0.0.1/none",
        "geheim",
        "postgresql://eve:geheim@[",
        "sqlite:////proc/geheim.db",
    ):
        monkeypatch.setenv(database.URL, url)
        with pytest.raises(WorkspaceError, match=database.URL) as caught:
            Register(tmp_path)
        if not url.startswith("sqlite"):
            assert "geheim" not in str(caught.value)
            assert "127.0.0.1" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(database.URL, raising=False)
    (tmp_path / database.FILE).parent.mkdir()
    (tmp_path / database.FILE).write_text("no database" * 1000)
    with pytest.raises(WorkspaceError, match="cannot be used"):
        Register(tmp_path)


def test_a_server_that_stops_and_starts_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.running() as server:
        monkeypatch.setenv(database.URL, server.new())
        book = Register(tmp_path)
        one = received(book)
        with book.lease("nightly") as held:
            server.stop()
            with pytest.raises(WorkspaceError, match="cannot be used"):
                book.verify_identity(one, "Ada", "passport")
            server.start()
            assert book.verify_identity(one, "Ada", "passport").state is State.IDENTITY_VERIFIED
            held.check()
        assert book.working() == []
        assert book.check_chain().seq == 2
        book.close()


def test_the_register_is_backed_up_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(database.URL, raising=False)
    book = Register(tmp_path / "home")
    one = received(book)
    copy = tmp_path / "copy" / database.FILE
    copy.parent.mkdir(parents=True)
    with started(WORKER, str(tmp_path / "home"), "100", "200") as process:
        assert process.stdout is not None
        process.stdout.readline()
        head = book.backup(copy)
        received(book, 2)  # at least this one is not in the copy
        process.kill()
        process.communicate()
    with pytest.raises(RegisterError, match="name a new file"):
        book.backup(copy)
    shutil.copytree(tmp_path / "home" / "keys", tmp_path / "copy" / "keys")  # backed up apart
    restored = Register(tmp_path / "copy")
    with pytest.raises(RegisterError, match="ends before event"):
        restored.check_chain([head])
    accepted = restored.accept_restored("Ada", "a test")
    assert restored.check_chain([head]) == accepted
    assert accepted.seq == head.seq + 1
    assert restored.case(one) == book.case(one)
    assert book.check_chain([head]).seq >= head.seq >= 2
    restored.close()
    book.close()


def test_postgresql_has_its_own_backup(
    server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(database.URL, server.new())
    book = Register(tmp_path)
    with pytest.raises(RegisterError, match="pg_dump"):
        book.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    book.close()


# -- any life, against a simple model -------------------------------------------------------------


class Lives(RuleBasedStateMachine):
    """Random steps on a few requests; the model is a dictionary."""

    new: Callable[[], Register]

    def __init__(self) -> None:
        super().__init__()
        self.book = self.new()
        self.state: dict[str, State] = {}
        self.held: set[str] = set()
        self.steps = 0
        self.batches = 0

    def teardown(self) -> None:
        assert self.book.check_chain().seq == self.steps
        self.book.close()

    @rule(number=st.integers(1, 6))
    def receive(self, number: int) -> None:
        case, new = self.book.receive(asked(number, who=number % 3), "crm", "http")
        assert new == (case.request_id not in self.state)
        if new:
            open_ones = {
                one
                for one, state in self.state.items()
                if state in register.OPEN and self.who(one) == number % 3
            }
            assert (case.duplicate_of in open_ones) if open_ones else case.duplicate_of is None
            self.state[case.request_id] = State.RECEIVED
            self.steps += 1

    @staticmethod
    def who(request_id: str) -> int:
        return (uuid.UUID(request_id).int & 7) % 3

    @precondition(lambda self: self.state)
    @rule(data=st.data(), state=st.sampled_from([s for s in State if s is not State.BATCHED]))
    def move(self, data: st.DataObject, state: State) -> None:
        some = data.draw(
            st.lists(st.sampled_from(sorted(self.state)), min_size=1, max_size=3, unique=True)
        )
        allowed = all(
            self.state[one] == state
            or (
                state in register.MOVES[self.state[one]]
                and not (one in self.held and state in register.BLOCKED)
            )
            for one in some
        )
        try:
            self.book.move(some, state, "Ada")
        except RegisterError:
            assert not allowed
        else:
            assert allowed
            self.steps += sum(self.state[one] != state for one in some)
            self.state |= dict.fromkeys(some, state)

    @precondition(lambda self: self.state)
    @rule(data=st.data(), held=st.booleans())
    def hold(self, data: st.DataObject, held: bool) -> None:
        one = data.draw(st.sampled_from(sorted(self.state)))
        allowed = (one in self.held) != held and (not held or self.state[one] in register.OPEN)
        try:
            (self.book.hold if held else self.book.lift)(one, "Ada", "court")
        except RegisterError:
            assert not allowed
        else:
            assert allowed
            (self.held.add if held else self.held.remove)(one)
            self.steps += 1

    @rule()
    def collect(self) -> None:
        waiting = {
            one
            for one, state in self.state.items()
            if state is State.IDENTITY_VERIFIED and one not in self.held
        }
        flying = any(state in register.IN_BATCH for state in self.state.values())
        try:
            found = self.book.collect(f"b{self.batches}", "nightly")
        except RegisterError:
            assert flying
        else:
            assert not flying
            assert {case.request_id for case in found} == waiting
            self.batches += bool(waiting)
            self.steps += len(waiting)
            self.state |= dict.fromkeys(waiting, State.BATCHED)

    @invariant()
    def the_register_says_the_same(self) -> None:
        cases = {case.request_id: case for case in self.book.cases()}
        assert {one: case.state for one, case in cases.items()} == self.state
        assert {one for one, case in cases.items() if case.held} == self.held


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_any_life_is_the_one_of_the_simple_model(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    server = request.getfixturevalue("server") if kind == "postgresql" else None

    def new() -> Register:
        if server is None:
            monkeypatch.delenv(database.URL, raising=False)
        else:
            monkeypatch.setenv(database.URL, server.new())
        return Register(tmp_path_factory.mktemp("lives"))

    machine = type("TheseLives", (Lives,), {"new": staticmethod(new)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10 if server else 20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
