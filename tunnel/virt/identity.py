"""The identity of the QEMU behind a monitor: the name and UUID that it was started with.

QEMU reports ``-name`` (or its ``guest=``) in ``query-name`` and ``-uuid`` in ``query-uuid``, the latter as
zeros when not set (qapi/machine.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.qmp import Monitor


@dataclass(frozen=True, slots=True)
class Identity:
    """The name and UUID of a QEMU; None where not set."""

    name: str | None
    uuid: UUID | None

    def __str__(self) -> str:
        parts = [self.name or "an unnamed guest", *([f"UUID {self.uuid}"] if self.uuid else [])]
        return f"{parts[0]} ({parts[1]})" if len(parts) > 1 else parts[0]


async def identify(monitor: Monitor) -> Identity:
    """Query the QEMU behind ``monitor``. Raises HypervisorError, also when the replies are not QEMU's."""
    name, uuid = await monitor.execute("query-name"), await monitor.execute("query-uuid")
    try:
        text, number = str(name.get("name") or ""), UUID(uuid["UUID"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HypervisorError(f"{monitor.name}: this is not a QEMU monitor: {name!r}, {uuid!r}") from error
    return Identity(text or None, number if number.int else None)


def require_guest(guest: str | None, found: Identity, where: str) -> None:
    """Raise UsageError unless ``found``, the QEMU at ``where``, runs ``guest``, if given."""
    if guest is None or guest == found.name:
        return
    if found.name is None:
        raise UsageError(
            f"{where}: this QEMU has no name (-name), cannot verify that it runs {guest}: omit the guest's "
            "name if you are sure"
        )
    raise UsageError(f"{where}: this QEMU runs {found}, not {guest}")


def require_same(source: Identity, waiting: Identity, where: str) -> None:
    """Raise UsageError when the QEMU waiting at ``where`` is for a guest other than ``source``."""
    pairs = ((source.name, waiting.name), (source.uuid, waiting.uuid))
    if any(one is not None and other is not None and one != other for one, other in pairs):
        raise UsageError(f"{where}: this QEMU is waiting for {waiting}, but the guest to migrate is {source}")


def comparable(source: Identity, waiting: Identity) -> bool:
    """Return whether both have a name or both have a UUID, so that ``require_same`` compares anything."""
    return None not in {source.name, waiting.name} or None not in {source.uuid, waiting.uuid}
