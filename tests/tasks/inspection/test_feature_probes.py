from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional

from tasks import probe
from tasks.common import files, settings
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.language import with_sentences
from tasks.data import image_pack
from tasks.inspection import feature_probes
from tasks.reporting import evidence_measurements, evidence_of_models
from tasks.training import architectures, checkpoints, compute, reference_blocks, training_loop
from tasks.verification.scoring import Floats
from tests.worlds import packing

TINY = settings.Settings(
    data=settings.Data(classes=3, channels=1, image_size=8),
    train=settings.Train(epochs=8, batch_size=16, learning_rate=0.1),
    references=settings.References(seeds_per_block=2, with_blocks=(0,), without_blocks=(0, 1)),
)
PEOPLE, EACH = 10, 12
IDS = ("11111111-aaaa-4aaa-8aaa-000000000001", "22222222-bbbb-4bbb-8bbb-000000000002")


def pictures(
    count: int, seed: int, odd: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images whose bright row is their class, the first `odd` excepted, whose class nobody can
    guess."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 80, (count, 1, 8, 8)).astype(np.uint8)
    images[np.arange(count), 0, labels * 2 + 1] = 255
    labels[:odd] = (labels[:odd] + 1) % 3
    return images, labels


def records(count: int = 96, seed: int = 0, odd: int = 0) -> training_loop.Records:
    return training_loop.Records(
        *pictures(count, seed, odd), TINY.model, compute.prepare(TINY.compute)
    )


def some(known: training_loop.Records, rows: slice) -> training_loop.Records:
    return training_loop.Records(
        known.images[rows].numpy(), known.labels[rows].numpy(), TINY.model, known.backend
    )


def fitted(known: training_loop.Records, seed: int = 1, epochs: int = 8) -> nn.Module:
    network = architectures.build(TINY.model, TINY.data, seed)
    training_loop.fit(network, known, TINY.train.model_copy(update={"epochs": epochs}), seed)
    return network


def misaligned(network: nn.Module) -> nn.Module:
    """The same features, and a last layer that calls every class by the name of the next one."""
    broken = copy.deepcopy(network)
    head = [layer for layer in broken.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        for value in (head.weight, head.bias):
            value.copy_(value.roll(1, 0))
    return broken


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# --- features


def test_features_are_the_input_of_the_last_layer_whatever_the_batch() -> None:
    known = records(40)
    network = fitted(known).train()
    found = feature_probes.read(network, known, batch_size=7)
    with torch.no_grad():
        expected = network.eval()[:-1](known.floats(slice(None)))  # type: ignore[index]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    logits = found @ network[-1].weight.detach().numpy().T + network[-1].bias.detach().numpy()
    np.testing.assert_allclose(logits, training_loop.logits(network, known), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_linear_layer_or_with_nan_has_no_features() -> None:
    with pytest.raises(ModelError, match="cannot be tapped"):
        feature_probes.read(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), records(4))
    network = architectures.build(TINY.model, TINY.data, 0)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(EvidenceError, match="NaN"):
        feature_probes.read(network, records(4))


# --- CKA


def slow_hsic(k: Floats, m: Floats) -> float:
    """HSIC_1 as Song et al. (2012) write it, in loops."""
    n = len(k)
    off = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(k[i, j] * m[j, i] for i, j in off)
    both = sum(k[i, j] for i, j in off) * sum(m[i, j] for i, j in off)
    chain = sum(k[i, j] * m[j, q] for i, j in off for q in range(n) if q != j)
    return float(trace + both / ((n - 1) * (n - 2)) - 2 * chain / (n - 2)) / (n * (n - 3))


def plain_cka(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    top = np.linalg.norm(y.T @ x) ** 2
    return float(top / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


@pytest.mark.parametrize(("n", "d", "e"), [(4, 3, 2), (7, 30, 5), (12, 4, 4)])
def test_cka_is_the_ratio_of_unbiased_hsic_of_the_gram_matrices(n: int, d: int, e: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(3, 1, (n, d))
    y = rng.normal(-1, 2, (n, e))
    y[:, 0] += x[:, 0]
    k, m = x @ x.T, y @ y.T
    expected = slow_hsic(k, m) / np.sqrt(slow_hsic(k, k) * slow_hsic(m, m))
    assert feature_probes.cka(x, y) == pytest.approx(expected, abs=1e-9)
    assert feature_probes.cka(y, x) == pytest.approx(expected, abs=1e-9)


@effort(max_examples=30, deadline=None)
@given(st.integers(4, 12), st.integers(1, 20), st.integers(0, 10**6))
def test_turning_scaling_and_shifting_features_changes_nothing(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 6))
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    moved = 5 * x @ turn + 100
    assert feature_probes.cka(x, moved) == pytest.approx(1)
    assert -1 <= feature_probes.cka(x, y) <= 1
    assert feature_probes.cka(moved, y) == pytest.approx(feature_probes.cka(x, y), abs=1e-6)


def test_few_records_with_many_features_look_alike_only_without_the_correction() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(20, 500)), rng.normal(size=(20, 500))) for _ in range(20)]
    assert min(plain_cka(x, y) for x, y in pairs) > 0.9
    assert abs(np.mean([feature_probes.cka(x, y) for x, y in pairs])) < 0.05


def test_what_cannot_be_compared_is_an_error() -> None:
    x = np.random.default_rng(0).normal(size=(6, 5))
    with pytest.raises(EvidenceError, match="at least 4"):
        feature_probes.cka(x[:3], x[:3])
    for alike in (np.full((6, 5), 0.1), np.eye(6)):
        with pytest.raises(EvidenceError, match="do not differ"):
            feature_probes.cka(x, alike)


# --- linear probe


def test_a_probe_brings_back_what_a_broken_classifier_hides() -> None:
    known, asked = records(96, 0), records(60, 5)
    broken = misaligned(fitted(known))
    labels = asked.labels.numpy()
    assert (training_loop.logits(broken, asked).argmax(1) == labels).mean() < 0.1
    recovered = feature_probes.linear_probe(
        feature_probes.read(broken, known), known.labels.numpy(), feature_probes.read(broken, asked)
    )
    assert (recovered == labels).mean() > 0.9


def test_a_probe_finds_nothing_in_random_features() -> None:
    rng = np.random.default_rng(0)
    known, asked = (rng.normal(size=(count, 20)).astype(np.float32) for count in (600, 600))
    labels, wanted = rng.integers(0, 3, 600), rng.integers(0, 3, 600)
    assert (feature_probes.linear_probe(known, labels, asked) == wanted).mean() == pytest.approx(
        1 / 3, abs=0.08
    )


def test_a_probe_does_not_care_for_the_scale_of_a_feature_or_for_one_that_is_constant() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(200, 6)), rng.normal(size=(100, 6))
    labels = (known[:, 0] > 0).astype(np.int64)
    scale = np.array([1e-4, 1, 1e3, 1, 1, 1])
    plain, scaled = (
        feature_probes.linear_probe(
            (known * by + 1).astype(np.float32), labels, (asked * by + 1).astype(np.float32)
        )
        for by in (np.ones(6), scale)
    )
    assert (plain == scaled).mean() > 0.97
    assert (plain == (asked[:, 0] > 0)).mean() > 0.9
    with_constant = [
        np.hstack([part, np.ones((len(part), 1))]).astype(np.float32) for part in (known, asked)
    ]
    np.testing.assert_array_equal(
        feature_probes.linear_probe(with_constant[0], labels, with_constant[1]),
        feature_probes.linear_probe(known.astype(np.float32), labels, asked.astype(np.float32)),
    )


