"""Measure blocks of `train` and `retrain` on one agent, on two agents, and locally.

Everything is real: a Prefect server, a work pool per number of agents, clones, an S3 store as DVC's
remote, training on the embedded digits. A stage has one thread, and an agent with all its stages
one core. The learning rate differs in its ninth digit from turn to turn, so that everything is
computed anew and takes as long.

Example: python -m benchmarks.workers --rounds 5
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from benchmarks import measure, network
from flows.pipeline import stage_runner
from flows.workspace import dvc_graph, layout, shell
from tasks.common import settings, stage_cli
from tasks.common.errors import WorkspaceError

KINDS = ("train", "retrain")
AGENTS = {"one": ("one-0",), "two": ("two-0", "two-1")}
"""Pools, and their agents; the last digit is the core that an agent has."""
WAYS = {
    "in place, one at a time": ("", 1),
    "in place, two at a time": ("", 2),
    "one agent": ("one", 1),
    "two agents": ("two", 1),
}
"""By name, the pool, empty for none, and the number of stages at a time in place."""
PHASES = {
    "sent": "the caller collects the inputs, asks the remote for results, sends what is not there",
    "queued": "until an agent that is free takes it",
    "started": "the agent's process starts",
    "fetched": "the inputs come to the agent, DVC starts",
    "worked": "the stage itself",
    "returned": "the results go to the remote",
    "restored": "the caller notices, fetches and checks out",
}
RATE = 0.1


def main(
    rounds: int = 5,
    models: int = 8,
    blocks: int = 2,
    epochs: int = 12,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Measure, and write benchmarks/results/workers.json and the table of docs/performance.md.

    Args:
        rounds: how often each way is measured.
        models: per block.
        blocks: of each kind.
        epochs: of training.
        page: has the marks `workers`.
        out: folder for the figures.
    """
    runs: dict[str, list[Ran]] = {name: [] for name in WAYS}
    with (
        tempfile.TemporaryDirectory(prefix="workers-") as folder,
        world(Path(folder), models, blocks, epochs) as workers_world,
    ):

        def way(name: str) -> float:
            runs[name].append(workers_world.run(*WAYS[name]))
            return runs[name][-1].seconds

        took = measure.in_turns({name: partial(way, name) for name in WAYS}, rounds)
    results = {
        "models": models,
        "stages": len(KINDS) * blocks,
        "epochs": epochs,
        **figures(took, runs),
    }
    line = (
        f"python -m benchmarks.workers --rounds {rounds} --models {models} --blocks {blocks} "
        f"--epochs {epochs}"
    )
    measure.write("workers", line, results, text(results), page, out)


