"""A ladder with real models, as stages of DVC: the first model fails, more references are trained,
a later model passes, and that one is released."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.intake import pseudonymise
from flows.pipeline import close_batch, prepare, stage_runner
from flows.register.register import Register, State
from flows.release import approval, release
from flows.reports import signature_checks, signing
from flows.workspace import dvc_graph, layout, shell, signing_keys
from tasks.common import files, settings
from tasks.data.importers import digits
from tests.test_end_to_end import IDS, ask, configure, training_subjects

REQUEST = IDS[0]
RUNGS = (
    "ladder.rungs={more: {after: first, references: {without_blocks: [0, 1]}}, "
    "anew: {after: more, unlearn: {method: retrain}}}"
)
WIDE = ("verify.alpha=0.2", "verify.rho0=0.6", "verify.utility_margin=0.3")
"""Limits that lie far from what is measured, so that no processor comes to another verdict."""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an audited, signed and closed batch."""
    workspace = tmp_path_factory.mktemp("ladder") / "workspace"
    layout.init(workspace)
    shell.git(workspace, "config", "user.name", "Tester")
    shell.git(workspace, "config", "user.email", "tester@example.org")
    with contextlib.chdir(workspace):
        digits.import_data(Path("data"), writers=20)
        configure("train.epochs=6", "references.seeds_per_block=8", "unlearn.method=none", *WIDE)
        configure("references.with_blocks=[0]", "references.without_blocks=[0]")
        configure("ladder.budget=10", RUNGS)
        ask(training_subjects(1))
        ready = prepare.prepare(workspace, "b", [])
        for stage in ready.pipeline:
            ready.runner.run(stage.name)
        key = signing_keys.load_key(workspace)
        assert key is not None
        signing.sign(workspace, "b", key)
        close_batch.close(workspace, "b")
    return workspace


@pytest.fixture
def register(audited: Path) -> Iterator[Register]:
    opened = Register(audited)
    yield opened
    opened.close()


def test_each_rung_is_a_stage_that_is_up_to_date_once_it_ran(audited: Path) -> None:
    names = {stage.name for stage in dvc_graph.read(audited)}
    assert {"climb@more", "climb@anew"} <= names
    assert dvc_graph.stale(audited) == set()


def test_the_rungs_are_tried_one_after_the_other_until_a_model_passes(audited: Path) -> None:
    ladder = files.read_json(audited / "artifacts/propose/ladder.json")
    tried = [(rung["name"], rung["state"], rung["verdicts"]) for rung in ladder["rungs"]]
    assert [(name, state) for name, state, _ in tried] == [
        ("first", "tried"),
        ("more", "tried"),
        ("anew", "tried"),
        ("retrain", "not_needed"),
    ]
    assert tried[2][2] == {REQUEST: "pass"}
    assert all(verdicts != {REQUEST: "pass"} for _, _, verdicts in tried[:2])
    assert ladder["alpha_each"] == pytest.approx(0.2 / 3)


def test_the_references_that_a_rung_adds_are_those_of_one_more_block(audited: Path) -> None:
    models = files.read_json(audited / "artifacts/propose/lineage.json")["models"]
    added = [model for model in models if model["path"].startswith("artifacts/climb/more/")]
    assert [model["name"] for model in added] == [f"without-{number}" for number in range(8, 16)]
    for model in added:
        assert files.sha256(audited / model["path"]) == model["weights_sha256"]


def test_a_rung_made_again_from_the_same_inputs_is_the_same(audited: Path) -> None:
    before = files.sha256(audited / "artifacts/climb/anew/unlearned.safetensors")
    stage_runner.Runner(audited, 1).run("climb@anew", force=True)
    assert files.sha256(audited / "artifacts/climb/anew/unlearned.safetensors") == before
    assert dvc_graph.stale(audited) == set()


def test_the_model_of_the_later_rung_is_released_and_its_report_is_signed(
    audited: Path, register: Register
) -> None:
    (request,) = files.read_json(audited / "requests/b.json")
    case, _ = register.receive(pseudonymise.take_in(audited, request), "intake", "test")
    register.verify_identity(case.request_id, "officer", "passport")
    register.collect("b", "nightly")
    register.move([REQUEST], State.AUDITED, "nightly", verdicts={REQUEST: "pass"})
    register.move([REQUEST], State.AWAITING_SIGNOFF, "nightly")
    expected = files.sha256(audited / "artifacts/climb/anew/unlearned.safetensors")
    with contextlib.chdir(audited):
        approval.approve(audited, register, "b", "Ada Okafor", "the third attempt passes")
        done = release.release(audited, register, "b")
    assert done.weights_sha256 == expected
    assert files.sha256(audited / "releases/b/model.safetensors") == expected
    assert done.unlearnings == 0  # this rung trained the model anew
    signed = audited / "signed/b" / REQUEST
    evidence = files.read_json(signed / "evidence.json")
    assert (evidence["progress"], evidence["outcome"]) == ("released", "pass")
    assert evidence["ladder"]["proposed"] == "anew"
    assert evidence["references"]["without"] == 15
    assert "This is attempt 3" in (signed / "report.html").read_text()
    assert signature_checks.verify(signed, signing_keys.trusted(audited))
    assert settings.load(audited / "params.yaml").original.checkpoint.startswith("releases/b")
