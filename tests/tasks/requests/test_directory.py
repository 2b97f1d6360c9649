"""Identities lead to their data subject in every usual spelling; near misses are told as such."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.errors import DataError
from tasks.requests import pseudonyms
from tasks.requests.directory import Directory, read_directory
from tasks.requests.identities import canonical, spellings
from tasks.requests.opendsr import SubjectIdentity

KEY = pseudonyms.PseudonymKey(b"k" * 32)
UUID = "6D92078A-8246-4BA4-AE5B-76104861E7DC"


def identity(value: str, kind: str = "controller_customer_id", form: str = "raw") -> dict[str, str]:
    return {"identity_type": kind, "identity_value": value, "identity_format": form}


def named(*identities: dict[str, str]) -> list[SubjectIdentity]:
    return [SubjectIdentity.model_validate(values) for values in identities]


def test_an_identity_leads_to_its_subject_raw_and_hashed() -> None:
    directory = Directory(["ada", "bob"])
    digest = hashlib.sha256(b"ada").hexdigest()
    assert directory.subjects(named(identity("ada"))) == {"ada"}
    assert directory.subjects(named(identity(digest, form="sha256"))) == {"ada"}
    assert directory.subjects(named(identity(digest.upper(), form="sha256"))) == {"ada"}
    assert directory.subjects(named(identity(digest))) == set()
    assert directory.subjects(named(identity("ada", kind="email"))) == set()
    assert directory.subjects(named(identity("ada"), identity("bob"))) == {"ada", "bob"}


def test_other_identities_are_read_from_identities_csv(tmp_path: Path) -> None:
    manifest = pd.DataFrame({"subject_id": ["ada", "bob"], "record_id": ["r1", "r2"]})
    (tmp_path / "identities.csv").write_text(
        "identity_type,identity_value,subject_id\nemail,a@example.org,ada\n"
    )
    directory = read_directory(tmp_path, manifest)
    hashed = hashlib.sha256(b"a@example.org").hexdigest()
    assert directory.subjects(named(identity("a@example.org", "email"))) == {"ada"}
    assert directory.subjects(named(identity(hashed, "email", "sha256"))) == {"ada"}


def test_an_identity_of_nobody_in_the_manifest_is_refused_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "identities.csv").write_text(
        "identity_type,identity_value,subject_id\nemail,a@example.org,eve\n"
    )
    with pytest.raises(DataError, match="row 1") as caught:
        read_directory(tmp_path, pd.DataFrame({"subject_id": ["ada"], "record_id": ["r1"]}))
    assert "eve" not in str(caught.value)


def known(*rows: tuple[str, str]) -> Directory:
    """A directory of people 0, 1, … who are known by one identity each."""
    people = [str(number) for number in range(len(rows))]
    kinds, values = zip(*rows, strict=True)
    table = pd.DataFrame({"identity_type": kinds, "identity_value": values, "subject_id": people})
    return Directory(people, table, key=lambda: KEY)


SAME = [
    ("email", "Ada.Example@Example.org", "ada.example@example.ORG"),
    ("email", "bob@example.org ", "bob@example.org"),
    ("email_address", "eve@example.org", " eve@example.org"),
    ("email", unicodedata.normalize("NFD", "josé@example.org"), "josé@example.org"),
    ("ios_advertising_id", UUID, UUID.lower()),
    ("controller_customer_id", UUID.lower(), UUID),
    ("phone", "+49 170 123-4567", "0049 (0)170 1234567"),
    ("mobile_number", "+49 170 123-4567", "+49/170/1234567"),
    ("loyalty_card", "7", "7.0"),
]


@pytest.mark.parametrize(("kind", "written", "sent"), SAME)
def test_an_identity_is_found_in_another_spelling(kind: str, written: str, sent: str) -> None:
    for one, other in ((written, sent), (sent, written)):
        directory = known((kind, one), (kind, "somebody-else"))
        pseudonym = KEY.of(kind, other)
        assert directory.subjects(named(identity(other, kind))) == {"0"}
        assert directory.subjects(named(identity(pseudonym, kind, "hmac-sha256"))) == {"0"}
        for text in (canonical(kind, other), one):
            digest = hashlib.sha256(text.encode()).hexdigest()
            assert directory.subjects(named(identity(digest, kind, "sha256"))) == {"0"}
            by_hash = identity(KEY.of(kind, digest, "sha256"), kind, "hmac-sha256")
            assert directory.subjects(named(by_hash)) == {"0"}


NEAR = [
    ("controller_customer_id", "010", "10"),
    ("controller_customer_id", "Customer-7", "CUSTOMER 7"),
    ("email", "jose@example.org", "josé@example.org"),
    ("email", "ada+shop@example.org", "ada@example.org"),
    ("email", "ada@example.org", "mailto:Ada@example.org"),
    ("email", "ada@example.org", "Ada Example <ada@example.org>"),
    ("phone", "+491701234567", "0170 1234567"),
    ("phone", "+491701234567", "tel:+49-170-1234567"),
    ("phone", "+491701234567", "+49 170 1234567 ext. 12"),
    ("user_id", "6d92078a-8246-4ba4-ae5b-76104861e7dc", "{6D92078A82464BA4AE5B76104861E7DC}"),
    (
        "user_id",
        "6d92078a-8246-4ba4-ae5b-76104861e7dc",
        "urn:uuid:6d92078a-8246-4ba4-ae5b-76104861e7dc",
    ),
]


@pytest.mark.parametrize(("kind", "written", "sent"), NEAR)
def test_a_near_miss_is_told_and_is_no_match(kind: str, written: str, sent: str) -> None:
    directory, asked = known((kind, written)), named(identity(sent, kind))
    assert directory.subjects(asked) == set()
    assert directory.near_misses(asked) == (kind,)
    assert directory.near_misses(named(identity("nobody-at-all", kind))) == ()


def test_an_identity_under_another_type_is_a_near_miss_in_every_format() -> None:
    directory = known(("email", "ada@example.org"))
    digest = hashlib.sha256(b"ada@example.org").hexdigest()
    for value, form in (
        ("ada@example.org", "raw"),
        (digest, "sha256"),
        (KEY.of("loyalty_card", "ada@example.org"), "hmac-sha256"),
    ):
        asked = named(identity(value, "loyalty_card", form))
        assert directory.subjects(asked) == set()
        assert directory.near_misses(asked) == ("email",)


def test_one_identity_of_two_people_means_both() -> None:
    directory = known(("email", "shared@example.org"), ("email", "Shared@example.org"))
    assert directory.subjects(named(identity("SHARED@example.org", "email"))) == {"0", "1"}


@given(kind=st.sampled_from(["email", "phone", "card"]), value=st.text(max_size=20))
def test_a_canonical_form_stays_and_every_spelling_has_it(kind: str, value: str) -> None:
    form = canonical(kind, value)
    assert canonical(kind, form) == form
    assert {canonical(kind, text) for text in spellings(kind, value)} == {form}


def test_an_identity_that_is_blank_in_the_directory_is_nobodys() -> None:
    directory = known(("email", " "), ("email", "ada@example.org"))
    empty = hashlib.sha256(b"").hexdigest()
    assert directory.subjects(named(identity(empty, "email", "sha256"))) == set()
