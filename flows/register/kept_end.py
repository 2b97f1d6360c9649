"""The end of the register's chain, kept in a file outside its database after every commit.

The database's owner can cut off the last events or show an older backup, and the shorter chain
still is consistent. This file records how far the chain reached, and every later use of the
register compares the two. It is written after the commit, so after a kill it may be one transaction
behind but never ahead. Events name the machine that keeps an end, so a missing file raises an alarm
on that machine.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.register.chain import Head
from flows.register.chain_key import ChainKey
from flows.register.states import RegisterError

FILE = Path("keys/chain.end")
"""Beside the workspace's own keys, which git ignores. Each machine that uses a register has its
own."""
LOST = (
    f"{FILE} is gone, and this machine has kept the end of the chain there before: somebody "
    "removed it, or the register was moved or restored without it. Put the file back from its "
    "backup. If there is none, see that no events are missing (`erasure-audit requests list "
    "--all`, the branch register-chain), then accept the register as it is with `erasure-audit "
    "requests restored --by NAME --reason TEXT`"
)
"""The message when the file with the kept end is missing."""
SIZE = 256
"""Size of the file, bytes: one write of a fixed length replaces it, so it is never half-written."""


def with_keeper(home: Path, key: ChainKey, is_own_file: bool) -> ChainKey:
    """The key with the keeper's name that events carry. Without the key the name reveals nothing.

    Args:
        home: the workspace.
        key: of the chain.
        is_own_file: whether the register's database is the workspace's own file, which moves with
            it; else the name is made of the machine's name and the workspace's folder.
    """
    machine = "the workspace" if is_own_file else f"{platform.node()}\0{home.resolve()}"
    return replace(key, keeper=key.mac(f"keeper {machine}"))


@dataclass(frozen=True)
class KeptEnd:
    """The file of one workspace.

    Attributes:
        home: the workspace.
        key: of the chain; it also authenticates the file.
    """

    home: Path
    key: ChainKey = field(repr=False)

    def read(self) -> Head | None:
        """The kept end; None: none was kept yet.

        Raises:
            RegisterError: the file cannot be read, or was not made with the key.
        """
        try:
            descriptor = os.open(self.home / FILE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RegisterError(f"{FILE}: cannot be read ({error.strerror})") from error
        with _locked(descriptor, fcntl.LOCK_SH):
            return self._parse(os.read(descriptor, SIZE))

    def prepare(self) -> None:
        """Check that the file can be written, before anything is committed.

        Raises:
            RegisterError: it cannot.
        """
        os.close(self._open())

    def keep(self, head: Head) -> None:
        """Keep an end, unless a later one is kept already.

        Raises:
            RegisterError: the file cannot be written, or was not made with the key.
        """
        descriptor = self._open()
        with _locked(descriptor, fcntl.LOCK_EX):
            kept_head = self._parse(os.read(descriptor, SIZE))
            if kept_head is None or kept_head.seq < head.seq:
                self._write(descriptor, head)

    def replace(self, head: Head) -> None:
        """Replace a later end, whose loss a person accepted.

        Raises:
            RegisterError: the file cannot be written.
        """
        descriptor = self._open()
        with _locked(descriptor, fcntl.LOCK_EX):
            self._write(descriptor, head)

    def _write(self, descriptor: int, head: Head) -> None:
        facts = {"seq": head.seq, "hash": head.hash, "mac": self._mac(head)}
        os.pwrite(descriptor, json.dumps(facts).ljust(SIZE - 1).encode() + b"\n", 0)

    def _open(self) -> int:
        path = self.home / FILE
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = path.parent / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="utf-8")
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RegisterError(
                f"{FILE}: the end of the chain cannot be kept there ({error.strerror}); let the "
                "account that uses the register write it"
            ) from error

    def _parse(self, content: bytes) -> Head | None:
        if not content:
            return None
        try:
            facts = json.loads(content)
            head = Head(int(facts["seq"]), str(facts["hash"]))
            genuine = hmac.compare_digest(self._mac(head), str(facts["mac"]))
        except (ValueError, KeyError, TypeError):
            genuine = False
        if not genuine:
            raise RegisterError(
                f"{FILE} was not made with the chain's key: it was changed, or belongs to another "
                "register; find out which, and remove it only if the register is right"
            )
        return head

    def _mac(self, head: Head) -> str:
        return self.key.mac(f"kept end {head.seq} {head.hash}")


@contextmanager
def _locked(descriptor: int, mode: int) -> Iterator[None]:
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)
