"""From one batch to the next: what its retrained models saw, and that nothing else may use them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_end_to_end import IDS, ask, configure, prepare, training_subjects

from flows import carry, closing, graph, record, results, shell, workspace
from tasks import (
    carried,
    check,
    evidence,
    files,
    importers,
    records,
    report,
    resolve,
    retrain,
    score,
    settings,
    split,
    unlearn,
    verify,
)
from tasks.errors import EvidenceError, SettingsError, WorkspaceError
from tasks.scoring import Scores


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a closed batch b: one person forgotten of a tiny world, 7 models of each kind."""
    place = tmp_path_factory.mktemp("carry") / "workspace"
    workspace.init(place)
    shell.git(place, "config", "user.name", "Tester")
    shell.git(place, "config", "user.email", "tester@example.org")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        importers.digits(Path("data"), writers=20)
        workspace.track_data(place)
        configure("batch=b", "train.epochs=1", "references.seeds_per_block=7", "unlearn.method=fcalb")
        configure("references.with_blocks=[0]", "references.without_blocks=[0]")
        ask(training_subjects(1))
        prepare()
        forget_and_retrain()
        score_it()
        done = ("split", "resolve", "unlearn", "train@0", "retrain@0", "score")
        shell.dvc(place, "commit", "--quiet", "--force", *done)
        closing.close(place, "b")
    return place


@pytest.fixture
def place(closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(closed, tmp_path / "workspace", symlinks=True)
    monkeypatch.chdir(tmp_path / "workspace")
    return tmp_path / "workspace"


def forget_and_retrain() -> None:
    """The stages unlearn and retrain, after `prepare`."""
    params, data, roles, forget = Path("params.yaml"), Path("data"), Path("artifacts/split.csv"), FORGET
    checkpoint = Path(settings.load(params).original.checkpoint)
    unlearn.main(checkpoint, data, roles, forget, params, Path("artifacts/unlearn"))
    if not Path("artifacts/retrain/0").exists():
        retrain.main(0, data, roles, forget, params, Path("artifacts/retrain/0"))


FORGET = Path("artifacts/resolve/forget.csv")


def next_batch(subject: str) -> None:
    """Everything of a second batch up to its models; `train` is not among it."""
    shutil.rmtree("artifacts")
    files.write_text(
        Path("requests/c.json"), Path("requests/b.json").read_text().replace(training_subjects(1)[0], subject)
    )
    ask([subject])
    check.check(Path("data"), Path("requests/b.json"), Path("params.yaml"), Path("artifacts/check"))
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
        Path("artifacts/split.csv"),
        FORGET,
        Path("params.yaml"),
        Path("artifacts/score"),
    )
    return Scores.load(Path("artifacts/score/scores.npz"))


def test_the_next_batch_is_judged_by_the_models_that_the_last_one_retrained(place: Path) -> None:
    before = records.read_manifest(Path("data"))
    roles = records.read_roles(Path("artifacts/split.csv"), before)
    gone = set(before["record_id"][records.read_forget(FORGET, before) != ""])
    person, successor = training_subjects(2)

    done = carry.carry(place, "b", "retrained")

    assert done.references == 6  # seed 0 goes on as the original, so it is no reference
    assert done.records_dropped == len(gone)
    after = records.read_manifest(Path("data"))
    assert person not in set(after["subject_id"])
    assert not (Path("data") / before.set_index("record_id")["path"][sorted(gone)[0]]).exists()
    kept = dict(zip(before["record_id"], roles, strict=True))
    assert all(kept[name] == role for name, role in zip(after["record_id"], after["split"], strict=True))
    assert "references/b.dvc" in shell.git(place, "status", "--porcelain", "--untracked-files=all")
    assert [stage.name for stage in graph.read(place) if stage.name.startswith("train")] == []

    trained = int((after["split"] == "training").sum())
    assert (done.unlearnings, done.advice) == (0, ())

    next_batch(successor)
    scores = score_it()
    fresh = {"unlearnings": 0, "forgotten": 0, "trained": trained}
    assert files.read_json(Path("artifacts/score/lineage.json"))["history"] == fresh
    assert (scores.model_roles == "with").sum() == 6
    assert (scores.model_roles == "without").sum() == 6
    assert (scores.requests == IDS[0]).any()
    models = files.read_json(Path("artifacts/score/lineage.json"))["models"]
    assert {m["path"].rpartition("/")[0] for m in models if m["role"] == "with"} == {"references/b"}
    assert all(m["seconds"] is not None for m in models if m["role"] == "with")

    refuses_other_records_and_other_recipes()
    shell.git(place, "add", "--all")
    tag = closing.close(place, "c")
    assert {"references/b.dvc", "data.dvc"} <= set(shell.git(place, "ls-tree", "-r", "--name-only", tag).splitlines())


def refuses_other_records_and_other_recipes() -> None:
    """The lineage is compared before the references are used."""
    wish = settings.load(Path("params.yaml"))
    folder, manifest = Path(wish.references.with_from), records.read_manifest(Path("data"))
    rows = records.read_roles(Path("artifacts/split.csv"), manifest) == "training"
    assert len(carried.references(folder, manifest, rows, wish)) == 6
    fewer = rows.copy()
    fewer[rows.argmax()] = False
    with pytest.raises(EvidenceError, match="other records"):
        carried.references(folder, manifest, fewer, wish)
    other = wish.model_copy(update={"train": wish.train.model_copy(update={"epochs": 9})})
    with pytest.raises(EvidenceError, match=r"recipe \(train differ\)"):
        carried.references(folder, manifest, rows, other)
    (folder / "seed-3.safetensors").write_bytes(b"altered")
    with pytest.raises(EvidenceError, match="seed-3"):
        carried.references(folder, manifest, rows, wish)


