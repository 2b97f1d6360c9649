"""What more machines bring: the simulation keeps to what is known of schedules, and the benchmarks
run."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from benchmarks import growth_batches, past, simulation, stand_in, workers
from benchmarks.measure import Spent, Spread
from benchmarks.simulation import Batch, Handover, Task, Times, simulate
from flows.erasure import git_history
from flows.intake import pseudonymise
from flows.register.anchors import heads
from flows.register.register import State, opened
from flows.workspace import checkouts, dvc_graph, shell
from tasks.common import files
from tasks.common.errors import WorkspaceError
from tests.worlds import dummy

TIMES = Times(
    coordinator={
        "pack": 1,
        "check": 1,
        "split": 1,
        "resolve": 1,
        "score": 4,
        "verify": 1,
        "propose": 1,
        "report": 3,
    },
    each={"report": 0.5},
    agents={"unlearn": 5, "probe": 4},
    block_start=2,
    block_model=1,
    handover=Handover(sent=1, agent=6, restored=2),
)


@st.composite
def works(draw: st.DrawFn) -> list[Task]:
    """Tasks of one place, each after some of those before it."""
    lengths = draw(st.lists(st.integers(0, 20), min_size=1, max_size=12))
    return [
        Task(
            str(number),
            length,
            "here",
            tuple(map(str, draw(st.sets(st.integers(0, number - 1))) if number else ())),
        )
        for number, length in enumerate(lengths)
    ]


@given(works())
def test_one_server_takes_the_sum_and_servers_without_end_the_critical_path(
    tasks: list[Task],
) -> None:
    assert simulate(tasks, {"here": 1}).seconds == sum(task.seconds for task in tasks)
    longest: dict[str, float] = {}
    for task in tasks:
        longest[task.name] = task.seconds + max((longest[name] for name in task.after), default=0)
    assert simulation.critical_path(tasks) == max(longest.values())


@given(works(), st.integers(1, 5))
def test_a_schedule_is_never_shorter_than_either_bound_nor_longer_than_grahams(
    tasks: list[Task], number: int
) -> None:
    work, path = sum(task.seconds for task in tasks), simulation.critical_path(tasks)
    played = simulate(tasks, {"here": number})
    assert max(work / number, path) - 1e-9 <= played.seconds <= (work - path) / number + path + 1e-9
    assert played.busy["here"] == work


@given(works(), st.integers(1, 5))
def test_nothing_begins_before_what_it_is_after_nor_on_more_servers_than_there_are(
    tasks: list[Task], number: int
) -> None:
    spans = simulate(tasks, {"here": number}).spans
    assert spans.keys() == {task.name for task in tasks}
    for task in tasks:
        assert all(spans[before][1] <= spans[task.name][0] for before in task.after)
    for moment in {begin for begin, _ in spans.values()}:
        assert sum(begin <= moment < end for begin, end in spans.values()) <= number


def test_tasks_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(WorkspaceError, match="can never begin: a, b"):
        simulate([Task("a", 1, "here", ("b",)), Task("b", 1, "here", ("a",))], {"here": 1})


def test_a_batch_has_the_stages_of_the_pipeline_and_carried_references_are_not_trained() -> None:
    pipeline = YAML(typ="safe").load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    del pipeline["pool"]  # its blocks are empty: no batch runs it
    del pipeline["climb"]  # the ladder has no further rungs
    fresh, carried = (
        simulation.tasks_of(Batch(3, carried=carried), TIMES) for carried in (False, True)
    )
    assert {task.name for task in fresh if task.place == simulation.AGENTS} - {
        task.name for task in carried
    } == {
        "train@0 at work",
        "train@1 at work",
    }
    assert {task.name.partition(" ")[0].partition("@")[0] for task in fresh} == set(pipeline)
    away = {
        task.name.partition(" ")[0].partition("@")[0]
        for task in fresh
        if task.place == simulation.AGENTS
    }
    assert away == {name for name, one in pipeline.items() if "agent" in one.get("meta", {})}


def test_the_last_block_holds_what_is_left() -> None:
    tasks = {
        task.name: task for task in simulation.tasks_of(Batch(1, models=10, per_block=8), TIMES)
    }
    assert tasks["retrain@1 at work"].seconds == TIMES.handover.agent + TIMES.block(2)


def test_more_agents_never_make_a_batch_slower_here_and_more_requests_never_faster() -> None:
    for requests, carried in itertools.product((1, 100), (True, False)):
        tasks = simulation.tasks_of(Batch(requests, carried=carried), TIMES)
        seconds = [simulate(tasks, simulation.servers(agents)).seconds for agents in (1, 2, 4, 64)]
        assert seconds == sorted(seconds, reverse=True)
    few, many = (
        simulate(simulation.tasks_of(Batch(n), TIMES), simulation.servers(2)).seconds
        for n in (10, 110)
    )
    assert many - few == pytest.approx(100 * TIMES.each["report"] / simulation.CORES)


def test_a_slow_store_bounds_the_batch_however_many_agents_there_are() -> None:
    slow = replace(TIMES, handover=replace(TIMES.handover, stored=1000.0))
    tasks = simulation.tasks_of(Batch(1), slow)
    assert simulate(tasks, simulation.servers(64)).seconds >= 4 * 1000


def test_saturation_is_where_twice_as_many_save_less_than_a_tenth() -> None:
    rows = [
        {"requests": 10, "agents": n, "seconds": s}
        for n, s in ((1, 100), (2, 60), (4, 56), (8, 20))
    ]
    assert simulation.saturated(rows, 10) == 2


def test_phases_of_hand_overs_become_times_and_a_table() -> None:
    phases = dict.fromkeys(workers.PHASES, 1.0)
    rounds = [
        workers.Ran(
            40.0, {"train@0": 20.0, "train@1": 40.0}, {"train@0": phases, "train@1": phases}
        )
    ] * 3
    taken = {
        name: rounds if pool else [replace(ran, phases={}) for ran in rounds]
        for name, (pool, _) in workers.WAYS.items()
    }
    result = {
        "models": 1,
        "stages": 2,
        "epochs": 1,
        **workers.figures({name: [40.0] * 3 for name in workers.WAYS}, taken),
    }
    assert result["speed_up"]["two agents over one"] == Spread(1.0, 1.0, 1.0, 3).plain()
    assert result["beyond_work"]["one agent"]["median"] == (40 - 2) / 2
    assert result["beyond_work"]["two agents"]["median"] == 40 - 1
    assert "two agents over one | 1.00 (1.00 to 1.00) ×" in workers.text(result)
    one, two = simulation.validated(result)
    assert (one["simulated"], two["simulated"]) == (1 + 5 + 5 + 1, 1 + 1 + 5 + 1)


def test_an_hour_of_training_is_written_as_an_assumption() -> None:
    rows = simulation.swept(TIMES, 8)
    text = simulation.text(
        {
            "assumed": {"hours": 2.0, "data_gb": 10.0, "store_mb_s": 100.0},
            "rounds": 5,
            "measured": rows,
            "large": {"8": rows},
            "validated": [{"agents": 1, "simulated": 9.0, "measured": 10.0, "error": -0.1}],
        }
    )
    assert "**2 h on a GPU (assumed)**" in text
    assert "| 1 | 9 s | 10 s | -10% |" in text


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A workspace that has closed one batch of one request, whose model is kept and whose list of
    records is gone."""
    home = dummy.make(tmp_path / "home")
    files.write_text(home / ".gitignore", f"{(home / '.gitignore').read_text()}/.register\n/keys\n")
    day = "2026-11-21"
    with opened(home) as register:
        request = {**stand_in.request(0), "status_callback_urls": []}
        (case, _) = register.receive(pseudonymise.take_in(home, request), "test", "drop")
        for state in past.WAY:
            batch = day if state is State.BATCHED else None
            verdicts = {case.request_id: "pass"} if state is State.AUDITED else None
            register.move([case.request_id], state, "test", batch=batch, verdicts=verdicts)
        register.note("decision", "officer", batch=day, decision="approve")
    kept = home / "releases" / day
    files.write_text(kept / "model.txt", "weights")
    shell.dvc(home, "add", "--quiet", str(kept.relative_to(home)))
    out = {"path": "artifacts/check.txt", "hash": "md5", "md5": "0" * 32, "size": 1}
    lock = {"schema": "2.0", "stages": {"check": {"cmd": "true", "outs": [out]}}}
    contents = {
        "audit": {
            "dvc.lock": json.dumps(lock),
            f"reports/{day}/index.html": f"batch {day}, {case.request_id}",
        },
        "release": {
            f"ledger/releases/{day}.json": json.dumps({"batch": day, "at": f"{day}T10:00:00Z"})
        },
        "erased": {f"ledger/erasures/{day}.json": "{}"},
    }
    for step, changed in contents.items():
        for path, text in changed.items():
            files.write_text(home / path, text)
        shell.git(home, "add", ".", *([] if step == "release" else [":!releases"]))
        shell.git(home, "commit", "--quiet", "-m", step)
        shell.git(home, "tag", "--annotate", "-m", step, f"{step}/{day}")
    return home


