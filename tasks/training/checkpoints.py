"""Weights on disk: written as safetensors, and read into the architecture that the settings name,
every tensor by name and shape. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.common import files, settings
from tasks.common.errors import ModelError
from tasks.training import architectures

if TYPE_CHECKING:
    from torch import Tensor, nn

MADE_FOR = "model"
"""The key of safetensors' metadata that holds the section `model` of the settings, as JSON."""
COUNTS = "num_batches_tracked"
"""A buffer of batch norm without effect on the output; files of PyTorch before 0.4.1 lack it."""
AVERAGED = "n_averaged"
"""A buffer of `torch.optim.swa_utils.AveragedModel` beside the model that it wraps."""
HEADS = ("aux1.", "aux2.", "AuxLogits.")
"""Outputs of torchvision's `AUXILIARY` classifiers that exist in training only."""
SHOWN = 3
"""Most names of a kind in an error."""

State = dict[str, "Tensor"]


def save(network: nn.Module, path: Path, made_for: settings.Model | None = None) -> str:
    """Write the weights as safetensors, whole or not at all.

    Args:
        network: the classifier.
        path: the file.
        made_for: the settings that the network was built with; `load` refuses to read the file with
            others.

    Returns:
        The SHA-256 of the file.

    Raises:
        ModelError: a weight is NaN or infinite; nothing is written.
    """
    import torch
    from safetensors.torch import save as serialise

    state = network.state_dict()
    _refuse_not_finite(
        state,
        "the model",
        "its training diverged, and nothing is released: lower the learning rate "
        "(train.learning_rate, or to unlearn unlearn.learning_rate or "
        "unlearn.rivals.learning_rate)",
    )
    # a copy of each: safetensors does not take names that share memory, and tied weights do
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    metadata = {MADE_FOR: _described(made_for)} if made_for else None
    files.write_bytes(path, serialise(copies, metadata))
    return files.sha256(path)


def _described(model: settings.Model) -> str:
    return json.dumps(model.model_dump(mode="json"), sort_keys=True)


def load_original(path: Path, chosen: settings.Settings) -> nn.Module:
    """Read the original; if its file holds several copies, the one that `original.prefix` names.

    Raises:
        ModelError: as `load`.
    """
    return load(path, chosen.model, chosen.data, chosen.original.prefix)


def load(
    path: Path, model: settings.Model, data: settings.Data, prefix: str | None = None
) -> nn.Module:
    """Read weights into a freshly built classifier.

    One name of tied weights is enough, as `safetensors.torch.save_model` writes them. A prefix
    before all names is recognised, as data parallelism (`module.`), the compiler (`_orig_mod.`) and
    trainers (`model.`) put it there. Batch norm's counts may be missing, and torchvision's
    auxiliary outputs are left out.

    Args:
        path: the file.
        model: the architecture.
        data: classes, channels and side of the images.
        prefix: the prefix of the names of the copy to read; None: the file holds one copy.

    Raises:
        ModelError: the file is missing, is no safetensors file, was written for other settings, is
            of another architecture, holds several copies of the model and no prefix names one, has
            no such prefix, or holds NaN or infinity.
    """
    state = _read(path, model)
    network = architectures.build(model, data, seed=0)
    expected = network.state_dict()
    state = _unwrapped(state, expected, path, prefix)
    state = _completed(state, expected, model.name)
    _refuse_others(state, expected, path, model, data)
    _refuse_not_finite(state, str(path), "use a checkpoint that is whole")
    expected.update(state)  # with the versions of layers, which a file does not have
    network.load_state_dict(expected)
    return network


def _read(path: Path, model: settings.Model) -> State:
    with _opened(path) as file:
        _refuse_other_settings(path, file.metadata() or {}, model)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; expected the weights of the model") from error
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no safetensors file ({error}). Pickled checkpoints are not read, because "
            "loading one runs its code: convert it with "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from error


def names_its_settings(path: Path) -> bool:
    """Whether a checkpoint records the settings that it was made for, so that it cannot be misread.

    Raises:
        ModelError: as `load`, of the file.
    """
    with _opened(path) as file:
        return _made_for(file.metadata() or {}) is not None


def _made_for(metadata: Mapping[str, str]) -> dict[str, object] | None:
    """The settings that our own files record; None if the key is another program's."""
    try:
        written = json.loads(metadata.get(MADE_FOR, "null"))
    except ValueError:
        return None
    is_ours = isinstance(written, dict) and {"name", "stem"} <= written.keys()
    return written if is_ours else None


