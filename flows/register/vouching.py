"""A person vouches for a register where the chain alone cannot: an earlier version of the tool
wrote it, or it was restored from a backup.

For use in a transaction of the register.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from flows.register import chain
from flows.register.chain import BOUND, RESTORED, Head, Step
from flows.register.chain_key import ChainKey
from flows.register.states import RegisterError
from flows.register.tables import requests


def bind(connection: sa.Connection, key: ChainKey, actor: str, head: Head) -> Head:
    """Bind every request as it is now; see `register.Register.bind`. `key` is the chain's new key,
    and `head` its end, which was checked without a key."""
    ids = list(connection.scalars(sa.select(requests.c.request_id).order_by("request_id")))
    contents = chain.contents(connection, ids)
    steps = [Step(actor, name, None, BOUND, {}, content=contents[name]) for name in ids]
    return _appended(connection, key, steps or [Step(actor, None, None, BOUND, {})], head)


def accept_restored(
    connection: sa.Connection, key: ChainKey, actor: str, reason: str, kept_end: Head | None
) -> Head:
    """Go on from a backup; see `register.Register.accept_restored`. Without `kept_end`, the end
    that this machine kept, the file with it is gone."""
    head = chain.check(connection, key)
    if kept_end is None and not chain.has_keeper(connection, key.keeper):
        raise RegisterError("no end of the chain was ever kept here, so nothing has to be accepted")
    if kept_end is not None and chain.contains(connection, kept_end):
        raise RegisterError(
            f"the register holds event {kept_end.seq}, the last one that was kept here: nothing is "
            "lost, so nothing has to be accepted"
        )
    details = {
        "reason": reason,
        "kept_until": kept_end.seq if kept_end else "the file with the kept end was gone",
        "restored_until": head.seq,
    }
    return _appended(connection, key, [Step(actor, None, None, RESTORED, details)])


def _appended(
    connection: sa.Connection, key: ChainKey, steps: Sequence[Step], checked: Head | None = None
) -> Head:
    last = chain.append(connection, key, steps, after=checked)[-1]
    return Head(last.seq, last.hash)
