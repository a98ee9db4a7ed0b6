"""The checks before a migration: each returns its finding, or raises an error.

They move nothing, and dial nothing at the peer except its libvirt.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunnel.cli.migrate.link_monitor import LinkMonitor
from tunnel.daemon.config import IngressConfig
from tunnel.daemon.targets import spans
from tunnel.errors import HypervisorError, RefusedError, UnreachableError, UsageError
from tunnel.host.users import user_name
from tunnel.relay.address import TargetAddress, parse_target
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link_plan import LinkState
from tunnel.relay.status_schema import LinkStatus, ProbeAnswer
from tunnel.relay.target_check import TargetVerdict
from tunnel.virt.libvirt import LibvirtGuest, LibvirtHost, State
from tunnel.virt.libvirt_move import require_idle
from tunnel.virt.polling import until
from tunnel.wire.codes import Code

LINK_DEADLINE = 10.0
"""Seconds for a link to come up: the peer's daemon may have just been restarted."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check that passed."""

    check: str
    detail: str


async def check_link(tunnel: LinkMonitor, within: float = LINK_DEADLINE) -> CheckResult:
    """Check that the daemon of this host runs, is not stopping, and has an authenticated link to the peer.

    Raises UnreachableError, with the link's last incident, when not.
    """
    if await tunnel.draining():
        raise UnreachableError(
            "this host is stopping: its daemon is draining and accepts no new streams; start it again before "
            "the next migration"
        )
    last: LinkStatus | None = None

    async def up() -> LinkStatus | None:
        nonlocal last
        last = await tunnel.link()
        return last if last["state"] == LinkState.UP and last["lanes"] else None

    with contextlib.suppress(TimeoutError):
        lane = (await until(up, within=within, every=0.1))["lanes"][0]
        return CheckResult(
            "link", f"{tunnel.peer} at {lane['remote']}, {lane['kind']} lane, {lane['cipher']}"
        )
    state = last["state"] if last else "unknown: no reply from the daemon"
    raise UnreachableError(f"{tunnel.peer} is not reachable: the link is {state} ({_trouble(last)})")


def _trouble(link: LinkStatus | None) -> str:
    """Return the last incident that concerns the link itself, not a local client."""
    refused = IncidentKind.CALLER_REFUSED.name
    causes = [each for each in (link["incidents"] if link else []) if each.get("kind") != refused]
    return f"{causes[-1]['what']}: {causes[-1]['reason']}" if causes else "no attempt has failed yet"


async def check_redirects(tunnel: LinkMonitor, uris: Sequence[str]) -> None:
    """Check that connections to ``uris`` are redirected to the daemon, by its latest test connection.

    Raises UnreachableError when they are not.
    """
    hosts = {part for uri in uris for part in re.split("[:/?=]+", uri)}
    for listen, reason in await tunnel.faults():
        if listen.split(":")[1] in hosts:
            raise UnreachableError(
                f"{listen} does not lead to {tunnel.peer}: connections are not redirected ({reason});"
                " check the other firewall rules (nft list ruleset), for example notrack"
            )


async def check_targets(tunnel: LinkMonitor, host: str, targets: Sequence[TargetAddress]) -> CheckResult:
    """Check that the peer allows this ``host`` all of ``targets``.

    Raises RefusedError, with the rule to add there, when not, UnreachableError when the peer is stopping.
    """
    answers = await tunnel.probe([str(target) for target in targets])
    refused = [each for each in answers if each["verdict"] == TargetVerdict.REFUSED]
    if any(each["code"] == Code.DRAINING.name for each in refused):
        raise UnreachableError(
            f"{tunnel.peer} is stopping: its daemon is draining and accepts no new streams; start it again "
            "before the next migration"
        )
    if refused:
        raise RefusedError(_refusal(tunnel.peer, host, refused))
    if any(each["verdict"] == TargetVerdict.NOT_ASKED for each in answers):
        return CheckResult(
            "targets", f"not checked: {tunnel.peer} runs an older version that cannot be asked"
        )
    return CheckResult("targets", f"{tunnel.peer} allows {', '.join(spans(targets))}")


