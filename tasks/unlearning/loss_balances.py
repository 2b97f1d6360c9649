"""Balances that weigh the losses of forgetting (f) and of recovering (r), step by step.

The abstract of FCALB (see `fcalb`) asks for an adaptive loss balance without naming one. Here are
common ones with one interface, and a fixed weight for comparison:

- `uncertainty`: w_f = exp(-s_f) / 2, w_r = exp(-s_r), s learned. Kendall, Gal and Cipolla 2018,
  eq. 10.
- `fixed`: w_f = `unlearn.forget_weight`, w_r = 1.
- `gradnorm`: w moved by the sign of G_i - mean(G) r_i^1.5, sum 2. Chen et al. 2018, section 3.
- `dwa`: w_i = 2 softmax(rate_i / 2), rate_i = L_i(t-1) / L_i(t-2). Liu, Johns and Davison 2019,
  section 3.
- `imtl_g`: w_i proportional to 1 / |g_i|: g_f and g_r bisected. Liu et al. 2021, section 3.
- `descent`: both losses count alike at the start, and forgetting ends as recovery descends:
  w_f = (L_r(0) / L_f(0)) (q_r - e) / (1 - e) with q_r = L_r / L_r(0), the inverse training rate of
  Chen et al. 2018, smoothed, and e = `unlearn.descent_end`. The rule is ours.

Losses are scalars with a gradient; weights are floats >= 0. If one loss or gradient vanishes, most
of these would give it all of the weight, so log weights are clamped by `unlearn.max_log_weight`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tasks.common.errors import ModelError
from tasks.common.settings import Unlearn

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GRADNORM_ASYMMETRY = 1.5
"""alpha of GradNorm, the paper's choice for tasks that differ much: how strongly a slower task is
sped up"""
GRADNORM_RATE = 0.025
"""learning rate of GradNorm's weights, the paper's"""
DWA_TEMPERATURE = 2.0
"""T of DWA, the paper's"""
DWA_WINDOWS = 10
"""DWA compares mean losses of epochs; unlearning may take less than one, so a tenth of the steps
stands for one"""
LEAST = 1e-12
"""losses and norms below this count as this: logs and quotients stay finite"""
DESCENT_MEMORY = 0.8
"""weight of earlier steps in the smoothed recovery loss of `descent`"""


class Balance(Protocol):
    """Weighs two losses.

    Attributes:
        finished: from now on only recovery counts, and the forget loss need not be computed.
    """

    finished: bool

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The balanced loss, a scalar with a gradient, and the weights of both losses in it."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups that the optimiser has to learn beside the model."""


