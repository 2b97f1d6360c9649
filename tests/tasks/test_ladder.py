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
from tasks.verification.scoring import ModelScores, Scores
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


def workspace(folder: Path, first: float, *assignments: str, retrained: float = 0.0) -> Scores:
    """A batch whose first model has so much influence left, judged by the stage `verify`."""
    files.write_text(folder / "params.yaml", settings.defaults_yaml())
    fixed = ("verify.utility_margin=0.1", *ANSWERS_ALONE)
    settings.assign(folder / "params.yaml", [*fixed, *assignments])
    scores = world(first, np.random.default_rng(1), REFERENCES)
    phi = scores.phi.copy()
    phi[scores.model_roles == "retrained", :24] += retrained * SEEN
    scores = replace(scores, phi=phi)
    scores.save(folder / "scores.npz")
    models = [
        {"name": role, "role": role, "path": f"{role}.safetensors", "weights_sha256": "0" * 64}
        | {"seconds": 1.0, "device": "cpu", "threads": 1, "precision": "float32", "torch": "2"}
        for role in ("original", "unlearned", "retrained")
    ]
    files.write_json(folder / "lineage.json", {"models": models})
    files.write_text(folder / "trace.csv", "of the first\n")
    verify.main(
        folder / "scores.npz",
        folder / "params.yaml",
        folder / "verify",
        folder / "ladder" / "first" / "outcome.json",
    )
    return scores


def made(root: Path, name: str, scores: Scores, left: float) -> None:
    """A further rung whose model has so much influence left, as the stage `climb` leaves it."""
    said = world(left, np.random.default_rng(2), 6).of_model("unlearned")
    assert said is not None
    folder = root / "ladder" / name
    said.save(folder / ladder.SCORES)
    files.write_text(folder / "trace.csv", f"of {name}\n")
    facts = {"weights_sha256": "1" * 64, "path": f"climb/{name}/unlearned.safetensors"}
    files.write_json(folder / ladder.MODEL, {**facts, "seconds": 2.0, "device": "cpu"})
    chosen = settings.load(root / "params.yaml")
    rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
    judged = ladder.judge(scores.with_unlearned(said), rules)
    ladder.Outcome.of(judged).write(folder / ladder.OUTCOME)


def skipped(folder: Path, name: str, after: str) -> dict[str, Any]:
    """What the stage `climb` writes of a rung that is not tried; it is given no data to work
    with."""
    nothing = folder / "nothing"
    climb.main(
        name,
        folder / "ladder" / after,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        folder / "params.yaml",
        folder / "climb" / name,
        folder / "ladder" / name,
    )
    assert not (folder / "ladder" / name / ladder.SCORES).exists()
    written: dict[str, Any] = files.read_json(folder / "climb" / name / ladder.OUTCOME)
    return written


def proposed(folder: Path) -> dict[str, Any]:
    """What the stage `propose` comes to."""
    propose.main(
        folder / "ladder",
        folder / "scores.npz",
        folder / "verify" / "verdicts.json",
        folder / "lineage.json",
        folder / "trace.csv",
        folder / "params.yaml",
        folder / "propose",
    )
    written: dict[str, Any] = files.read_json(folder / "propose" / "ladder.json")
    return written


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the ledger is beside the workspace's files
    return tmp_path


def states(results: dict[str, Any]) -> dict[str, str]:
    return {rung["name"]: rung["state"] for rung in results["rungs"]}


def test_nothing_is_made_above_a_model_that_passes(folder: Path) -> None:
    workspace(folder, NOTHING, TWO)
    assert skipped(folder, "longer", "first")["state"] == "not_needed"
    assert skipped(folder, "longest", "longer")["state"] == "not_needed"
    result = proposed(folder)
    assert (result["proposed"], result["model"], result["stopped"]) == (
        "first",
        "unlearned",
        "passed",
    )
    assert states(result) == {
        "first": "tried",
        "longer": "not_needed",
        "longest": "not_needed",
        "retrain": "not_needed",
    }
    for name in ("verdicts.json", "lineage.json", "trace.csv"):
        first = {"verdicts.json": "verify/verdicts.json"}.get(name, name)
        assert (folder / "propose" / name).read_bytes() == (folder / first).read_bytes()


