from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.common import settings
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import Unlearn
from tasks.training import architectures, training_loop
from tasks.unlearning import fcalb, loss_balances
from tasks.verification import scoring
from tests.tasks.training.test_training_loop import SMALL, fitted, same, separable, state

ADAPTED = ("gradnorm", "dwa", "imtl_g")


def scalars(forget: float, recover: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(forget, requires_grad=True), torch.tensor(recover, requires_grad=True)


def linear(slope_f: list[float], slope_r: list[float]) -> tuple[nn.Parameter, Tensor, Tensor]:
    """A shared weight matrix and two losses whose gradients by it are as given."""
    weight = nn.Parameter(torch.ones(1, len(slope_f)))
    return (
        weight,
        (weight * torch.tensor([slope_f])).sum(),
        (weight * torch.tensor([slope_r])).sum(),
    )


def wish(**changes: object) -> settings.Settings:
    return SMALL.model_copy(update={"unlearn": SMALL.unlearn.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("slope_f", "slope_r"), [([3.0, 1.0], [0.0, 0.5]), ([1.0, 0.0, 2.0], [-0.3, 0.4, 0.1])]
)
def test_imtl_g_steps_equally_far_along_both_unit_gradients(
    slope_f: list[float], slope_r: list[float]
) -> None:
    weight, forget, recover = linear(slope_f, slope_r)
    loss, w_f, w_r = loss_balances.ImtlGBalance(20.0, [weight]).weigh(forget, recover)
    (combined,) = torch.autograd.grad(loss, weight)
    g_f, g_r = torch.tensor(slope_f), torch.tensor(slope_r)
    along_f, along_r = (float(combined[0] @ g / g.norm()) for g in (g_f, g_r))
    assert along_f == pytest.approx(along_r, rel=1e-5)
    assert w_f + w_r == pytest.approx(2)
    # the bisector of the unit gradients, by the closed form for two tasks: 1 / (|g_i| sqrt(1 +
    # cos))
    cosine = float(g_f @ g_r / g_f.norm() / g_r.norm())
    bisector = sum(g / (g.norm() * math.sqrt(1 + cosine)) for g in (g_f, g_r))
    assert float(
        torch.nn.functional.cosine_similarity(combined[0], bisector, dim=0)
    ) == pytest.approx(1, abs=1e-5)


def test_a_vanishing_gradient_does_not_take_over() -> None:
    weight, forget, recover = linear([1e-9, 0.0], [0.0, 2.0])
    _, w_f, w_r = loss_balances.ImtlGBalance(1.0, [weight]).weigh(forget, recover)
    assert math.log(w_f / w_r) == pytest.approx(2.0)


def test_a_layer_that_one_loss_does_not_reach_is_not_shared() -> None:
    body, head = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    features = body(torch.ones(1, 2))
    both = loss_balances.shared(features.sum(), head(features).sum(), [body.weight, head.weight])
    assert len(both) == 1
    assert both[0] is body.weight


def test_losses_without_a_shared_layer_are_an_error_that_says_what_to_do() -> None:
    one, other = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1, 1))
    for balance in (
        loss_balances.ImtlGBalance(3.0, [one, other]),
        loss_balances.GradNormBalance(3.0, [one, other]),
    ):
        with pytest.raises(ModelError, match="balance=fixed"):
            balance.weigh(one.sum(), other.sum())


def test_dwa_weighs_by_how_slowly_a_loss_falls() -> None:
    balance = loss_balances.DwaBalance(3.0, window=2)
    for forget, recover in [(4.0, 1.0), (2.0, 1.0), (1.0, 1.0), (2.0, 0.5)]:
        _, w_f, w_r = balance.weigh(*scalars(forget, recover))
        assert (w_f, w_r) == (1.0, 1.0)  # until two windows are full
    _, w_f, w_r = balance.weigh(*scalars(1.0, 1.0))
    rate_f, rate_r = 1.5 / 3.0, 0.75 / 1.0  # means of the last window by those of the one before
    total = math.exp(rate_f / 2) + math.exp(rate_r / 2)
    assert (w_f, w_r) == pytest.approx(
        (2 * math.exp(rate_f / 2) / total, 2 * math.exp(rate_r / 2) / total)
    )
    assert w_r > w_f


def test_dwa_survives_a_loss_that_was_nil() -> None:
    balance = loss_balances.DwaBalance(3.0, window=1)
    for forget in (0.0, 1.0):
        balance.weigh(*scalars(forget, 1.0))
    _, w_f, w_r = balance.weigh(*scalars(1.0, 1.0))
    assert math.log(w_f / w_r) == pytest.approx(6.0)


