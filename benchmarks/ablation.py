"""Measure what each open choice of FCALB does, one at a time, around two configurations.

The abstract of the paper fixes the idea and leaves open which features are held to the random
teacher, by which distance, with which balance, on how much retained data, in which batch-norm mode.
Around the documented defaults and around the method `fcalb_reset`, which moves weights to the
random teacher first, each choice is changed by itself, and the outcome is judged as in
`benchmarks.methods`, whose models it shares.

Example: python -m benchmarks.ablation --world digits --page docs/methods.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import methods
from benchmarks.study import Study, run
from tasks.common.settings import Train

FIXED = (0.1, 1.0, 10.0)
"""Weights of the forget loss that a balance which adapts has to beat"""
EXACT = "exact retrain"
ADAPTIVE = ("uncertainty", "gradnorm", "dwa", "imtl_g")
DEFAULT, RESET, JOINT = "default", "reset", "reset, joint"
"""Around what a choice is changed; without forget steps only the last of them has two losses to
weigh after a reset"""


def configurations(recipe: Train) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings of `unlearn`, by the configuration they start from and by the choice that is
    changed."""
    plain = {"method": "fcalb_plain"}
    reset = {**methods.RESET, "epochs": recipe.epochs / 3, "batch_size": recipe.batch_size // 2}
    joint = {**reset, "phases": "joint"}
    first = {"phases": "forget_recover", "forget_steps": 40, "forget_rate": 0.02}
    features: dict[str, dict[str, Any]] = {
        "taps all": {"taps": "all"},
        "distance cosine": {"distance": "cosine"},
        "teacher's batch norm in evaluation mode": {"teacher_mode": "eval"},
    }
    return {
        DEFAULT: {
            "as it is": plain,
            **{what: plain | change for what, change in (features | _balances()).items()},
            **{
                f"retained share {share:g}": {**plain, "retained_share": share}
                for share in (0.1, 1.0)
            },
            "forget 40 steps, then recover": plain | first,
            **{f"reset {way:g}": {**plain, "reset": way} for way in (0.4, 0.5, 0.6, 0.7, 0.8)},
            f"batch size {recipe.batch_size // 2}": {**plain, "batch_size": recipe.batch_size // 2},
            "3 epochs": {**plain, "epochs": 3.0},
        },
        RESET: {
            "as it is": reset,
            **{f"reset {way:g}": {**reset, "reset": way} for way in (0.0, 0.4, 0.5, 0.7, 0.8)},
            **{
                f"retained share {share:g}": {**reset, "retained_share": share}
                for share in (0.1, 0.3)
            },
            f"batch size {recipe.batch_size}": {**reset, "batch_size": recipe.batch_size},
            **{
                f"{part:.0%} of the recipe's epochs": {**reset, "epochs": part * recipe.epochs}
                for part in (1 / 6, 0.5)
            },
            "forget 40 steps, then recover": reset | first,
            "forget 40 steps, taps all, then recover": reset | first | features["taps all"],
        },
        JOINT: {
            "as it is": joint,
            **{what: joint | change for what, change in (features | _balances()).items()},
        },
    }


def _balances() -> dict[str, dict[str, Any]]:
    fixed = {
        f"balance fixed, {weight:g}": {"balance": "fixed", "forget_weight": weight}
        for weight in FIXED
    }
    return {f"balance {name}": {"balance": name} for name in ADAPTIVE[1:]} | fixed


def main(study: Study) -> None:
    """Unlearn with each change, judge, write the figures, and put their table into a page between
    its marks.

    What is done is kept: a run that was stopped goes on where it was.

    Example: python -m benchmarks.ablation --world digits --originals 2 --page docs/methods.md
    """
    methods.make_models(study)
    variants = configurations(study.given.settings.train)
    outcomes = methods.in_rounds(
        study,
        {EXACT: {"method": "retrain"}}
        | {
            f"{around}: {what}": wish
            for around, changes in variants.items()
            for what, wish in changes.items()
        },
        "ablation",
    )
    retrain = [result["seconds"] for result in outcomes[EXACT]]
    figures = {
        "retrain_seconds": float(np.median(retrain)),
        "settings": variants,
        "retrain": methods.figures(outcomes[EXACT], retrain),
        "rows": {
            around: {
                what: methods.figures(outcomes[f"{around}: {what}"], retrain) for what in changes
            }
            for around, changes in variants.items()
        },
    }
    study.publish("ablation", figures, table)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, and whether weights that adapt beat a fixed one."""
    versions, retrain = result["versions"], result["retrain"]
    lines = [
        f"**{result['world']}**: {result['about']}. {retrain['trials']} originals × batches, "
        f"{retrain['judged']} judged in a row; an exact retrain has {retrain['pass']} passes, "
        f"{retrain['fail']} fails, control accuracy {retrain['control'][0]:.1%} and takes "
        f"{result['retrain_seconds']:.2f} s.",
        "",
        "| around | what is changed | pass | fail | inconclusive | ρ: median, 5 % … 95 % | control "
        "accuracy, ± sd | time / retrain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for around, changes in result["rows"].items():
        lines += [methods.row(f"{around} | {what}", one) for what, one in changes.items()]
    lines += [
        "",
        *(
            f"{compared(changes, around)}"
            for around, changes in result["rows"].items()
            if around != RESET
        ),
        "",
        f"`{result['command']}` ({versions['processor']}, Python {versions['python']}, torch "
        f"{versions['torch']}).",
        "",
    ]
    return "\n".join(lines)


def compared(changes: dict[str, dict[str, Any]], around: str) -> str:
    """Which balance is best, in words: the one with most passes, among equals that whose median ρ
    is nearest to 0."""
    adaptive = {"uncertainty": changes["as it is"]} | {
        name: changes[f"balance {name}"] for name in ADAPTIVE[1:]
    }
    fixed = {f"{weight:g}": changes[f"balance fixed, {weight:g}"] for weight in FIXED}

    def rank(entry: dict[str, Any]) -> tuple[float, float]:
        return (
            (-entry["pass"], abs(entry["influence"][1])) if entry["influence"] else (np.inf, np.inf)
        )

    (ours, own), (weight, its) = (
        min(group.items(), key=lambda item: rank(item[1])) for group in (adaptive, fixed)
    )
    if not (own["influence"] and its["influence"]):
        return f"Around *{around}*: no balance of one of the two kinds came to an end."
    won = "beats" if rank(own) < rank(its) else "does not beat"
    return (
        f"Around *{around}* the best balance that adapts ({ours}: {own['pass']} passes, median ρ "
        f"{own['influence'][1]:.2f}, control accuracy {own['control'][0]:.1%}) {won} the best "
        f"fixed weight ({weight}: "
        f"{its['pass']}, {its['influence'][1]:.2f}, {its['control'][0]:.1%})."
    )


if __name__ == "__main__":
    run(main, originals=2)
