"""The benchmark of error rates runs, goes on where it was stopped, and its planted cases come out
as they must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    confidence,
    kept,
    measure,
    methods,
    pareto,
    parts,
    readings,
    recovery,
    shares,
    tuning,
    verdicts,
    worlds,
)
from benchmarks.study import Study
from tasks.common import files
from tasks.common.errors import WorkspaceError
from tasks.common.settings import Settings, Train, Unlearn
from tasks.unlearning import fcalb

FEW = {"fresh": 1, "planted": 1}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits with one batch of two people and a shorter recipe."""
    whole = worlds.load("digits")
    recipe = whole.settings.train.model_copy(update={"epochs": 8})
    small = replace(
        whole,
        batches=(whole.batches[0][:2],),
        settings=whole.settings.model_copy(update={"train": recipe}),
    )
    monkeypatch.setattr(worlds, "load", lambda _: small)


@pytest.mark.usefixtures("tiny")
def test_planted_models_never_pass_and_a_retrain_never_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- verdicts digits -->\nold\n<!-- end of verdicts digits -->\nafter\n",
        encoding="utf-8",
    )
    keep, out = tmp_path / "keep", tmp_path / "out"
    study = Study(references=7, jobs=1, keep=keep, out=out, page=page)
    verdicts.main(study, **FEW)
    cases = files.read_json(out / "verdicts-digits.json")["cases"]
    assert set(cases) == set(verdicts.CASES)
    assert all(case["judged"] == 2 for case in cases.values())
    assert cases["retrain"]["fail"] == 0
    for name in ("original", "fine_tune", "last_layer", "ascent", "wrong_person"):
        assert cases[name]["pass"] == 0, name
    assert cases["original"]["influence"][1] > 0.5
    assert abs(cases["retrain"]["influence"][1]) < 0.5

    made = {path: path.stat().st_mtime_ns for path in keep.rglob("*.npz")}
    verdicts.main(study, **FEW)
    assert {path: path.stat().st_mtime_ns for path in keep.rglob("*.npz")} == made
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "unchanged original" in text
    assert "old" not in text


@pytest.mark.usefixtures("tiny")
def test_methods_are_tuned_judged_kept_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {
        "exact retrain": {"method": "retrain"},
        "unchanged original": {"method": "none"},
        "FCALB, reset 0.6, third": {**methods.RESET, "epochs": 2.0, "batch_size": 32},
        "blown up": {
            "method": "neg_grad",
            "rivals": {"neg_grad_alpha": 0.01, "learning_rate": 5.0},
        },
    }
    grid = {
        "fine_tune": [
            {"method": "fine_tune", "rivals": {"epochs": length}} for length in (0.0, 1.0)
        ]
    }
    monkeypatch.setattr(methods, "configurations", lambda _: some)
    monkeypatch.setattr(tuning, "grids", lambda *_: grid)
    page, keep, out = tmp_path / "page.md", tmp_path / "keep", tmp_path / "out"
    page.write_text("<!-- methods digits -->\n<!-- end of methods digits -->\n", encoding="utf-8")
    study = Study(originals=1, references=7, jobs=1, keep=keep, out=out, page=page)
    methods.main(study)
    written = files.read_json(out / "methods-digits.json")["methods"]
    assert set(written) == {*some, "fine_tune, tuned"}
    assert written["unchanged original"]["pass"] == 0
    assert written["unchanged original"]["influence"][1] > 0.5
    assert written["blown up"]["diverged"] == 1
    assert written["exact retrain"]["time"] == 1.0
    assert "diverged in all 1" in page.read_text(encoding="utf-8")

    made = {path: path.stat().st_mtime_ns for path in keep.rglob("*.*")}
    methods.main(replace(study, page=None))
    assert {path: path.stat().st_mtime_ns for path in keep.rglob("*.*")} == made

    pareto.main(["digits"], results=out, out=tmp_path / "drawn")
    first = (tmp_path / "drawn" / "trade-digits.svg").read_bytes()
    pareto.main(["digits"], results=out, out=tmp_path / "drawn")
    assert b"FCALB with reset" in first
    assert first == (tmp_path / "drawn" / "trade-digits.svg").read_bytes()


