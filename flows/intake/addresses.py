"""Public IP addresses, by the registries of IANA as of November 2026.

Python's `ipaddress` has the registries of its own release: it lacks later entries, and counts some
translated addresses as global. Sources: iana-ipv4-special-registry,
iana-ipv6-special-registry, ipv6-address-space (RFC 6890 and its updates).
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPV4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network, RFC 791
            "10.0.0.0/8",  # private use, RFC 1918
            "100.64.0.0/10",  # shared address space, RFC 6598
            "127.0.0.0/8",  # loopback, RFC 1122
            "169.254.0.0/16",  # link local, RFC 3927
            "172.16.0.0/12",  # private use, RFC 1918
            "192.0.0.0/24",  # IETF protocol assignments, RFC 6890
            "192.0.2.0/24",  # documentation, RFC 5737
            "192.31.196.0/24",  # AS112, RFC 7535
            "192.52.193.0/24",  # AMT, RFC 7450
            "192.88.99.0/24",  # deprecated 6to4 relays, RFC 7526
            "192.168.0.0/16",  # private use, RFC 1918
            "192.175.48.0/24",  # AS112, RFC 7534
            "198.18.0.0/15",  # benchmarking, RFC 2544
            "198.51.100.0/24",  # documentation, RFC 5737
            "203.0.113.0/24",  # documentation, RFC 5737
            "224.0.0.0/4",  # multicast, RFC 1112
            "240.0.0.0/4",  # reserved and limited broadcast, RFC 1112
        ),
    )
)
"""IPv4 networks to which no callback is sent."""
IPV6_GLOBAL = IPv6Network("2000::/3")
"""The network for global unicast. All others are refused, also `fec0::/10` and mapped and
translated forms (`::ffff:0:0/96`, `64:ff9b::/96`, `64:ff9b:1::/48`)."""
IPV6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarking; RFC 2928
            "2001:db8::/32",  # documentation, RFC 3849
            "2002::/16",  # 6to4, which stands for an IPv4 address; RFC 3056
            "2620:4f:8000::/48",  # AS112, RFC 7534
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)
"""Networks within `IPV6_GLOBAL` to which no callback is sent."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet; a malformed one does not.

    Args:
        address: IPv4 or IPv6; one with a zone, such as fe80::1%eth0, is local.
    """
    try:
        parsed: IPv4Address | IPv6Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in IPV4)
    if parsed.scope_id is not None or parsed not in IPV6_GLOBAL:
        return False
    return not any(parsed in network for network in IPV6)
