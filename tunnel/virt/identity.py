"""Whose QEMU it is that a monitor leads to: the name and UUID that it was started with.

QEMU reports ``-name`` (or its ``guest=``) by ``query-name`` and ``-uuid`` by ``query-uuid``, the latter as
zeros when there was none (qapi/machine.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.qmp import Monitor


@dataclass(frozen=True, slots=True)
class Identity:
    """None where QEMU was told nothing."""

    name: str | None
    uuid: UUID | None

    def __str__(self) -> str:
        parts = [self.name or "a guest without a name", *([f"UUID {self.uuid}"] if self.uuid else [])]
        return f"{parts[0]} ({parts[1]})" if len(parts) > 1 else parts[0]


async def identify(monitor: Monitor) -> Identity:
    """Ask the QEMU behind ``monitor``. Raises HypervisorError, also where what answers is none."""
    name, uuid = await monitor.execute("query-name"), await monitor.execute("query-uuid")
    try:
        told, known = str(name.get("name") or ""), UUID(uuid["UUID"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HypervisorError(f"{monitor.name}: what answers there is no QEMU: {name!r}, {uuid!r}") from error
    return Identity(told or None, known if known.int else None)


def require_guest(guest: str | None, found: Identity, where: str) -> None:
    """Raise UsageError unless ``found``, the QEMU at ``where``, is that of ``guest``, if one is given."""
    if guest is None or guest == found.name:
        return
    if found.name is None:
        raise UsageError(
            f"{where}: this QEMU has no name (-name), so nothing shows that it runs {guest}: leave the "
            "guest's name out if you are sure"
        )
    raise UsageError(f"{where}: this QEMU runs {found}, not {guest}")


def require_same(source: Identity, waiting: Identity, where: str) -> None:
    """Raise UsageError when the QEMU that waits at ``where`` is for another guest than ``source``."""
    pairs = ((source.name, waiting.name), (source.uuid, waiting.uuid))
    if any(one is not None and other is not None and one != other for one, other in pairs):
        raise UsageError(f"{where}: this QEMU waits for {waiting}, and the guest to move is {source}")


def comparable(source: Identity, waiting: Identity) -> bool:
    """Whether both were told the same kind of thing, so that ``require_same`` has compared anything."""
    return None not in {source.name, waiting.name} or None not in {source.uuid, waiting.uuid}
