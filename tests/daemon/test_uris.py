"""The URIs that a configuration yields, and the errors when there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.daemon.config import Config, load
from tunnel.daemon.uris import Entry, Way, find_entry, find_routes
from tunnel.errors import UsageError

ALIAS = "redirect:127.0.1.2:49152-49215"
Configure = Callable[..., Config]
RPC = ("unix:/run/mtunnel/hostb/libvirt-sock", "unix:/run/libvirt/libvirt-sock")


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Make a configuration with ingresses of hostb, each ``listen`` or ``(listen, target)``."""

    def make(*ingresses: str | tuple[str, str]) -> Config:
        return load(write_config(tmp_path, HOST, TLS, PEER, *map(ingress, ingresses)))

    return make


def ingress(addresses: str | tuple[str, str]) -> str:
    listen, target = (addresses, "") if isinstance(addresses, str) else addresses
    more = f'target = "{target}"\n' if target else ""
    return f'[[ingress]]\npeer = "hostb"\nlisten = "{listen}"\nusers = ["root"]\n{more}'


def way(config: Config, guest: str | None = None, via: str | None = None) -> Way:
    return find_routes(config, "hostb", guest, via).require_way()


def test_redirected_range_leaves_the_port_to_libvirt(configure: Configure) -> None:
    assert way(configure(ALIAS)) == Way(ALIAS, "tcp://127.0.1.2", "127.0.0.1", any_port=True)


def test_redirected_range_without_libvirts_first_port_is_given_one(configure: Configure) -> None:
    found = way(configure("redirect:127.0.1.2:50000-50010"))
    assert (found.migrate_uri, found.disks_port) == ("tcp://127.0.1.2:50000", 50001)
    assert not found.any_port


def test_redirected_single_port_has_no_port_for_disks(configure: Configure) -> None:
    routes = find_routes(configure("redirect:127.0.1.2:50000"), "hostb")
    assert routes.require_way().disks_port is None
    with pytest.raises(UsageError, match="a single port, and disks need another one"):
        routes.require_way(disks=True)


def test_fixed_port_is_named(configure: Configure) -> None:
    found = way(configure("tcp:127.0.1.2:49152"))
    assert (found.migrate_uri, found.listen_address) == ("tcp://127.0.1.2:49152", "127.0.0.1")


def test_fixed_port_of_ipv6_has_brackets(configure: Configure) -> None:
    found = way(configure(("tcp:[::1]:49152", "tcp:[::1]:49152")))
    assert (found.migrate_uri, found.listen_address) == ("tcp://[::1]:49152", "::1")
    routes = find_routes(configure("tcp:[::1]:65535"), "hostb")
    with pytest.raises(UsageError, match=r'listen = "tcp:\[::1\]:65534"'):
        routes.require_way(disks=True)


def test_disks_use_another_port_of_the_same_address(configure: Configure) -> None:
    config = configure("tcp:127.0.1.2:49152", "tcp:127.0.1.3:49160", "tcp:127.0.1.2:49153")
    assert find_routes(config, "hostb").require_way(disks=True).disks_port == 49153


def test_missing_port_for_disks_is_reported_with_the_remedy(configure: Configure) -> None:
    routes = find_routes(configure("tcp:127.0.1.2:49152", "tcp:127.0.1.3:49153"), "hostb")
    with pytest.raises(UsageError, match=r'listen = "tcp:127\.0\.1\.2:49153"'):
        routes.require_way(disks=True)


def test_sockets_are_chosen_by_the_guests_name(configure: Configure) -> None:
    names = ("db.sock", "db-disks.sock", "web1.sock", "web1-disks.sock")
    config = configure(*(f"unix:/run/m/{name}" for name in names))
    found = way(config, "web1")
    assert (found.migrate_uri, found.disks_uri) == (
        "unix:///run/m/web1.sock",
        "unix:///run/m/web1-disks.sock",
    )
    assert found.listen_address is None
    with pytest.raises(UsageError, match=r"\(/run/m/db\.sock, /run/m/web1\.sock\): name the guest"):
        way(config)


