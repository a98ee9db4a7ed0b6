"""The address grammar: one canonical form, allow rules, and helpful error messages."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.relay.address import (
    Endpoint,
    ListenAddress,
    RedirectAddress,
    TargetAddress,
    TcpAddress,
    UnixAddress,
    default_target,
    parse_endpoint,
    parse_listen,
    parse_name,
    parse_target,
)
from tunnel.relay.allow_list import TcpRule, parse_rule

PORTS = st.integers(1, 65535)
RANGES = st.tuples(PORTS, PORTS).map(sorted)
ALIASES = st.integers(0x7F000002, 0x7FFFFFFE).map(lambda number: str(ipaddress.IPv4Address(number)))
DIALABLE = (
    st.ip_addresses()
    .filter(lambda ip: not (getattr(ip, "ipv4_mapped", None) or ip).is_unspecified)
    .filter(lambda ip: ip.version == 4 or not ip.is_link_local)
    .map(lambda ip: TcpAddress(parse_endpoint(bracketed(str(ip)), 1).host, 1))
)
COMPONENTS = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters="/"), min_size=1, max_size=8
)
PATHS = st.lists(COMPONENTS.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
TCP_TARGETS = st.builds(lambda target, port: TcpAddress(target.host, port), DIALABLE, PORTS)
UNIX_TARGETS = st.builds(UnixAddress, PATHS)
REDIRECTS = st.builds(lambda host, ports: RedirectAddress(host, *ports), ALIASES, RANGES)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@given(st.one_of(TCP_TARGETS, UNIX_TARGETS))
def test_target_round_trips_through_text(target: TargetAddress) -> None:
    assert parse_target(str(target)) == target


@given(st.one_of(REDIRECTS, UNIX_TARGETS, st.builds(TcpAddress, st.one_of(ALIASES, st.just("::1")), PORTS)))
def test_listen_address_round_trips_through_text(listen: ListenAddress) -> None:
    assert parse_listen(str(listen)) == listen


@given(
    st.one_of(TCP_TARGETS.map(lambda at: Endpoint(at.host, at.port)), st.just(Endpoint("hostb.example", 1)))
)
def test_endpoint_round_trips_through_text(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for prefix in ("", "tcp:", "unix:", "unix:/", "redirect:", "tcp:127.0.0.1:"):
        for parse in (parse_listen, parse_target, parse_rule, parse_endpoint):
            try:
                address = parse(prefix + text)
            except ValueError:
                continue
            assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("tcp:localhost:49152", "tcp:127.0.0.1:49152"),
        ("tcp:[::ffff:127.0.0.1]:49152", "tcp:127.0.0.1:49152"),
        ("tcp:[0:0::1]:00080", "tcp:[::1]:80"),
        ("unix://run//qemu/./web1.sock/", "unix:/run/qemu/web1.sock"),
        ("unix:///run/x", "unix:/run/x"),
    ],
)
def test_spellings_of_one_target_have_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_target(text)) == canonical


@pytest.mark.parametrize(
    ("parse", "text", "complaint"),
    [
        (parse_target, "udp:127.0.0.1:1", "is not a target address: use tcp:"),
        (parse_target, "tcp:127.0.0.1", "needs exactly one port"),
        (parse_target, "tcp:127.0.0.1:1-2", "needs exactly one port"),
        (parse_target, "tcp:127.0.0.1:0", "0 is not a port"),
        (parse_target, "tcp:127.0.0.1:65536", "65536 is not a port"),
        (parse_target, "tcp:127.0.0.1:1\n", "is not ADDRESS:PORT"),
        (parse_target, "tcp:127.0.0.1:\u0661", "is not ADDRESS:PORT"),
        (parse_target, "tcp:::1:49152", "IPv6 addresses go in brackets"),
        (parse_target, "tcp:hostb.example:49152", "host names are not resolved here"),
        (parse_target, "tcp:[fe80::1%eth0]:1", "only host.listen and a peer's address may be link-local"),
        (parse_target, "tcp:[fe80::1]:1", "link-local address, which cannot be a target"),
        (parse_rule, "tcp:[fe80::1%eth0]:1", "only host.listen and a peer's address may be link-local"),
        (parse_listen, "tcp:[fe80::1%eth0]:1", "only host.listen and a peer's address may be link-local"),
        (parse_endpoint, "[fe80::1]:1", r"add its interface, as in \[fe80::1%eth0\]"),
        (parse_endpoint, "[2001:db8::1%eth0]:1", "has an interface, but is not a link-local address"),
        (parse_endpoint, "[fe80::1%a b]:1", "'a b' is not an interface name"),
        (parse_endpoint, "[fe80::1%sixteen-letters-]:1", "is not an interface name"),
        (parse_endpoint, "hostb..:1", "neither an IP address nor a host name"),
        (parse_target, "tcp:0.0.0.0:49152", "is the unspecified address and cannot be dialled"),
        (parse_target, "unix:run/x", "is not absolute"),
        (parse_target, "unix:/", "has no file name"),
        (parse_target, "unix:/run/qemu/../x", "contains '..'"),
        (parse_target, "unix:/run/\x00", "unprintable"),
        (parse_target, "unix:/run/\udc80", "surrogates"),
        (parse_target, "unix:/" + "x" * 107, "has 108 bytes, the limit is 107"),
        (parse_target, "unix:/" + "é" * 54, "has 109 bytes"),
        (parse_target, "unix:" + "/" * 1020, "at most 1024 bytes"),
        (parse_listen, "localhost:49152", "is not a listen address"),
        (parse_listen, "tcp:0.0.0.0:49152", "not a loopback address"),
        (parse_listen, "tcp:192.0.2.1:49152", "not a loopback address"),
        (parse_listen, "redirect:127.0.1.2", "port range"),
        (parse_listen, "redirect:127.0.1.2:9-8", "9-8 is empty"),
        (parse_listen, "redirect:127.0.0.1:1-2", "cannot be a peer's alias"),
        (parse_listen, "redirect:127.255.255.255:1-2", "cannot be a peer's alias"),
        (parse_listen, "redirect:192.0.2.1:1-2", "cannot be a peer's alias"),
        (parse_listen, "redirect:[::1]:1-2", "cannot be a peer's alias"),
        (parse_rule, "tcp:127.0.0.1", "port range"),
        (parse_rule, "tcp:0.0.0.0:1", "cannot be dialled"),
        (parse_rule, "unix:/run/*/../x", "contains '..'"),
        (parse_rule, "*", "is not an allow rule"),
        (parse_endpoint, "192.0.2.1", "use HOST:PORT"),
        (parse_endpoint, "192.0.2.1:1-2", "use HOST:PORT"),
        (parse_endpoint, "host b:1", "neither an IP address nor a host name"),
        (parse_name, "*.example", "is not a host name"),
        (parse_name, "192.0.2.1", "is not a host name"),
        (parse_name, "\u212aelvin", "is not a host name"),
        (parse_name, "a" * 64, "is not a host name"),
        (parse_name, ".".join(["a" * 60] * 5), "is not a host name"),
        (parse_name, "", "is not a host name"),
    ],
)
def test_invalid_address_is_reported(parse: Callable[[str], object], text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(text)


def test_addresses_must_be_canonical() -> None:
    with pytest.raises(ValueError, match=r"not in canonical form, use '::1'"):
        TcpAddress("0:0::1", 1)
    with pytest.raises(ValueError, match=r"not in canonical form, use '/run/x'"):
        UnixAddress("/run//x")
    with pytest.raises(ValueError, match="not a port"):
        TcpRule("127.0.0.1", 0, 1)


def test_a_target_defaults_to_the_same_port_or_path() -> None:
    assert default_target(TcpAddress("127.0.1.2", 49152)) == TcpAddress("127.0.0.1", 49152)
    assert default_target(UnixAddress("/run/x")) == UnixAddress("/run/x")
    assert default_target(RedirectAddress("127.0.1.2", 1, 2)) is None


def test_one_port_is_a_range_of_one() -> None:
    assert parse_listen("redirect:127.0.1.2:7") == RedirectAddress("127.0.1.2", 7, 7)
    assert str(parse_rule("tcp:[::1]:7")) == "tcp:[::1]:7"


def test_name_is_returned_in_lower_case() -> None:
    assert parse_name("HostB.Example") == "hostb.example"
    assert parse_endpoint("HostB", default_port=16515) == Endpoint("hostb", 16515)
    assert parse_endpoint("[::1]", default_port=16515) == Endpoint("::1", 16515)


def test_identity_has_no_final_dot_and_an_endpoint_keeps_it() -> None:
    """The dot disables the search domains, which concerns only the resolver."""
    assert parse_name("HostB.example.") == "hostb.example"
    assert str(parse_endpoint("HostB.example.:16515")) == "hostb.example.:16515"


@pytest.mark.parametrize("text", ["[fe80::1%eth0]:16515", "[FE80:0::1%eth0.7]", "[fe80::a:b%br-lan]:1"])
def test_an_endpoint_may_be_link_local(text: str) -> None:
    endpoint = parse_endpoint(text, default_port=16515)
    assert parse_endpoint(str(endpoint)) == endpoint
    assert str(endpoint).lower().startswith("[fe80::")
