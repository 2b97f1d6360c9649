"""Simulate more agents and more requests: a batch as events with measured times.

The graph is that of `dvc.yaml`, stage for stage. A stage for agents is sent, waits for a free
agent, is fetched from the store, runs, and is brought back; what is left runs on the coordinator.
Whoever is free takes what was ready first.

Example: python -m benchmarks.simulation --hours 1
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from benchmarks import measure
from flows.workspace import environment, shell
from tasks.common import files, stage_cli
from tasks.common.errors import WorkspaceError

COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of agents."""
REQUESTS = (10, 100, 1000, 10_000)
"""Requests a day, all of them in the night's batch."""
TIMES = measure.RESULTS / "stage-times.json"
WORKERS = measure.RESULTS / "workers.json"
AGENTS, COORDINATOR, STORE, MAIL = "agents", "coordinator", "store", "mail"
"""Where something takes place; `mail` is the caller's sending, one stage at a time."""
CORES = 2
"""Of the coordinator; reports are made by all of them."""
GAIN = 0.1
"""Share of the time that twice as many agents have to save to be worth it."""


@dataclass(frozen=True)
class Task:
    """Something that takes some seconds at a place, after others."""

    name: str
    seconds: float
    place: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """When each task began and ended, s, and how long each place was busy, all of its servers
    together, s."""

    spans: dict[str, tuple[float, float]]
    busy: dict[str, float]

    @property
    def seconds(self) -> float:
        """Until the last task has ended."""
        return max((end for _, end in self.spans.values()), default=0.0)


def simulate(tasks: Sequence[Task], servers: Mapping[str, int]) -> Schedule:
    """Play tasks: a free server of a place takes the task that was ready first, among those the one
    named first.

    Args:
        tasks: each after those that it names, in any order; no task is after itself.
        servers: how many there are of each place, at least 1.

    Raises:
        WorkspaceError: a task is after one that does not exist, or after itself.
    """
    order = {task.name: number for number, task in enumerate(tasks)}
    missing = {name: set(task.after) for task in tasks for name in [task.name]}
    ready: dict[str, list[tuple[float, int]]] = {task.place: [] for task in tasks}
    free, busy = dict(servers), dict.fromkeys(servers, 0.0)
    running: list[tuple[float, int]] = []
    spans: dict[str, tuple[float, float]] = {}
    now = 0.0
    for number, task in enumerate(tasks):
        if not task.after:
            heapq.heappush(ready[task.place], (now, number))
    while True:
        for machine, waiting in ready.items():
            while waiting and free[machine]:
                number = heapq.heappop(waiting)[1]
                task = tasks[number]
                free[machine] -= 1
                busy[machine] += task.seconds
                spans[task.name] = (now, now + task.seconds)
                heapq.heappush(running, (now + task.seconds, number))
        if not running:
            break
        now, number = heapq.heappop(running)
        ended = tasks[number]
        free[ended.place] += 1
        for name, before in missing.items():
            if ended.name in before:
                before.discard(ended.name)
                if not before:
                    heapq.heappush(ready[tasks[order[name]].place], (now, order[name]))
    if len(spans) != len(tasks):
        raise WorkspaceError(
            f"tasks that can never begin: {', '.join(sorted(order.keys() - spans.keys()))}"
        )
    return Schedule(spans, busy)


def critical_path(tasks: Sequence[Task]) -> float:
    """How long the tasks take with servers without end, s."""
    return simulate(tasks, {task.place: len(tasks) for task in tasks}).seconds


@dataclass(frozen=True)
class Handover:
    """The cost of handing a stage to an agent, s.

    Attributes:
        sent: that the caller spends before an agent can take the stage.
        agent: that an agent is busy with it beyond the stage itself.
        restored: until the caller has the results.
        stored: of the store, to give and take the stage's objects.
    """

    sent: float
    agent: float
    restored: float
    stored: float = 0.0

    @classmethod
    def of(cls, agents: Mapping[str, Any]) -> Handover:
        """From measurements with one agent; its own store's time is part of the agent's."""
        phases = {name: spread["median"] for name, spread in agents["phases"]["one agent"].items()}
        busy = sum(phases[name] for name in ("queued", "started", "fetched", "returned"))
        return cls(phases["sent"], busy, phases["restored"])


