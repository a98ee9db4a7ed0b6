"""The translation of migration options into QEMU's capabilities and parameters (``qapi/migration.json``)."""

from __future__ import annotations

from tunnel.virt.move_options import MoveOptions

_UNLIMITED = (1 << 63) - (1 << 20)  # bytes per second; QEMU parses a signed 64-bit number


def capabilities(options: MoveOptions) -> dict[str, bool]:
    """Return the capabilities of both sides, on or off; no ``postcopy-preempt`` if that is not decided."""
    found = {
        "events": True,
        "return-path": options.return_path,
        "multifd": bool(options.parallel),
        "postcopy-ram": options.postcopy,
        "auto-converge": options.auto_converge,
    }
    if options.postcopy_preempt is not None:
        found["postcopy-preempt"] = options.postcopy and options.postcopy_preempt
    return found


def parameters(options: MoveOptions) -> dict[str, object]:
    """Return the parameters of both sides."""
    limit = _UNLIMITED if options.bandwidth is None else options.bandwidth
    found: dict[str, object] = {
        "max-bandwidth": limit,
        "max-postcopy-bandwidth": limit,
        "downtime-limit": round(options.downtime_limit * 1000),
    }
    if options.parallel:
        found["multifd-channels"] = options.parallel
    return found
