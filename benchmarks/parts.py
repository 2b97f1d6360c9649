"""Measure each part of FCALB: the whole method, each part left out or exchanged, and its rivals.

The method was chosen on `digits-tuning` and `faces-tuning`, on other people than those judged in
the tables of `digits`, `faces` and `writers`. Models, trials and verdicts are those of
`benchmarks.methods`. *answers* counts passes of the test of the answers alone, *alike* those of
models that lie in the retrained models' range in all figures, too (`verify.alike`), and *all gates*
those that pass in the further views as well (`verify.views`): the default of an audit.

Example: python -m benchmarks.parts --world digits --page docs/methods.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import methods
from benchmarks.study import Study, run
from tasks.common.settings import Settings, Unlearn
from tasks.unlearning import fcalb

BALANCES = ("uncertainty", "gradnorm", "dwa", "imtl_g")
OF_BALANCES = tuple(f"balance {name}" for name in BALANCES)
"""Titles of their rows"""
SHORT = (5 / 12, 7 / 12)
"""Lengths of the short retrain, as shares of the recipe's epochs"""
SHORT_OF_LONG = (1 / 10, *SHORT)
"""The same where the recipe is long"""


def configurations(settings: Settings) -> dict[str, dict[str, Any]]:
    """Settings of `unlearn`, by a description."""
    parts = by_keys(settings)
    lengths = SHORT_OF_LONG if settings.train.epochs >= fcalb.LONG_RECIPE else SHORT
    return {
        "exact retrain": {"method": "retrain"},
        "unchanged original": {"method": "none"},
        "fcalb, the default": {"method": "fcalb"},
        "without the constraint": {**parts, "phases": "forget_recover", "forget_steps": 0},
        "without the reset": {**parts, "reset_until": 0.0},
        "without recovery": {**parts, "epochs": 0.05},
        "reset of 0.6 for all models": {**parts, "reset_until": 0.0, "reset": 0.6},
        "constraint held to the end, weight 0.1": {
            **parts,
            "balance": "fixed",
            "forget_weight": 0.1,
        },
        **{
            title: {**parts, "balance": name}
            for title, name in zip(OF_BALANCES, BALANCES, strict=True)
        },
        "fcalb_reset": {"method": "fcalb_reset"},
        "fcalb_plain, as the abstract has it": {"method": "fcalb_plain"},
        **{
            f"short retrain, {share:.1%} of the epochs": {
                "method": "short_retrain",
                "batch_size": parts["batch_size"],
                "rivals": {"training_share": share},
            }
            for share in lengths
        },
    }


def by_keys(settings: Settings) -> dict[str, Any]:
    """What `fcalb` does by default, as keys of `unlearn`, each of which can then be changed."""
    default = fcalb.effective_settings(settings.model_copy(update={"unlearn": Unlearn()})).unlearn
    return default.model_dump(exclude={"rivals", "resets", "task"}) | {"method": "fcalb_plain"}


def main(study: Study, balances: bool = True) -> None:
    """Unlearn with each part changed, judge, write the figures, and put their table into a page
    between its marks. `--no-balances` leaves out the other balances, which take longest.

    What is done is kept: a run that was stopped goes on where it was.

    Example: python -m benchmarks.parts --world digits --originals 3 --page docs/methods.md
    """
    variants = configurations(study.given.settings)
    if not balances:
        variants = {title: wish for title, wish in variants.items() if title not in OF_BALANCES}
    options = {} if balances else {"balances": False}
    study.publish("parts", compared(study, variants, "parts"), table, **options)


def compared(study: Study, variants: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The figures of a table: unlearning in each way, judged.

    Args:
        study: whose models are trained if they are not there.
        variants: settings of `unlearn` by title, `exact retrain` among them.
        name: of the benchmark, under which results are kept.
    """
    methods.make_models(study)
    outcomes = methods.in_rounds(study, variants, name)
    retrain = [result["seconds"] for result in outcomes["exact retrain"]]
    return {
        "retrain_seconds": float(np.median(retrain)),
        "settings": variants,
        "parts": {title: methods.figures(rows, retrain) for title, rows in outcomes.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, in the order of `configurations`."""
    versions, parts = result["versions"], result["parts"]
    first = next(iter(parts.values()))
    lines = [
        f"**{result['world']}**: {result['about']}. {first['trials']} originals × batches, "
        f"{first['judged']} judged in a row. Control accuracy of the retrained references "
        f"{first['control_retrained']:.1%}; one retrain takes {result['retrain_seconds']:.2f} s.",
        "",
        "| what | answers | alike | all gates | fail | ρ: median, 5 % … 95 % | "
        "control accuracy, ± sd | time / retrain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(title, part) for title, part in parts.items()),
        "",
        *outside(parts),
        f"`{result['command']}` ({versions['processor']}, Python {versions['python']}, torch "
        f"{versions['torch']}).",
        "",
    ]
    return "\n".join(lines)


def outside(parts: dict[str, Any]) -> list[str]:
    """A sentence on where the default lies outside the retrained models' range, and an empty line;
    nothing where it lies inside everywhere."""
    part = parts.get("fcalb, the default", {})
    counts = sorted(part.get("outside", {}).items(), key=lambda item: -item[1])
    where = ", ".join(f"`{name}` {count}" for name, count in counts)
    if not where:
        return []
    return [f"Gates at which the default is outside the range, of {part['judged']}: {where}.", ""]


def row(title: str, part: dict[str, Any]) -> str:
    """One row of Markdown."""
    if not part["influence"]:
        return f"| {title} | diverged in all {part['trials']} | | | | | | {part['time']:.2f} |"
    low, middle, high = part["influence"]
    mean, spread = part["control"]
    return (
        f"| {title} | {part['pass']} | {part['alike']} | {part['all_gates']} | {part['fail']} | "
        f"{middle:.2f}, {low:.2f} … {high:.2f} | {mean:.1%} ± {spread:.1%} | {part['time']:.2f} |"
    )


if __name__ == "__main__":
    run(main)
