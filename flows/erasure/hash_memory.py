"""Memory of the hashes of files, so that a search for copies that came back reads only changed
files.

It holds keyed hashes (HMAC-SHA256 with the key of pseudonyms), so it reveals no file and no
content. A file counts as unchanged if its path, device, inode, size and times of change are the
same; the inode's time of change cannot be set by copying a file. Erasures do not rely on this
memory: they read every file.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from pathlib import Path

from tasks.common import files

FILE = Path(".erasure/seen")
"""A line per file: its keyed identity and the keyed hash of its content. Git ignores it."""
_SETTLED = 2.0
"""Age below which a changed file is not remembered, s: it could change again within the clock's
resolution."""


class HashMemory:
    """The memory of one workspace."""

    def __init__(self, home: Path, keyed: Callable[[str], str], secret: bytes) -> None:
        """Args:
        home: the workspace.
        keyed: the keyed hash of an MD5, as the lists of erased objects hold it.
        secret: the key of pseudonyms.
        """
        self._path, self._keyed, self._secret = home / FILE, keyed, secret
        self._before = self._read()
        self._now: dict[str, str] = {}

    def of_file(self, path: Path) -> str:
        """The keyed hash of a file.

        Raises:
            OSError: it cannot be read.
        """
        facts = path.stat()
        times = (facts.st_mtime_ns, facts.st_ctime_ns)
        identity = self._identity(path, facts.st_dev, facts.st_ino, facts.st_size, *times)
        settled = time.time() - max(times) / 1e9 > _SETTLED
        return self._once(identity, lambda: files.md5(path), settled)

    def of_object(self, oid: str, md5: Callable[[], str]) -> str:
        """The keyed hash of an object of git, which its id identifies."""
        return self._once(self._identity("git", oid), md5, settled=True)

    def write(self) -> None:
        """Write the hashes of this search, and drop all others."""
        if self._now != self._before:
            lines = [f"{identity} {keyed}" for identity, keyed in sorted(self._now.items())]
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            ignore = self._path.parent / ".gitignore"
            if not ignore.exists():
                files.write_text(ignore, "*\n")
            files.write_text(self._path, "\n".join([*lines, ""]))

    def _once(self, identity: str, md5: Callable[[], str], settled: bool) -> str:
        keyed = self._before.get(identity) or self._keyed(md5())
        if settled:
            self._now[identity] = keyed
        return keyed

    def _identity(self, *facts: object) -> str:
        text = "\0".join(map(str, facts)).encode(errors="surrogateescape")
        return hmac.digest(self._secret, b"erasure-audit/seen\0" + text, "sha256").hex()

    def _read(self) -> dict[str, str]:
        """The earlier hashes; empty if the file is missing or damaged, so all files are read."""
        try:
            lines = self._path.read_text(encoding="ascii").splitlines()
            return dict(line.split(" ") for line in lines)
        except (OSError, ValueError):
            return {}