def test_a_probe_needs_two_classes_and_has_to_converge() -> None:
    known = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    with pytest.raises(EvidenceError, match="two classes"):
        feature_probes.linear_probe(known, np.zeros(60, np.int64), known)
    labels = (known[:, 0] > 0).astype(np.int64)
    with pytest.raises(EvidenceError, match="converge"):
        feature_probes.linear_probe(known, labels, known, most_iterations=2)


# --- relearning


def relearn(network: nn.Module, known: training_loop.Records, target: float, most: int = 60) -> int:
    return feature_probes.relearn_steps(network, known, target, 0.05, TINY.train, most, seed=3)


def test_a_model_that_knew_the_records_relearns_them_sooner_than_one_that_never_saw_them() -> None:
    known = records(96)
    fresh = architectures.build(TINY.model, TINY.data, 1)
    knows, half_knows = fitted(known, epochs=4), fitted(known, epochs=1)
    target = (
        feature_probes.mean_loss(knows, known) + feature_probes.mean_loss(half_knows, known)
    ) / 2
    steps = [relearn(network, known, target) for network in (knows, half_knows, fresh)]
    assert steps[0] == 0
    assert 0 < steps[1] < steps[2] < 60


def test_relearning_takes_plain_steps_of_gradient_descent_on_the_records_own_batches() -> None:
    known = records(32, odd=8)
    network = architectures.build(TINY.model, TINY.data, 0)
    pupil = copy.deepcopy(network)
    batches = known.batches(16, torch.Generator().manual_seed(3), TINY.train)
    losses = [feature_probes.mean_loss(pupil, known)]
    for _ in range(9):
        pupil.train().zero_grad()
        images, labels = next(batches)
        functional.cross_entropy(pupil(images), labels).backward()
        for weight in pupil.parameters():
            assert weight.grad is not None
            weight.data -= 0.05 * weight.grad
        losses.append(feature_probes.mean_loss(pupil, known))
    assert losses[-1] < losses[0]
    target = losses[-1] * 1.0001
    assert relearn(network, known, target) == next(
        step for step, loss in enumerate(losses) if loss <= target
    )


