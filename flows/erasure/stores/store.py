"""The interface of stores of copies, and the result of searching one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from flows.erasure.matcher import UNJUDGED, Judge
from tasks.common.errors import AuditError

EXAMPLES = 50
"""Maximum number of files that a receipt names."""


class StoreError(AuditError):
    """A store cannot be reached, listed or changed."""


@dataclass(frozen=True)
class FoundCopy:
    """A finding that must go: its address in the store, and its kind."""

    key: str
    kind: str


@dataclass
class Look:
    """The result of searching a store.

    Attributes:
        looked_at: number of things that were searched.
        findings: those that must go.
        foreign: number of files that hold or name a record or a person and are not the tool's.
        examples: masked names of some foreign files.
        unjudged: masked names of files that could not be judged.
    """

    looked_at: int = 0
    findings: list[FoundCopy] = field(default_factory=list)
    foreign: int = 0
    examples: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def add(self, key: str, kind: str | None, judge: Judge, is_ours: bool = True) -> None:
        """Add the judge's decision on one thing.

        Args:
            key: its address.
            kind: of the finding; None: it stays.
            judge: masks names.
            is_ours: whether the tool may erase it.
        """
        if kind is None:
            return
        if kind == UNJUDGED:
            self.unjudged.append(judge.names.masked(key))
        elif is_ours:
            self.findings.append(FoundCopy(key, kind))
        else:
            self.foreign += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(judge.names.masked(key))

    def objection(self, name: str) -> str | None:
        """Why copies may remain in the store; None: none remain."""
        reasons = []
        if self.foreign:
            reasons.append(
                f"{name}: {self.foreign} files that are not the tool's hold or name a record; "
                f"see to them ({', '.join(self.examples)})"
            )
        if self.unjudged:
            and_more = f" and {len(self.unjudged) - EXAMPLES} more" * (
                len(self.unjudged) > EXAMPLES
            )
            reasons.append(
                f"{name}: {len(self.unjudged)} files cannot be judged: unreadable, encrypted, "
                "damaged, packed too deep or in a way not known here, or a link to elsewhere "
                f"({', '.join(self.unjudged[:EXAMPLES])}{and_more})"
            )
        return "; ".join(reasons) or None


class Store(Protocol):
    """A store of copies."""

    @property
    def name(self) -> str:
        """Its name in receipts."""

    @property
    def part(self) -> str | None:
        """Its store in part 7 of the report; None: only receipts name it."""

    @property
    def held(self) -> str | None:
        """Why erased copies may still exist here; None: they are gone."""

    def look(self, judge: Judge, /) -> Look:
        """Search the store. Raises `StoreError` if it cannot be searched."""

    def erase(self, findings: Iterable[FoundCopy], /) -> None:
        """Erase these findings, if they still exist. Raises `StoreError` if that fails."""


class Witness:
    """A store that is only searched."""

    part: str | None = None
    held: str | None = None

    def erase(self, _findings: Iterable[FoundCopy], /) -> None:
        """See `Store`: the tool erases nothing here."""


@contextlib.contextmanager
def reaching(name: str) -> Iterator[None]:
    """Turn any error of a file system into a `StoreError` that names the store without its
    address."""
    try:
        yield
    except AuditError:
        raise
    except Exception as error:  # errors of object stores' clients have no common base
        raise StoreError(
            f"{name} cannot be reached ({type(error).__name__}); nothing there counts as erased. "
            "Make it reachable, and run the same command again"
        ) from error
