"""The key that signs reports, and the keys and authorities that are trusted.

A key comes from the environment, never from settings, so that it never gets into a parameter, log
or commit. Without one, the workspace's development key signs. The public keys in `trusted-keys/`,
which git keeps, are trusted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from flows.workspace import environment
from tasks.common import files, settings
from tasks.common.errors import SignatureError
from tasks.signatures import keys, time_stamps

Trusted = TypeVar("Trusted")

FILE = "ERASURE_AUDIT_KEY"
"""Environment variable: path of the PEM file with the signing key."""
PEM, PASSPHRASE = environment.KEY_PEM, environment.KEY_PASSPHRASE
"""Environment variables: the PEM itself, which takes precedence over the file, and the passphrase
of an encrypted key."""

DEVELOPMENT = Path("keys/development.pem")
TRUSTED = Path("trusted-keys")
TRUSTED_AUTHORITIES = Path("trusted-tsa")
"""Certificates of time-stamping authorities, or of their issuers."""


def load_key(workspace: Path) -> keys.SigningKey | None:
    """The key to sign with: from the environment, else the workspace's development key, else None.

    Raises:
        SignatureError: the named key cannot be read, others may read its file, or it is not an
            Ed25519 key.
    """
    passphrase = os.environ.get(PASSPHRASE)
    if pem := os.environ.get(PEM):
        return keys.read_key(pem.encode(), passphrase)
    if path := os.environ.get(FILE):
        return keys.read_key(_secret(Path(path)), passphrase)
    development = workspace / DEVELOPMENT
    return keys.read_key(_secret(development)) if development.is_file() else None


def described(key: keys.SigningKey | None) -> dict[str, Any] | None:
    """A key as the batch's record and the evidence describe it."""
    if key is None:
        return None
    return {
        "algorithm": keys.ALGORITHM,
        "key_id": key.signer.key_id,
        "development": key.signer.development,
    }


def make_development(workspace: Path) -> None:
    """Make the workspace's development key if it has none, and trust it there. Git ignores the
    private key."""
    path = workspace / DEVELOPMENT
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    files.write_text(path.parent / ".gitignore", "*\n")
    pem = keys.make_key(development=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(pem)
    key = keys.read_key(pem)
    files.write_bytes(
        workspace / TRUSTED / f"development-{key.signer.key_id[:8]}.pem", keys.public_pem(key)
    )


def trusted(workspace: Path | None, further: Iterable[Path] = ()) -> list[keys.Signer]:
    """The trusted signers: those of the workspace's `trusted-keys/` and the further ones.

    Raises:
        SignatureError: a file holds no Ed25519 public key or certificate.
    """
    kept_files = sorted((workspace / TRUSTED).glob("*.pem")) if workspace else []
    return [_public(path) for path in (*kept_files, *further)]


def stamper(workspace: Path) -> time_stamps.Stamper | None:
    """The authority to ask for time stamps; None if the settings name none.

    Raises:
        SignatureError: a certificate in `trusted-tsa/` cannot be read.
        SettingsError: `params.yaml` cannot be used.
    """
    url = settings.load(workspace / "params.yaml").operate.time_stamps
    return None if url is None else time_stamps.Stamper(url, stamp_policy(workspace).authorities)


def stamp_policy(
    workspace: Path | None, further: Iterable[Path] = (), required: bool = False
) -> time_stamps.StampPolicy:
    """Which authorities are trusted, and whether a time stamp is required.

    Args:
        workspace: its settings and `trusted-tsa/` count; None: there is no workspace.
        further: further certificates.
        required: whether a time stamp is required, whatever the settings say.

    Raises:
        SignatureError: a file holds no certificate.
        SettingsError: `params.yaml` cannot be used.
    """
    kept_files = sorted((workspace / TRUSTED_AUTHORITIES).glob("*.pem")) if workspace else []
    chosen = settings.load(workspace / "params.yaml").operate if workspace else None
    return time_stamps.StampPolicy(
        tuple(_authority(path) for path in (*kept_files, *further)),
        required or bool(chosen and chosen.require_time_stamps),
    )


def _authority(path: Path) -> time_stamps.Authority:
    return _read(path, time_stamps.read_authority, "a certificate")


def _public(path: Path) -> keys.Signer:
    return _read(path, keys.read_signer, "a public key")


def _read(path: Path, parse: Callable[[bytes], Trusted], expected: str) -> Trusted:
    """The parsed content of a PEM file; errors name the file."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise SignatureError(
            f"{path}: cannot be read ({error.strerror}); expected {expected} as PEM"
        ) from error
    except SignatureError as error:
        raise SignatureError(f"{path}: {error}") from error


def _secret(path: Path) -> bytes:
    """The content of a private key's file, which only its owner may read."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if os.name == "posix" and mode & 0o077:
                raise SignatureError(f"{path}: others may read this signing key; chmod 600 {path}")
            return stream.read()
    except OSError as error:
        raise SignatureError(
            f"{path}: the signing key cannot be read ({error.strerror}); see ${FILE}"
        ) from error
