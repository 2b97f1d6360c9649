"""Release: all of it or nothing, whatever is killed or fails on the way; and the next batch starts
from it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing as closed
from pathlib import Path
from typing import Any

import pytest

from flows.correspondence import known_since
from flows.register import recorded
from flows.register.register import BusyError, Register, RegisterError, State
from flows.release import approval, finishing, model_card, release
from flows.release.release_contents import ReleaseError
from flows.release.standing import SignoffError
from flows.workspace import shell
from tasks.common import files, settings
from tasks.common.errors import WorkspaceError
from tasks.requests import decisions
from tasks.training import release_lineage
from tests.worlds import signed_off
from tests.worlds.signed_off import ASIDE, BATCH, OTHER, PASS, snapshot

OWN = {
    f"releases/{BATCH}.dvc",
    f"references/{BATCH}.dvc",
    "releases/.gitignore",
    "references/.gitignore",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An approved batch of three requests; the workspace was committed to since the batch began."""
    home = signed_off.make(
        tmp_path_factory.mktemp("release") / "home",
        {PASS: "pass", OTHER: "pass", ASIDE: ""},
        remote=True,
    )
    settings.assign(home / "params.yaml", ["report.controller=Example Clinic"])
    shell.git(home, "commit", "--quiet", "--all", "-m", "our name")
    with closed(Register(home)) as register:
        approval.approve(home, register, BATCH, "Ada Okafor", "the reports are read")
    return home


@pytest.fixture(scope="module")
def prepared(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its release killed twice: while it was prepared, and right before the workspace is
    touched."""
    home = signed_off.copy(world, tmp_path_factory.mktemp("prepared") / "home")
    (home.parent / "store").symlink_to(world.parent / "store")
    for step in ("report", "switch"):
        before = snapshot(home)
        killed(home, step)
        assert {**snapshot(home), "worktrees": 0} == {**before, "worktrees": 0}
    return home


@pytest.fixture(scope="module")
def released(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after the release was called again."""
    home = signed_off.copy(prepared, tmp_path_factory.mktemp("released") / "home")
    (home.parent / "store").symlink_to(prepared.parent / "store")
    with closed(Register(home)) as register:
        done = release.release(home, register, BATCH)
    assert (done.new, done.model, done.references, done.records_dropped) == (
        True,
        "unlearned",
        3,
        6,
    )
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    (tmp_path / "store").symlink_to(prepared.parent / "store")
    return signed_off.copy(prepared, tmp_path / "home")


def test_whom_the_controller_told_comes_into_the_reports_of_a_batch_that_knows_that_party(
    home: Path,
) -> None:
    party = '[{name: "Example Analytics", disclosed: "pictures"}]'
    settings.assign(home / "params.yaml", [f"report.recipients={party}"])
    with closed(Register(home)) as register:
        known_since.record_notice(
            home, register, PASS, "Ada Clerk", "Example Analytics", "ticket 4711"
        )
        (event,) = register.history(PASS, kind=recorded.NOTICE)
        content = recorded.in_decisions(decisions.EMPTY, register, BATCH, recorded.parties(home))
        release.release(home, register, BATCH)
    assert content["notices"] == [
        {
            "at": event.at,
            "by": "Ada Clerk",
            "request": PASS,
            "to": "Example Analytics",
            "comment": "ticket 4711",
        }
    ]
    # the settings of this batch, which began before, do not name that party
    filed = json.loads(shell.git(home, "show", f"release/{BATCH}:ledger/decisions/{BATCH}.json"))
    assert filed["notices"] == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE requests SET identities = '[]'",
        "UPDATE requests SET due = '2030-01-01'",
        "UPDATE requests SET state = 'released'",
    ],
)
def test_nothing_is_released_by_a_register_that_somebody_changed(
    home: Path, statement: str
) -> None:
    with sqlite3.connect(home / ".register/register.db") as connection:
        connection.execute(statement)
    before = snapshot(home)
    with closed(Register(home)) as register, pytest.raises(RegisterError, match="its events say"):
        release.release(home, register, BATCH)
    assert snapshot(home) == before


