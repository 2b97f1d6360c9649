"""Length and learning rate of each rival: its paper's numbers, or those of `unlearn.rivals`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks.common.settings import Settings
from tasks.training import training_loop


@dataclass(frozen=True)
class Recipe:
    """Length and learning rate of a method; None for what it does not have."""

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
    "amun": Recipe(
        10, 0.01, 1.0, None, "sgd", "Ebrahimpour-Boroojeny et al. 2025; settings of its public code"
    ),
    "msg": Recipe(5, 0.001, 1.0, None, "sgd", "Cadet et al. 2025; settings of their public code"),
    "ct": Recipe(3, 0.001, 1.0, None, "sgd", "Cadet et al. 2025; settings of their public code"),
    "lotus": Recipe(
        10, 1e-4, 0.3, None, "adam", "Spartalis et al. 2025; settings of its public code"
    ),
    "short_retrain": Recipe(None, None, 1.0, None, "sgd", "`train`, shortened"),
    "distil": Recipe(None, None, 1.0, 2.0, "sgd", "Hinton et al. 2015; `train`, shortened"),
}
"""The defaults of each method, in force where a key of `unlearn.rivals` is null."""


FROM_SCRATCH = ("short_retrain", "distil")
"""Methods that train a fresh model as `train` does."""


def recipe(settings: Settings) -> Recipe:
    """The recipe in force for `unlearn.method`: the values of `unlearn.rivals`, else the method's
    defaults.

    Methods that start from scratch last `unlearn.rivals.training_share` of `train.epochs`, at
    `train.learning_rate`.

    Raises:
        KeyError: the method is no rival.
    """
    method, rivals = settings.unlearn.method, settings.unlearn.rivals
    defaults = RECIPES[method]
    if method in FROM_SCRATCH:
        defaults = replace(
            defaults,
            epochs=rivals.training_share * settings.train.epochs,
            learning_rate=settings.train.learning_rate,
        )
    configured = {
        name: getattr(rivals, name)
        for name in ("epochs", "learning_rate", "retained_share", "temperature")
    }
    overrides = {
        name: value
        for name, value in configured.items()
        if value is not None and getattr(defaults, name) is not None
    }
    return replace(defaults, **overrides)
