"""The check stage: good data make reports that depend on the data only, faults are named and
nothing is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tasks import check, pack
from tasks.common.errors import DataError, RequestError
from tasks.data import near_duplicates, rules
from tasks.data.importers import classes, writing

PEOPLE = [f"person-{row % 4}" for row in range(24)]


def write(
    folder: Path, pixels: NDArray[np.uint8], people: list[str] = PEOPLE, **columns: Any
) -> Path:
    """A data set of the pictures given, in a folder `data`; `columns` replace or add columns of the
    manifest."""
    labels = [row % 3 for row in range(len(pixels))]
    ids = [f"r{row:02d}" for row in range(len(pixels))]
    writing.write(
        folder / "data",
        writing.Source(
            "test",
            "test",
            "",
            classes.from_codes(labels, ("a", "b", "c")),
            {"record_id": ids, "subject_id": people},
            map(writing.encode, pixels),
        ),
    )
    change(folder, **columns)
    (folder / "params.yaml").write_text("data: {classes: 3, channels: 1, image_size: 8}\n")
    return folder


def change(folder: Path, **columns: Any) -> None:
    table = pd.read_csv(folder / "data/manifest.csv", dtype=str)
    table.assign(**columns).to_csv(folder / "data/manifest.csv", index=False)


def put(folder: Path, row: int, column: str, value: str) -> None:
    table = pd.read_csv(folder / "data/manifest.csv", dtype=str)
    table.loc[row, column] = value
    table.to_csv(folder / "data/manifest.csv", index=False)


def noise(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (24, 8, 8), np.uint8)


def asks(*subjects: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "regulation": "gdpr",
            "subject_request_id": str(UUID(int=number, version=4)),
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-20T09:30:00Z",
            "subject_identities": [
                {
                    "identity_type": "controller_customer_id",
                    "identity_value": name,
                    "identity_format": "raw",
                }
            ],
            **more,
        }
        for number, name in enumerate(subjects, start=1)
    ]


def run(folder: Path, batch: list[Any], out: str = "out") -> tuple[dict[str, Any], dict[str, Any]]:
    (folder / "batch.json").write_text(json.dumps(batch))
    pack.main(folder / "data", folder / "params.yaml", folder / "pack")
    check.check(
        folder / "data",
        folder / "pack",
        folder / "batch.json",
        folder / "params.yaml",
        folder / out,
    )
    data, requests = (
        json.loads((folder / out / name).read_text()) for name in ("data.json", "requests.json")
    )
    return data, requests


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in report["checks"]}


def test_good_data_pass_every_check(tmp_path: Path) -> None:
    data, requests = run(write(tmp_path, noise()), asks("person-1"))
    assert all(line["passed"] for line in data["checks"] + requests["checks"])
    assert (data["records"], data["subjects"], data["classes"]) == (24, 4, {"0": 8, "1": 8, "2": 8})
    assert (
        data["manifest_sha256"]
        == hashlib.sha256((tmp_path / "data/manifest.csv").read_bytes()).hexdigest()
    )
    assert requests["requests"] == 1


def test_what_is_said_of_the_data_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    write(tmp_path, noise())
    run(tmp_path, asks("person-1"), "a")
    run(tmp_path, asks("person-2", "nobody"), "b")
    run(tmp_path, asks("person-1"), "c")
    assert (tmp_path / "a/data.json").read_bytes() == (tmp_path / "b/data.json").read_bytes()
    assert (tmp_path / "a/requests.json").read_bytes() == (
        tmp_path / "c/requests.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "3", "data.classes"),
        ("label", "two", "whole number"),
        ("sha256", "0" * 64, "SHA-256"),
        ("path", "../batch.json", "inside the data folder"),
        ("path", "images/none.png", "SHA-256"),
        ("subject_id", "Jane Doe", "subject_id"),
        ("record_id", "r00", "unique"),
        ("split", "control", "same split value"),
    ],
)
def test_a_planted_fault_is_named_and_nothing_is_written(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    write(tmp_path, noise(), split="training")
    put(tmp_path, 5, column, value)
    with pytest.raises(DataError, match=message) as caught:
        run(tmp_path, asks("person-1"))
    assert ("r05" if column != "record_id" else "r00") in str(caught.value)
    assert "Jane" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_truncated_image_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, noise())
    path = tmp_path / "data/images/r07.png"
    path.write_bytes(path.read_bytes()[:60])
    put(tmp_path, 7, "sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"record r07: .*decodes whole"):
        run(tmp_path, asks("person-1"))
    assert not (tmp_path / "out").exists()


def test_several_faults_are_told_at_once_the_first_records_by_name(tmp_path: Path) -> None:
    write(tmp_path, noise(), label="9")
    put(tmp_path, 3, "sha256", "x")
    with pytest.raises(DataError, match=r"r00, r01, r02, r03, r04 and 19 more") as caught:
        run(tmp_path, asks("person-1"))
    assert "sha256 is 64" in str(caught.value)


def test_an_absent_or_rare_class_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, noise(), label=["0"] * 23 + ["1"])
    data, _ = run(tmp_path, asks("person-1"))
    lines = by_name(data)
    assert not lines["classes_present"]["passed"]
    assert "2" in lines["classes_present"]["sentence"]
    assert lines["class_balance"]["records"] == ["r23"]
    assert lines["class_balance"]["severity"] == "warning"


def test_faulty_requests_are_on_file_and_stop_nothing(tmp_path: Path) -> None:
    write(tmp_path, noise())
    batch = [*asks("person-1", "nobody", "person-1"), {"what": "<b>"}]
    batch += [asks(*"....", "person-2", extensions={"erasure_audit": {"record_ids": ["r00"]}})[-1]]
    _, requests = run(tmp_path, batch)
    lines = by_name(requests)
    ids = [str(UUID(int=number, version=4)) for number in range(1, 6)]
    assert lines["request_form"]["requests"] == ["position-4"]
    assert lines["request_subject_known"]["requests"] == [ids[1]]
    assert lines["request_once"]["requests"] == [ids[2]]
    assert lines["request_records_known"]["requests"] == [ids[4]]
    assert "person" not in json.dumps(requests)


def test_an_empty_batch_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, noise())
    with pytest.raises(RequestError, match="empty"):
        run(tmp_path, [])
    assert not (tmp_path / "out").exists()


def test_a_near_duplicate_under_another_subject_is_a_warning_that_names_it(tmp_path: Path) -> None:
    pixels = noise()
    pixels[6] = np.clip(
        pixels[1].astype(int) + np.random.default_rng(1).integers(-2, 3, (8, 8)), 0, 255
    )
    pixels[9] = pixels[1]
    write(tmp_path, pixels)
    _, requests = run(tmp_path, asks("person-1", "person-3"))
    line = by_name(requests)["near_duplicates"]
    assert (line["passed"], line["severity"], line["records"]) == (False, "warning", ["r06"])
    assert line["requests"] == [str(UUID(int=1, version=4))]


def slow_twins(
    named: NDArray[np.intp],
    subject: NDArray[np.intp],
    content: NDArray[np.intp],
    grey: NDArray[np.uint8],
) -> set[tuple[int, int]]:
    """All pairs, one by one."""
    thumbs = grey.astype(np.float64)
    result = set()
    for left in named.tolist():
        for right in range(len(subject)):
            apart = float(np.sqrt(((thumbs[left] - thumbs[right]) ** 2).mean()))
            same = content[left] == content[right]
            plain = thumbs[left].std() < near_duplicates.PLAIN
            if (
                subject[left] != subject[right]
                and apart <= near_duplicates.ALIKE
                and (same or not plain)
            ):
                result.add((left, right))
    return result


def test_the_fast_search_for_near_duplicates_finds_what_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(3)
    base = random.uniform(0, 255, (12, 64)) * random.choice([0.02, 1.0], (12, 1))
    thumbs = (
        (base[random.integers(0, 12, 200)] + random.normal(0, 2.2, (200, 64)))
        .clip(0, 255)
        .astype(np.uint8)
    )
    thumbs[150:] = thumbs[:50]
    content = np.unique(thumbs, axis=0, return_inverse=True)[1].reshape(-1)
    subject = random.integers(0, 9, 200).astype(np.intp)
    named = np.flatnonzero(subject < 3)
    left, right = near_duplicates.twins(named, subject, content, thumbs)
    expected = slow_twins(named, subject, content, thumbs)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected
    assert len(expected) > 50


def test_the_names_of_the_classes_are_on_file_for_the_report(tmp_path: Path) -> None:
    data, _ = run(write(tmp_path, noise()), asks("person-1"))
    assert data["class_names"] == ["a", "b", "c"]
    (tmp_path / "data/dataset.json").unlink()
    assert run(tmp_path, asks("person-1"))[0]["class_names"] == ["0", "1", "2"]


def test_every_rule_of_the_manifest_is_reported_by_great_expectations(tmp_path: Path) -> None:
    data, _ = run(write(tmp_path, noise(), split="training"), asks("person-1"))
    assert {rule.name for rule in rules.MANIFEST} <= set(by_name(data))
