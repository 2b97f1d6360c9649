"""The evidence: its fixed shape, what is refused, and what may never stand in it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import fabricated
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import evidence
from tasks.errors import EvidenceError

SCHEMA = Path(__file__).parents[1] / "docs" / "evidence.schema.json"
KINDS = {
    fabricated.PASS: ("audited", "pass", "pass"),
    fabricated.FAIL: ("audited", "fail", "fail"),
    fabricated.OPEN: ("audited", "inconclusive", "inconclusive"),
    fabricated.BELOW: ("audited", "inconclusive", "below_detection"),
    fabricated.SET_ASIDE: ("rejected", "inconclusive", "rejected"),
}


def of(request_id: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """The evidence of one request."""
    found = evidence.build_all(fabricated.sources(inputs))
    return next(item for item in found if item["request"]["id"] == request_id)


def at(inputs: Any, path: str) -> tuple[Any, str]:
    """The mapping that holds the last key of a dotted path, and that key."""
    *way, last = path.split("/")
    for key in way:
        inputs = inputs[int(key)] if isinstance(inputs, list) else inputs[key]
    return inputs, last


@pytest.mark.parametrize("request_id", KINDS)
def test_every_kind_of_ending_has_its_status_verdict_and_outcome(request_id: str) -> None:
    found = of(request_id)
    assert (found["status"], found["verdict"], found["outcome"]) == KINDS[request_id]


@pytest.mark.parametrize("request_id", KINDS)
def test_the_keys_that_other_tools_rely_on_are_always_there(request_id: str) -> None:
    found = of(request_id)
    assert found["schema_version"] == 1
    assert found["request"]["id"] == request_id
    assert found["reason"]
    models, sets = ("original", "unlearned", "retrained"), ("forget", "retain", "control")
    numbers = [found["residual_influence"][key] for key in ("estimate", "low", "high")]
    numbers += [found["detectability"]]
    numbers += [found["self_check"][key] for key in ("original_caught", "retrain_cleared")]
    numbers += [found["accuracy"][model][records] for model in models for records in sets]
    numbers += [found["seconds"][key] for key in ("train", "unlearn", "retrain")]
    numbers += [found["unlearn"]["method"]]
    assert {number is None for number in numbers} == {found["status"] == "rejected"}


def test_the_published_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == evidence.schema(), "make docs writes it anew"


@pytest.mark.parametrize("request_id", KINDS)
def test_the_evidence_keeps_to_the_published_schema(request_id: str) -> None:
    jsonschema.Draft202012Validator(evidence.schema()).validate(of(request_id))


@pytest.mark.parametrize(
    "path",
    [
        f"verdicts/requests/{fabricated.PASS}/verdict",
        f"verdicts/requests/{fabricated.PASS}/residual_influence/low",
        f"verdicts/requests/{fabricated.PASS}/accuracy/unlearned/forget",
        f"verdicts/requests/{fabricated.PASS}/gates/0/state",
        f"verdicts/requests/{fabricated.PASS}/self_check/original_caught",
        f"verdicts/requests/{fabricated.PASS}/references/with",
        "lineage/models/0/seconds",
        "lineage/models/1/weights_sha256",
        "lineage/manifest_sha256",
        "register/batch_requests/0/records",
        "data_checks/manifest_sha256",
        "record/started",
        "record/data_md5",
    ],
)
def test_what_is_missing_is_an_error_that_names_it(path: str) -> None:
    inputs = fabricated.inputs()
    mapping, key = at(inputs, path)
    del mapping[key]
    with pytest.raises(EvidenceError, match=key):
        evidence.build_all(fabricated.sources(inputs))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.9", 1.2, -0.1])
def test_an_accuracy_that_is_no_share_is_an_error(value: Any) -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["requests"][fabricated.FAIL]["accuracy"]["unlearned"]["forget"] = value
    with pytest.raises(EvidenceError, match=r"accuracy\.unlearned\.forget"):
        evidence.build_all(fabricated.sources(inputs))


def test_an_accepted_request_without_a_verdict_is_an_error() -> None:
    inputs = fabricated.inputs()
    del inputs["verdicts"]["requests"][fabricated.OPEN]
    with pytest.raises(EvidenceError, match=f"no verdict for the accepted request {fabricated.OPEN}"):
        evidence.build_all(fabricated.sources(inputs))


def test_a_verdict_of_a_request_that_was_not_accepted_is_an_error() -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["requests"][fabricated.SET_ASIDE] = inputs["verdicts"]["requests"][fabricated.PASS]
    with pytest.raises(EvidenceError, match=f"{fabricated.SET_ASIDE}, which register.json does not accept"):
        evidence.build_all(fabricated.sources(inputs))


def test_an_empty_register_is_an_error() -> None:
    with pytest.raises(EvidenceError, match="at least one"):
        evidence.build_all(fabricated.sources({**fabricated.inputs(), "register": {"batch_requests": []}}))


def test_checks_and_scores_of_different_manifests_are_an_error() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["manifest_sha256"] = fabricated.digest("another manifest")
    with pytest.raises(EvidenceError, match="different manifests"):
        evidence.build_all(fabricated.sources(inputs))


def test_a_checkpoint_of_ones_own_is_costed_by_the_median_reference_and_says_so() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["models"][0]["seconds"] = None
    for entry, seconds in zip(inputs["lineage"]["models"][3:6], (5.0, 9.0, 6.0), strict=True):
        entry["seconds"] = seconds
    found = of(fabricated.PASS, inputs)["seconds"]
    assert (found["train"], found["train_source"]) == (6.0, "median of the reference models")
    assert of(fabricated.PASS)["seconds"] == {
        "train": 6.31, "unlearn": 0.52, "retrain": 6.11, "train_source": "original"
    }  # fmt: skip


def test_changing_nothing_takes_no_time_and_has_an_empty_trace() -> None:
    inputs = fabricated.inputs()
    inputs["method"], inputs["lineage"]["models"][1]["seconds"], inputs["trace"] = "none", None, []
    found = of(fabricated.FAIL, inputs)
    assert found["seconds"]["unlearn"] == 0
    assert found["unlearn"]["trace"]["step"] == []


def test_a_method_without_its_time_is_an_error() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["models"][1]["seconds"] = None
    with pytest.raises(EvidenceError, match=r"seconds\.unlearn"):
        evidence.build_all(fabricated.sources(inputs))


def test_a_path_outside_the_workspace_is_cut_to_its_name() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["models"][0]["path"] = "/elsewhere/own.safetensors"
    assert of(fabricated.PASS, inputs)["models"][0]["file"] == "own.safetensors"


def test_other_requests_are_not_named_in_a_requests_evidence() -> None:
    found = of(fabricated.PASS)
    text = json.dumps(found)
    assert not any(other in text for other in KINDS if other != fabricated.PASS)
    assert not found["checks"]["requests"][0]["this_request"]
    assert of(fabricated.SET_ASIDE)["checks"]["requests"][0]["this_request"]


def test_an_identity_that_strays_into_the_register_is_left_out() -> None:
    inputs = fabricated.inputs()
    for entry in inputs["register"]["batch_requests"]:
        entry.update(subject_id=fabricated.SECRET, subject_identities=[{"identity_value": fabricated.SECRET}])
    assert fabricated.SECRET not in json.dumps(evidence.build_all(fabricated.sources(inputs)))


@pytest.mark.parametrize(
    ("regulation", "received"), [(None, None), ("hipaa", "2026-11-14T00:00:00Z"), ("gdpr", "soon")]
)
def test_a_rejected_request_without_a_known_deadline_says_so(regulation: str | None, received: str | None) -> None:
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"][4].update(regulation=regulation, received=received)
    found = of(fabricated.SET_ASIDE, inputs)["deadline"]
    assert found["date"] is None
    assert found["days_left"] is None
    assert "No deadline was counted" in found["rule"]


def test_days_left_are_counted_from_the_start_of_the_audit() -> None:
    assert of(fabricated.PASS)["deadline"]["date"] == "2026-12-10"
    assert of(fabricated.PASS)["deadline"]["days_left"] == 19


def test_holidays_of_the_settings_move_the_deadline() -> None:
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"][0]["received"] = "2026-11-25T10:00:00Z"
    assert of(fabricated.PASS, inputs)["deadline"]["date"] == "2026-12-28"  # Christmas, a Friday, is set as a holiday


def test_provenance_names_changed_settings_and_all_settings() -> None:
    found = of(fabricated.PASS)["provenance"]
    assert found["settings_changed"]["report.controller"] == "Example Clinic"
    assert found["settings"]["verify"]["rho0"] == 0.5
    assert found["seed"] == 0


@given(st.integers(0, 5000))
def test_thinning_keeps_both_ends_and_the_order(count: int) -> None:
    kept = evidence.thinned(count)
    assert kept == sorted(set(kept))
    assert len(kept) == min(count, evidence.TRACE_POINTS)
    assert not count or (kept[0], kept[-1]) == (0, count - 1)


@given(st.text(st.characters()))
def test_no_text_keeps_a_character_that_hides_or_turns_it(text: str) -> None:
    found = evidence.visible({"a": [text]})["a"][0]
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not any(unicodedata.bidirectional(character) in turning for character in found)
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in found)
    found.encode()


def test_building_leaves_its_sources_as_they_were() -> None:
    sources = fabricated.sources()
    evidence.build_all(sources)
    assert sources == fabricated.sources()
