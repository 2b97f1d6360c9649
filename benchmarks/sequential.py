"""Forget batch after batch, each from the model that the previous one released, and judge all
earlier people again.

Ten batches of one or two people are forgotten one after the other. After each the released model is
judged on the newest people and on all who were forgotten before. References follow from who saw
what:

    without     trained without everybody forgotten so far, for the newest people and for earlier
                ones alike
    with        trained with everybody who was left when the people at hand asked: the models that
                judged them when they were the newest. `erasure-audit release` takes over just these
    original    the model released just before the people at hand asked; the self-check has to catch
                it

So an influence of 1 means: as if nothing had been deleted since they asked, and 0: as retrained
without all of them. An audit in production cannot do this, because the records of earlier people
are erased. It goes by `tasks.reporting.advice`, whose limits these figures carry: what
would be advised is noted at each step, and one row follows the advice.

Example: python -m benchmarks.sequential --world digits --page docs/methods.md
"""

from __future__ import annotations

import io
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kept, methods, verdicts, worlds
from benchmarks.study import Study, run
from benchmarks.verdicts import Answers, Job
from benchmarks.worlds import World
from tasks.common import files, seeds
from tasks.common.errors import EvidenceError, ModelError
from tasks.common.settings import AdviceLimits, Settings, Unlearn
from tasks.reporting import advice
from tasks.training import checkpoints, compute
from tasks.training.history import History
from tasks.verification import scoring, utility
from tasks.verification import verdicts as verification
from tasks.verification.gates import GateRules

DEFAULT = "fcalb"
FOLLOWED = "fcalb, retrained when advised"
STYLES = {
    "exact retrain": ("#000000", "*"),
    DEFAULT: ("#0072b2", "o"),
    "short retrain, 5/12": ("#d55e00", "s"),
    "FCALB, as the abstract has it": ("#009e73", "D"),
    FOLLOWED: ("#56b4e9", "P"),
}
"""Colour (Okabe and Ito 2008) and marker of each method"""
ADVICE = ("unlearnings", "forgotten_share", "accuracy_lost", "influence_left", "failed")
"""Codes of `tasks.reporting.advice`"""


@dataclass(frozen=True)
class Chain:
    """One original that forgets all batches by one method."""

    title: str
    wish: dict[str, Any]
    limits: dict[str, Any] | None
    """`advice` settings by which an exact retrain is released instead, where it is advised; None:
    never"""
    world: str
    original: int
    references: int
    seed: int
    keep: Path


