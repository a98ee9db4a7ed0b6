"""The pattern guest as libvirt's domain XML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from tunnel.bench.lab.disks import Volume
from tunnel.bench.lab.waiting import LabError
from tunnel.units import MIB

MONITORS = "/run/lab"
"""Directory of the guests' second monitors on each host: QMP sockets beside libvirt's own."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_LEAST_MEMORY = 16 * MIB
_TOUCHED = '  <memoryBacking><allocation mode="immediate"/></memoryBacking>\n'


@dataclass(frozen=True, slots=True)
class Domain:
    """The libvirt definition of a guest. ``memory`` in bytes; both hosts see ``kernel`` under its path.

    ``touched``: QEMU touches all memory before the guest, or the stream of a migration, starts.
    """

    name: str
    memory: int
    kernel: Path
    volumes: Sequence[Volume] = ()
    touched: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(f"a guest name must be lower-case letters, digits, hyphens, not {self.name!r}")
        if self.memory < _LEAST_MEMORY or self.memory % MIB:
            raise LabError(f"guest memory must be at least 16 MiB, in whole MiB, not {self.memory} bytes")

    @property
    def monitor(self) -> str:
        """The path of the guest's second monitor inside its host."""
        return f"{MONITORS}/{self.name}.qmp"

    def xml(self) -> str:
        """Return the XML for ``virsh define`` or ``create``."""
        return f"""\
<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>{self.name}</name>
  <memory unit="bytes">{self.memory}</memory>
{_TOUCHED if self.touched else ""}\
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="pc">hvm</type>
    <kernel>{escape(str(self.kernel))}</kernel>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{"".join(_disk(number, volume) for number, volume in enumerate(self.volumes))}\
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
  </devices>
  <qemu:commandline>
    <qemu:arg value="-qmp"/>
    <qemu:arg value="unix:{self.monitor},server=on,wait=off"/>
  </qemu:commandline>
</domain>
"""


def _disk(number: int, volume: Volume) -> str:
    target = f"vd{'abcdefghijklmnopqrstuvwxyz'[number]}"
    return f"""\
    <disk type="file" device="disk">
      <driver name="qemu" type="{volume.disk.image}"/>
      <source file={quoteattr(volume.path)}/>
      <target dev="{target}" bus="virtio"/>
    </disk>
"""
