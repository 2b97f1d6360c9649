"""Published unlearning methods that FCALB is compared with, and the two short cuts that any of them
has to beat.

Each is written from its paper's formula, which its docstring gives; hyper-parameters are those of
the paper or of its public code (`RECIPES`), all of them settings of `unlearn.rivals`. Differences
that hold for all of them:

- One training loop serves all, `training.optimise`: the rate follows a one-cycle schedule whose
  peak is the paper's rate, where papers hold it or lower it in steps. SGD has the momentum and the
  weight decay of `train`; Adam, where the paper's settings are Adam's, has no weight decay.
- Batches have `unlearn.batch_size` records, augmented as in training.
- Teachers are in evaluation mode and never learn; students are in training mode unless said
  otherwise.
- Divergences are KL(teacher || student) in nats, summed over classes and averaged over records.
  Averaging over classes as well, as some public code does, weakens them by the number of classes.
- The papers forget classes or random tenths of a data set; here the forget set may be one person's
  few records.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tasks.common import seeds
from tasks.common.settings import Settings
from tasks.training import architectures, training_loop

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NOISE_RATE = 0.1
"""Learning rate of UNSIR's noise, Adam (Tarun et al.'s code)."""
NOISE_PENALTY = 0.1
"""Weight of the squared norm of UNSIR's noise (lambda of Tarun et al. 2023)."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a method goes; None where it has no such thing."""

    epochs: float | None
    learning_rate: float | None
    retained_share: float | None
    temperature: float | None
    optimiser: training_loop.Optimiser | None
    source: str
    """paper, and where the numbers are from"""


RECIPES: dict[str, Recipe] = {
    "fine_tune": Recipe(
        5,
        0.02,
        1.0,
        None,
        "sgd",
        "baseline of Golatkar et al. 2020; settings of public comparisons",
    ),
    "neg_grad": Recipe(
        10, 0.01, 1.0, None, "sgd", "NegGrad+, Kurmanji et al. 2023; settings of public comparisons"
    ),
    "random_labels": Recipe(
        3, 1e-4, 1.0, None, "adam", "Graves et al. 2021; settings of public comparisons"
    ),
    "bad_teacher": Recipe(
        1, 1e-4, 0.3, 1.0, "adam", "Chundawat et al. 2023; settings of its public code"
    ),
    "unsir": Recipe(1, 0.02, 0.2, None, "adam", "Tarun et al. 2023; settings of its public code"),
    "scrub": Recipe(
        10,
        5e-4,
        1.0,
        2.0,
        "adam",
        "Kurmanji et al. 2023; its public code's settings for small data",
    ),
    "ssd": Recipe(None, None, 1.0, None, None, "Foster et al. 2024; settings of the paper"),
    "salun": Recipe(10, 0.013, 1.0, None, "sgd", "Fan et al. 2024; settings of its public code"),
    "delete": Recipe(
        20, 1e-4, None, None, "sgd", "Zhou et al. 2025; settings of public comparisons"
    ),
    "short_retrain": Recipe(None, None, 1.0, None, "sgd", "`train`, shortened"),
    "distil": Recipe(None, None, 1.0, 2.0, "sgd", "Hinton et al. 2015; `train`, shortened"),
}
"""The defaults of each method, in force where a key of `unlearn.rivals` is null."""
FROM_SCRATCH = ("short_retrain", "distil")
"""Methods that start from a fresh model, and last and learn as `train` does."""


def recipe(settings: Settings) -> Recipe:
    """The recipe in force for `unlearn.method`: what `unlearn.rivals` says, else the method's own
    default.

    Methods that start from scratch last `unlearn.rivals.training_share` of `train.epochs`, at
    `train.learning_rate`.

    Raises:
        KeyError: the method is no rival.
    """
    method, wish = settings.unlearn.method, settings.unlearn.rivals
    own = RECIPES[method]
    if method in FROM_SCRATCH:
        own = replace(
            own,
            epochs=wish.training_share * settings.train.epochs,
            learning_rate=settings.train.learning_rate,
        )
    given = {
        name: getattr(wish, name)
        for name in ("epochs", "learning_rate", "retained_share", "temperature")
    }
    used = {
        name: value
        for name, value in given.items()
        if value is not None and getattr(own, name) is not None
    }
    return replace(own, **used)