def test_past_batches_have_their_own_tags_objects_and_events_and_leave_the_state_at_hand(
    closed: Path,
) -> None:
    before = {
        path: (closed / path).read_bytes() for path in ("dvc.lock", "params.yaml", "data.dvc")
    }
    past.add(closed, 3)
    assert shell.git(closed, "status", "--porcelain") == ""
    assert {path: (closed / path).read_bytes() for path in before} == before
    tags = shell.git(closed, "tag", "--list").split()
    names = [f"2026-11-{day}" for day in (18, 19, 20, 21)]
    assert sorted(tags) == sorted(f"{step}/{name}" for step in past.STEPS for name in names)
    result = {name: state for state in git_history.states(closed, None) for name in state.names}
    models = [result[f"release/{name}"].pointers[f"releases/{name}"] for name in names]
    gone = [result[f"audit/{name}"].stages["check"]["outs"][0]["md5"] for name in names]
    assert len(set(models)) == len(set(gone)) == 4
    assert "releases" not in " ".join(dvc_graph.stale(closed))
    with opened(closed) as register:
        assert register.check_chain(heads(closed)).seq == len(register.history())
        assert {case.batch for case in register.cases([State.CLOSED])} == set(names)
        assert len(register.history(kind="decision")) == 4
    page = (closed / "reports" / names[0] / "index.html").read_text()
    assert page.startswith(f"batch {names[0]}, ")
    assert (
        page.split()[-1] != (closed / "reports" / names[-1] / "index.html").read_text().split()[-1]
    )


