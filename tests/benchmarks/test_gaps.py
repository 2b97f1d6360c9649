"""The gap to retrained models is counted as published tables count it, tuning never sees what the
table is made of, and the ablation says which balance won."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ablation, gaps, kept, methods, worlds
from benchmarks.study import Study
from benchmarks.worlds import World
from tasks.common import files
from tasks.common.errors import WorkspaceError
from tasks.common.settings import Settings, Unlearn, parse
from tasks.unlearning import fcalb
from tasks.unlearning.rivals import registry

digits = worlds.load.__wrapped__
"""As it is before a test replaces it"""
FOUR = {"forget": (0.0, 0.0), "retain": (0.9, 0.01), "test": (0.8, 0.01), "mia": (1.0, 0.0)}


def classes_of_digits() -> World:
    """The digits, of which whole classes are forgotten: zeros in the table, ones to tune on."""
    whole = digits("digits")
    roles = np.where(whole.roles == "control", "calibration", whole.roles)
    return replace(
        whole,
        roles=roles,
        subjects=np.where(roles == "training", whole.labels, -1),
        batches=((0,), (1,)),
        settings=parse({"train": {"epochs": 3}}),
    )


def of_ten(right: list[bool], confidence: list[float]) -> dict[str, float]:
    """Metrics of one model on ten records: four trained on, of which two zeros are forgotten, and
    six unseen."""
    labels = np.array([0, 0, 1, 2, 1, 2, 1, 2, 0, 0])
    world = World(
        "ten",
        np.zeros((10, 1, 8, 8), np.uint8),
        labels,
        np.array([0, 0, 1, 2, *[-1] * 6]),
        np.array(["training"] * 4 + ["test"] * 6),
        ((0,),),
        Settings(),
        "",
    )
    p = np.array(confidence)
    return gaps.metrics(np.log(p / (1 - p)), np.where(right, labels, 9), world, 0, "test")


def test_unseen_records_of_a_class_that_only_the_forget_set_holds_are_left_out() -> None:
    knows = [False, False, True, True, True, True, True, False, False, False]
    result = of_ten(knows, [0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5])
    assert result["forget"] == 0
    assert result["retain"] == 1
    assert result["test"] == 0.75


def test_the_attack_takes_forgotten_records_for_what_they_look_like() -> None:
    high, low = [0.95, 0.96], [0.1, 0.12, 0.11, 0.13, 0.1, 0.12]
    assert of_ten([True] * 10, [0.11, 0.12, *high, *low])["mia"] == 1
    assert of_ten([True] * 10, [0.96, 0.95, *high, *low])["mia"] == 0


def test_the_gap_is_the_mean_difference_in_points_and_none_without_metrics() -> None:
    means = {name: mean for name, (mean, _) in FOUR.items()}
    assert gaps.gap({"metrics": means}, FOUR) == 0
    assert gaps.gap({"metrics": {**means, "forget": 0.2, "test": 0.7}}, FOUR) == pytest.approx(
        (20 + 10) / 4
    )
    assert gaps.gap({"error": "diverged"}, FOUR) is None


def test_every_method_is_in_the_table_with_as_many_tries_its_published_settings_first() -> None:
    grids = gaps.grids(16, 32)
    assert set(grids) == {*fcalb.METHODS, *registry.METHODS}
    for name, wishes in grids.items():
        assert len({repr(wish) for wish in wishes}) == gaps.TRIES
        assert wishes[0] == {"method": name}
        assert {Unlearn.model_validate(wish).method for wish in wishes} == {name}


def row(gap: float, spread: float, time: float = 0.2, diverged: int = 0) -> dict[str, Any]:
    return {**FOUR, "trials": 3, "diverged": diverged, "gap": [gap, spread], "time": time}


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (row(1.0, 0.2), "ahead by more than the spread"),
        (row(2.0, 0.5), "ahead by less than the spread"),
        (row(3.0, 0.1), "not the best"),
        (row(2.5, 0.1), "not the best"),
    ],
)
def test_the_table_says_whether_the_best_fcalb_beats_the_best_rival(
    ours: dict[str, Any], message: str
) -> None:
    result = gaps.finding(
        {
            "exact retrain": row(0.5, 0.1),
            "fcalb": row(9.0, 0.1),
            "fcalb_reset, tuned": ours,
            "fine_tune": row(2.5, 0.2),
            "scrub": row(0.1, 0.1, diverged=1),
        }
    )
    assert message in result
    assert "*fcalb_reset, tuned*" in result
    assert "*fine_tune*" in result


def test_classes_are_forgotten_tuned_and_measured_and_what_is_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = classes_of_digits()
    grid = {
        "fcalb": [
            {"method": "fcalb_plain", "epochs": 0.0},
            {"method": "fcalb_plain", "retained_share": 1.0},
        ],
        "neg_grad": [
            {"method": "neg_grad", "rivals": {"neg_grad_alpha": 0.01, "learning_rate": 9.0}},
            {"method": "neg_grad", "rivals": {"epochs": 0.0}},
        ],
        "fine_tune": [{"method": "fine_tune", "rivals": {"epochs": 0.0}}],
    }
    monkeypatch.setattr(worlds, "load", lambda _: world)
    monkeypatch.setattr(gaps, "grids", lambda *_: grid)
    page, keep, out = tmp_path / "page.md", tmp_path / "keep", tmp_path / "out"
    page.write_text("<!-- gaps digits -->\n<!-- end of gaps digits -->\n", encoding="utf-8")
    study = Study(originals=1, references=2, jobs=1, keep=keep, out=out, page=page)
    gaps.main(study)
    written = files.read_json(out / "gaps-digits.json")
    rows = written["methods"]
    assert rows["exact retrain"]["forget"][0] == 0
    assert rows["exact retrain"]["time"] == 1
    assert rows["unchanged original"]["gap"][0] > 2 * rows["exact retrain"]["gap"][0]
    assert rows["fcalb"]["gap"] == rows["unchanged original"]["gap"]  # no steps change nothing
    assert rows["neg_grad"]["diverged"] == 1
    assert written["settings"]["neg_grad, tuned"] == grid["neg_grad"][1]
    assert written["settings"]["fcalb, tuned"] == grid["fcalb"][1]
    assert "diverged in all 1" in page.read_text(encoding="utf-8")

    made = {path: path.stat().st_mtime_ns for path in keep.rglob("*.*")}
    gaps.main(replace(study, page=None))
    assert {path: path.stat().st_mtime_ns for path in keep.rglob("*.*")} == made


def test_a_world_without_a_forget_set_to_tune_on_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worlds, "load", lambda _: replace(classes_of_digits(), batches=((0,),)))
    with pytest.raises(WorkspaceError, match="garments-class"):
        gaps.main(Study())


def test_tuning_and_the_table_share_no_original_no_forget_set_and_no_unseen_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[gaps.Trial]] = {"calibration": [], "test": []}

    def each(trials: list[gaps.Trial], *_: Any) -> list[dict[str, Any]]:
        for trial in trials:
            seen[trial.role].append(trial)
        whole = dict.fromkeys(gaps.METRICS, 0.5)
        return [{"seconds": 1.0, "metrics": whole, "verdicts": []} for _ in trials]

    monkeypatch.setattr(worlds, "load", lambda _: classes_of_digits())
    monkeypatch.setattr(gaps, "make_models", lambda *_, **__: None)
    monkeypatch.setattr(gaps, "goal", lambda *_: FOUR)
    monkeypatch.setattr(kept, "each", each)
    gaps.main(Study(originals=2, out=tmp_path))
    assert {trial.original for trial in seen["calibration"]} == {2}
    assert {trial.original for trial in seen["test"]} == {0, 1}
    assert not {trial.batch for trial in seen["calibration"]} & {
        trial.batch for trial in seen["test"]
    }


@pytest.mark.skipif(
    not (worlds.DATASETS / "fashion_mnist").exists(),
    reason="needs ../shared/datasets/fashion_mnist",
)
def test_garments_are_forgotten_by_label_or_by_tenth_and_test_images_never() -> None:
    for name, alike in (("garments-class", True), ("garments-random", False)):
        world = worlds.load(name)
        unseen = {*world.subjects[world.roles != "training"]} - {-1}
        assert not unseen & {*world.subjects[world.roles == "training"]}
        assert (len(unseen) > 3) is not alike  # a verdict needs unseen people to compare with
        for batch in world.batches:
            forgotten = np.isin(world.subjects, batch)
            assert 0.08 < forgotten.sum() / (world.roles == "training").sum() < 0.12
            assert (len(set(world.labels[forgotten])) == 1) is alike


def test_an_ablation_changes_one_choice_at_a_time_around_the_two_methods() -> None:
    settings = Settings()
    wishes = ablation.configurations(settings.train)
    default = Unlearn.model_validate(wishes[ablation.DEFAULT]["as it is"])
    assert default == Unlearn(method="fcalb_plain")
    mode = fcalb.effective_settings(
        settings.model_copy(update={"unlearn": Unlearn(method="fcalb_reset")})
    ).unlearn
    reset = Unlearn.model_validate(wishes[ablation.RESET]["as it is"])
    ours = {"method", "balance"}  # a phase after the other has nothing to weigh
    assert reset.model_dump(exclude=ours) == mode.model_dump(exclude=ours)
    parts = {"forget_steps", "forget_rate", "phases", "forget_weight", "balance"}
    for changes in wishes.values():
        base = Unlearn.model_validate(changes["as it is"]).model_dump()
        for what, configured in changes.items():
            new = Unlearn.model_validate(configured).model_dump()
            changed = {key for key in base if base[key] != new[key]}
            assert len(changed - parts) <= 1, what
            assert changed or what == "as it is"


def judged(passes: int, influence: float) -> dict[str, Any]:
    return {
        "pass": passes,
        "influence": [influence - 0.1, influence, influence + 0.1],
        "control": [0.9, 0.01],
    }


def test_the_ablation_says_when_a_fixed_weight_is_as_good_as_one_that_adapts() -> None:
    adaptive = {
        "as it is": judged(2, 0.4),
        **{f"balance {name}": judged(0, 0.1) for name in ablation.ADAPTIVE[1:]},
    }

    def said(fixed: dict[str, Any]) -> str:
        weights = {f"balance fixed, {weight:g}": judged(0, 0.9) for weight in ablation.FIXED}
        return ablation.compared(adaptive | weights | {"balance fixed, 10": fixed}, "default")

    assert "(uncertainty: 2 passes" in said(judged(1, 0.0))
    assert " beats " in said(judged(1, 0.0))
    assert " beats " in said(judged(2, -0.5))
    assert "does not beat the best fixed weight (10" in said(judged(2, 0.4))
    assert "does not beat" in said(judged(3, 0.9))


def test_an_ablation_runs_and_its_table_has_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits("digits")
    small = replace(
        whole, batches=(whole.batches[0][:1],), settings=parse({"train": {"epochs": 2}})
    )
    every = ablation.configurations(small.settings.train)
    balances = {
        what: wish
        for what, wish in every[ablation.JOINT].items()
        if "balance" in what or what == "as it is"
    }
    short = {what: {**wish, "epochs": 0.2} for what, wish in balances.items()}
    monkeypatch.setattr(worlds, "load", lambda _: small)
    monkeypatch.setattr(ablation, "configurations", lambda _: {ablation.JOINT: short})
    page = tmp_path / "page.md"
    page.write_text("<!-- ablation digits -->\n<!-- end of ablation digits -->\n", encoding="utf-8")
    keep = tmp_path / "keep"
    ablation.main(Study(originals=1, references=7, jobs=1, keep=keep, out=tmp_path, page=page))
    text = page.read_text(encoding="utf-8")
    assert all(f"| {what} |" in text for what in short)
    assert "best fixed weight" in text
    rows = files.read_json(tmp_path / "ablation-digits.json")["rows"]
    assert rows[ablation.JOINT]["as it is"]["judged"] == 1
    assert set(methods.RESET) <= set(short["as it is"])


def test_random_tenths_are_judged_as_requests_where_there_are_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits("digits")
    people = np.unique(whole.subjects[whole.roles == "training"]).tolist()
    world = replace(
        whole,
        batches=(tuple(people[:3]), tuple(people[3:6])),
        settings=parse({"train": {"epochs": 6}}),
    )
    monkeypatch.setattr(worlds, "load", lambda _: world)
    monkeypatch.setattr(
        gaps,
        "grids",
        lambda *_: {
            "fcalb": [{"method": "fcalb"}],
            "fine_tune": [{"method": "fine_tune", "rivals": {"epochs": 0.0}}],
        },
    )
    study = Study(originals=1, references=6, jobs=1, keep=tmp_path / "keep", out=tmp_path)
    gaps.main(study)
    rows = files.read_json(tmp_path / "gaps-digits.json")["methods"]
    assert {one["judged"] for one in rows.values()} == {3}
    assert rows["unchanged original"]["passes"] == rows["fine_tune"]["passes"] == 0


def test_lotus_is_told_how_well_calibration_records_are_known_and_nothing_for_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits("digits")
    people = np.unique(whole.subjects[whole.roles == "training"]).tolist()
    random = replace(whole, batches=((people[0],),), settings=parse({"train": {"epochs": 1}}))
    wish = {"method": "lotus"}
    for world, expected in ((random, 0.75), (classes_of_digits(), None)):
        path = gaps.Job("digits", "with", 0, 0, 1, tmp_path).path
        path.parent.mkdir(exist_ok=True)
        calibration = np.flatnonzero(world.roles == "calibration")
        predicted = world.labels.copy()
        predicted[calibration[: len(calibration) // 4]] += 1
        np.savez(path, predicted=predicted)
        trial = gaps.Trial(wish, "digits", 0, 0, "test", 0, 1, 1, tmp_path)
        told = gaps.wish_of(trial, world).rivals.lotus_unseen_accuracy
        assert told == (None if expected is None else pytest.approx(expected, abs=0.01))