def _refuse_other_settings(path: Path, metadata: Mapping[str, str], model: settings.Model) -> None:
    """Refuse settings other than the file's: another stem or normalisation changes the model."""
    written = _made_for(metadata) or {}
    current = json.loads(_described(model))
    differs = [key for key in current if key in written and written[key] != current[key]]
    if differs:
        key = differs[0]
        raise ModelError(
            f"{path} was made for model.{key}={json.dumps(written[key])}, but the settings say "
            f"{json.dumps(current[key])}; set model.{key} to what the file was made for"
        )


def _unwrapped(
    state: State, expected: Mapping[str, Tensor], path: Path, prefix: str | None
) -> State:
    """The tensors under the architecture's names, whatever wrapper they were saved from.

    A file may hold a second copy of the model, such as a moving average of its weights, under a
    prefix of its own. The file does not say which copy is in use, so the user has to.
    """
    behind = {"": set(state) & set(expected), **_by_prefix(state, expected)}
    copies = sorted(name for name, names in behind.items() if _mostly(names, expected))
    if prefix is not None and prefix not in copies:
        raise ModelError(
            f"{path}: no copy of the model has names that begin with original.prefix={prefix!r}; "
            f"expected one of {_quoted(copies) or 'no prefix at all'}"
        )
    if prefix is None and len(copies) > 1 and len(state) > len(expected):
        raise ModelError(
            f"{path} holds {len(copies)} copies of the model, such as the weights and their moving "
            f"average; their names begin with {_quoted(copies)}. Set original.prefix to that of "
            "the copy in use"
        )
    if prefix is not None:
        begins = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
        return {name: state[key] for name, key in begins.items() if name in expected}
    if not copies:
        return state
    return {
        name.removeprefix(copies[0]): value for name, value in state.items() if name != AVERAGED
    }


def _quoted(prefixes: list[str]) -> str:
    return ", ".join(repr(name) for name in prefixes)


def _by_prefix(state: State, expected: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """The expected names behind each prefix; prefixes end in a dot."""
    behind: dict[str, set[str]] = defaultdict(set)
    for name in state:
        for position, letter in enumerate(name):
            if letter == "." and name[position + 1 :] in expected:
                behind[name[: position + 1]].add(name[position + 1 :])
    return behind


def _mostly(names: set[str], expected: Mapping[str, Tensor]) -> bool:
    return 2 * len(names) > len([name for name in expected if not name.endswith(COUNTS)])


def _completed(state: State, expected: Mapping[str, Tensor], name: str) -> State:
    """Add tensors that a file may omit (other names of tied weights, and counts), and drop
    auxiliary outputs."""
    if name in architectures.AUXILIARY:
        state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    by_address = {
        expected[key].data_ptr(): value for key, value in state.items() if key in expected
    }
    for key, value in expected.items():
        if key in state or not value.numel():
            continue
        if value.data_ptr() in by_address:
            state[key] = by_address[value.data_ptr()]
        elif key.endswith(f".{COUNTS}"):
            state[key] = value
    return state


def _refuse_others(
    state: State,
    expected: Mapping[str, Tensor],
    path: Path,
    model: settings.Model,
    data: settings.Data,
) -> None:
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    types = [
        f"{name} {_kind(state[name])} instead of {_kind(value)}"
        for name, value in expected.items()
        if name in state and value.is_floating_point() and not state[name].is_floating_point()
    ]
    kinds = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": shapes,
        "of another type": types,
    }
    faults = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]
    if faults:
        raise ModelError(
            f"{path} is not a checkpoint of {model.name} for {data.classes} classes, "
            f"{data.channels} channels and images of {data.image_size} pixels: "
            f"{'; '.join(faults)}. " + _remedy(kinds)
        )


def _remedy(kinds: Mapping[str, list[str]]) -> str:
    if kinds["of another type"]:
        return "Save the weights as floating-point numbers: quantised models are not read"
    if kinds["unexpected"] and not (kinds["missing"] or kinds["of another shape"]):
        return (
            "Nothing is missing, and the file holds more. If the model is a larger one, set "
            "model.name; if it has parts of your own, such as a layer that normalises, write a "
            "factory (docs/models.md); if the rest is an optimizer, a loss or a moving average, "
            "save the state_dict of the model in use alone"
        )
    return "Set model.name and data.* to what it was trained with"


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _refuse_not_finite(state: Mapping[str, Tensor], owner: str, advice: str) -> None:
    not_finite = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if not_finite:
        raise ModelError(
            f"{owner} has NaN or infinite values in {len(not_finite)} of {len(state)} tensors, "
            f"first {not_finite[0]}; {advice}"
        )
