"""The table of the rivals, and the function that runs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.common.settings import Settings
from tasks.training import training_loop
from tasks.unlearning.rivals import (
    amun,
    bad_teacher,
    ct,
    delete,
    distil,
    fine_tune,
    lotus,
    msg,
    neg_grad,
    random_labels,
    salun,
    scrub,
    short_retrain,
    ssd,
    unsir,
)
from tasks.unlearning.rivals.shared import RivalInput

if TYPE_CHECKING:
    from torch import nn


METHODS: dict[str, Callable[[RivalInput], nn.Module]] = {
    "fine_tune": fine_tune.fine_tune,
    "neg_grad": neg_grad.neg_grad,
    "random_labels": random_labels.random_labels,
    "bad_teacher": bad_teacher.bad_teacher,
    "unsir": unsir.unsir,
    "scrub": scrub.scrub,
    "ssd": ssd.ssd,
    "salun": salun.salun,
    "delete": delete.delete,
    "amun": amun.amun,
    "msg": msg.msg,
    "ct": ct.ct,
    "lotus": lotus.lotus,
    "short_retrain": short_retrain.short_retrain,
    "distil": distil.distil,
}
"""The rivals by their name in `unlearn.method`."""


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
    inputs = RivalInput(original, forget, retain, settings, progress)
    return METHODS[settings.unlearn.method](inputs).eval()
