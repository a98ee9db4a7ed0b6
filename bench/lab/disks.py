"""Disks of the lab's guests: random content on one host, empty images on the other, and their comparison."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.tools import path_of
from tunnel.bench.lab.waiting import LabError
from tunnel.errors import VerificationError

IMAGES = "/var/lib/libvirt/images"
"""Directory of the guests' images: each host has its own, under the same path."""

_SECONDS = 120.0
_SAME, _DIFFERENT = 0, 1  # qemu-img compare's exit codes


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of ``size`` bytes, its first three quarters random and the rest never written.

    ``image`` is ``raw`` or ``qcow2``. With ``backing``, for ``--copy-storage-inc``, the first half of the
    content is in a file that both hosts see, and the guest's own image holds the difference.
    """

    size: int
    image: str = "raw"
    backing: bool = False

    def __post_init__(self) -> None:
        if self.image not in {"raw", "qcow2"}:
            raise LabError(f"the image format of a disk must be raw or qcow2, not {self.image!r}")
        if self.backing and self.image != "qcow2":
            raise LabError("only a qcow2 image can have a backing file")
        if self.size <= 0 or self.size % 65536:
            raise LabError(f"the size of a disk must be a multiple of 64 KiB, not {self.size} bytes")


class Volume:
    """One disk of one guest: its expected content, and its images on the hosts."""

    def __init__(self, disk: Disk, name: str, shared: Path) -> None:
        """``name`` is unique in the lab; ``shared`` is a directory that both hosts see."""
        self.disk = disk
        self.path = f"{IMAGES}/{name}.{disk.image}"
        self._reference = shared / f"{name}.reference"
        self._base = shared / f"{name}.base"

    def create(self, host: LabHostPlan) -> None:
        """Create the content, and the image on ``host`` that holds it."""
        size, image = self.disk.size, str(self._outside(host))
        content = os.urandom(size // 4 * 3)
        shared = content[: size // 2] if self.disk.backing else b""
        _write_sparse(self._reference, size, content)
        _write_sparse(self._base, size, shared)
        # Only the part that is not shared; the rest is read from the backing file.
        own = self._base.with_suffix(".own")
        _write_sparse(own, size, content[len(shared) :], start=len(shared))
        _qemu_img("convert", "-f", "raw", "-O", self.disk.image, str(own), image)
        own.unlink()
        if self.disk.backing:
            _qemu_img("rebase", "-u", "-f", self.disk.image, "-b", str(self._base), "-F", "raw", image)

    def prepare(self, host: LabHostPlan) -> None:
        """Create an empty image on ``host``, for a migration to fill."""
        backing = ["-b", str(self._base), "-F", "raw"] if self.disk.backing else []
        image = str(self._outside(host))
        _qemu_img("create", "-q", "-f", self.disk.image, *backing, image, str(self.disk.size))

    def compare(self, host: LabHostPlan) -> None:
        """Compare the image on ``host``, whose guest must be stopped, with its expected content.

        Raises VerificationError, with the first offset that differs.
        """
        image = str(self._outside(host))
        formats = ["-f", "raw", "-F", self.disk.image]
        done = _qemu_img("compare", "-U", *formats, str(self._reference), image, fine=(_SAME, _DIFFERENT))
        if done.returncode == _DIFFERENT:
            raise VerificationError(f"{self.path} on {host.name} has changed: {done.stdout.strip()}")

    def remove(self, hosts: tuple[LabHostPlan, ...]) -> None:
        """Remove the images from the hosts, and the content."""
        for path in (self._reference, self._base, *(self._outside(host) for host in hosts)):
            path.unlink(missing_ok=True)

    def _outside(self, host: LabHostPlan) -> Path:
        return host.outside(self.path)


def _write_sparse(path: Path, size: int, content: bytes, start: int = 0) -> None:
    with path.open("wb") as file:
        file.seek(start)
        file.write(content)
        file.truncate(size)


def _qemu_img(*arguments: str, fine: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    command = [path_of("qemu-img"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode not in fine:
        raise LabError(f"qemu-img {arguments[0]} failed: {(done.stderr + done.stdout).strip()}")
    return done
