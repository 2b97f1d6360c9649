"""Notices to people, through Apprise or Prefect's notification blocks, at least once to every
channel.

A message is kept in `.register/notices/` until every channel has taken it, so a channel that is
down gets it later. Messages name requests by their ids and hold no personal data.
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
"""Days after which an undelivered message is given up."""

_BLOCK = "block://"
_log = logging.getLogger("erasure_audit")


@dataclass(frozen=True)
class Sent:
    """How many deliveries succeeded, and how many failed and will be tried again."""

    taken: int
    waiting: int


def blocks() -> list[str]:
    """The Prefect blocks among the channels, `block://<type>/<name>`."""
    channels = (environment.secret(CHANNELS) or "").split()
    return [channel for channel in channels if channel.startswith(_BLOCK)]


def send(home: Path, title: str, body: str, key: str | None = None) -> Sent:
    """Send a message to all channels, and earlier messages that still wait. Never raises because a
    channel fails.

    Args:
        home: the workspace.
        title: one line.
        body: request ids, days, names of batches; no personal data.
        key: a waiting message with the same key is not added twice; None: the text is the key.
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
    """Try again to deliver the waiting messages."""
    return _deliver(home, _channels())


@contextlib.contextmanager
def of_failures(home: Path, work: str) -> Iterator[None]:
    """Send a notice if the work inside the block fails, and raise its error again. `BusyError` is
    not a failure."""
    try:
        yield
    except BusyError:
        raise
    except AuditError as error:
        send(home, f"{work} failed", str(error), key=f"{work} {datetime.now(UTC).date()}")
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
        recipients = channels if message["left"] is None else message["left"]
        reachable = [name for name in recipients if name in channels]
        untaken = [
            name
            for name in reachable
            if not _send_to(channels[name], message["title"], message["body"])
        ]
        taken += len(reachable) - len(untaken)
        if untaken and time.time() - message["since"] < KEPT_DAYS * 86400:
            waiting += len(untaken)
            files.write_json(path, {**message, "left": untaken})
        else:
            path.unlink(missing_ok=True)
    return Sent(taken, waiting)


def _channels() -> dict[str, str] | None:
    """The channels by a digest that stands for them in files, since their addresses hold passwords.
    None: they cannot be read now."""
    try:
        lines = [line.strip() for line in (environment.secret(CHANNELS) or "").splitlines()]
    except Exception as error:  # Prefect's server, which may hold the secret, is away
        _log.warning(
            "The channels of notices cannot be read now (%s); they get the message later",
            type(error).__name__,
        )
        return None
    return {_digest(line)[:12]: line for line in lines if line and not line.startswith("#")}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _send_to(channel: str, title: str, body: str) -> bool:
    """Send a message to a channel; returns whether it was taken. Errors may hold the address, so
    only the channel's kind is logged."""
    kind = channel.partition(":")[0]
    try:
        was_taken = (
            _by_block(channel, title, body)
            if channel.startswith(_BLOCK)
            else _by_apprise(channel, title, body)
        )
    except Exception as error:  # a channel may raise anything; the work goes on without it
        _log.warning(
            "A channel of kind %s did not take a message (%s); it is tried again",
            kind,
            type(error).__name__,
        )
        return False
    if not was_taken:
        _log.warning("A channel of kind %s did not take a message; it is tried again", kind)
    return was_taken


def _by_apprise(channel: str, title: str, body: str) -> bool:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs addresses
    notifier = apprise.Apprise()
    return bool(notifier.add(channel)) and bool(notifier.notify(body=body, title=title))


def _by_block(channel: str, title: str, body: str) -> bool:
    from prefect.blocks.core import Block

    block: Any = Block.load(channel.removeprefix(_BLOCK), _sync=True)  # type: ignore[call-arg]
    block.notify(body, subject=title, _sync=True)
    return True
