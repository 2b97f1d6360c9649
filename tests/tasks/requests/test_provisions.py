"""A decision on a request names provisions of the request's own law."""

from __future__ import annotations

import pytest

from tasks.common.errors import RequestError
from tasks.requests import provisions


@pytest.mark.parametrize(
    "provision",
    ["Art. 17(3)(e) GDPR", "UK GDPR Art. 17", "tax law", "", "CCPA § 1798.105(d); gdpr Art. 17(3)"],
)
def test_a_provision_of_the_requests_law_or_of_no_named_law_is_accepted(provision: str) -> None:
    provisions.check(provision, "gdpr", "r1")


@pytest.mark.parametrize(
    ("provision", "regulation"),
    [
        ("Art. 17(3)(e) GDPR", "ccpa"),
        ("CCPA § 1798.105(d)", "pipl"),
        ("LGPD Art. 16", "gdpr"),
        ("依据GDPR第17条", "pipl"),
    ],
)
def test_a_provision_of_another_law_is_refused(provision: str, regulation: str) -> None:
    with pytest.raises(RequestError, match=f"r1 is under the {regulation.upper()}; name a"):
        provisions.check(provision, regulation, "r1")


def test_a_legal_hold_has_a_usual_provision_under_the_gdpr_alone() -> None:
    assert provisions.of_hold("", "gdpr", "r1") == "GDPR Art. 17(3)(e)"
    assert provisions.of_hold("CCPA § 1798.145", "ccpa", "r1") == "CCPA § 1798.145"
    with pytest.raises(RequestError, match="--ground"):
        provisions.of_hold("", "ccpa", "r1")
    with pytest.raises(RequestError, match="under the CCPA"):
        provisions.of_hold("GDPR Art. 17(3)(e)", "ccpa", "r1")