def configurations(settings: Settings) -> dict[str, dict[str, Any]]:
    """The methods by title, as `unlearn` settings."""
    short = {"batch_size": settings.train.batch_size // 2, "rivals": {"training_share": 5 / 12}}
    return {
        "exact retrain": {"method": "retrain"},
        DEFAULT: {"method": "fcalb"},
        "short retrain, 5/12": {"method": "short_retrain", **short},
        "FCALB, as the abstract has it": {"method": "fcalb_plain"},
        FOLLOWED: {"method": "fcalb"},
    }


def main(study: Study, figures: Path = Path("docs/figures")) -> None:
    """Train, forget batch after batch, judge all people again, and put table and figure into a page
    between its marks.

    What is done is kept: a run that was stopped goes on where it was.

    Example: python -m benchmarks.sequential --world digits --originals 3 --page docs/methods.md
    """
    of_the_chain = replace(study, world=f"{study.world}-sequence")
    world = of_the_chain.given
    methods.make_models(of_the_chain)
    limits = world.settings.advice.model_dump()
    chains = [
        Chain(
            title,
            wish,
            limits if title == FOLLOWED else None,
            world.name,
            study.references + 1 + n,
            study.references,
            study.seed,
            study.keep,
        )
        for title, wish in configurations(world.settings).items()
        for n in range(study.originals)
    ]
    results = kept.each(
        chains, walk, study.folder("sequential"), study.jobs, f"{study.world}, in sequence"
    )
    outcomes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for chain, result in zip(chains, results, strict=True):
        outcomes[chain.title].append(result)
    measured = {
        "about": world.about,
        "originals": study.originals,
        "references": study.references,
        "batches": len(world.batches),
        "limits": limits,
        "rho0": world.settings.verify.rho0,
        "settings": configurations(world.settings),
        "methods": {title: summary(rows, limits) for title, rows in outcomes.items()},
    }
    files.write_bytes(
        figures / f"sequential-{study.world}.svg", picture({"world": study.world, **measured})
    )
    study.publish("sequential", measured, table)


def walk(chain: Chain) -> dict[str, Any]:
    """Let one original forget all batches, and judge everybody after each."""
    chain_world = worlds.load(chain.world)
    backend = compute.prepare(chain_world.settings.compute)
    rules = GateRules(**chain_world.settings.verify.model_dump(exclude={"mode"})).answers_alone()
    path = chain.keep / f"{chain.world}-{chain.seed}" / f"with-0-{chain.original}.safetensors"
    network = checkpoints.load(path, chain_world.settings.model, chain_world.settings.data)
    trained = int((chain_world.roles == "training").sum())
    history = History(0, 0, trained)
    yardsticks = [_yardstick(chain, step) for step in range(len(chain_world.batches) + 1)]
    released = [verdicts.answers_of([network], chain_world, backend)]
    steps: list[dict[str, Any]] = []
    for step in range(1, len(chain_world.batches) + 1):
        world = newest(chain_world, step)
        started = time.process_time()
        settings = methods.settings_of(
            world,
            Unlearn.model_validate(chain.wish),
            seeds.derive(chain.seed, "sequential", step, chain.original),
        )
        try:
            network = methods.unlearned(network, world, 0, settings, backend)
        except (ModelError, EvidenceError) as error:
            return {"steps": steps, "error": str(error)}
        seconds = time.process_time() - started
        released.append(verdicts.answers_of([network], chain_world, backend))
        first_batch = np.isin(chain_world.subjects, world.batches[0])
        retained = int(((world.roles == "training") & ~first_batch).sum())
        history = history.after(settings.unlearn.method, int(first_batch.sum()), retained)
        judgements = [
            judge(chain_world, released, yardsticks, step, earlier, rules)
            for earlier in range(1, step + 1)
        ]
        loss = utility.control_loss(
            scores_of(chain_world, released, yardsticks, step, step), rules.alpha
        )
        facts_of_step = {"newest": judgements[-1], "loss": loss, "history": asdict(history)}
        if chain.limits is not None and advised(facts_of_step, chain.limits):
            started = time.process_time()
            anew = settings.model_copy(update={"unlearn": Unlearn(method="retrain")})
            network = methods.unlearned(network, world, 0, anew, backend)
            seconds += time.process_time() - started
            released[-1] = verdicts.answers_of([network], chain_world, backend)
            history = history.after("retrain", int(first_batch.sum()), retained)
            judgements = [
                judge(chain_world, released, yardsticks, step, earlier, rules)
                for earlier in range(1, step + 1)
            ]
            loss = utility.control_loss(
                scores_of(chain_world, released, yardsticks, step, step), rules.alpha
            )
        steps.append({"seconds": seconds, "loss": loss, "sets": judgements, "known": facts_of_step})
    return {"steps": steps}


def advised(step: dict[str, Any], limits: dict[str, Any]) -> list[str]:
    """The codes of the advice after a step.

    An exact retrain is asked about as if it were none: what would be advised then is a false alarm.
    """
    history = History(**step["history"])
    facts = advice.BatchFacts(
        step["newest"], step["loss"], history, AdviceLimits.model_validate(limits)
    )
    advices = advice.advise("fcalb", facts)
    return [one["code"] for one in advices]


def newest(world: World, step: int) -> World:
    """The world as the step's batch finds it: its people are the only batch, and those before are
    gone."""
    before = world.batches[step - 2] if step > 1 else ()
    newest_people = tuple(person for person in world.batches[step - 1] if person not in before)
    forgotten_before = np.isin(world.subjects, before)
    return replace(
        world, batches=(newest_people,), roles=np.where(forgotten_before, "forgotten", world.roles)
    )


def judge(
    world: World,
    released: list[Answers],
    yardsticks: list[Answers],
    step: int,
    earlier: int,
    rules: GateRules,
) -> list[dict[str, Any]]:
    """The verdicts after a step on the people of an earlier batch, or of its own."""
    scores = scores_of(world, released, yardsticks, step, earlier)
    verdict_rows = []
    for person in newest(world, earlier).batches[0]:
        verdict = verification.judge(scores, f"person-{person}", rules)
        check = verdict.self_check.original_caught and verdict.self_check.retrain_cleared
        span = asdict(verdict.finding.interval)
        verdict_rows.append(
            {"verdict": verdict.verdict, "residual_influence": span, "self_check": check}
        )
    return verdict_rows


def scores_of(
    world: World, released: list[Answers], yardsticks: list[Answers], step: int, earlier: int
) -> scoring.Scores:
    """The scores that judge a step's model on an earlier batch.

    Args:
        world: the world.
        released: of the original, and of the model that each step released.
        yardsticks: of the baseline and the references trained without those forgotten until each
            step; 0: nobody.
        step: whose model is judged, from 1.
        earlier: on whose people, 1 to `step`.
    """
    before, after = yardsticks[earlier - 1], yardsticks[step]
    columns = zip(released[earlier - 1], after, before, strict=True)
    fixed = [
        np.concatenate([original, without[:1], with_[1:], without[1:]])
        for original, without, with_ in columns
    ]
    return verdicts.table_of_scores(world, step - 1, released[step], fixed, len(before[0]) - 1)


def _yardstick(chain: Chain, step: int) -> Answers:
    kind, batch = ("without", step - 1) if step else ("with", 0)
    numbers = range(chain.references + 1)
    return verdicts.answers(
        [Job(chain.world, kind, batch, n, chain.seed, chain.keep) for n in numbers]
    )


def summary(chains: list[dict[str, Any]], limits: dict[str, Any]) -> dict[str, Any]:
    """One method: figures of each step over all chains, and of all steps together."""
    for step in (step for chain in chains for step in chain["steps"]):
        step["advice"] = advised(step["known"], limits)
    steps = [list(column) for column in zip(*(chain["steps"] for chain in chains), strict=False)]
    by_step = [
        {
            "newest": judged([step["sets"][-1] for step in column]),
            "earlier": judged([rows for step in column for rows in step["sets"][:-1]]),
            "loss": [
                float(f([step["loss"]["estimate"] for step in column])) for f in (np.mean, np.std)
            ],
            "seconds": float(np.median([step["seconds"] for step in column])),
            "advised": dict(Counter(code for step in column for code in step["advice"])),
            "chains_advised": sum(bool(step["advice"]) for step in column),
        }
        for column in steps
    ]
    every = [step for chain in chains for step in chain["steps"]]
    return {
        "chains": len(chains),
        "stopped": [chain["error"] for chain in chains if "error" in chain],
        "steps": by_step,
        "newest": judged([step["sets"][-1] for step in every]),
        "earlier": judged([rows for step in every for rows in step["sets"][:-1]]),
        "seconds": float(np.sum([step["seconds"] for step in every])) / len(chains),
        "advised": sum(bool(step["advice"]) for step in every) / len(chains),
        "by_chain": [
            [
                {"unlearnings": step["known"]["history"]["unlearnings"], "advice": step["advice"]}
                for step in chain["steps"]
            ]
            for chain in chains
        ],
    }


def judged(sets: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Counts and spread of the influence of some verdicts."""
    rows = [row for rows in sets for row in rows]
    counts = Counter(row["verdict"] for row in rows)
    estimates = [row["residual_influence"]["estimate"] for row in rows]
    influence = [rho for rho in estimates if rho is not None]
    return {
        **{name: counts[name] for name in ("pass", "fail", "inconclusive")},
        "influence": [float(q) for q in np.quantile(influence, (0.05, 0.5, 0.95))]
        if influence
        else None,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown: all methods together, then each step of `fcalb`."""
    versions, all_methods, limits = result["versions"], result["methods"], result["limits"]
    retrain = all_methods["exact retrain"]["seconds"]
    lines = [
        f"**{result['world']}**: {result['about']}, one after the other; {result['originals']} "
        f"originals, {result['references']} + {result['references']} references for each number of "
        f"batches. Ten exact retrains take {retrain:.1f} s of CPU time. Loss is accuracy on unseen "
        "people below the retrained references' mean, in points.",
        "",
        "| method | newest people: pass / fail / inconclusive | ρ: median, 5 % … 95 % | earlier "
        "people, judged again | "
        "ρ: median, 5 % … 95 % | loss, first 3 → last 3 | full retrains | time / exact |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, method in all_methods.items():
        early, late = (
            np.mean([step["loss"][0] for step in part])
            for part in (method["steps"][:3], method["steps"][-3:])
        )
        retrains = (
            result["batches"]
            if title == "exact retrain"
            else method["advised"]
            if title == FOLLOWED
            else 0
        )
        lines.append(
            f"| {title} | {_counts(method['newest'])} | {_spread(method['newest'])} | "
            f"{_counts(method['earlier'])} | {_spread(method['earlier'])} | {100 * early:+.1f} → "
            f"{100 * late:+.1f} | {retrains:.1f} | {method['seconds'] / retrain:.2f} |"
        )
    lines += [
        "",
        f"Of the {result['batches']} batches of an exact retrain the advice would have found fault "
        f"with {all_methods['exact retrain']['advised']:.1f}, a false alarm.",
        "",
        f"`{DEFAULT}` by the number of batches since the last full training. The last column "
        f"counts the {result['originals']} chains in which a full retrain is advised then, at the "
        f"limits of {limits['unlearnings']} unlearnings, {limits['forgotten_share']:.0%} of the "
        f"records forgotten and {100 * limits['accuracy_loss']:g} points lost:",
        "",
        "| batches | newest: pass / fail / inconclusive | ρ, median | earlier: pass / fail / "
        "inconclusive | ρ, median | loss, ± sd | advised, for |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, step in enumerate(all_methods[DEFAULT]["steps"], start=1):
        reasons = ", ".join(
            f"{code} {step['advised'][code]}" for code in ADVICE if code in step["advised"]
        )
        mean, spread = step["loss"]
        lines.append(
            f"| {number} | {_counts(step['newest'])} | {_middle(step['newest'])} | "
            f"{_counts(step['earlier'])} | {_middle(step['earlier'])} | {100 * mean:+.1f} ± "
            f"{100 * spread:.1f} | {step['chains_advised']}{f': {reasons}' if reasons else ''} |"
        )
    lines += [
        "",
        f"![Drift over ten batches: influence of newest and earlier people, loss of accuracy]"
        f"(figures/sequential-{result['world']}.svg)",
        "",
        f"`{result['command']}` ({versions['processor']}, Python {versions['python']}, torch "
        f"{versions['torch']}).",
        "",
    ]
    return "\n".join(lines)


def _counts(judgement: dict[str, Any]) -> str:
    return (
        f"{judgement['pass']} / {judgement['fail']} / {judgement['inconclusive']}"
        if judgement["influence"]
        else "—"
    )


def _middle(judgement: dict[str, Any]) -> str:
    return f"{judgement['influence'][1]:.2f}" if judgement["influence"] else "—"


def _spread(judgement: dict[str, Any]) -> str:
    low, middle, high = judgement["influence"]
    return f"{middle:.2f}, {low:.2f} … {high:.2f}"


def picture(result: dict[str, Any]) -> bytes:
    """An SVG: influence of the newest and of earlier people, and loss of accuracy, over the number
    of batches."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "erasure-audit", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(6.4, 7.2), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(3, 1, sharex=True)
    margin = result["rho0"]
    for title, method in result["methods"].items():
        (colour, marker), steps = STYLES[title], method["steps"]
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "label": title,
            "markersize": 5,
            "linewidth": 1.2,
        }
        for axes, part in zip(panels, ("newest", "earlier"), strict=False):
            points = [
                (n, step[part]["influence"][1])
                for n, step in enumerate(steps, 1)
                if step[part]["influence"]
            ]
            axes.plot(*zip(*points, strict=True), **look)
        panels[2].plot(range(1, len(steps) + 1), [100 * step["loss"][0] for step in steps], **look)
    for axes, label in zip(
        panels,
        (
            "ρ of the newest people",
            "ρ of all earlier people",
            "accuracy lost against\nretrained models, points",
        ),
        strict=True,
    ):
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
    for axes in panels[:2]:
        axes.axhspan(-margin, margin, color="#0072b2", alpha=0.08, linewidth=0)
    panels[2].axhline(
        100 * result["limits"]["accuracy_loss"], color="#555555", linestyle=":", linewidth=1
    )
    panels[2].set_xlabel("batches forgotten one after the other")
    panels[2].set_xticks(range(1, result["batches"] + 1))
    figure.legend(
        *panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2
    )
    target = io.BytesIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return target.getvalue()


if __name__ == "__main__":
    run(main)
