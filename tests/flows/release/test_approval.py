"""Sign-off: who may say what about a batch, what it takes, and what becomes of requests that are
rejected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.register import recorded
from flows.register.register import BusyError, Case, Event, Intake, Register, State
from flows.release import approval, next_audit, standing
from flows.release.standing import SignoffError
from flows.workspace import layout, shell
from tasks.common import files, settings
from tasks.requests import decisions, pseudonyms
from tests.worlds import dummy, signed_off
from tests.worlds.signed_off import ASIDE, BATCH, OTHER, PASS


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in git whose tag audit/<batch> holds settings, requests and evidence; no DVC, no
    models."""
    home = tmp_path_factory.mktemp("signoff") / "home"
    home.mkdir()
    shell.git(home, "init", "--quiet")
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    (home / ".gitignore").write_text("\n".join(layout.IGNORED) + "\n")
    (home / "dvc.yaml").write_text("stages: {}\n")
    (home / ".dvc").mkdir()
    (home / ".dvc/config").write_text("")
    (home / "params.yaml").write_text(settings.defaults_yaml())
    (home / "keys").mkdir()
    (home / pseudonyms.FILE).touch(mode=0o600)
    (home / pseudonyms.FILE).write_text(signed_off.KEY)
    close(home, BATCH, {PASS: "pass", OTHER: "fail", ASIDE: ""})
    return home


def close(home: Path, batch: str, verdicts: dict[str, str]) -> None:
    """The tag of an audited batch."""
    files.write_json(
        home / f"requests/{batch}.json", [signed_off.request_of(one) for one in verdicts]
    )
    for request, verdict in verdicts.items():
        aside = {
            "status": "rejected",
            "verdict": "inconclusive",
            "request": {"id": request, "code": "not_in_training"},
        }
        judged = {"status": "audited", "verdict": verdict, "request": {"id": request, "code": None}}
        files.write_json(
            home / f"reports/{batch}/{request}/evidence.json", aside if request == ASIDE else judged
        )
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", batch)
    shell.git(home, "tag", f"audit/{batch}")


@pytest.fixture
def home(bare: Path, tmp_path: Path) -> Path:
    return signed_off.copy(bare, tmp_path / "home")


@pytest.fixture
def register(home: Path) -> Iterator[Register]:
    found = Register(home)
    yield found
    found.close()


def wait(register: Register, verdicts: dict[str, str], batch: str = BATCH) -> None:
    """Bring requests to where a nightly batch leaves them."""
    for request in verdicts:
        register.receive(
            Intake(request, "gdpr", "2026-11-20T09:00:00Z", (signed_off.identity_of(request),)),
            "intake",
            "test",
        )
    register.move(list(verdicts), State.IDENTITY_VERIFIED, "officer", how="passport")
    register.collect(batch, "nightly")
    register.move(list(verdicts), State.AUDITED, "nightly", verdicts=verdicts)
    register.move(list(verdicts), State.AWAITING_SIGNOFF, "nightly")


def states(register: Register) -> dict[str, str]:
    return {case.request_id: str(case.state) for case in register.cases()}


def test_one_approval_is_enough_and_two_people_are_needed_with_four_eyes(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "pass", ASIDE: "not_in_training"})
    assert approval.standing(home, register, BATCH).state == "waiting"
    assert approval.approve(home, register, BATCH, "Ada", "read").state == "approved"
    settings.assign(home / "params.yaml", ["operate.four_eyes=true"])
    assert approval.standing(home, register, BATCH).state == "waiting"
    again = approval.approve(home, register, BATCH, " ada ", "and again")
    assert (again.state, again.requests[0].approvals, again.requests[0].lacking) == (
        "waiting",
        1,
        1,
    )
    assert approval.approve(home, register, BATCH, "Bob", "read, too").state == "approved"
    assert states(register)[PASS] == "awaiting_signoff"  # approving releases nothing


def test_those_who_passed_can_be_split_off_from_those_who_did_not(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "pass", OTHER: "fail", ASIDE: "not_in_training"})
    name = approval.split_off(home, register, BATCH, "Ada", "1 of 2 failed")
    assert name == f"{BATCH}-passed"
    assert register.in_flight() == name
    assert [case.request_id for case in register.cases(batch=name)] == [PASS]
    assert states(register)[OTHER] == "identity_verified"
    assert approval.standing(home, register, BATCH).state == "rejected"