def test_gradnorm_lowers_the_weight_of_the_larger_gradient() -> None:
    weight, forget, recover = linear([4.0, 0.0], [0.0, 1.0])
    balance = loss_balances.GradNormBalance(3.0, [weight])
    result = [balance.weigh(forget, recover)[1:] for _ in range(60)]
    assert result[0] == (1.0, 1.0)
    # one step by hand: both losses fall alike, so each gradient is drawn to the mean norm, (4 + 1)
    # / 2
    moved = 1 - 0.025 * 4, 1 + 0.025 * 1
    assert result[1] == pytest.approx((2 * moved[0] / sum(moved), 2 * moved[1] / sum(moved)))
    assert all(w_f + w_r == pytest.approx(2) for w_f, w_r in result)
    assert 4 * result[-1][0] == pytest.approx(
        result[-1][1], rel=0.3
    )  # and stays where both norms are equal


def test_gradnorm_speeds_up_the_loss_that_has_fallen_less() -> None:
    weight, forget, _ = linear([1.0, 0.0], [0.0, 1.0])
    balance = loss_balances.GradNormBalance(3.0, [weight])
    slow, fast = forget, (weight * torch.tensor([[0.0, 1.0]])).sum()
    for step in range(10):
        _, w_slow, w_fast = balance.weigh(
            slow, fast - 0.09 * step
        )  # equal gradients, one loss falls
    assert w_slow > 1 > w_fast


def test_gradnorm_reads_the_last_layer_that_both_losses_reach() -> None:
    first, last, head = (nn.Linear(2, 2, bias=False) for _ in range(3))
    features = last(first(torch.ones(1, 2)))
    balance = loss_balances.GradNormBalance(3.0, [first.weight, last.weight, head.weight])
    balance.weigh(features.square().sum(), head(features).square().sum())
    assert balance.last[0] is last.weight


def test_the_fixed_weight_is_the_one_set_and_one_where_nothing_is_set() -> None:
    loss, w_f, w_r = loss_balances.FixedBalance(0.25).weigh(*scalars(8.0, 3.0))
    assert (float(loss.detach()), w_f, w_r) == (5.0, 0.25, 1.0)
    _, trace = fcalb.unlearn(
        fitted(), separable(8, 3), separable(64, 4), wish(balance="fixed", epochs=1.0)
    )
    assert {(row.forget_weight, row.recover_weight) for row in trace} == {(1.0, 1.0)}


@pytest.mark.parametrize("kind", ADAPTED)
def test_every_balance_forgets_and_keeps_its_weights_within_the_clamp(kind: str) -> None:
    tight = wish(balance=kind, max_log_weight=0.2)
    network, trace = fcalb.unlearn(fitted(), separable(16, 3), separable(64, 4), tight)
    assert trace[-1].forget_loss < trace[0].forget_loss
    assert all(abs(math.log(row.forget_weight / row.recover_weight)) <= 0.4 + 1e-9 for row in trace)
    assert any(row.forget_weight != 1 for row in trace)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_forgetting_comes_first_and_recovering_after_it_where_phases_say_so() -> None:
    phased = wish(phases="forget_recover", forget_steps=5, forget_rate=0.05, epochs=2.0)
    calls: list[int] = []
    _, trace = fcalb.unlearn(
        fitted(), separable(16, 3), separable(64, 4), phased, lambda step, _: calls.append(step)
    )
    assert [row.phase for row in trace] == ["forget"] * 5 + ["recover"] * 8
    assert [row.step for row in trace] == calls == list(range(1, 14))
    assert trace[4].forget_loss < trace[0].forget_loss
    assert trace[-1].recover_loss < trace[5].recover_loss
    assert all(math.isnan(row.recover_loss) for row in trace[:5])
    assert all(math.isnan(row.forget_loss) and row.forget_weight == 0 for row in trace[5:])


def test_phases_with_no_steps_leave_the_weights_equal() -> None:
    network = fitted()
    before = state(network)
    idle = wish(phases="forget_recover", forget_steps=0, epochs=0.0, reset=0.5)
    assert fcalb.unlearn(network, separable(8, 3), separable(64, 4), idle)[1] == []
    assert same(before, state(network))


def margins(network: nn.Module, records: training_loop.Records) -> tuple[Any, Any]:
    labels = records.labels.numpy()
    return scoring.margins(training_loop.logits(network, records), labels), labels


