"""Names that a certificate may have."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tunnel.certs.subject_names import dns_name, split_sans
from tunnel.errors import UsageError


def test_a_name_is_normalized() -> None:
    assert dns_name("HostA.Example.") == "hosta.example"


@pytest.mark.parametrize("name", ["", "*.example", "host a", "../hosta", "a/b", "host.7"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a host name"):
        dns_name(name)


def test_an_address_in_place_of_a_name_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match="is an IP address; use --san for an address"):
        dns_name("192.0.2.1")


def test_sans_are_split_into_names_and_addresses() -> None:
    dns, ips = split_sans(["HostA.example", "192.0.2.1", "2001:db8::1"])
    assert dns == ["hosta.example"]
    assert ips == [ip_address("192.0.2.1"), ip_address("2001:db8::1")]


def test_a_san_that_is_neither_is_refused() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.999"):
        split_sans(["192.0.2.999"])
