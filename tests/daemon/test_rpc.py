"""A libvirt endpoint is recognized by its socket or port, and carries no guest memory."""

from __future__ import annotations

import pytest

from tunnel.daemon.config import IngressConfig
from tunnel.daemon.rpc import address_of, is_libvirt, libvirt_uri, reaches_libvirt
from tunnel.relay.address import parse_target

SOCKET = "unix:/run/libvirt/libvirt-sock"


def ingress(listen: str, target: str | None = None) -> IngressConfig:
    more = {} if target is None else {"target": target}
    return IngressConfig.model_validate({"peer": "hostb", "listen": listen, **more})


@pytest.mark.parametrize(
    ("target", "libvirt", "root"),
    [
        (SOCKET, True, True),
        ("unix:/run/libvirt/virtqemud-sock", True, True),
        ("unix:/run/libvirt/libvirt-admin-sock", True, True),
        ("unix:/run/libvirt/virtqemud-admin-sock", True, True),
        ("unix:/run/libvirt/libvirt-sock-ro", True, False),
        ("unix:/run/libvirt/qemu/libvirt-sock.old", False, False),
        ("tcp:127.0.0.1:16509", True, True),
        ("tcp:[::1]:16509", True, True),
        ("tcp:127.0.0.1:16514", True, True),
        ("tcp:[::1]:16514", True, True),
        ("tcp:127.0.0.1:49152", False, False),
        ("unix:/run/qemu/web1.sock", False, False),
    ],
)
def test_libvirt_is_recognized_by_its_address(target: str, libvirt: bool, root: bool) -> None:
    assert is_libvirt(parse_target(target)) == libvirt
    assert reaches_libvirt(ingress("unix:/run/m/x", target)) == (libvirt and root)


@pytest.mark.parametrize(
    ("ports", "reaches"),
    [("16509", True), ("16500-16514", True), ("16510-16513", False), ("49152-49215", False)],
)
def test_range_that_covers_a_port_of_libvirt_reaches_it(ports: str, reaches: bool) -> None:
    assert reaches_libvirt(ingress(f"redirect:127.0.1.2:{ports}")) == reaches


@pytest.mark.parametrize(
    ("listen", "target", "uri"),
    [
        ("unix:/run/m/v", SOCKET, "qemu+unix:///system?socket=/run/m/v"),
        ("unix:/run/m/v", "tcp:127.0.0.1:16509", "qemu+unix:///system?socket=/run/m/v"),
        ("tcp:127.0.1.2:16509", None, "qemu+tcp://127.0.1.2:16509/system"),
        ("tcp:127.0.1.2:1000", SOCKET, "qemu+tcp://127.0.1.2:1000/system"),
        ("tcp:[::1]:16509", None, "qemu+tcp://[::1]:16509/system"),
        ("tcp:127.0.1.2:16514", None, "qemu+tls://127.0.1.2:16514/system"),
        ("unix:/run/m/v", "tcp:127.0.0.1:16514", None),  # no transport has TLS over a unix socket
        ("unix:/run/m/v", "unix:/run/libvirt/libvirt-sock-ro", None),
        ("unix:/run/m/v", "unix:/run/libvirt/libvirt-admin-sock", None),
        ("tcp:127.0.1.2:49152", None, None),
    ],
)
def test_uri_of_a_libvirt_has_the_transport_of_the_target(
    listen: str, target: str | None, uri: str | None
) -> None:
    assert libvirt_uri(ingress(listen, target)) == uri


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("qemu+tcp://[::1]/system", "tcp:[::1]:16509"),
        ("qemu+tcp://root@[0:0::1]:1234/system", "tcp:[::1]:1234"),
        ("qemu+tcp://[::ffff:127.0.1.2]/system", "tcp:127.0.1.2:16509"),
        ("qemu+tls://127.0.1.2/system?pkipath=/x", "tcp:127.0.1.2:16514"),
        ("qemu+tls://[::1]/system", "tcp:[::1]:16514"),
        ("qemu://127.0.1.2/system", "tcp:127.0.1.2:16514"),  # TLS is the default with a host
        ("qemu+unix:///system?socket=/run/a%20b", "unix:/run/a b"),
        ("qemu+ssh://127.0.1.2/system", None),
        ("qemu+tcp://hostb/system", None),
        ("qemu+tcp:///system", None),
        ("qemu+tcp://[::1/system", None),
        ("qemu+tcp://[::1]:port/system", None),
        ("qemu:///system", None),
    ],
)
def test_uri_names_an_address_in_either_family(uri: str, address: str | None) -> None:
    found = address_of(uri)
    assert (None if found is None else str(found)) == address