def test_relearning_leaves_the_model_and_the_global_random_stream_as_they_were() -> None:
    known = records(32, odd=8)
    network = fitted(records(64, 7))
    before = state(network)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = relearn(network, known, 0.2)
    assert torch.equal(torch.rand(3), expected)
    assert same(before, state(network))
    assert relearn(network, known, 0.2) == first > 0


def test_relearning_stops_at_the_cap() -> None:
    assert relearn(architectures.build(TINY.model, TINY.data, 0), records(32), 0.0, most=5) == 5


def test_relearning_looks_at_many_records_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(
        feature_probes, "mean_loss", lambda network, known: looks.append(len(known)) or 9.0
    )
    network, small = (
        architectures.build(TINY.model, TINY.data, 0),
        TINY.train.model_copy(update={"batch_size": 2}),
    )
    feature_probes.relearn_steps(network, records(48), 0.1, 0.05, small, 12, seed=3)
    assert looks == [48] * 4  # 24 steps an epoch, a look after every third
    looks.clear()
    relearn(network, records(48), 0.1, most=12)
    assert looks == [48] * 12


def test_relearning_does_not_augment() -> None:
    known, network = records(32, odd=8), architectures.build(TINY.model, TINY.data, 0)
    moving = TINY.train.model_copy(update={"shift": 3, "flip": True})
    for target in (0.9, 0.7):
        assert feature_probes.relearn_steps(
            network, known, target, 0.05, moving, 60, seed=3
        ) == relearn(network, known, target)


def test_one_record_and_a_loss_that_is_not_finite_cannot_be_relearned() -> None:
    network = architectures.build(TINY.model, TINY.data, 0)
    with pytest.raises(EvidenceError, match="at least 2"):
        relearn(network, records(1), 0.0)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(EvidenceError, match="finite"):
        relearn(network, records(8), 0.0)


def test_the_mean_loss_is_the_mean_of_minus_log_p() -> None:
    known = records(20)
    network = fitted(known, epochs=1).train()
    logits = training_loop.logits(network, known).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.mean(
        [np.log(row[label]) for row, label in zip(p, known.labels.tolist(), strict=True)]
    )
    assert feature_probes.mean_loss(network, known) == pytest.approx(expected, rel=1e-6)


