"""The schema of the evidence: published, versioned, and evidence of earlier versions stays
readable."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common import files
from tasks.common.errors import EvidenceError
from tasks.reporting import evidence, migrations
from tests.worlds import fabricated

ROOT = Path(__file__).parents[3]
SAMPLES = {
    path.stem: files.read_json(path)
    for path in sorted((ROOT / "tests" / "samples").glob("evidence-*.json"))
}
AUDITED = sorted(name for name, found in SAMPLES.items() if found["status"] == "audited")
PUBLISHED = json.loads((ROOT / evidence.SCHEMA).read_text(encoding="utf-8"))


def conforms(found: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(PUBLISHED).validate(found)


def test_the_published_schema_names_its_version() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    assert PUBLISHED["$id"] == f"urn:erasure-audit:evidence:{evidence.SCHEMA_VERSION}"


@pytest.mark.parametrize(
    "item", evidence.build_all(fabricated.sources()), ids=lambda item: str(item["outcome"])
)
def test_evidence_of_every_ending_conforms_to_the_published_schema(item: dict[str, Any]) -> None:
    conforms(item)
    with pytest.raises(jsonschema.ValidationError):
        conforms({**item, "schema_version": evidence.SCHEMA_VERSION - 1})
    with pytest.raises(jsonschema.ValidationError):
        conforms({key: value for key, value in item.items() if key != "reason"})


def test_there_are_samples_of_every_earlier_version() -> None:
    assert {found["schema_version"] for found in SAMPLES.values()} == set(
        range(1, evidence.SCHEMA_VERSION)
    )
    assert set(migrations.STEPS) == set(range(1, evidence.SCHEMA_VERSION))


@pytest.mark.parametrize("name", SAMPLES)
def test_evidence_of_an_earlier_version_is_brought_to_the_current_one(name: str) -> None:
    before = copy.deepcopy(SAMPLES[name])
    found = migrations.upgrade(SAMPLES[name])
    assert SAMPLES[name] == before
    conforms(found)
    assert found["schema_version"] == evidence.SCHEMA_VERSION
    for key in (
        "batch",
        "request",
        "reason",
        "verdict",
        "outcome",
        "residual_influence",
        "gates",
        "deadline",
    ):
        assert (
            before.get(key) is None or before[key] == {**found, "request": before["request"]}[key]
        )
    assert {key: found["request"][key] for key in before["request"]} == before["request"]
    assert migrations.upgrade(found) == found


@pytest.mark.parametrize("name", AUDITED)
def test_nothing_is_made_up_for_what_an_earlier_version_did_not_measure(name: str) -> None:
    found = migrations.upgrade(SAMPLES[name])
    assert "no such measurement" in found["score_distribution"]["reason"]
    assert found["approvals"] == found["recipients"] == []
    assert {store["state"] for store in found["copies"]} == {"held"}
    assert found["progress"] == "awaiting_signoff"
    if SAMPLES[name]["schema_version"] == 1:
        assert not found["register"]["holds"]
        for part in ("attacks", "retained_exposure", "utility_by_group", "assumptions"):
            assert "no such measurement" in found[part]["reason"]


def test_a_share_of_the_most_memorised_records_comes_from_their_number() -> None:
    old = SAMPLES["evidence-1-pass"]
    share = migrations.upgrade(old)["thresholds"]["memorised"]
    assert share * old["request"]["records"] == pytest.approx(old["thresholds"]["memorised"])


@pytest.mark.parametrize("version", [0, -1, evidence.SCHEMA_VERSION + 1, "1", 1.0, True, None])
def test_an_unknown_version_is_refused(version: Any) -> None:
    with pytest.raises(EvidenceError, match="schema version"):
        migrations.upgrade({**SAMPLES["evidence-2-pass"], "schema_version": version}, "here")


@pytest.mark.parametrize("found", [None, [], "evidence", 3, {}])
def test_what_is_no_evidence_is_refused(found: Any) -> None:
    with pytest.raises(EvidenceError):
        migrations.upgrade(found)


@given(name=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_damaged_evidence_is_an_error_that_says_so_and_never_another(
    name: str, data: st.DataObject
) -> None:
    broken = copy.deepcopy(SAMPLES[name])
    part = broken
    while True:
        key = data.draw(st.sampled_from(sorted(part)))
        if not isinstance(part[key], dict) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    damage = data.draw(st.sampled_from(["gone", None, [], "text", -1, {}]))
    if damage == "gone":
        del part[key]
    else:
        part[key] = damage
    try:
        found = migrations.upgrade(broken)
    except EvidenceError:
        return
    conforms(found)


def test_a_pass_is_never_gained_by_an_upgrade() -> None:
    for state in ("open", "bad"):
        old = copy.deepcopy(SAMPLES["evidence-1-pass"])
        old["gates"][0]["state"] = state
        with pytest.raises(EvidenceError, match="gates"):
            migrations.upgrade(old)
