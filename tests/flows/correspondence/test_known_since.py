"""What is recorded after a batch was erased is found, and its reports are made again with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.correspondence import known_since, letters_sent
from flows.operations import monitoring
from flows.pipeline import reproduce
from flows.register.register import Register, State
from flows.release import approval, finishing
from flows.workspace import shell
from tasks.common import settings
from tests.worlds import signed_off
from tests.worlds.signed_off import BATCH, OTHER, PASS


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed batch of two requests; its copies are called erased."""
    home = signed_off.make(tmp_path_factory.mktemp("known") / "home", {PASS: "pass", OTHER: "pass"})
    with closing(Register(home)) as register:
        approval.approve(home, register, BATCH, "Ada Okafor", "the reports are read")
        finishing.finalize(home, register)
        register.move([PASS, OTHER], State.ERASED, "erasure")
        shell.git(home, "tag", "--annotate", "-m", "erased", f"erased/{BATCH}")
        assert finishing.finalize(home, register).done == (f"batch {BATCH} closed",)
    return home


@pytest.fixture
def home(erased: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = signed_off.copy(erased, tmp_path / "home")
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    with closing(Register(home)) as register:
        yield register


def told(home: Path, register: Register, days: int) -> tuple[list[str], list[str]]:
    """What the watch says so many days before the letters' last day: of deadlines, of the rest."""
    (due,) = {letter.due for letter in letters_sent.due(home, register)} or {None}
    assert due is not None
    moment = datetime.fromisoformat(f"{due}T07:00:00Z") - timedelta(days=days)
    watched = monitoring.run(home, register, now=moment)
    return list(watched.deadlines), [text for text in watched.stuck if "report" in text]


def test_the_watch_tells_of_a_letter_that_nobody_sent_before_its_last_day_and_once_when_it_is_over(
    home: Path, register: Register
) -> None:
    assert told(home, register, 20)[0] == []
    texts, _ = told(home, register, 7)
    assert len(texts) == 2
    assert all("(answer) is not recorded as sent; 7 days left" in text for text in texts)
    assert told(home, register, 6)[0] == []
    letters_sent.sent(home, register, [PASS], "Ada Clerk", "registered post")
    (text,), _ = told(home, register, 1)
    assert OTHER in text
    assert "1 day left" in text
    (text,), _ = told(home, register, -1)
    assert "1 day over" in text
    assert told(home, register, -2)[0] == []


def test_what_is_recorded_after_the_erasure_is_found_and_comes_into_the_reports_by_renewing(
    home: Path, register: Register
) -> None:
    assert known_since.behind(home, register) == {}
    letters_sent.sent(home, register, [PASS], "Ada Clerk", "registered post")
    _, (text,) = told(home, register, 20)
    assert f"erasure-audit letters renew {BATCH}" in text
    assert told(home, register, 19)[1] == []  # told once
    before = shell.git(home, "rev-parse", "HEAD")

    assert known_since.renew(home, register, BATCH)

    evidence = json.loads((home / f"reports/{BATCH}/{PASS}/evidence.json").read_text())
    (letter,) = evidence["letters"]
    assert (letter["by"], letter["how"]) == ("Ada Clerk", "registered post")
    committed = shell.git(home, "diff", "--name-only", before, "HEAD").split()
    assert f"reports/{BATCH}/{PASS}/evidence.json" in committed
    assert f"ledger/decisions/{BATCH}.json" in committed
    assert f"reports/{BATCH}/{OTHER}/evidence.json" not in committed
    assert shell.git(home, "status", "--porcelain") == ""
    assert reproduce.reproduce(home, BATCH, "integrity").different == []
    assert known_since.behind(home, register) == {}
    assert not known_since.renew(home, register, BATCH)
    assert shell.git(home, "rev-list", "--count", f"{before}..HEAD") == "1"
    path = home / f"reports/{BATCH}/{PASS}/report.html"
    path.write_text("<p>pass, of course")
    (found,) = reproduce.reproduce(home, BATCH, "integrity").different
    assert f"reports/{BATCH} in this checkout" in found


def test_a_renewal_that_was_killed_is_continued(home: Path, register: Register) -> None:
    letters_sent.sent(home, register, [PASS], "Ada Clerk", "registered post")
    assert known_since.renew(home, register, BATCH)
    shell.git(home, "tag", "--delete", f"renewed/{BATCH}/1")  # as if killed before the last step
    assert known_since.renew(home, register, BATCH)
    assert not known_since.renew(home, register, BATCH)
    assert reproduce.reproduce(home, BATCH, "integrity").different == []


def test_a_party_that_the_settings_name_only_since_then_keeps_no_report_from_being_renewed(
    home: Path, register: Register
) -> None:
    party = '[{name: "Example Analytics", disclosed: "pictures"}]'
    settings.assign(home / "params.yaml", [f"report.recipients={party}"])
    known_since.record_notice(home, register, BATCH, "Ada Clerk", "Example Analytics")
    assert known_since.behind(home, register) == {}
    letters_sent.sent(home, register, [PASS], "Ada Clerk", "registered post")
    assert known_since.renew(home, register, BATCH)


def test_status_names_letters_that_wait_and_reports_that_are_behind_and_nothing_else_then(
    home: Path, register: Register
) -> None:
    def status() -> str:
        done = CliRunner().invoke(app, ["status"])
        assert done.exit_code == 0, done.output
        return done.stdout

    due = letters_sent.due(home, register)[0].due
    assert f"2 letters not recorded as sent, the first due {due}" in status()
    letters_sent.sent(home, register, [PASS], "Ada Clerk", "registered post")
    assert "1 letter not recorded as sent" in status()
    assert f"erasure-audit letters renew {BATCH}" in status()
    letters_sent.sent(home, register, [OTHER], "Ada Clerk", "registered post")
    done = CliRunner().invoke(app, ["letters", "renew", BATCH])
    assert done.stdout == f"Reports of batch {BATCH}: made again\n"
    assert "letter" not in status()
