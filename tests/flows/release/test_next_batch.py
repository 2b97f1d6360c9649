"""From one batch to the next, with real models: what the released model and its references saw, and
nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.intake import pseudonymise
from flows.pipeline import close_batch, provenance, results, stage_runner
from flows.register.register import Register, State
from flows.release import (
    approval,
    model_card,
    release,
)
from flows.release.release_contents import ReleaseError
from flows.reports import signature_checks, signing
from flows.workspace import dvc_graph, layout, shell, signing_keys
from tasks import (
    check,
    pack,
    probe,
    propose,
    report,
    resolve,
    retrain,
    score,
    split,
    unlearn,
    verify,
)
from tasks.common import files, settings
from tasks.common.errors import EvidenceError, SettingsError
from tasks.data import records
from tasks.data.importers import digits
from tasks.reporting import build_evidence, evidence_sources
from tasks.training import release_lineage
from tasks.verification.scoring import Scores
from tests.test_end_to_end import IDS, PACK, ask, configure, prepare, training_subjects


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a batch b that was run by hand: one person forgotten of a tiny world, 7
    models of each kind."""
    home = tmp_path_factory.mktemp("next") / "workspace"
    layout.init(home)
    shell.git(home, "config", "user.name", "Tester")
    shell.git(home, "config", "user.email", "tester@example.org")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        digits.import_data(Path("data"), writers=20)
        layout.track_data(home)
        configure(
            "batch=b", "train.epochs=1", "references.seeds_per_block=7", "unlearn.method=fcalb"
        )
        configure("references.with_blocks=[0]", "references.without_blocks=[0]")
        ask(training_subjects(1))
        prepare()
        forget_and_retrain()
        score_it()
        judge_it()
        done = (
            "pack",
            "check",
            "split",
            "train@0",
            "resolve",
            "unlearn",
            "retrain@0",
            "score",
            "verify",
            "propose",
            "probe",
        )
        shell.dvc(home, "commit", "--quiet", "--force", *done)
        stage_runner.Runner(home, 1).run("report")
        key = signing_keys.load_key(home)
        assert key is not None
        signing.sign(home, "b", key)
        close_batch.close(home, "b")
    return home


