"""The targets that a migration requests from its peer: those of its connections through the tunnel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.daemon import targets as module
from tunnel.daemon.config import Config, load
from tunnel.daemon.targets import ingresses_of, of_libvirt, of_qemu, of_way, spans
from tunnel.daemon.uris import find_entry, find_routes
from tunnel.relay.address import TargetAddress, TcpAddress, parse_target
from tunnel.relay.allow_list import AllowList

RANGE = "redirect:127.0.1.2:49152-49215"
SOCKETS = ("unix:/run/to-hostb/web1.sock", "unix:/run/to-hostb/web1-disks.sock")
Configure = Callable[..., Config]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Make a configuration with ingresses of hostb, each ``listen`` or ``(listen, target)``."""

    def make(*ingresses: str | tuple[str, str]) -> Config:
        return load(write_config(tmp_path, HOST, TLS, PEER, *map(_ingress, ingresses)))

    return make


def _ingress(addresses: str | tuple[str, str]) -> str:
    listen, target = (addresses, "") if isinstance(addresses, str) else addresses
    more = f'target = "{target}"\n' if target else ""
    return f'[[ingress]]\npeer = "hostb"\nlisten = "{listen}"\nusers = ["root"]\n{more}'


def ram(config: Config, *, disks: bool = False, via: str | None = None) -> list[str]:
    way = find_routes(config, "hostb", "web1", via).require_way(disks=disks)
    return spans(of_way(config, "hostb", way, disks=disks))


def qemu(config: Config, monitor: str = "") -> list[str]:
    return spans(of_qemu(config, "hostb", find_entry(config, "hostb", not_this=monitor), monitor))


@pytest.mark.parametrize("disks", [False, True])
def test_libvirt_may_take_any_port_of_a_range(configure: Configure, disks: bool) -> None:
    assert ram(configure(RANGE), disks=disks) == ["tcp:127.0.0.1:49152-49215"]


def test_named_port_of_a_range_is_the_only_target(configure: Configure) -> None:
    assert ram(configure(RANGE), via="tcp:127.0.1.2:49160") == ["tcp:127.0.0.1:49160"]
    assert ram(configure(RANGE), via="tcp:127.0.1.2:49160", disks=True) == [
        "tcp:127.0.0.1:49152",
        "tcp:127.0.0.1:49160",
    ]


def test_of_a_large_range_the_first_ports_and_the_last_are_probed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PORTS", 8)
    assert ram(configure(RANGE)) == ["tcp:127.0.0.1:49152-49158", "tcp:127.0.0.1:49215"]


def test_fixed_ports_are_their_ingresses_targets(configure: Configure) -> None:
    config = configure(("tcp:127.0.1.2:49152", "tcp:127.0.0.5:49152"), "tcp:127.0.1.2:49153")
    assert ram(config) == ["tcp:127.0.0.5:49152"]
    assert ram(config, disks=True) == ["tcp:127.0.0.1:49153", "tcp:127.0.0.5:49152"]


def test_fixed_ports_of_ipv6_are_probed_as_those_of_ipv4(configure: Configure) -> None:
    config = configure("tcp:[::1]:49200", ("tcp:[::1]:49201", "tcp:[::1]:49201"))
    assert ram(config, disks=True) == ["tcp:127.0.0.1:49200", "tcp:[::1]:49201"]
    assert qemu(config) == ["tcp:127.0.0.1:49200"]


def test_ingresses_of_a_route_are_those_of_its_connections(configure: Configure) -> None:
    def entered(*listens: str, disks: bool) -> list[str]:
        config = configure(*listens)
        way = find_routes(config, "hostb", "web1").require_way()
        return [str(each.listen) for each in ingresses_of(config, "hostb", way, disks=disks)]

    assert entered(RANGE, "tcp:127.0.1.2:60000", disks=True) == [RANGE]
    ports = ("tcp:[::1]:49200", "tcp:[::1]:49201", "tcp:127.0.1.2:49200")
    assert entered(*ports, disks=False) == [ports[0]]
    assert entered(*ports, disks=True) == [*ports[:2]]
    assert entered(*SOCKETS, disks=True) == [*SOCKETS]


