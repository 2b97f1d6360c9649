"""FCALB: unlearning by feature constraint and adaptive loss balance.

Yin Y., Wu G., Li Y., Wang X., Gao H., "A Machine Unlearning Method via Feature Constraint and
Adaptive Loss Balance", Journal of Computer Research and Development 61(10), 2649-2661, 2024, doi
10.7544/issn1000-1239.202440476. The abstract fixes the idea; losses and hyper-parameters are not
public, so this is a reconstruction:

    forget   L_f = sum over taps of d(phi(x_f), phi_random(x_f)), x_f in the forget set
    recover  L_r = cross-entropy of f(x_r) and y_r, x_r in the retain set
    balance  L = w_f L_f + w_r L_r, weights found during the run (`loss_balances`)

The random model is freshly initialised. It has never seen the forget set, so its features are those
of a model that does not know it.

The method `fcalb` has a procedure for each of two tasks (`unlearn.task`):

    people   Records of people. Weights move towards the random model's (Ash and Adams 2020, "On
             Warm-Starting Neural Network Training", shrink and perturb in the same way), until
             little is left of what the model knew: see `reset_share`. Then the model recovers on
             all retained records. While it recovers, the features of the forget set are held to
             the random model's, with the balance `descent`. The reset removes what features alone
             leave; the constraint removes what the reset leaves.
    class    A whole class, which no retained record teaches again. First its features are held to
             the random model's; then the model recovers on all retained records. No reset, and one
             loss at a time, so that there is nothing to balance.

`fcalb_plain` does what the keys of `unlearn` say, by default what the abstract says. `fcalb_reset`
is the procedure for people without the constraint: reset and recovery alone. docs/methods.md
compares them.

Off unless set: the two losses one after the other (`unlearn.phases`), and subjects whom no model
was trained on to choose how strongly to forget (`unlearn.resets`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tasks.common import seeds
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import Settings, Train
from tasks.training import architectures, training_loop
from tasks.unlearning import loss_balances
from tasks.verification import scoring
from tasks.verification.scoring import Floats, Ints

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


METHODS = ("fcalb", "fcalb_plain", "fcalb_reset")
"""Names in `unlearn.method` that this module serves"""
Task = Literal["people", "class"]
PEOPLE: dict[str, Any] = {
    "reset_until": 0.92,
    "retained_share": 1.0,
    "phases": "joint",
    "balance": "descent",
    "forget_weight": 1.0,
}
"""`fcalb` for people: the constraint holds while the model recovers from the reset."""
BARE: dict[str, Any] = {
    "reset": 0.6,
    "retained_share": 1.0,
    "phases": "forget_recover",
    "forget_steps": 0,
    "balance": "fixed",
}
"""`fcalb_reset`: most of the way to the random teacher, then recovery without a constraint."""
CLASS: dict[str, Any] = {
    "reset": 0.0,
    "retained_share": 1.0,
    "phases": "forget_recover",
    "forget_steps": 40,
}
"""`fcalb` for a whole class: the constraint first, then recovery."""


@dataclass(frozen=True)
class Recovery:
    """How a model recovers on retained records, measured by the recipe."""

    share: float
    """of the recipe's epochs"""
    most_epochs: float
    batch: float
    """records per step, as a share of the recipe's"""

    def after(self, recipe: Train) -> dict[str, Any]:
        """The keys of `unlearn` that say so, after a recipe."""
        return {
            "epochs": min(self.share * recipe.epochs, self.most_epochs),
            "batch_size": max(2, int(self.batch * recipe.batch_size)),
            "learning_rate": recipe.learning_rate,
        }