def test_the_second_model_is_proposed_where_the_first_does_not_pass(folder: Path) -> None:
    scores = workspace(folder, ALL, LONGER)
    made(folder, "longer", scores, NOTHING)
    result = proposed(folder)
    assert (result["proposed"], result["model"], result["stopped"]) == (
        "longer",
        "unlearned",
        "passed",
    )
    assert [rung["verdicts"] for rung in result["rungs"]] == [{"r": "fail"}, {"r": "pass"}, {}]
    verdicts = files.read_json(folder / "propose" / "verdicts.json")
    assert verdicts["requests"]["r"]["verdict"] == "pass"
    model = files.read_json(folder / "propose" / "lineage.json")["models"][1]
    assert (model["role"], model["path"]) == ("unlearned", "climb/longer/unlearned.safetensors")
    assert (model["weights_sha256"], model["seconds"]) == ("1" * 64, 2.0)
    assert (folder / "propose" / "trace.csv").read_text() == "of longer\n"


def test_the_exact_retrain_is_proposed_where_no_unlearned_model_passes(folder: Path) -> None:
    scores = workspace(folder, ALL, LONGER)
    made(folder, "longer", scores, ALL)
    result = proposed(folder)
    assert (result["proposed"], result["model"], result["stopped"]) == (
        "retrain",
        "retrained",
        "passed",
    )
    assert result["rungs"][-1]["cost"] == 0.0
    verdicts = files.read_json(folder / "propose" / "verdicts.json")
    assert verdicts["requests"]["r"]["verdict"] == "fail"  # of the first model, which is told of


def test_nothing_is_proposed_where_nothing_passes(folder: Path) -> None:
    # a retrain that knows the records cannot be, and is a fault that must not be proposed
    scores = workspace(folder, ALL, LONGER, retrained=ALL)
    made(folder, "longer", scores, ALL)
    result = proposed(folder)
    assert (result["proposed"], result["model"], result["stopped"]) == (None, None, "exhausted")
    assert set(states(result).values()) == {"tried"}


def test_a_rung_beyond_the_budget_is_not_tried_and_takes_no_share(folder: Path) -> None:
    workspace(folder, ALL, TWO, "ladder.budget=0", "ladder.retrain=false")
    assert skipped(folder, "longer", "first")["state"] == "over_budget"
    assert skipped(folder, "longest", "longer")["state"] == "over_budget"
    result = proposed(folder)
    assert (result["proposed"], result["stopped"]) == (None, "over_budget")
    assert (result["shared_over"], result["alpha_each"]) == (1, 0.05)


def test_a_budget_of_one_rung_leaves_the_next_one_out(folder: Path) -> None:
    files.write_text(folder / "params.yaml", settings.defaults_yaml())
    one = ladder.cost(settings.assign(folder / "params.yaml", [TWO]))
    chosen = settings.assign(folder / "params.yaml", [f"ladder.budget={1.5 * one}"])
    assert [rung.affordable for rung in ladder.planned_rungs(chosen)] == [True, False]
    assert ladder.alpha(chosen) == pytest.approx(0.025)


def test_nothing_further_is_tried_where_no_model_could_pass(folder: Path) -> None:
    files.write_text(folder / "params.yaml", settings.defaults_yaml())
    blunt = world(NOTHING, np.random.default_rng(0), REFERENCES, seen=0.1)
    scores = workspace(folder, ALL, LONGER)
    replace(scores, phi=blunt.phi).save(folder / "scores.npz")
    verify.main(
        folder / "scores.npz",
        folder / "params.yaml",
        folder / "verify",
        folder / "ladder" / "first" / "outcome.json",
    )
    assert skipped(folder, "longer", "first")["state"] == "hopeless"
    result = proposed(folder)
    assert (result["proposed"], result["stopped"]) == (None, "hopeless")
    assert states(result)["retrain"] == "hopeless"


