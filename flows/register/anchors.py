"""Anchors: ends of the register's chain, kept outside its database.

Two places in git hold them: `ledger/chain/<batch>.json` in every closed and released batch, and the
branch `register-chain`, to which every night, `finalize` and watch add a line. The branch is apart
from all others, so anchoring touches neither the work tree nor the index. Push it to a server that
the database's owner cannot write to.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from flows.register.chain import Head
from flows.register.encoding import now
from flows.register.register import Register
from flows.register.states import RegisterError
from flows.workspace import git, shell
from tasks.common import files
from tasks.common.errors import AuditError, WorkspaceError

HEADS = Path("ledger/chain")
"""Where git keeps the chain's end as it was when a batch was committed, `<batch>.json`."""
BRANCH = "register-chain"
LINES = "ledger/chain/daily.jsonl"
"""The file on that branch: a JSON object per line, the oldest first."""
TRIES = 3
"""How often a line is added again when another process adds one at the same time."""


def check(home: Path, register: Register) -> Head:
    """Check the register, with every end that git keeps.

    Raises:
        RegisterError: the register was changed, cut or replaced, or an anchor cannot be read.
    """
    return register.check_chain(heads(home))


def anchor(home: Path, register: Register) -> Head:
    """Check the register, then add its end to the branch `register-chain`.

    An end that is anchored already is not added again.

    Raises:
        RegisterError: as `check`; nothing is anchored.
        WorkspaceError: git cannot add it, for example because the workspace is in no repository.
    """
    head = check(home, register)
    for tries_left in reversed(range(TRIES)):
        lines = _lines(home)
        if head.seq == 0 or head in map(_head, lines):
            return head
        lines.append({"at": now(), "seq": head.seq, "hash": head.hash})
        try:
            _commit(home, lines)
        except WorkspaceError:  # another process may have been first
            if not tries_left:
                raise
    return head


def heads(home: Path) -> list[Head]:
    """The ends of the chain that git keeps, of batches and of days.

    Raises:
        RegisterError: one cannot be read.
    """
    kept = []
    for path in sorted((home / HEADS).glob("*.json")):
        try:
            kept.append(_head(files.read_json(path)))
        except (AuditError, KeyError, TypeError, ValueError) as error:
            raise RegisterError(
                f"{HEADS / path.name}: expected the end of the chain; `git checkout` brings it back"
            ) from error
    return kept + [_head(line) for line in _lines(home)]


def _head(value: Any) -> Head:
    return Head(int(value["seq"]), str(value["hash"]))


def _lines(home: Path) -> list[dict[str, Any]]:
    """What the branch holds; nothing where there is no branch."""
    if not git.has_branch(home, BRANCH):
        return []
    text = shell.git(home, "show", f"refs/heads/{BRANCH}:{LINES}")
    try:
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            _head(line)
    except (KeyError, TypeError, ValueError) as error:
        raise RegisterError(
            f"the branch {BRANCH}: {LINES} is damaged; `git log {BRANCH}` shows its earlier states"
        ) from error
    return lines


def _commit(home: Path, lines: list[dict[str, Any]]) -> None:
    """One commit on the branch. `git fast-import` needs no work tree, and refuses to drop commits
    that another process added meanwhile."""
    content = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    message = f"The register's chain ends with event {lines[-1]['seq']}\n"
    # a process that was killed while it anchored leaves git's lock
    git.break_lock(git.common_folder(home) / f"refs/heads/{BRANCH}.lock")
    known = git.has_branch(home, BRANCH)
    parent = f"from refs/heads/{BRANCH}^0\n" if known else ""
    commands = (
        f"commit refs/heads/{BRANCH}\n"
        f"committer Erasure Audit <erasure-audit@localhost> {int(time.time())} +0000\n"
        f"data {len(message.encode())}\n{message}{parent}"
        f"M 100644 inline {LINES}\ndata {len(content.encode())}\n{content}\n"
    )
    shell.git(home, "fast-import", "--quiet", text=commands)
