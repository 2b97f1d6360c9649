"""Which records a batch makes the model forget, and why a request is set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import resolve, split
from tasks.common import seeds
from tasks.common.errors import RequestError
from tasks.common.settings import parse
from tasks.data import synthetic_digits
from tasks.requests.directory import Directory
from tasks.requests.opendsr import RefusedEntry, Request, SubjectIdentity, read_batch

SUBJECTS = ["ada", "ada", "ada", "bob", "bob", "cyd", "cyd", "dan", "dan"]
LABELS = [0, 0, 1, 0, 1, 2, 1, 0, 1]
ROLES = np.array(["training"] * 7 + ["control"] * 2)
MANIFEST = pd.DataFrame(
    {
        "record_id": [f"r{row}" for row in range(9)],
        "subject_id": SUBJECTS,
        "label": np.array(LABELS, np.int64),
    }
)


def request_id(position: int) -> str:
    return str(UUID(int=position, version=4))


def asks(position: int, *subjects: str, records: tuple[str, ...] = ()) -> Request:
    who = tuple(
        SubjectIdentity(
            identity_type="controller_customer_id", identity_value=name, identity_format="raw"
        )
        for name in subjects
    )
    return Request(position, request_id(position), "gdpr", "2026-11-20T09:30:00Z", who, records)


def decide(*entries: Request | RefusedEntry) -> resolve.Resolution:
    return resolve.decide(list(entries), MANIFEST, ROLES, Directory(SUBJECTS))


def codes(*entries: Request | RefusedEntry) -> list[str | None]:
    return [line["code"] for line in decide(*entries).register]


def test_a_subject_is_forgotten_with_all_training_records() -> None:
    resolution = decide(asks(1, "ada"))
    (line,) = resolution.register
    assert resolution.forget.tolist() == [request_id(1)] * 3 + [""] * 6
    assert (line["status"], line["records"], line["labels"], line["whole_subject"]) == (
        "accepted",
        3,
        {"0": 2, "1": 1},
        True,
    )
    assert line["subject_pseudonym"] == resolve.pseudonym(request_id(1), "ada")


def test_single_records_are_forgotten_alone() -> None:
    resolution = decide(asks(1, "ada", records=("r2",)))
    assert np.flatnonzero(resolution.forget != "").tolist() == [2]
    assert resolution.register[0]["whole_subject"] is False
    assert decide(asks(1, "ada", records=("r2", "r0", "r1"))).register[0]["whole_subject"] is True


def test_each_reason_for_setting_aside_has_its_code_and_the_others_go_on() -> None:
    result = codes(
        asks(1, "eve"),
        asks(2, "ada", "bob"),
        asks(3, "ada", records=("r77",)),
        asks(4, "ada", records=("r0", "r3")),
        asks(5, "dan"),
        asks(6, "cyd"),
        asks(7, "ada"),
        asks(8, "ada"),
        asks(9, "ada", records=("r1",)),
        RefusedEntry(10, "position-10", "malformed", "expected a JSON object"),
    )
    assert result == [
        "unknown_subject",
        "ambiguous_subject",
        "unknown_record",
        "record_of_another_subject",
        "not_in_training",
        "whole_class",
        None,
        "duplicate_subject",
        "duplicate_subject",
        "malformed",
    ]


def test_a_near_miss_is_not_called_unknown_and_echoes_nothing() -> None:
    (line,) = decide(asks(1, "ADA")).register
    assert (line["status"], line["code"]) == ("rejected", "similar_subject")
    assert "nearly the same (controller_customer_id)" in line["reason"]
    assert "ADA" not in line["reason"]


def test_requests_that_together_would_empty_a_class_are_set_aside_in_the_order_of_the_file() -> (
    None
):
    assert codes(asks(1, "ada"), asks(2, "bob")) == [None, "whole_class"]
    assert codes(asks(1, "bob"), asks(2, "ada")) == [None, "whole_class"]
    assert "class 0" in decide(asks(1, "ada"), asks(2, "bob")).register[1]["reason"]


def test_a_request_for_the_whole_data_set_is_set_aside() -> None:
    manifest, roles = MANIFEST.iloc[:3], ROLES[:3]
    resolution = resolve.decide([asks(1, "ada")], manifest, roles, Directory(["ada"]))
    assert resolution.register[0]["code"] == "whole_data_set"


def test_disjoint_records_of_one_subject_make_two_requests() -> None:
    assert codes(asks(1, "ada", records=("r0",)), asks(2, "ada", records=("r1",))) == [None, None]


def test_a_request_set_aside_does_not_block_a_later_one() -> None:
    assert codes(asks(1, "ada", records=("r0", "r99")), asks(2, "ada")) == ["unknown_record", None]


def test_no_line_of_the_register_names_a_data_subject() -> None:
    lines = decide(
        *(
            asks(number, name)
            for number, name in enumerate(["ada", "bob", "cyd", "dan", "eve"], start=1)
        )
    )
    text = json.dumps(lines.register)
    assert not any(
        f"{quote}{name}{quote}" in text
        for name in ("ada", "bob", "cyd", "dan", "eve")
        for quote in ('"', " ")
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ada", "bob", "cyd", "dan", "eve"]), st.sets(st.sampled_from(range(9)))
        )
    )
)
def test_whatever_is_asked_for_every_class_keeps_a_training_record(
    asked: list[tuple[str, set[int]]],
) -> None:
    entries = [
        asks(position, name, records=tuple(f"r{row}" for row in sorted(rows)))
        for position, (name, rows) in enumerate(asked, start=1)
    ]
    resolution = decide(*entries)
    retained = (resolution.forget == "") & (ROLES == "training")
    assert set(MANIFEST["label"][retained]) == set(MANIFEST["label"][ROLES == "training"])
    assert not (resolution.forget[ROLES != "training"] != "").any()
    for line in resolution.register:
        assert (resolution.forget == line["request_id"]).sum() == line["records"]
        assert (line["status"] == "accepted") == (line["records"] > 0) == (line["reason"] is None)


def raw_request(subject: str, number: int) -> dict[str, Any]:
    return {
        "regulation": "ccpa",
        "subject_request_id": request_id(number),
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:30:00Z",
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": subject,
                "identity_format": "raw",
            }
        ],
    }


def run(folder: Path, subjects: list[str]) -> None:
    (folder / "data").mkdir()
    table = MANIFEST.assign(path=MANIFEST["record_id"].map("{}.png".format), sha256="0" * 64)
    table.to_csv(folder / "data/manifest.csv", index=False)
    MANIFEST[["record_id"]].assign(role=ROLES).to_csv(folder / "split.csv", index=False)
    batch = [raw_request(name, number) for number, name in enumerate(subjects, start=1)]
    (folder / "batch.json").write_text(json.dumps(batch))
    (folder / "checked.json").write_text("{}")
    resolve.resolve(
        folder / "data",
        folder / "split.csv",
        folder / "batch.json",
        folder / "checked.json",
        folder / "out",
    )


def test_the_stage_writes_the_forget_set_and_the_register(tmp_path: Path) -> None:
    run(tmp_path, ["ada", "eve"])
    forget = pd.read_csv(tmp_path / "out/forget.csv")
    assert forget["record_id"].tolist() == ["r0", "r1", "r2"]
    register = json.loads((tmp_path / "out/register.json").read_text())["batch_requests"]
    assert [line["status"] for line in register] == ["accepted", "rejected"]
    assert [line["position"] for line in register] == [1, 2]


def test_a_batch_with_nothing_to_act_on_is_an_error_with_every_reason_and_the_register_tells_them(
    tmp_path: Path,
) -> None:
    with pytest.raises(RequestError) as caught:
        run(tmp_path, ["eve", "dan"])
    assert request_id(1) in str(caught.value)
    assert request_id(2) in str(caught.value)
    assert "eve" not in str(caught.value)
    register = json.loads((tmp_path / "out/register.json").read_text())["batch_requests"]
    assert [line["code"] for line in register] == ["unknown_subject", "not_in_training"]
    assert not (tmp_path / "out/forget.csv").exists()


def test_the_demo_batch_has_two_people_to_forget_one_whose_data_alone_go_and_one_nobody_knows() -> (
    None
):
    _, labels, writers = synthetic_digits.make()
    names = [f"writer-{number + 1:02d}" for number in writers]
    ids = [f"r{row:05d}" for row in range(1, len(names) + 1)]
    manifest = pd.DataFrame({"record_id": ids, "subject_id": names, "label": labels})
    defaults = parse({})
    roles = split.assign(manifest, defaults.split, seeds.derive(defaults.seed, "split"))
    entries = read_batch(Path(__file__).parents[2] / "requests" / "demo.json")
    register = resolve.decide(entries, manifest, roles, Directory(names)).register
    codes = [line["code"] for line in register]
    assert codes == [None, "not_in_training", None, "unknown_subject"]
    assert [line["regulation"] for line in register[:3]] == ["gdpr", "ccpa", "gdpr"]
