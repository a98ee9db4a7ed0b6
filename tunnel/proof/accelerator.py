"""Selection of KVM or TCG by booting a guest: a /dev/kvm that exists may still not work."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tunnel.errors import HypervisorError
from tunnel.proof.pattern_guest import SERIAL_READY, Workload, build_image
from tunnel.proof.qemu import PROGRAM, Machine, Qemu
from tunnel.units import MIB
from tunnel.virt.polling import until

_DEVICE = Path("/dev/kvm")
_KVM = "kvm"
_PATIENCE = 3.0  # seconds; a working KVM takes about 0.3 s


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The accelerator of QEMU, ``kvm`` or ``tcg``, and why it was chosen."""

    name: str
    reason: str


async def choose_accelerator() -> Accelerator:
    """Return KVM if it boots the pattern guest and delivers its timer, else TCG. Takes up to 3 seconds."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{_DEVICE} is missing or not accessible")
    with tempfile.TemporaryDirectory(prefix="mtunnel-") as name:
        try:
            await _boot(Path(name))
        except TimeoutError:
            return Accelerator("tcg", f"{_DEVICE} exists, but booted no guest in {_PATIENCE:g} s")
        except HypervisorError as error:
            return Accelerator("tcg", f"{_DEVICE} exists, but is unusable: {_gist(error)}")
    return Accelerator("kvm", "booted a test guest")


def _gist(error: HypervisorError) -> str:
    """Return the last line of QEMU's output, without its program and source file names."""
    return str(error).splitlines()[-1].rpartition(".c:")[2].removeprefix(f"{PROGRAM}: ")


async def _boot(directory: Path) -> None:
    kernel = directory / "kernel"
    kernel.write_bytes(build_image(Workload()))
    async with await Qemu.start("probe", Machine(kernel, 16 * MIB, _KVM), directory) as qemu:
        await until(lambda: qemu.serial.read_bytes() == SERIAL_READY, within=_PATIENCE, every=0.02)