@dataclass(frozen=True)
class Ran:
    """The time to bring all blocks up to date, s: in total, per stage, and per phase if handed
    out."""

    seconds: float
    stages: dict[str, float]
    phases: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class World:
    """A caller's workspace, and agents for it."""

    caller: Path
    api: str
    turn: Iterator[int] = field(default_factory=count)

    def run(self, pool: str, jobs: int) -> Ran:
        """Bring all blocks up to date, from nothing.

        Args:
            pool: whose agents do it; empty: it is done in place.
            jobs: stages at a time in place; where it is one, it has one core.

        Raises:
            WorkspaceError: it failed.
        """
        settings.assign(
            self.caller / "params.yaml", [f"train.learning_rate={RATE + next(self.turn) * 1e-9}"]
        )
        pinned = ["taskset", "--cpu-list", str(_cores()[0])] if jobs == 1 and not pool else []
        script = (
            "import sys; from benchmarks import workers; workers.bring_up_to_date(*sys.argv[1:])"
        )
        ended = subprocess.run(
            [*pinned, sys.executable, "-c", script, pool, str(jobs)],
            cwd=self.caller,
            env=_environment(self.api),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            raise WorkspaceError(
                f"the blocks could not be run: {' / '.join(ended.stderr.splitlines()[-3:])}"
            )
        seconds, spans = json.loads(ended.stdout.splitlines()[-1])
        durations = {name: end - began for name, (began, end) in spans.items()}
        return Ran(seconds, durations, self._phases(spans, pool) if pool else {})

    def _phases(
        self, spans: dict[str, tuple[float, float]], pool: str
    ) -> dict[str, dict[str, float]]:
        """How long each part of each hand-over took, as Prefect has noted it, s; all clocks are
        this machine's."""
        runs = {name: network.runs(self.api, f"{BATCH}/{name}")[-1] for name in spans}
        states = {name: network.states(self.api, run["id"]) for name, run in runs.items()}
        free = [0.0] * len(AGENTS[pool])
        phases = {}
        for name in sorted(spans, key=lambda name: states[name]["RUNNING"]):
            reached = states[name]
            lines = network.log(self.api, runs[name]["id"])
            began, ended = spans[name]
            created = network.moment(runs[name]["created"])
            waits = max(created, heapq.heappop(free))  # whoever was free first has taken it
            at_work = next(at for at, line in lines if line.startswith("Running stage"))
            done = next(at for at, line in lines if line.startswith("Updating lock file"))
            marks = [
                waits,
                reached["PENDING"],
                reached["RUNNING"],
                at_work,
                done,
                reached["COMPLETED"],
                ended,
            ]
            lengths = [created - began, *(after - before for before, after in pairwise(marks))]
            phases[name] = dict(zip(PHASES, lengths, strict=True))
            heapq.heappush(free, reached["COMPLETED"])
        return phases


BATCH = "demo"


def bring_up_to_date(pool: str, jobs: str) -> None:
    """Run all blocks of the workspace at hand as an audit does; print the time, and when each began
    and ended."""
    from flows.agents import dispatch, stage_flow  # noqa: F401 - a run of an audit has it by then

    place = Path.cwd()
    names = [each.name for each in dvc_graph.read(place) if each.name.partition("@")[0] in KINDS]
    elsewhere = dispatch.find_agents(place, BATCH, lambda _: None) if pool else None
    runner = stage_runner.Runner(place, int(jobs), elsewhere=elsewhere)
    spans: dict[str, tuple[float, float]] = {}

    def bring(name: str) -> None:
        began = time.time()
        outcome = runner.run(name, agent=pool or None)
        spans[name] = (began, time.time())
        if outcome != ("restored" if pool else "ran"):
            raise WorkspaceError(
                f"{name}: got {outcome}, expected that it runs {'on an agent' if pool else 'here'}"
            )

    began = time.perf_counter()
    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(bring, names))
    seconds = time.perf_counter() - began
    if elsewhere is not None:
        elsewhere.close()
    print(json.dumps([seconds, spans]))


@contextlib.contextmanager
def world(root: Path, models: int, blocks: int, epochs: int) -> Iterator[World]:
    """A server, a store, a caller whose next stages are the blocks, and three agents."""
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "agent", "start"]
    os.environ.update(network.CREDENTIALS)
    with contextlib.ExitStack() as stack:
        endpoint, _ = stack.enter_context(network.s3_store())
        api = stack.enter_context(network.prefect_server(root))
        workspace = caller(root / "caller", models, blocks, epochs)
        network.connect(workspace, endpoint)
        shell.git(workspace, "add", ".")
        shell.git(workspace, "commit", "--quiet", "-m", "A workspace")
        cores = _cores()
        for pool, names in AGENTS.items():
            for number, name in enumerate(names):
                home = network.clone(workspace, root / name)
                variables = {
                    **_environment(api),
                    "PREFECT_HOME": str(root / f"prefect-{name}"),
                    "ERASURE_AUDIT_AGENT_FOLDER": str(root / f"scratch-{name}"),
                }
                words = [*command, "--pool", pool, "--name", name]
                core = cores[number % len(cores)]
                agent = network.agent(words, home, api, root / f"{name}.out", variables, core)
                stack.callback(network.kill, agent)
        network.until(
            lambda: all(
                set(names) == set(network.online(api, pool)) for pool, names in AGENTS.items()
            ),
            900,
        )
        yield World(workspace, api)


