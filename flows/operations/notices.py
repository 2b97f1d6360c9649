"""Telling people: through Apprise or Prefect's notification blocks, each message at least once to
every channel.

A message is kept in `.register/notices/` until every channel has taken it, so one that is away for
a while gets it later. Messages name requests by their ids and hold no personal data.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.register.register import BusyError
from flows.workspace import environment
from tasks.common import files
from tasks.common.errors import AuditError

CHANNELS = "ERASURE_AUDIT_NOTIFY"
"""Names the secret with the channels, one per line: an Apprise URL, or `block://<type>/<name>` for
a Prefect block."""
OUTBOX = Path(".register/notices")
KEPT_DAYS = 14
"""Days after which a message that a channel did not take is given up."""

_BLOCK = "block://"
_log = logging.getLogger("erasure_audit")


@dataclass(frozen=True)
class Sent:
    """What became of messages: how often a channel took one, and how often one did not and is tried
    again."""

    taken: int
    waiting: int


def blocks() -> list[str]:
    """The Prefect blocks among the channels, `block://<type>/<name>`."""
    channels = (environment.secret(CHANNELS) or "").split()
    return [channel for channel in channels if channel.startswith(_BLOCK)]


def send(home: Path, title: str, body: str, key: str | None = None) -> Sent:
    """Tell all channels, and those that earlier messages still wait for. Never raises because a
    channel fails.

    Args:
        home: the workspace.
        title: one line.
        body: request ids, days, names of batches; no personal data.
        key: what makes the message the same as another one, which is not sent twice while it waits;
            None: its text.
    """
    _log.warning("%s: %s", title, body)
    channels = _channels()
    if channels is None or channels:
        name = _digest(key or f"{title}\n{body}")
        path = home / OUTBOX / f"{name}.json"
        if not path.exists():
            files.write_json(
                path,
                {
                    "title": title,
                    "body": body,
                    "left": channels and sorted(channels),
                    "since": time.time(),
                },
            )
    return _deliver(home, channels)


def deliver(home: Path) -> Sent:
    """Try again what channels did not take before."""
    return _deliver(home, _channels())


@contextlib.contextmanager
def of_failures(home: Path, what: str) -> Iterator[None]:
    """Tell that the work inside the block failed, and let its error go on. That somebody else does
    it is no failure."""
    try:
        yield
    except BusyError:
        raise
    except AuditError as error:
        send(home, f"{what} failed", str(error), key=f"{what} {datetime.now(UTC).date()}")
        raise


def _deliver(home: Path, channels: dict[str, str] | None) -> Sent:
    taken = waiting = 0
    if channels is None:
        return Sent(0, len(list((home / OUTBOX).glob("*.json"))))
    for path in sorted((home / OUTBOX).glob("*.json")):
        try:
            message = files.read_json(path)
        except AuditError:  # another process has just sent it
            continue
        wanted = channels if message["left"] is None else message["left"]
        known = [name for name in wanted if name in channels]
        left = [
            name for name in known if not _tell(channels[name], message["title"], message["body"])
        ]
        taken += len(known) - len(left)
        if left and time.time() - message["since"] < KEPT_DAYS * 86400:
            waiting += len(left)
            files.write_json(path, {**message, "left": left})
        else:
            path.unlink(missing_ok=True)
    return Sent(taken, waiting)


def _channels() -> dict[str, str] | None:
    """The channels, by what stands for them in files: their addresses hold passwords. None: nobody
    can say now."""
    try:
        lines = [line.strip() for line in (environment.secret(CHANNELS) or "").splitlines()]
    except Exception as error:  # Prefect's server, which may hold the secret, is away
        _log.warning(
            "The channels of notices are not known now (%s); they are told later",
            type(error).__name__,
        )
        return None
    return {_digest(line)[:12]: line for line in lines if line and not line.startswith("#")}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _tell(channel: str, title: str, body: str) -> bool:
    """Whether a channel took the message. What it says when it fails may hold its address, so only
    the kind is told."""
    kind = channel.partition(":")[0]
    try:
        done = (
            _by_block(channel, title, body)
            if channel.startswith(_BLOCK)
            else _by_apprise(channel, title, body)
        )
    except Exception as error:  # a channel is somebody else's code, and the work goes on without it
        _log.warning(
            "A channel of kind %s did not take a message (%s); it is tried again",
            kind,
            type(error).__name__,
        )
        return False
    if not done:
        _log.warning("A channel of kind %s did not take a message; it is tried again", kind)
    return done


def _by_apprise(channel: str, title: str, body: str) -> bool:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs addresses
    told = apprise.Apprise()
    return bool(told.add(channel)) and bool(told.notify(body=body, title=title))


def _by_block(channel: str, title: str, body: str) -> bool:
    from prefect.blocks.core import Block

    block: Any = Block.load(channel.removeprefix(_BLOCK), _sync=True)  # type: ignore[call-arg]
    block.notify(body, subject=title, _sync=True)
    return True