def killed(home: Path, step: str) -> None:
    """Run a release in a process of its own, which dies without a word before the step."""
    process = multiprocessing.get_context("fork").Process(target=_until, args=(home, step))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def _until(home: Path, step: str) -> None:
    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    release.release(home, Register(home), BATCH, die)


def failing(step: str, error: BaseException) -> Callable[[str], None]:
    def fail(name: str) -> None:
        if name == step:
            raise error

    return fail


def states(home: Path) -> set[str]:
    with closed(Register(home)) as register:
        register.check_chain()
        return {str(case.state) for case in register.cases()}


def test_a_release_holds_the_model_the_references_the_data_and_the_decisions(
    released: Path,
) -> None:
    tag = f"release/{BATCH}"
    assert shell.git(released, "rev-parse", f"{tag}^{{commit}}") == shell.git(
        released, "rev-parse", "HEAD"
    )
    assert shell.git(released, "status", "--porcelain") == ""
    assert states(released) == {"released"}
    original = released / "data"
    rows = (original / "manifest.csv").read_text().splitlines()[1:]
    people = {line.split(",")[1] for line in rows}
    assert people == {f"p{n}" for n in range(2, 9)}  # two forgotten, and one whom no model saw
    assert {line.split(",")[-1] for line in rows} == {
        "training",
        "calibration",
        "test",
    }  # everybody keeps his role
    assert len(list((original / "images").iterdir())) == len(rows)
    mails = (original / "identities.csv").read_text()
    assert not any(f"mail{n}@" in mails for n in (0, 1, 9))
    chosen = settings.load(released / "params.yaml")
    assert chosen.original.checkpoint == f"releases/{BATCH}/model.safetensors"
    assert (chosen.references.with_from, chosen.references.with_blocks) == (
        f"references/{BATCH}",
        (),
    )
    assert chosen.report.controller == "Example Clinic"  # what was committed meanwhile stays
    found = signed_off.evidence(released, tag)
    assert found["approvals"][0] | {"at": ""} == {
        "at": "",
        "by": "Ada Okafor",
        "comment": "the reports are read",
        "decision": "approve",
        "role": "approver",
    }
    assert "Ada Okafor" in (released / f"reports/{BATCH}/{PASS}/report.html").read_text()
    assert signed_off.evidence(released, f"audit/{BATCH}")["approvals"] == []


def test_the_model_card_and_the_lineage_say_where_a_model_comes_from(
    released: Path, world: Path
) -> None:
    folder = released / f"releases/{BATCH}"
    weights = files.sha256(folder / "model.safetensors")
    lineage = files.read_json(folder / "lineage.json")
    assert lineage["model"]["weights_sha256"] == weights
    assert [one["method"] for one in lineage["chain"]] == ["train", "fcalb"]
    assert lineage["chain"][1]["made_from"] == lineage["chain"][0]["weights_sha256"]
    assert release_lineage.history(folder / "model.safetensors", 99).unlearnings == 1
    assert (
        release_lineage.chain_of(folder / "model.safetensors", weights, trained=False)
        == lineage["chain"]
    )
    card = (folder / "README.md").read_text()
    assert weights in card
    assert "2 pass" in card
    everything = card + json.dumps(lineage)
    assert not any(name in everything for name in ("p0", "r0-0", "mail0", PASS))


def test_serving_systems_take_the_model_by_its_tag(released: Path, tmp_path: Path) -> None:
    shell.dvc(
        tmp_path,
        "get",
        str(released),
        f"releases/{BATCH}",
        "--rev",
        f"release/{BATCH}",
        "--out",
        "served",
    )
    served, own = (
        tmp_path / "served/model.safetensors",
        released / f"releases/{BATCH}/model.safetensors",
    )
    assert served.read_bytes() == own.read_bytes()


