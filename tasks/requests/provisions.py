"""Provisions of law that a decision on a request rests on."""

from __future__ import annotations

import re

from tasks.common.errors import RequestError
from tasks.requests.opendsr import REGULATIONS

LEGAL_HOLD = {"gdpr": "GDPR Art. 17(3)(e)"}
"""The provision of a legal hold where none is named, by regulation."""


def check(provision: str, regulation: str, request_id: str) -> None:
    """Refuse a provision of another law than the request's.

    A provision that names no law, such as `tax`, is accepted, and so is one that names the
    request's law beside others.

    Args:
        provision: such as `Art. 17(3)(e) GDPR`.
        regulation: of the request: `gdpr`, `ccpa`, `lgpd` or `pipl`.
        request_id: for the message.

    Raises:
        RequestError: it names one of these laws, but not the request's.
    """
    named = [
        law
        for law in REGULATIONS
        # no word boundary: Chinese text has no spaces around a name
        if re.search(rf"(?<![a-z]){law}(?![a-z])", provision, re.IGNORECASE)
    ]
    if named and regulation not in named:
        raise RequestError(
            f"got the ground {provision!r}, and request {request_id} is under the "
            f"{regulation.upper()}; name a provision of the {regulation.upper()}, beside others if "
            "need be"
        )


def of_hold(provision: str, regulation: str, request_id: str) -> str:
    """The provision of a legal hold: the one named, else the regulation's own.

    Raises:
        RequestError: it is of another law, or none is named and the regulation has no usual one.
    """
    if provision:
        check(provision, regulation, request_id)
        return provision
    if regulation not in LEGAL_HOLD:
        raise RequestError(
            f"got no ground of the hold; request {request_id} is under the {regulation.upper()}: "
            "name the provision (--ground)"
        )
    return LEGAL_HOLD[regulation]
