"""Host names: the same rule in certificates and in the configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.certs.subject_names import dns_name
from tunnel.errors import UsageError
from tunnel.names import folded, host_name
from tunnel.relay.address import parse_endpoint, parse_name


@pytest.mark.parametrize(
    "name",
    ["hosta", "a", "host_a", "_a", "hv-1.rack2.example", "1host", "xn--bcher-kva.example", "a" * 63],
)
def test_host_names_are_accepted(name: str) -> None:
    assert host_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("HostA.Example", "hosta.example"), ("hosta.", "hosta"), ("HostA.Example.", "hosta.example")],
)
def test_case_and_a_final_dot_do_not_matter(text: str, name: str) -> None:
    assert host_name(text) == folded(text) == name


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "letters, digits"),
        (".", "letters, digits"),
        ("a..b", "letters, digits"),
        ("hosta..", "letters, digits"),
        (".hosta", "letters, digits"),
        ("-hosta", "inner hyphens"),
        ("hosta-", "inner hyphens"),
        ("a" * 64, "at most 63"),
        (".".join(["a" * 63] * 4), "253 in total"),
        ("*.example", "wildcard"),
        ("höst", "letters, digits"),
        ("hos\u212a", "letters, digits"),  # the Kelvin sign, which becomes a "k" in lower case
        ("hosta\n", "letters, digits"),
        ("host a", "letters, digits"),
        ("../hosta", "letters, digits"),
        ("192.0.2.1", "is an IP address"),
        ("2001:db8::1", "is an IP address"),
        ("fe80::1%eth0", "is an IP address"),
        ("host.7", "ends in a number"),
        ("host.7.", "ends in a number"),
    ],
)
def test_other_names_are_refused_with_the_reason(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=rf"is not a host name: .*{fault}"):
        host_name(text)


def accepted(parse: Callable[[str], object], text: str) -> object:
    """Return what ``parse`` makes of ``text``; None where it refuses it."""
    try:
        return parse(text)
    except (ValueError, UsageError):
        return None


@given(st.text(st.sampled_from("aB7-_.*% é"), min_size=1, max_size=12))
def test_certificates_and_configuration_have_one_rule(text: str) -> None:
    """What ``certs issue`` accepts, host.name and peer.name accept, as the same name, and vice versa."""
    assert accepted(dns_name, text) == accepted(parse_name, text) == accepted(host_name, text)


@given(st.from_regex(r"[a-z_][a-z0-9_]{0,5}(\.[a-z]{1,5}){0,2}", fullmatch=True))
def test_a_host_is_found_by_its_name(name: str) -> None:
    assert parse_endpoint(name, default_port=1).host == host_name(name)