def test_the_page_about_serving_has_the_lines_of_the_model_card() -> None:
    assert model_card.LOADER in (Path(__file__).parents[3] / "docs/release.md").read_text()


def test_a_second_release_says_that_it_was_done_and_changes_nothing(released: Path) -> None:
    before = snapshot(released)
    with closed(Register(released)) as register:
        events = len(register.history())
        again = release.release(released, register, BATCH)
        assert len(register.history()) == events
    assert (again.new, again.batch) == (False, BATCH)
    assert snapshot(released) == before
    assert [one.batch for one in release.releases(released)] == [BATCH]


@pytest.mark.parametrize("step", ["checkout", "tag", "register", "done"])
def test_killed_at_any_step_a_release_is_continued(home: Path, released: Path, step: str) -> None:
    killed(home, step)
    with closed(Register(home)) as register:
        release.release(home, register, BATCH)
    assert snapshot(home) == snapshot(released)
    assert states(home) == {"released"}
    assert not list((home / ".batches").glob("release-*"))


def test_killed_while_git_was_writing_it_is_continued(home: Path, released: Path) -> None:
    plan = files.read_json(home / f".batches/release-{BATCH}.json")
    shell.git(
        home, "checkout", "--quiet", plan["to"], "--", "params.yaml", f"requests/{BATCH}.json"
    )
    (home / ".git/index.lock").touch()
    with closed(Register(home)) as register:
        release.release(home, register, BATCH)
    assert snapshot(home) == snapshot(released)


@pytest.mark.parametrize("step", ["checkout", "tag", "register"])
def test_a_failure_at_any_step_leaves_the_workspace_as_it_was(
    home: Path, world: Path, step: str
) -> None:
    before = snapshot(home)
    with closed(Register(home)) as register, pytest.raises(WorkspaceError, match="no space left"):
        release.release(home, register, BATCH, failing(step, WorkspaceError("no space left")))
    assert snapshot(home) == before
    assert states(home) == {"awaiting_signoff"}
    assert not list((home / ".batches").glob("release-*"))


def test_a_failure_while_preparing_leaves_nothing_behind(world: Path, tmp_path: Path) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    shell.dvc(home, "remote", "modify", "--local", "store", "url", "/proc/nowhere")
    before = snapshot(home)
    with closed(Register(home)) as register, pytest.raises(WorkspaceError, match="push failed"):
        release.release(home, register, BATCH)
    assert snapshot(home) == before
    assert states(home) == {"awaiting_signoff"}


def test_a_hold_that_comes_after_a_kill_undoes_the_release(home: Path) -> None:
    before = snapshot(home)
    killed(home, "register")
    assert snapshot(home) != before
    with closed(Register(home)) as register:
        register.hold(OTHER, "lawyer", "a claim")
        with pytest.raises(ReleaseError, match="hold"):
            release.release(home, register, BATCH)
        assert snapshot(home) == before
        register.lift(OTHER, "lawyer", "settled")
        assert approval.standing(home, register, BATCH).state == "approved"


def test_a_hold_in_the_last_moment_undoes_it_too(home: Path) -> None:
    before = snapshot(home)
    with closed(Register(home)) as register:

        def hold(step: str) -> None:
            if step == "register":
                register.hold(OTHER, "lawyer", "a claim")

        with pytest.raises(Exception, match="on hold"):
            release.release(home, register, BATCH, hold)
    assert snapshot(home) == before
    assert states(home) == {"awaiting_signoff"}


def test_what_somebody_committed_after_a_kill_is_kept(home: Path) -> None:
    killed(home, "tag")
    (home / "note.txt").write_text("mine")
    shell.git(home, "add", "note.txt")
    shell.git(home, "commit", "--quiet", "-m", "mine")
    with closed(Register(home)) as register:
        release.release(home, register, BATCH)
    assert shell.git(home, "log", "-1", "--format=%s") == "mine"
    assert states(home) == {"released"}


