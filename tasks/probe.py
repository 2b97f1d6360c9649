"""Stage `probe`: what the models' features still hold of the records that were to be forgotten."""

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
from tasks.data import image_pack, records
from tasks.inspection import feature_probes
from tasks.training import checkpoints, compute, reference_blocks, training_loop
from tasks.verification.scoring import Ints, Strings

if TYPE_CHECKING:
    from torch import nn

SCHEMA_VERSION = 1
NOTHING_RETRAINED = say(
    "a screening has no retrained models, and nothing says what the features should hold"
)
REFERENCES = 8
"""So many retrained models beside the baseline make the band, so that the stage stays cheap however
many there are."""
MOST_RECORDS = 2000
"""The linear probe is fitted to so many retained records at most."""
MOST_STEPS = 200
"""Relearning stops after so many steps."""
HALFWAY = 0.5
"""Relearning need go so much of the way from the retrain baseline's loss to the original's.

The rest of the way takes every model long, and tells more of the learning rate than of the model.
"""
BASELINE = "retrained"
KEYS = ("original", "unlearned", BASELINE)

Part = dict[str, Any]
"""One measure: a value for each key, the `band` [lowest, highest] of retrained models, and the
`reason` where None"""


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
    """Look past the answers of the original, the unlearned and retrained models, into their
    features.

    Example: python -m tasks.probe --original artifacts/train/0/seed-0.safetensors --unlearned
    artifacts/unlearn/unlearned.safetensors --retrained artifacts/retrain --data data --pack
    artifacts/pack --split artifacts/split.csv --forget artifacts/resolve/forget.csv --params
    params.yaml --out artifacts/probe
    """
    settings = settings_module.load(params)
    if not settings.references.without_blocks:
        nothing = {"schema_version": SCHEMA_VERSION, "reason": NOTHING_RETRAINED}
        files.write_json(out / "probes.json", with_sentences(nothing))
        return
    backend = compute.prepare(settings.compute)
    everything = image_pack.read(pack, data, settings.data)
    manifest = everything.manifest
    requests = records.read_forget(forget, manifest)
    asked = requests != ""
    if not asked.any():
        raise EvidenceError(f"{forget} names no record; expected a forget set")
    retained = (records.read_roles(split, manifest) == "training") & ~asked
    paths = roll(original, unlearned, retrained, settings)
    sample = draw(retained, MOST_RECORDS, seeds.derive(settings.seed, "probe", "retained"))
    retained_sample = reference_blocks.load_rows(sample, everything, settings, backend)
    forget_set = reference_blocks.load_rows(asked, everything, settings, backend)

    def network(name: str) -> nn.Module:
        if name == "original":
            return checkpoints.load_original(paths[name], settings)
        return checkpoints.load(paths[name], settings.model, settings.data)

    stage_cli.say(
        f"looking at {len(forget_set)} records to forget, and {len(retained_sample)} retained "
        f"ones, in {len(paths)} models"
    )
    found = {
        "schema_version": SCHEMA_VERSION,
        "references": len(paths) - len(KEYS),
        "retained_records": len(retained_sample),
        "requests": hold(list(paths), network, retained_sample, forget_set, requests[asked]),
        "relearn": relearn(list(paths), network, forget_set, settings),
    }
    files.write_json(out / "probes.json", with_sentences(found))


def roll(original: Path, unlearned: Path, retrained: Path, settings: Settings) -> dict[str, Path]:
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
    lost = [str(path) for path in paths.values() if not path.is_file()]
    if lost:
        raise EvidenceError(
            f"{len(lost)} models are missing, first {lost[0]}; run the stages unlearn and retrain"
        )
    return paths


def draw(rows: NDArray[np.bool_], most: int, seed: int) -> NDArray[np.bool_]:
    """At most so many of the rows of a mask (n,), at random: a mask again."""
    candidates = np.flatnonzero(rows)
    chosen = np.random.default_rng(seed).permutation(candidates)[:most]
    return np.isin(np.arange(len(rows)), chosen)


def hold(
    names: Sequence[str],
    network: Callable[[str], nn.Module],
    known: training_loop.Records,
    forget_set: training_loop.Records,
    requests: Strings,
) -> dict[str, dict[str, Any]]:
    """Linear probe and CKA, by request.

    Args:
        names: the models, as `roll` names them.
        network: gives a model by its name.
        known: retained records, to fit the probe to.
        forget_set: the n records of the batch.
        requests: (n,) the request that asks for each.

    Returns:
        By request the number of its `records`; `linear_probe`, the probe's accuracy on them, a
        share; and `cka`, the similarity to the retrain baseline. Each by model, with the `band`
        [lowest, highest] of the retrained models (for CKA of the references only, since the
        baseline equals itself). What cannot be measured is None, with the `reason`: a model that
        cannot be tapped must not stop an audit.
    """
    labels, known_labels = (part.labels.cpu().numpy() for part in (forget_set, known))
    seen: dict[str, NDArray[np.float32]] = {}
    predicted: dict[str, Ints] = {}
    untapped = unprobed = ""
    for position, name in enumerate(names, 1):
        model = network(name)  # one that cannot be loaded is an error
        try:
            seen[name], sample = (
                feature_probes.read(model, forget_set),
                feature_probes.read(model, known),
            )
        except (ModelError, EvidenceError) as error:
            untapped = unprobed = error.args[0]
            break
        try:
            predicted[name] = feature_probes.linear_probe(sample, known_labels, seen[name])
        except EvidenceError as error:
            unprobed = error.args[0]
        stage_cli.say(f"probed the features of {position}/{len(names)} models")
    table: dict[str, dict[str, Any]] = {}
    for request in np.unique(requests):
        own = requests == request
        shares = {
            name: float((classes[own] == labels[own]).mean()) for name, classes in predicted.items()
        }
        table[str(request)] = {
            "records": int(own.sum()),
            "linear_probe": _unknown(KEYS, unprobed)
            if unprobed
            else _part(KEYS, shares, names[2:]),
            "cka": _unknown(KEYS[:2], untapped) if untapped else _similar(seen, own, names[3:]),
        }
    return table


def _similar(
    seen: Mapping[str, NDArray[np.float32]], own: NDArray[np.bool_], references: Sequence[str]
) -> Part:
    baseline = seen[BASELINE][own]
    try:
        values = {
            name: feature_probes.cka(of[own], baseline)
            for name, of in seen.items()
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

    Golatkar et al. (2020) count until the loss is the original's. Here the way ends earlier, at

        target = L_retrained + HALFWAY (L_original - L_retrained),

    L the mean cross-entropy on the forget set, so that retrained models need a few dozen steps and
    the original none. Fewer than the band: the model still knows. More: the records are
    over-forgotten, which tells as much. Where the baseline's loss is not above the original's, the
    original knows nothing that could be relearned.

    Args:
        names: the models, as `roll` names them.
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
    among = [values[name] for name in band]
    return {
        **{key: values[key] for key in keys},
        "band": [min(among), max(among)] if among else None,
    }


if __name__ == "__main__":
    stage_cli.run(main)
