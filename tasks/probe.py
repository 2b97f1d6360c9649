"""Stage `probe`: measure how much of the forget set is left in the models' features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files, seeds, stage_cli
from tasks.common import settings as settings_module
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.language import say, with_sentences
from tasks.common.settings import Settings
from tasks.inspection import feature_probes
from tasks.inspection.answers import AuditRecords
from tasks.training import checkpoints, training_loop
from tasks.verification.scoring import Ints, Strings

if TYPE_CHECKING:
    from torch import nn

SCHEMA_VERSION = 1
NOTHING_RETRAINED = say(
    "a screening has no retrained models, and nothing says what the features should hold"
)
REFERENCES = 8
"""Retrained models that form the band beside the baseline; more would only take longer."""
MOST_RECORDS = 2000
"""Most retained records that the linear probe is fitted to."""
MOST_STEPS = 200
"""Most steps of relearning."""
HALFWAY = 0.5
"""Share of the way from the retrain baseline's loss to the original's that relearning goes.

The second half takes every model long, and depends more on the learning rate than on the model.
"""
BASELINE = "retrained"
KEYS = ("original", "unlearned", BASELINE)

Part = dict[str, Any]
"""One measure: a value for each key, the `band` [lowest, highest] of retrained models, and the
`reason` if they are None."""


def main(
    original: Path,
    unlearned: Path,
    retrained: Path,
    data: Path,
    pack: Path,
    split: Path,
    forget: Path,
    params: Path,
    out: Path,
) -> None:
    """Compare the features of the original, the unlearned and retrained models.

    Example: python -m tasks.probe --original artifacts/train/0/seed-0.safetensors --unlearned
    artifacts/unlearn/unlearned.safetensors --retrained artifacts/retrain --data data --pack
    artifacts/pack --split artifacts/split.csv --forget artifacts/resolve/forget.csv --params
    params.yaml --out artifacts/probe
    """
    settings = settings_module.load(params)
    if not settings.references.without_blocks:
        skipped = {"schema_version": SCHEMA_VERSION, "reason": NOTHING_RETRAINED}
        files.write_json(out / "probes.json", with_sentences(skipped))
        return
    audit = AuditRecords(data, pack, split, forget, settings)
    in_forget_set = audit.requests != ""
    if not in_forget_set.any():
        raise EvidenceError(f"{forget} names no record; expected a forget set")
    retained = (audit.roles == "training") & ~in_forget_set
    paths = models_to_probe(original, unlearned, retrained, settings)
    sample = random_subset(retained, MOST_RECORDS, seeds.derive(settings.seed, "probe", "retained"))
    retained_sample, forget_set = audit.load(sample), audit.load(in_forget_set)

    def network(name: str) -> nn.Module:
        if name == "original":
            return checkpoints.load_original(paths[name], settings)
        return checkpoints.load(paths[name], settings.model, settings.data)

    stage_cli.say(
        f"looking at {len(forget_set)} records to forget, and {len(retained_sample)} retained "
        f"ones, in {len(paths)} models"
    )
    measures = {
        "schema_version": SCHEMA_VERSION,
        "references": len(paths) - len(KEYS),
        "retained_records": len(retained_sample),
        "requests": linear_probe_and_cka(
            list(paths), network, retained_sample, forget_set, audit.requests[in_forget_set]
        ),
        "relearn": relearn(list(paths), network, forget_set, settings),
    }
    files.write_json(out / "probes.json", with_sentences(measures))


def models_to_probe(
    original: Path, unlearned: Path, retrained: Path, settings: Settings
) -> dict[str, Path]:
    """The models by name: original, unlearned, the retrain baseline (`retrain`'s seed 0), and the
    first references.

    Raises:
        EvidenceError: a model is missing.
    """
    size = settings.references.seeds_per_block
    numbers = range(1, min(size * len(settings.references.without_blocks), REFERENCES + 1))
    seed = {
        number: retrained / str(number // size) / f"seed-{number}.safetensors"
        for number in (0, *numbers)
    }
    paths = {
        "original": original,
        "unlearned": unlearned,
        BASELINE: seed[0],
        **{f"without-{number}": seed[number] for number in numbers},
    }
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise EvidenceError(
            f"{len(missing)} models are missing, first {missing[0]}; run the stages unlearn and "
            "retrain"
        )
    return paths


def random_subset(rows: NDArray[np.bool_], limit: int, seed: int) -> NDArray[np.bool_]:
    """A random subset of the rows of a mask (n,), at most `limit`, as a mask."""
    candidates = np.flatnonzero(rows)
    chosen = np.random.default_rng(seed).permutation(candidates)[:limit]
    return np.isin(np.arange(len(rows)), chosen)


def linear_probe_and_cka(
    names: Sequence[str],
    network: Callable[[str], nn.Module],
    retained: training_loop.Records,
    forget_set: training_loop.Records,
    requests: Strings,
) -> dict[str, dict[str, Any]]:
    """Linear probe and CKA, by request.

    Args:
        names: the models, as `models_to_probe` names them.
        network: gives a model by its name.
        retained: records to fit the probe to.
        forget_set: the n records of the batch.
        requests: (n,) the request that asks for each.

    Returns:
        By request the number of its `records`; `linear_probe`, the probe's accuracy on them, a
        share; and `cka`, the similarity to the retrain baseline. Each by model, with the `band`
        [lowest, highest] of the retrained models (for CKA of the references only, since the
        baseline equals itself). A measure that fails is None, with the `reason`: a model that
        cannot be tapped must not stop an audit.
    """
    labels, retained_labels = (part.labels.cpu().numpy() for part in (forget_set, retained))
    features: dict[str, NDArray[np.float32]] = {}
    predicted: dict[str, Ints] = {}
    untapped = unprobed = ""
    for position, name in enumerate(names, 1):
        model = network(name)  # one that cannot be loaded is an error
        try:
            features[name], sample = (
                feature_probes.read(model, forget_set),
                feature_probes.read(model, retained),
            )
        except (ModelError, EvidenceError) as error:
            untapped = unprobed = error.args[0]
            break
        try:
            predicted[name] = feature_probes.linear_probe(sample, retained_labels, features[name])
        except EvidenceError as error:
            unprobed = error.args[0]
        stage_cli.say(f"probed the features of {position}/{len(names)} models")
    table: dict[str, dict[str, Any]] = {}
    for request in np.unique(requests):
        of_request = requests == request
        shares = {
            name: float((classes[of_request] == labels[of_request]).mean())
            for name, classes in predicted.items()
        }
        table[str(request)] = {
            "records": int(of_request.sum()),
            "linear_probe": _unknown(KEYS, unprobed)
            if unprobed
            else _part(KEYS, shares, names[2:]),
            "cka": _unknown(KEYS[:2], untapped)
            if untapped
            else _similar(features, of_request, names[3:]),
        }
    return table


def _similar(
    features: Mapping[str, NDArray[np.float32]],
    of_request: NDArray[np.bool_],
    references: Sequence[str],
) -> Part:
    baseline = features[BASELINE][of_request]
    try:
        values = {
            name: feature_probes.cka(of[of_request], baseline)
            for name, of in features.items()
            if name != BASELINE
        }
    except EvidenceError as error:
        return _unknown(KEYS[:2], error.args[0])
    return _part(KEYS[:2], values, references)


def relearn(
    names: Sequence[str],
    network: Callable[[str], nn.Module],
    forget_set: training_loop.Records,
    settings: Settings,
) -> dict[str, Any]:
    """Relearn time of the batch's forget set: training steps until a model's loss on it is halfway
    to the original's.

    Golatkar et al. (2020) count until the loss is the original's. Here counting stops earlier, at

        target = L_retrained + HALFWAY (L_original - L_retrained),

    L the mean cross-entropy on the forget set, so that retrained models need a few dozen steps and
    the original none. Fewer steps than the band: the model still knows the records. More: they are
    over-forgotten. If the baseline's loss is not above the original's, there is nothing to relearn.

    Args:
        names: the models, as `models_to_probe` names them.
        network: gives a model by its name.
        forget_set: the batch's forget set, all requests together.
        settings: `train` for the rate, a tenth of its peak, and the batch; the root of the random
            streams.

    Returns:
        `steps` by model and the `band` [lowest, highest] of the retrained models, where `most`
        means so many or more; `most`; the `learning_rate`; the `target`, nats. Steps and target are
        None where they cannot be measured, with the `reason`.
    """
    rate = settings.train.learning_rate / 10
    try:
        target = _target(network, forget_set)
        steps = _steps(names, network, forget_set, settings, target, rate)
        reason = None
    except EvidenceError as error:
        target, steps, reason = None, dict.fromkeys((*KEYS, "band")), error.args[0]
    return {
        "steps": steps,
        "most": MOST_STEPS,
        "learning_rate": rate,
        "target": target,
        "reason": reason,
    }


def _target(network: Callable[[str], nn.Module], forget_set: training_loop.Records) -> float:
    original, baseline = (
        feature_probes.mean_loss(network(name), forget_set) for name in ("original", BASELINE)
    )
    if baseline <= original:
        raise EvidenceError(
            say(
                "the retrain baseline's loss on the records is not above the original's; nothing "
                "can be relearned"
            )
        )
    return baseline + HALFWAY * (original - baseline)


def _steps(
    names: Sequence[str],
    network: Callable[[str], nn.Module],
    forget_set: training_loop.Records,
    settings: Settings,
    target: float,
    rate: float,
) -> dict[str, Any]:
    seed = seeds.derive(settings.seed, "probe", "relearn")
    counts: dict[str, float] = {}
    for position, name in enumerate(names, 1):
        counts[name] = feature_probes.relearn_steps(
            network(name), forget_set, target, rate, settings.train, MOST_STEPS, seed
        )
        stage_cli.say(f"relearned with {position}/{len(names)} models: {counts[name]} steps")
    return _against(KEYS, counts, names[2:])


def _part(keys: Sequence[str], values: Mapping[str, float], band: Sequence[str]) -> Part:
    return {**_against(keys, values, band), "reason": None}


def _unknown(keys: Sequence[str], reason: str) -> Part:
    return {**dict.fromkeys((*keys, "band")), "reason": reason}


def _against(
    keys: Sequence[str], values: Mapping[str, float], band: Sequence[str]
) -> dict[str, Any]:
    """The values of some models, and the lowest and highest of others; no band without others."""
    band_values = [values[name] for name in band]
    return {
        **{key: values[key] for key in keys},
        "band": [min(band_values), max(band_values)] if band_values else None,
    }


if __name__ == "__main__":
    stage_cli.run(main)