def test_without_a_closed_batch_there_is_nothing_to_take_twins_of(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no batch was closed here"):
        past.add(dummy.make(tmp_path / "home"), 1)


def test_what_grows_is_told_with_the_ratio_of_the_most_to_the_fewest() -> None:
    spent = {number: [Spent(2.0 * number, 1.0 * number, 100.0)] * 3 for number in (1, 10)}
    result = growth_batches.figures({"status": spent})
    assert result["commands"]["status"]["ratio"]["cpu"] == Spread(10.0, 10.0, 10.0, 3).plain()
    assert "| `status` | 1.0 | 10.0 | 10.00 (10.00 to 10.00) | 100 → 100 |" in growth_batches.text(
        result
    )


def test_a_batchs_checkout_has_all_that_past_batches_released_from_one_process(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.add(closed, 2)
    given: list[tuple[str, ...]] = []
    dvc = shell.dvc

    def noting(folder: Path, *words: str) -> str:
        given.append(words)
        return dvc(folder, *words)

    monkeypatch.setattr(shell, "dvc", noting)
    workspace = checkouts.open(closed, "next")
    names = [f"releases/2026-11-{day}" for day in (19, 20, 21)]
    assert all((workspace / name / "model.txt").read_text().strip() == "weights" for name in names)
    brought = [
        words
        for words in given
        if "data.dvc" in words or any(f"{name}.dvc" in words for name in names)
    ]
    assert brought == [("checkout", "--force", "data.dvc", *(f"{name}.dvc" for name in names))]


def test_what_a_past_batch_released_and_nobody_has_any_more_is_named_and_the_rest_is_brought(
    closed: Path,
) -> None:
    pointer = git_history.current_state(closed).pointers["releases/2026-11-21"]
    shutil.rmtree(closed / ".dvc" / "cache" / "files" / "md5" / pointer[:2])
    with pytest.raises(
        WorkspaceError, match=r"releases/2026-11-21\.dvc: its content is neither in DVC's cache"
    ):
        checkouts.open(closed, "next")
    assert (closed / ".batches" / "next" / "data").is_dir()
