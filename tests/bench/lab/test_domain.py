"""The guest's XML is complete, and an invalid guest is refused with a message."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tunnel.bench.lab.disks import Disk, Volume
from tunnel.bench.lab.domain import Domain
from tunnel.bench.lab.waiting import LabError
from tunnel.units import MIB

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def test_the_xml_describes_the_guest(tmp: Path) -> None:
    volumes = [Volume(Disk(MIB), "web1-0", tmp), Volume(Disk(MIB, "qcow2"), "web1-1", tmp)]
    root = ElementTree.fromstring(Domain("web1", 32 * MIB, Path("/lab/a&b.kernel"), volumes).xml())
    assert root.findtext("name") == "web1"
    assert root.findtext("memory") == str(32 * MIB)
    assert root.findtext("os/kernel") == "/lab/a&b.kernel"
    disks = [
        (disk.find("driver"), disk.find("source"), disk.find("target"))
        for disk in root.findall("devices/disk")
    ]
    found = [
        tuple(
            part.get(key) for part, key in zip(disk, ("type", "file", "dev"), strict=True) if part is not None
        )
        for disk in disks
    ]
    assert found == [
        ("raw", "/var/lib/libvirt/images/web1-0.raw", "vda"),
        ("qcow2", "/var/lib/libvirt/images/web1-1.qcow2", "vdb"),
    ]


def test_the_guest_has_a_second_monitor() -> None:
    domain = Domain("web1", 32 * MIB, Path("/k"))
    root = ElementTree.fromstring(domain.xml())
    arguments = [argument.get("value") for argument in root.findall(f"{QEMU}commandline/{QEMU}arg")]
    assert arguments == ["-qmp", "unix:/run/lab/web1.qmp,server=on,wait=off"]
    assert domain.monitor == "/run/lab/web1.qmp"


@pytest.mark.parametrize("name", ["", "Web", "a/b", "web 1", "-x", "x" * 40, "a<b"])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="a guest name must be"):
        Domain(name, 32 * MIB, Path("/k"))


@pytest.mark.parametrize("memory", [0, 8 * MIB, 32 * MIB + 1])
def test_an_invalid_memory_size_is_refused(memory: int) -> None:
    with pytest.raises(LabError, match="guest memory must be at least 16 MiB"):
        Domain("web1", memory, Path("/k"))


def test_memory_is_touched_only_on_request() -> None:
    asked, left = (Domain("web1", 32 * MIB, Path("/k"), touched=touched) for touched in (True, False))
    allocation = ElementTree.fromstring(asked.xml()).find("memoryBacking/allocation")
    assert allocation is not None
    assert allocation.get("mode") == "immediate"
    assert ElementTree.fromstring(left.xml()).find("memoryBacking") is None