def test_without_approval_nothing_is_released(world: Path, tmp_path: Path) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    settings.assign(home / "params.yaml", ["operate.four_eyes=true"])
    shell.git(home, "commit", "--quiet", "--all", "-m", "four eyes")
    before = snapshot(home)
    with closed(Register(home)) as register:
        with pytest.raises(ReleaseError, match=r"(?s)1 approval missing.*erasure-audit approve"):
            release.release(home, register, BATCH)
        with pytest.raises(SignoffError, match="no request in a batch"):
            release.release(home, register, "nowhere")
        waits = finishing.finalize(home, register).waits
    assert waits is not None
    assert "1 approval missing" in waits
    assert snapshot(home) == before


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("params.yaml", "\n# mine\n", r"not committed.*params\.yaml"),
        (f"requests/{BATCH}.json", "[]", r"not committed.*requests"),
        ("data/manifest.csv", "\n", "not what data.dvc records"),
        (f"releases/{BATCH}/model.safetensors", "x", "does not belong to a release"),
    ],
)
def test_what_is_not_committed_is_never_overwritten(
    world: Path, tmp_path: Path, path: str, text: str, told: str
) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    with (home / path).open("a") as stream:
        stream.write(text)
    before = snapshot(home)
    with closed(Register(home)) as register, pytest.raises(ReleaseError, match=told):
        release.release(home, register, BATCH)
    assert snapshot(home) == before


def test_two_releases_at_once_are_one(world: Path) -> None:
    with (
        closed(Register(world)) as register,
        register.lease(approval.LEASE),
        pytest.raises(BusyError),
    ):
        release.release(world, register, BATCH)


def test_data_that_changed_since_the_audit_are_no_base_for_a_release(
    world: Path, tmp_path: Path
) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    pointer = home / "data.dvc"
    pointer.write_text(pointer.read_text().replace("md5: ", "md5: 0", 1))
    shell.git(home, "commit", "--quiet", "--all", "-m", "more data")
    with (
        closed(Register(home)) as register,
        pytest.raises(ReleaseError, match="so the data changed"),
    ):
        release.release(home, register, BATCH)


