"""Anchors: ends of the register's chain, kept outside its database.

Git holds them in two places: `ledger/chain/<batch>.json` of every closed and released batch, and
the branch `register-chain`, to which every night, `finalize` and watch add a line. The branch
shares nothing with others, so anchoring changes neither work tree nor index. Push it to a server
that the database's owner cannot write to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.register.chain import Head
from flows.register.encoding import now
from flows.register.register import Register
from flows.register.states import RegisterError
from flows.workspace import git, shell, signing_keys
from tasks.common import files
from tasks.common.errors import AuditError, SignatureError, WorkspaceError
from tasks.signatures import time_stamps

HEADS = Path("ledger/chain")
"""Folder of the chain's end at the commit of a batch, `<batch>.json`."""
BRANCH = "register-chain"
LINES = "ledger/chain/daily.jsonl"
"""The file on that branch: a JSON object per line, the oldest first."""
TRIES = 3
"""How often to try to add a line when other processes add lines at the same time."""


_LOG = logging.getLogger("erasure_audit.anchors")


def check(home: Path, register: Register, every_stamp: bool = False) -> Head:
    """Check the register against every end that git keeps.

    Args:
        home: the workspace.
        register: its register.
        every_stamp: whether all time stamps are checked; else only the newest.

    Raises:
        RegisterError: the register was changed, cut or replaced, or an anchor or its time stamp
            is wrong.
    """
    return register.check_chain(heads(home, every_stamp))


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
        line = {"at": now(), "seq": head.seq, "hash": head.hash}
        lines.append(line | _stamped(home, line))
        try:
            _commit(home, lines)
        except WorkspaceError:  # another process may have been first
            if not tries_left:
                raise
    return head


def heads(home: Path, every_stamp: bool = False) -> list[Head]:
    """The ends of the chain that git keeps, from batches and from the branch.

    Args:
        home: the workspace.
        every_stamp: whether all time stamps are checked; else only the newest.

    Raises:
        RegisterError: one cannot be read, or its time stamp is wrong or missing.
    """
    ends = []
    for path in sorted((home / HEADS).glob("*.json")):
        try:
            ends.append(_head(files.read_json(path)))
        except (AuditError, KeyError, TypeError, ValueError) as error:
            raise RegisterError(
                f"{HEADS / path.name}: expected the end of the chain; `git checkout` brings it back"
            ) from error
    lines = _lines(home)
    _check_stamps(home, lines if every_stamp else lines[-1:])
    return ends + [_head(line) for line in lines]


def _head(value: Any) -> Head:
    return Head(int(value["seq"]), str(value["hash"]))


def _digest(line: dict[str, Any]) -> bytes:
    """The digest that an anchor's time stamp covers: SHA-256 of `<seq> <hash>`."""
    return hashlib.sha256(f"{line['seq']} {line['hash']}".encode()).digest()


def _stamped(home: Path, line: dict[str, Any]) -> dict[str, str]:
    """The time stamp of a new line, if the settings name an authority.

    Raises:
        RegisterError: the authority gives none, and one is required.
    """
    stamper = signing_keys.stamper(home)
    if stamper is None:
        return {}
    try:
        return {"stamp": base64.b64encode(stamper.stamp(_digest(line))).decode()}
    except SignatureError as error:
        if signing_keys.stamp_policy(home).required:
            raise RegisterError(f"the end of the chain is not kept in git: {error}") from error
        _LOG.warning("The end of the register's chain is kept without a time stamp: %s", error)
        return {}


def _check_stamps(home: Path, lines: Iterable[dict[str, Any]]) -> None:
    policy = signing_keys.stamp_policy(home) if lines else time_stamps.StampPolicy()
    for line in lines:
        stamp = None
        try:
            if "stamp" in line:
                token = base64.b64decode(line["stamp"], validate=True)
                stamp = time_stamps.check(token, _digest(line), policy.authorities)
                stamp.refuse_unless_near(datetime.fromisoformat(line["at"]))
            objection = policy.objection(stamp)
        except (SignatureError, binascii.Error, KeyError, TypeError, ValueError) as error:
            objection = str(error)
        if objection:
            raise RegisterError(
                f"the branch {BRANCH}: the end at event {line['seq']} does not count: {objection}"
            )


def _lines(home: Path) -> list[dict[str, Any]]:
    """The lines of the branch; empty if there is no branch."""
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
    """Add a commit to the branch. `git fast-import` needs no work tree, and refuses to drop commits
    that another process added meanwhile."""
    content = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    message = f"The register's chain ends with event {lines[-1]['seq']}\n"
    # a process that was killed here leaves git's lock
    git.break_lock(git.common_folder(home) / f"refs/heads/{BRANCH}.lock")
    has_branch = git.has_branch(home, BRANCH)
    parent = f"from refs/heads/{BRANCH}^0\n" if has_branch else ""
    commands = (
        f"commit refs/heads/{BRANCH}\n"
        f"committer Erasure Audit <erasure-audit@localhost> {int(time.time())} +0000\n"
        f"data {len(message.encode())}\n{message}{parent}"
        f"M 100644 inline {LINES}\ndata {len(content.encode())}\n{content}\n"
    )
    shell.git(home, "fast-import", "--quiet", text=commands)
