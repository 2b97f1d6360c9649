"""Re-audit: each month a past audit is drawn and repeated, at the highest level that still can be
done.

The draw depends only on the month and the tags, so that anybody can predict and check it. Audits
that were repeated less often come first.
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
    """The outcome of a re-audit.

    Attributes:
        tag: of the audit; None: there is none yet.
        level: the highest level that could be done; None: none could.
        holds: whether the audit holds at that level.
        text: the outcome in a sentence.
        impossible: the higher levels, and why they could not be done.
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
    """The tag that is drawn for a month; None: nothing is tagged yet.

    Args:
        home: the workspace.
        register: knows the earlier re-audits.
        month: as 2026-11; None: this one.
    """
    tags = shell.git(home, "tag", "--list", "audit/*").split()
    times_done = Counter(event.details["tag"] for event in register.history(kind="reaudited"))
    fewest = [
        tag for tag in tags if times_done[tag] == min(times_done[other_tag] for other_tag in tags)
    ]
    drawn_month = month or datetime.now(UTC).strftime("%Y-%m")
    return min(
        fewest,
        key=lambda tag: hashlib.sha256(f"{drawn_month} {tag}".encode()).digest(),
        default=None,
    )


def run(
    home: Path,
    register: Register,
    batch: str | None = None,
    listener: stage_runner.Listener = stage_runner.nobody,
) -> Reaudit:
    """Repeat a past audit, record the outcome, and send a notice if it does not hold.

    Args:
        home: the workspace.
        register: its register.
        batch: its batch; None: the one that is drawn.
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
        reaudit = _with_comebacks(home, _at_highest_level(home, tag, listener))
        register.note(
            "reaudited",
            ACTOR,
            batch=tag.removeprefix("audit/"),
            tag=tag,
            level=reaudit.level,
            holds=reaudit.holds,
            text=reaudit.text,
        )
    if not reaudit.holds or (reaudit.impossible and not _anything_erased(home)):
        reasons = "".join(
            f"\n{level} was not possible: {why}" for level, why in reaudit.impossible.items()
        )
        notices.send(home, f"Re-audit of {tag}", reaudit.text + reasons)
    return reaudit


def _with_comebacks(home: Path, outcome: Reaudit) -> Reaudit:
    """Search for copies of erased records that came back; if there are any, it does not hold."""
    copies = comebacks.look(home)
    text = " ".join([outcome.text, *copies.lines])
    return replace(outcome, holds=outcome.holds and not copies, text=text)


def _at_highest_level(home: Path, tag: str, listener: stage_runner.Listener) -> Reaudit:
    """Try the levels from the highest down until one can be done. A level that fails is an
    outcome."""
    impossible: dict[str, str] = {}
    for level in LEVELS:
        try:
            comparison = reproduce.reproduce(home, tag, level, listener)
        except ReproductionError as error:
            impossible[level] = without_records(str(error))
        except AuditError as error:
            why = without_records(str(error))
            return Reaudit(
                tag, level, False, f"{tag}, level {level}: DOES NOT HOLD. {why}", impossible
            )
        else:
            counts = (
                f"{len(comparison.identical)} identical, {len(comparison.different)} different, "
                f"{len(comparison.missing)} not kept"
            )
            conclusion = "holds" if comparison else "DOES NOT HOLD"
            return Reaudit(
                tag,
                level,
                bool(comparison),
                f"{tag}, level {level}: {conclusion}. {counts}",
                impossible,
            )
    return Reaudit(tag, None, False, f"{tag}: nothing of it can be checked any more", impossible)


def _anything_erased(home: Path) -> bool:
    """Whether there was an erasure, after which earlier audits cannot be executed again."""
    return bool(shell.git(home, "tag", "--list", "erased/*"))
