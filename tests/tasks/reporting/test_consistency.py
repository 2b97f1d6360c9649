"""The decision box of a report never contradicts itself, whatever the verdict, the references, the
method and the decisions."""

from __future__ import annotations

import itertools
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tasks.reporting import build_evidence, evidence_schema, pages
from tasks.verification import reasons
from tests.worlds import endings, fabricated

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
EVIDENCE = {item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources())}
OUTCOMES = ("pass", "fail", "inconclusive", "below_detection")
NEEDED = (None, 4, 900)
"""references of each kind that would decide it: no number, fewer than there are, more"""
PROGRESS = ("awaiting_signoff", "refused", "released", "erased")
METHODS = ("fcalb_reset", "retrain")
MORE = "Have more reference models trained"
FATES = ("The data", "The model in use", "The answer to the person")


@pytest.fixture(scope="module")
def environment() -> jinja2.Environment:
    return pages.environment(TEMPLATES)


def decision(environment: jinja2.Environment, evidence: dict[str, Any]) -> tuple[str, list[str]]:
    """The words of the decision box, and of it what happens to data, model and answer."""
    html = pages.render(environment, "report.html.j2", {"e": evidence})
    (box,) = re.findall(r'<section class="decision".*?</section>', html, re.DOTALL)
    fates = [
        re.search(rf"<dt>{re.escape(name.replace(chr(39), '&#39;'))}</dt><dd>(.*?)</dd>", box, re.S)
        or re.search(rf"<dt>{re.escape(name)}</dt><dd>(.*?)</dd>", box, re.DOTALL)
        for name in FATES
    ]
    words = " ".join(re.sub(r"<[^>]+>", " ", box).split())
    return words, ["" if fate is None else fate.group(1).strip() for fate in fates]


def case(
    outcome: str, needed: int | None, progress: str, method: str, others: int, doubt: str
) -> dict[str, Any]:
    """Evidence with these facts, its reason made of them as a verdict's is."""
    found = deepcopy(EVIDENCE[fabricated.PASS])
    verdict = "inconclusive" if outcome == "below_detection" else outcome
    found |= {"outcome": outcome, "verdict": verdict, "progress": progress, "advice": []}
    found["references_needed"] = needed
    found["unlearn"]["method"] = method
    found["held_back_by"] = (
        others if outcome == "pass" and progress in ("awaiting_signoff", "refused") else 0
    )
    found["approvals"] = [
        {"at": found["provenance"]["started"], "by": "Ada", "role": "officer", "comment": ""}
        | {"decision": "refuse" if progress == "refused" else "approve", "ground": None}
    ]
    found["completed"] = found["provenance"]["started"]
    if verdict == "inconclusive":
        for gate in found["gates"]:
            gate["state"] = "open" if gate["name"] == doubt else "good"
        references = min(found["references"].values())
        if doubt == "influence" or outcome == "below_detection":
            found["reason"] = str(reasons.more(needed, references))
        else:
            found["reason"] = "Not decided."
    return found


CASES = [
    (outcome, needed, progress, method, others, doubt)
    for outcome, needed, progress, method, others, doubt in itertools.product(
        OUTCOMES, NEEDED, PROGRESS, METHODS, (0, 2), ("influence", "utility_retain")
    )
    # what cannot change the words is asked once
    if (needed is None or outcome in ("inconclusive", "below_detection"))
    and (not others or (outcome == "pass" and progress in ("awaiting_signoff", "refused")))
    and (doubt == "influence" or outcome == "inconclusive")
]


def test_no_combination_of_facts_contradicts_itself(environment: jinja2.Environment) -> None:
    for facts in CASES:
        outcome, needed, progress, method, others, _ = facts
        words, fates = decision(environment, case(*facts))
        assert all(fates), facts
        assert "--set" not in words, facts
        assert "sign in part" not in words, facts
        helps = needed is not None and needed > 8
        if MORE in words:
            assert helps, facts
            assert outcome == "inconclusive", facts
        assert not (MORE in words and ("No number of references" in words)), facts
        waits = progress == "awaiting_signoff"
        decides = "Decide on the release of this model" in words
        assert decides == (waits and outcome == "pass" and not others), facts
        if outcome != "pass":
            assert "Pass:" not in words, facts
        if outcome == "pass":
            assert "Do not count this as a pass" not in words, facts
        if method == "retrain" and waits and outcome != "pass":
            assert "trained anew instead" not in words, facts
        assert ("Erased (part 7)." in fates[0]) == (progress == "erased"), facts


def test_more_references_are_asked_for_where_they_would_decide_it(
    environment: jinja2.Environment,
) -> None:
    facts = ("inconclusive", 900, "awaiting_signoff", "fcalb_reset", 0)
    words, _ = decision(environment, case(*facts, "influence"))
    assert f"{MORE} (about 900 of each kind" in words
    words, _ = decision(environment, case(*facts, "utility_retain"))
    assert MORE not in words
    assert "Only the accuracy of the model is in doubt" in words