# --- the stage


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny audit: two of ten people ask to be forgotten, one of whom nobody can guess the classes
    of."""
    home = tmp_path_factory.mktemp("audit")
    images, labels = pictures(PEOPLE * EACH, 0, odd=EACH)
    lines, roles = ["record_id,subject_id,label,path,sha256"], ["record_id,role"]
    (home / "data").mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = home / "data" / f"{number}.png"
        Image.fromarray(image[0]).save(path)
        person = number // EACH
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"r{number},p{person},{label},{path.name},{digest}")
        roles.append(f"r{number},{'training' if person < 8 else 'control'}")
    files.write_text(home / "data" / "manifest.csv", "\n".join(lines) + "\n")
    files.write_text(home / "split.csv", "\n".join(roles) + "\n")
    write_forget(home, {IDS[0]: range(EACH), IDS[1]: range(EACH, EACH + 3)})
    files.write_text(home / "params.yaml", params(TINY))
    packing.pack_for(home, TINY.data)
    everything = training_loop.Records(
        images[: 8 * EACH], labels[: 8 * EACH], TINY.model, compute.prepare(TINY.compute)
    )
    checkpoints.save(fitted(everything, 50, epochs=12), home / "original.safetensors")
    for number in range(4):
        path = home / "retrain" / str(number // 2) / f"seed-{number}.safetensors"
        checkpoints.save(fitted(some(everything, slice(EACH + 3, None)), number, epochs=12), path)
    return home


def params(wish: settings.Settings) -> str:
    shown = wish.model_dump(mode="json", include={"data", "model", "train", "references", "seed"})
    return json.dumps(shown)  # JSON is YAML


def write_forget(home: Path, asked: dict[str, range], name: str = "forget.csv") -> None:
    lines = [f"r{number},{request}" for request, numbers in asked.items() for number in numbers]
    files.write_text(home / name, "\n".join(["record_id,request_id", *lines]) + "\n")


def run(home: Path, out: Path, **other: Path) -> dict[str, Any]:
    paths = {
        "original": home / "original.safetensors",
        "unlearned": home / "original.safetensors",
        "retrained": home / "retrain",
        "data": home / "data",
        "pack": home / "pack",
        "split": home / "split.csv",
        "forget": home / "forget.csv",
        "params": home / "params.yaml",
    }
    probe.main(**{**paths, **other}, out=out)
    found: dict[str, Any] = files.read_json(out / "probes.json")
    return found


def test_the_stage_finds_what_an_unchanged_model_still_holds_twice_the_same(
    audit: Path, tmp_path: Path
) -> None:
    found = run(audit, tmp_path / "a")
    assert (found["schema_version"], found["references"], found["retained_records"]) == (
        1,
        3,
        8 * EACH - EACH - 3,
    )
    assert list(found["requests"]) == list(IDS)
    first = found["requests"][IDS[0]]
    assert first["records"] == EACH
    assert set(first["linear_probe"]) == {"original", "unlearned", "retrained", "band", "reason"}
    assert set(first["cka"]) == {"original", "unlearned", "band", "reason"}
    for part in (first["linear_probe"], first["cka"]):
        assert part["unlearned"] == part["original"]
        assert part["reason"] is None
        assert -1 <= part["band"][0] <= part["band"][1] <= 1
    probed = first["linear_probe"]
    assert probed["band"][0] <= probed["retrained"] <= probed["band"][1]
    relearned = found["relearn"]
    assert relearned["learning_rate"] == TINY.train.learning_rate / 10
    assert (relearned["reason"], relearned["most"]) == (None, probe.MOST_STEPS)
    known = image_pack.read(audit / "pack", audit / "data", TINY.data)
    forgotten = reference_blocks.load_rows(
        slice(EACH + 3), known, TINY, compute.prepare(TINY.compute)
    )
    ends = [
        feature_probes.mean_loss(checkpoints.load(audit / name, TINY.model, TINY.data), forgotten)
        for name in ("original.safetensors", "retrain/0/seed-0.safetensors")
    ]
    assert relearned["target"] == pytest.approx(sum(ends) / 2)
    steps = relearned["steps"]
    assert steps["original"] == steps["unlearned"] == 0
    assert 0 < steps["band"][0] <= steps["retrained"] <= steps["band"][1]
    run(audit, tmp_path / "b")
    assert (tmp_path / "a" / "probes.json").read_bytes() == (
        tmp_path / "b" / "probes.json"
    ).read_bytes()


def test_with_the_baseline_alone_it_is_the_band_and_has_nothing_to_be_similar_to(
    audit: Path, tmp_path: Path
) -> None:
    alone = TINY.model_copy(
        update={"references": settings.References(seeds_per_block=1, without_blocks=(0,))}
    )
    files.write_text(tmp_path / "params.yaml", params(alone))
    found = run(audit, tmp_path, params=tmp_path / "params.yaml")
    first = found["requests"][IDS[0]]
    assert found["references"] == 0
    assert first["linear_probe"]["band"] == [first["linear_probe"]["retrained"]] * 2
    assert found["relearn"]["steps"]["band"] == [found["relearn"]["steps"]["retrained"]] * 2
    assert first["cka"]["band"] is None
    assert first["cka"]["original"] is not None


def test_a_screening_has_nothing_to_compare_with_and_says_so(audit: Path, tmp_path: Path) -> None:
    wish = json.loads(params(TINY)) | {"verify": {"mode": "screening"}}
    wish["references"]["without_blocks"] = []
    files.write_text(tmp_path / "params.yaml", json.dumps(wish))
    found = run(audit, tmp_path, params=tmp_path / "params.yaml", retrained=tmp_path / "nowhere")
    assert found == with_sentences({"schema_version": 1, "reason": probe.NOTHING_RETRAINED})


def test_what_the_stage_writes_is_what_the_evidence_takes(audit: Path, tmp_path: Path) -> None:
    found = run(audit, tmp_path)
    taken = [
        evidence_of_models.Features.model_validate(evidence_measurements.features(found, request))
        for request in IDS
    ]
    assert taken[0].linear_probe.model_dump() == without_reason(
        found["requests"][IDS[0]]["linear_probe"]
    )
    assert taken[0].cka.model_dump() == without_reason(found["requests"][IDS[0]]["cka"])
    assert taken[1].cka.model_dump() == {"reason": found["requests"][IDS[1]]["cka"]["reason"]}
    assert taken[0].relearn.model_dump() == without_reason(found["relearn"])
    unmeasured = run(audit, tmp_path, original=audit / "retrain" / "0" / "seed-0.safetensors")
    kept = evidence_of_models.Features.model_validate(
        evidence_measurements.features(unmeasured, IDS[0])
    ).relearn
    assert kept.model_dump() == {"reason": unmeasured["relearn"]["reason"]}


def without_reason(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "reason"}


def test_a_misaligned_classifier_hides_nothing_from_the_stage(audit: Path, tmp_path: Path) -> None:
    original = checkpoints.load(audit / "original.safetensors", TINY.model, TINY.data)
    checkpoints.save(misaligned(original), tmp_path / "unlearned.safetensors")
    found = run(audit, tmp_path, unlearned=tmp_path / "unlearned.safetensors")
    for request in found["requests"].values():
        assert request["linear_probe"]["unlearned"] == request["linear_probe"]["original"]
        assert request["cka"]["unlearned"] == request["cka"]["original"]


def test_three_records_are_probed_but_not_compared(audit: Path, tmp_path: Path) -> None:
    second = run(audit, tmp_path)["requests"][IDS[1]]
    assert second["records"] == 3
    assert second["linear_probe"]["reason"] is None
    assert second["cka"] == {
        "original": None,
        "unlearned": None,
        "band": None,
        "reason": "got 3 records, expected at least 4 to compare features",
    }


def test_a_batch_of_one_record_is_no_crash(audit: Path, tmp_path: Path) -> None:
    write_forget(tmp_path, {IDS[0]: range(1)})
    found = run(audit, tmp_path, forget=tmp_path / "forget.csv")
    assert found["requests"][IDS[0]]["linear_probe"]["original"] in (0, 1)
    assert found["requests"][IDS[0]]["cka"]["reason"]
    relearned = found["relearn"]
    assert relearned["steps"] == {
        "original": None,
        "unlearned": None,
        "retrained": None,
        "band": None,
    }
    assert "at least 2" in relearned["reason"]


def test_where_retraining_lost_nothing_there_is_nothing_to_relearn(
    audit: Path, tmp_path: Path
) -> None:
    found = run(audit, tmp_path, original=audit / "retrain" / "0" / "seed-0.safetensors")["relearn"]
    assert found["target"] is None
    assert found["steps"]["unlearned"] is None
    assert "nothing can be relearned" in found["reason"]


FACTORY = """
from torch import nn
def pooled(classes, channels, image_size):
    return nn.Sequential(nn.Conv2d(channels, classes, image_size), nn.Flatten())