def test_a_strength_that_calibration_subjects_choose_gives_the_weights_that_it_gives_alone() -> (
    None
):
    forget, retain, unseen = separable(16, 3), separable(64, 4), separable(48, 5)
    phased = {"phases": "forget_recover", "forget_steps": 0, "epochs": 2.0}
    strengths = (0.0, 0.5, 1.0)
    alone, distances = {}, {}
    for strength in strengths:
        network, _ = fcalb.unlearn(fitted(), forget, retain, wish(reset=strength, **phased))
        alone[strength] = state(network)
        unlikeness = fcalb.unlikeness(*margins(network, forget), *margins(network, unseen))
        distances[strength] = max(abs(value) for value in unlikeness)
    chosen, trace = fcalb.unlearn(
        fitted(), forget, retain, wish(resets=strengths, **phased), None, unseen
    )
    best = min(distances, key=lambda strength: distances[strength])
    assert same(alone[best], state(chosen))
    assert [row.phase for row in trace] == [f"recover at {best:g}"] * 8
    assert not chosen.training


def test_strengths_without_calibration_subjects_are_refused_and_the_model_stays_as_it_was() -> None:
    network = fitted()
    before = state(network)
    for nobody in (None, separable(0)):
        with pytest.raises(EvidenceError, match="calibration"):
            fcalb.unlearn(
                network, separable(8, 3), separable(64, 4), wish(resets=(0.3, 0.6)), None, nobody
            )
    assert same(before, state(network))


def test_margins_that_are_not_finite_never_leave_the_original_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fcalb, "unlikeness", lambda *_: (math.nan, math.nan))
    with pytest.raises(ModelError, match="learning rate"):
        fcalb.unlearn(
            fitted(), separable(8, 3), separable(64, 4), wish(resets=(0.3,)), None, separable(9, 5)
        )


def test_calibration_subjects_are_not_looked_at_where_one_strength_is_set() -> None:
    def run(calibration: training_loop.Records | None) -> dict[str, Tensor]:
        return state(
            fcalb.unlearn(fitted(), separable(8, 3), separable(64, 4), SMALL, None, calibration)[0]
        )

    assert same(run(None), run(separable(48, 5)))


SHIFTS: list[tuple[Callable[[np.ndarray], np.ndarray], int, int]] = [
    (lambda margins: margins, 0, 0),
    (lambda margins: margins + 2, 1, 1),
    (lambda margins: margins - 2, -1, -1),
    (
        lambda margins: np.where(margins > np.quantile(margins, 0.8), margins + 5, margins - 1.25),
        0,
        1,
    ),
]


@pytest.mark.parametrize(("shift", "whole_sign", "upper_sign"), SHIFTS)
def test_unlikeness_has_a_sign_for_all_records_and_for_the_best_known(
    shift: Callable[[np.ndarray], np.ndarray], whole_sign: int, upper_sign: int
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 6000)
    margins = rng.normal(labels * 10.0, 2.0)  # classes differ in difficulty
    whole, upper = fcalb.unlikeness(
        shift(margins[:3000]), labels[:3000], margins[3000:], labels[3000:]
    )
    for value, sign in ((whole, whole_sign), (upper, upper_sign)):
        assert np.sign(value) * (abs(value) > 0.15) == sign


def test_unlikeness_is_in_units_of_the_calibration_records_spread() -> None:
    known = np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    zeros = np.zeros(6, np.int64)
    assert fcalb.unlikeness(known + 3, zeros, known, zeros) == pytest.approx((3, 3))
    assert fcalb.unlikeness(10 * (known + 3), zeros, 10 * known, zeros) == pytest.approx((3, 3))


def test_a_class_that_no_calibration_record_has_is_centred_by_all() -> None:
    labels = np.array([0, 0, 1, 1])
    known = np.array([0.0, 2.0, 4.0, 6.0])
    whole, _ = fcalb.unlikeness(np.array([3.0]), np.array([7]), known, labels)
    assert whole == pytest.approx(0)


