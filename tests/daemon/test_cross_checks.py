"""Contradictions in a configuration file, whatever other problems it has."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel.daemon.cross_checks import contradictions

CONTROL = "/run/mtunnel/control.sock"


def keys(tables: dict[str, Any]) -> list[str]:
    return [key for key, _ in contradictions(tables, CONTROL)]


def ingresses(*listens: str, host: dict[str, Any] | None = None) -> dict[str, Any]:
    entries = [{"peer": "hostb", "listen": listen} for listen in listens]
    return {"host": host or {}, "peer": [{"name": "hostb"}], "ingress": entries}


def test_names_of_peers_are_unique() -> None:
    tables = {"host": {"name": "hosta"}, "peer": [{"name": "hostb"}, {"name": "HOSTB"}, {"name": "HostA"}]}
    assert list(contradictions(tables, CONTROL)) == [
        ("peer[1].name", "hostb is already defined by peer[0].name"),
        ("peer[2].name", "hosta is this host (host.name): a host cannot be its own peer"),
    ]


def test_an_ingress_leads_to_a_peer_that_exists() -> None:
    tables = {"peer": [{"name": "hostb", "egress": 5}], "ingress": [{"peer": "HostB"}, {"peer": "hostc"}, {}]}
    assert list(contradictions(tables, CONTROL)) == [("ingress[1].peer", "there is no [[peer]] named hostc")]


def test_a_redirect_has_no_target() -> None:
    tables = ingresses("redirect:127.0.1.2:1-9", "tcp:127.0.1.3:1")
    for ingress in tables["ingress"]:
        ingress["target"] = "tcp:127.0.0.1:1"
    ((key, text),) = contradictions(tables, CONTROL)
    assert key == "ingress[0].target"
    assert "listen on tcp:127.0.1.2:PORT" in text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tcp:127.0.1.2:5", "tcp:127.0.1.2:5"),
        ("tcp:[::1]:5", "tcp:[0::1]:5"),
        ("unix:/run/x", "unix:/run//x"),
        ("redirect:127.0.1.2:1-9", "redirect:127.0.1.2:9-12"),
        ("redirect:127.0.1.2:1-9", "redirect:127.0.1.2:3-4"),
        ("redirect:127.0.1.2:1-9", "tcp:127.0.1.2:9"),
        ("tcp:127.0.1.2:1", "redirect:127.0.1.2:1-9"),
    ],
)
def test_two_ingresses_cannot_share_an_address(first: str, second: str) -> None:
    ((key, text),) = contradictions(ingresses(first, second), CONTROL)
    assert key == "ingress[1].listen"
    assert text.endswith(f"is already used by ingress[0].listen ({first})")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tcp:127.0.1.2:5", "tcp:127.0.1.3:5"),
        ("tcp:127.0.1.2:5", "tcp:127.0.1.2:6"),
        ("tcp:127.0.1.2:5", "unix:/run/x"),
        ("unix:/run/y", "unix:/run/x"),
        ("redirect:127.0.1.2:1-9", "redirect:127.0.1.2:10-12"),
        ("redirect:127.0.1.2:1-9", "redirect:127.0.1.3:1-9"),
        ("redirect:127.0.1.2:1-9", "tcp:127.0.1.2:10"),
    ],
)
def test_adjacent_addresses_do_not_collide(first: str, second: str) -> None:
    assert keys(ingresses(first, second)) == []


@pytest.mark.parametrize(
    ("host", "listen", "collides"),
    [
        ({"listen": "0.0.0.0:16515"}, "tcp:127.0.1.2:16515", True),
        ({"listen": "127.0.1.2"}, "tcp:127.0.1.2:16515", True),
        ({"listen": "[::]:16515"}, "tcp:127.0.1.2:16515", False),
        ({"listen": "[::]:16515"}, "tcp:[::1]:16515", True),
        ({"listen": "0.0.0.0:16515"}, "redirect:127.0.1.2:16000-17000", False),
        ({"listen": "127.0.1.2:16515"}, "redirect:127.0.1.2:16000-17000", True),
        ({"metrics": "127.0.0.1:9516"}, "tcp:127.0.0.1:9516", True),
        ({"control": "/run/x"}, "unix:/run/x", True),
        ({"control": "/run/x"}, f"unix:{CONTROL}", False),
        ({}, f"unix:{CONTROL}", True),
    ],
)
def test_the_daemons_own_addresses_collide_too(host: dict[str, Any], listen: str, collides: bool) -> None:
    assert keys(ingresses(listen, host=host)) == (["ingress[0].listen"] if collides else [])


def test_metrics_and_links_need_two_ports() -> None:
    assert keys({"host": {"listen": "0.0.0.0:9516", "metrics": "127.0.0.1:9516"}}) == ["host.metrics"]


@pytest.mark.parametrize(
    "nonsense", [None, 3, "x", [], {}, [3], [[]], [{"name": 3, "peer": [], "listen": {}}]]
)
def test_invalid_values_are_skipped(nonsense: object) -> None:
    assert keys({"host": nonsense, "peer": nonsense, "ingress": nonsense}) == []


@pytest.mark.parametrize(
    ("rule", "listen"),
    [
        ("unix:/run/x/web1.sock", "unix:/run/x/web1.sock"),
        ("unix:/run/x/*", "unix:/run/x//web1.sock"),
        ("tcp:127.0.0.1:49152-49215", "tcp:127.0.0.1:49200"),
        ("tcp:localhost:49200", "tcp:127.0.0.1:49200"),
        ("tcp:127.0.1.2:49200", "redirect:127.0.1.2:49152-49215"),
        ("tcp:127.0.1.2:1-65535", "redirect:127.0.1.2:49152"),
        ("tcp:[::1]:1-9", "tcp:[::1]:9"),
    ],
)
def test_peer_may_not_reach_an_ingress(rule: str, listen: str) -> None:
    tables = ingresses(listen)
    tables["peer"][0]["egress"] = [5, "unix:/elsewhere", rule]
    ((key, text),) = contradictions(tables, CONTROL)
    assert key == "peer[0].egress[2]"
    assert "(ingress[0].listen), where this daemon itself listens" in text


@pytest.mark.parametrize(
    ("rule", "listen"),
    [
        ("unix:/run/x/*", "unix:/run/x/y/web1.sock"),
        ("tcp:127.0.0.1:49152-49215", "redirect:127.0.1.2:49152-49215"),
        ("tcp:127.0.0.1:49152-49215", "tcp:127.0.0.1:49216"),
        ("tcp:127.0.1.2:16509", "redirect:127.0.1.2:49152-49215"),
        ("nonsense", "tcp:127.0.0.1:49216"),
    ],
)
def test_peer_may_reach_other_addresses(rule: str, listen: str) -> None:
    tables = ingresses(listen)
    tables["peer"][0]["egress"] = [rule]
    assert keys(tables) == []


def test_peer_may_not_reach_the_control_socket() -> None:
    tables = {"peer": [{"name": "hostb", "egress": ["unix:/run/mtunnel/*"]}]}
    ((key, text),) = contradictions(tables, CONTROL)
    assert key == "peer[0].egress[0]"
    assert "unix:/run/mtunnel/control.sock (host.control)" in text