@pytest.mark.parametrize("erased", [False, True])
def test_a_request_whose_records_were_in_no_training_has_an_ending_of_its_own(
    environment: jinja2.Environment, erased: bool
) -> None:
    inputs = fabricated.inputs()
    entry = next(
        one
        for one in inputs["register"]["batch_requests"]
        if one["request_id"] == fabricated.SET_ASIDE
    )
    entry["code"] = "not_in_training"
    found = {
        item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources(inputs))
    }[fabricated.SET_ASIDE]
    assert found["outcome"] == "data_only"
    assert found["advice"] == []
    if erased:
        found = {**found, "progress": "erased", "completed": found["provenance"]["started"]}
    evidence_schema.validate(found)
    words, fates = decision(environment, found)
    assert "Data only: no model was trained on these records" in words
    assert "Set aside" not in words
    assert fates[0] == (
        "Erased (part 7)." if erased else "Are erased once the request is approved (part 7)."
    )
    assert "Approve or reject the erasure" in words or erased
    assert "Do not say that the model has forgotten" not in words


def test_a_request_that_was_set_aside_carries_no_advice_about_a_model() -> None:
    assert EVIDENCE[fabricated.FAIL]["advice"]
    assert EVIDENCE[fabricated.SET_ASIDE]["advice"] == []


def test_a_request_is_numbered_as_in_its_file(environment: jinja2.Environment) -> None:
    item = EVIDENCE[fabricated.PASS]
    assert item["request"]["position"] == 1
    html = pages.render(environment, "report.html.j2", {"e": item})
    assert "number 1 of batch" in html


def rung(name: str, verdict: str, passed: int) -> dict[str, Any]:
    method = "retrain" if name == "retrain" else "fcalb_reset"
    return {
        "name": name,
        "state": "tried",
        "method": method,
        "changes": {},
        "references": None,
        "cost": 0.0,
        "seconds": 1.0,
        "verdict": verdict,
        "passed": passed,
    }


def climbed(model: str | None, proposed: str | None, stopped: str) -> dict[str, Any]:
    passed = 2 if model == "retrained" else 1
    return {
        "alpha": 0.05,
        "alpha_each": 0.025,
        "shared_over": 2,
        "budget": 1.0,
        "requests": 2,
        "rungs": [rung("first", "fail", 1), rung("retrain", "pass", passed)],
        "proposed": proposed,
        "model": model,
        "stopped": stopped,
    }


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_a_retrain_that_the_ladder_proposes_is_what_is_asked_for(
    environment: jinja2.Environment, outcome: str
) -> None:
    found = case(outcome, None, "awaiting_signoff", "fcalb_reset", 1, "influence")
    found["ladder"] = climbed("retrained", "retrain", "passed")
    words, (_, model, _) = decision(environment, found)
    assert "Decide on the release of the model trained anew" in words
    assert "after unlearning; the model trained anew passes and is proposed" in words
    assert "It was tested in the same way as the others, and passes for every request" in words
    assert "more influence may be left" not in words
    assert model == "Is replaced by the model trained anew, if that is approved."
    assert "put into a batch of their own" not in words


def test_a_ladder_on_which_nothing_passes_proposes_nothing(
    environment: jinja2.Environment,
) -> None:
    found = case("fail", None, "awaiting_signoff", "fcalb_reset", 0, "influence")
    found["ladder"] = climbed(None, None, "exhausted")
    words, _ = decision(environment, found)
    assert "No model that was tried passes for every request of the batch" in words
    assert "Decide on the release" not in words
    html = pages.render(environment, "report.html.j2", {"e": found})
    assert "2.5%" in html  # what each model is judged at


UNCOVERED = {
    "backups (none is on record)": "none is listed in the settings (report.backups)",
    "models that others may have derived or received (none is on record)": (
        "this tool does not know of them"
    ),
    "models that were handed on (part 8 says to whom)": "part 8 names them and those who have them",
}
"""What the decision says is not covered, and where the annex says so."""


@pytest.mark.parametrize("backups", [False, True])
@pytest.mark.parametrize("handed_on", [False, True])
def test_the_decision_names_what_the_annex_says_is_not_covered(
    environment: jinja2.Environment, handed_on: bool, backups: bool
) -> None:
    chinese = pages.environment(TEMPLATES, "zh")
    for ending, item in endings.all_of_them().items():
        evidence = deepcopy(item)
        if not backups:
            evidence["copies"] = [copy for copy in item["copies"] if copy["kind"] != "backup"]
        if handed_on:
            model = {"model": "reader 2", "to": "a partner", "recall": "asked for"}
            evidence["organisation"]["derived_models"] = [model]
        html = pages.render(environment, "report.html.j2", {"e": evidence})
        box, annex = html.split('<h2 class="part"')
        is_claimed = ending not in ("set aside", "refused")  # else the audit claims nothing
        assert ("Not covered:" in box) == is_claimed, ending
        for named, stated in UNCOVERED.items():
            assert (named in box) == (is_claimed and stated in annex), (ending, named)
        assert (UNCOVERED["backups (none is on record)"] in annex) == (not backups)
        assert ("recall: asked for" in annex) == handed_on
        in_chinese = pages.render(chinese, "report.html.j2", {"e": evidence})
        assert ("不在审计范围内：" in in_chinese.split('<h2 class="part"')[0]) == is_claimed