@pytest.mark.parametrize(
    ("guest", "memory", "disks"),
    [
        ("web", "web.sock", None),
        ("web-db", "web-db.sock", None),
        ("nbdkit", "nbdkit.sock", "nbdkit-disks.sock"),
        ("web9", "web9.sock", None),
    ],
)
def test_sockets_of_other_guests_are_not_used(
    configure: Configure, guest: str, memory: str, disks: str | None
) -> None:
    names = ("web-db.sock", "web9.sock", "nbdkit-disks.sock", "web.sock", "nbdkit.sock")
    config = configure(*(f"unix:/run/m/{name}" for name in names))
    found = way(config, guest)
    assert found.migrate_uri == f"unix:///run/m/{memory}"
    assert found.disks_uri == (f"unix:///run/m/{disks}" if disks else None)
    assert (found.no_disks is None) == bool(disks)
    assert find_entry(config, "hostb", guest=guest).uri == f"unix:/run/m/{memory}"


@pytest.mark.parametrize("names", [("web-db.sock",), ("web9.sock",), ("db.sock", "mail.sock"), ("we.sock",)])
def test_guest_without_a_socket_of_its_own_gets_no_other_guests(
    configure: Configure, names: tuple[str, ...]
) -> None:
    config = configure(*(f"unix:/run/m/{name}" for name in names))
    with pytest.raises(UsageError, match=r"none is named web\.sock: choose one with --via"):
        way(config, "web")
    with pytest.raises(UsageError, match=r"none is named web\.sock: choose one with --via"):
        find_entry(config, "hostb", guest="web")
    assert way(config, "web", via=f"unix:/run/m/{names[0]}").migrate_uri == f"unix:///run/m/{names[0]}"


def test_single_socket_with_a_generic_name_serves_every_guest(configure: Configure) -> None:
    config = configure("unix:/run/m/migrate.sock", "unix:/run/m/migrate-disks.sock", "unix:/run/m/web1.qmp")
    found = way(config, "web1")
    assert (found.migrate_uri, found.disks_uri) == (
        "unix:///run/m/migrate.sock",
        "unix:///run/m/migrate-disks.sock",
    )
    assert (
        way(configure("unix:/run/m/migrate.sock", "unix:/run/m/nbd.sock")).disks_uri
        == "unix:///run/m/nbd.sock"
    )


def test_single_socket_leaves_disks_without_a_route(configure: Configure) -> None:
    routes = find_routes(configure("unix:/run/m/web1.sock"), "hostb")
    with pytest.raises(UsageError, match=r"unix:/run/m/web1-disks\.sock"):
        routes.require_way(disks=True)


def test_redirect_is_preferred_to_ports_and_ports_to_sockets(configure: Configure) -> None:
    several = ("unix:/run/m/web1.sock", "tcp:127.0.1.9:49152", ALIAS)
    assert way(configure(*several), "web1").ingress == ALIAS
    assert way(configure(*several[:2]), "web1").ingress == "tcp:127.0.1.9:49152"


@pytest.mark.parametrize(
    ("via", "uri"),
    [
        ("unix:/run/m/web1.sock", "unix:///run/m/web1.sock"),
        (ALIAS, "tcp://127.0.1.2"),
        ("tcp:127.0.1.2:49200", "tcp://127.0.1.2:49200"),
    ],
)
def test_via_chooses(configure: Configure, via: str, uri: str) -> None:
    assert way(configure("unix:/run/m/web1.sock", ALIAS), via=via).migrate_uri == uri