def make(
    unlearn: Unlearn, steps: int, parameters: Sequence[Tensor], device: torch.device
) -> Balance:
    """The balance of `unlearn.balance`.

    Args:
        unlearn: which balance, its clamp and the fixed weight.
        steps: number of steps that it will weigh.
        parameters: all of the model's, in the order of its layers.
        device: where learned weights live.
    """
    limit = unlearn.max_log_weight
    if unlearn.balance == "uncertainty":
        return UncertaintyBalance(limit, device)
    if unlearn.balance == "gradnorm":
        return GradNormBalance(limit, parameters)
    if unlearn.balance == "dwa":
        return DwaBalance(limit, max(1, steps // DWA_WINDOWS))
    if unlearn.balance == "imtl_g":
        return ImtlGBalance(limit, parameters)
    if unlearn.balance == "descent":
        return DescentBalance(unlearn.forget_weight, limit, unlearn.descent_end)
    return FixedBalance(unlearn.forget_weight)


class UncertaintyBalance:
    """Weights learned with the model: each loss divided by its own noise (Kendall, Gal and Cipolla
    2018).

    At their best the weights are 1/L, so a vanishing loss would take over: log weights are clamped.
    """

    finished = False

    def __init__(self, limit: float, device: torch.device) -> None:
        import torch

        self.limit = limit
        self.log_variances = torch.zeros(2, device=device, requires_grad=True)  # s_f, s_r

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The balanced loss with the term that keeps the weights from falling to 0, and the two
        weights."""
        s_f, s_r = self.log_variances.clamp(-self.limit, self.limit)
        w_f, w_r = 0.5 * (-s_f).exp(), (-s_r).exp()
        return (
            w_f * forget + w_r * recover + 0.5 * (s_f + s_r),
            float(w_f.detach()),
            float(w_r.detach()),
        )

    def groups(self) -> list[dict[str, Any]]:
        """What the optimiser has to learn beside the model: without weight decay, which would pull
        weights to 1."""
        return [{"params": [self.log_variances], "weight_decay": 0.0}]


class _NothingLearned:
    """A balance that computes its weights, and leaves the optimiser nothing to learn."""

    finished = False

    def groups(self) -> list[dict[str, Any]]:
        """Nothing to learn."""
        return []


class FixedBalance(_NothingLearned):
    """A fixed weight of forgetting, and 1 for recovering."""

    def __init__(self, forget_weight: float) -> None:
        self.forget_weight = forget_weight

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The weighted sum, and both weights."""
        return self.forget_weight * forget + recover, self.forget_weight, 1.0


class DescentBalance(_NothingLearned):
    """Both losses count alike at the start; the constraint wanes as recovery descends, and ends
    when the recovery loss has come down to a share of its first value.

    A random model's features resemble those of a model that never saw the records only while the
    model knows little. A longer constraint would make it unusually unsure of the records
    (over-forgetting); a shorter one would let recovery start from traces of them. After a reset
    that leaves the features close to the random model's, equal shares would pin the model to it, so
    the log weight is clamped, too.
    """

    def __init__(self, forget_weight: float, limit: float, end: float) -> None:
        self.forget_weight, self.largest, self.end = forget_weight, math.exp(limit), end
        self.scale, self.first, self.smoothed = 0.0, 0.0, 0.0

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The weighted sum, and both weights; that of recovery is 1."""
        value = float(recover.detach())
        if not self.first:
            self.first = self.smoothed = max(value, LEAST)
            alike = self.first / max(float(forget.detach()), LEAST)
            self.scale = self.forget_weight * min(alike, self.largest)
        self.smoothed = DESCENT_MEMORY * self.smoothed + (1 - DESCENT_MEMORY) * value
        remaining = (self.smoothed / self.first - self.end) / (1 - self.end)
        self.finished = remaining <= 0
        weight = self.scale * min(1.0, max(0.0, remaining))
        return weight * forget + recover, weight, 1.0


class GradNormBalance(_NothingLearned):
    """Weights that give the losses' gradients equal norms, and a slower task's a larger one (Chen
    et al. 2018).

    G_i = w_i |g_i| with g_i the gradient of loss i by the last shared weight matrix or kernel, r_i
    = the loss as a share of its first value, by the mean of both shares. The weights descend sum
    |G_i - mean(G) r_i^alpha|, the target held constant, so that its gradient is sign(G_i -
    target_i) |g_i|; then they are brought back to sum 2.
    """

    def __init__(self, limit: float, parameters: Sequence[Tensor]) -> None:
        self.limit, self.parameters = limit, parameters
        self.last: list[Tensor] = []
        self.weights = (1.0, 1.0)
        self.first: tuple[float, float] | None = None

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The weighted sum, and both weights, which sum to 2. They are moved for the next step."""
        w_f, w_r = self.weights
        self.last = (
            self.last or shared(forget, recover, [w for w in self.parameters if w.ndim > 1])[-1:]
        )
        norms = gradient_norm(forget, self.last), gradient_norm(recover, self.last)
        self._move(norms, (float(forget.detach()), float(recover.detach())))
        return w_f * forget + w_r * recover, w_f, w_r

    def _move(self, norms: tuple[float, float], losses: tuple[float, float]) -> None:
        self.first = self.first or (max(losses[0], LEAST), max(losses[1], LEAST))
        shares = [loss / first for loss, first in zip(losses, self.first, strict=True)]
        mean_share = max(sum(shares) / 2, LEAST)
        weighted = [weight * size for weight, size in zip(self.weights, norms, strict=True)]
        new_weights = []
        for weight, size, weighted_norm, share in zip(
            self.weights, norms, weighted, shares, strict=True
        ):
            target = sum(weighted) / 2 * (share / mean_share) ** GRADNORM_ASYMMETRY
            sign = (weighted_norm > target) - (weighted_norm < target)
            new_weights.append(
                max(weight - GRADNORM_RATE * sign * size, LEAST)
            )  # a large norm would step below 0
        self.weights = shared_out(math.log(new_weights[0] / new_weights[1]), self.limit)


class DwaBalance(_NothingLearned):
    """Dynamic weight average: the loss that falls more slowly gets more weight (Liu, Johns and
    Davison 2019).

    rate_i = mean of loss i in the last window of steps / in the one before; w_i = 2 exp(rate_i / T)
    / sum. Both weights are 1 until two windows are full.
    """

    def __init__(self, limit: float, window: int) -> None:
        self.limit, self.window = limit, window
        self.history: list[tuple[float, float]] = []

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The weighted sum, and both weights, which sum to 2."""
        w_f, w_r = self._weights()
        self.history.append((float(forget.detach()), float(recover.detach())))
        return w_f * forget + w_r * recover, w_f, w_r

    def _weights(self) -> tuple[float, float]:
        full = len(self.history) // self.window
        if full < 2:
            return 1.0, 1.0
        last, before = ((full - 1) * self.window, (full - 2) * self.window)
        by_forget, by_recover = (
            self._mean(task, last) / max(self._mean(task, before), LEAST) / DWA_TEMPERATURE
            for task in (0, 1)
        )
        return shared_out(by_forget - by_recover, self.limit)

    def _mean(self, task: int, start: int) -> float:
        return sum(row[task] for row in self.history[start : start + self.window]) / self.window


class ImtlGBalance(_NothingLearned):
    """Impartial gradients: the step goes equally far along both losses' unit gradients (Liu et al.
    2021, IMTL-G).

    u_f . (w_f g_f + w_r g_r) = u_r . (w_f g_f + w_r g_r) with u_i = g_i / |g_i|, gradients by all
    shared parameters, those that both losses reach. For two tasks it is the bisector of the unit
    gradients, w_i proportional to 1 / |g_i|, whatever their angle. The paper lets the weights sum
    to 1; here they sum to 2, as other balances' do. A layer that only one loss reaches, such as the
    classifier's last, learns with that loss's weight.
    """

    def __init__(self, limit: float, parameters: Sequence[Tensor]) -> None:
        self.limit, self.parameters = limit, parameters
        self.shared: list[Tensor] = []

    def weigh(self, forget: Tensor, recover: Tensor) -> tuple[Tensor, float, float]:
        """The weighted sum, and both weights, which sum to 2."""
        self.shared = self.shared or shared(forget, recover, self.parameters)
        by_forget, by_recover = (
            max(gradient_norm(loss, self.shared), LEAST) for loss in (forget, recover)
        )
        w_f, w_r = shared_out(math.log(by_recover / by_forget), self.limit)
        return w_f * forget + w_r * recover, w_f, w_r


def shared(forget: Tensor, recover: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters that both losses reach, in their order.

    Raises:
        ModelError: there is none.
    """
    import torch

    trainable = [weight for weight in parameters if weight.requires_grad]
    gradients_of_losses = [
        torch.autograd.grad(loss, trainable, retain_graph=True, allow_unused=True)
        if trainable
        else ()
        for loss in (forget, recover)
    ]
    shared_weights = [
        weight
        for weight, *gradients in zip(trainable, *gradients_of_losses, strict=True)
        if all(gradient is not None for gradient in gradients)
    ]
    if not shared_weights:
        raise ModelError(
            "got no weights that both losses learn, expected layers before the taps that are not "
            "frozen; set unlearn.balance=fixed, which needs none"
        )
    return shared_weights


def gradient_norm(loss: Tensor, weights: Sequence[Tensor]) -> float:
    """Euclidean norm of a loss's gradient by some weights; the graph is kept for the step."""
    import torch

    parts = torch.autograd.grad(loss, list(weights), retain_graph=True)
    return math.sqrt(sum(float(part.float().square().sum()) for part in parts))


def shared_out(log_ratio: float, limit: float) -> tuple[float, float]:
    """Weights (w_f, w_r) of sum 2 with log(w_f / w_r) as given, clamped to twice the limit of one
    log weight."""
    share = 1 / (1 + math.exp(-max(-2 * limit, min(2 * limit, log_ratio))))
    return 2 * share, 2 * (1 - share)