def test_sockets_are_the_same_paths(configure: Configure) -> None:
    assert ram(configure(*SOCKETS)) == [SOCKETS[0]]
    assert ram(configure(*SOCKETS), disks=True) == sorted(SOCKETS)


@pytest.mark.parametrize(
    ("uri", "targets"),
    [
        ("qemu+unix:///system?socket=/run/mtunnel/hostb/libvirt-sock", ["unix:/run/libvirt/libvirt-sock"]),
        ("qemu+tcp://127.0.1.2:16509/system", ["tcp:127.0.0.1:16509"]),
        ("qemu+tcp://127.0.1.2/system", ["tcp:127.0.0.1:16509"]),
        ("qemu+tcp://[::1]:16509/system", ["tcp:[::1]:16509"]),
        ("qemu+tcp://[::1]/system", ["tcp:[::1]:16509"]),
        ("qemu+tls://127.0.1.2/system", ["tcp:127.0.0.1:16514"]),
        ("qemu+ssh://hostb/system", []),
        ("qemu+tcp://hostb/system", []),
        ("qemu+tcp://127.0.1.2:port/system", []),
        ("qemu+unix:///system?socket=/run/elsewhere", []),
        ("qemu+unix:///system", []),
        ("qemu:///system", []),
    ],
)
def test_libvirts_rpc_is_a_target_if_it_uses_the_tunnel(
    configure: Configure, uri: str, targets: list[str]
) -> None:
    rpc = ("unix:/run/mtunnel/hostb/libvirt-sock", "unix:/run/libvirt/libvirt-sock")
    config = configure(
        rpc, "tcp:127.0.1.2:16509", ("tcp:[::1]:16509", "tcp:[::1]:16509"), "tcp:127.0.1.2:16514"
    )
    assert spans(of_libvirt(config, "hostb", uri)) == targets


def test_another_peers_ingress_does_not_count(configure: Configure) -> None:
    assert of_libvirt(configure("tcp:127.0.1.2:16509"), "hostc", "qemu+tcp://127.0.1.2/system") == []


def test_qemu_without_libvirt_uses_the_target_of_its_ingress(configure: Configure) -> None:
    assert qemu(configure(RANGE)) == ["tcp:127.0.0.1:49152"]
    assert qemu(configure(("tcp:127.0.1.2:1", "unix:/run/qemu/a"))) == ["unix:/run/qemu/a"]


@pytest.mark.parametrize("monitor", ["", "/run/elsewhere.qmp", "relative.qmp", "/run/../odd"])
def test_a_monitor_outside_the_tunnel_is_no_target(configure: Configure, monitor: str) -> None:
    assert qemu(configure(RANGE), monitor) == ["tcp:127.0.0.1:49152"]


def test_a_monitor_through_the_tunnel_is_a_target(configure: Configure) -> None:
    config = configure(RANGE, ("unix:/run/b.qmp", "unix:/run/web1.qmp"))
    assert qemu(config, "/run/b.qmp") == ["tcp:127.0.0.1:49152", "unix:/run/web1.qmp"]


TARGETS: st.SearchStrategy[TargetAddress] = st.one_of(
    st.builds(TcpAddress, st.sampled_from(["127.0.0.1", "::1"]), st.integers(1, 12)),
    st.sampled_from([parse_target("unix:/run/a"), parse_target("unix:/run/b")]),
)


@given(st.lists(TARGETS), st.lists(TARGETS, max_size=5))
def test_spans_allow_those_targets_and_no_others(
    targets: list[TargetAddress], others: list[TargetAddress]
) -> None:
    rules = AllowList.parse(spans(targets))
    assert all(map(rules.allows, targets))
    assert not any(map(rules.allows, set(others) - set(targets)))
