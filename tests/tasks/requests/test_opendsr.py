"""OpenDSR requests: well-formed ones are read, all others set aside without an echo of what they
hold."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.errors import RequestError
from tasks.requests.opendsr import RefusedEntry, Request, parse, read_batch

UUID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
OTHER = "9b2d7c1a-0c5e-4f7b-8a6d-1e2f3a4b5c6d"


def request(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "regulation": "gdpr",
        "subject_request_id": UUID,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:30:00Z",
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": "ada",
                "identity_format": "raw",
            }
        ],
        "api_version": "1.0",
        "status_callback_urls": ["https://example.org/callback"],
    }
    return good | changes


def batch(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def identity(value: str, kind: str = "controller_customer_id", form: str = "raw") -> dict[str, str]:
    return {"identity_type": kind, "identity_value": value, "identity_format": form}


def test_a_request_is_read_with_its_facts() -> None:
    read = parse(request(extensions={"erasure_audit": {"record_ids": ["r1", "r2", "r1"]}}), 1)
    assert isinstance(read, Request)
    assert (read.position, read.request_id, read.regulation) == (1, UUID, "gdpr")
    assert read.received == "2026-11-20T09:30:00Z"
    assert read.record_ids == ("r1", "r2")
    assert "ada" not in repr(read)


def test_a_request_id_is_the_same_in_capitals() -> None:
    assert parse(request(subject_request_id=UUID.upper()), 1).request_id == UUID


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"regulation": "hipaa"}, "regulation"),
        ({"subject_request_id": "../../etc"}, "subject_request_id"),
        ({"subject_request_id": UUID + "\n"}, "subject_request_id"),
        ({"subject_request_id": "3f2504e0-4f89-11d3-9a0c-0305e82c3301"}, "subject_request_id"),
        ({"subject_request_id": 5}, "subject_request_id"),
        ({"submitted_time": "yesterday"}, "submitted_time"),
        ({"submitted_time": "2026-02-30T00:00:00Z"}, "submitted_time"),
        ({"submitted_time": "2026-11-20T09:30:00"}, "submitted_time"),
        ({"subject_identities": []}, "subject_identities"),
        ({"subject_identities": [identity("ada", form="md5")]}, "subject_identities"),
        ({"subject_identities": [identity("")]}, "subject_identities"),
        ({"subject_identities": [identity("x" * 600)]}, "subject_identities"),
        ({"subject_identities": [identity("  ")]}, "subject_identities"),
        (
            {"subject_identities": [identity("ada@example.org", form="sha256")]},
            "subject_identities",
        ),
        ({"subject_identities": [identity("a" * 32, form="sha256")]}, "subject_identities"),
        ({"subject_identities": [identity("A" * 43 + "=", form="sha256")]}, "subject_identities"),
        ({"submitted_time": "1970-01-01T00:00:00Z"}, "submitted_time"),
        ({"submitted_time": "2018-05-24T23:59:59Z"}, "submitted_time"),
        ({"extensions": {"erasure_audit": None}}, "extensions"),
        ({"extensions": {"erasure_audit": {"record_ids": None}}}, "extensions"),
        ({"extensions": {"erasure-audit": {"record_ids": ["r1"]}}}, "extensions"),
        ({"extensions": {"Erasure_Audit": {"record_ids": ["r1"]}}}, "extensions"),
        ({"extensions": {"erasure_adit": {"record_ids": ["r1"]}}}, "extensions"),
        ({"extensions": {"record_ids": ["r1"]}}, "extensions"),
        ({"extension": {"erasure_audit": {"record_ids": ["r1"]}}}, "extensions"),
        ({"Extensions": {"erasure_audit": {"record_ids": ["r1"]}}}, "extensions"),
        ({"erasure_audit": {"record_ids": ["r1"]}}, "extensions"),
        ({"record_ids": ["r1"]}, "extensions"),
        ({"subject_identities": [identity("a@x.org") | {"record_ids": ["r1"]}]}, "extensions"),
        ({"extensions": {"erasure_audit": {"r\u0435cord_ids": ["r1"]}}}, "extensions"),
        ({"extensions": {"erasure_audit": {"record\u200b_ids": ["r1"]}}}, "extensions"),
        ({"more": [{"deep": {"erasure_audit": {}}}]}, "extensions"),
        ({"extensions": {"erasure_audit": {"record_ids": []}}}, "extensions"),
        ({"extensions": {"erasure_audit": {"record_id": ["r1"]}}}, "extensions"),
        ({"extensions": {"erasure_audit": {"record_ids": ["../r1"]}}}, "extensions"),
    ],
)
def test_a_malformed_field_is_named_and_the_entry_set_aside(
    changes: dict[str, Any], named: str
) -> None:
    refusal = parse(request(**changes), 3)
    assert isinstance(refusal, RefusedEntry)
    assert refusal.code == "malformed"
    assert refusal.reason.startswith(f"{named}: expected ")
    assert refusal.request_id == ("position-3" if named == "subject_request_id" else UUID)


def test_keys_of_others_are_kept_out_of_the_way() -> None:
    theirs = {"example-processor.com": {"records": 1, "languages": ["en"]}, "notes": None}
    read = parse(request(extensions=theirs, property_id="p", encoded_request="e"), 1)
    assert isinstance(read, Request)
    assert (read.record_ids, read.languages) == ((), ())


def test_a_request_dated_in_the_future_is_refused_where_the_time_is_known() -> None:
    now = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    for moment, taken in (
        ("2026-11-21T08:59:00Z", True),
        ("2026-11-21T13:00:00+05:00", True),
        ("2026-11-22T09:00:00Z", False),
        ("2062-01-01T00:00:00Z", False),
    ):
        read = parse(request(submitted_time=moment), 1, now=now)
        assert isinstance(read, Request) == taken
        if isinstance(read, RefusedEntry):
            assert "not in the future" in read.reason


def test_a_request_that_is_not_for_erasure_is_set_aside() -> None:
    refusal = parse(request(subject_request_type="access"), 1)
    assert isinstance(refusal, RefusedEntry)
    assert refusal.code == "not_erasure"


HOSTILE = [
    "<script>alert(1)</script>",
    "../../../etc/passwd",
    "\u202egnp.exe",
    "\ud800",
    "A" * 100_000,
    "\0",
    "'; DROP--",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", [*request(), "extensions", "unknown"])
def test_a_hostile_value_is_never_echoed(field: str, value: str) -> None:
    for entry in (
        request(**{field: value}),
        request(**{field: {value: value}}),
        request(**{field: [value]}),
    ):
        read = parse(entry, 1)
        texts = f"{read.request_id} {getattr(read, 'reason', '')} {read.regulation} {read.received}"
        assert value not in texts
        assert len(texts) < 1500


def test_one_malformed_entry_does_not_stop_the_others(tmp_path: Path) -> None:
    entries = read_batch(
        batch(tmp_path / "b.json", [7, request(), None, request(subject_request_id=OTHER)])
    )
    assert [type(entry) for entry in entries] == [RefusedEntry, Request, RefusedEntry, Request]
    assert [entry.request_id for entry in entries] == ["position-1", UUID, "position-3", OTHER]


def test_the_later_of_two_requests_with_one_id_is_refused(tmp_path: Path) -> None:
    first, second = read_batch(
        batch(tmp_path / "b.json", [request(), request(subject_request_id=UUID.upper())])
    )
    assert isinstance(first, Request)
    assert isinstance(second, RefusedEntry)
    assert (second.code, second.request_id) == ("duplicate_request", "position-2")


def test_an_entry_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(request())[:-1] + ', "regulation": "ccpa"}'
    (tmp_path / "b.json").write_text(f"[{text}]")
    (refusal,) = read_batch(tmp_path / "b.json")
    assert isinstance(refusal, RefusedEntry)


@pytest.mark.parametrize(
    "extensions",
    [
        '{"erasure_audit": {"record_ids": ["r1"]}, "erasure_audit": {}}',
        '{"erasure_audit": {"record_ids": ["r1"], "record_ids": ["r2"]}}',
        '{"theirs": {"a": 1, "a": 2}}',
        '{}, "extensions": {"erasure_audit": {"record_ids": ["r1"]}}',
    ],
)
def test_a_key_twice_in_the_extensions_never_widens_a_request(
    tmp_path: Path, extensions: str
) -> None:
    text = json.dumps(request())[:-1] + f', "extensions": {extensions}}}'
    (tmp_path / "b.json").write_text(f"[{text}]")
    (refusal,) = read_batch(tmp_path / "b.json")
    assert isinstance(refusal, RefusedEntry)
    assert "each once" in refusal.reason


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'"x"',
        b"[1" + b"0" * 5000 + b"]]",
    ],
)
def test_a_file_that_is_no_batch_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "batch.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"batch\.json"):
        read_batch(tmp_path / "batch.json")


def test_an_absent_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"batch\.json"):
        read_batch(tmp_path / "batch.json")


def test_a_pipe_is_no_batch(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "batch.json")
    with pytest.raises(RequestError, match=r"batch\.json: expected a file"):
        read_batch(tmp_path / "batch.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_json_is_a_request_or_a_refusal(value: Any) -> None:
    assert isinstance(parse(value, 1), RefusedEntry)


@given(st.sampled_from([*request(), "extensions"]), json_values)
def test_any_value_in_any_field_is_a_request_or_a_refusal(field: str, value: Any) -> None:
    assert isinstance(parse(request(**{field: value}), 1), (Request, RefusedEntry))


@given(st.integers(0, 3), json_values)
def test_any_identity_is_a_request_or_a_refusal(position: int, value: Any) -> None:
    entry = deepcopy(request())
    key = ("identity_type", "identity_value", "identity_format", "more")[position]
    entry["subject_identities"][0][key] = value
    assert isinstance(parse(entry, 1), (Request, RefusedEntry))
