"""The rules for targets: their text, and what they allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.relay.test_address import DIALABLE, PATHS, RANGES, TCP_TARGETS, UNIX_TARGETS
from tunnel.relay.address import TargetAddress, TcpAddress, UnixAddress, parse_target
from tunnel.relay.allow_list import AllowList, TcpRule, UnixRule, parse_rule


@given(DIALABLE, RANGES, PATHS)
def test_rule_round_trips_through_text(at: TcpAddress, ports: list[int], path: str) -> None:
    for rule in (TcpRule(at.host, ports[0], ports[1]), UnixRule(path)):
        assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("tcp:127.0.0.1:49152", True),
        ("tcp:127.0.0.1:49215", True),
        ("tcp:localhost:49200", True),
        ("tcp:127.0.0.1:49151", False),
        ("tcp:127.0.0.1:49216", False),
        ("tcp:127.0.0.2:49152", False),
        ("tcp:[::1]:49152", False),
        ("tcp:[::1]:7", True),
        ("unix:/run/qemu/web1.sock", True),
        ("unix:/run/qemu//web1.sock", True),
        ("unix:/run/qemu", False),
        ("unix:/run/qemu/sub/web1.sock", False),
        ("unix:/run/QEMU/web1.sock", False),
        ("unix:/srv/a/b1.sock", True),
        ("unix:/srv/a/b12.sock", False),
    ],
)
def test_the_egress_dials_only_what_its_list_allows(target: str, allowed: bool) -> None:
    rules = AllowList.parse(
        ["tcp:127.0.0.1:49152-49215", "tcp:[::1]:7", "unix:/run/qemu/*", "unix:/srv/*/b?.sock"]
    )
    assert rules.allows(parse_target(target)) is allowed


@given(st.one_of(TCP_TARGETS, UNIX_TARGETS))
def test_an_empty_list_allows_nothing(target: TargetAddress) -> None:
    assert not AllowList().allows(target)


@given(PATHS)
def test_a_star_never_crosses_a_slash(path: str) -> None:
    assert AllowList.parse(["unix:/*"]).allows(UnixAddress(path)) is (path.count("/") == 1)