@pytest.mark.parametrize("verdict", ["pass", "fail"])
def test_a_batch_of_one_mind_cannot_be_split(home: Path, register: Register, verdict: str) -> None:
    wait(register, {PASS: verdict, OTHER: verdict})
    with pytest.raises(SignoffError, match="of 2 requests passed; expected some that passed"):
        approval.split_off(home, register, BATCH, "Ada", "")
    assert states(register)[PASS] == "awaiting_signoff"


def test_the_register_tells_reports_of_identity_checks_and_extensions(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "pass", OTHER: "pass"})
    register.extend(PASS, "Ada Clerk", "many requests")
    facts = recorded.of_batch(register, BATCH)
    assert facts[OTHER]["identity"]["how"] == "passport"
    assert facts[PASS]["extension"]["reason"] == "many requests"
    recorded.file(home, register, BATCH)
    filed = files.read_json(home / decisions.FOLDER / f"{BATCH}.json")
    assert decisions.parse(filed, [PASS, OTHER]).of(PASS).registered[PASS].extension is not None


def test_spelling_makes_no_second_person() -> None:
    assert standing.person("  Ada   OKAFOR ") == standing.person("ada okafor")
    assert standing.person("Ada") != standing.person("Adam")


def test_every_request_of_the_batch_needs_its_approvals(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass", OTHER: "pass"})
    one = approval.approve(home, register, PASS, "Ada", "only him")
    assert (one.state, [request.lacking for request in one.requests]) == ("waiting", [0, 1])
    assert approval.approve(home, register, OTHER, "Bob", "and her").state == "approved"


def test_those_who_approve_have_to_want_the_same_model(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass", OTHER: "pass"})
    approval.approve(home, register, PASS, "Ada", "")
    apart = approval.approve(home, register, OTHER, "Bob", "", model="retrained")
    assert (apart.state, apart.model, apart.disagree) == ("waiting", None, True)
    assert "different models" in apart.line
    agreed = approval.approve(home, register, BATCH, "Ada", "as Bob says", model="retrained")
    assert (agreed.state, agreed.model) == ("approved", "retrained")


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_without_a_pass_the_choices_are_offered_and_the_unlearned_model_is_not(
    home: Path, register: Register, verdict: str
) -> None:
    wait(register, {PASS: "pass", OTHER: verdict})
    with pytest.raises(SignoffError, match="not every request passed") as refused:
        approval.approve(home, register, BATCH, "Ada", "looks fine to me")
    for command in (
        "--next more_references",
        "--next another_method",
        "--model retrained",
        "--next refuse",
    ):
        assert command in str(refused.value)
    found = approval.standing(home, register, BATCH)
    assert (found.state, found.unlearned_may_go) == ("waiting", False)
    assert all(f"`{choice.command}`" in standing.page(found) for choice in found.choices)
    assert approval.approve(home, register, BATCH, "Ada", "", model="retrained").state == "approved"


def test_the_commands_that_are_offered_are_ones_that_work(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass", OTHER: "fail"})
    offered = [choice.command for choice in approval.standing(home, register, BATCH).choices]
    assert len(offered) == 4
    for number, command in enumerate(offered):
        workspace = signed_off.copy(home, home.with_name(f"home-{number}"))
        words = command.removeprefix("erasure-audit ").replace('"', "").split()
        output = dummy.command(workspace, *words)
        assert output.returncode == 0, output.stderr
        after = Register(workspace)
        assert approval.standing(workspace, after, BATCH).state == (
            "approved" if words[0] == "approve" else "rejected"
        )
        after.close()


def test_on_hold_is_not_approved(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass"})
    approval.approve(home, register, BATCH, "Ada", "")
    register.hold(PASS, "lawyer", "a claim")
    assert approval.standing(home, register, BATCH).state == "on_hold"
    register.lift(PASS, "lawyer", "settled")
    assert approval.standing(home, register, BATCH).state == "approved"


def test_a_batch_whose_audit_is_not_through_cannot_be_decided_on(
    home: Path, register: Register
) -> None:
    register.receive(
        Intake(PASS, "gdpr", "2026-11-20T09:00:00Z", (signed_off.identity_of(PASS),)),
        "intake",
        "test",
    )
    register.verify_identity(PASS, "officer", "passport")
    register.collect(BATCH, "nightly")
    for state in (State.BATCHED, State.AUDITED):
        register.move([PASS], state, "nightly", verdicts={PASS: "pass"})
        for decide in (approval.approve, approval.reject):
            with pytest.raises(SignoffError, match="not audited yet"):
                decide(
                    home,
                    register,
                    BATCH,
                    "Ada",
                    "early",
                    *(["requeue"] if decide is approval.reject else []),
                )
    assert register.history(kind="decision") == []


def test_an_approval_is_of_the_audit_that_was_seen(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass"})
    approval.approve(home, register, BATCH, "Ada", "")
    shell.git(home, "commit", "--quiet", "--allow-empty", "-m", "another")
    shell.git(home, "tag", "--force", f"audit/{BATCH}")
    assert approval.standing(home, register, BATCH).state == "waiting"


def test_rejecting_for_more_references_asks_the_next_batch_for_them_once(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "pass", OTHER: "fail"})
    found = approval.reject(home, register, BATCH, "Ada", "too close", "more_references")
    assert found.state == "rejected"
    assert set(states(register).values()) == {"identity_verified"}
    wanted = next_audit.wishes(register)
    assert wanted == {
        "references.with_from": "artifacts/train",
        "references.with_blocks": [0, 1, 2],
        "references.without_blocks": [0, 1, 2],
    }
    settings.assign(
        home / "params.yaml", [f"{key}={json.dumps(value)}" for key, value in wanted.items()]
    )
    register.collect("second", "nightly")
    assert next_audit.wishes(register) == wanted  # a night that was killed asks again
    register.move([PASS, OTHER], State.AUDITED, "nightly", verdicts={PASS: "pass", OTHER: "pass"})
    assert next_audit.wishes(register) == {}
    assert (next_audit.wishes_of(register, "second"), next_audit.wishes_of(register, BATCH)) == (
        wanted,
        {},
    )


def test_rejecting_for_another_method_needs_one_that_is_another(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "fail"})
    for method in (None, "none", "fcalb", "magic"):
        with pytest.raises(SignoffError, match="method"):
            approval.reject(home, register, BATCH, "Ada", "so", "another_method", method)
    with pytest.raises(SignoffError, match="only there"):
        approval.reject(home, register, BATCH, "Ada", "so", "requeue", "retrain")
    assert states(register)[PASS] == "awaiting_signoff"
    approval.reject(home, register, BATCH, "Ada", "so", "another_method", "retrain")
    assert next_audit.wishes(register) == {"unlearn.method": "retrain"}


def test_to_reject_one_for_good_ends_the_batch_and_the_others_wait_for_the_next(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "pass", OTHER: "pass", ASIDE: "not_in_training"})
    found = approval.reject(home, register, OTHER, "Ada", "an exception applies", "refuse")
    assert found.state == "rejected"
    assert states(register) == {
        PASS: "identity_verified",
        OTHER: "rejected",
        ASIDE: "identity_verified",
    }
    assert "an exception applies" in register.history(OTHER)[-1].details["reason"]
    with pytest.raises(SignoffError, match="was rejected"):
        approval.approve(home, register, BATCH, "Bob", "")
    with pytest.raises(SignoffError, match="identity_verified"):
        approval.approve(home, register, PASS, "Bob", "")


def test_to_refuse_a_batch_refuses_all_of_it(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass", OTHER: "pass"})
    approval.reject(home, register, BATCH, "Ada", "no ground", "refuse")
    assert set(states(register).values()) == {"rejected"}
    register.check_chain()


def test_a_rejection_that_was_killed_half_way_is_finished(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(register, {PASS: "pass", OTHER: "pass"})
    real = Register.move

    def killed(self: Register, ids: Any, state: State, *rest: Any, **more: Any) -> Any:
        if state == State.IDENTITY_VERIFIED:
            raise KeyboardInterrupt
        return real(self, ids, state, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Register, "move", killed)
        approval.reject(home, register, OTHER, "Ada", "an exception", "refuse")
    assert states(register) == {PASS: "awaiting_signoff", OTHER: "rejected"}
    assert approval.standing(home, register, BATCH).state == "rejected"
    assert approval.carry_out_rejection(register, BATCH)
    assert states(register) == {PASS: "identity_verified", OTHER: "rejected"}


def test_nobody_rejects_while_a_release_is_at_work(home: Path, register: Register) -> None:
    wait(register, {PASS: "pass"})
    with register.lease(approval.LEASE), pytest.raises(BusyError):
        approval.reject(home, register, BATCH, "Ada", "stop", "requeue")
    assert approval.standing(home, register, BATCH).state == "waiting"


@pytest.mark.parametrize(
    ("by", "comment"), [("", "so"), ("  ", "so"), ("A\0da", "so"), ("Ada", "x" * 2001)]
)
def test_words_that_no_register_takes_are_refused(
    home: Path, register: Register, by: str, comment: str
) -> None:
    wait(register, {PASS: "pass"})
    with pytest.raises(SignoffError, match="printable"):
        approval.approve(home, register, BATCH, by, comment)
    assert register.history(kind="decision") == []


def test_what_nobody_knows_cannot_be_decided_on(home: Path, register: Register) -> None:
    for target in ("nowhere", "99999999-aaaa-4aaa-8aaa-000000000009"):
        with pytest.raises(SignoffError, match="no tag audit/"):
            approval.approve(home, register, target, "Ada", "")
    register.receive(
        Intake(PASS, "gdpr", "2026-11-20T09:00:00Z", (signed_off.identity_of(PASS),)),
        "intake",
        "test",
    )
    with pytest.raises(SignoffError, match="received"):
        approval.approve(home, register, PASS, "Ada", "")


def test_decisions_are_quoted_as_the_report_takes_them(home: Path, register: Register) -> None:
    wait(register, {PASS: "fail", OTHER: "fail"})
    approval.approve(home, register, BATCH, "Ada Okafor", "the retrain is cheap", model="retrained")
    approval.approve(
        home, register, PASS, "ada  okafor", "again", role="head of privacy", model="retrained"
    )
    commit = shell.git(home, "rev-parse", f"audit/{BATCH}^{{commit}}")
    found = approval.all_decisions(register, BATCH, commit)
    decisions.parse({"approvals": found}, [PASS, OTHER])
    assert [one["by"] for one in found] == ["Ada Okafor", "Ada Okafor"]
    assert [one.get("request") for one in found] == [None, PASS]
    assert "exact retrain" in found[0]["comment"]
    assert "the retrain is cheap" in found[0]["comment"]
    assert approval.all_decisions(register, BATCH, "0" * 40) == []


def test_a_batch_that_was_run_by_hand_gets_into_the_register_with_its_first_decision(
    home: Path, register: Register
) -> None:
    pseudonyms.make(home)
    found = approval.approve(home, register, BATCH, "Ada", "by hand", model="retrained")
    assert found.state == "approved"
    assert states(register) == dict.fromkeys((PASS, OTHER, ASIDE), "awaiting_signoff")
    assert {case.request_id: case.verdict for case in register.cases()} == {
        PASS: "pass",
        OTHER: "fail",
        ASIDE: "not_in_training",
    }
    assert {event.actor for event in register.history()} == {"Ada"}
    again = approval.approve(home, register, BATCH, "Bob", "me, too", model="retrained")
    assert again.requests[0].approvals == 2
    everything = b"".join(path.read_bytes() for path in (home / ".register").iterdir())
    assert b'"p0"' not in everything


def test_a_batch_by_hand_waits_while_another_is_in_flight(home: Path, register: Register) -> None:
    other = "44444444-dddd-4ddd-8ddd-000000000004"
    wait(register, {other: "pass"}, batch="nightly-batch")
    with pytest.raises(SignoffError, match="nightly-batch is in flight"):
        approval.approve(home, register, BATCH, "Ada", "", model="retrained")
    assert states(register) == {other: "awaiting_signoff"}


def test_people_decide_on_prefects_page(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import artifacts
    from prefect.logging import disable_run_logger

    from flows.finalize import finalize
    from flows.sign_off import sign_off

    wait(register, {PASS: "pass", OTHER: "fail"})
    shown: list[dict[str, str]] = []
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda **output: shown.append(output)
    )
    with disable_run_logger():
        with pytest.raises(SignoffError, match="Choose `next`"):
            sign_off.fn(BATCH, "reject", "Ada", "no", folder=str(home))
        done = sign_off.fn(BATCH, "approve", "Ada", "read", model="retrained", folder=str(home))
        assert done["state"] == "approved"
        with register.lease(approval.LEASE):
            busy = finalize.fn(folder=str(home))
    assert "release" in busy["waits"]
    assert [output["key"] for output in shown] == [f"signoff-{BATCH}"]
    assert "is approved" in shown[0]["markdown"]


def test_people_see_what_waits_and_decide_on_the_command_line(
    home: Path, register: Register
) -> None:
    wait(register, {PASS: "pass"})
    shutil.rmtree(home / ".dvc")
    shell.dvc(home, "init", "--quiet", "--force")
    output = dummy.command(home, "status")
    assert "awaits sign-off (1 pass): 1 approval missing" in output.stdout, output.stderr
    assert f'erasure-audit approve {BATCH} --by "NAME" --comment "WHY"' in output.stdout
    done = dummy.command(home, "approve", BATCH, "--by", "Ada", "--comment", "read", "--json")
    assert json.loads(done.stdout)["state"] == "approved", done.stderr
    missing = dummy.command(home, "reject", BATCH, "--by", "Ada", "--comment", "no")
    assert missing.returncode == 2
    assert "--next" in missing.stderr


def test_where_a_batch_stands_follows_from_its_cases_and_decisions_alone() -> None:
    rules = standing.ReleaseRules(approvals=2, audit="c0ffee")
    cases = [case_of(PASS, "pass"), case_of(OTHER, "fail")]
    ada, bob = decision("Ada", "approve"), decision("Bob", "approve")

    def state(*noted: Event) -> str:
        return standing.evaluate(BATCH, cases, noted, rules).state

    assert state() == state(ada) == state(ada, decision(" ada ", "approve")) == "waiting"
    assert state(ada, bob) == "approved"
    assert state(ada, replace(bob, details={**bob.details, "audit": "another"})) == "waiting"
    assert state(ada, decision("Bob", "approve", "unlearned")) == "waiting"
    assert state(ada, bob, decision("Eve", "refuse")) == "rejected"
    assert state(ada, replace(bob, request_id=PASS)) == "waiting"
    assert state(ada, replace(bob, request_id=PASS), replace(bob, request_id=OTHER)) == "approved"
    held = [replace(cases[0], held=True), cases[1]]
    assert standing.evaluate(BATCH, held, [ada, bob], rules).state == "on_hold"
    over = [replace(case, state=State.RELEASED) for case in cases]
    assert standing.evaluate(BATCH, over, [ada, bob], rules).state == "released"
    assert not standing.evaluate(BATCH, cases, [ada, bob], rules).unlearned_may_go
    assert standing.evaluate(BATCH, cases[:1], [], rules).unlearned_may_go
    assert not standing.evaluate(BATCH, [], [ada, bob], rules).unlearned_may_go


def test_the_exact_retrain_is_the_first_choice_where_the_ladder_proposes_it() -> None:
    rules = standing.ReleaseRules(approvals=1, audit="c0ffee", proposed="retrained")
    cases = [case_of(PASS, "pass"), case_of(OTHER, "fail")]
    found = standing.evaluate(BATCH, cases, [], rules)
    assert found.retrain_proposed
    assert found.choices[0].text == "release the exact retrain, which passes for every request"
    assert "--model" not in found.choices[0].command
    passed = standing.evaluate(BATCH, cases[:1], [], rules)
    assert passed.unlearned_may_go
    assert not passed.retrain_proposed
    without = standing.evaluate(BATCH, cases, [], replace(rules, proposed=None))
    assert not without.retrain_proposed
    assert without.choices[0].text == "audit again with more references"


def decision(by: str, what: str, model: str = "retrained") -> Event:
    details = {"decision": what, "model": model, "audit": "c0ffee"}
    return Event(1, "2026-11-21T00:00:00Z", by, None, BATCH, "decision", details, "", "")


def case_of(request: str, verdict: str) -> Case:
    """A request that awaits its sign-off."""
    return Case(
        request_id=request,
        regulation="gdpr",
        submitted="2026-11-02T09:00:00Z",
        source="http",
        identities=(),
        wishes={},
        callbacks=(),
        due=None,
        extended=False,
        state=State.AWAITING_SIGNOFF,
        held=False,
        batch=BATCH,
        verdict=verdict,
        duplicate_of=None,
    )


def test_two_encodings_of_one_name_are_one_person() -> None:
    spellings = ["Jos\u00e9 \u00c5berg", "Jose\u0301 A\u030aberg", "jos\u00e9  \u212bberg "]
    assert len({standing.person(name) for name in spellings}) == 1
    assert standing.person("Jose Aberg") != standing.person(spellings[0])


@pytest.mark.parametrize(
    "spelling",
    [
        "Grace\u00a0Officer",
        "Gr\u200bace Officer",
        "Gr\u00adace Officer",
        "\u202aGrace Officer\u202c",
        "Grace\ufe0f Officer",
        "Gr\u034face Officer",
        "Grace Officer\U000e0001",
        "Grace\u3164Officer",
        "\uff27race Officer",
        "Gr\u0430ce Officer",
        "Grac\u0435 \u041efficer",
        "Grace \u039fffic\u0435r",
    ],
)
def test_a_name_that_looks_the_same_is_the_same_person(spelling: str) -> None:
    assert standing.person(spelling) == standing.person("Grace Officer")
    assert standing.person(spelling) != standing.person("Grace Official")


def test_names_in_other_scripts_stay_different_people() -> None:
    names = ["Анна Петрова", "Анна Петровна", "Άννα", "Ήρα", "王芳", "王方", "José", "Jose"]
    assert len({standing.person(name) for name in names}) == len(names)