@pytest.mark.parametrize(
    ("via", "complaint"),
    [
        ("tcp:127.0.1.2:50000", "is not a migration ingress of this peer; available: redirect:127"),
        ("udp:1", "--via: 'udp:1' is not a listen address"),
    ],
)
def test_via_that_is_no_ingress_is_a_usage_error(configure: Configure, via: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        find_routes(configure(ALIAS), "hostb", via=via)


@pytest.mark.parametrize(
    ("addresses", "complaint"),
    [
        (("tcp:127.0.1.2:49152", "tcp:127.0.0.1:50000"), "use the same port for both"),
        (("tcp:127.0.1.2:49152", "unix:/run/qemu/web1"), "leads to a socket"),
        (("unix:/run/m/web1.sock", "unix:/run/qemu/web1"), "in the migration URI: remove target"),
    ],
)
def test_what_libvirt_cannot_use_is_explained(
    configure: Configure, addresses: tuple[str, str], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        way(configure(addresses))


def test_missing_ingress_is_reported_with_the_remedy(configure: Configure) -> None:
    with pytest.raises(UsageError, match=r"redirect:127\.0\.1\.2:49152-49215"):
        way(configure())


@pytest.mark.parametrize(
    ("addresses", "uri"),
    [
        (RPC, "qemu+unix:///system?socket=/run/mtunnel/hostb/libvirt-sock"),
        (("unix:/run/m/v", "unix:/run/libvirt/virtqemud-sock"), "qemu+unix:///system?socket=/run/m/v"),
        ("tcp:127.0.1.2:16509", "qemu+tcp://127.0.1.2:16509/system"),
        ("tcp:[::1]:16509", "qemu+tcp://[::1]:16509/system"),
        ("tcp:127.0.1.2:16514", "qemu+tls://127.0.1.2:16514/system"),
    ],
)
def test_libvirt_is_reached_through_the_tunnel(
    configure: Configure, addresses: str | tuple[str, str], uri: str
) -> None:
    routes = find_routes(configure(addresses), "hostb")
    assert routes.require_libvirt(None) == uri
    assert routes.require_libvirt("qemu+ssh://hostb/system") == "qemu+ssh://hostb/system"
    assert routes.way is None  # it carries no migration


def test_libvirts_tls_is_the_last_choice(configure: Configure) -> None:
    config = configure("tcp:127.0.1.2:16514", "tcp:127.0.1.2:16509", RPC)
    assert (
        find_routes(config, "hostb").libvirt_uri
        == "qemu+unix:///system?socket=/run/mtunnel/hostb/libvirt-sock"
    )
    with pytest.raises(UsageError, match="no ingress can carry"):
        find_entry(config, "hostb")


def test_missing_route_to_libvirt_is_reported_with_the_remedy(configure: Configure) -> None:
    with pytest.raises(UsageError, match=r"--desturi.*/run/mtunnel/hostb/libvirt-sock"):
        find_routes(configure(ALIAS), "hostb").require_libvirt(None)


def test_unknown_peer_gets_a_hint(configure: Configure) -> None:
    with pytest.raises(UsageError, match=r"no \[\[peer\]\] named 'hostbb': did you mean 'hostb'"):
        find_routes(configure(ALIAS), "hostbb")
    with pytest.raises(UsageError, match="it has hostb"):
        find_entry(configure(ALIAS), "elsewhere")


def test_own_name_is_this_host(configure: Configure) -> None:
    with pytest.raises(UsageError, match=r"^hosta is this host"):
        find_routes(configure(ALIAS), "hosta")
    with pytest.raises(UsageError, match=r"^hosta is this host"):
        find_entry(configure(ALIAS), "hosta")


@pytest.mark.parametrize(
    ("addresses", "via", "entry"),
    [
        (ALIAS, None, Entry("tcp:127.0.1.2:49152", "tcp:127.0.0.1:49152")),
        (ALIAS, "tcp:127.0.1.2:49200", Entry("tcp:127.0.1.2:49200", "tcp:127.0.0.1:49200")),
        (
            ("tcp:127.0.1.2:49152", "tcp:127.0.0.1:50000"),
            None,
            Entry("tcp:127.0.1.2:49152", "tcp:127.0.0.1:50000"),
        ),
        (("unix:/run/m/a", "unix:/run/q/b"), None, Entry("unix:/run/m/a", "unix:/run/q/b")),
    ],
)
def test_qemu_itself_has_no_such_rules(
    configure: Configure, addresses: str | tuple[str, str], via: str | None, entry: Entry
) -> None:
    assert find_entry(configure(addresses, RPC), "hostb", via) == entry


def test_the_socket_of_the_remote_monitor_is_no_entry(configure: Configure) -> None:
    config = configure("unix:/run/m/far", "unix:/run/m/web1.sock")
    for spelling in ("/run/m/far", "/run/m//./far"):
        assert find_entry(config, "hostb", not_this=spelling).uri == "unix:/run/m/web1.sock"
    for other in ("far.qmp", "far"):
        with pytest.raises(UsageError, match="no ingress can carry"):
            find_entry(configure(f"unix:/run/m/{other}"), "hostb", not_this=f"/run/m/{other}")