def test_finalize_releases_closes_and_is_done_then(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.erasure import carry_out

    def erase(_home: Path, batch: str, register: Register, **_more: Any) -> None:
        register.move(
            [case.request_id for case in register.cases(batch=batch)], State.ERASED, "erasure"
        )

    monkeypatch.setattr(carry_out, "erase", erase)
    with closed(Register(home)) as register:
        first = finishing.finalize(home, register)
        assert first.done == (f"batch {BATCH} released",)
        assert first.waits is not None
        assert "erasure-audit erase" in first.waits  # operate.erase_after_release is false here
        settings.assign(home / "params.yaml", ["operate.erase_after_release=true"])
        second = finishing.finalize(home, register)
        assert second == finishing.Finalized(
            (f"copies of batch {BATCH} erased", f"batch {BATCH} closed"), None
        )
        assert finishing.finalize(home, register) == finishing.Finalized((), None)
        assert register.in_flight() is None
    assert states(home) == {"closed"}


def test_a_rejected_batch_is_finalized_with_its_reports_and_touches_nothing(
    world: Path, tmp_path: Path
) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    (tmp_path / "store").symlink_to(world.parent / "store")
    before = snapshot(home)
    with closed(Register(home)) as register:
        approval.reject(home, register, OTHER, "Bob", "an exception applies", "refuse")
        done = finishing.finalize(home, register)
        assert register.case(OTHER).state == State.CLOSED
        assert register.case(PASS).state == State.IDENTITY_VERIFIED
        assert finishing.finalize(home, register).done == ()
    assert f"batch {BATCH} rejected" in done.done[0]
    found = signed_off.evidence(home, f"rejected/{BATCH}", OTHER)["approvals"]
    assert [one["decision"] for one in found] == ["approve", "refuse"]
    reports = shell.git(home, "show", "--name-only", "--format=%s", "HEAD").splitlines()
    assert reports[0] == f"Reports of batch {BATCH}, which was rejected"
    assert all(path.startswith((f"reports/{BATCH}/", f"signed/{BATCH}/")) for path in reports[2:])
    assert (home / "reports" / BATCH / OTHER / "report.html").exists()
    shell.git(home, "reset", "--quiet", "--hard", "HEAD~1")
    (home / "reports" / ".gitignore").unlink(missing_ok=True)  # of the pages of all batches
    assert {**snapshot(home), "tags": ""} == {**before, "tags": ""}


def test_a_batch_that_no_model_saw_releases_no_model_and_a_contradiction_stops_it(
    tmp_path: Path,
) -> None:
    home = signed_off.make(tmp_path / "home", {ASIDE: ""})
    chosen = settings.load(home / "params.yaml")
    with closed(Register(home)) as register:
        assert approval.approve(home, register, BATCH, "Ada", "only data").data_only
        settings.assign(home / "params.yaml", ["batch=other"])
        shell.git(home, "commit", "--quiet", "--all", "-m", "another batch")
        before = snapshot(home)
        with pytest.raises(ReleaseError, match=r"conflict with it in params\.yaml"):
            release.release(home, register, BATCH)
        assert snapshot(home) == before
        settings.assign(home / "params.yaml", ["batch=demo"])
        shell.git(home, "commit", "--quiet", "--all", "-m", "no other batch")
        done = release.release(home, register, BATCH)
    assert (done.model, done.weights_sha256, done.references, done.records_dropped) == (
        None,
        None,
        0,
        2,
    )
    assert settings.load(home / "params.yaml") == chosen.model_copy(update={"batch": BATCH})
    assert "p9" not in (home / "data/manifest.csv").read_text()
    assert not (home / "releases").exists()
    assert states(home) == {"released"}


def _object(home: Path, oid: str) -> Path:
    return home / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:]


def test_a_model_whose_bytes_rotted_in_the_cache_is_not_released(
    world: Path, tmp_path: Path
) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    (tmp_path / "store").symlink_to(world.parent / "store")
    lock = shell.git(home, "show", f"audit/{BATCH}:dvc.lock")
    found = re.search(r"artifacts/unlearn\n\s+hash: md5\n\s+md5: (\S+)", lock)
    assert found is not None
    listed = {
        entry["relpath"]: entry["md5"] for entry in json.loads(_object(home, found[1]).read_text())
    }
    rotten = _object(home, listed["unlearned.safetensors"])
    rotten.chmod(0o644)
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"?")
    rotten.chmod(0o444)  # as DVC keeps it, so that it does not look
    shell.dvc(home, "remote", "remove", "store")
    shell.git(home, "commit", "--quiet", "--all", "-m", "no remote")
    before = snapshot(home)
    with (
        closed(Register(home)) as register,
        pytest.raises(WorkspaceError, match=r"damaged in DVC's store.*unlearned\.safetensors"),
    ):
        release.release(home, register, BATCH)
    assert rotten.read_bytes().endswith(b"?")  # it is evidence, and stays
    assert {**snapshot(home), "cache": 0} == {**before, "cache": 0}


def test_data_of_which_only_the_cache_lost_a_part_are_put_back_there(
    world: Path, tmp_path: Path
) -> None:
    home = signed_off.copy(world, tmp_path / "home")
    (tmp_path / "store").symlink_to(world.parent / "store")
    lost = _object(home, hashlib.md5((home / "data" / "manifest.csv").read_bytes()).hexdigest())
    lost.unlink()
    shell.dvc(home, "remote", "remove", "store")
    shell.git(home, "commit", "--quiet", "--all", "-m", "no remote")
    with closed(Register(home)) as register:
        assert release.release(home, register, BATCH).new
