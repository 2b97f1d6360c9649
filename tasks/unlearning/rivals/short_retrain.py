"""Short retraining: the shortcut that every method must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.common import seeds
from tasks.training import training_loop
from tasks.unlearning.rivals.recipes import recipe
from tasks.unlearning.rivals.shared import RivalInput, fresh, part_of, streams

if TYPE_CHECKING:
    from torch import nn


def short_retrain(inputs: RivalInput) -> nn.Module:
    """A fresh model, trained on retained records as `retrain` does, but for a share of the epochs.

    It cannot contain anything of the forget set, but it may lack accuracy. With `training_share` 1
    it is the model that `retrain` makes, weight by weight. Epochs are whole, at least one. The
    original model is not used.
    """
    _original, _forget, retain, settings, progress = inputs
    chosen = recipe(settings)
    with streams(settings) as generator:
        # all in their order, so that a full length gives the retrained model
        training_records = (
            retain if chosen.retained_share == 1 else part_of(retain, settings, generator)
        )
    network = fresh(settings)
    changed = {"epochs": max(1, round(chosen.epochs or 0)), "learning_rate": chosen.learning_rate}
    order = seeds.derive(settings.seed, "unlearn", 0, "order")
    training_loop.fit(
        network, training_records, settings.train.model_copy(update=changed), order, progress
    )
    return network
