"""The commands `erasure-audit requests`, as people use them; none repeats an identity."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.requests import app
from flows.register import anchors, database, kept_end, register
from tasks.common import settings
from tasks.common.errors import AuditError
from tasks.requests import pseudonyms

ONE, TWO, THREE = (f"{number}c9e6679-7425-40de-944b-e07fc1f90ae{number}" for number in (1, 2, 3))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (database.URL, pseudonyms.KEY, "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(settings.defaults_yaml())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def opendsr(request: str, value: str = "ada@example.org", **changes: Any) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": request,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:30:00Z",
        "subject_identities": [
            {"identity_type": "email", "identity_value": value, "identity_format": "raw"}
        ],
    } | changes


def taken_in(*requests: str) -> None:
    Path("some.json").write_text(
        json.dumps([opendsr(one, f"{one}@example.org") for one in requests])
    )
    run("receive", "some.json")


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json", *arguments).stdout)
    return found


def test_a_list_is_taken_in_and_what_is_refused_is_named_by_its_place(home: Path) -> None:
    wrong = opendsr(THREE, "eve@example.org", regulation="hipaa")
    Path("some.json").write_text(json.dumps([opendsr(ONE), wrong, opendsr(TWO, "bob@example.org")]))
    done = run("receive", "some.json", "missing.json", code=1)
    assert done.stdout == "2 new, 0 known already, 2 refused\n"
    assert "entry 2: regulation: expected one of" in done.stderr
    assert "missing.json cannot be read" in done.stderr
    assert {line["request_id"] for line in listed()} == {ONE, TWO}
    kept = b"".join(path.read_bytes() for path in (home / ".register").iterdir())
    assert not any(
        name in kept or name.decode() in done.output
        for name in (b"ada@", b"eve@", b"bob@", b"hipaa")
    )
    assert run("receive", "some.json", code=1).stdout == "0 new, 2 known already, 1 refused\n"


def test_rows_of_a_csv_with_the_same_id_are_one_request() -> None:
    rows = [
        "subject_request_id,regulation,submitted_time,identity_type,identity_value,identity_format",
        f"{ONE},gdpr,2026-11-20T09:30:00Z,email,ada@example.org,raw",
        f"{ONE},gdpr,2026-11-20T09:30:00Z,phone,12345,raw",
        f"{TWO},gdpr,yesterday,email,bob@example.org,raw",
        f"{THREE},ccpa,2026-11-20T09:30:00Z,phone,12345,raw",
    ]
    Path("some.csv").write_text("\n".join(rows))
    done = run("receive", "some.csv", "--by", "Ada Clerk", code=1)
    assert done.stdout == "2 new, 0 known already, 1 refused\n"
    assert "entry 3: submitted_time" in done.stderr
    assert [line["duplicate_of"] for line in listed()] == [None, ONE]
    assert f"may be a duplicate of {ONE}" in run("list").stdout
    assert "by Ada Clerk" in run("show", ONE).stdout


def test_where_identities_are_checked_before_requests_come_in_verified(home: Path) -> None:
    settings.assign(
        home / "params.yaml", ["operate.identities=before", "report.identity_check=by login"]
    )
    taken_in(ONE)
    assert [line["state"] for line in listed()] == ["identity_verified"]


def test_a_request_is_verified_held_lifted_extended_and_rejected() -> None:
    taken_in(ONE, TWO)
    run("verify", ONE[:8], TWO, "--by", "Ada Clerk", "--how", "login")
    run("hold", ONE[:8], "--by", "Ada Clerk", "--reason", "claim 12/345")
    assert [line["request_id"] for line in listed("--state", "on_hold")] == [ONE]
    run("lift", ONE[:8], "--by", "Ada Clerk", "--reason", "settled")
    assert "extended" in run("extend", ONE[:8], "--by", "Ada Clerk", "--reason", "complex").stdout
    done = json.loads(
        run("reject", TWO, "--by", "Ada Clerk", "--reason", "withdrawn", "--json").stdout
    )
    assert [(line["request_id"], line["state"], line["days_left"]) for line in done] == [
        (TWO, "rejected", None)
    ]
    told = run("show", ONE).stdout
    steps = ["received", "identity_verified", "on_hold", "hold_lifted", "extended"]
    assert [line.split("  ")[1] for line in told.splitlines()[2:]] == steps
    assert "claim 12/345" in told
    assert [
        event["kind"] for event in json.loads(run("show", ONE, "--json").stdout)["events"]
    ] == steps


def test_one_wrong_id_and_nobody_is_verified() -> None:
    taken_in(ONE, TWO)
    run("reject", TWO, "--by", "Ada Clerk", "--reason", "withdrawn")
    with pytest.raises(AuditError, match="expected next: closed"):
        run("verify", ONE, TWO, "--by", "Ada Clerk", "--how", "login")
    with pytest.raises(AuditError, match="no request"):
        run("verify", ONE, THREE, "--by", "Ada Clerk", "--how", "login")
    assert [line["state"] for line in listed("--state", "received")] == ["received"]


def test_nobody_decides_without_a_name_and_a_reason() -> None:
    taken_in(ONE)
    run("hold", ONE, "--reason", "claim", code=2)
    run("hold", ONE, "--by", " ", "--reason", "claim", code=2)
    run("hold", ONE, "--by", "Ada Clerk", "--reason", "", code=2)
    assert [line["held"] for line in listed()] == [False]


def test_the_check_says_what_it_compared_and_finds_a_register_that_was_exchanged(
    home: Path,
) -> None:
    taken_in(ONE)
    with register.opened(home) as book:
        book.file_head(home / anchors.HEADS / "b1.json")
    taken_in(TWO)
    assert run("check").stdout.splitlines()[1:] == [
        "Earlier ends that git keeps: 1, all in it, the last is event 1"
    ]
    facts = json.loads(run("check", "--json").stdout)
    assert (facts["events"], facts["anchored"], facts["kept"]) == (2, 1, 2)
    for path in (home / ".register").iterdir():
        path.unlink()
    with pytest.raises(AuditError, match="ends before event 2"):
        run("check")
    (home / kept_end.FILE).unlink()  # of an empty register nobody can tell who kept its end
    with pytest.raises(AuditError, match="ends before event 1"):
        run("check")


def test_a_kept_end_that_is_gone_is_said_with_what_to_do(home: Path) -> None:
    taken_in(ONE)
    (home / kept_end.FILE).unlink()
    with pytest.raises(AuditError, match=r"keys/chain\.end is gone.*requests restored"):
        run("check")
    run("restored", "--by", "Ada Clerk", "--reason", "keys/ was lost")
    assert "2 events" in run("check").stdout


def test_an_empty_register_is_not_called_intact(home: Path) -> None:
    assert "intact" not in run("check").stdout
    assert "nothing to check" in run("check").stdout
    reports = home / "reports" / "2026-11"
    reports.mkdir(parents=True)
    (reports / "register.json").write_text(json.dumps({"requests": [{"request_id": ONE}]}))
    shown = run("check", code=1).stdout
    assert "batch 2026-11: its reports name 1 requests that are not in this register" in shown
    taken_in(ONE)
    assert "2026-11" not in run("check").stdout
    (reports / "register.json").write_text("{")
    with pytest.raises(AuditError, match="git checkout"):
        run("check")


def test_a_restored_backup_is_accepted_by_name_and_with_a_reason(home: Path) -> None:
    taken_in(ONE)
    with register.opened(home) as book:
        book.backup(home / "backup.db")
    taken_in(TWO)
    for path in (home / ".register").iterdir():
        path.unlink()
    shutil.copy(home / "backup.db", home / ".register" / "register.db")
    with pytest.raises(AuditError, match="ends before event 2"):
        run("check")
    run("restored", "--by", "Ada Clerk", "--reason", "the disk broke")
    assert "2 events" in run("check").stdout


def test_the_export_holds_every_request_and_no_pseudonym(home: Path) -> None:
    taken_in(ONE, TWO)
    run("reject", TWO, "--by", "Ada Clerk", "--reason", "withdrawn")
    whole = json.loads(run("export").stdout)
    assert [line["request_id"] for line in whole["requests"]] == [ONE, TWO]
    assert [event["kind"] for event in whole["events"]] == ["received", "received", "rejected"]
    assert whole["head"]["hash"] == whole["events"][-1]["hash"]
    run("export", "--format", "csv", "--out", "register.csv")
    rows = list(csv.DictReader(io.StringIO(Path("register.csv").read_text())))
    assert [(row["request_id"], row["state"]) for row in rows] == [
        (ONE, "received"),
        (TWO, "rejected"),
    ]
    key = pseudonyms.load_key(home).key_id
    assert key not in json.dumps(whole) + Path("register.csv").read_text()


def test_closed_requests_are_listed_when_asked_for(home: Path) -> None:
    taken_in(ONE, TWO)
    run("reject", TWO, "--by", "Ada Clerk", "--reason", "withdrawn")
    with register.opened(home) as book:
        book.move([TWO], register.State.CLOSED, "finalize")
    assert [line["request_id"] for line in listed()] == [ONE]
    assert [line["request_id"] for line in listed("--all")] == [ONE, TWO]
    assert [line["request_id"] for line in listed("--state", "closed")] == [TWO]
    assert run("list", "--state", "erased").stdout == "No requests.\n"
