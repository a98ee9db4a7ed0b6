"""The host plans: they share nothing, and every path is mapped."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest

from tunnel.bench.lab.host_plan import LabHostPlan, plan


def test_the_hosts_share_nothing() -> None:
    a, b = plan(Path("/lab"))
    assert not set(astuple(a)) & set(astuple(b))
    assert (a.fqdn, b.fqdn) == ("hosta.lab", "hostb.lab")


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("/run/libvirt/libvirt-sock", "/lab/A/run/libvirt/libvirt-sock"),
        ("/run", "/lab/A/run"),
        ("/etc/hosts", "/lab/A/etc/hosts"),
        ("/var/lib/libvirt/images/x.raw", "/lab/A/lib/images/x.raw"),
        ("/var/lib/other", "/var/lib/other"),
        ("/running", "/running"),
        ("/lab/shared/x", "/lab/shared/x"),
    ],
)
def test_a_hosts_path_is_found_from_outside(inside: str, outside: str) -> None:
    assert plan(Path("/lab"))[0].outside(inside) == Path(outside)


def test_own_directories_are_below_the_hosts_part(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    for host in plans:
        assert all(place.parent == host.directory for place in host.own.values())
