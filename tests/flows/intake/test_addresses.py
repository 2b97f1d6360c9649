"""Callbacks go to the public internet alone."""

from __future__ import annotations

import ipaddress

import pytest

from flows.intake import addresses

REFUSED = [
    # IPv4, by iana-ipv4-special-registry
    "0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255",
    "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.255",
    "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.175.48.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    # IPv6, by iana-ipv6-special-registry and ipv6-address-space
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "200::1",
    "400::1", "1000::1", "2001::1", "2001:1::1", "2001:2::1", "2001:10::1", "2001:20::1",
    "2001:30::1", "2001:1ff:ffff::1", "2001:db8::1", "2002::1", "2002:7f00:1::1",
    "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1",
    "8000::1", "e000::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1",
    "feff::1", "ff02::1", "ff0e::1", "2606:4700::1111%eth0",
    # no addresses
    "", "localhost", "127.1", "0x7f000001", "2130706433", "010.0.0.1", "8.8.8.8/32",
]  # fmt: skip
TAKEN = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0",
    "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0",
    "198.17.255.255", "198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
    "2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111", "2a00:1450::1",
    "3ffe::1", "3fff:1000::1",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not addresses.is_public(address)


@pytest.mark.parametrize("address", TAKEN)
def test_what_is_public_is_taken(address: str) -> None:
    assert addresses.is_public(address)


@pytest.mark.parametrize("network", [*addresses.IPV4, *addresses.IPV6], ids=str)
def test_a_network_is_refused_to_its_ends_and_no_further(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    def refused(address: object) -> bool:
        return any(address in other for other in (*addresses.IPV4, *addresses.IPV6))

    assert not addresses.is_public(str(network[0]))
    assert not addresses.is_public(str(network[-1]))
    for neighbour in (int(network[0]) - 1, int(network[-1]) + 1):
        if 0 <= neighbour < 2**network.max_prefixlen:
            address = type(network[0])(neighbour)
            within = address.version == 4 or address in addresses.IPV6_GLOBAL
            assert addresses.is_public(str(address)) == (within and not refused(address))
