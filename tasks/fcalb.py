"""FCALB: unlearning by feature constraint and adaptive loss balance.

Yin Y., Wu G., Li Y., Wang X., Gao H., "A Machine Unlearning Method via Feature Constraint and Adaptive Loss
Balance", Journal of Computer Research and Development 61(10), 2649-2661, 2024, doi
10.7544/issn1000-1239.202440476. The abstract fixes the idea; losses and hyper-parameters are not public, so this is
a reconstruction:

    forget   L_f = sum over taps of d(phi(x_f), phi_random(x_f)), x_f in the forget set
    recover  L_r = cross-entropy of f(x_r) and y_r,               x_r in a small part of the retain set
    balance  L   = 1/2 exp(-s_f) L_f + exp(-s_r) L_r + 1/2 (s_f + s_r), s learned (Kendall et al. 2018, eq. 10)

The random model is freshly initialised: it has never seen the forget set, so it can teach what not knowing looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks import models, seeds, training
from tasks.errors import EvidenceError
from tasks.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class TraceRow:
    """One step: both losses and the weights they had in the sum."""

    step: int
    phase: str
    forget_loss: float
    recover_loss: float
    forget_weight: float
    recover_weight: float


class UncertaintyBalance:
    """Weights learned with the model: each loss divided by its own noise (Kendall, Gal and Cipolla 2018).

    At their best the weights are 1/L, so a vanishing loss would take over: log weights are clamped.
    """

    def __init__(self, limit: float, device: torch.device) -> None:
        import torch

        self.limit = limit
        self.log_variances = torch.zeros(2, device=device, requires_grad=True)  # s_f, s_r

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The balanced loss, a scalar with a gradient, and the two weights."""
        s_f, s_r = self.log_variances.clamp(-self.limit, self.limit)
        w_f, w_r = 0.5 * (-s_f).exp(), (-s_r).exp()
        return w_f * forget + w_r * recover + 0.5 * (s_f + s_r), float(w_f.detach()), float(w_r.detach())

    def groups(self) -> list[dict[str, Any]]:
        """What the optimiser has to learn beside the model: without weight decay, which would pull weights to 1."""
        return [{"params": [self.log_variances], "weight_decay": 0.0}]


class FixedBalance:
    """One to one."""

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The sum of both losses, and their weights."""
        return forget + recover, 1.0, 1.0

    def groups(self) -> list[dict[str, Any]]:
        """Nothing to learn."""
        return []


def unlearn(
    original: nn.Module,
    forget: training.Records,
    retain: training.Records,
    settings: Settings,
    progress: training.Progress | None = None,
) -> tuple[nn.Module, list[TraceRow]]:
    """Make a classifier forget, in place.

    Args:
        original: the classifier as trained with everybody.
        forget: the forget set.
        retain: all retained records; recovery uses `unlearn.retained_share` of them, drawn at random.
        settings: `unlearn` with all choices, `train` for momentum, weight decay and augmentation.
        progress: told each step.

    Returns:
        The classifier in evaluation mode, and the trace, a row a step. With no steps the weights are unchanged.

    Raises:
        EvidenceError: the forget set is empty or larger than the retain set.
        ModelError: the model cannot be tapped, or a loss is not finite.
    """
    import torch
    from torch.nn import functional

    if not 0 < len(forget) <= len(retain):
        raise EvidenceError(
            f"got {len(forget)} records to forget and {len(retain)} to retain; expected at least one to forget and no "
            "more than are retained: retrain instead (unlearn.method=retrain)"
        )
    wish, place = settings.unlearn, forget.place
    steps = round(wish.epochs * len(retain) / min(wish.batch_size, len(retain)))
    trace: list[TraceRow] = []
    original.to(place.device, memory_format=place.memory_format).train()  # type: ignore[call-overload]
    teacher = models.build(settings.model, settings.data, seeds.derive(settings.seed, "unlearn", "teacher"))
    teacher.to(place.device, memory_format=place.memory_format).train(wish.teacher_mode == "train")  # type: ignore[call-overload]
    if steps:
        move_towards(original, teacher, wish.reset)
    seed = seeds.derive(settings.seed, "unlearn", "order")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        taps = models.Taps(original, wish.taps, forget.floats(slice(0, 1)))
        teacher_taps = models.Taps(teacher, wish.taps, forget.floats(slice(0, 1)))
        forget_batches = _pairs(forget).batches(wish.batch_size, generator, settings.train)
        retain_batches = _sample(retain, wish.retained_share, generator).batches(
            wish.batch_size, generator, settings.train
        )
        balance = (
            UncertaintyBalance(wish.max_log_weight, place.device) if wish.balance == "uncertainty" else FixedBalance()
        )

        def objective(step: int) -> Tensor:
            forget_images, _ = next(forget_batches)
            images, labels = next(retain_batches)
            with place.autocast():
                _, features = taps(forget_images)
                with torch.no_grad():
                    _, targets = teacher_taps(forget_images)
                forget_loss = torch.stack(
                    [distance(a, b, wish.distance) for a, b in zip(features, targets, strict=True)]
                ).sum()
                recover_loss = functional.cross_entropy(original(images), labels)
            loss, w_f, w_r = balance.weigh(forget_loss, recover_loss)
            trace.append(
                TraceRow(step + 1, "joint", float(forget_loss.detach()), float(recover_loss.detach()), w_f, w_r)
            )
            return loss

        groups: list[dict[str, Any]] = [{"params": list(original.parameters())}, *balance.groups()]
        training.optimise(groups, objective, steps, wish.learning_rate, settings.train, progress)
    return original.eval(), trace


def distance(features: Tensor, targets: Tensor, kind: str) -> Tensor:
    """How far features (n, ...) are from the teacher's, a scalar in float32: mean square, or 1 - cosine."""
    from torch.nn import functional

    features, targets = features.flatten(1).float(), targets.flatten(1).float()
    if kind == "mse":
        return functional.mse_loss(features, targets)
    return (1 - functional.cosine_similarity(features, targets)).mean()


def move_towards(network: nn.Module, teacher: nn.Module, share: float) -> None:
    """Move all weights a share of the way to the teacher's: 0 leaves them, 1 makes the networks equal."""
    import torch

    if share == 0:
        return
    with torch.no_grad():
        for value, target in zip(network.state_dict().values(), teacher.state_dict().values(), strict=True):
            if value.dtype.is_floating_point:
                value.lerp_(target, share)


def _pairs(records: training.Records) -> training.Records:
    """The records, a single one doubled: batch norm needs two."""
    return _rows(records, [0, 0]) if len(records) == 1 else records


def _sample(records: training.Records, share: float, generator: torch.Generator) -> training.Records:
    """A random share of the records, at least two."""
    import torch

    count = min(len(records), max(2, round(share * len(records))))
    return _rows(records, torch.randperm(len(records), generator=generator)[:count].tolist())


def _rows(records: training.Records, rows: list[int]) -> training.Records:
    images, labels = records.images[rows].cpu().numpy(), records.labels[rows].cpu().numpy()
    return training.Records(images, labels, records.model, records.place)