RECOVERY = Recovery(share=1 / 2, most_epochs=8, batch=1 / 2)
"""Of `fcalb` for people: few epochs of small batches have as many steps as the recipe."""
LONG_RECIPE = 40
"""From recipes of as many epochs or more it recovers in another way."""
RECOVERY_OF_LONG = Recovery(share=1 / 4, most_epochs=9, batch=1)
"""Of `fcalb` for people after a long recipe. Smaller batches at the same rate would leave a model
surer of people whom it never saw than retrained models are, and quicker to learn forgotten records
again (docs/methods.md)."""
RECOVERY_OF_CLASS = Recovery(share=1 / 4, most_epochs=8, batch=1 / 2)
"""Of `fcalb` for a whole class."""
RECOVERY_OF_BARE = Recovery(share=1 / 3, most_epochs=6, batch=1 / 2)
"""Of `fcalb_reset`."""
RESET_RECORDS = 128
"""Retained records that the strength of the reset is found with, at most."""


def key(method: str, rate: str = "learning_rate") -> str:
    """The key in `params.yaml` that sets a rate of a method: of `fcalb_plain` in `unlearn`, of all
    others in `unlearn.rivals`."""
    return f"unlearn.{rate}" if method == "fcalb_plain" else f"unlearn.rivals.{rate}"


def task_of(settings: Settings, forgotten: Ints, retained: Ints) -> Task:
    """The task: `unlearn.task`, or derived from the records.

    Args:
        settings: with `unlearn.task`.
        forgotten: (n,) classes of the forget set.
        retained: (m,) classes of the retained records.

    Returns:
        `class` where the forget set holds all records of some class, else `people`.
    """
    if settings.unlearn.task != "auto":
        return settings.unlearn.task
    return "people" if np.isin(forgotten, retained).all() else "class"


def effective_settings(settings: Settings, task: Task = "people") -> Settings:
    """The settings with all values filled in: `fcalb` and `fcalb_reset` have their own defaults.

    Values of `unlearn.rivals`, `reset`, `resets` and `reset_until` take precedence.
    """
    unlearn, recipe = settings.unlearn, settings.train
    if unlearn.method not in ("fcalb", "fcalb_reset"):
        return settings
    if unlearn.method == "fcalb_reset":
        procedure, recovery = BARE, RECOVERY_OF_BARE
    elif task == "class":
        procedure, recovery = CLASS, RECOVERY_OF_CLASS
    else:
        procedure = PEOPLE
        recovery = RECOVERY_OF_LONG if recipe.epochs >= LONG_RECIPE else RECOVERY
    choices = {**procedure, **recovery.after(recipe)}
    choices |= {
        name: value
        for name in ("epochs", "learning_rate", "retained_share")
        if (value := getattr(unlearn.rivals, name)) is not None
    }
    if unlearn.reset or unlearn.resets:
        choices |= {"reset": unlearn.reset, "reset_until": 0.0}
    elif unlearn.reset_until:
        choices |= {"reset": 0.0, "reset_until": unlearn.reset_until}
    return settings.model_copy(update={"unlearn": unlearn.model_copy(update=choices)})


@dataclass(frozen=True)
class TraceRow:
    """One step: both losses and their weights in the sum; NaN and 0 for a loss that its phase
    lacks."""

    step: int
    """from 1, counted through all phases"""
    phase: str
    """joint, forget or recover; with `unlearn.resets` the strength chosen as well: recover at
    0.6"""
    forget_loss: float
    recover_loss: float
    forget_weight: float
    recover_weight: float
    reset: float = 0.0
    """share of the way to the random teacher that weights were moved before the first step"""


def unlearn(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None = None,
    calibration: training_loop.Records | None = None,
) -> tuple[nn.Module, list[TraceRow]]:
    """Make a classifier forget, in place.

    With `unlearn.resets` each strength is tried on the same weights. The strength under which the
    forget set looks most like calibration subjects is kept: see `unlikeness`.

    Args:
        original: the classifier as trained with everybody.
        forget: the forget set.
        retain: all retained records; recovery uses `unlearn.retained_share` of them, drawn at
            random.
        settings: `unlearn` with all choices (see `effective_settings`), `train` for momentum,
            weight decay and augmentation.
        progress: told each step.
        calibration: records of subjects whom no model was trained on and no verdict looks at;
            `unlearn.resets` needs them, nothing else uses them.

    Returns:
        The classifier in evaluation mode, and the trace, a row a step. With no steps the weights
        are unchanged.

    Raises:
        EvidenceError: the forget set is empty or larger than the retain set, or there is no
            calibration record to choose by.
        ModelError: the model cannot be tapped, all its weights are frozen, or a loss or margin is
            not finite.
    """
    training_loop.check(original, forget, retain)
    settings = effective_settings(settings, task_of(settings, _labels(forget), _labels(retain)))
    chosen = settings.unlearn
    if not chosen.resets:
        return original, _attempt(original, forget, retain, settings, progress)
    if not calibration:
        raise EvidenceError(
            "unlearn.resets lets calibration subjects choose, got none of their records; expected "
            "subjects in the role "
            "calibration (split.calibration), or a single strength in unlearn.reset"
        )
    return original, _best_attempt(original, forget, retain, calibration, settings, progress)