@dataclass(frozen=True)
class Times:
    """The duration of each kind of work, s.

    Attributes:
        coordinator: of each stage that runs there, once per batch.
        each: likewise, per request.
        agents: of the stages for agents other than the blocks.
        block_start: of a block, whatever its number of models.
        block_model: of each model of a block.
        handover: of a stage to an agent.
    """

    coordinator: Mapping[str, float]
    each: Mapping[str, float]
    agents: Mapping[str, float]
    block_start: float
    block_model: float
    handover: Handover

    def block(self, models: int) -> float:
        """A block of models."""
        return self.block_start + models * self.block_model


@dataclass(frozen=True)
class Batch:
    """A night's batch: its requests, the models trained without them, models per block, and which
    references it has."""

    requests: int
    models: int = 16
    per_block: int = 8
    carried: bool = True


def tasks_of(batch: Batch, times: Times) -> list[Task]:
    """The batch's stages, as `dvc.yaml` has them."""
    blocks = -(-batch.models // batch.per_block)
    sizes = [
        min(batch.per_block, batch.models - number * batch.per_block) for number in range(blocks)
    ]
    tasks: list[Task] = []

    def here(name: str, *after: str) -> None:
        cores = CORES if name == "report" else 1
        seconds = times.coordinator[name] + batch.requests * times.each.get(name, 0.0) / cores
        tasks.append(Task(name, seconds, COORDINATOR, after))

    def away(name: str, seconds: float, *after: str) -> None:
        tasks.extend(handed_out(name, seconds, times.handover, after))

    here("pack")
    here("check", "pack")
    here("split", "check")
    here("resolve", "split")
    retrained = [f"retrain@{number}" for number in range(blocks)]
    trained = [] if batch.carried else [f"train@{number}" for number in range(blocks)]
    for names, before in ((trained, "split"), (retrained, "resolve")):
        for name, size in zip(names, sizes, strict=False):
            away(name, times.block(size), before)
    away("unlearn", times.agents["unlearn"], "resolve", *trained[:1])
    away("probe", times.agents["probe"], "unlearn", *retrained)
    here("score", "unlearn", *trained, *retrained)
    here("verify", "score")
    here("propose", "verify")
    here("report", "propose", "probe")
    return tasks


def handed_out(name: str, seconds: float, over: Handover, after: Sequence[str] = ()) -> list[Task]:
    """A stage that an agent runs; the last task has the stage's name."""
    parts = [
        (f"{name} sent", over.sent, MAIL),
        (f"{name} stored", over.stored, STORE),
        (f"{name} at work", over.agent + seconds, AGENTS),
        (name, over.restored, COORDINATOR),
    ]
    names = [part for part, _, _ in parts]
    before = [tuple(after), *((one,) for one, _ in pairwise(names))]
    return [Task(*part, ahead) for part, ahead in zip(parts, before, strict=True)]


def servers(agents: int, cores: int = CORES) -> dict[str, int]:
    """How many of each place there are."""
    return {AGENTS: agents, COORDINATOR: cores, STORE: 1, MAIL: 1}


def main(
    hours: float = 1.0,
    rounds: int = 0,
    data: float = 10.0,
    throughput: float = 100.0,
    times: Path = TIMES,
    workers: Path = WORKERS,
    page: Path = measure.PAGE,
    out: Path = measure.RESULTS,
) -> None:
    """Play batches and write benchmarks/results/simulation.json and the tables of
    docs/performance.md.

    Args:
        hours: assumed training of one model on a GPU, h, beside the measured times.
        rounds: measure the stages' times anew so many times before; 0: take those that were
            measured.
        data: assumed size of the data beside these hours, GB.
        throughput: assumed of the store, MB/s.
        times: measured times of the stages.
        workers: measured times of agents.
        page: has the marks `simulation`.
        out: folder for the figures.
    """
    if rounds:
        files.write_json(times, measured(rounds))
    stage_times, agents = files.read_json(times), files.read_json(workers)
    small = of_measured(stage_times, agents)
    unlearning = {**small.agents, "unlearn": 360 * hours}
    slower = replace(small.handover, stored=1000 * data / throughput)
    large = replace(small, block_model=3600 * hours, agents=unlearning, handover=slower)
    results = {
        "assumed": {"hours": hours, "data_gb": data, "store_mb_s": throughput},
        "rounds": stage_times["rounds"],
        "measured": swept(small, 8),
        "large": {str(size): swept(large, size) for size in (8, 1)},
        "validated": validated(agents),
    }
    measure.write(
        "simulation",
        f"python -m benchmarks.simulation --hours {hours:g}",
        results,
        text(results),
        page,
        out,
    )


def swept(times: Times, per_block: int) -> list[dict[str, Any]]:
    """Batches of all sizes on all numbers of agents."""
    rows = []
    for requests in REQUESTS:
        tasks = tasks_of(Batch(requests, per_block=per_block), times)
        for agents in COUNTS:
            played = simulate(tasks, servers(agents))
            rows.append(
                {
                    "requests": requests,
                    "agents": agents,
                    "seconds": round(played.seconds, 1),
                    "utilisation": round(played.busy[AGENTS] / (agents * played.seconds), 4),
                    "store": round(played.busy[STORE] / played.seconds, 4),
                    "reports": round(
                        (played.spans["report"][1] - played.spans["report"][0]) / played.seconds, 4
                    ),
                    "critical_path": round(critical_path(tasks), 1),
                }
            )
    return rows


def saturated(rows: Sequence[Mapping[str, Any]], requests: int) -> int:
    """From how many agents on twice as many save less than a tenth of the time."""
    seconds: dict[int, float] = {
        row["agents"]: row["seconds"] for row in rows if row["requests"] == requests
    }
    for fewer, more in pairwise(sorted(seconds)):
        if seconds[more] > (1 - GAIN) * seconds[fewer]:
            return fewer
    return max(seconds)


def of_measured(figures: Mapping[str, Any], agents: Mapping[str, Any]) -> Times:
    """Times from measurements of local stages and of hand-overs to one agent."""
    few, many = figures["stages"]["few"], figures["stages"]["many"]
    more = figures["requests"]["many"] - figures["requests"]["few"]
    each = {name: max(0.0, (many[name]["median"] - few[name]["median"]) / more) for name in few}
    fixed = {name: few[name]["median"] - figures["requests"]["few"] * each[name] for name in few}
    small, large = (figures["blocks"][str(size)]["median"] for size in (1, figures["models"]))
    per_model = (large - small) / (figures["models"] - 1)
    return Times(
        coordinator={name: seconds for name, seconds in fixed.items() if name not in AWAY},
        each={name: seconds for name, seconds in each.items() if name not in AWAY},
        agents={name: fixed[name] for name in AWAY},
        block_start=small - per_model,
        block_model=per_model,
        handover=Handover.of(agents),
    )


AWAY = ("unlearn", "probe")


def validated(agents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The simulation beside the measurement; it uses times of hand-overs to one agent only."""
    worked, over = agents["phases"]["one agent"]["worked"]["median"], Handover.of(agents)
    tasks = [
        task
        for number in range(agents["stages"])
        for task in handed_out(f"block {number}", worked, over)
    ]
    rows = []
    for name, number in (("one agent", 1), ("two agents", 2)):
        played = simulate(tasks, servers(number)).seconds
        real = agents["seconds"][name]["median"]
        rows.append(
            {"agents": number, "simulated": played, "measured": real, "error": played / real - 1}
        )
    return rows


def measured(rounds: int, models: int = 8) -> dict[str, Any]:
    """The stages' times in place on the digits, s: processor time with DVC and Python, of one
    thread.

    Processor time, because a stage that waits for nothing takes as long on a core of its own, and
    because what else the machine does is not in it.

    Args:
        rounds: how often each is measured.
        models: per block, beside blocks of one model.
    """
    from benchmarks import workers
    from flows.pipeline import provenance, stage_runner
    from flows.workspace import dvc_graph, layout
    from tasks.common import settings
    from tasks.data import records

    batch_sizes = {"few": 2, "many": 10}
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        workspace = workers.caller(Path(folder) / "caller", models, 1, 12)
        manifest = records.read_manifest(workspace / "data")
        roles = records.read_roles(workspace / "artifacts" / "split.csv", manifest)
        people = sorted(set(manifest["subject_id"][roles == "training"]))
        results: dict[str, dict[str, Any]] = {}
        for batch, number in batch_sizes.items():
            files.write_json(workspace / "requests" / f"{batch}.json", _requests(people[:number]))
            chosen, _ = layout.prepare(workspace, batch, [])
            provenance.write(workspace, chosen)
            names = [each.name for each in dvc_graph.read(workspace)]
            for name in names:
                stage_runner.Runner(workspace, 1).run(name)
            ways = {name: partial(_spent, workspace, name) for name in names if "@" not in name}
            results[batch] = _spreads(measure.in_turns(ways, rounds))

        def block(size: int) -> float:
            settings.assign(workspace / "params.yaml", [f"references.seeds_per_block={size}"])
            return _spent(workspace, "train@0")

        blocks = _spreads(
            measure.in_turns({str(size): partial(block, size) for size in (1, models)}, rounds)
        )
    return {
        "rounds": rounds,
        "models": models,
        "requests": batch_sizes,
        "stages": results,
        "blocks": blocks,
    }


def _spent(workspace: Path, name: str) -> float:
    """Processor time of a stage that is run again, s."""
    return measure.command(
        [*shell.DVC, "repro", "--single-item", "--force", name],
        workspace,
        environment.child(workspace),
    ).cpu


def _spreads(timings: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: measure.Spread.of(values).plain() for name, values in timings.items()}


def _requests(people: Sequence[str]) -> list[dict[str, Any]]:
    numbers = count(1)
    return [
        {
            "regulation": "gdpr",
            "subject_request_id": f"{next(numbers):08x}-0000-4000-8000-000000000000",
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-20T09:00:00Z",
            "api_version": "3.0",
            "subject_identities": [
                {
                    "identity_type": "controller_customer_id",
                    "identity_value": one,
                    "identity_format": "raw",
                }
            ],
        }
        for one in people
    ]


def text(results: Mapping[str, Any]) -> str:
    """The tables for the page."""
    assumed, rows = results["assumed"], results["validated"]
    checks = [
        [
            f"{row['agents']}",
            f"{row['simulated']:.0f} s",
            f"{row['measured']:.0f} s",
            f"{row['error']:+.0%}",
        ]
        for row in rows
    ]
    return "\n\n".join(
        [
            "The simulation beside the table above; it knows the hand-overs to one agent only.",
            measure.table(["agents", "simulated", "measured", "error"], checks),
            "A night's batch on the digits, 16 models without the forget set in blocks of 8, "
            "references carried over; a stage takes the processor time that it took in place, "
            f"median of {results['rounds']}:",
            _grid(results["measured"]),
            f"The same if training a model takes **{assumed['hours']:g} h on a GPU (assumed)**, "
            f"unlearning a tenth of it, and {assumed['data_gb']:g} GB of data come over a store of "
            f"{assumed['store_mb_s']:g} MB/s:",
            *(
                part
                for size, played in results["large"].items()
                for part in (
                    f"Blocks of {size}:" if size != "1" else "Every model a block of its own:",
                    _grid(played),
                )
            ),
        ]
    )


def _grid(rows: Sequence[Mapping[str, Any]]) -> str:
    """Turnaround and the agents' utilisation: a row per number of agents, a column per number of
    requests."""
    cells = {
        (row["agents"], row["requests"]): f"{_time(row['seconds'])}, {row['utilisation']:.0%}"
        for row in rows
    }
    lines: list[list[object]] = [
        [agents, *(cells[agents, number] for number in REQUESTS)] for agents in COUNTS
    ]
    lines.append(
        ["reports' share at 64", *(f"{_at(rows, number)['reports']:.0%}" for number in REQUESTS)]
    )
    lines.append(["enough agents", *(saturated(rows, number) for number in REQUESTS)])
    return measure.table(["agents", *(f"{number} requests" for number in REQUESTS)], lines)


def _at(rows: Sequence[Mapping[str, Any]], requests: int) -> Mapping[str, Any]:
    return next(row for row in rows if row["requests"] == requests and row["agents"] == COUNTS[-1])


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    stage_cli.run(main)
