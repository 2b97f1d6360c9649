"""A request selects rows of the manifest, whatever their labels and roles."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.common.language import say
from tasks.data import people
from tasks.requests.directory import Directory
from tasks.requests.opendsr import RefusedEntry, Request, SubjectIdentity

MANIFEST = pd.DataFrame(
    {"record_id": ["r0", "r1", "r2", "r3"], "subject_id": ["ada", "bob", "ada", "ada"]}
)
DIRECTORY = Directory(["ada", "bob"])
REFUSAL = RefusedEntry(9, "position-9", "malformed", say("malformed"))


def asks(name: str, *record_ids: str, request_id: str = "q") -> Request:
    who = SubjectIdentity(
        identity_type="controller_customer_id", identity_value=name, identity_format="raw"
    )
    return Request(1, request_id, "gdpr", "2026-11-20T09:30:00Z", (who,), record_ids)


@pytest.mark.parametrize(
    ("request_", "rows", "whole", "fault"),
    [
        (asks("ada"), [0, 2, 3], True, None),
        (asks("ada", "r3"), [3], False, None),
        (asks("ada", "r3", "r0", "r2"), [3, 0, 2], True, None),
        (asks("eve"), [], False, "unknown_subject"),
        (asks("Ada"), [], False, "similar_subject"),
        (asks("ada", "r9"), [], False, "unknown_record"),
        (asks("ada", "r1"), [], False, "record_of_another_subject"),
    ],
)
def test_a_request_selects_its_own_records_or_none_with_the_reason(
    request_: Request, rows: list[int], whole: bool, fault: str | None
) -> None:
    selection = people.People(MANIFEST, DIRECTORY).select(request_)
    assert selection.rows.tolist() == rows
    assert (selection.whole_subject, selection.fault) == (whole, fault)


def test_a_record_that_two_requests_ask_for_is_the_first_ones() -> None:
    entries = [asks("ada", "r2", request_id="one"), REFUSAL, asks("ada", request_id="two")]
    asked = people.requests_by_record(entries, MANIFEST, DIRECTORY)
    assert asked.tolist() == ["two", "", "one", "two"]
    assert people.requests_by_record([REFUSAL], MANIFEST, DIRECTORY).tolist() == [""] * 4
