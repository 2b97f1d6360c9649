"""Re-audit: the draw can be foretold, everybody's turn comes, and what does not hold is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.operations import audit_sampling, notices
from flows.pipeline import close_batch, provenance
from flows.register.register import Register
from flows.workspace import shell
from tasks.common import settings
from tasks.common.errors import ReproductionError
from tests.worlds import dummy


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = dummy.make(tmp_path_factory.mktemp("reaudit") / "workspace")
    (workspace / ".gitignore").write_text("/data\n/artifacts\n/.prefect\n/.register\n")
    provenance.write(workspace, settings.Settings())
    shell.dvc(workspace, "repro", "--quiet")
    close_batch.close(workspace, "demo")
    return workspace


@pytest.fixture
def home(closed: Path, tmp_path: Path) -> Path:
    return dummy.copy(closed, tmp_path / "workspace")


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    found = Register(home)
    yield found
    found.close()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(
        notices, "send", lambda home, title, body, key=None: found.append(f"{title}: {body}")
    )
    return found


def test_everybody_can_foretell_the_draw_and_each_audit_has_its_turn_before_one_has_its_second(
    home: Path, register: Register
) -> None:
    for name in ("a", "b", "c"):
        shell.git(home, "tag", f"audit/{name}")
    shell.git(home, "tag", "release/a")
    assert {audit_sampling.draw(home, register, "2026-11") for _ in range(3)} == {
        audit_sampling.draw(home, register, "2026-11")
    }
    months = [f"{year}-{month:02}" for year in (2026, 2027, 2028) for month in range(1, 13)]
    assert len({audit_sampling.draw(home, register, month) for month in months}) == 4
    drawn = []
    for month in months[:8]:
        drawn.append(audit_sampling.draw(home, register, month))
        register.note("reaudited", "reaudit", tag=drawn[-1])
    assert (
        sorted(map(str, drawn[:4]))
        == sorted(map(str, drawn[4:]))
        == ["audit/a", "audit/b", "audit/c", "audit/demo"]
    )


def test_an_audit_that_holds_is_executed_again_and_filed_and_nobody_is_bothered(
    home: Path, register: Register, messages: list[str]
) -> None:
    found = audit_sampling.run(home, register)
    assert (found.tag, found.level, found.holds, found.impossible) == (
        "audit/demo",
        "reexecute",
        True,
        {},
    )
    (event,) = register.history(batch="demo", kind="reaudited")
    assert (event.details["level"], event.details["holds"]) == ("reexecute", True)
    assert messages == []


def test_after_an_erasure_the_next_level_is_tried_and_that_is_no_news(
    home: Path, register: Register, messages: list[str]
) -> None:
    (home / "data" / "manifest.csv").unlink()
    cache = home / ".dvc" / "cache" / "files" / "md5"
    for path in cache.rglob("*"):
        if path.is_file() and path.read_bytes() == b"record_id\nr1\n":
            path.unlink()
    found = audit_sampling.run(home, register, "demo")
    assert (found.level, found.holds) == ("rederive", True)
    assert "reexecute" in found.impossible
    assert (
        "reexecute was not possible" in messages[0]
    )  # nothing was erased here, so somebody has to hear of it
    shell.git(home, "tag", "erased/demo")
    audit_sampling.run(home, register, "demo")
    assert len(messages) == 1


def test_an_audit_that_does_not_hold_is_told_and_filed(
    home: Path, register: Register, messages: list[str]
) -> None:
    shell.git(home, "config", "advice.detachedHead", "false")
    (home / "other-verdict").write_text("")
    (home / "other-machine").write_text("")
    shell.git(home, "add", "--force", "other-verdict", "other-machine")
    shell.git(home, "commit", "--quiet", "--all", "-m", "another machine")
    shell.git(home, "tag", "--force", "audit/demo")
    found = audit_sampling.run(home, register, "demo")
    assert (found.level, found.holds) == ("reexecute", False)
    assert "DOES NOT HOLD" in messages[0]
    assert register.history(kind="reaudited")[0].details["holds"] is False


def test_what_was_never_audited_is_an_error_and_without_any_audit_there_is_nothing_to_do(
    home: Path, register: Register
) -> None:
    with pytest.raises(ReproductionError, match="no tag audit/other"):
        audit_sampling.run(home, register, "other")
    shell.git(home, "tag", "--delete", "audit/demo")
    assert audit_sampling.run(home, register).text == "No audit is tagged yet."
    assert register.history(kind="reaudited") == []