def test_a_batch_that_is_not_closed_or_did_not_pass_is_not_carried_over(place: Path) -> None:
    manifest = Path("data/manifest.csv").read_bytes()
    with pytest.raises(WorkspaceError, match="no tag audit/x"):
        carry.carry(place, "x", "retrained")
    with pytest.raises(WorkspaceError, match="--original retrained"):
        carry.carry(place, "b", "unlearned")
    Path("data/manifest.csv").write_bytes(manifest + b"\n")
    with pytest.raises(WorkspaceError, match=r"not that of audit/b"):
        carry.carry(place, "b", "retrained")
    assert not Path("references/b").exists()
    assert Path("data/manifest.csv").read_bytes() == manifest + b"\n"


def test_where_everybody_passed_the_unlearned_model_goes_on_and_the_baseline_is_a_reference(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = results.Result(IDS[0], "pass", "because", 0.0, -0.1, 0.1, "audited", "report.html")
    monkeypatch.setattr(carry.results, "read", lambda *_: [passed])
    expected = files.sha256(Path("artifacts/unlearn/unlearned.safetensors"))
    told = "A full retrain is advised: as planted."
    monkeypatch.setattr(carry.results, "advice", lambda *_: [told])
    successor = training_subjects(2)[1]
    done = carry.carry(place, "b")
    assert done.references == 7
    assert (done.unlearnings, done.advice) == (1, (told,))
    assert files.sha256(Path("references/b/original.safetensors")) == expected
    assert settings.load(Path("params.yaml")).original.checkpoint == "references/b/original.safetensors"
    counts_one_unlearning_after_another(successor)


def counts_one_unlearning_after_another(successor: str) -> None:
    """Batch c starts from the model that b unlearned, and its evidence knows that, from the stored files alone."""
    next_batch(successor)
    configure("advice.unlearnings=2", "verify.utility_margin=0.2")
    scores = score_it()
    lineage = files.read_json(Path("artifacts/score/lineage.json"))
    before = files.read_json(Path("references/b/lineage.json"))["original"]["history"]
    assert before["unlearnings"] == 1
    assert lineage["history"] == before
    assert lineage["batch"]["forgotten"] == (scores.requests != "").sum()
    assert before["trained"] == before["forgotten"] + lineage["batch"]["forgotten"] + lineage["batch"]["retained"]
    assert carried.released(lineage, "fcalb").unlearnings == 2
    assert carried.released(lineage, "retrain").unlearnings == 0

    verify.main(Path("artifacts/score/scores.npz"), Path("params.yaml"), Path("artifacts/verify"))
    told = [one["code"] for one in evidence_of(lineage)["advice"]]
    assert "unlearnings" in told
    configure("advice.unlearnings=3")
    assert "unlearnings" not in [one["code"] for one in evidence_of(lineage)["advice"]]
    configure("unlearn.method=retrain")
    assert evidence_of(lineage)["advice"] == []

    Path("references/b/original.safetensors").write_bytes(b"altered")
    with pytest.raises(EvidenceError, match="not the model that lineage"):
        carried.history(Path("references/b/original.safetensors"), 100)


def evidence_of(lineage: dict[str, Any]) -> dict[str, Any]:
    """The evidence of the first request, as the stage `report` builds it."""
    wish = settings.load(Path("params.yaml"))
    made = evidence.build_all(
        evidence.Sources(
            batch="b",
            verdicts=files.read_json(Path("artifacts/verify/verdicts.json")),
            lineage=lineage,
            register=files.read_json(Path("artifacts/resolve/register.json")),
            data_checks=files.read_json(Path("artifacts/check/data.json")),
            request_checks=files.read_json(Path("artifacts/check/requests.json")),
            trace=report.read_trace(Path("artifacts/unlearn/trace.csv")),
            record=files.read_json(record.keep(Path.cwd(), wish)),
            settings=wish,
        )
    )
    return made[0]


def test_what_dvc_refuses_can_be_carried_over_later(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shell.dvc

    def refuse(folder: Path, *words: str) -> str:
        if words[0] == "add":
            raise WorkspaceError("no space left")
        return real(folder, *words)

    with monkeypatch.context() as patch:
        patch.setattr(shell, "dvc", refuse)
        with pytest.raises(WorkspaceError, match="no space"):
            carry.carry(place, "b", "retrained")
    assert not Path("references/b").exists()
    assert carry.carry(place, "b", "retrained").references == 6


def test_settings_without_references_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs no references"):
        settings.parse({"references": {"without_blocks": []}})
    with pytest.raises(SettingsError, match="needs no references"):
        settings.parse({"references": {"with_blocks": []}})
    with pytest.raises(SettingsError, match=r"has to be \[\]"):
        settings.parse({"references": {"with_from": "references/b"}})
    with pytest.raises(SettingsError, match="made by nobody"):
        settings.parse({"references": {"with_blocks": [], "without_blocks": []}, "verify": {"mode": "screening"}})
