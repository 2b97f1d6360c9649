"""What every store of copies can do, and what one look at it brings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from flows.erasure.matcher import UNJUDGED, Judge
from tasks.common.errors import AuditError

EXAMPLES = 50
"""How many files a receipt names."""


class StoreError(AuditError):
    """A store cannot be reached, listed or changed."""


@dataclass(frozen=True)
class FoundCopy:
    """Something that has to go: where it lies in its store, and of which kind it is."""

    key: str
    kind: str


@dataclass
class Look:
    """What one look at a store brought.

    Attributes:
        looked_at: how many things were looked at.
        findings: which of them have to go.
        foreign: what holds or names a record or a person, and is not the tool's to erase.
        examples: some of the foreign, by names that name nobody.
        unjudged: what could not be judged, by names that name nobody.
    """

    looked_at: int = 0
    findings: list[FoundCopy] = field(default_factory=list)
    foreign: int = 0
    examples: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def add(self, key: str, kind: str | None, judge: Judge, ours: bool = True) -> None:
        """Note what the judge said of one thing.

        Args:
            key: where it lies.
            kind: of the finding; None: it stays.
            judge: who also knows which names must not be repeated.
            ours: whether the tool may erase it.
        """
        if kind is None:
            return
        if kind == UNJUDGED:
            self.unjudged.append(judge.names.masked(key))
        elif ours:
            self.findings.append(FoundCopy(key, kind))
        else:
            self.foreign += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(judge.names.masked(key))

    def objection(self, name: str) -> str | None:
        """Why it cannot be said that nothing is left in the store; None where it can."""
        reasons = []
        if self.foreign:
            reasons.append(
                f"{name}: {self.foreign} files that are not the tool's hold or name a record; "
                f"see to them ({', '.join(self.examples)})"
            )
        if self.unjudged:
            more = f" and {len(self.unjudged) - EXAMPLES} more" * (len(self.unjudged) > EXAMPLES)
            reasons.append(
                f"{name}: {len(self.unjudged)} files cannot be judged: unreadable, encrypted, "
                "damaged, packed too deep or in a way not known here, or a link to elsewhere "
                f"({', '.join(self.unjudged[:EXAMPLES])}{more})"
            )
        return "; ".join(reasons) or None


class Store(Protocol):
    """A place with copies."""

    @property
    def name(self) -> str:
        """How receipts call it."""

    @property
    def part(self) -> str | None:
        """The store in part 7 of the report that it belongs to; None: it is in the receipts
        only."""

    @property
    def held(self) -> str | None:
        """Why it cannot be said that a thing erased here is gone; None where it can."""

    def look(self, judge: Judge, /) -> Look:
        """Everything in it that has to go. Raises `StoreError` where it cannot be looked at."""

    def erase(self, findings: Iterable[FoundCopy], /) -> None:
        """Erase these; what is gone already is let be. Raises `StoreError` where that cannot be
        done."""


class Witness:
    """A store that is looked at only."""

    part: str | None = None
    held: str | None = None

    def erase(self, _findings: Iterable[FoundCopy], /) -> None:
        """See `Store`: nothing here is the tool's to erase."""


@contextlib.contextmanager
def reached(name: str) -> Iterator[None]:
    """Turn whatever a file system raises into one error that names the store, and not where it
    lies."""
    try:
        yield
    except AuditError:
        raise
    except Exception as error:  # clients of object stores have errors without a common root
        raise StoreError(
            f"{name} cannot be reached ({type(error).__name__}); nothing there counts as erased. "
            "See that it can be, and run the same command again"
        ) from error