def test_the_mode_for_people_chooses_for_itself_and_lets_itself_be_overruled() -> None:
    def chosen(**unlearn: Any) -> Unlearn:
        return fcalb.effective_settings(settings.Settings(unlearn=Unlearn(**unlearn))).unlearn

    own = chosen(method="fcalb_reset")
    assert (own.phases, own.reset, own.forget_steps, own.retained_share) == (
        "forget_recover",
        0.6,
        0,
        1.0,
    )
    assert (own.epochs, own.batch_size, own.learning_rate) == (4.0, 32, 0.1)
    assert chosen(method="fcalb_reset", reset=0.7).reset == 0.7
    assert chosen(method="fcalb_reset", rivals={"epochs": 2.0}).epochs == 2.0
    whole = chosen()
    assert (whole.method, whole.phases, whole.balance) == ("fcalb", "joint", "descent")
    assert (whole.reset_until, whole.retained_share, whole.epochs) == (0.92, 1.0, 6.0)
    assert (whole.batch_size, whole.learning_rate) == (32, 0.1)
    plain = {"method": "fcalb_plain", "epochs": 0.5}
    assert chosen(**plain) == Unlearn(**plain)


def test_a_reset_of_the_users_own_takes_the_place_of_the_one_that_is_found() -> None:
    own = fcalb.effective_settings(settings.Settings(unlearn=Unlearn(reset=0.8))).unlearn
    assert (own.reset, own.reset_until) == (0.8, 0.0)
    _, trace = fcalb.unlearn(
        fitted(), separable(16, 3), separable(64, 4), wish(method="fcalb", reset=0.8)
    )
    assert {row.reset for row in trace} == {0.8}


def test_what_the_user_says_of_the_reset_goes_before_what_is_found() -> None:
    def chosen(**unlearn: Any) -> tuple[float, float]:
        own = fcalb.effective_settings(settings.Settings(unlearn=Unlearn(**unlearn))).unlearn
        return own.reset, own.reset_until

    assert chosen(reset_until=0.9) == (0.0, 0.9)
    assert chosen(resets=(0.5, 0.7)) == (0.0, 0.0)
    assert chosen(method="fcalb_reset", reset_until=0.9) == (0.0, 0.9)
    people = wish(method="fcalb", resets=(0.3, 0.9))
    _, trace = fcalb.unlearn(
        fitted(), separable(16, 3), separable(64, 4), people, None, separable(48, 5)
    )
    assert {row.reset for row in trace} < {0.3, 0.9}