async def check_streams(tunnel: LinkMonitor, needed: int, parallel: int) -> CheckResult:
    """Check that the link has ``needed`` free streams for a migration with ``parallel`` channels (0: none).

    Raises RefusedError, with the number of channels that fit, when not: a migration whose last channels are
    refused would hang.
    """
    vacant = (await tunnel.link()).get("streams_vacant")
    if vacant is None:
        return CheckResult("streams", "unknown: the link is down, or the local daemon runs an older version")
    if vacant >= needed:
        return CheckResult("streams", f"{needed} needed, {vacant} free")
    fitting = parallel - (needed - vacant)
    advice = f"--parallel {fitting} would fit" if fitting > 0 else "other migrations use them"
    raise RefusedError(
        f"the migration needs {needed} streams, {vacant} are free on the link with {tunnel.peer}: {advice};"
        f" raise transport.streams on {tunnel.peer} to allow more"
    )


def _refusal(peer: str, host: str, refused: Sequence[ProbeAnswer]) -> str:
    rules = spans([parse_target(each["target"]) for each in refused])
    text = f"{peer} does not allow {host} to reach {', '.join(rules)}: {refused[0]['reason']}"
    if any(each["code"] != Code.TARGET_FORBIDDEN.name for each in refused):
        return text
    line = ", ".join(f'"{rule}"' for rule in rules)
    return f'{text}; add {line} to egress of [[peer]] name = "{host}" on {peer}, and restart its daemon'


async def check_hosts(source: LibvirtHost, destination: LibvirtHost) -> CheckResult:
    """Check that both libvirts answer and are different hosts. Raises UsageError when they are the same."""
    here, there = await source.uuid(), await destination.uuid()
    names = await source.name(), await destination.name()
    if here is not None and here == there:
        raise UsageError(
            f"{source.uri} and {destination.uri} have the same host UUID ({here}): if they are different "
            "machines, set a different host_uuid on one, in libvirtd.conf (or virtqemud.conf)"
        )
    return CheckResult("libvirt", f"{names[0]} ({source.uri}) to {names[1]} ({destination.uri})")


async def check_guest(
    source: LibvirtHost, name: str, *, resume: bool = False
) -> tuple[LibvirtGuest, CheckResult]:
    """Check that the guest is here and can be migrated: running or paused, and without a libvirt job.

    With ``resume``, that it is in post-copy or its post-copy failed. Raises HypervisorError when not.
    """
    guest = await source.guest(name)
    if guest is None:
        running = ", ".join(await source.running()) or "none"
        raise HypervisorError(f"no guest {name!r} at {source.uri}; running guests: {running}")
    state = await guest.state()
    wanted = {State.POSTCOPY, State.POSTCOPY_BROKEN} if resume else {State.RUNNING, State.PAUSED}
    if state not in wanted:
        hint = "; starting it there restores the saved memory" if state is State.SAVED else ""
        raise HypervisorError(f"{name} is {state} at {source.uri}, not {' or '.join(sorted(wanted))}{hint}")
    if not resume:
        await require_idle(guest)
    await guest.migratable_xml()
    return guest, CheckResult("guest", f"{name} is {state}")


async def check_name_free(guest: LibvirtGuest, destination: LibvirtHost) -> CheckResult:
    """Check that the destination has no other guest of that name or UUID, and that this one is not active.

    Raises HypervisorError with both UUIDs, so that the operator can identify the two guests.
    """
    name, uri = guest.name, destination.uri
    other = await destination.guest(name) or await destination.guest_with(guest.uuid)
    if other is None:
        return CheckResult("destination", f"{name} does not exist there")
    state = await other.state()
    there, here = f"a guest named {other.name!r} is already {state} at {uri} (UUID {other.uuid})", guest.uuid
    if other.uuid != here:
        raise HypervisorError(
            f"{there}, and the {name} to migrate is a different guest (UUID {here}): rename one of them"
        )
    if other.name != name:
        raise HypervisorError(
            f"{there}, and {name} has the same UUID ({here}): is it one guest under two names?"
        )
    if not state.gone:
        raise HypervisorError(
            f"{there}, and the same guest is on this host (UUID {here}): both may have written to its disks; "
            "find out which has the newer data before shutting down either"
        )
    return CheckResult("destination", f"{name} is {state} there")


async def check_callers(guest: LibvirtGuest, ingresses: Iterable[IngressConfig]) -> None:
    """Check that the user of the guest's QEMU may use ``ingresses``, to which QEMU itself connects.

    Raises RefusedError when not. Passes when libvirt does not report that user.
    """
    uid = await guest.uid()
    for ingress in ingresses:
        if uid is not None and uid not in ingress.uids:
            raise RefusedError(
                f"the QEMU of {guest.name} runs as user {user_name(uid)}, which may not use the ingress "
                f"{ingress.listen}, and with --parallel or disks QEMU itself connects: add the user to the "
                "ingress's users, and restart the daemon"
            )
