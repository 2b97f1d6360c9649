"""The evidence: its fixed shape, what is refused, and what may never stand in it."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.errors import EvidenceError
from tasks.reporting import build_evidence, evidence_measurements, evidence_schema, pages
from tests.worlds import fabricated

SCHEMA = Path(__file__).parents[3] / "docs" / "evidence.schema.json"
TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
KINDS = {
    fabricated.PASS: ("audited", "pass", "pass"),
    fabricated.FAIL: ("audited", "fail", "fail"),
    fabricated.OPEN: ("audited", "inconclusive", "inconclusive"),
    fabricated.BELOW: ("audited", "inconclusive", "below_detection"),
    fabricated.SET_ASIDE: ("rejected", "inconclusive", "rejected"),
    fabricated.UNJUDGED: ("audited", "inconclusive", "inconclusive"),
    fabricated.WEAK: ("audited", "pass", "pass"),
}
TESTED = [name for name in KINDS if name != fabricated.UNJUDGED]


def of(request_id: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """The evidence of one request."""
    found = build_evidence.build_all(fabricated.sources(inputs))
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


@pytest.mark.parametrize("request_id", TESTED)
def test_the_keys_that_other_tools_rely_on_are_always_there(request_id: str) -> None:
    found = of(request_id)
    assert found["schema_version"] == 3
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
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == evidence_schema.schema(), (
        "make docs writes it anew"
    )


@pytest.mark.parametrize("request_id", KINDS)
def test_the_evidence_keeps_to_the_published_schema(request_id: str) -> None:
    jsonschema.Draft202012Validator(evidence_schema.schema()).validate(of(request_id))


@pytest.mark.parametrize(
    "path",
    [
        f"verdicts/requests/{fabricated.PASS}/verdict",
        f"verdicts/requests/{fabricated.PASS}/residual_influence/low",
        f"verdicts/requests/{fabricated.PASS}/accuracy/unlearned/forget",
        f"verdicts/requests/{fabricated.PASS}/gates/0/state",
        f"verdicts/requests/{fabricated.PASS}/self_check/original_caught",
        f"verdicts/requests/{fabricated.PASS}/references/with",
        f"verdicts/requests/{fabricated.PASS}/rank_p",
        f"verdicts/requests/{fabricated.PASS}/attacks",
        f"verdicts/requests/{fabricated.PASS}/attacks/0/auc_band",
        f"verdicts/requests/{fabricated.PASS}/register/holds",
        f"verdicts/requests/{fabricated.PASS}/assumptions/memorised/normal_p",
        f"verdicts/requests/{fabricated.PASS}/accuracy/retrained_low",
        f"verdicts/requests/{fabricated.PASS}/prediction_distribution/unlearned",
        "verdicts/batch/exposure/auc_mean",
        "verdicts/batch/groups/3/worse",
        "verdicts/batch/groups",
        "verdicts/schema_version",
        f"probes/requests/{fabricated.PASS}",
        f"probes/requests/{fabricated.PASS}/cka/unlearned",
        "probes/relearn/steps",
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
        build_evidence.build_all(fabricated.sources(inputs))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.9", 1.2, -0.1])
def test_an_accuracy_that_is_no_share_is_an_error(value: Any) -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["requests"][fabricated.FAIL]["accuracy"]["unlearned"]["forget"] = value
    with pytest.raises(EvidenceError, match=r"accuracy\.unlearned\.forget"):
        build_evidence.build_all(fabricated.sources(inputs))


def test_a_request_that_could_not_be_judged_has_the_reason_and_no_numbers_of_a_test() -> None:
    found = of(fabricated.UNJUDGED)
    assert (found["test"], found["gates"], found["rank_p"], found["assumptions"]) == (
        "none",
        [],
        None,
        None,
    )
    assert found["reason"].startswith("No test could be made")
    assert set(found["self_check"].values()) == {None}
    assert found["accuracy"]["unlearned"]["forget"] == 0.86


@pytest.mark.parametrize(
    "path", ["rank_p", "assumptions", "self_check/retrained", "accuracy/retrained_high"]
)
def test_a_test_with_references_has_all_of_its_parts(path: str) -> None:
    inputs = fabricated.inputs()
    mapping, key = at(inputs["verdicts"]["requests"][fabricated.FAIL], path)
    mapping[key] = None
    with pytest.raises(EvidenceError, match=rf"{key}: null or missing"):
        build_evidence.build_all(fabricated.sources(inputs))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gates", []),
        ("gates/1/state", "open"),
        ("gates/1/state", "bad"),
        ("self_check/original_caught", False),
        ("self_check/retrain_cleared", False),
    ],
)
def test_a_pass_that_its_gates_or_its_self_check_do_not_carry_is_an_error(
    path: str, value: Any
) -> None:
    inputs = fabricated.inputs()
    mapping, key = at(inputs["verdicts"]["requests"][fabricated.PASS], path)
    mapping[int(key) if isinstance(mapping, list) else key] = value
    with pytest.raises(EvidenceError, match="a pass that its gates or its self-check do not carry"):
        build_evidence.build_all(fabricated.sources(inputs))


def test_a_screening_that_says_pass_is_an_error() -> None:
    inputs = fabricated.screening("open")
    verdict = inputs["verdicts"]["requests"][fabricated.PASS]
    verdict["verdict"] = "pass"
    verdict["self_check"].update(original_caught=True, retrain_cleared=True)
    for gate in verdict["gates"]:
        gate["state"] = "good"
    with pytest.raises(EvidenceError, match="a pass that its gates"):
        build_evidence.build_all(fabricated.sources(inputs))


def test_what_did_not_pass_cannot_hold_in_the_register() -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["requests"][fabricated.OPEN]["register"]["holds"] = True
    with pytest.raises(EvidenceError, match=r"register\.holds"):
        build_evidence.build_all(fabricated.sources(inputs))


@pytest.mark.parametrize(("state", "verdict"), [("open", "inconclusive"), ("bad", "fail")])
def test_a_screening_needs_no_retrained_model_and_is_never_below_detection(
    state: str, verdict: str
) -> None:
    found = of(fabricated.PASS, fabricated.screening(state))
    assert (found["test"], found["verdict"], found["outcome"]) == ("screening", verdict, verdict)
    assert found["accuracy"]["retrained"] is None
    assert found["seconds"] == {
        "train": 6.31,
        "unlearn": 0.52,
        "retrain": None,
        "train_source": "original",
    }
    assert found["thresholds"]["mode"] == "screening"
    jsonschema.Draft202012Validator(evidence_schema.schema()).validate(found)


def test_a_screening_of_ones_own_checkpoint_does_not_know_what_training_cost() -> None:
    inputs = fabricated.screening("open")
    inputs["lineage"]["models"][0]["seconds"] = None
    found = of(fabricated.PASS, inputs)["seconds"]
    assert (found["train"], found["train_source"]) == (None, "not known")


def test_without_references_only_a_screening_knows_no_retrained_model() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["models"] = inputs["lineage"]["models"][:2]
    with pytest.raises(EvidenceError, match="no retrained model"):
        build_evidence.build_all(fabricated.sources(inputs))


def test_verdicts_of_an_older_form_are_an_error() -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["schema_version"] = 2
    with pytest.raises(EvidenceError, match="schema version 2, expected 3"):
        build_evidence.build_all(fabricated.sources(inputs))


def test_what_is_told_beside_the_verdict_reaches_the_evidence_as_it_was_measured() -> None:
    inputs, found = fabricated.inputs(), of(fabricated.PASS)
    verdict, batch = inputs["verdicts"]["requests"][fabricated.PASS], inputs["verdicts"]["batch"]
    for key in (
        "attacks",
        "prediction_distribution",
        "accuracy",
        "assumptions",
        "register",
        "p_pass",
    ):
        assert found[key] == verdict[key]
    assert found["retained_exposure"] == batch["exposure"]
    assert found["utility_by_group"] == batch["groups"]
    probes = inputs["probes"]["requests"][fabricated.PASS]
    for name, part in {**probes, "relearn": inputs["probes"]["relearn"]}.items():
        if name != "records":
            assert found["features"][name] == {
                key: value for key, value in part.items() if key != "reason"
            }


@pytest.mark.parametrize(
    "key", ["attacks", "prediction_distribution", "retained_exposure", "utility_by_group"]
)
def test_what_could_not_be_measured_has_its_reason(key: str) -> None:
    inputs, missing = fabricated.inputs(), {"reason": "too few references"}
    inputs["verdicts"]["batch"].update(exposure=missing, groups=missing)
    inputs["verdicts"]["requests"][fabricated.PASS].update(
        attacks=missing, prediction_distribution=missing
    )
    assert of(fabricated.PASS, inputs)[key] == missing


def test_without_probes_the_features_were_not_measured() -> None:
    parts = of(fabricated.PASS, {**fabricated.inputs(), "probes": {}})["features"]
    assert parts == {
        key: {"reason": evidence_measurements.NOT_MEASURED}
        for key in ("linear_probe", "cka", "relearn")
    }
    given = {"schema_version": 1, "reason": "a screening has no retrained models"}
    parts = of(fabricated.PASS, {**fabricated.inputs(), "probes": given})["features"]
    assert parts["cka"] == {"reason": "a screening has no retrained models"}


def test_a_group_cannot_turn_or_hide_text() -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["batch"]["groups"][0].update(column="a\u202eb", value="\u2066x")
    found = of(fabricated.PASS, inputs)["utility_by_group"][0]
    assert (found["column"], found["value"]) == ("a[U+202E]b", "[U+2066]x")


def test_an_accepted_request_without_a_verdict_is_an_error() -> None:
    inputs = fabricated.inputs()
    del inputs["verdicts"]["requests"][fabricated.OPEN]
    with pytest.raises(
        EvidenceError, match=f"no verdict for the accepted request {fabricated.OPEN}"
    ):
        build_evidence.build_all(fabricated.sources(inputs))


def test_a_verdict_of_a_request_that_was_not_accepted_is_an_error() -> None:
    inputs = fabricated.inputs()
    inputs["verdicts"]["requests"][fabricated.SET_ASIDE] = inputs["verdicts"]["requests"][
        fabricated.PASS
    ]
    with pytest.raises(
        EvidenceError, match=f"{fabricated.SET_ASIDE}, which register.json does not accept"
    ):
        build_evidence.build_all(fabricated.sources(inputs))


def test_an_empty_register_is_an_error() -> None:
    with pytest.raises(EvidenceError, match="at least one"):
        build_evidence.build_all(
            fabricated.sources({**fabricated.inputs(), "register": {"batch_requests": []}})
        )


def test_checks_and_scores_of_different_manifests_are_an_error() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["manifest_sha256"] = fabricated.digest("another manifest")
    with pytest.raises(EvidenceError, match="different manifests"):
        build_evidence.build_all(fabricated.sources(inputs))


def test_a_checkpoint_of_ones_own_is_costed_by_the_median_reference_and_says_so() -> None:
    inputs = fabricated.inputs()
    inputs["lineage"]["models"][0]["seconds"] = None
    references = [entry for entry in inputs["lineage"]["models"] if entry["role"] == "with"]
    for entry, seconds in zip(references, [5.0, 9.0, 6.0] + [2.0, 8.0] * 7, strict=True):
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
        build_evidence.build_all(fabricated.sources(inputs))


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
        entry.update(
            subject_id=fabricated.SECRET, subject_identities=[{"identity_value": fabricated.SECRET}]
        )
    assert fabricated.SECRET not in json.dumps(build_evidence.build_all(fabricated.sources(inputs)))


@pytest.mark.parametrize(
    ("regulation", "received"), [(None, None), ("hipaa", "2026-11-14T00:00:00Z"), ("gdpr", "soon")]
)
def test_a_rejected_request_without_a_known_deadline_says_so(
    regulation: str | None, received: str | None
) -> None:
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
    assert (
        of(fabricated.PASS, inputs)["deadline"]["date"] == "2026-12-28"
    )  # Christmas, a Friday, is set as a holiday


def test_provenance_names_changed_settings_and_all_settings() -> None:
    found = of(fabricated.PASS)["provenance"]
    assert found["settings_changed"]["report.controller"] == "Example Clinic"
    assert found["settings"]["verify"]["rho0"] == 0.5
    assert found["seed"] == 0


@given(st.integers(0, 5000))
def test_thinning_keeps_both_ends_and_the_order(count: int) -> None:
    kept = evidence_measurements.thinned(count)
    assert kept == sorted(set(kept))
    assert len(kept) == min(count, evidence_measurements.TRACE_POINTS)
    assert not count or (kept[0], kept[-1]) == (0, count - 1)


@given(st.text(st.characters()))
def test_no_text_keeps_a_character_that_hides_or_turns_it(text: str) -> None:
    found = evidence_schema.visible({"a": [text]})["a"][0]
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not any(unicodedata.bidirectional(character) in turning for character in found)
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in found)
    found.encode()


def test_building_leaves_its_sources_as_they_were() -> None:
    sources = fabricated.sources()
    build_evidence.build_all(sources)
    assert sources == fabricated.sources()


@pytest.mark.parametrize(
    ("method", "saw"), [("fcalb_reset", True), ("distil", True), ("short_retrain", False)]
)
def test_a_model_trained_from_scratch_never_saw_the_records(method: str, saw: bool) -> None:
    inputs = {**fabricated.inputs(), "method": method}
    found = build_evidence.build_all(fabricated.sources(inputs))
    models = next(one for one in found if one["request"]["id"] == fabricated.PASS)["scope"][
        "models"
    ]
    assert {model["role"]: model["saw_records"] for model in models}["unlearned"] is saw


def with_classes(names: list[str] | None, absent: int = -1) -> dict[str, Any]:
    """The evidence of a request where the check of the data found these names of classes, and no
    record of one of them."""
    inputs = fabricated.inputs()
    inputs["data_checks"]["classes"].pop(str(absent), None)
    if names is not None:
        inputs["data_checks"]["class_names"] = names
    return of(fabricated.PASS, inputs)


def row(found: dict[str, Any], name: str, language: Any = "en") -> str | None:
    """The words of a row of the report, or None where there is no such row."""
    html = pages.render(pages.environment(TEMPLATES, language), "report.html.j2", {"e": found})
    cells = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", html, re.DOTALL)
    return cells and " ".join(re.sub(r"<[^>]+>", "", cells.group(1)).split())


def test_the_report_shows_which_name_each_class_has_and_which_class_has_no_record() -> None:
    names = ["cat", "<b>dog</b>", "bird", *"defghij"]
    found = with_classes(names, absent=2)
    assert found["data"]["class_names"] == names
    rest = ["3 d", "4 e", "5 f", "6 g", "7 h", "8 i", "9 j"]
    shown = ["0 cat", "1 &lt;b&gt;dog&lt;/b&gt;"]
    english = ", ".join([*shown, "2 bird (no record)", *rest])
    assert row(found, "Names of the classes") == english
    chinese = "、".join([*shown, "2 bird （无记录）", *rest])
    assert row(found, "类别名称", "zh") == chinese


def test_of_many_classes_the_report_names_twenty_and_the_evidence_all() -> None:
    names = [f"kind {number}" for number in range(1000)]
    found = with_classes(names)
    assert found["data"]["class_names"] == names
    shown = row(found, "Names of the classes") or ""
    assert shown.endswith("19 kind 19 (no record); 980 more are in evidence.json")
    assert "kind 20" not in shown


@pytest.mark.parametrize("names", [None, list("0123456789")])
def test_no_names_are_invented_where_the_classes_have_only_numbers(names: list[str] | None) -> None:
    found = with_classes(names)
    assert found["data"]["class_names"] is None
    assert row(found, "Names of the classes") is None
    assert row(found, "Data set")


@pytest.mark.parametrize("names", ["cat", [1, 2]])
def test_names_of_classes_that_are_no_list_of_texts_are_an_error(names: Any) -> None:
    with pytest.raises(EvidenceError, match="class_names"):
        with_classes(names)
