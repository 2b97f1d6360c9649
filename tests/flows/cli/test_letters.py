"""The commands `erasure-audit letters`: what is due, written and sent, and what a report then
quotes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import letters, requests
from flows.register import database, recorded, register
from tasks import report
from tasks.common import settings
from tasks.common.errors import AuditError
from tasks.reporting import build_evidence
from tasks.requests import decisions, pseudonyms
from tests.worlds import fabricated

ROOT = Path(__file__).parents[3]
ONE, TWO = (f"{number}c9e6679-7425-40de-944b-e07fc1f90ae{number}" for number in (1, 2))
NAME = "ada@example.org"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (database.URL, pseudonyms.KEY, "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(settings.defaults_yaml())
    parties = 'report.recipients=[{"name": "Research group", "disclosed": "images"}]'
    settings.assign(tmp_path / "params.yaml", [parties])
    shutil.copytree(ROOT / "reports" / "templates", tmp_path / "reports" / "templates")
    monkeypatch.chdir(tmp_path)
    entries = [
        {
            "regulation": "gdpr",
            "subject_request_id": request,
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-20T09:30:00Z",
            "subject_identities": [
                {
                    "identity_type": "email",
                    "identity_value": f"{index}{NAME}",
                    "identity_format": "raw",
                }
            ],
            "api_version": "1.0",
            "extensions": {"erasure_audit": {"languages": [language]}},
        }
        for index, (request, language) in enumerate(((ONE, "en"), (TWO, "zh")))
    ]
    (tmp_path / "some.json").write_text(json.dumps(entries))
    assert CliRunner().invoke(requests.app, ["receive", "some.json"]).exit_code == 0
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    """A command of `erasure-audit letters`."""
    done = CliRunner().invoke(letters.app, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def due() -> dict[str, tuple[str, str]]:
    """Letter and last day of what is due, by request."""
    found: list[dict[str, Any]] = json.loads(run("due", "--json").stdout)
    return {line["request_id"]: (line["letter"], line["due"]) for line in found}


def as_requests(*arguments: str) -> None:
    """A command of `erasure-audit requests`."""
    done = CliRunner().invoke(requests.app, list(arguments))
    assert done.exit_code == 0, done.output


def test_deadlines_are_extended_in_bulk_with_a_notice_to_each_in_its_language(home: Path) -> None:
    assert due() == {}
    words = ("--by", "Ada Clerk", "--reason", "many requests at once", "--out", "out")
    run("extend", ONE, TWO, *words)
    english, chinese = ((home / "out" / name / "letter.txt").read_text() for name in (ONE, TWO))
    assert "We need more time for your request" in english
    assert "Many requests at once" in english
    assert "处理您的请求需要更多时间" in chinese
    for name in (ONE, TWO):
        content = b"".join(path.read_bytes() for path in (home / "out" / name).iterdir())
        assert NAME.encode() not in content
        assert (home / "out" / name / "letter.pdf").read_bytes().startswith(b"%PDF")
    # the notice has the first deadline as its own
    assert due() == dict.fromkeys((ONE, TWO), ("extension", "2026-12-21"))
    done = run("extend", ONE, *words, code=1)
    assert "extended before" in done.stderr


def test_a_letter_that_was_sent_is_due_no_more_and_stands_in_the_register(home: Path) -> None:
    run("extend", ONE, "--by", "Ada", "--reason", "many requests at once")
    run("sent", ONE, "--by", "Ada Clerk", "--how", "registered post")
    assert due() == {}
    with register.opened(home) as book:
        facts = recorded.of_request(book.history(ONE))
    (letter,) = facts["letters"]
    assert (letter["by"], letter["how"], letter["kind"]) == (
        "Ada Clerk",
        "registered post",
        "extension",
    )
    decisions.parse({"registered": {ONE: facts}}, [ONE])


def test_several_letters_are_recorded_together_or_not_at_all(home: Path) -> None:
    run("extend", ONE, "--by", "Ada", "--reason", "many requests at once")
    with pytest.raises(AuditError, match="no letter is due"):
        run("sent", ONE, TWO, "--by", "Ada", "--how", "post")
    assert set(due()) == {ONE}


def test_a_refusal_before_any_batch_has_its_letter(home: Path) -> None:
    as_requests("reject", ONE, "--by", "Ada", "--reason", "identity not shown within a month")
    assert due() == {ONE: ("refusal", "2026-12-21")}
    run("write", ONE)
    text = " ".join((home / "letters" / ONE / "letter.txt").read_text().split())
    assert "Identity not shown within a month." in text
    assert "Art. 77 GDPR" in text
    run("sent", ONE, "--by", "Ada", "--how", "e-mail")
    assert due() == {}


def test_there_is_no_letter_where_nothing_is_on_record(home: Path) -> None:
    with pytest.raises(AuditError, match="neither a refusal nor an extension"):
        run("write", ONE)
    assert not (home / "letters").exists()


def batched(home: Path) -> None:
    """Both requests are in the batch `spring`."""
    with register.opened(home) as book:
        for name in (ONE, TWO):
            book.verify_identity(name, "Ada", "code")
        book.move([ONE, TWO], register.State.BATCHED, "Ada", batch="spring")


def test_a_notice_and_an_exception_get_into_the_decisions_that_the_report_quotes(
    home: Path,
) -> None:
    batched(home)
    run("told", "spring", "--to", "Research group", "--by", "Ada")
    words = ("--ground", "Art. 17(3)(b) GDPR", "--reason", "tax law", "--by", "Ada")
    run("claim", ONE, *words)
    as_requests("ground", ONE, "--ground", "Art. 17(1)(b) GDPR", "--by", "Ada")
    by_hand = {"at": "2026-11-24T11:00:00Z", "by": "K.", "to": "Hosting company", "comment": ""}
    with register.opened(home) as book:
        content = recorded.in_decisions(
            {"notices": [by_hand]}, book, "spring", recorded.parties(home)
        )
        assert recorded.in_decisions(content, book, "spring", recorded.parties(home)) == content
    known = decisions.parse(content, [ONE, TWO])
    assert [(notice.to, notice.request) for notice in known.notices] == [
        ("Hosting company", None),
        ("Research group", None),
    ]
    assert [(claim.ground, claim.request) for claim in known.exceptions] == [
        ("Art. 17(3)(b) GDPR", ONE)
    ]
    assert known.registered[ONE].ground == "Art. 17(1)(b) GDPR"


def test_only_those_whom_the_settings_list_are_recorded_as_told(home: Path) -> None:
    batched(home)
    with pytest.raises(AuditError, match="expected one of 'Research group'"):
        run("told", "spring", "--to", "Somebody", "--by", "Ada")
    with pytest.raises(AuditError, match="name of a batch"):
        run("told", "autumn", "--to", "Research group", "--by", "Ada")


def test_reports_are_made_again_once_a_batch_is_erased(home: Path) -> None:
    batched(home)
    with pytest.raises(AuditError, match="not erased yet"):
        run("renew", "spring")


def test_what_an_audit_sets_aside_is_no_refusal_by_people(home: Path) -> None:
    with register.opened(home) as book:
        book.move([ONE], register.State.REJECTED, "Ada", reason="whole_class", code="whole_class")
        assert "refusal" not in recorded.of_request(book.history(ONE))


def test_a_recipient_who_was_not_told_of_an_erasure_is_listed_until_the_notice_is_recorded(
    home: Path,
) -> None:
    finished = {**fabricated.erased(), "notices": []}
    inputs = fabricated.inputs()
    inputs["decisions"] = finished
    items = build_evidence.build_all(fabricated.sources(inputs))
    report.write(items, home / "reports" / "templates", home / "reports" / fabricated.BATCH)
    (due,) = [entry for entry in json.loads(run("due", "--json").stdout) if "recipient" in entry]
    assert due == {
        "letter": "notice",
        "batch": fabricated.BATCH,
        "recipient": "Research group",
        "requests": [fabricated.PASS],
    }
    assert "notice to Research group of 1 request" in run("due").stdout
    with register.opened(home) as book:
        book.note(recorded.NOTICE, "Ada", batch=fabricated.BATCH, to="Research group", comment="")
    assert "notice to" not in run("due").stdout
