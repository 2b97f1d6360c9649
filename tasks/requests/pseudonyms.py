"""Keyed pseudonyms, which replace identities and record ids wherever a request is kept.

A pseudonym is HMAC-SHA256(key, type NUL SHA-256 of the canonical value in hexadecimal), so an
identity sent in the clear matches the same identity sent as a hash, and so do two spellings of it
(`tasks.requests.identities`). Without the key, nobody can find a name by trying. In files it is
written `<key id>:<hexadecimal>`, so that a wrong key is an error and not an unknown person.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.common.errors import PseudonymError
from tasks.requests.identities import canonical

KEY = "ERASURE_AUDIT_PSEUDONYM_KEY"
"""Environment variable with the key, a random text."""
FILE = Path("keys/pseudonym.key")
"""The workspace's own key, used without the variable; git does not track it."""
SHORTEST = 32
"""Fewest characters of a key."""
FORM = re.compile(r"[0-9a-f]{8}:[0-9a-f]{64}")
"""Form of a pseudonym in files."""
RECORD = "record_id"
"""Type under which record ids become pseudonyms; it is not a type of identity."""

_HINT = f"`openssl rand -hex 32` makes one; see {KEY} in docs/requests.md"


@dataclass(frozen=True)
class PseudonymKey:
    """A key of pseudonyms. Its id reveals nothing about it."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """8 hexadecimal digits by which a file says which key it needs."""
        return hashlib.sha256(b"erasure-audit/pseudonym-key\0" + self.secret).hexdigest()[:8]

    def of(self, identity_type: str, value: str, identity_format: str = "raw") -> str:
        """The pseudonym of an identity, `<key id>:<hexadecimal>`.

        Args:
            identity_type: as the request or `identities.csv` names it.
            value: the identity, or its SHA-256 in hexadecimal digits.
            identity_format: `raw` or `sha256`.
        """
        if identity_format == "sha256":
            digest = value.lower()
        else:
            digest = sha256(value if identity_type == RECORD else canonical(identity_type, value))
        message = f"{identity_type}\0{digest}".encode(errors="surrogatepass")
        return f"{self.key_id}:{hmac.digest(self.secret, message, 'sha256').hex()}"

    def has_made(self, pseudonym: str) -> bool:
        """Whether a pseudonym was made with this key."""
        return pseudonym.startswith(f"{self.key_id}:")


def load_key(workspace: Path) -> PseudonymKey:
    """The key from the environment, else the workspace's own; a git worktree uses that of its
    workspace.

    So stages find the key wherever they run.

    Raises:
        PseudonymError: there is none, it is too short, or others may read its file.
    """
    key = _find_key(workspace)
    if key is None:
        raise PseudonymError(
            f"no key of pseudonyms; set {KEY} to the key that the requests were taken in with, or "
            f"bring {FILE} back"
        )
    return key


def make(workspace: Path) -> PseudonymKey:
    """The current key; if there is none, one is made. Two processes that make one at the same time
    get the same key.

    Raises:
        PseudonymError: as `load_key`.
    """
    if (key := _find_key(workspace)) is not None:
        return key
    path = workspace / FILE
    path.parent.mkdir(mode=0o700, exist_ok=True)
    ignore = path.parent / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
        with contextlib.suppress(
            FileExistsError
        ):  # another process was first, and its key is the one
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    return load_key(workspace)


def read(text: str, where: str) -> PseudonymKey:
    """A key from its text.

    Raises:
        PseudonymError: it is too short to be one.
    """
    text = text.strip()
    if len(text) < SHORTEST:
        raise PseudonymError(
            f"{where}: got a key of {len(text)} characters, expected at least {SHORTEST}; {_HINT}"
        )
    return PseudonymKey(text.encode(errors="surrogatepass"))


def sha256(value: str) -> str:
    """SHA-256 of a value, 64 hexadecimal digits, as an identity of format `sha256` is written."""
    return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()


def _find_key(workspace: Path) -> PseudonymKey | None:
    if from_environment := os.environ.get(KEY):
        return read(from_environment, KEY)
    for path in _key_paths(workspace.resolve()):
        try:
            with path.open(encoding="utf-8") as stream:
                if os.name == "posix" and os.fstat(stream.fileno()).st_mode & 0o077:
                    raise PseudonymError(f"{path}: others may read this key; chmod 600 {path}")
                return read(stream.read(), str(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise PseudonymError(
                f"{path}: the key of pseudonyms cannot be read; {_HINT}"
            ) from error
    return None


def _key_paths(workspace: Path) -> Iterator[Path]:
    """Where the key may be: in the workspace, and in the one whose git worktree it is
    (gitrepository-layout)."""
    yield workspace / FILE
    for root in (workspace, *workspace.parents):
        if (root / ".git").is_file():
            git_folder = Path(
                (root / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()
            )
            with contextlib.suppress(OSError):  # a submodule has no commondir
                common = (
                    root
                    / git_folder
                    / (root / git_folder / "commondir").read_text(encoding="utf-8").strip()
                )
                yield common.resolve().parent / workspace.relative_to(root) / FILE
            if root.parent.name == ".batches":
                yield root.parent.parent / FILE
            return