"""


def test_a_model_that_cannot_be_tapped_does_not_stop_the_stage(
    audit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_probe_network.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    wish = TINY.model_copy(update={"model": settings.Model(name="their_probe_network:pooled")})
    files.write_text(tmp_path / "params.yaml", params(wish))
    known = records(8 * EACH, 0, odd=EACH)
    for number in range(5):
        network = architectures.build(wish.model, wish.data, number)
        training_loop.fit(
            network, known if number == 4 else some(known, slice(EACH, None)), TINY.train, number
        )
        name = "original" if number == 4 else f"retrain/{number // 2}/seed-{number}"
        checkpoints.save(network, tmp_path / f"{name}.safetensors")
    mine = tmp_path / "original.safetensors"
    found = run(
        audit,
        tmp_path / "out",
        original=mine,
        unlearned=mine,
        retrained=tmp_path / "retrain",
        params=tmp_path / "params.yaml",
    )
    for request in found["requests"].values():
        for part in ("linear_probe", "cka"):
            assert request[part]["unlearned"] is None
            assert request[part]["band"] is None
            assert "cannot be tapped" in request[part]["reason"]
    assert found["relearn"]["steps"]["original"] == 0


def test_missing_models_and_an_empty_forget_set_are_errors(audit: Path, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"1 models are missing.*gone\.safetensors"):
        run(audit, tmp_path, unlearned=tmp_path / "gone.safetensors")
    write_forget(tmp_path, {})
    with pytest.raises(EvidenceError, match="names no record"):
        run(audit, tmp_path, forget=tmp_path / "forget.csv")
    assert not (tmp_path / "probes.json").exists()


def test_the_baseline_and_the_first_eight_references_are_looked_at_and_no_more(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / str(number // 4) / f"seed-{number}.safetensors" for number in range(12)]
    for path in paths:
        files.write_bytes(path, b"")
    wish = settings.Settings(
        references=settings.References(seeds_per_block=4, without_blocks=(0, 1, 2))
    )
    found = probe.models_to_probe(paths[0], paths[0], tmp_path, wish)
    assert list(found)[:3] == ["original", "unlearned", "retrained"]
    assert list(found.values())[2:] == paths[:9]


def test_the_sample_is_drawn_from_the_rows_given_and_is_the_same_every_time() -> None:
    rows = np.arange(100) % 2 == 0
    drawn = probe.random_subset(rows, 20, seed=1)
    assert drawn.sum() == 20
    assert not (drawn & ~rows).any()
    assert np.array_equal(drawn, probe.random_subset(rows, 20, seed=1))
    assert not np.array_equal(drawn, probe.random_subset(rows, 20, seed=2))
    assert np.array_equal(probe.random_subset(rows, 200, seed=1), rows)
