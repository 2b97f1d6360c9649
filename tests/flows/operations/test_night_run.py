"""The night's work: what is due is audited in a checkout of its own, and whatever is killed is
continued."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.intake import batch_requests, pseudonymise
from flows.operations import night_run, notices
from flows.operations.batch_run import BatchRun
from flows.pipeline import close_batch, stage_runner
from flows.register.register import BusyError, Register, RegisterError, State
from flows.release import approval
from flows.workspace import checkouts, dvc_graph, shell
from tasks.common import files, settings
from tasks.common.errors import RequestError, StageError
from tests.worlds import dummy

SECRET = "subject-the-planted-name-0815"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = dummy.make(tmp_path_factory.mktemp("nightly") / "home")
    (home / ".gitignore").write_text(
        "/data\n/artifacts\n/keys\n/inbox\n/.batches\n/.prefect\n/.register\n"
    )
    shell.git(home, "commit", "--quiet", "--all", "-m", "ignore")
    return home


@pytest.fixture
def home(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(notices.CHANNELS, raising=False)
    return dummy.copy(fresh, tmp_path / "home")


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    found = Register(home)
    yield found
    found.close()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What people were told, title and text."""
    found: list[str] = []
    monkeypatch.setattr(
        notices, "send", lambda home, title, body, key=None: found.append(f"{title}: {body}")
    )
    return found


def ask(
    home: Path,
    register: Register,
    name: str = SECRET,
    days_ago: int = 1,
    verified: bool = True,
    request: str | None = None,
) -> str:
    request = request or str(uuid.uuid4())
    submitted = datetime.now(UTC) - timedelta(days=days_ago)
    value = {
        "regulation": "gdpr",
        "subject_request_id": request,
        "subject_request_type": "erasure",
        "submitted_time": submitted.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": name,
                "identity_format": "raw",
            }
        ],
    }
    register.receive(pseudonymise.take_in(home, value), "crm", "http")
    if verified:
        register.verify_identity(request, "clerk", "by letter")
    return request


