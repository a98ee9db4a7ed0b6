"""Names that a certificate may carry."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tunnel.certs.names import dns_name, split_sans
from tunnel.errors import UsageError


@pytest.mark.parametrize(
    "name", ["hosta", "a", "hv-1.rack2.example", "1host", "xn--bcher-kva.example", "a" * 63]
)
def test_host_names_are_accepted(name: str) -> None:
    assert dns_name(name) == name


def test_names_are_written_in_lower_case() -> None:
    assert dns_name("HostA.Example") == "hosta.example"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        "hosta.",
        ".hosta",
        "-hosta",
        "hosta-",
        "a" * 64,
        ".".join(["a" * 63] * 4),
        "*.example",
        "host_a",
        "höst",
        "hos\u212a",  # the Kelvin sign, which becomes a "k" in lower case
        "hosta\n",
        "host a",
        "../hosta",
        "a/b",
        "192.0.2.1",
        "host.7",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a DNS host name"):
        dns_name(name)


def test_sans_are_sorted_into_names_and_addresses() -> None:
    dns, ips = split_sans(["HostA.example", "192.0.2.1", "2001:db8::1"])
    assert dns == ["hosta.example"]
    assert ips == [ip_address("192.0.2.1"), ip_address("2001:db8::1")]


def test_a_san_that_is_neither_is_refused() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.999"):
        split_sans(["192.0.2.999"])