def unlearn(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None = None,
) -> nn.Module:
    """Make a classifier forget by the rival that `unlearn.method` names.

    Args:
        original: the classifier as trained with everybody; changed in place by the methods that
            start from it.
        forget: the forget set; a single record is enough.
        retain: all retained records; a method may use `retained_share` of them, drawn at random.
        settings: `unlearn` for method, batch size and `rivals`, `train` for momentum, weight decay
            and augmentation.
        progress: told each step.

    Returns:
        The classifier in evaluation mode: `original` itself, or a new one.

    Raises:
        EvidenceError: the forget set is empty or larger than the retain set.
        ModelError: the loss is not finite, or all weights are frozen.
        KeyError: the method is no rival.
    """
    training_loop.check(original, forget, retain)
    return METHODS[settings.unlearn.method](original, forget, retain, settings, progress).eval()


def fine_tune(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """Train on with retained records only, in the hope that the others fade: L = CE(f(x_r), y_r).

    Golatkar A., Achille A., Soatto S., "Eternal Sunshine of the Spotless Net", CVPR 2020: their
    baseline "fine-tune".
    """
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
        _imitate_labels(_student(original, forget), kept, settings, generator, progress)
    return original


def neg_grad(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """NegGrad+: descend on retained and ascend on forgotten records at once.

    L = alpha CE(f(x_r), y_r) - (1 - alpha) CE(f(x_f), y_f), alpha = `neg_grad_alpha`: Kurmanji M.,
    Triantafillou P., Hayes J., Triantafillou E., "Towards Unbounded Machine Unlearning", NeurIPS
    2023, among the baselines. An epoch is a pass over the retained records; forgotten ones are gone
    through as often as needed. L has no lower bound: with a small alpha it diverges, which is an
    error.
    """
    from torch.nn import functional

    wish, place = settings.unlearn, forget.place
    network = _student(original, forget)
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
        kept_batches = kept.batches(wish.batch_size, generator, settings.train)
        forget_batches = training_loop.paired(forget).batches(
            wish.batch_size, generator, settings.train
        )

        def objective(_: int) -> Tensor:
            images, labels = next(kept_batches)
            gone_images, gone_labels = next(forget_batches)
            with place.autocast():
                descend = functional.cross_entropy(network(images), labels)
                ascend = functional.cross_entropy(network(gone_images), gone_labels)
            return neg_grad_loss(descend, ascend, wish.rivals.neg_grad_alpha)

        _learn(network, objective, _steps(kept, settings), settings, progress)
    return original


def neg_grad_loss(retain_loss: Tensor, forget_loss: Tensor, alpha: float) -> Tensor:
    """NegGrad+'s objective, a scalar: alpha times the loss to lower less 1 - alpha times the loss
    to raise."""
    return alpha * retain_loss - (1 - alpha) * forget_loss


def random_labels(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """Amnesiac unlearning: train on with forgotten records under wrong labels among the retained
    ones.

    Graves L., Nagisetty V., Ganesh V., "Amnesiac Machine Learning", AAAI 2021. A label is drawn
    once per record, uniformly from all classes but its own. An epoch is a pass over both sets.
    """
    with _streams(settings) as generator:
        mixed = _mislabelled(forget, retain, settings, generator)
        _imitate_labels(_student(original, forget), mixed, settings, generator, progress)
    return original


def salun(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """SalUn: random labels as in `random_labels`, but only the weights learn that matter most for
    the forget set.

    theta = m * (theta_o + delta) + (1 - m) * theta_o, where m is 1 for the share `salun_share` of
    the weights with the largest |gradient of CE(f(x_f), y_f)| at theta_o: Fan C., Liu J., Zhang Y.,
    Wong E., Wei D., Liu S., "SalUn: Empowering Machine Unlearning via Gradient-based Weight
    Saliency", ICLR 2024. Both sets are mixed as in its public code, which weighs the loss on
    retained records by alpha = |D_r| / |D_f|. Unlike that code, the weights stay where they are
    while the saliency is measured. Running statistics of batch norm are no weights: they follow.
    """
    import torch

    network = _student(original, forget)
    masks = salient(
        network, forget, settings.unlearn.rivals.salun_share, settings.unlearn.batch_size
    )
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in learned]

    def restore() -> None:
        # masking gradients is not enough: weight decay moves weights without any
        with torch.no_grad():
            for weight, mask, value in zip(learned, masks, before, strict=True):
                weight.copy_(torch.where(mask, weight, value))

    network.train()
    with _streams(settings) as generator:
        mixed = _mislabelled(forget, retain, settings, generator)
        _imitate_labels(network, mixed, settings, generator, progress, before_each=restore)
    restore()
    return original


def salient(
    network: nn.Module, forget: training_loop.Records, share: float, batch_size: int = 512
) -> list[Tensor]:
    """SalUn's mask: which learnable weights belong to the most salient share, counted over the
    whole network.

    Args:
        network: the classifier; it is put in evaluation mode, without which gradients would depend
            on the batches.
        forget: the forget set; its gradients are summed before the absolute value is taken.
        share: share of the weights to choose, 0 … 1; of equals the first is chosen.
        batch_size: records at a time.

    Returns:
        A mask of booleans for each parameter that learns, in the order of `parameters()`.
    """
    import torch
    from torch.nn import functional

    network.eval()
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    total = [torch.zeros_like(weight) for weight in learned]
    for start in range(0, len(forget), batch_size):
        rows = slice(start, start + batch_size)
        loss = functional.cross_entropy(
            network(forget.floats(rows)), forget.labels[rows], reduction="sum"
        )
        for sums, gradient in zip(
            total, torch.autograd.grad(loss, learned, materialize_grads=True), strict=True
        ):
            sums += gradient
    saliency = torch.cat([sums.abs().flatten() for sums in total])
    chosen = torch.zeros_like(saliency, dtype=torch.bool)
    chosen[
        torch.argsort(saliency, descending=True, stable=True)[: round(share * len(saliency))]
    ] = True
    parts = torch.split(chosen, [weight.numel() for weight in learned])
    return [part.reshape(weight.shape) for part, weight in zip(parts, learned, strict=True)]


def bad_teacher(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """Bad Teacher: answer as a random model on forgotten records and as the original model on
    retained ones.

    L(x, l_u) = (1 - l_u) KL(T_s(x) || S(x)) + l_u KL(T_d(x) || S(x)), l_u = 1 for forgotten
    records: Chundawat V. S., Tarun A. K., Mandal M., Kankanhalli M., "Can Bad Teaching Induce
    Forgetting?", AAAI 2023. Labels are not used. An epoch is a pass over the forget set and the
    part of the retained records that the recipe allows.
    """
    import torch

    place, temperature = forget.place, recipe(settings).temperature or 1.0
    competent = _teacher(original, forget)
    fresh = architectures.build(
        settings.model, settings.data, seeds.derive(settings.seed, "unlearn", "teacher")
    )
    incompetent = _teacher(fresh, forget)
    network = _student(original, forget)
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
        # the label says which teacher to follow
        marks = torch.cat([torch.ones_like(forget.labels), torch.zeros_like(kept.labels)])
        mixed = training_loop.joined(forget, kept).with_labels(marks)
        batches = mixed.batches(settings.unlearn.batch_size, generator, settings.train)

        def objective(_: int) -> Tensor:
            images, forgotten = next(batches)
            with place.autocast():
                with torch.no_grad():
                    good, bad = competent(images), incompetent(images)
                answers = network(images)
            return bad_teacher_loss(answers, good, bad, forgotten.bool(), temperature)

        _learn(network, objective, _steps(mixed, settings), settings, progress)
    return original


def bad_teacher_loss(
    student: Tensor, competent: Tensor, incompetent: Tensor, forgotten: Tensor, temperature: float
) -> Tensor:
    """Bad Teacher's objective for logits (n, classes) of the three models and a mask (n,) of
    forgotten records."""
    targets = (incompetent.float() / temperature).softmax(1).where(
        forgotten[:, None], (competent.float() / temperature).softmax(1)
    )  # fmt: skip
    return divergence(student.float() / temperature, targets)


def unsir(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """UNSIR: impair with noise that the model gets most wrong as the forgotten classes, then repair
    on retained data.

    noise N = argmin of -CE(f(N), y_f) + lambda |N|^2; impair by CE on (N, y_f) and retained
    records; repair by CE on retained records: Tarun A. K., Chundawat V. S., Mandal M., Kankanhalli
    M., "Fast Yet Effective Machine Unlearning", IEEE Transactions on Neural Networks and Learning
    Systems 2023 (arXiv 2111.08947).

    The paper forgets whole classes. Here noise bears the classes of the records to be forgotten,
    and retained records of these classes take part in both steps, as in public comparisons. Each
    impairing step sees one batch of noise and one of retained records; the paper's code shuffles 20
    copies of the noise of a class with 1000 records per class. `epochs` passes over the retained
    part make each of the two steps; the rate is the impairing one, the repairing one is
    `unsir_repair_rate`. The part is 0.2 of the retained records: the paper's 1000 of 5000 per
    class.
    """
    import torch
    from torch.nn import functional

    wish, place = settings.unlearn, forget.place
    network = _student(original, forget)
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
        steps = _steps(kept, settings)
        if not steps:
            return original
        images, labels = error_maximising_noise(
            network, forget, min(wish.batch_size, len(kept)), settings
        )
        network.train()
        batches = kept.batches(wish.batch_size, generator, settings.train)

        def impair(_: int) -> Tensor:
            kept_images, kept_labels = next(batches)
            with place.autocast():
                answers = network(torch.cat([images, kept_images]))
                return functional.cross_entropy(answers, torch.cat([labels, kept_labels]))

        def repair(_: int) -> Tensor:
            kept_images, kept_labels = next(batches)
            with place.autocast():
                return functional.cross_entropy(network(kept_images), kept_labels)

        _learn(network, impair, steps, settings, progress)
        told = None if progress is None else lambda step, loss: progress(steps + step, loss)
        _learn(network, repair, steps, settings, told, rate="unsir_repair_rate")
    return original


def error_maximising_noise(
    network: nn.Module, forget: training_loop.Records, count: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    """UNSIR's noise: normalised images that a classifier gets as wrong as small images can be.

    Args:
        network: the classifier; it is put in evaluation mode and does not learn.
        forget: the forget set, whose labels the noise takes in turn.
        count: images to make.
        settings: `unsir_noise_steps` and the seed; 0 steps leave normal noise.

    Returns:
        Images (count, channels, side, side) float32 and labels (count,) int64.
    """
    import torch
    from torch.nn import functional

    network.eval()
    generator = torch.Generator().manual_seed(seeds.derive(settings.seed, "unlearn", "noise"))
    start = torch.randn((count, *forget.images.shape[1:]), generator=generator)
    noise = start.to(forget.place.device, memory_format=forget.memory_format).requires_grad_()
    labels = forget.labels[torch.arange(count, device=forget.labels.device) % len(forget)]

    def objective(_: int) -> Tensor:
        with forget.place.autocast():
            wrong = functional.cross_entropy(network(noise), labels)
        return NOISE_PENALTY * noise.square().flatten(1).sum(1).mean() - wrong

    steps = settings.unlearn.rivals.unsir_noise_steps
    group = {"params": [noise], "weight_decay": 0.0}
    training_loop.optimise(
        [group], objective, steps, NOISE_RATE, settings.train, None, "adam", "the noise's own"
    )
    return noise.detach(), labels


def scrub(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """SCRUB: move away from the original model on forgotten records, stay with it on retained ones,
    in turn.

    min over theta of alpha KL(f_o(x_r) || f(x_r)) + gamma CE(f(x_r), y_r) - KL(f_o(x_f) || f(x_f)):
    Kurmanji M., Triantafillou P., Hayes J., Triantafillou E., "Towards Unbounded Machine
    Unlearning", NeurIPS 2023. Each of the first `scrub_max_epochs` epochs opens with a pass over
    the forget set that raises the last term; a pass over the retained records, which lowers the
    others, ends every epoch. Divergences are at the recipe's temperature T and times T^2. Its
    rewinding variant SCRUB+R is not offered, nor its weight decay of 0.1.
    """
    import torch
    from torch.nn import functional

    wish, place = settings.unlearn, forget.place
    chosen = recipe(settings)
    temperature = chosen.temperature or 1.0
    teacher, network = _teacher(original, forget), _student(original, forget)
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
        gone = training_loop.paired(forget)
        kept_batches = kept.batches(wish.batch_size, generator, settings.train)
        gone_batches = gone.batches(wish.batch_size, generator, settings.train)
        plan = scrub_plan(
            math.ceil(chosen.epochs or 0),
            wish.rivals.scrub_max_epochs,
            _passes(gone, wish.batch_size, 1),
            _passes(kept, wish.batch_size, 1),
        )

        def objective(step: int) -> Tensor:
            images, labels = next(gone_batches if plan[step] else kept_batches)
            with place.autocast():
                with torch.no_grad():
                    taught = teacher(images)
                answers = network(images)
                apart = softened(answers, taught, temperature)
                if plan[step]:
                    return -apart
                return (
                    wish.rivals.scrub_alpha * apart
                    + wish.rivals.scrub_gamma * functional.cross_entropy(answers, labels)
                )

        _learn(network, objective, len(plan), settings, progress)
    return original


def scrub_plan(epochs: int, max_epochs: int, max_steps: int, min_steps: int) -> list[bool]:
    """Which steps of SCRUB raise the divergence on forgotten records: see `scrub`. The others lower
    it on retained."""
    return [
        raising
        for epoch in range(epochs)
        for raising in [True] * (max_steps if epoch < max_epochs else 0) + [False] * min_steps
    ]


def ssd(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """Selective Synaptic Dampening: shrink the weights that matter far more for forgotten records
    than for all.

    theta_i becomes beta theta_i with beta = min(lambda I_D,i / I_f,i, 1) where I_f,i > alpha I_D,i,
    lambda = `ssd_lambda`, alpha = `ssd_alpha`, I the diagonal of the Fisher information over all
    training records D and the forget set: Foster J., Schoepf S., Brintrup A., "Fast Machine
    Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI 2024. No training.
    Squares are of each record's gradient, as in the formula; the paper's code squares the mean
    gradient of a batch, which inflates I_f where the forget set is smaller than one. As D holds the
    forget set, I_D >= I_f |D_f| / |D|: nothing is dampened where |D_f| >= |D| / alpha.
    """
    import torch

    wish = settings.unlearn.rivals
    network = _student(original, forget).eval()
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
    of_forget = fisher(network, forget, progress)
    of_kept = fisher(network, kept, progress)
    share = len(forget) / (len(forget) + len(retain))
    with torch.no_grad():
        for weight, gone, stays in zip(network.parameters(), of_forget, of_kept, strict=True):
            weight.mul_(
                dampening(gone, share * gone + (1 - share) * stays, wish.ssd_alpha, wish.ssd_lambda)
            )
    return network


def fisher(
    network: nn.Module,
    records: training_loop.Records,
    progress: training_loop.Progress | None = None,
) -> list[Tensor]:
    """The diagonal of the empirical Fisher information: the mean over records of (d log p(y | x) /
    d theta)^2.

    Record by record in evaluation mode and float32: `torch.func`'s vectorised gradients import the
    compiler, which takes longer than they save. Zero where a weight does not learn.

    Returns:
        A tensor for each parameter, in the order of `parameters()`.
    """
    import torch
    from torch.nn import functional

    network.eval()
    weights = list(network.parameters())
    learned = [weight for weight in weights if weight.requires_grad]
    total = {weight: torch.zeros_like(weight) for weight in weights}
    for row in range(len(records)):
        one = slice(row, row + 1)
        loss = functional.cross_entropy(network(records.floats(one)), records.labels[one])
        for weight, gradient in zip(
            learned, torch.autograd.grad(loss, learned, materialize_grads=True), strict=True
        ):
            total[weight] += gradient.square()
        if progress:
            progress(row + 1, float(loss.detach()))
    return [sums / len(records) for sums in total.values()]


def dampening(forget: Tensor, everything: Tensor, alpha: float, constant: float) -> Tensor:
    """SSD's factor beta for weights of Fisher information `forget` and `everything`: see `ssd`. In
    0 … 1."""
    import torch

    factor = (constant * everything / forget).clamp(
        max=1.0
    )  # 0 / 0 where neither matters: not selected
    return torch.where(forget > alpha * everything, factor, torch.ones_like(factor))


def delete(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,  # noqa: ARG001 (all methods have the same signature)
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """DELETE: on forgotten records, answer as the original model would if the true class did not
    exist.

    L = KL(softmax(z_o with minus infinity at y) || softmax(z)): Zhou Y., Zheng D., Mo Q., Lu R.,
    Lin K.-Y., Zheng W.-S., "Decoupled Distillation to Erase: A General Unlearning Method for Any
    Class-centric Tasks", CVPR 2025. Only forgotten records are used; an epoch is a pass over them.
    The student stays in evaluation mode, which is the paper's code with `disable_bn`: a few records
    of one person would overwrite the running statistics of batch norm.
    """
    import torch

    place = forget.place
    teacher, network = _teacher(original, forget), _student(original, forget).eval()
    with _streams(settings) as generator:
        gone = training_loop.paired(forget)
        batches = gone.batches(settings.unlearn.batch_size, generator, settings.train)

        def objective(_: int) -> Tensor:
            images, labels = next(batches)
            with place.autocast():
                with torch.no_grad():
                    taught = teacher(images)
                return divergence(network(images), without_class(taught, labels))

        _learn(network, objective, _steps(gone, settings), settings, progress)
    return original


def without_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (n, classes) of logits when each record's class, labels (n,), is ruled out;
    they sum to 1."""
    return logits.float().scatter(1, labels[:, None], -math.inf).softmax(1)


def short_retrain(
    original: nn.Module,  # noqa: ARG001
    forget: training_loop.Records,  # noqa: ARG001
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """A fresh model, trained on retained records as `retrain` does, but for a share of the epochs.

    Nothing of the forget set can be in it: what it may lack is accuracy. With `training_share` 1 it
    is the model that `retrain` makes, weight by weight. Epochs are whole, at least one. The
    original model is not used.
    """
    chosen = recipe(settings)
    with _streams(settings) as generator:
        # all in their order, so that a full length gives the retrained model
        kept = retain if chosen.retained_share == 1 else _kept(retain, settings, generator)
    network = _fresh(settings)
    changed = {"epochs": max(1, round(chosen.epochs or 0)), "learning_rate": chosen.learning_rate}
    order = seeds.derive(settings.seed, "unlearn", 0, "order")
    training_loop.fit(network, kept, settings.train.model_copy(update=changed), order, progress)
    return network


def distil(
    original: nn.Module,
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    progress: training_loop.Progress | None,
) -> nn.Module:
    """A fresh model that learns the original's answers to retained records: L = T^2 KL(f_o(x_r) ||
    f(x_r)) at T.

    Hinton G., Vinyals O., Dean J., "Distilling the Knowledge in a Neural Network", 2015 (arXiv
    1503.02531), soft targets only. Faster than labels; what the original's answers to others tell
    of the forget set, it inherits.
    """
    import torch

    place, chosen = forget.place, recipe(settings)
    temperature = chosen.temperature or 1.0
    teacher, network = _teacher(original, forget), _student(_fresh(settings), forget)
    with _streams(settings) as generator:
        kept = _kept(retain, settings, generator)
        batches = kept.batches(settings.unlearn.batch_size, generator, settings.train)

        def objective(_: int) -> Tensor:
            images, _labels = next(batches)
            with place.autocast():
                with torch.no_grad():
                    taught = teacher(images)
                return softened(network(images), taught, temperature)

        _learn(network, objective, _steps(kept, settings), settings, progress)
    return network


Method = Callable[
    [
        "nn.Module",
        training_loop.Records,
        training_loop.Records,
        Settings,
        "training_loop.Progress | None",
    ],
    "nn.Module",
]
METHODS: dict[str, Method] = {
    "fine_tune": fine_tune,
    "neg_grad": neg_grad,
    "random_labels": random_labels,
    "bad_teacher": bad_teacher,
    "unsir": unsir,
    "scrub": scrub,
    "ssd": ssd,
    "salun": salun,
    "delete": delete,
    "short_retrain": short_retrain,
    "distil": distil,
}
"""The rivals by the name that `unlearn.method` has for them."""


def divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over records of KL(targets || softmax(logits)), nats, for logits and probabilities
    (n, classes)."""
    from torch.nn import functional

    return functional.kl_div(
        functional.log_softmax(logits.float(), 1), targets.float(), reduction="batchmean"
    )


def softened(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """`divergence` from a teacher's logits, both at a temperature, times its square (Hinton et al.
    2015)."""
    return temperature**2 * divergence(
        logits.float() / temperature, (taught.float() / temperature).softmax(1)
    )


def _kept(
    retain: training_loop.Records, settings: Settings, generator: torch.Generator
) -> training_loop.Records:
    """The part of the retained records that the recipe allows, drawn at random."""
    share = recipe(settings).retained_share
    return training_loop.sample(retain, 1.0 if share is None else share, generator)


def _mislabelled(
    forget: training_loop.Records,
    retain: training_loop.Records,
    settings: Settings,
    generator: torch.Generator,
) -> training_loop.Records:
    """The forget set, every record under a wrong label, and the part of the retained records that
    the recipe allows."""
    import torch

    own = torch.Generator().manual_seed(seeds.derive(settings.seed, "unlearn", "labels"))
    shift = torch.randint(1, settings.data.classes, (len(forget),), generator=own).to(
        forget.labels.device
    )
    wrong = forget.with_labels((forget.labels + shift) % settings.data.classes)
    return training_loop.joined(wrong, _kept(retain, settings, generator))


def _imitate_labels(
    network: nn.Module,
    records: training_loop.Records,
    settings: Settings,
    generator: torch.Generator,
    progress: training_loop.Progress | None,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Train by cross-entropy as the recipe says."""
    from torch.nn import functional

    batches = records.batches(settings.unlearn.batch_size, generator, settings.train)

    def objective(_: int) -> Tensor:
        before_each()
        images, labels = next(batches)
        with records.place.autocast():
            return functional.cross_entropy(network(images), labels)

    _learn(network, objective, _steps(records, settings), settings, progress)


def _learn(
    network: nn.Module,
    objective: Callable[[int], Tensor],
    steps: int,
    settings: Settings,
    progress: training_loop.Progress | None,
    rate: str = "learning_rate",
) -> None:
    """Minimise as the recipe says, over the weights of this network and no other's.

    `rate` is the key of `unlearn.rivals` that the peak learning rate is from.
    """
    chosen = recipe(settings)
    optimiser = chosen.optimiser or "sgd"
    group: dict[str, object] = {"params": list(network.parameters())}
    if optimiser == "adam":
        group["weight_decay"] = 0.0
    peak = getattr(chosen if rate == "learning_rate" else settings.unlearn.rivals, rate)
    training_loop.optimise(
        [group],
        objective,
        steps,
        peak,
        settings.train,
        progress,
        optimiser,
        setting=f"unlearn.rivals.{rate}",
    )


def _steps(records: training_loop.Records, settings: Settings) -> int:
    """Steps of the recipe's epochs over some records."""
    return _passes(records, settings.unlearn.batch_size, recipe(settings).epochs or 0)


def _passes(records: training_loop.Records, batch_size: int, epochs: float) -> int:
    """Steps of some passes over some records; none for no passes, else at least one."""
    return math.ceil(epochs) and max(
        1, round(epochs * len(records) / min(batch_size, len(records)))
    )


def _fresh(settings: Settings) -> nn.Module:
    """A new model, the one that `retrain` starts from."""
    return architectures.build(
        settings.model, settings.data, seeds.derive(settings.seed, "unlearn", 0, "weights")
    )


def _student(network: nn.Module, records: training_loop.Records) -> nn.Module:
    """The same network, on the device and in training mode."""
    placed: nn.Module = network.to(  # type: ignore[call-overload]
        records.place.device, memory_format=records.memory_format
    )
    return placed.train()


def _teacher(network: nn.Module, records: training_loop.Records) -> nn.Module:
    """A copy on the device that never learns, in evaluation mode."""
    placed: nn.Module = copy.deepcopy(network).to(  # type: ignore[call-overload]
        records.place.device, memory_format=records.memory_format
    )
    return placed.eval().requires_grad_(False)


@contextmanager
def _streams(settings: Settings) -> Iterator[torch.Generator]:
    """Random streams of their own: a generator for the batches, and the global one for layers such
    as dropout."""
    import torch

    seed = seeds.derive(settings.seed, "unlearn", "order")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
