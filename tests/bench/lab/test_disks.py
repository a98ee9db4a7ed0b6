"""Disks keep their content, and a comparison detects one changed byte. Root is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.lab.disks import IMAGES, Disk, Volume
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.waiting import LabError
from tunnel.errors import VerificationError
from tunnel.units import MIB

KINDS = [Disk(MIB), Disk(MIB, "qcow2"), Disk(MIB, "qcow2", backing=True)]


@pytest.fixture
def hosts(plans: tuple[LabHostPlan, LabHostPlan]) -> tuple[LabHostPlan, LabHostPlan]:
    """Hosts that have a directory for images."""
    for host in plans:
        host.outside(IMAGES).mkdir(parents=True)
    return plans


def _spoil(path: Path) -> None:
    """Change the last byte of the random part of an image."""
    content = bytearray(path.read_bytes())
    where = content.rindex(content.rstrip(b"\0")[-1:])
    content[where] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize("disk", KINDS, ids=str)
def test_a_new_disk_has_the_expected_content(
    hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path, disk: Disk
) -> None:
    volume = Volume(disk, "web1-0", tmp)
    volume.create(hosts[0])
    volume.compare(hosts[0])


@pytest.mark.parametrize("disk", KINDS, ids=str)
def test_an_empty_disk_fails_the_comparison(
    hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path, disk: Disk
) -> None:
    volume = Volume(disk, "web1-0", tmp)
    volume.create(hosts[0])
    volume.prepare(hosts[1])
    with pytest.raises(VerificationError, match=r"web1-0\.\w+ on hostb has changed: Content mismatch"):
        volume.compare(hosts[1])


def test_one_changed_byte_is_detected(hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> None:
    volume = Volume(Disk(MIB), "web1-0", tmp)
    volume.create(hosts[0])
    _spoil(hosts[0].outside(volume.path))
    with pytest.raises(VerificationError, match="on hosta has changed"):
        volume.compare(hosts[0])


def test_no_two_disks_are_the_same(hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> None:
    for name in ("one", "two"):
        Volume(Disk(MIB), name, tmp).create(hosts[0])
    one, two = (path.read_bytes() for path in sorted(hosts[0].outside(IMAGES).iterdir()))
    assert len(one) == len(two) == MIB
    assert one[: MIB // 2] != two[: MIB // 2]


def test_a_backing_file_makes_the_guests_own_image_smaller(
    hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path
) -> None:
    volume = Volume(Disk(4 * MIB, "qcow2", backing=True), "web1-0", tmp)
    volume.create(hosts[0])
    assert hosts[0].outside(volume.path).stat().st_size < 2 * MIB


def test_a_missing_image_is_an_error_of_the_lab(hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> None:
    volume = Volume(Disk(MIB), "web1-0", tmp)
    volume.create(hosts[0])
    with pytest.raises(LabError, match="qemu-img compare failed: "):
        volume.compare(hosts[1])


def test_removing_leaves_no_file(hosts: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> None:
    volume = Volume(KINDS[2], "web1-0", tmp)
    volume.create(hosts[0])
    volume.prepare(hosts[1])
    volume.remove(hosts)
    assert [path for path in tmp.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("size", "image", "backing", "complaint"),
    [
        (MIB, "vmdk", False, "raw or qcow2, not 'vmdk'"),
        (MIB, "raw", True, "only a qcow2 image can have a backing file"),
        (0, "raw", False, "a multiple of 64 KiB"),
        (MIB + 1, "raw", False, "a multiple of 64 KiB"),
    ],
)
def test_an_invalid_disk_is_refused(size: int, image: str, backing: bool, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        Disk(size, image, backing)