@pytest.mark.usefixtures("tiny")
def test_each_part_of_fcalb_is_left_out_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = parts.configurations(Settings())
    whole = Unlearn.model_validate(wishes["constraint held to the end, weight 0.1"])
    assert whole.reset_until == Unlearn.model_validate(wishes["balance dwa"]).reset_until > 0
    assert Unlearn.model_validate(wishes["without the reset"]).reset_until == 0
    few = ("exact retrain", "unchanged original", "fcalb, the default")
    monkeypatch.setattr(parts, "configurations", lambda _: {name: wishes[name] for name in few})
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text("<!-- parts digits -->\n<!-- end of parts digits -->\n", encoding="utf-8")
    parts.main(Study(originals=1, references=7, jobs=1, keep=tmp_path / "keep", out=out, page=page))
    rows = files.read_json(out / "parts-digits.json")["parts"]
    study = Study(originals=1, references=7, jobs=1, keep=tmp_path / "keep", out=tmp_path / "few")
    parts.main(study, balances=False)
    command = files.read_json(tmp_path / "few" / "parts-digits.json")["command"]
    assert command.endswith("--references 7 --no-balances --seed 1")
    assert rows["unchanged original"]["pass"] == 0
    assert rows["unchanged original"]["influence"][1] > 0.5
    assert abs(rows["fcalb, the default"]["influence"][1]) < 0.5
    assert all(max(row["alike"], row["all_gates"]) <= row["pass"] for row in rows.values())
    assert rows["unchanged original"]["outside"]["view_relearned"] == 2
    assert "| fcalb, the default |" in page.read_text(encoding="utf-8")
    assert set(parts.OF_BALANCES) < set(wishes)
    exact, default = rows["exact retrain"], rows["fcalb, the default"]
    aims = pareto.aims([files.read_json(out / "parts-digits.json")])
    assert f"| {default['all_gates']} : {exact['all_gates']} of 2 |" in aims
    assert f"| {default['time']:.0%} |" in aims
    assert aims.count("| none |") == 1  # no short retrain was measured


def test_a_table_of_parts_says_where_the_default_lies_outside_most_often_first() -> None:
    judged = {"judged": 4, "outside": {"view_copies": 1, "alike_population": 3}}
    sentence, _ = parts.outside({"fcalb, the default": judged})
    assert sentence.endswith("of 4: `alike_population` 3, `view_copies` 1.")
    assert parts.outside({"fcalb, the default": {**judged, "outside": {}}}) == []
    assert parts.outside({"exact retrain": judged}) == []


@pytest.mark.parametrize("epochs", [12, fcalb.LONG_RECIPE])
def test_the_default_is_once_among_the_recoveries_that_are_compared(epochs: int) -> None:
    settings = Settings(train=Train(epochs=epochs))
    wishes = recovery.configurations(settings)
    assert list(wishes.values()).count(parts.by_keys(settings)) == 1
    if epochs < fcalb.LONG_RECIPE:
        twice = 2  # the default is among the resets and the ends as well
        others = 2 * len(recovery.RESETS) + len(recovery.ENDS) + len(recovery.RECOVERIES) - twice
    else:
        others = 2 * len(recovery.RESETS_OF_LONG) + len(recovery.RECOVERIES_OF_LONG) - 1
    assert len(wishes) == 2 + others


def test_originals_as_sure_as_retrained_models_are_in_their_range_and_surer_ones_are_not() -> None:
    models = np.random.default_rng(0).normal(2.0, 0.1, 40)
    alike, surer = (
        confidence.compared(models[:20] + more, [models[20:]], 1e-4) for more in (0.0, 1.0)
    )
    assert (alike["outside"], surer["outside"]) == (0, surer["compared"])
    assert alike["compared"] == 20
    assert surer["distances"][0] - alike["distances"][0] == pytest.approx(
        1 / models[20:].std(ddof=1)
    )


