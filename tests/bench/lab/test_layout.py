"""A host's files: its own where the lab lays them out, the machine's everywhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.lab import layout
from tunnel.bench.lab.host_plan import LabHostPlan


@pytest.fixture
def laid_out(plans: tuple[LabHostPlan, LabHostPlan]) -> tuple[LabHostPlan, LabHostPlan]:
    """Both hosts laid out, which needs no root."""
    for host in plans:
        layout.lay_out(host, plans)
    return plans


def test_the_rest_of_etc_is_the_machines(laid_out: tuple[LabHostPlan, LabHostPlan]) -> None:
    etc = laid_out[0].outside("/etc")
    linked = {entry.name: str(entry.readlink()) for entry in etc.iterdir() if entry.is_symlink()}
    assert linked["passwd"] == "/run/machine-etc/passwd"
    assert linked.keys() == {entry.name for entry in Path("/etc").iterdir()} - {
        *("hostname", "hosts", "libvirt", "mtunnel", "pki")
    }


def test_each_host_has_its_own_name_and_resolves_both(laid_out: tuple[LabHostPlan, LabHostPlan]) -> None:
    for host in laid_out:
        assert host.outside("/etc/hostname").read_text() == f"{host.fqdn}\n"
        names = host.outside("/etc/hosts").read_text()
        assert "192.0.2.1 hosta.lab hosta\n" in names
        assert "192.0.2.2 hostb.lab hostb\n" in names


def test_a_name_can_be_made_unresolvable(laid_out: tuple[LabHostPlan, LabHostPlan]) -> None:
    layout.write_hosts(laid_out[0], laid_out[:1])
    assert "hostb" not in laid_out[0].outside("/etc/hosts").read_text()


def _conf(path: Path) -> dict[str, str]:
    lines = (line.partition(" = ") for line in path.read_text().splitlines())
    return {key: value for key, _, value in lines}


def test_each_libvirtd_has_its_own_uuid(laid_out: tuple[LabHostPlan, LabHostPlan]) -> None:
    uuids = [_conf(host.outside("/etc/libvirt/libvirtd.conf"))["host_uuid"] for host in laid_out]
    assert uuids == [f'"{host.uuid}"' for host in laid_out]


def test_changed_settings_override_those_of_the_lab(laid_out: tuple[LabHostPlan, LabHostPlan]) -> None:
    host = laid_out[0]
    layout.write_libvirtd_conf(host, {"host_uuid": "x", "listen_tcp": 0})
    layout.write_qemu_conf(host, {"migrate_tls_force": 1})
    libvirtd, qemu = (_conf(host.outside(f"/etc/libvirt/{name}.conf")) for name in ("libvirtd", "qemu"))
    assert (libvirtd["host_uuid"], libvirtd["listen_tcp"], libvirtd["listen_tls"]) == ('"x"', "0", "1")
    assert (qemu["migrate_tls_force"], qemu["user"], qemu["namespaces"]) == ("1", '"libvirt-qemu"', "[]")


def test_the_file_mounted_over_kvm_has_no_permissions(laid_out: tuple[LabHostPlan, LabHostPlan]) -> None:
    assert (laid_out[0].directory / layout.NO_KVM).stat().st_mode & 0o777 == 0
