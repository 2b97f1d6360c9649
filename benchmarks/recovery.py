"""How far FCALB resets, when its constraint ends, how long and in which batches it recovers: all
were chosen on the people of these tables, who were kept for tuning.

Models, trials and verdicts are those of `benchmarks.methods`; the columns are those of
`benchmarks.parts`.

Example: python -m benchmarks.recovery --world digits-tuning --page docs/methods.md
"""

from __future__ import annotations

from typing import Any

from benchmarks import parts
from benchmarks.study import Study, run
from tasks.common.settings import Settings, Unlearn
from tasks.unlearning import fcalb

SHARES = (1 / 3, 5 / 12, 1 / 2)
"""Lengths of recovery, as shares of the recipe's epochs."""
RESETS = (0.75, 0.85, 0.92, 0.97)
"""Values of `unlearn.reset_until`, each with the constraint and without."""
ENDS = (0.5, 0.7, 0.85)
"""Values of `unlearn.descent_end`: when the constraint ends."""
LONG = ((1 / 2, 8.0), (1, 8.0), (1, 10.0), (1, 12.0))
"""Recoveries from long recipes: size of batches as a share of the recipe's, and epochs."""


def configurations(settings: Settings) -> dict[str, dict[str, Any]]:
    """Settings of `unlearn` by title: each reset, with the constraint and without, each end of the
    constraint, and each length of recovery, all else as by default. Of long recipes only lengths
    and batches."""
    if settings.train.epochs >= fcalb.LONG_RECIPE:
        return _of_long_recipe(settings)
    _, most = fcalb.RECOVERY["fcalb"]
    effective = fcalb.effective_settings(settings.model_copy(update={"unlearn": Unlearn()})).unlearn
    length, last = effective.epochs, effective.descent_end
    lengths = dict.fromkeys(min(share * settings.train.epochs, most) for share in SHARES)
    variants: dict[str, dict[str, Any]] = {"exact retrain": {"method": "retrain"}}
    for until in RESETS:
        own = {"reset_until": until, "rivals": {"epochs": length}}
        variants[f"fcalb, reset until {until:g}"] = {"method": "fcalb", **own}
        variants[f"without the constraint, reset until {until:g}"] = {
            "method": "fcalb_reset",
            **own,
        }
    for end in ENDS:
        if end != last:
            own = {"descent_end": end, "rivals": {"epochs": length}}
            variants[f"fcalb, constraint ends at {end:g}"] = {"method": "fcalb", **own}
    for epochs in lengths:
        if epochs != length:
            variants[f"fcalb, {epochs:.3g} of {settings.train.epochs} epochs"] = {
                "method": "fcalb",
                "rivals": {"epochs": epochs},
            }
    return variants


def _of_long_recipe(settings: Settings) -> dict[str, dict[str, Any]]:
    keys, size = parts.by_keys(settings), settings.train.batch_size
    variants: dict[str, dict[str, Any]] = {"exact retrain": {"method": "retrain"}}
    for share, epochs in LONG:
        batches = "the recipe's batches" if share == 1 else "half batches"
        variants[f"fcalb, {epochs:g} epochs, {batches}"] = {
            **keys,
            "batch_size": int(share * size),
            "epochs": epochs,
        }
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