def playing(**codes: str) -> night_run.Audit:
    """An audit in which everybody passes but those with a code, who are set aside; nobody left is
    an error."""

    def audit(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
        listener(stage_runner.StageEvent("report", "line", "at work"))
        entries = [
            entry["subject_request_id"]
            for entry in files.read_json(workspace / f"requests/{batch}.json")
        ]
        lines = [
            {
                "request_id": one,
                "status": "rejected" if one in codes else "accepted",
                "code": codes.get(one),
            }
            for one in entries
        ]
        files.write_json(workspace / "artifacts/resolve/register.json", {"batch_requests": lines})
        if all(one in codes for one in entries):
            raise RequestError("no request of the batch can be acted on")
        for one in entries:
            status = "rejected" if one in codes else "audited"
            evidence = {"request": {"id": one}, "verdict": "pass", "status": status}
            files.write_json(workspace / f"reports/{batch}/{one}/evidence.json", evidence)

    return audit


def failing(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
    raise StageError("check: record r7: got label 12")


def states(register: Register) -> dict[str, str]:
    return {case.request_id: case.shown for case in register.cases()}


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def at_home(home: Path) -> tuple[str, ...]:
    return shell.git(home, "rev-parse", "HEAD"), shell.git(home, "status", "--porcelain")


def test_what_is_due_is_audited_in_a_checkout_of_its_own_and_waits_for_people(
    home: Path, register: Register
) -> None:
    one, two = ask(home, register), ask(home, register, "another")
    before = at_home(home)
    night = night_run.run(home, register, audit=playing())
    assert (night.outcome, night.batch) == ("awaits_signoff", today())
    assert states(register) == {one: "awaiting_signoff", two: "awaiting_signoff"}
    assert {case.verdict for case in register.cases()} == {"pass"}
    assert at_home(home) == before
    assert not (home / "requests" / f"{today()}.json").exists()
    shown = shell.git(home, "show", f"audit/{today()}:requests/{today()}.json")
    assert {entry["subject_request_id"] for entry in json.loads(shown)} == {one, two}
    assert {i["identity_format"] for e in json.loads(shown) for i in e["subject_identities"]} == {
        "hmac-sha256"
    }
    head = json.loads(shell.git(home, "show", f"audit/{today()}:ledger/chain/{today()}.json"))
    audited = register.history(kind="audited")
    assert (head["seq"], head["hash"]) == (audited[-1].seq, audited[-1].hash)
    assert settings.load(checkouts.path(home, today()) / "params.yaml").batch == today()
    with (
        dvc_graph.open_repo(home) as here,
        dvc_graph.open_repo(checkouts.path(home, today())) as there,
    ):
        assert here.cache.local.path == there.cache.local.path


def test_no_file_but_the_key_and_no_object_of_git_holds_an_identity(
    home: Path, register: Register
) -> None:
    ask(home, register)
    night_run.run(home, register, audit=playing())
    held = [
        path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert held == []
    for line in shell.git(home, "cat-file", "--batch-all-objects", "--batch-check").splitlines():
        assert SECRET not in shell.git(home, "cat-file", "-p", line.split()[0])


def test_a_few_requests_wait_until_there_are_enough_or_a_deadline_is_near(
    home: Path, register: Register
) -> None:
    settings.assign(home / "params.yaml", ["operate.batch_from=3", "operate.batch_days_left=5"])
    early = [ask(home, register), ask(home, register)]
    assert night_run.run(home, register, audit=playing()).outcome == "nothing_due"
    assert set(states(register).values()) == {"identity_verified"}
    late = ask(home, register, days_ago=28)
    settings.assign(home / "params.yaml", ["operate.batch_from=9", "operate.largest_batch=1"])
    assert night_run.run(home, register, audit=playing()).outcome == "awaits_signoff"
    assert states(register) == {
        late: "awaiting_signoff",
        **dict.fromkeys(early, "identity_verified"),
    }


def test_unverified_and_held_requests_are_in_no_batch(home: Path, register: Register) -> None:
    unknown, held = ask(home, register, verified=False), ask(home, register)
    register.hold(held, "counsel", "a claim is pending")
    assert night_run.run(home, register, audit=playing()).outcome == "nothing_due"
    assert states(register) == {unknown: "received", held: "on_hold"}


def test_the_next_batch_waits_for_the_one_at_hand_and_gets_a_name_of_its_own(
    home: Path, register: Register
) -> None:
    ask(home, register)
    night_run.run(home, register, audit=playing())
    second = ask(home, register)
    assert night_run.run(home, register, audit=playing()).outcome == "waits"
    assert states(register)[second] == "identity_verified"
    approval.reject(home, register, today(), "Ada", "not sure", "more_references")
    night = night_run.run(home, register, audit=playing())
    assert (night.outcome, night.batch) == ("awaits_signoff", f"{today()}-2")
    assert len(register.cases([State.AWAITING_SIGNOFF], batch=f"{today()}-2")) == 2
    assert not (home / ".batches" / today()).exists()
    assert shell.git(home, "tag").split() == [f"audit/{today()}", f"audit/{today()}-2"]
    chosen = settings.load(checkouts.path(home, f"{today()}-2") / "params.yaml").references
    assert (chosen.with_blocks, chosen.without_blocks) == ((0, 1, 2), (0, 1, 2))


def test_a_request_set_aside_waits_for_a_person_and_one_that_no_model_saw_goes_on(
    home: Path, register: Register
) -> None:
    good, nobody, unseen = (ask(home, register, name) for name in "abc")
    night_run.run(
        home, register, audit=playing(**{nobody: "unknown_subject", unseen: "not_in_training"})
    )
    assert states(register) == {
        good: "awaiting_signoff",
        unseen: "awaiting_signoff",
        nobody: "on_hold",
    }
    assert register.case(unseen).verdict == "not_in_training"
    (hold,) = register.history(nobody, kind="on_hold")
    assert hold.details["reason"] == "set aside by the audit: unknown_subject"
    waiting = approval.standing(home, register, today()).requests
    assert {each.request_id for each in waiting} == {good, unseen}
    register.lift(nobody, "Ada", "the manifest is corrected")
    assert states(register)[nobody] == "identity_verified"  # it is in the next batch


def test_a_request_set_aside_and_corrected_under_its_id_is_in_the_next_batch(
    home: Path, register: Register
) -> None:
    good, nobody = ask(home, register, "a"), ask(home, register, "b")
    night_run.run(home, register, audit=playing(**{nobody: "unknown_subject"}))
    earlier = register.case(nobody).identities
    ask(home, register, "c", request=nobody)
    assert states(register) == {good: "awaiting_signoff", nobody: "identity_verified"}
    assert register.case(nobody).identities != earlier
    batch_requests.check(home, register, today())  # and not "audited for somebody else"
    approval.reject(home, register, today(), "Ada", "once more", "requeue")
    night_run.run(home, register, audit=playing())
    assert states(register) == dict.fromkeys((good, nobody), "awaiting_signoff")
    batch_requests.check(home, register, f"{today()}-2")


def test_a_batch_of_which_nothing_is_left_to_audit_is_settled_all_the_same(
    home: Path, register: Register
) -> None:
    one, two = ask(home, register, "a"), ask(home, register, "b")
    night = night_run.run(
        home, register, audit=playing(**{one: "unknown_subject", two: "whole_class"})
    )
    assert (night.outcome, set(states(register).values())) == ("set_aside", {"on_hold"})
    assert not (home / ".batches" / today()).exists()
    assert shell.git(home, "branch", "--list", "batch/*") == ""
    three = ask(home, register, "c")
    night = night_run.run(home, register, audit=playing(**{three: "not_in_training"}))
    assert (night.outcome, night.batch) == ("awaits_signoff", f"{today()}-2")
    assert register.case(three).verdict == "not_in_training"
    assert shell.git(home, "ls-tree", f"audit/{today()}-2", f"reports/{today()}-2") == ""


def test_a_failed_audit_is_told_and_continued_and_after_three_nights_a_person_has_to_look(
    home: Path, register: Register, messages: list[str]
) -> None:
    request = ask(home, register)
    for _ in range(3):
        night = night_run.run(home, register, audit=failing)
        assert (night.outcome, states(register)) == ("failed", {request: "batched"})
    assert [event.details["reason"] for event in register.history(kind="failed")] == [
        "check: record …: got label 12"
    ] * 3
    assert len(messages) == 3
    assert "person has to look" in messages[2]
    assert "person has to look" not in messages[1]
    night_run.give_up(home, register, today(), "Ada", "the data are mended first")
    assert states(register) == {request: "identity_verified"}
    assert not (home / ".batches" / today()).exists()
    assert night_run.run(home, register, audit=playing()).batch == f"{today()}-2"
    with pytest.raises(RegisterError, match="approve or reject"):
        night_run.give_up(home, register, f"{today()}-2", "Ada", "too late")


def test_a_fault_of_another_kind_is_told_without_its_words(
    home: Path, register: Register, messages: list[str]
) -> None:
    def broken(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
        raise OSError(28, f"No space left on device: {SECRET}")

    ask(home, register)
    assert night_run.run(home, register, audit=broken).outcome == "failed"
    assert "OSError" in messages[0]
    assert SECRET not in messages[0] + str(register.history(kind="failed"))


def test_an_audit_that_forgets_a_request_is_a_failure(home: Path, register: Register) -> None:
    def forgetful(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
        playing()(workspace, batch, listener)
        (workspace / f"reports/{batch}/{request}/evidence.json").unlink()

    request = ask(home, register)
    assert night_run.run(home, register, audit=forgetful).outcome == "failed"
    assert states(register) == {request: "batched"}


def test_two_nights_at_once_are_one(home: Path, register: Register) -> None:
    ask(home, register)

    def second_at_once(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
        with pytest.raises(BusyError):
            night_run.run(home, register, audit=playing())
        playing()(workspace, batch, listener)

    assert night_run.run(home, register, audit=second_at_once).outcome == "awaits_signoff"


def test_a_request_refused_while_its_batch_fails_is_not_in_it_any_more(
    home: Path, register: Register
) -> None:
    one, two = ask(home, register, "a"), ask(home, register, "b")
    night_run.run(home, register, audit=failing)
    register.reject(one, "clerk", "withdrawn")
    night_run.run(home, register, audit=playing())
    assert states(register) == {one: "rejected", two: "awaiting_signoff"}
    shown = json.loads(shell.git(home, "show", f"audit/{today()}:requests/{today()}.json"))
    assert [entry["subject_request_id"] for entry in shown] == [two]


def test_uncommitted_settings_are_not_in_a_batch_and_that_is_told(
    home: Path, register: Register, messages: list[str]
) -> None:
    settings.assign(home / "params.yaml", ["verify.rho0=0.4"])
    ask(home, register)
    night_run.run(home, register, audit=playing())
    assert settings.load(checkouts.path(home, today()) / "params.yaml").verify.rho0 == 0.5
    assert any("params.yaml" in text for text in messages)


KILLS: dict[str, tuple[Any, str, bool]] = {
    "a batch is begun": (Register, "collect", True),
    "the checkout is made": (checkouts, "share_cache", False),
    "the data are about to be restored": (checkouts, "share_cache", True),
    "the requests are written": (BatchRun, "write_requests", True),
    "the audit is over": (BatchRun, "run_audit", True),
    "the first verdicts are written down": (Register, "move", True),
    "all verdicts are written down": (BatchRun, "write_verdicts", True),
    "the commit is made": (close_batch, "close", False),
    "the tag is set": (close_batch, "close", True),
    "the night is over": (BatchRun, "to_signoff", True),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_night_killed_at_any_moment_is_continued_with_nobody_lost_or_twice(
    home: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = Register(home)
    good, nobody = ask(home, register, "a"), ask(home, register, "b")
    register.close()
    audit = playing(**{nobody: "unknown_subject"})

    def night() -> None:
        workspace, name, after = KILLS[moment]
        kill_at(workspace, name, after)
        night_run.run(home, Register(home), audit=audit)
        os._exit(0)

    killed = multiprocessing.get_context("fork").Process(target=night)
    killed.start()
    killed.join(120)
    assert killed.exitcode == 9

    register = Register(home)
    night_run.run(home, register, audit=audit)
    assert states(register) == {good: "awaiting_signoff", nobody: "on_hold"}
    for kind, request in (
        ("batched", good),
        ("audited", good),
        ("awaiting_signoff", good),
        ("on_hold", nobody),
    ):
        assert len(register.history(request, kind=kind)) == 1
    assert shell.git(home, "tag").split() == [f"audit/{today()}"]
    assert json.loads(
        shell.git(home, "show", f"audit/{today()}:reports/{today()}/{good}/evidence.json")
    )
    register.check_chain()
    assert night_run.run(home, register, audit=audit).outcome == "waits"
    register.close()


def kill_at(workspace: Any, name: str, after: bool) -> None:
    """End this process as kill -9 does, before or after a function's first call ends."""
    real: Callable[..., Any] = getattr(workspace, name)

    def dying(*arguments: Any, **named: Any) -> None:
        if after:
            real(*arguments, **named)
        os._exit(9)

    setattr(workspace, name, dying)


def test_a_checkout_that_was_left_half_made_is_made_anew_and_missing_data_come_back(
    home: Path,
) -> None:
    workspace = checkouts.open(home, "b")
    (workspace / ".dvc" / "config.local").unlink()
    (workspace / "dvc.yaml").unlink()
    (workspace / "data" / "manifest.csv").write_text("cut off in the mid")
    workspace = checkouts.open(home, "b")
    assert (workspace / "dvc.yaml").exists()
    assert (workspace / "data" / "manifest.csv").read_text() == "record_id\nr1\n"
    (workspace / "data" / "manifest.csv").write_text("a killed checkout")
    assert (checkouts.open(home, "b") / "data" / "manifest.csv").read_text() == "record_id\nr1\n"
    checkouts.drop(home, "b")
    assert len(shell.git(home, "worktree", "list").splitlines()) == 1
    checkouts.close(home, "b")


def test_a_remote_in_a_folder_and_its_password_are_the_same_from_a_checkout(
    home: Path, tmp_path: Path
) -> None:
    shell.dvc(home, "remote", "add", "--quiet", "-d", "store", "../store")
    shell.dvc(home, "remote", "add", "--quiet", "cloud", "s3://bucket/x")
    shell.dvc(home, "remote", "modify", "--quiet", "--local", "cloud", "secret_access_key", "hush")
    shell.git(home, "commit", "--quiet", "--all", "-m", "remotes")
    workspace = checkouts.open(home, "b")
    with dvc_graph.open_repo(workspace) as repo:
        assert repo.config["remote"]["store"]["url"] == str(tmp_path / "store")
        assert repo.config["remote"]["cloud"]["secret_access_key"] == "hush"
    assert (workspace / ".dvc" / "config.local").stat().st_mode & 0o077 == 0
    assert shell.git(workspace, "status", "--porcelain") == ""


def test_a_workspace_in_a_folder_of_its_repository_has_its_place_in_the_checkout(
    tmp_path: Path,
) -> None:
    made = dummy.make(tmp_path / "made")
    root, home = tmp_path / "root", tmp_path / "root" / "audits"
    home.mkdir(parents=True)
    shell.git(root, "init", "--quiet")
    shell.git(root, "config", "user.email", "auditor@example.org")
    shell.git(root, "config", "user.name", "Auditor")
    shell.dvc(home, "init", "--quiet", "--subdir")
    for name in ("dvc.yaml", "params.yaml", "stage.py", ".gitignore"):
        (home / name).write_bytes((made / name).read_bytes())
    (home / "data").mkdir()
    (home / "data" / "manifest.csv").write_text("record_id\nr1\n")
    shell.dvc(home, "add", "--quiet", "data")
    shell.git(root, "add", ".")
    shell.git(root, "commit", "--quiet", "-m", "workspace")
    workspace = checkouts.open(home, "b")
    assert workspace == home / ".batches" / "b" / "audits"
    assert (workspace / "data" / "manifest.csv").exists()


def test_a_rotten_object_fails_one_night_and_the_next_has_it_again_from_the_workspace(
    home: Path, register: Register
) -> None:
    ask(home, register)
    sound = (home / "data" / "manifest.csv").read_bytes()
    oid = hashlib.md5(sound).hexdigest()
    with dvc_graph.open_repo(home) as repo:
        rotten = Path(repo.cache.local.path) / oid[:2] / oid[2:]
    rotten.chmod(0o644)
    rotten.write_bytes(b"x" + sound[1:])

    def audit(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
        if (workspace / "data" / "manifest.csv").read_bytes() != sound:
            raise StageError("check: the manifest is not what it has to be")
        playing()(workspace, batch, listener)

    assert night_run.run(home, register, audit=audit).outcome == "failed"
    assert night_run.run(home, register, audit=audit).outcome == "awaits_signoff"
    assert rotten.read_bytes() == sound
    (mended,) = register.history(kind="mended")
    assert mended.details == {"objects": 1, "files": 1}
