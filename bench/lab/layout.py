"""The files of a host before it starts: its own /etc, /run and /var directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tunnel.bench.lab.host_plan import LabHostPlan

MACHINE_ETC = "/run/machine-etc"
"""Mount point of the machine's /etc in a host; the host's own /etc links there for all other entries."""

QEMU_USER, QEMU_GROUP = "libvirt-qemu", "kvm"
"""The user and group of QEMU, as on Debian."""

NO_KVM = "no-kvm"
"""A file without permissions in the host's directory; it is mounted over /dev/kvm."""

_OWN_ETC = {"hostname", "hosts", "libvirt", "mtunnel", "pki"}

Settings = Mapping[str, str | int]


def lay_out(host: LabHostPlan, hosts: tuple[LabHostPlan, LabHostPlan]) -> None:
    """Create the directories of ``host`` and the files in its /etc; certificates come from ``pki``."""
    for place in host.own.values():
        place.mkdir(parents=True)
    (host.directory / NO_KVM).touch(mode=0o000)
    etc, run = host.outside("/etc"), host.outside("/run")
    for entry in Path("/etc").iterdir():
        if entry.name not in _OWN_ETC:
            # A symlink of the machine is copied unchanged: it may be relative to its location.
            target = entry.readlink() if entry.is_symlink() else f"{MACHINE_ETC}/{entry.name}"
            (etc / entry.name).symlink_to(target)
    (etc / "libvirt").mkdir()
    (etc / "mtunnel").mkdir()
    (etc / "hostname").write_text(f"{host.fqdn}\n")
    write_hosts(host, hosts)
    write_libvirtd_conf(host)
    write_qemu_conf(host)
    for name in ("lock", "user", "machine-etc", "lab", "mtunnel"):
        (run / name).mkdir()
    (host.outside("/var/lib/libvirt") / "images").mkdir(mode=0o711)
    # The guests' monitors; QEMU creates the sockets, as its own user.
    (run / "lab").chmod(0o1777)


def write_hosts(host: LabHostPlan, known: tuple[LabHostPlan, ...]) -> None:
    """Write /etc/hosts, the lab's only source of names. Hosts that are not in ``known`` do not resolve."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{one.address} {one.fqdn} {one.name}" for one in known]
    # In place: replacing the file would leave programs that have it open with the old one.
    (host.outside("/etc") / "hosts").write_text("\n".join(lines) + "\n")


def write_libvirtd_conf(host: LabHostPlan, changes: Settings | None = None) -> None:
    """Write libvirtd.conf, with ``changes`` overriding the lab's settings."""
    settings: dict[str, str | int] = {
        "host_uuid": host.uuid,
        "unix_sock_group": "root",
        "unix_sock_rw_perms": "0700",
        "auth_unix_ro": "none",
        "auth_unix_rw": "none",
        "listen_tls": 1,
        "listen_tcp": 1,
        "auth_tcp": "none",
        "auth_tls": "none",
        "log_filters": "1:qemu.qemu_migration 3:event 3:object 3:json",
        "log_outputs": "2:file:/var/log/libvirt/libvirtd.log",
    }
    _write(host.outside("/etc/libvirt/libvirtd.conf"), settings | dict(changes or {}))


def write_qemu_conf(host: LabHostPlan, changes: Settings | None = None) -> None:
    """Write qemu.conf, with ``changes`` overriding the lab's settings."""
    settings: dict[str, str | int] = {
        "user": QEMU_USER,
        "group": QEMU_GROUP,
        "security_driver": "none",
        "remember_owner": 0,
        "stdio_handler": "file",  # otherwise virtlogd would be needed
        "default_tls_x509_verify": 1,
    }
    # No cgroups and no private /dev for QEMU: this machine may support neither.
    lists = "namespaces = []\ncgroup_controllers = []\n"
    _write(host.outside("/etc/libvirt/qemu.conf"), settings | dict(changes or {}), lists)


def _write(path: Path, settings: Settings, more: str = "") -> None:
    path.write_text("".join(f"{key} = {_literal(value)}\n" for key, value in settings.items()) + more)


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'
