"""``mtunnel demo``: migrate a QEMU guest through two daemons on this machine, and verify its memory."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from tunnel.cli.demo.display import Display
from tunnel.cli.demo.rehearsal import DemoMode, RehearsalPlan, RehearsalReport, rehearse, require_memory
from tunnel.cli.demo.two_daemons import IngressKind
from tunnel.cli.options import rate
from tunnel.proof.accelerator import Accelerator
from tunnel.proof.qemu import require_qemu
from tunnel.units import MIB, format_size, parse_size
from tunnel.virt.qmp import require_library

_LEAST_MEMORY, _MOST_MEMORY = 32 * MIB, 60 << 30
_MEMORY_HELP = "Guest memory, allocated twice.  [default: 1GiB]"
_RATE_HELP = "Rate at which the guest dirties its memory.  [default: 32MiB/s]"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130  # what a shell reports for SIGINT


class AcceleratorChoice(StrEnum):
    """The accelerator to run the guest with."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


def _memory(value: str | int) -> int:
    try:
        size = parse_size(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if size % MIB or not _LEAST_MEMORY <= size <= _MOST_MEMORY:
        raise typer.BadParameter(f"{value!r} is not a whole number of MiB from 32MiB to 60GiB")
    return size


def demo(
    mode: Annotated[DemoMode, typer.Option(help="Migration mode.")] = DemoMode.PRECOPY,
    memory: Annotated[
        int, typer.Option(parser=_memory, metavar="SIZE", show_default=False, help=_MEMORY_HELP)
    ] = 1024 * MIB,
    dirty_rate: Annotated[
        int, typer.Option(parser=rate, metavar="RATE", show_default=False, help=_RATE_HELP)
    ] = 32 * MIB,
    ingress: Annotated[
        IngressKind, typer.Option(help="How the source's QEMU connects to its daemon.")
    ] = IngressKind.UNIX,
    accel: Annotated[
        AcceleratorChoice, typer.Option(help="QEMU accelerator; auto: KVM if it works, else TCG.")
    ] = AcceleratorChoice.AUTO,
    channels: Annotated[
        int, typer.Option(min=1, max=255, help="Number of connections with --mode multifd.")
    ] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Migrate a real QEMU guest through two daemons on this machine, and verify every page of it.

    All processes, sockets and files are removed afterwards, also after ctrl-C.
    """
    require_qemu()
    require_library()
    require_memory(memory)
    chosen = None if accel is AcceleratorChoice.AUTO else Accelerator(accel.value, "requested with --accel")
    display = Display(Console(stderr=True, quiet=as_json))
    report = _run(RehearsalPlan(mode, memory, dirty_rate, ingress, channels), chosen, display)
    typer.echo(json.dumps(as_object(report), indent=2) if as_json else "\n".join(describe(report)))


def _run(plan: RehearsalPlan, accelerator: Accelerator | None, display: Display) -> RehearsalReport:
    """Run until the end or the first signal; later signals do not interrupt the cleanup."""
    received: list[signal.Signals] = []

    async def interruptible() -> RehearsalReport:
        loop, rehearsal = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: signal.Signals) -> None:
            received.append(number)
            if len(received) == 1 and rehearsal:
                rehearsal.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop, number)
        return await rehearse(plan, accelerator, display)

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        typer.echo(f"Stopped by {received[0].name}: all processes ended, all files removed", err=True)
        raise typer.Exit(_INTERRUPTED if received[0] is signal.SIGINT else 1) from None


def as_object(report: RehearsalReport) -> dict[str, Any]:
    """Return the report as a JSON object: bytes, seconds, bytes per second. The keys are stable."""
    plan, outcome = report.plan, report.outcome
    return {
        "verified": True,
        "pages": report.pages,
        "mode": plan.mode.value,
        "memory": plan.memory,
        "dirty_rate": plan.dirty_rate,
        "ingress": plan.ingress.value,
        "channels": plan.channels if plan.mode is DemoMode.MULTIFD else 1,
        "accelerator": {"name": report.accelerator.name, "reason": report.accelerator.reason},
        "lane": {"kind": report.lane, "cipher": report.cipher},
        "transferred": outcome.sent,
        "seconds": outcome.seconds,
        "throughput": round(outcome.throughput),
        "downtime_seconds": outcome.downtime,
        "passes": outcome.iterations,
        "postcopied": outcome.postcopied,
        "cpu": {
            name: {"seconds": seconds, "seconds_per_gib": round(report.per_gib(name), 3)}
            for name, seconds in report.cpu.items()
        },
    }


def describe(report: RehearsalReport) -> Iterator[str]:
    """Yield the lines of the report as text."""
    plan, outcome = report.plan, report.outcome
    yield f"Verified: all {report.pages} pages match, and the guest is running on hostb."
    yield (
        f"  moved      {(outcome.sent or 0) / MIB:.0f} MiB in {outcome.seconds:.2f} s, "
        f"{outcome.throughput / MIB:.0f} MiB/s; downtime {(outcome.downtime or 0) * 1000:.0f} ms"
    )
    yield f"  how        {_manner(report)}, {plan.ingress.value} ingress"
    yield f"  encrypted  {report.lane} lane, {report.cipher}"
    yield f"  guest      {format_size(plan.memory)}, run by {report.accelerator.name}"
    costs = ", ".join(f"{label} {report.per_gib(name):.2f}" for name, label in _PROCESSES.items())
    yield f"  CPU s/GiB  {costs} (QEMU's includes running the guest)"


def _manner(report: RehearsalReport) -> str:
    match report.plan.mode:
        case DemoMode.MULTIFD:
            return f"multifd over {report.plan.channels} channels"
        case DemoMode.POSTCOPY if not report.outcome.postcopied:
            return "postcopy, but it completed before the switch"
        case mode:
            return mode.value


_PROCESSES = {"hosta": "hosta", "hostb": "hostb", "source": "QEMU source", "destination": "QEMU destination"}
