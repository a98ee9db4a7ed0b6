"""KVM or TCG: decided by trying, since a /dev/kvm that exists may still not run a guest."""

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
_PATIENCE = 3.0  # seconds; a usable KVM needs a third of one


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What QEMU runs guests with, ``kvm`` or ``tcg``, and why."""

    name: str
    reason: str


async def choose_accelerator() -> Accelerator:
    """KVM when it boots the pattern guest and delivers its timer, else TCG. Takes up to three seconds."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{_DEVICE} is not there or not ours to open")
    with tempfile.TemporaryDirectory(prefix="mtunnel-") as place:
        try:
            await _boot(Path(place))
        except TimeoutError:
            return Accelerator("tcg", f"{_DEVICE} exists, but ran no guest in {_PATIENCE:g} s")
        except HypervisorError as error:
            return Accelerator("tcg", f"{_DEVICE} exists, but cannot be used: {_gist(error)}")
    return Accelerator("kvm", "it booted a guest")


def _gist(error: HypervisorError) -> str:
    """The last line of what QEMU wrote, without the name of its program and source file."""
    return str(error).splitlines()[-1].rpartition(".c:")[2].removeprefix(f"{PROGRAM}: ")


async def _boot(directory: Path) -> None:
    kernel = directory / "kernel"
    kernel.write_bytes(build_image(Workload()))
    async with await Qemu.start("probe", Machine(kernel, 16 * MIB, _KVM), directory) as qemu:

        async def ready() -> bool | None:
            return qemu.serial.read_bytes() == SERIAL_READY or None

        await until(ready, within=_PATIENCE, every=0.02)
