"""Bad Teacher: a random model's answers to forgotten records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common import seeds
from tasks.training import architectures, training_loop
from tasks.unlearning.rivals.recipes import recipe
from tasks.unlearning.rivals.shared import (
    RivalInput,
    divergence,
    frozen_copy,
    learn,
    learner,
    part_of,
    steps_of,
    streams,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def bad_teacher(inputs: RivalInput) -> nn.Module:
    """Bad Teacher: answer as a random model on forgotten records and as the original model on
    retained ones.

    L(x, l_u) = (1 - l_u) KL(T_s(x) || S(x)) + l_u KL(T_d(x) || S(x)), l_u = 1 for forgotten
    records: Chundawat V. S., Tarun A. K., Mandal M., Kankanhalli M., "Can Bad Teaching Induce
    Forgetting?", AAAI 2023. Labels are not used. An epoch is a pass over the forget set and the
    part of the retained records that the recipe allows.
    """
    import torch

    original, forget, retain, settings, progress = inputs
    backend, temperature = forget.backend, recipe(settings).temperature or 1.0
    competent = frozen_copy(original, forget)
    random_model = architectures.build(
        settings.model, settings.data, seeds.derive(settings.seed, "unlearn", "teacher")
    )
    incompetent = frozen_copy(random_model, forget)
    network = learner(original, forget)
    with streams(settings) as generator:
        retained_part = part_of(retain, settings, generator)
        # the label says which teacher to follow
        marks = torch.cat([torch.ones_like(forget.labels), torch.zeros_like(retained_part.labels)])
        mixed = training_loop.joined(forget, retained_part).with_labels(marks)
        batches = mixed.batches(settings.unlearn.batch_size, generator, settings.train)

        def objective(_: int) -> Tensor:
            images, forgotten = next(batches)
            with backend.autocast():
                with torch.no_grad():
                    competent_logits, incompetent_logits = competent(images), incompetent(images)
                answers = network(images)
            return bad_teacher_loss(
                answers, competent_logits, incompetent_logits, forgotten.bool(), temperature
            )

        learn(network, objective, steps_of(mixed, settings), settings, progress)
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