def test_alpha_is_shared_out_over_the_models_that_the_settings_allow(folder: Path) -> None:
    workspace(folder, NOTHING, TWO)
    verdicts = files.read_json(folder / "verify" / "verdicts.json")
    assert verdicts["alpha"] == pytest.approx(0.05 / 3)
    interval = verdicts["requests"]["r"]["residual_influence"]
    assert interval["confidence"] == pytest.approx(1 - 0.1 / 3)


def test_a_model_scored_on_other_records_is_refused(folder: Path) -> None:
    scores = workspace(folder, ALL, LONGER)
    made(folder, "longer", scores, NOTHING)
    texts = scores.of_model("unlearned")
    assert texts is not None
    replace(texts, phi=texts.phi[:-1]).save(folder / "ladder" / "longer" / ladder.SCORES)
    with pytest.raises(EvidenceError, match="run the stage climb again"):
        proposed(folder)


def test_a_rung_that_the_settings_do_not_name_is_refused(folder: Path) -> None:
    scores = workspace(folder, ALL)
    made(folder, "longer", scores, NOTHING)
    with pytest.raises(EvidenceError, match="holds the rungs longer"):
        proposed(folder)
    with pytest.raises(SettingsError, match="got the rung 'higher'"):
        skipped(folder, "higher", "first")


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


MORE = (
    "ladder.rungs={more: {after: first, references: {with_blocks: [0, 1, 2], "
    "without_blocks: [0, 1, 2]}}}"
)
ENOUGH = "ladder.budget=17"


def judged_with_more(folder: Path, name: str, left: float, seen: float = SEEN) -> None:
    """A rung that adds a block of references of each kind, as the stage `climb` leaves it."""
    chosen = settings.load(folder / "params.yaml")
    rung_folder, size = folder / "ladder" / name, chosen.references.seeds_per_block
    added = world(left, np.random.default_rng(3), size, seen=seen)
    said = added.of_model("unlearned")
    assert said is not None
    said.save(rung_folder / ladder.SCORES)
    files.write_text(rung_folder / "trace.csv", f"of {name}\n")
    facts = {"weights_sha256": "1" * 64, "path": f"climb/{name}/unlearned.safetensors"}
    files.write_json(rung_folder / ladder.MODEL, {**facts, "seconds": 2.0, "device": "cpu"})
    models = []
    for row in np.flatnonzero(np.isin(added.model_roles, ("with", "without"))):
        reference = {"name": f"more-{row}", "role": str(added.model_roles[row])}
        models.append({**reference, "path": "x", "weights_sha256": "2" * 64, "seconds": 1.0})
        scored = ModelScores(added.phi[row], added.predicted[row])
        scored.save(rung_folder / ladder.REFERENCES / f"{reference['name']}.npz")
    files.write_json(rung_folder / f"{ladder.REFERENCES}.json", models)
    rules = batch_verdicts.rules(chosen.verify, ladder.alpha(chosen))
    table = ladder.scores_with(
        Scores.load(folder / "scores.npz"), rung_folder, chosen.on_rung(name)
    )
    ladder.Outcome.of(ladder.judge(table.with_unlearned(said), rules)).write(
        rung_folder / ladder.OUTCOME
    )


def test_a_rung_with_more_references_judges_with_all_of_them(folder: Path) -> None:
    workspace(folder, HALF, MORE, ENOUGH)
    judged_with_more(folder, "more", NOTHING)
    summary = proposed(folder)
    assert (summary["proposed"], summary["reported"]) == ("more", "more")
    assert (summary["shared_over"], summary["alpha_each"]) == (2, 0.025)
    rung = summary["rungs"][1]
    assert rung["references"] == {"mode": "batch", "added": 16}
    assert rung["cost"] == pytest.approx(16 + summary["rungs"][0]["cost"])
    verdict = files.read_json(folder / "propose" / "verdicts.json")["requests"]["r"]
    assert verdict["references"] == {"with": REFERENCES + 8, "without": REFERENCES + 8}
    roles = [
        model["role"] for model in files.read_json(folder / "propose" / "lineage.json")["models"]
    ]
    assert (roles.count("with"), roles.count("without")) == (8, 8)  # of the first rung none is told


