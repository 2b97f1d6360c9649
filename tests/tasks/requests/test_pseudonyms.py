"""Keyed pseudonyms: the same person is found by each form of his identity, and nobody without the
key finds him."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.intake import pseudonymise
from flows.workspace import shell
from tasks import resolve
from tasks.common.errors import PseudonymError, RequestError
from tasks.requests import pseudonyms
from tasks.requests.directory import Directory, read_directory
from tasks.requests.identities import canonical
from tasks.requests.opendsr import RefusedEntry, Request, SubjectIdentity, parse, read_batch
from tasks.requests.pseudonyms import PseudonymKey
from tests.worlds import dummy

KEY = PseudonymKey(b"k" * 32)
UUID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


@pytest.fixture(autouse=True)
def _no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pseudonyms.KEY, raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def opendsr(value: str = "ada", form: str = "raw", **changes: Any) -> dict[str, Any]:
    return {
        "regulation": "gdpr",
        "subject_request_id": UUID,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:30:00Z",
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": value,
                "identity_format": form,
            }
        ],
    } | changes


@given(
    kind=st.from_regex(r"\A[a-z0-9_]{1,20}\Z"),
    value=st.text(min_size=1, max_size=40),
    other=st.text(min_size=1, max_size=40),
)
@example(kind="phone", value="\x1f", other="ada")
def test_a_person_is_the_same_by_name_by_hash_and_by_pseudonym(
    kind: str, value: str, other: str
) -> None:
    table = pd.DataFrame(
        {"identity_type": kind, "identity_value": [value, other], "subject_id": ["one", "two"]}
    )
    directory = Directory(["one", "two"], table, key=lambda: KEY)
    hashed = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
    forms = {"raw": value, "sha256": hashed.upper(), "hmac-sha256": KEY.of(kind, value)}
    result = [
        directory.subjects(
            [
                SubjectIdentity.model_construct(
                    identity_type=kind, identity_value=name, identity_format=form
                )
            ]
        )
        for form, name in forms.items()
    ]
    same = canonical(kind, value) == canonical(kind, other)
    people = {"one", "two"} if same else {"one"}
    # a blank identity is nobody's
    assert result == [people if canonical(kind, value) else set()] * 3
    canonical_hash = pseudonyms.sha256(canonical(kind, value))
    assert KEY.of(kind, value) == KEY.of(kind, canonical_hash, "sha256")


def test_a_pseudonym_depends_on_key_type_and_value() -> None:
    made = {
        key.of(kind, value)
        for key in (KEY, PseudonymKey(b"l" * 32))
        for kind in ("email", "phone")
        for value in ("a", "b")
    }
    assert len(made) == 8
    assert all(pseudonyms.FORM.fullmatch(one) for one in made)
    assert "k" * 32 not in repr(KEY)


def test_pseudonyms_of_another_key_are_an_error_and_not_an_unknown_person() -> None:
    directory = Directory(["ada"], key=lambda: KEY)
    foreign = PseudonymKey(b"l" * 32).of("controller_customer_id", "ada")
    who = SubjectIdentity(
        identity_type="controller_customer_id",
        identity_value=foreign,
        identity_format="hmac-sha256",
    )
    with pytest.raises(PseudonymError, match=f"pseudonyms of key {foreign[:8]}.*{KEY.key_id}"):
        directory.subjects([who])


@pytest.mark.parametrize(
    "changes",
    [
        {
            "subject_identities": [
                dict(opendsr(KEY.of("email", "a"), "hmac-sha256")["subject_identities"][0])
            ]
        },
        {"extensions": {"erasure_audit": {"record_pseudonyms": [KEY.of("record_id", "r1")]}}},
    ],
)
def test_from_outside_nobody_may_send_pseudonyms(changes: dict[str, Any], tmp_path: Path) -> None:
    assert isinstance(parse(opendsr(**changes), 1), RefusedEntry)
    with pytest.raises(RequestError):
        pseudonymise.take_in(dummy_home(tmp_path), opendsr(**changes))
    (tmp_path / "batch.json").write_text(json.dumps([opendsr(**changes)]))
    assert isinstance(read_batch(tmp_path / "batch.json")[0], Request)


@pytest.mark.parametrize(
    "value", ["ada", "0" * 64, f"{KEY.key_id}:{'g' * 64}", f"{KEY.key_id}:{'0' * 64}\n"]
)
def test_what_is_no_pseudonym_is_malformed_in_a_batch_file(value: str, tmp_path: Path) -> None:
    configured = {"extensions": {"erasure_audit": {"record_pseudonyms": [value]}}}
    (tmp_path / "batch.json").write_text(
        json.dumps(
            [
                opendsr(value, "hmac-sha256"),
                opendsr() | configured | {"subject_request_id": UUID[:-1] + "2"},
            ]
        )
    )
    refused = read_batch(tmp_path / "batch.json")
    assert [entry.code for entry in refused if isinstance(entry, RefusedEntry)] == [
        "malformed",
        "malformed",
    ]
    assert not any(value.strip() in str(entry) for entry in refused)


def dummy_home(folder: Path) -> Path:
    home = folder / "home"
    home.mkdir()
    return home


def test_a_request_taken_in_holds_no_identity_and_is_resolved_as_before(tmp_path: Path) -> None:
    home = dummy_home(tmp_path)
    # no digest spells this name, as one spells "ada" now and then
    asked = opendsr(
        "lovelace", extensions={"erasure_audit": {"record_ids": ["r2", "r1"], "languages": ["zh"]}}
    )
    kept = pseudonymise.take_in(home, asked)
    assert "lovelace" not in str(vars(kept))
    assert "r1" not in json.dumps(dict(kept.wishes))
    hashed = opendsr(
        hashlib.sha256(b"lovelace").hexdigest(), "sha256", extensions=asked["extensions"]
    )
    assert pseudonymise.take_in(home, hashed).digest == kept.digest

    class Row:
        regulation, request_id, submitted = kept.regulation, kept.request_id, kept.submitted
        identities, wishes = kept.identities, kept.wishes

    (tmp_path / "batch.json").write_text(json.dumps([pseudonymise.as_entry(Row)]))
    manifest = pd.DataFrame(
        {
            "record_id": ["r1", "r2", "r3", "r4"],
            "subject_id": ["lovelace", "lovelace", "ada", "bob"],
        }
    )
    manifest["label"] = 0
    directory = read_directory(home / "data", manifest)
    forget = resolve.decide(
        read_batch(tmp_path / "batch.json"), manifest, np.full(4, "training"), directory
    ).forget
    assert forget.tolist() == [UUID, UUID, "", ""]


def test_an_unknown_record_given_as_a_pseudonym_sets_the_request_aside() -> None:
    manifest = pd.DataFrame({"record_id": ["r1"], "subject_id": ["ada"], "label": [0]})
    directory = Directory(["ada"], records=["r1"], key=lambda: KEY)
    who = SubjectIdentity(
        identity_type="controller_customer_id", identity_value="ada", identity_format="raw"
    )
    entry = Request(1, UUID, "gdpr", "2026-11-20T09:30:00Z", (who,), (KEY.of("record_id", "r9"),))
    assert (
        resolve.decide([entry], manifest, np.array(["training"]), directory).register[0]["code"]
        == "unknown_record"
    )


def test_callbacks_are_addresses_of_the_web(tmp_path: Path) -> None:
    home = dummy_home(tmp_path)
    good = ["https://controller.example/callback"]
    assert pseudonymise.take_in(home, opendsr(status_callback_urls=good)).callbacks == tuple(good)
    for bad in ("file:///etc/passwd", "https://a b", "https://a\0", "", "https://ä.example"):
        with pytest.raises(RequestError, match="status_callback_urls"):
            pseudonymise.take_in(home, opendsr(status_callback_urls=[bad]))


def test_the_environments_key_goes_before_the_workspaces_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = dummy_home(tmp_path)
    with pytest.raises(PseudonymError, match=pseudonyms.KEY):
        pseudonyms.load_key(home)
    own = pseudonyms.make(home)
    assert pseudonyms.make(home) == own == pseudonyms.load_key(home)
    assert (home / pseudonyms.FILE).stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(pseudonyms.KEY, "an operator's key of enough characters")
    assert pseudonyms.load_key(home) == pseudonyms.make(home) != own
    monkeypatch.setenv(pseudonyms.KEY, "too short")
    with pytest.raises(PseudonymError, match="9 characters, expected at least 32") as caught:
        pseudonyms.load_key(home)
    assert "too short" not in str(caught.value)


def test_a_key_in_a_prefect_block_reaches_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.system import Secret

    monkeypatch.setenv(pseudonyms.KEY, "")  # so that what is exported is undone
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/blocks/api")
    block = SimpleNamespace(get=lambda: "b" * 32)
    monkeypatch.setattr(Secret, "load", lambda name, _sync: block)
    assert pseudonymise.key_of(tmp_path) == PseudonymKey(b"b" * 32) == pseudonyms.load_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    home = dummy_home(tmp_path)
    pseudonyms.make(home)
    (home / pseudonyms.FILE).chmod(0o644)
    with pytest.raises(PseudonymError, match="chmod 600"):
        pseudonyms.load_key(home)


def test_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    home = dummy_home(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: pseudonyms.make(home).secret, range(32)))
    assert len(made) == 1
    assert sorted(path.name for path in (home / "keys").iterdir()) == [
        ".gitignore",
        "pseudonym.key",
    ]


@pytest.mark.parametrize("inside", ["", "team/audit"])
def test_a_stage_in_a_worktree_has_the_key_of_its_workspace(tmp_path: Path, inside: str) -> None:
    repository = tmp_path / "repository"
    home = repository / inside
    home.mkdir(parents=True)
    (home / "params.yaml").write_text("")
    shell.git(repository, "init", "--quiet")
    shell.git(repository, "add", ".")
    shell.git(
        repository,
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b.example",
        "commit",
        "--quiet",
        "-m",
        "begin",
    )
    for folder in (home / ".batches" / "one", tmp_path / "elsewhere" / "two"):
        shell.git(repository, "worktree", "add", "--quiet", "--detach", str(folder))
    key = pseudonyms.make(home)
    for folder in (home / ".batches" / "one", tmp_path / "elsewhere" / "two"):
        asked = (
            "from pathlib import Path; from tasks.requests import pseudonyms;"
            "print(pseudonyms.load_key(Path()).key_id)"
        )
        values = subprocess.run(
            [sys.executable, "-c", asked],
            cwd=folder / inside,
            env={**os.environ, **dummy.location()},
            capture_output=True,
            text=True,
            check=True,
        )
        assert values.stdout.strip() == key.key_id


def test_a_new_workspace_has_a_key_that_git_does_not_see(tmp_path: Path) -> None:
    from flows.workspace import layout

    layout.init(tmp_path / "new")
    assert pseudonyms.load_key(tmp_path / "new").key_id
    shell.git(tmp_path / "new", "add", ".")
    assert "pseudonym" not in shell.git(tmp_path / "new", "ls-files")
