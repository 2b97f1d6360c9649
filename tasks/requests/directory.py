"""Find the data subject of a request by its identities."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.common import files
from tasks.common.errors import DataError, PseudonymError
from tasks.requests import pseudonyms
from tasks.requests.identities import canonical, loose, near_spellings, spellings

if TYPE_CHECKING:
    import pandas as pd

    from tasks.requests.opendsr import Request, SubjectIdentity

COLUMNS = ("identity_type", "identity_value", "subject_id")
"""Columns of `identities.csv`."""

_Form = TypeVar("_Form", bound=Hashable)

CUSTOMER_ID = "controller_customer_id"
"""Type of identity under which every subject id is known."""


class Directory:
    """The known identities. It holds personal data, which is never shown."""

    def __init__(
        self,
        subjects: Iterable[str],
        identities: pd.DataFrame | None = None,
        records: Sequence[str] = (),
        key: Callable[[], pseudonyms.PseudonymKey] = lambda: pseudonyms.load_key(Path()),
    ) -> None:
        """Args:
        subjects: subject ids; each is the `controller_customer_id` of its subject.
        identities: other identities, with `COLUMNS`.
        records: record ids, of which requests may hold pseudonyms.
        key: gives the key of pseudonyms; called only for a batch that has some.
        """
        self._written = {((CUSTOMER_ID, subject), subject) for subject in subjects}
        if identities is not None:
            columns = (identities[name].tolist() for name in COLUMNS)
            self._written |= {
                ((kind, value), subject)
                for kind, value, subject in zip(*columns, strict=True)
                if canonical(kind, value)  # a blank identity must not match everybody without one
            }
        self._canonical = _collected(
            ((kind, canonical(kind, value)), subject) for (kind, value), subject in self._written
        )
        self._hashed: dict[tuple[str, str], set[str]] = {}
        self._pseudonyms: dict[str, set[str]] = {}
        self._near: dict[tuple[str, str], dict[str, set[str]]] = {}
        self._records, self._record_pseudonyms = records, dict[str, str]()
        self._get_key = key
        self._key: pseudonyms.PseudonymKey | None = None

    def subjects(self, identities: Iterable[SubjectIdentity]) -> set[str]:
        """The data subjects that have one of these identities: none if unknown, several if the
        identities contradict each other. Canonical forms are compared
        (`tasks.requests.identities`).

        Raises:
            PseudonymError: an identity is a pseudonym, and the key at hand is missing or another
                one.
        """
        subjects: set[str] = set()
        for identity in identities:
            kind, value = identity.identity_type, identity.identity_value
            if identity.identity_format == "raw":
                subjects |= self._canonical.get((kind, canonical(kind, value)), set())
            elif identity.identity_format == "sha256":
                subjects |= self._by_digest().get((kind, value.lower()), set())
            else:
                self._key_of(value)
                subjects |= self._by_pseudonym().get(value, set())
        return subjects

    def near_misses(self, identities: Iterable[SubjectIdentity]) -> tuple[str, ...]:
        """The types of identities on record that are nearly, but not exactly, one of these: another
        case, accent, sign, leading zero, country code or e-mail tag, or another type.

        Raises:
            PseudonymError: as `subjects`.
        """
        types: set[str] = set()
        for identity in identities:
            if not self.subjects([identity]):
                types |= self._near_types(identity)
        return tuple(sorted(types))

    def record_ids(self, entry: Request) -> tuple[str, ...]:
        """The record ids that a request names, pseudonyms resolved; one that no record has stays as
        it is.

        Raises:
            PseudonymError: as `subjects`.
        """
        names = (
            self._record(name) if pseudonyms.FORM.fullmatch(name) else name
            for name in entry.record_ids
        )
        return tuple(dict.fromkeys(names))

    def _by_digest(self) -> dict[tuple[str, str], set[str]]:
        if not self._hashed:  # only a batch that needs it pays for hashing every subject
            self._hashed = _collected(
                ((kind, pseudonyms.sha256(form)), subject)
                for (kind, value), subject in self._written
                for form in spellings(kind, value)
            )
        return self._hashed

    def _by_pseudonym(self) -> dict[str, set[str]]:
        if not self._pseudonyms:
            key = self._load_key()
            self._pseudonyms = _collected(
                (key.of(kind, digest, "sha256"), subject)
                for (kind, digest), subjects in self._by_digest().items()
                for subject in subjects
            )
        return self._pseudonyms

    def _near_types(self, identity: SubjectIdentity) -> set[str]:
        kind, value = identity.identity_type, identity.identity_value
        raw = identity.identity_format == "raw"
        forms = {loose(kind, value), loose("", value)} if raw else {value.lower()}
        if (key := (identity.identity_format, kind)) not in self._near:
            self._near[key] = _collected(self._nearly(*key))
        return set().union(*(self._near[key].get(form, set()) for form in forms))

    def _nearly(self, form: str, kind: str) -> Iterator[tuple[str, str]]:
        """Forms that are nearly an identity on record, in this format and type, each with the type
        on record."""
        for (known_kind, value), _ in self._written:
            if form == "raw":
                yield loose("", value), known_kind
                if known_kind == kind:
                    yield loose(kind, value), known_kind
                continue
            for text in (*spellings(known_kind, value), *near_spellings(known_kind, value)):
                digest = pseudonyms.sha256(text)
                if form == "hmac-sha256":
                    digest = self._load_key().of(kind, digest, "sha256")
                yield digest, known_kind

    def _record(self, pseudonym: str) -> str:
        key = self._key_of(pseudonym)
        if not self._record_pseudonyms:
            self._record_pseudonyms = {
                key.of(pseudonyms.RECORD, name): name for name in self._records
            }
        return self._record_pseudonyms.get(pseudonym, pseudonym)

    def _load_key(self) -> pseudonyms.PseudonymKey:
        if self._key is None:
            self._key = self._get_key()
        return self._key

    def _key_of(self, pseudonym: str) -> pseudonyms.PseudonymKey:
        """The current key, which must be the one that the pseudonym was made with."""
        key = self._load_key()
        if not key.has_made(pseudonym):
            raise PseudonymError(
                f"the batch holds pseudonyms of key {pseudonym[:8]}, and the key at hand is "
                f"{key.key_id}; set {pseudonyms.KEY} to the key that the requests were taken in "
                "with"
            )
        return key


def _collected(pairs: Iterable[tuple[_Form, str]]) -> dict[_Form, set[str]]:
    collected: dict[_Form, set[str]] = {}
    for form, subject in pairs:
        collected.setdefault(form, set()).add(subject)
    return collected


def read_identities(folder: Path) -> pd.DataFrame | None:
    """The table `identities.csv` of a data folder, with `COLUMNS` as strings; None where there is
    none.

    Raises:
        DataError: it is no CSV in UTF-8, or a column is missing.
    """
    path = folder / "identities.csv"
    return files.read_csv(path, COLUMNS) if path.exists() else None


def read_directory(folder: Path, manifest: pd.DataFrame) -> Directory:
    """The directory of a data set: its subject ids, its record ids, and `identities.csv` where
    there is one.

    The key of pseudonyms is that of the workspace around the folder.

    Raises:
        DataError: `identities.csv` lacks a column or names a subject that the manifest has not;
            names the row.
    """
    subjects = manifest["subject_id"].unique().tolist()
    identities = read_identities(folder)
    if identities is not None:
        _refuse_foreign(identities, subjects)
    return Directory(
        subjects,
        identities,
        manifest["record_id"].tolist(),
        lambda: pseudonyms.load_key(folder.absolute().parent),
    )


def _refuse_foreign(identities: pd.DataFrame, subjects: list[str]) -> None:
    foreign = ~identities["subject_id"].isin(subjects).to_numpy(bool)
    if foreign.any():
        more = int(foreign.sum()) - 1
        raise DataError(
            f"identities.csv: row {int(foreign.argmax()) + 1}{f' and {more} more' if more else ''} "
            "name a subject that manifest.csv has not; correct the subject_id or remove the row"
        )
