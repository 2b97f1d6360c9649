"""How far FCALB resets, when its constraint ends, how long and in which batches it recovers: all
were chosen on the people of these tables, who were kept for tuning.

Models, trials and verdicts are those of `benchmarks.methods`; the columns are those of
`benchmarks.parts`.

Example: python -m benchmarks.recovery --world digits-tuning --page docs/methods.md
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks import parts
from benchmarks.study import Study, run
from tasks.common.settings import Settings
from tasks.unlearning import fcalb

RESETS, RESETS_OF_LONG = (0.75, 0.85, 0.92, 0.97), (0.92, 0.97)
"""Values of `unlearn.reset_until` for short and for long recipes, each with the constraint and
without."""
ENDS = (0.5, 0.7, 0.85)
"""Values of `unlearn.descent_end`: when the constraint ends."""
RECOVERIES = ((1 / 3, 2), (5 / 12, 1.5), (11 / 24, 1.25), (1 / 2, 1.5))
"""Ways to recover from short recipes: share of the recipe's epochs, and multiple of its rate."""
RECOVERIES_OF_LONG = ((8, 1 / 2), (8, 1), (10, 1), (12, 1))
"""From long ones: epochs, and share of the recipe's batch."""


def configurations(settings: Settings) -> dict[str, dict[str, Any]]:
    """Settings of `unlearn` by title: each reset, with the constraint and without, and each way to
    recover; from short recipes also each end of the constraint. All else is as by default."""
    recipe, default = settings.train, parts.by_keys(settings)
    long = recipe.epochs >= fcalb.LONG_RECIPE
    changes: dict[str, dict[str, Any]] = {"fcalb, the default": {}}
    for until in RESETS_OF_LONG if long else RESETS:
        changes[f"fcalb, reset until {until:g}"] = {"reset_until": until}
        changes[f"without the constraint, reset until {until:g}"] = {
            "reset_until": until,
            "phases": "forget_recover",
            "forget_steps": 0,
        }
    if not long:
        for end in ENDS:
            changes[f"fcalb, constraint ends at {end:g}"] = {"descent_end": end}
        for share, rate in RECOVERIES:
            own = replace(fcalb.RECOVERY, share=share).after(recipe)
            own["learning_rate"] *= rate
            changes[f"fcalb, {own['epochs']:.3g} epochs at {rate:g} times the rate"] = own
    for epochs, batch in RECOVERIES_OF_LONG if long else ():
        own = fcalb.Recovery(share=1, most_epochs=epochs, batch=batch).after(recipe)
        changes[f"fcalb, {epochs} epochs, batches of {own['batch_size']}"] = own
    variants: dict[str, dict[str, Any]] = {"exact retrain": {"method": "retrain"}}
    for title, change in changes.items():
        wish = {**default, **change}
        if wish not in variants.values():  # the default is in several lists
            variants[title] = wish
    return variants


def main(study: Study) -> None:
    """Unlearn in each of these ways, judge, write the figures, and put their table into a
    page between its marks.

    Example: python -m benchmarks.recovery --world faces-tuning --page docs/methods.md
    """
    variants = configurations(study.given.settings)
    study.publish("recovery", parts.compared(study, variants, "recovery"), parts.table)


if __name__ == "__main__":
    run(main, world="digits-tuning")