@pytest.mark.parametrize("other", [{"reset": 0.5}, {"resets": [0.5]}])
def test_a_reset_is_said_in_one_way(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reset_until"):
        Unlearn.model_validate({"reset_until": 0.75, **other})


def test_the_reset_goes_as_far_as_the_loss_that_is_asked_for() -> None:
    network, retain = fitted(), separable(64, 4)
    before = state(network)
    teacher = architectures.build(SMALL.model, SMALL.data, 5)
    shares = [fcalb.reset_share(network, teacher, retain, until, 0) for until in (0.2, 0.75)]
    assert same(before, state(network))
    assert 0 < shares[0] < shares[1] < 1
    knows_nothing = min(math.log(SMALL.data.classes), loss_of(teacher, retain))
    for share, until in zip(shares, (0.2, 0.75), strict=True):
        moved = copy.deepcopy(network)
        fcalb.move_towards(moved, teacher, share)
        assert loss_of(moved, retain) == pytest.approx(until * knows_nothing, rel=0.1)


def test_a_teacher_that_guesses_well_by_chance_is_not_reached_by_the_reset() -> None:
    network, retain = fitted(), separable(64, 4)
    teacher = next(
        one
        for seed in range(100)
        if loss_of(one := architectures.build(SMALL.model, SMALL.data, seed), retain)
        < 0.92 * math.log(SMALL.data.classes)
    )
    assert fcalb.reset_share(network, teacher, retain, 0.92, 0) < 1


def loss_of(network: torch.nn.Module, records: training_loop.Records) -> float:
    logits = copy.deepcopy(network).train()(records.floats(slice(None)))
    return torch.nn.functional.cross_entropy(logits, records.labels).item()


def test_the_task_is_a_class_where_no_retained_record_is_of_it() -> None:
    forgotten, retained = np.array([1, 2, 2]), np.array([0, 1, 1])
    auto = settings.Settings()
    assert fcalb.task_of(auto, forgotten, retained) == "class"
    assert fcalb.task_of(auto, np.array([1, 1]), retained) == "people"
    by_hand = settings.Settings(unlearn=Unlearn(task="people"))
    assert fcalb.task_of(by_hand, forgotten, retained) == "people"


def test_a_whole_class_is_forgotten_by_the_constraint_before_the_model_recovers() -> None:
    chosen = settings.Settings(train=settings.Train(epochs=4, batch_size=16))
    network = fitted()
    every = separable(64, 4)
    labels = every.labels
    forget, retain = (
        every.rows((labels == 0).nonzero()[:, 0]),
        every.rows((labels > 0).nonzero()[:, 0]),
    )
    _, trace = fcalb.unlearn(network, forget, retain, chosen)
    phases = [row.phase for row in trace]
    forgetting = phases.count("forget")
    assert forgetting == fcalb.CLASS["forget_steps"]
    assert phases == ["forget"] * forgetting + ["recover"] * (len(phases) - forgetting)
    assert {row.reset for row in trace} == {0.0}


@pytest.mark.parametrize(("recipe", "epochs"), [(4, 1.0), (16, 4.0), (120, 8.0)])
def test_recovery_from_forgetting_a_class_is_a_quarter_of_the_recipe(
    recipe: int, epochs: float
) -> None:
    chosen = settings.Settings(train=settings.Train(epochs=recipe))
    assert fcalb.effective_settings(chosen, "class").unlearn.epochs == epochs


@pytest.mark.parametrize(
    ("method", "most"),
    [("fcalb", [3.0, 6.0, 8.0, 9.0]), ("fcalb_reset", [2.0, 4.0, 6.0, 6.0])],
)
def test_recovery_of_the_mode_for_people_does_not_grow_with_long_recipes(
    method: Any, most: list[float]
) -> None:
    def epochs(recipe: int) -> float:
        chosen = settings.Settings(
            train=settings.Train(epochs=recipe), unlearn=Unlearn(method=method)
        )
        return fcalb.effective_settings(chosen).unlearn.epochs

    assert [epochs(n) for n in (6, 12, 18, 120)] == most


def test_recovery_from_a_long_recipe_uses_the_batches_of_the_recipe() -> None:
    def batch_size(epochs: int, **unlearn: Any) -> int:
        recipe = settings.Train(epochs=epochs, batch_size=32)
        chosen = settings.Settings(train=recipe, unlearn=Unlearn.model_validate(unlearn))
        return fcalb.effective_settings(chosen).unlearn.batch_size

    assert batch_size(fcalb.LONG_RECIPE) == 32
    assert batch_size(fcalb.LONG_RECIPE, rivals={"epochs": 3.0}) == 32
    assert batch_size(fcalb.LONG_RECIPE - 1) == 16
    assert batch_size(fcalb.LONG_RECIPE, method="fcalb_reset") == 16


def test_descent_counts_both_losses_alike_at_first_and_ends_when_recovery_is_halved() -> None:
    balance = loss_balances.DescentBalance(1.0, 3.0, 0.5)
    loss, w_f, w_r = balance.weigh(*scalars(0.5, 2.0))
    assert (w_f, w_r) == (4.0, 1.0)  # 4 x 0.5 = 1 x 2
    assert float(loss.detach()) == pytest.approx(4.0)
    weights = [balance.weigh(*scalars(0.5, 2.0 * 0.9**step))[1] for step in range(1, 5)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == pytest.approx(4.0 * (0.8 + 0.2 * 0.9 - 0.5) / 0.5)
    assert not balance.finished
    while not balance.finished:
        _, w_f, _ = balance.weigh(*scalars(0.5, 0.1))
    assert w_f == 0.0


def test_descent_survives_features_that_are_the_random_models_already() -> None:
    loss, w_f, _ = loss_balances.DescentBalance(1.0, 3.0, 0.5).weigh(*scalars(0.0, 2.0))
    assert w_f == pytest.approx(math.exp(3.0))
    assert float(loss.detach()) == 2.0


def test_the_constraint_of_the_way_for_people_ends_before_recovery_does() -> None:
    people = SMALL.model_copy(update={"unlearn": Unlearn(rivals={"epochs": 8.0})})
    _, trace = fcalb.unlearn(fitted(), separable(16, 3), separable(64, 4), people)
    phases = [row.phase for row in trace]
    first = phases.index("recover")
    assert phases == ["joint"] * first + ["recover"] * (len(phases) - first)
    assert 0 < first < len(phases) / 2
    assert all(math.isnan(row.forget_loss) for row in trace[first:])


def test_the_constraint_lasts_longer_where_the_settings_end_it_later() -> None:
    joint = []
    for end in (0.85, 0.3):
        wish = Unlearn.model_validate({"descent_end": end, "rivals": {"epochs": 8.0}})
        people = SMALL.model_copy(update={"unlearn": wish})
        _, trace = fcalb.unlearn(fitted(), separable(16, 3), separable(64, 4), people)
        joint.append(sum(row.phase == "joint" for row in trace))
    assert 0 < joint[0] < joint[1]
