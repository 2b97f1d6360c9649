"""What a person and a program see of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.pipeline import console
from flows.pipeline.stage_runner import StageEvent

STAGES = ("check", "train@0", "train@1")


def planned(progress: console.Progress) -> None:
    for stage in STAGES:
        progress.take(StageEvent(stage, "planned"))


def test_progress_counts_the_stages_that_ended_and_says_how_long_the_rest_takes() -> None:
    progress = console.Progress({"check": 10.0, "train@0": 300.0})
    planned(progress)
    assert progress.seconds_left == pytest.approx(
        10 + 300 + 300
    )  # train@1 is taken to be like train@0
    assert progress.summary == "0 of 3 stages, about 10 min left"
    progress.take(StageEvent("check", "ran", "", 20.0))
    progress.take(StageEvent("train@0", "restored", "", 1.0))
    assert (progress.finished, progress.total) == (2, 3)
    assert progress.summary == "2 of 3 stages, about 5 min left"
    progress.take(StageEvent("train@1", "unchanged"))
    assert progress.summary == "3 of 3 stages"
    assert progress.seconds() == {"check": 20.0, "train@0": 300.0}  # restoring is no measurement


def test_no_time_is_named_while_a_stage_was_never_timed() -> None:
    progress = console.Progress({"check": 10.0})
    planned(progress)
    assert progress.seconds_left is None
    assert progress.summary == "0 of 3 stages"


def test_without_a_terminal_there_is_one_line_per_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress(tmp_path) as listener:
        for event in events():
            listener(event)
    assert capsys.readouterr().err.splitlines() == [
        "check: done (2.0 s); 1 of 2 stages",
        "train@0: failed no room (3.0 s); 2 of 2 stages",
    ]
    with console.progress(tmp_path) as listener:  # the times are known the next time
        listener(StageEvent("check", "planned"))
    assert json.loads((tmp_path / console.SECONDS).read_text()) == {"check": 2.0}


def test_a_program_gets_an_object_per_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress(tmp_path, as_json=True) as listener:
        for event in events():
            listener(event)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["stage"]) for line in lines] == [
        (event.kind, event.stage) for event in events()
    ]
    assert [(line["done"], line["total"]) for line in lines][-1] == (2, 2)
    assert lines[3]["text"] == "step 1 of 3"


def events() -> list[StageEvent]:
    return [
        StageEvent("check", "planned"),
        StageEvent("train@0", "planned"),
        StageEvent("check", "started"),
        StageEvent("check", "line", "step 1 of 3", 0.1),
        StageEvent("check", "ran", "", 2.0),
        StageEvent("train@0", "started"),
        StageEvent("train@0", "failed", "no room", 3.0),
    ]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (21, "21 files")]
)
def test_numbers_and_nouns_agree(number: int, text: str) -> None:
    assert console.counted(number, "file") == text


def test_an_irregular_plural_is_given() -> None:
    assert console.counted(2, "batch", "batches") == "2 batches"
    assert console.counted(1, "batch", "batches") == "1 batch"