@pytest.fixture
def home(closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(closed, tmp_path / "workspace", symlinks=True)
    monkeypatch.chdir(tmp_path / "workspace")
    return tmp_path / "workspace"


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    found = Register(home)
    yield found
    found.close()


def judge_it() -> None:
    """The stages verify, propose and probe, and the batch's record."""
    params, scores = Path("params.yaml"), Path("artifacts/score/scores.npz")
    rungs = Path("artifacts/ladder")
    verify.main(scores, params, Path("artifacts/verify"), rungs / "first" / "outcome.json")
    propose.main(
        rungs,
        scores,
        Path("artifacts/verify/verdicts.json"),
        Path("artifacts/score/lineage.json"),
        Path("artifacts/unlearn/trace.csv"),
        params,
        Path("artifacts/propose"),
    )
    probe.main(
        Path(settings.load(params).original.checkpoint),
        Path("artifacts/unlearn/unlearned.safetensors"),
        Path("artifacts/retrain"),
        Path("data"),
        PACK,
        Path("artifacts/split.csv"),
        FORGET,
        params,
        Path("artifacts/probe"),
    )
    provenance.write(Path.cwd(), settings.load(params))


def forget_and_retrain() -> None:
    """The stages unlearn and retrain, after `prepare`."""
    params, data, roles, forget = (
        Path("params.yaml"),
        Path("data"),
        Path("artifacts/split.csv"),
        FORGET,
    )
    checkpoint = Path(settings.load(params).original.checkpoint)
    unlearn.main(checkpoint, data, PACK, roles, forget, params, Path("artifacts/unlearn"))
    if not Path("artifacts/retrain/0").exists():
        retrain.main(0, data, PACK, roles, forget, params, Path("artifacts/retrain/0"))


FORGET = Path("artifacts/resolve/forget.csv")


def next_batch(subject: str) -> None:
    """Everything of a second batch up to its models; `train` is not among it."""
    shutil.rmtree("artifacts")
    files.write_text(
        Path("requests/c.json"),
        Path("requests/b.json").read_text().replace(training_subjects(1)[0], subject),
    )
    ask([subject])
    pack.main(Path("data"), Path("params.yaml"), PACK)
    check.check(
        Path("data"), PACK, Path("requests/b.json"), Path("params.yaml"), Path("artifacts/check")
    )
    split.split()
    resolve.resolve(requests=Path("requests/b.json"))
    forget_and_retrain()


def score_it() -> Scores:
    wish = settings.load(Path("params.yaml"))
    score.main(
        Path(wish.original.checkpoint),
        Path(wish.references.with_from),
        Path("artifacts/unlearn/unlearned.safetensors"),
        Path("artifacts/retrain"),
        Path("data"),
        PACK,
        Path("artifacts/split.csv"),
        FORGET,
        Path("params.yaml"),
        Path("artifacts/score"),
    )
    return Scores.load(Path("artifacts/score/scores.npz"))


def test_the_next_batch_starts_from_the_release_and_is_judged_by_what_the_last_one_retrained(
    home: Path, register: Register
) -> None:
    before = records.read_manifest(Path("data"))
    roles = records.read_roles(Path("artifacts/split.csv"), before)
    gone = set(before["record_id"][records.read_forget(FORGET, before) != ""])
    person, successor = training_subjects(2)
    approval.approve(home, register, "b", "Ada Okafor", "small world", model="retrained")

    done = release.release(home, register, "b")

    assert done.references == 6  # seed 0 goes on as the model in use, so it is no reference
    assert done.records_dropped == len(gone)
    assert shell.git(home, "status", "--porcelain", "--untracked-files=no") == ""
    after = records.read_manifest(Path("data"))
    assert person not in set(after["subject_id"])
    assert not (Path("data") / before.set_index("record_id")["path"][sorted(gone)[0]]).exists()
    kept = dict(zip(before["record_id"], roles, strict=True))
    assert all(
        kept[name] == role for name, role in zip(after["record_id"], after["split"], strict=True)
    )
    assert [stage.name for stage in dvc_graph.read(home) if stage.name.startswith("train")] == []
    tells_of_the_decision_and_is_signed(home)
    can_be_served(home)

    trained = int((after["split"] == "training").sum())
    assert (done.unlearnings, done.advice) == (0, ())

    next_batch(successor)
    scores = score_it()
    fresh = {"unlearnings": 0, "forgotten": 0, "trained": trained}
    lineage = files.read_json(Path("artifacts/score/lineage.json"))
    assert lineage["history"] == fresh
    assert [m["path"] for m in lineage["models"] if m["role"] == "original"] == [
        "releases/b/model.safetensors"
    ]
    assert (scores.model_roles == "with").sum() == 6
    assert (scores.model_roles == "without").sum() == 6
    assert (scores.requests == IDS[0]).any()
    assert {m["path"].rpartition("/")[0] for m in lineage["models"] if m["role"] == "with"} == {
        "references/b"
    }
    assert all(m["seconds"] is not None for m in lineage["models"] if m["role"] == "with")

    refuses_other_records_and_other_recipes()
    shell.dvc(home, "commit", "--quiet", "--force", "pack", "check")
    shell.git(home, "add", "--all")
    tag = close_batch.close(home, "c")
    there = set(shell.git(home, "ls-tree", "-r", "--name-only", tag).splitlines())
    assert {"references/b.dvc", "releases/b.dvc", "data.dvc"} <= there


def tells_of_the_decision_and_is_signed(home: Path) -> None:
    """The final report quotes who approved what, and the signature is over that."""
    own = home / "signed/b" / IDS[0]
    found = files.read_json(own / "evidence.json")
    assert found["progress"] == "released"
    assert [(one["by"], one["decision"]) for one in found["approvals"]] == [
        ("Ada Okafor", "approve")
    ]
    assert "Ada Okafor" in (own / "report.html").read_text()
    assert signature_checks.verify(own, signing_keys.trusted(home))


def can_be_served(home: Path) -> None:
    """The lines of the model card give answers from what `dvc get` brings."""
    import torch

    shell.dvc(home.parent, "get", str(home), "releases/b", "--rev", "release/b", "--out", "served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home.parent)
        known: dict[str, Any] = {}
        exec(model_card.LOADER, known)
        answers = known["classify"](torch.zeros(3, 1, 16, 16, dtype=torch.uint8))
    assert answers.shape == (3,)


def refuses_other_records_and_other_recipes() -> None:
    """The lineage is compared before the references are used."""
    wish = settings.load(Path("params.yaml"))
    folder, manifest = Path(wish.references.with_from), records.read_manifest(Path("data"))
    rows = records.read_roles(Path("artifacts/split.csv"), manifest) == "training"
    assert len(release_lineage.references(folder, manifest, rows, wish)) == 6
    fewer = rows.copy()
    fewer[rows.argmax()] = False
    with pytest.raises(EvidenceError, match="not trained on the current training records"):
        release_lineage.references(folder, manifest, fewer, wish)
    other = wish.model_copy(update={"train": wish.train.model_copy(update={"epochs": 9})})
    with pytest.raises(EvidenceError, match=r"another recipe \(train differ\)"):
        release_lineage.references(folder, manifest, rows, other)
    (folder / "seed-3.safetensors").write_bytes(b"altered")
    with pytest.raises(EvidenceError, match="seed-3"):
        release_lineage.references(folder, manifest, rows, wish)


def test_a_model_that_did_not_pass_is_not_released_whoever_approves(
    home: Path, register: Register
) -> None:
    awaits_signoff(home, register, "pass")  # whatever the evidence says
    approval.approve(home, register, "b", "Ada", "as planted")
    manifest = Path("data/manifest.csv").read_bytes()
    with pytest.raises(ReleaseError, match="--model retrained"):
        release.release(home, register, "b")
    assert Path("data/manifest.csv").read_bytes() == manifest
    assert not Path("releases/b").exists()


def test_where_everybody_passed_the_unlearned_model_goes_on_and_the_baseline_is_a_reference(
    home: Path, register: Register
) -> None:
    passes(home)
    advised = results.advice(home, "b")
    assert any("unlearnings" in reason for reason in advised)
    awaits_signoff(home, register, "pass")
    expected = files.sha256(Path("artifacts/unlearn/unlearned.safetensors"))
    successor = training_subjects(2)[1]
    approval.approve(home, register, "b", "Ada", "as planted")
    done = release.release(home, register, "b")
    assert done.references == 7
    assert (done.unlearnings, done.advice) == (1, tuple(advised))
    assert files.sha256(Path("releases/b/model.safetensors")) == expected == done.weights_sha256
    assert settings.load(Path("params.yaml")).original.checkpoint == "releases/b/model.safetensors"
    counts_one_unlearning_after_another(successor)


def awaits_signoff(home: Path, register: Register, verdict: str) -> None:
    """The register knows the batch, and was told of a verdict."""
    (value,) = files.read_json(Path("requests/b.json"))
    case, _ = register.receive(pseudonymise.take_in(home, value), "intake", "test")
    register.verify_identity(case.request_id, "officer", "passport")
    register.collect("b", "nightly")
    register.move([case.request_id], State.AUDITED, "nightly", verdicts={case.request_id: verdict})
    register.move([case.request_id], State.AWAITING_SIGNOFF, "nightly")


def passes(home: Path) -> None:
    """The audit of the batch found a pass, and advises a retrain."""
    path = Path("artifacts/propose/verdicts.json")
    verdicts = files.read_json(path)
    for entry in verdicts["requests"].values():
        entry["verdict"] = "pass"
        entry["gates"] = [{**gate, "state": "good"} for gate in entry["gates"]]
        entry["self_check"] |= {"original_caught": True, "retrain_cleared": True}
    path.chmod(0o644)
    files.write_json(path, verdicts)
    configure("advice.unlearnings=1")
    shell.dvc(home, "commit", "--quiet", "--force", "propose")
    stage_runner.Runner(home, 1).run("report")
    shell.git(home, "add", "--all")
    shell.git(home, "commit", "--quiet", "-m", "Audit of batch b, found to pass")
    shell.git(home, "tag", "--force", "--annotate", "-m", "b", "audit/b")


def counts_one_unlearning_after_another(successor: str) -> None:
    """Batch c starts from the model that b unlearned, and its evidence knows that, from the stored
    files alone."""
    next_batch(successor)
    configure("advice.unlearnings=2", "verify.utility_margin=0.2")
    scores = score_it()
    lineage = files.read_json(Path("artifacts/score/lineage.json"))
    before = files.read_json(Path("releases/b/lineage.json"))["model"]["history"]
    assert before["unlearnings"] == 1
    assert lineage["history"] == before
    assert lineage["batch"]["forgotten"] == (scores.requests != "").sum()
    assert (
        before["trained"]
        == before["forgotten"] + lineage["batch"]["forgotten"] + lineage["batch"]["retained"]
    )
    assert release_lineage.released(lineage, "fcalb").unlearnings == 2
    assert release_lineage.released(lineage, "retrain").unlearnings == 0

    verify.main(Path("artifacts/score/scores.npz"), Path("params.yaml"), Path("artifacts/verify"))
    told = [one["code"] for one in evidence_of(lineage)["advice"]]
    assert "unlearnings" in told
    configure("advice.unlearnings=3")
    assert "unlearnings" not in [one["code"] for one in evidence_of(lineage)["advice"]]
    configure("unlearn.method=retrain")
    assert evidence_of(lineage)["advice"] == []

    Path("releases/b/model.safetensors").write_bytes(b"altered")
    with pytest.raises(EvidenceError, match="not the model that lineage"):
        release_lineage.history(Path("releases/b/model.safetensors"), 100)


def evidence_of(lineage: dict[str, Any]) -> dict[str, Any]:
    """The evidence of the first request, as the stage `report` builds it."""
    wish = settings.load(Path("params.yaml"))
    made = build_evidence.build_all(
        evidence_sources.Sources(
            batch="b",
            verdicts=files.read_json(Path("artifacts/verify/verdicts.json")),
            lineage=lineage,
            register=files.read_json(Path("artifacts/resolve/register.json")),
            data_checks=files.read_json(Path("artifacts/check/data.json")),
            request_checks=files.read_json(Path("artifacts/check/requests.json")),
            trace=report.read_trace(Path("artifacts/unlearn/trace.csv")),
            record=files.read_json(provenance.write(Path.cwd(), wish)),
            settings=wish,
        )
    )
    return made[0]


def test_settings_without_references_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs no references"):
        settings.parse({"references": {"without_blocks": []}})
    with pytest.raises(SettingsError, match="needs no references"):
        settings.parse({"references": {"with_blocks": []}})
    with pytest.raises(SettingsError, match=r"has to be \[\]"):
        settings.parse({"references": {"with_from": "references/b"}})
    with pytest.raises(SettingsError, match="no stage makes"):
        settings.parse(
            {
                "references": {"with_blocks": [], "without_blocks": []},
                "verify": {"mode": "screening"},
            }
        )