def test_more_references_are_tried_where_the_test_is_too_blunt_for_any_model(folder: Path) -> None:
    scores = workspace(folder, ALL, MORE, ENOUGH)
    blunt = world(NOTHING, np.random.default_rng(0), REFERENCES, seen=0.1)
    replace(scores, phi=blunt.phi).save(folder / "scores.npz")
    verify.main(
        folder / "scores.npz",
        folder / "params.yaml",
        folder / "verify",
        folder / "ladder" / "first" / "outcome.json",
    )
    first = ladder.Outcome.read(folder / "ladder" / "first" / "outcome.json")
    assert (first.next_state(), first.next_state(judges_otherwise=True)) == ("hopeless", "tried")
    judged_with_more(folder, "more", NOTHING, seen=0.1)
    assert proposed(folder)["stopped"] == "hopeless"


def test_where_nothing_passes_the_report_tells_of_the_rung_with_the_most_references(
    folder: Path,
) -> None:
    workspace(folder, ALL, MORE, ENOUGH, "ladder.retrain=false")
    judged_with_more(folder, "more", ALL)
    summary = proposed(folder)
    assert (summary["proposed"], summary["reported"], summary["stopped"]) == (
        None,
        "more",
        "exhausted",
    )
    verdict = files.read_json(folder / "propose" / "verdicts.json")["requests"]["r"]
    assert verdict["references"]["with"] == REFERENCES + 8


def test_references_cost_a_training_each_and_so_need_a_budget(folder: Path) -> None:
    workspace(folder, ALL, MORE)
    assert skipped(folder, "more", "first")["state"] == "over_budget"
    assert proposed(folder)["shared_over"] == 1


def test_references_stay_for_the_rungs_above_and_unlearning_for_those_that_change_none(
    folder: Path,
) -> None:
    files.write_text(folder / "params.yaml", settings.defaults_yaml())
    rungs = (
        "ladder.rungs={longer: {after: first, unlearn: {rivals: {epochs: 8}}}, more: {after: "
        "longer, references: {without_blocks: [0, 1, 2]}}, longest: {after: more, unlearn: "
        "{reset: 0.9}}}"
    )
    chosen = settings.assign(folder / "params.yaml", [rungs])
    assert chosen.on_rung("more").unlearn == chosen.on_rung("longer").unlearn
    assert chosen.on_rung("longest").references.without_blocks == (0, 1, 2)
    assert chosen.on_rung("longest").unlearn.rivals.epochs is None
    assert [rung.added for rung in ladder.planned_rungs(chosen)] == [0, 8, 0]


def test_a_pool_becomes_hybrid_by_the_models_that_are_retrained_for_the_batch() -> None:
    scores = world(NOTHING, np.random.default_rng(0), 4)
    model = scores.of_model("unlearned")
    assert model is not None
    further = scores.with_references([("without", model)], hybrid=True)
    assert (further.model_roles == "fresh").sum() == 5
    assert not (further.model_roles == "without").any()


@pytest.mark.parametrize(
    ("rung", "complaint"),
    [
        ("{after: first}", "a rung changes nothing"),
        ("{after: first, references: {seeds_per_block: 9}}", "cannot change on a rung"),
        ("{after: first, references: {without_blocks: [0]}}", "fewer blocks than the rung below"),
        ("{after: first, references: {mode: hybrid}}", "only a pool can become hybrid"),
        ("{after: first, references: {with_blocks: [0, 1]}}", "is the same as a rung below it"),
        ("{after: first, references: {with_blocks: [1]}}", "references.with_blocks: got"),
    ],
)
def test_references_of_a_rung_that_cannot_be_are_refused(
    folder: Path, rung: str, complaint: str
) -> None:
    files.write_text(folder / "params.yaml", settings.defaults_yaml())
    with pytest.raises(SettingsError, match=complaint):
        settings.assign(folder / "params.yaml", [f"ladder.rungs={{more: {rung}}}"])
