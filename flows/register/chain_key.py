"""The key of the register's chain. It authenticates events; the database's owner need not have it.

It is the secret `ERASURE_AUDIT_CHAIN_KEY`, else the workspace's own file, which git ignores.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from flows.register.states import RegisterError
from flows.workspace import environment

KEY = "ERASURE_AUDIT_CHAIN_KEY"
"""Names the secret with the key, a random text."""
FILE = Path("keys/chain.key")
"""The workspace's own key, used if the secret is not set."""
SHORTEST = 32
"""Minimum length of a key, characters."""


@dataclass(frozen=True)
class ChainKey:
    """The key that authenticates events.

    Attributes:
        secret: the key itself.
        keeper: the name, in events, of the machine that adds them and keeps the chain's end
            outside the database (`kept_end.with_keeper`); None: events carry no name.
    """

    secret: bytes = field(repr=False)
    keeper: str | None = None

    def mac(self, event_hash: str) -> str:
        """HMAC-SHA256 of an event's hash, which covers all earlier events; 64 hex digits."""
        return hmac.digest(self.secret, event_hash.encode(), "sha256").hex()

    def vouches(self, event_hash: str, mac: str | None) -> bool:
        """Whether a MAC was made with this key."""
        return mac is not None and hmac.compare_digest(self.mac(event_hash), mac)


def load_key(home: Path) -> ChainKey | None:
    """The key, or None if there is none.

    Raises:
        RegisterError: it is too short, or others may read its file.
    """
    if text := environment.secret(KEY):
        return _parse(text, KEY)
    path = home / FILE
    try:
        with path.open(encoding="utf-8") as stream:
            if os.name == "posix" and os.fstat(stream.fileno()).st_mode & 0o077:
                raise RegisterError(f"{FILE}: others may read this key; chmod 600 {FILE}")
            return _parse(stream.read(), str(FILE))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RegisterError(
            f"{FILE}: the key cannot be read; restore it from its backup"
        ) from error


def make(home: Path) -> ChainKey:
    """The key; made if the workspace has none. Processes that start at once get the same one.

    Raises:
        RegisterError: as `load_key`, or the file cannot be written.
    """
    key = load_key(home)
    if key is not None:
        return key
    path = home / FILE
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = path.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
        with contextlib.suppress(FileExistsError):  # another process was first; its key counts
            path.hardlink_to(draft)
    except OSError as error:
        raise RegisterError(
            f"{FILE}: the key cannot be written ({error.strerror}); set {KEY} instead"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return make(home)


def _parse(text: str, source: str) -> ChainKey:
    text = text.strip()
    if len(text) < SHORTEST:
        raise RegisterError(
            f"{source}: got a key of {len(text)} characters, expected at least {SHORTEST}; "
            "`openssl rand -hex 32` makes one"
        )
    return ChainKey(text.encode(errors="surrogatepass"))