def _best_attempt(
    network: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    calibration: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> list[TraceRow]:
    """Unlearn in place with the strength of `unlearn.resets` that `unlikeness` prefers."""
    chosen = settings.unlearn
    before = copy.deepcopy(network.state_dict())
    best, best_distance = before, math.inf
    best_trace: list[TraceRow] = []
    for strength in chosen.resets:
        network.load_state_dict(before)
        at_strength = settings.model_copy(
            update={"unlearn": chosen.model_copy(update={"reset": strength})}
        )
        trace = _attempt(network, forget, retain, at_strength, progress)
        away = max(
            map(abs, unlikeness(*_margins(network, forget), *_margins(network, calibration)))
        )
        # a strength that fails must not end with another one, or with no forgetting at all
        if not math.isfinite(away):
            raise ModelError(
                f"margins became {away} at reset {strength:g}: unlearning stops and nothing is "
                "released; lower the "
                f"learning rate ({key(chosen.method)} is {chosen.learning_rate:g})"
            )
        if away < best_distance:
            best, best_distance = copy.deepcopy(network.state_dict()), away
            best_trace = [replace(row, phase=f"{row.phase} at {strength:g}") for row in trace]
    network.load_state_dict(best)
    return best_trace


def _attempt(
    network: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> list[TraceRow]:
    """Unlearn once, in place, with the strength of `unlearn.reset`; the network is left in
    evaluation mode."""
    import torch

    chosen, backend = settings.unlearn, forget.backend
    steps = round(chosen.epochs * len(retain) / min(chosen.batch_size, len(retain)))
    forget_steps = chosen.forget_steps if chosen.phases == "forget_recover" else 0
    forget.place(network)
    teacher = architectures.build(
        settings.model, settings.data, seeds.derive(settings.seed, "unlearn", "teacher")
    )
    forget.place(teacher)
    reset = chosen.reset
    if steps or forget_steps:
        if chosen.reset_until:
            reset = reset_share(network, teacher, retain, chosen.reset_until, settings.seed)
        move_towards(network, teacher, reset)
    seed = seeds.derive(settings.seed, "unlearn", "order")
    phases = _Phases(network, settings, reset, progress)
    balance = loss_balances.make(chosen, steps, phases.weights, backend.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        losses = _Losses(network, teacher, forget, retain, settings, generator)
        if chosen.phases == "joint":
            phases.run(lambda: losses.both(balance), steps, "learning_rate", balance.groups())
        else:
            phases.run(losses.only_forget, forget_steps, "forget_rate")
            phases.run(losses.only_recover, steps, "learning_rate")
    network.eval()
    return phases.trace


class _Phases:
    """Runs the phases of one unlearning, and records their trace."""

    def __init__(
        self,
        network: nn.Module,
        settings: Settings,
        reset: float,
        progress: training_loop.Progress | None,
    ) -> None:
        self.weights = list(network.parameters())
        self.trace: list[TraceRow] = []
        self._settings, self._reset, self._progress = settings, reset, progress

    def run(
        self, term: Callable[[], tuple[Tensor, TraceRow]], count: int, rate: str, extra: Any = ()
    ) -> None:
        """Descend on a loss for some steps.

        Args:
            term: the loss of the next step, and its row without step and reset.
            count: number of steps.
            rate: the setting of `unlearn` with the learning rate.
            extra: further parameter groups.
        """
        before, progress, unlearn = len(self.trace), self._progress, self._settings.unlearn

        def objective(_: int) -> Tensor:
            loss, row = term()
            self.trace.append(replace(row, step=len(self.trace) + 1, reset=self._reset))
            return loss

        training_loop.optimise(
            [{"params": self.weights}, *extra],
            objective,
            count,
            getattr(unlearn, rate),
            self._settings.train,
            None if progress is None else lambda step, loss: progress(before + step, loss),
            setting=key(unlearn.method, rate),
        )


class _Losses:
    """The two losses, each of the next batch of its own records."""

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        forget: training_loop.Records,
        retain: training_loop.Records,
        settings: Settings,
        generator: torch.Generator,
    ) -> None:
        chosen = settings.unlearn
        self.network, self.kind, self.backend = network, chosen.distance, forget.backend
        if (
            chosen.phases == "joint" or chosen.forget_steps
        ):  # else a model that cannot be tapped will do
            try:
                self.taps, self.teacher_taps = (
                    architectures.Taps(each, chosen.taps, forget.floats(slice(0, 1)))
                    for each in (network, teacher)
                )
            except ModelError as error:
                raise ModelError(
                    f"{error}; unlearn.method=fcalb_reset reads no features"
                ) from error
        architectures.hold_still(teacher, batch_norm=chosen.teacher_mode == "train")
        self.forget_batches = training_loop.paired(forget).batches(
            chosen.batch_size, generator, settings.train
        )
        retained_part = training_loop.sample(retain, chosen.retained_share, generator)
        self.retain_batches = retained_part.batches(chosen.batch_size, generator, settings.train)

    def both(self, balance: loss_balances.Balance) -> tuple[Tensor, TraceRow]:
        """The balanced sum of both losses and its row; only recovery where the balance ended."""
        if balance.finished:
            return self.only_recover()
        forget_loss, recover_loss = self.forget(), self.recover()
        loss, w_f, w_r = balance.weigh(forget_loss, recover_loss)
        return loss, TraceRow(
            0, "joint", float(forget_loss.detach()), float(recover_loss.detach()), w_f, w_r
        )

    def only_forget(self) -> tuple[Tensor, TraceRow]:
        """The loss of forgetting and its row."""
        loss = self.forget()
        return loss, TraceRow(0, "forget", float(loss.detach()), math.nan, 1.0, 0.0)

    def only_recover(self) -> tuple[Tensor, TraceRow]:
        """The loss of recovery and its row."""
        loss = self.recover()
        return loss, TraceRow(0, "recover", math.nan, float(loss.detach()), 0.0, 1.0)

    def forget(self) -> Tensor:
        """Distance of the forget set's features from the random teacher's, summed over taps."""
        import torch

        images, _ = next(self.forget_batches)
        architectures.hold_still(
            self.network, batch_norm=True
        )  # features without dropout, as the teacher's are
        with self.backend.autocast():
            _, features = self.taps(images)
            with torch.no_grad():
                _, targets = self.teacher_taps(images)
            parts = [
                distance(ours, its, self.kind) for ours, its in zip(features, targets, strict=True)
            ]
            return torch.stack(parts).sum()

    def recover(self) -> Tensor:
        """Cross-entropy on retained records."""
        from torch.nn import functional

        images, labels = next(self.retain_batches)
        self.network.train()
        with self.backend.autocast():
            return functional.cross_entropy(self.network(images), labels)


def unlikeness(
    forget: Floats, forget_labels: Ints, calibration: Floats, calibration_labels: Ints
) -> tuple[float, float]:
    """How much a forget set differs from the records of unseen subjects: (0, 0) alike, > 0 better
    known, < 0 over-forgotten.

    Margins are centred by the mean of the calibration records of their class, since classes differ
    in difficulty; a class without such records is centred by the mean of all. The unit is the
    calibration records' standard deviation. Few subjects make a rough comparison: they also differ
    from the forgotten ones for other reasons.

    Args:
        forget: (n,) margins of the forget set, see `scoring.margins`.
        forget_labels: (n,) its classes.
        calibration: (k,) margins of calibration subjects' records, k >= 1.
        calibration_labels: (k,) their classes.

    Returns:
        The difference of the means of all records, and of the means of the upper thirds, those best
        known.
    """
    base = {
        label: calibration[calibration_labels == label].mean()
        for label in np.unique(calibration_labels)
    }
    centred, centred_calibration = (
        margins - np.array([base.get(label, calibration.mean()) for label in labels])
        for margins, labels in ((forget, forget_labels), (calibration, calibration_labels))
    )
    unit = max(float(centred_calibration.std()), np.finfo(np.float64).tiny)
    upper, its = (
        np.sort(margins)[-max(1, len(margins) // 3) :].mean()
        for margins in (centred, centred_calibration)
    )
    return float((centred.mean() - centred_calibration.mean()) / unit), float((upper - its) / unit)


def _margins(network: nn.Module, records: training_loop.Records) -> tuple[Floats, Ints]:
    """Margins (n,) and classes (n,) of records."""
    labels = _labels(records)
    return scoring.margins(training_loop.logits(network, records), labels), labels


def _labels(records: training_loop.Records) -> Ints:
    """Classes (n,) of records."""
    return records.labels.cpu().numpy()


def distance(features: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Distance of features (n, ...) from the teacher's, a scalar in float32: mean square, or 1 -
    cosine."""
    from torch.nn import functional

    features, targets = features.flatten(1).float(), targets.flatten(1).float()
    if kind == "mse":
        return functional.mse_loss(features, targets)
    return (1 - functional.cosine_similarity(features, targets)).mean()


def reset_share(
    network: nn.Module, teacher: nn.Module, retain: training_loop.Records, until: float, seed: int
) -> float:
    """The share of the way to the teacher's weights after which the model knows little.

    The share s with L(s) = until x min(log(classes), L(1)), L the mean cross-entropy on at most
    `RESET_RECORDS` retained records with batch norm as in training: log(classes) is that of a model
    that knows nothing, L(1) the teacher's, which chance can bring below it. Models differ in how
    much they still know after the same share.

    Args:
        network: the classifier; it is not changed.
        teacher: the random model.
        retain: retained records.
        until: share of the loss of a model that knows nothing, 0 to 1.
        seed: draws the records.

    Returns:
        The share, found by bisection to 1/256.
    """
    import torch
    from torch.nn import functional

    order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(seed))
    rows = retain.rows(order[:RESET_RECORDS])
    images = rows.floats(slice(None))

    def loss_at(share: float) -> tuple[float, int]:
        """The loss after a share of the way, and the number of classes."""
        trial = copy.deepcopy(network)
        move_towards(trial, teacher, share)
        logits = trial.train()(images).float()
        return float(functional.cross_entropy(logits, rows.labels)), logits.shape[1]

    low, high = 0.0, 1.0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers such as dropout draw from the global generator
        of_teacher, classes = loss_at(1.0)
        target = until * min(math.log(classes), of_teacher)
        for _ in range(8):
            middle = (low + high) / 2
            low, high = (middle, high) if loss_at(middle)[0] < target else (low, middle)
    return high


def move_towards(network: nn.Module, teacher: nn.Module, share: float) -> None:
    """Move all weights a share of the way to the teacher's: 0 leaves them, 1 makes the networks
    equal.

    Running statistics move, too. Frozen weights stay: they were never learned from anybody.
    """
    import torch

    if share == 0:
        return
    settled = {weight.data_ptr() for weight in network.parameters() if not weight.requires_grad}
    with torch.no_grad():
        for value, target in zip(
            network.state_dict().values(), teacher.state_dict().values(), strict=True
        ):
            if value.is_floating_point() and value.data_ptr() not in settled:
                value.lerp_(target, share)
                settled.add(value.data_ptr())  # tied weights have several names, and move once
