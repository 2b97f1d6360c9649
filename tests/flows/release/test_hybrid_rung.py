"""A ladder over a pool: the pool alone does not pass the model, the next rung judges by models that
were retrained for the batch as well, and what was tried comes into the signed report."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.intake import pseudonymise
from flows.pipeline import close_batch, prepare
from flows.pools import making
from flows.register.register import Register, State
from flows.release import approval, release
from flows.reports import signature_checks, signing
from flows.workspace import dvc_graph, layout, shell, signing_keys
from tasks.common import files
from tasks.data.importers import digits
from tests.test_end_to_end import IDS, ask, configure, training_subjects

REQUEST = IDS[0]
POOL = "references/pool"
RUNGS = (
    "ladder.rungs={hybrid: {after: first, references: {mode: hybrid, without_blocks: [0, 1, 2]}}}"
)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an audited, signed and closed batch that a pool judged first. The model that
    nothing was unlearned from cannot pass."""
    workspace = tmp_path_factory.mktemp("hybrid") / "workspace"
    layout.init(workspace)
    shell.git(workspace, "config", "user.name", "Tester")
    shell.git(workspace, "config", "user.email", "tester@example.org")
    with contextlib.chdir(workspace):
        digits.import_data(Path("data"), writers=12)
        configure("train.epochs=2", "unlearn.method=none", "pool.folds=3", "pool.with_everybody=1")
        configure("references.with_blocks=[0]", "references.seeds_per_block=1")
        ask(training_subjects(1))
        making.make(workspace, 4, 1, lambda *_: None)
        shell.git(workspace, "add", ".")
        shell.git(workspace, "commit", "--quiet", "-m", "a pool")
        configure("references.mode=pool", f"references.with_from={POOL}")
        configure("references.without_blocks=[0]", "ladder.budget=10", RUNGS)
        configure("verify.min_references=4")
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


def test_the_hybrid_rung_is_judged_where_the_pool_alone_does_not_pass(audited: Path) -> None:
    ladder = files.read_json(audited / "artifacts/propose/ladder.json")
    rungs = {rung["name"]: rung for rung in ladder["rungs"]}
    assert [rungs[name]["state"] for name in ("first", "hybrid")] == ["tried", "tried"]
    assert rungs["first"]["verdicts"] == {REQUEST: "inconclusive"}
    assert rungs["hybrid"]["verdicts"] != {REQUEST: "pass"}
    assert rungs["hybrid"]["references"] == {"mode": "hybrid", "added": 2}
    assert rungs["hybrid"]["cost"] == 2.0  # two models more are trained, from the beginning
    assert ladder["alpha_each"] == pytest.approx(ladder["alpha"] / 2)
    assert dvc_graph.stale(audited) == set()


def test_the_models_that_the_rung_added_are_kept_and_judge_beside_the_pool(audited: Path) -> None:
    models = files.read_json(audited / "artifacts/propose/lineage.json")["models"]
    added = [
        model for model in models if model["path"].startswith("artifacts/climb/hybrid/retrain/")
    ]
    assert [model["name"] for model in added] == ["without-1", "without-2"]
    for model in added:
        assert files.sha256(audited / model["path"]) == model["weights_sha256"]
    alone, beside = (
        files.read_json(audited / folder / "verdicts.json")["requests"][REQUEST]["reason"]
        for folder in ("artifacts/verify", "artifacts/propose")
    )
    assert "exact retrains of this batch" in beside
    assert "exact retrains of this batch" not in alone


def test_the_exact_retrain_is_released_and_the_report_tells_what_was_tried_at_which_cost(
    audited: Path, register: Register
) -> None:
    (request,) = files.read_json(audited / "requests/b.json")
    case, _ = register.receive(pseudonymise.take_in(audited, request), "intake", "test")
    register.verify_identity(case.request_id, "officer", "passport")
    register.collect("b", "nightly")
    register.move([REQUEST], State.AUDITED, "nightly", verdicts={REQUEST: "inconclusive"})
    register.move([REQUEST], State.AWAITING_SIGNOFF, "nightly")
    with contextlib.chdir(audited):
        approval.approve(
            audited, register, "b", "Ada Okafor", "no test decides it", model="retrained"
        )
        done = release.release(audited, register, "b")
    assert (done.model, done.unlearnings) == ("retrained", 0)
    signed = audited / "signed/b" / REQUEST
    evidence = files.read_json(signed / "evidence.json")
    assert (evidence["progress"], evidence["deleted_by_retraining"]) == ("released", True)
    assert [rung["name"] for rung in evidence["ladder"]["rungs"]] == ["first", "hybrid", "retrain"]
    page = (signed / "report.html").read_text(encoding="utf-8")
    row = re.findall(r"<tr><th scope=\"row\">hybrid.*?</tr>", page, re.DOTALL)[0]
    words = " ".join(re.sub(r"<[^>]+>", " ", row).split())
    assert "judged by the pool and by models trained anew for this batch, 2 more reference" in words
    assert "0 of 1" in words
    assert words.endswith("2.00")
    assert signature_checks.verify(signed, signing_keys.trusted(audited))
