"""The ladder: the first model that passes for everybody is proposed, and nothing above it is
made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import climb, propose, verify
from tasks.common import files, settings
from tasks.common.errors import EvidenceError, SettingsError
from tasks.unlearning import ladder
from tasks.verification import batch_verdicts
from tasks.verification.scoring import Scores
from tests.tasks.verification.test_verdicts import ANSWERS_ALONE, RULES, SEEN, world

LONGER = "ladder.rungs={longer: {after: first, unlearn: {rivals: {epochs: 8}}}}"
TWO = (
    "ladder.rungs={longer: {after: first, unlearn: {reset: 0.7}}, "
    "longest: {after: longer, unlearn: {reset: 0.9}}}"
)
NOTHING, HALF, ALL = 0.0, 0.5, 1.0
"""Residual influence of a model."""
REFERENCES = 32
"""Of each kind. Where they are not normal, p is at least 1 / (all of them + 1): with 16 of each
nothing could pass at a half of 0.05."""


def workspace(place: Path, first: float, *assignments: str, retrained: float = 0.0) -> Scores:
    """A batch whose first model has so much influence left, judged by the stage `verify`."""
    files.write_text(place / "params.yaml", settings.defaults_yaml())
    fixed = ("verify.utility_margin=0.1", *ANSWERS_ALONE)
    settings.assign(place / "params.yaml", [*fixed, *assignments])
    scores = world(first, np.random.default_rng(1), REFERENCES)
    phi = scores.phi.copy()
    phi[scores.model_roles == "retrained", :24] += retrained * SEEN
    scores = replace(scores, phi=phi)
    scores.save(place / "scores.npz")
    models = [
        {"name": role, "role": role, "path": f"{role}.safetensors", "weights_sha256": "0" * 64}
        | {"seconds": 1.0, "device": "cpu", "threads": 1, "precision": "float32", "torch": "2"}
        for role in ("original", "unlearned", "retrained")
    ]
    files.write_json(place / "lineage.json", {"models": models})
    files.write_text(place / "trace.csv", "of the first\n")
    verify.main(
        place / "scores.npz",
        place / "params.yaml",
        place / "verify",
        place / "ladder" / "first" / "outcome.json",
    )
    return scores


def made(place: Path, name: str, scores: Scores, left: float) -> None:
    """A further rung whose model has so much influence left, as the stage `climb` leaves it."""
    said = world(left, np.random.default_rng(2), 6).of_model("unlearned")
    assert said is not None
    folder = place / "ladder" / name
    said.save(folder / ladder.SCORES)
    files.write_text(folder / "trace.csv", f"of {name}\n")
    facts = {"weights_sha256": "1" * 64, "path": f"climb/{name}/unlearned.safetensors"}
    files.write_json(folder / ladder.MODEL, {**facts, "seconds": 2.0, "device": "cpu"})
    chosen = settings.load(place / "params.yaml")
    rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
    judged = ladder.judge(scores.with_unlearned(said), rules)
    ladder.Outcome.of(judged).write(folder / ladder.OUTCOME)


def skipped(place: Path, name: str, after: str) -> dict[str, Any]:
    """What the stage `climb` writes of a rung that is not tried; it is given no data to work
    with."""
    nothing = place / "nothing"
    climb.main(
        name,
        place / "ladder" / after / "outcome.json",
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        place / "params.yaml",
        place / "climb" / name,
        place / "ladder" / name,
    )
    assert not (place / "ladder" / name / ladder.SCORES).exists()
    found: dict[str, Any] = files.read_json(place / "climb" / name / ladder.OUTCOME)
    return found


def proposed(place: Path) -> dict[str, Any]:
    """What the stage `propose` comes to."""
    propose.main(
        place / "ladder",
        place / "scores.npz",
        place / "verify" / "verdicts.json",
        place / "lineage.json",
        place / "trace.csv",
        place / "params.yaml",
        place / "propose",
    )
    found: dict[str, Any] = files.read_json(place / "propose" / "ladder.json")
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the ledger is beside the workspace's files
    return tmp_path


def states(found: dict[str, Any]) -> dict[str, str]:
    return {rung["name"]: rung["state"] for rung in found["rungs"]}


def test_nothing_is_made_above_a_model_that_passes(place: Path) -> None:
    workspace(place, NOTHING, TWO)
    assert skipped(place, "longer", "first")["state"] == "not_needed"
    assert skipped(place, "longest", "longer")["state"] == "not_needed"
    found = proposed(place)
    assert (found["proposed"], found["model"], found["stopped"]) == ("first", "unlearned", "passed")
    assert states(found) == {
        "first": "tried",
        "longer": "not_needed",
        "longest": "not_needed",
        "retrain": "not_needed",
    }
    for name in ("verdicts.json", "lineage.json", "trace.csv"):
        first = {"verdicts.json": "verify/verdicts.json"}.get(name, name)
        assert (place / "propose" / name).read_bytes() == (place / first).read_bytes()


def test_the_second_model_is_proposed_where_the_first_does_not_pass(place: Path) -> None:
    scores = workspace(place, ALL, LONGER)
    made(place, "longer", scores, NOTHING)
    found = proposed(place)
    assert (found["proposed"], found["model"], found["stopped"]) == (
        "longer",
        "unlearned",
        "passed",
    )
    assert [rung["verdicts"] for rung in found["rungs"]] == [{"r": "fail"}, {"r": "pass"}, {}]
    verdicts = files.read_json(place / "propose" / "verdicts.json")
    assert verdicts["requests"]["r"]["verdict"] == "pass"
    model = files.read_json(place / "propose" / "lineage.json")["models"][1]
    assert (model["role"], model["path"]) == ("unlearned", "climb/longer/unlearned.safetensors")
    assert (model["weights_sha256"], model["seconds"]) == ("1" * 64, 2.0)
    assert (place / "propose" / "trace.csv").read_text() == "of longer\n"


def test_the_exact_retrain_is_proposed_where_no_unlearned_model_passes(place: Path) -> None:
    scores = workspace(place, ALL, LONGER)
    made(place, "longer", scores, ALL)
    found = proposed(place)
    assert (found["proposed"], found["model"], found["stopped"]) == (
        "retrain",
        "retrained",
        "passed",
    )
    assert found["rungs"][-1]["cost"] == 0.0
    verdicts = files.read_json(place / "propose" / "verdicts.json")
    assert verdicts["requests"]["r"]["verdict"] == "fail"  # of the first model, which is told of


def test_nothing_is_proposed_where_nothing_passes(place: Path) -> None:
    # a retrain that knows the records cannot be, and is a fault that must not be proposed
    scores = workspace(place, ALL, LONGER, retrained=ALL)
    made(place, "longer", scores, ALL)
    found = proposed(place)
    assert (found["proposed"], found["model"], found["stopped"]) == (None, None, "exhausted")
    assert set(states(found).values()) == {"tried"}


def test_a_rung_beyond_the_budget_is_not_tried_and_takes_no_share(place: Path) -> None:
    workspace(place, ALL, TWO, "ladder.budget=0", "ladder.retrain=false")
    assert skipped(place, "longer", "first")["state"] == "over_budget"
    assert skipped(place, "longest", "longer")["state"] == "over_budget"
    found = proposed(place)
    assert (found["proposed"], found["stopped"]) == (None, "over_budget")
    assert (found["shared_over"], found["alpha_each"]) == (1, 0.05)


def test_a_budget_of_one_rung_leaves_the_next_one_out(place: Path) -> None:
    files.write_text(place / "params.yaml", settings.defaults_yaml())
    one = ladder.cost(settings.assign(place / "params.yaml", [TWO]))
    chosen = settings.assign(place / "params.yaml", [f"ladder.budget={1.5 * one}"])
    assert [rung.affordable for rung in ladder.planned(chosen)] == [True, False]
    assert ladder.alpha(chosen) == pytest.approx(0.025)


def test_nothing_further_is_tried_where_no_model_could_pass(place: Path) -> None:
    files.write_text(place / "params.yaml", settings.defaults_yaml())
    blunt = world(NOTHING, np.random.default_rng(0), REFERENCES, seen=0.1)
    scores = workspace(place, ALL, LONGER)
    replace(scores, phi=blunt.phi).save(place / "scores.npz")
    verify.main(
        place / "scores.npz",
        place / "params.yaml",
        place / "verify",
        place / "ladder" / "first" / "outcome.json",
    )
    assert skipped(place, "longer", "first")["state"] == "hopeless"
    found = proposed(place)
    assert (found["proposed"], found["stopped"]) == (None, "hopeless")
    assert states(found)["retrain"] == "hopeless"


def test_alpha_is_shared_out_over_the_models_that_the_settings_allow(place: Path) -> None:
    workspace(place, NOTHING, TWO)
    verdicts = files.read_json(place / "verify" / "verdicts.json")
    assert verdicts["alpha"] == pytest.approx(0.05 / 3)
    interval = verdicts["requests"]["r"]["residual_influence"]
    assert interval["confidence"] == pytest.approx(1 - 0.1 / 3)


def test_a_model_scored_on_other_records_is_refused(place: Path) -> None:
    scores = workspace(place, ALL, LONGER)
    made(place, "longer", scores, NOTHING)
    said = scores.of_model("unlearned")
    assert said is not None
    replace(said, phi=said.phi[:-1]).save(place / "ladder" / "longer" / ladder.SCORES)
    with pytest.raises(EvidenceError, match="run the stage climb again"):
        proposed(place)


def test_a_rung_that_the_settings_do_not_name_is_refused(place: Path) -> None:
    scores = workspace(place, ALL)
    made(place, "longer", scores, NOTHING)
    with pytest.raises(EvidenceError, match="holds the rungs longer"):
        proposed(place)
    with pytest.raises(SettingsError, match="got the rung 'higher'"):
        skipped(place, "higher", "first")


def test_half_left_in_passes_no_more_often_for_being_tried_three_times() -> None:
    """Monte Carlo of the ladder's idea: the largest influence that the margin allows, three
    models."""
    rng, wrong = np.random.default_rng(0), {0.05: 0, 0.05 / 3: 0}
    batches = 60
    for _ in range(batches):
        tried = [world(HALF, rng, REFERENCES), *(world(HALF, rng, 6) for _ in range(2))]
        scores = tried[0]
        models = [one.of_model("unlearned") for one in tried]
        for alpha in wrong:
            rules = replace(RULES, alpha=alpha)
            wrong[alpha] += any(
                ladder.judge(scores.with_unlearned(model), rules)["r"][0] == "pass"
                for model in models
                if model is not None
            )
    assert wrong[0.05 / 3] / batches <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / batches)
    assert wrong[0.05] > wrong[0.05 / 3]