def caller(folder: Path, models: int, blocks: int, epochs: int) -> Path:
    """A workspace on the digits in which all that the blocks read is up to date."""
    from tasks.data.importers import digits

    layout.init(folder)
    shell.git(folder, "config", "user.email", "operator@example.org")
    shell.git(folder, "config", "user.name", "Operator")
    digits.import_data(folder / "data")
    numbers = list(range(blocks))
    chosen = {"seeds_per_block": models, "with_blocks": numbers, "without_blocks": numbers}
    assigned = [f"references.{key}={value}" for key, value in chosen.items()]
    layout.prepare(folder, BATCH, [*assigned, f"train.epochs={epochs}", "compute.threads=1"])
    pipeline = {each.name: each for each in dvc_graph.read(folder)}
    handed_out = {name for name in pipeline if name.partition("@")[0] in KINDS}
    before = set[str]()
    while more := {up for name in handed_out | before for up in pipeline[name].upstream} - before:
        before |= more
    runner = stage_runner.Runner(folder, 1)
    for name in pipeline:
        if name in before:
            runner.run(name)
    return folder


def figures(took: dict[str, list[float]], runs: dict[str, list[Ran]]) -> dict[str, Any]:
    """Times of all blocks, speed-ups within a round, and the cost of a hand-over by phase."""
    in_place, one_agent, two_agents = "in place, one at a time", "one agent", "two agents"
    handed = {
        way: [phases for ran in runs[way] for phases in ran.phases.values()]
        for way in (one_agent, two_agents)
    }

    def per_stage(way: str) -> list[float]:
        """The time of each round on agents beyond the stages' own work, per stage of one agent."""
        share = len(AGENTS[WAYS[way][0]]) / len(runs[way][0].phases)
        return [
            (
                ran.seconds
                - sum(each["worked"] for each in ran.phases.values()) / len(AGENTS[WAYS[way][0]])
            )
            * share
            for ran in runs[way]
        ]

    return {
        "rounds": len(took[one_agent]),
        "seconds": {name: measure.Spread.of(values).plain() for name, values in took.items()},
        "measured": took,
        "speed_up": {
            "two agents over one": measure.ratio(took[one_agent], took[two_agents]).plain(),
            "two over one in place": measure.ratio(
                took[in_place], took["in place, two at a time"]
            ).plain(),
            "one agent over in place": measure.ratio(took[in_place], took[one_agent]).plain(),
        },
        "stage": {name: measure.Spread.of(_all(runs[name])).plain() for name in WAYS},
        "phases": {
            way: {
                name: measure.Spread.of([each[name] for each in found]).plain() for name in PHASES
            }
            for way, found in handed.items()
        },
        "beyond_work": {
            way: measure.Spread.of(per_stage(way)).plain() for way in (one_agent, two_agents)
        },
    }


def _all(rounds: list[Ran]) -> list[float]:
    return [seconds for ran in rounds for seconds in ran.stages.values()]


def text(results: dict[str, Any]) -> str:
    """The tables for the page."""
    seconds, phases = results["seconds"], results["phases"]
    ways = [[name, f"{_told(spread)} s"] for name, spread in seconds.items()]
    ratios = [[name, f"{_told(spread, 2)} ×"] for name, spread in results["speed_up"].items()]
    parts = [
        [told, *(f"{_told(one[name])} s" for one in phases.values())]
        for name, told in PHASES.items()
    ]
    cost = results["beyond_work"]
    return "\n\n".join(
        [
            f"{results['stages']} stages of {results['models']} models on the digits, "
            f"{results['epochs']} epochs; medians "
            f"of {results['rounds']} rounds with the least and the greatest.",
            measure.table(["", "all stages"], ways),
            measure.table(["within a round", "faster"], ratios),
            measure.table(["a stage that is handed out", *phases], parts),
            f"Beyond the stages' own work an agent spends {_told(cost['one agent'])} s per stage "
            f"where it is alone, and {_told(cost['two agents'])} s where there are two.",
        ]
    )


def _told(spread: dict[str, float], digits: int = 1) -> str:
    return (
        f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f} to {spread['high']:.{digits}f})"
    )


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _environment(api: str) -> dict[str, str]:
    """The environment of the caller and its agents; the project is found whether or not it is
    installed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "PREFECT_API_URL": api,
    }
    return {
        **environment,
        "ERASURE_AUDIT_AGENT_SILENCE": "900",
    }  # a machine that is busy otherwise is not dead


if __name__ == "__main__":
    stage_cli.run(main)
