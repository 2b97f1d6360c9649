"""Re-audit: each month a past audit is drawn and done again, at the highest level that still holds.

Which one it is follows from the month and the tags, so anybody can foretell and check the draw; one
that was done less often goes before one that was done more often.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.erasure import comebacks
from flows.operations import notices
from flows.pipeline import close_batch, reproduce, stage_runner
from flows.register.register import Register
from flows.workspace import git, shell
from tasks.common.errors import AuditError, ReproductionError, without_records

ACTOR = "reaudit"
LEASE = "reaudit"
LEVELS: tuple[reproduce.Level, ...] = ("reexecute", "rederive", "integrity")


@dataclass(frozen=True)
class Reaudit:
    """What a re-audit found.

    Attributes:
        tag: the audit; None: there is none yet.
        level: the highest level that could be done; None: none could.
        holds: whether it holds at that level.
        text: all of it in a sentence.
        impossible: the levels above it, and why they could not be done.
    """

    tag: str | None
    level: str | None
    holds: bool
    text: str
    impossible: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def draw(home: Path, register: Register, month: str | None = None) -> str | None:
    """The tag that is due in a month; None: nothing is tagged yet.

    Args:
        home: the workspace.
        register: knows which audits were done again before.
        month: as 2026-11; None: this one.
    """
    tags = shell.git(home, "tag", "--list", "audit/*").split()
    done = Counter(event.details["tag"] for event in register.history(kind="reaudited"))
    fewest = [tag for tag in tags if done[tag] == min(done[each] for each in tags)]
    this = month or datetime.now(UTC).strftime("%Y-%m")
    return min(
        fewest, key=lambda tag: hashlib.sha256(f"{this} {tag}".encode()).digest(), default=None
    )


def run(
    home: Path,
    register: Register,
    batch: str | None = None,
    listener: stage_runner.Listener = stage_runner.nobody,
) -> Reaudit:
    """Do a past audit again, write the outcome down, and tell it if it does not hold.

    Args:
        home: the workspace.
        register: its register.
        batch: which; None: the one that is drawn.
        listener: told what happens to stages.

    Raises:
        BusyError: another re-audit runs.
        ReproductionError: there is no such audit.
    """
    with register.lease(LEASE):
        tag = close_batch.tag_of(batch) if batch else draw(home, register)
        if tag is None:
            return Reaudit(None, None, True, "No audit is tagged yet.", {})
        if not git.has_tag(home, tag):
            raise ReproductionError(f"no tag {tag}; `git tag --list 'audit/*'` lists the audits")
        found = _looked_again(home, _highest(home, tag, listener))
        register.note(
            "reaudited",
            ACTOR,
            batch=tag.removeprefix("audit/"),
            tag=tag,
            level=found.level,
            holds=found.holds,
            text=found.text,
        )
    if not found.holds or (found.impossible and not _anything_erased(home)):
        reasons = "".join(
            f"\n{level} was not possible: {why}" for level, why in found.impossible.items()
        )
        notices.send(home, f"Re-audit of {tag}", found.text + reasons)
    return found


def _looked_again(home: Path, outcome: Reaudit) -> Reaudit:
    """A re-audit also looks whether copies of erased records came back; then it does not hold."""
    again = comebacks.look(home)
    text = " ".join([outcome.text, *again.lines])
    return replace(outcome, holds=outcome.holds and not again, text=text)


def _highest(home: Path, tag: str, listener: stage_runner.Listener) -> Reaudit:
    """Go down the levels until one can be done; one that fails is an outcome, and no reason to go
    on."""
    impossible: dict[str, str] = {}
    for level in LEVELS:
        try:
            found = reproduce.reproduce(home, tag, level, listener)
        except ReproductionError as error:
            impossible[level] = without_records(str(error))
        except AuditError as error:
            why = without_records(str(error))
            return Reaudit(
                tag, level, False, f"{tag}, level {level}: DOES NOT HOLD. {why}", impossible
            )
        else:
            counted = (
                f"{len(found.identical)} identical, {len(found.different)} different, "
                f"{len(found.missing)} not kept"
            )
            told = "holds" if found else "DOES NOT HOLD"
            return Reaudit(
                tag, level, bool(found), f"{tag}, level {level}: {told}. {counted}", impossible
            )
    return Reaudit(tag, None, False, f"{tag}: nothing of it can be checked any more", impossible)


def _anything_erased(home: Path) -> bool:
    """After an erasure of anybody, audits of his time cannot be executed again; else that is
    news."""
    return bool(shell.git(home, "tag", "--list", "erased/*"))