@pytest.mark.usefixtures("tiny")
def test_confidence_of_originals_and_of_retrained_models_is_put_into_the_page(
    tmp_path: Path,
) -> None:
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text("<!-- confidence digits -->\n<!-- end of confidence digits -->\n", "utf-8")
    confidence.main(Study(references=3, jobs=1, keep=tmp_path / "keep", out=out, page=page))
    roles = files.read_json(out / "confidence-digits.json")["roles"]
    assert {role: row["compared"] for role, row in roles.items()} == dict.fromkeys(
        confidence.ROLES, 3
    )
    assert "| calibration |" in page.read_text("utf-8")


@pytest.mark.usefixtures("tiny")
def test_sharing_alpha_out_lets_no_more_models_pass(tmp_path: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text("<!-- shares digits -->\n<!-- end of shares digits -->\n", encoding="utf-8")
    study = Study(references=7, jobs=1, keep=tmp_path / "keep", out=out, page=page)
    shares.main(study, fresh=3)
    ladders = files.read_json(out / "shares-digits.json")["ladders"]
    assert [row["retrain"][1] for row in ladders.values()] == [6, 6, 6]
    assert [row["half_left_shared"][1] for row in ladders.values()] == [6, 2, 2]
    for row in ladders.values():
        assert row["half_left_shared"][0] <= row["half_left_unshared"][0]
        assert row["retrain"][0] <= ladders["1"]["retrain"][0]
    assert "| 3 | 0.0167 |" in page.read_text(encoding="utf-8")


def test_a_model_shown_other_pixels_is_counted_as_misread_and_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {name: readings.VALUES[name] for name in ("-1 … 1", "0 … 255")}
    monkeypatch.setattr(readings, "VALUES", values)
    page = tmp_path / "page.md"
    page.write_text("<!-- readings -->\n<!-- end of readings -->\n", encoding="utf-8")
    readings.main(["digits"], [8], out=tmp_path, page=page)
    row = files.read_json(tmp_path / "readings.json")["rows"]["digits"]
    assert (row["models"], row["stopped"]) == (2, 0)
    assert 0 < row["recognised"] <= row["misreadings"] <= 2
    assert "| digits | 2 | 0 |" in page.read_text(encoding="utf-8")


def test_every_method_has_as_many_tries_and_nobody_who_is_judged_is_tuned_on() -> None:
    for epochs in (12, 120):
        assert {len(tries) for tries in tuning.grids(epochs, 32).values()} == {tuning.BUDGET}
        for tries in tuning.grids(epochs, 32).values():
            for configured in tries:
                Unlearn.model_validate(configured)
    given = worlds.load("digits")
    people = {person for group in tuning.tuning_people(given) for person in group}
    asked = {person for batch in given.batches for person in batch}
    assert not people & asked
    assert people <= set(given.subjects[given.roles == "training"].tolist())


def test_a_try_that_loses_accuracy_or_diverges_comes_last() -> None:
    even = tuning.judged(
        [{"unlike": [0.5, 0.1], "lost": 0.0}, {"unlike": [-0.5, 0.1], "lost": 0.0}], {}
    )
    off = tuning.judged([{"unlike": [0.3, 0.1], "lost": 0.0}], {})
    poor = tuning.judged([{"unlike": [0.0, 0.0], "lost": 2 * tuning.LOST}], {})
    broken = tuning.judged([{"error": "diverged"}], {})
    order = [one["order"] for one in (even, off, poor, broken)]
    assert order == sorted(order)


def test_a_trial_is_known_by_its_fields_and_not_by_where_it_is_kept(tmp_path: Path) -> None:
    trial = tuning.Try({"method": "none"}, "digits", (1,), 0, 7, 1, tmp_path)
    assert kept.name_of(trial) == kept.name_of(replace(trial, keep=Path("elsewhere")))
    assert kept.name_of(trial) != kept.name_of(replace(trial, wish={"method": "retrain"}))


def test_a_table_has_to_know_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(WorkspaceError, match="lacks the marks"):
        measure.insert(page, "verdicts digits", "table")
    assert page.read_text(encoding="utf-8") == "no marks"


def test_an_unknown_world_is_named() -> None:
    with pytest.raises(WorkspaceError, match=r"expected one of .*digits, digits-long"):
        worlds.load.__wrapped__("moon")
