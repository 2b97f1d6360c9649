"""How long FCALB recovers: the length was chosen with this table, on the people kept for tuning.

Models, trials and verdicts are those of `benchmarks.methods`; the columns are those of
`benchmarks.parts`.

Example: python -m benchmarks.recovery --world digits-tuning --page docs/methods.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import methods, parts
from benchmarks.study import Study, run
from tasks.common.settings import Settings
from tasks.unlearning import fcalb

SHARES = (1 / 3, 5 / 12, 1 / 2)
"""Lengths of recovery, as shares of the recipe's epochs."""


def configurations(settings: Settings) -> dict[str, dict[str, Any]]:
    """Settings of `unlearn` by the number of epochs; shares beyond the most epochs are one row."""
    _, most = fcalb.RECOVERY["fcalb"]
    lengths = dict.fromkeys(min(share * settings.train.epochs, most) for share in SHARES)
    return {
        "exact retrain": {"method": "retrain"},
        **{
            f"fcalb, {epochs:.3g} of {settings.train.epochs} epochs": {
                "method": "fcalb",
                "rivals": {"epochs": epochs},
            }
            for epochs in lengths
        },
    }


def main(study: Study) -> None:
    """Unlearn with each length of recovery, judge, write the figures, and put their table into a
    page between its marks.

    Example: python -m benchmarks.recovery --world faces-tuning --page docs/methods.md
    """
    methods.make_models(study)
    variants = configurations(study.given.settings)
    outcomes = methods.in_rounds(study, variants, "recovery")
    retrain = [result["seconds"] for result in outcomes["exact retrain"]]
    figures = {
        "retrain_seconds": float(np.median(retrain)),
        "settings": variants,
        "parts": {title: methods.figures(rows, retrain) for title, rows in outcomes.items()},
    }
    study.publish("recovery", figures, parts.table)


if __name__ == "__main__":
    run(main, world="digits-tuning")
