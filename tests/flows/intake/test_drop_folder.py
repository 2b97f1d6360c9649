"""The drop folder: good entries are taken in, bad ones kept with a reason, nothing is lost, nothing
is named."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.intake import drop_folder, pseudonymise
from flows.intake.drop_folder import Sheet, read, strict_json
from flows.register.register import BusyError, Register, State
from tasks.common.errors import RequestError, WorkspaceError
from tests.worlds import dummy, outside

HEADER = ",".join(drop_folder.COLUMNS)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    workspace = outside.home(tmp_path / "home")
    (workspace / drop_folder.INBOX).mkdir()
    return workspace


@pytest.fixture
def register(home: Path) -> Register:
    return Register(home)


def put(home: Path, name: str, content: Any, age: float = 10.0) -> Path:
    path = home / drop_folder.INBOX / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    os.utime(path, (time.time() - age,) * 2)
    return path


def row(number: int, value: str = "ada-lovelace", **changes: str) -> str:
    cells = {
        "subject_request_id": outside.request_id(number),
        "regulation": "gdpr",
        "submitted_time": "2026-11-20T09:30:00Z",
        "identity_type": "email",
        "identity_value": value,
        "identity_format": "raw",
    }
    return ",".join((cells | changes).values())


def waiting(home: Path) -> list[str]:
    """Files anywhere in the drop folder that are not refused ones."""
    box = home / drop_folder.INBOX
    return sorted(path.name for path in (*box.glob("*"), *box.glob(".taking/*")) if path.is_file())


def refused(home: Path, kind: str) -> str:
    (path,) = (home / drop_folder.REFUSED).glob(f"*{kind}")
    return path.read_text()


def test_a_list_of_requests_is_taken_in_and_the_file_is_gone(
    home: Path, register: Register
) -> None:
    put(home, "today.json", [outside.request(1), outside.request(2)])
    taken = drop_folder.take(home, register)
    assert (taken.new, taken.refused, taken.files) == (
        (outside.request_id(1), outside.request_id(2)),
        (),
        1,
    )
    assert outside.has_all(register, {1, 2})
    assert {case.source for case in register.cases()} == {"drop folder"}
    assert waiting(home) == []
    assert drop_folder.take(home, register) == drop_folder.TakenFiles()


def test_a_single_request_need_not_be_a_list(home: Path, register: Register) -> None:
    put(home, "one.json", outside.request(1))
    assert len(drop_folder.take(home, register).new) == 1


def test_without_a_drop_folder_there_is_nothing_to_do(tmp_path: Path) -> None:
    workspace = outside.home(tmp_path / "home")
    assert drop_folder.take(workspace, Register(workspace)) == drop_folder.TakenFiles()


def test_what_is_sent_in_the_clear_stays_nowhere(
    home: Path, register: Register, caplog: Any
) -> None:
    put(home, "lovelace.json", [outside.request(1)])
    put(home, "byron.csv", f"{HEADER}\n{row(2)}\n".encode())
    with caplog.at_level(logging.DEBUG):
        drop_folder.take(home, register)
    register.close()
    kept = outside.everything_stored(home)
    assert b"lovelace" not in kept
    assert b"byron" not in kept
    assert "lovelace" not in caplog.text


def test_bad_entries_are_kept_with_reasons_and_the_good_ones_are_taken_in(
    home: Path, register: Register, caplog: Any
) -> None:
    bad = outside.request(2, regulation="magna-carta")
    put(
        home,
        "mixed.json",
        [outside.request(1), bad, outside.request(3), "secret-word", outside.request(4)],
    )
    with caplog.at_level(logging.DEBUG):
        taken = drop_folder.take(home, register)
    assert outside.has_all(register, {1, 3, 4})
    assert [entry.position for entry in taken.refused] == [2, 4]
    assert json.loads(refused(home, ".json")) == [bad, "secret-word"]
    reasons = refused(home, ".reasons.txt")
    assert [entry["position"] for entry in json.loads(reasons)] == [2, 4]
    assert "regulation: expected one of" in reasons
    for told in (reasons, caplog.text, repr(taken), json.dumps(taken.plain())):
        assert "magna-carta" not in told
        assert "secret-word" not in told
    (note,) = register.history(kind="intake_refused")
    assert note.details == {"entries": 2}
    assert waiting(home) == []


def test_refused_entries_that_are_mended_are_taken_in(home: Path, register: Register) -> None:
    put(home, "mixed.json", [outside.request(1), outside.request(2, regulation="magna-carta")])
    drop_folder.take(home, register)
    put(home, "again.json", refused(home, ".json").replace("magna-carta", "ccpa").encode())
    assert drop_folder.take(home, register).refused == ()
    assert outside.has_all(register, {1, 2})


def test_only_the_owner_may_read_what_was_refused(home: Path, register: Register) -> None:
    put(home, "bad.json", [{}])
    drop_folder.take(home, register)
    assert (home / drop_folder.REFUSED).stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home / drop_folder.REFUSED).iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[",
        b"[]",
        b"[1,]",
        b"[1 2]",
        b"[1]]",
        b"\xff\xfe",
        b"[NaN]",
        b"[" * 5000,
        b"nonsense",
        b"[{}",
    ],
)
def test_a_file_that_cannot_be_read_is_kept_as_it_is(
    home: Path, register: Register, content: bytes
) -> None:
    put(home, "bad.json", content)
    taken = drop_folder.take(home, register)
    assert [entry.position for entry in taken.refused] == [0]
    (kept,) = (home / drop_folder.REFUSED).glob("*.json")
    assert kept.read_bytes() == content
    assert waiting(home) == []
    assert register.cases() == []


def test_a_contradiction_is_refused_and_a_repetition_is_not(home: Path, register: Register) -> None:
    put(home, "a.json", [outside.request(1)])
    drop_folder.take(home, register)
    put(home, "b.json", [outside.request(1), outside.request(1, regulation="ccpa")])
    taken = drop_folder.take(home, register)
    assert taken.known == (outside.request_id(1),)
    assert "another content" in taken.refused[0].reason


def test_a_key_that_occurs_twice_means_two_things_and_is_kept_as_it_stands(
    home: Path, register: Register
) -> None:
    text = json.dumps(outside.request(1))[:-1] + ', "regulation": "ccpa"}'
    put(home, "twice.json", f"[{text}]".encode())
    assert len(drop_folder.take(home, register).refused) == 1
    assert refused(home, ".json") == f"[\n{text}\n]\n"


def test_rows_of_a_table_are_requests_and_rows_of_one_id_are_one_request(
    home: Path, register: Register
) -> None:
    rows = [row(1), row(2, "b@example.org"), row(1, "0123", identity_type="controller_customer_id")]
    put(home, "table.csv", ("\ufeff" + "\r\n".join([HEADER, *rows]) + "\r\n").encode())
    assert drop_folder.take(home, register).refused == ()
    assert outside.has_all(register, {1, 2})
    assert len(register.case(outside.request_id(1)).identities) == 2
    assert register.case(outside.request_id(1)).source == "csv"


def test_a_table_means_the_same_as_json(home: Path) -> None:
    (entry,) = read(f"{HEADER}\n{row(1, 'x')}\n".encode(), ".csv").entries
    value = outside.request(1, subject_identities=[outside.identity("x", "email")])
    assert (
        pseudonymise.take_in(home, entry.value).digest == pseudonymise.take_in(home, value).digest
    )


def test_a_table_with_semicolons_and_columns_in_another_order_is_read() -> None:
    names = list(reversed(drop_folder.COLUMNS))
    cells = list(reversed(row(1, "ada").split(",")))
    (entry,) = read(f"{';'.join(names)}\n{';'.join(cells)}".encode(), ".csv").entries
    assert entry.value["subject_identities"][0]["identity_value"] == "ada"


def test_a_quoted_cell_may_hold_commas_and_line_ends() -> None:
    quoted = row(1, '"a,b\nc"')
    (entry,) = read(f"{HEADER}\n{quoted}\n".encode(), ".csv").entries
    assert entry.value["subject_identities"][0]["identity_value"] == "a,b\nc"
    assert entry.text.count("\n") == 2


def test_bad_rows_are_kept_as_they_stand_with_their_number(home: Path, register: Register) -> None:
    rows = [
        row(1),
        "secret-word,too,few",
        row(2, regulation="magna-carta"),
        row(3),
        row(4),
        row(4, regulation="ccpa"),
    ]
    put(home, "table.csv", "\n".join([HEADER, *rows, ""]).encode())
    taken = drop_folder.take(home, register)
    assert outside.has_all(register, {1, 3})
    assert [entry.position for entry in taken.refused] == [2, 3, 5]
    assert refused(home, ".csv") == "\n".join([HEADER, rows[1], rows[2], rows[4], rows[5], ""])
    assert "secret-word" not in refused(home, ".reasons.txt")


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        "a,b,c\n1,2,3",
        HEADER + ",more\n" + row(1) + ",x",
        f'{HEADER}\n"unended',
        HEADER.replace("_id", ""),
    ],
)
def test_a_table_that_is_none_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(RequestError):
        read(text.encode(), ".csv")


def test_a_file_that_is_still_written_is_left(home: Path, register: Register) -> None:
    path = put(home, "young.json", [outside.request(1)], age=0.0)
    assert drop_folder.take(home, register).left == 1
    assert path.exists()
    os.utime(path, (time.time() - 10,) * 2)
    assert len(drop_folder.take(home, register).new) == 1


def test_a_file_that_grows_while_it_is_read_is_left_for_the_next_time(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, "grows.json", [outside.request(1)])
    real = os.fstat
    sizes = iter([0.0, 1.0])

    def grown(handle: int) -> Any:
        found = real(handle)
        os.utime(handle, (found.st_atime, found.st_mtime + next(sizes)))
        return real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(drop_folder.os, "fstat", grown)
        assert drop_folder.take(home, register).left == 1
    assert register.cases() == []
    assert len(drop_folder.take(home, register).new) == 1


def test_hidden_and_other_files_are_let_be(home: Path, register: Register) -> None:
    for name in (".hidden.json", "upload.json.part", "notes.txt"):
        put(home, name, [outside.request(1)])
    assert drop_folder.take(home, register) == drop_folder.TakenFiles()
    assert waiting(home) == [".hidden.json", "notes.txt", "upload.json.part"]


def test_links_folders_and_pipes_are_put_aside_unread(
    home: Path, register: Register, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere.json"
    target.write_text(json.dumps([outside.request(1)]))
    box = home / drop_folder.INBOX
    (box / "link.json").symlink_to(target)
    (box / "folder.json").mkdir()
    os.mkfifo(box / "pipe.json")
    for name in ("folder.json", "pipe.json", "link.json"):
        os.utime(box / name, (time.time() - 10,) * 2, follow_symlinks=False)
    taken = drop_folder.take(home, register)
    assert len(taken.refused) == 3
    assert register.cases() == []
    assert target.exists()
    assert waiting(home) == []


def test_a_huge_file_is_put_aside_unread(home: Path, register: Register) -> None:
    path = put(home, "huge.json", [outside.request(1)])
    settled = path.stat().st_mtime
    os.truncate(path, drop_folder.MAX_BYTES + 1)
    os.utime(path, (settled, settled))
    (entry,) = drop_folder.take(home, register).refused
    assert f"expected at most {drop_folder.MAX_BYTES}" in entry.reason
    assert register.cases() == []


@pytest.mark.parametrize("moment", ["second entry", "refused entries", "removal"])
def test_a_kill_at_any_moment_loses_nothing_and_takes_nothing_twice(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    put(
        home, "mixed.json", [outside.request(1), outside.request(2), {"bad": 1}, outside.request(3)]
    )

    class Killed(BaseException):
        pass

    calls: list[int] = []
    real = drop_folder.enter

    def second(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return real(*arguments)

    def at_once(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if moment == "second entry":
            patched.setattr(drop_folder, "enter", second)
        elif moment == "refused entries":
            patched.setattr(drop_folder.Refused, "plain", at_once)
        else:
            patched.setattr(drop_folder.Path, "unlink", at_once)
        with pytest.raises(Killed):
            drop_folder.take(home, register)
    drop_folder.take(home, register)
    assert outside.has_all(register, {1, 2, 3})
    assert len(register.history(kind="received")) == 3
    assert json.loads(refused(home, ".json")) == [{"bad": 1}]
    assert waiting(home) == []
    register.check_chain()


def test_with_the_register_away_the_files_stay(
    home: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, "a.json", [outside.request(1)])

    def away(*_: Any) -> None:
        raise WorkspaceError("the register's database cannot be used")

    with monkeypatch.context() as patched:
        patched.setattr(register, "receive", away)
        with pytest.raises(WorkspaceError):
            drop_folder.take(home, register)
    assert len(drop_folder.take(home, register).new) == 1


def test_two_at_once_do_not_take_the_same_files(home: Path, register: Register) -> None:
    with register.lease("inbox"), pytest.raises(BusyError):
        drop_folder.take(home, register)


@pytest.mark.parametrize("checked", [True, False])
def test_identities_that_were_checked_before_are_verified_at_once(
    tmp_path: Path, checked: bool
) -> None:
    workspace = outside.home(tmp_path / "home")
    if checked:
        outside.settings.assign(
            workspace / "params.yaml",
            ["operate.identities=before", "report.identity_check=by the clinic's own portal"],
        )
    register = Register(workspace)
    case, new = drop_folder.enter(workspace, register, outside.request(1), "crm", "http")
    assert new
    assert case.state == (State.IDENTITY_VERIFIED if checked else State.RECEIVED)
    assert drop_folder.enter(workspace, register, outside.request(1), "crm", "http") == (
        case,
        False,
    )


@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
    )
)
def test_any_bytes_are_entries_or_refused(content: bytes) -> None:
    for kind in drop_folder.KINDS:
        for start in (b"", HEADER.encode() + b"\n"):
            try:
                assert read(start + content, kind).entries
            except RequestError:
                continue


@given(
    st.lists(
        st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists),
        min_size=1,
    )
)
def test_a_list_is_read_as_any_reader_of_json_does(values: list[Any]) -> None:
    text = json.dumps(values, allow_nan=True)
    if "Infinity" in text:
        return
    sheet = read(text.encode(), ".json")
    assert isinstance(sheet, Sheet)
    assert [entry.value for entry in sheet.entries] == json.loads(text)
    assert [json.loads(entry.text) for entry in sheet.entries] == json.loads(text)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1" * 5000, "[" * 100_000, "{", "'a'", ""])
def test_what_is_no_json_is_refused_without_an_echo(text: str) -> None:
    with pytest.raises(RequestError, match="not JSON") as caught:
        strict_json(text)
    assert len(str(caught.value)) < 200


def test_the_command_says_what_was_refused_and_ends_with_1(home: Path, register: Register) -> None:
    (home / ".dvc").mkdir()
    (home / "dvc.yaml").write_text("stages: {}")
    put(home, "mixed.json", [outside.request(1), outside.request(2, regulation="magna-carta")])
    ended = dummy.command(home, "intake", "drop")
    assert ended.returncode == 1
    assert "1 new, 0 known, 1 refused" in ended.stdout
    assert "entry 2: regulation" in ended.stdout
    assert dummy.command(home, "intake", "drop", "--json").returncode == 0
    done = dummy.command(home, "intake", "callbacks")
    assert done.stdout == "0 delivered, 0 to be tried again, 0 given up\n"
