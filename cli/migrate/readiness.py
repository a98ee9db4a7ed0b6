"""What must be right before a migration: each check says what it found, or raises what is wrong.

Nothing moves while these run, and nothing is dialled at the peer but its libvirt.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tunnel.cli.migrate.link_monitor import LinkMonitor
from tunnel.daemon.config import IngressConfig
from tunnel.daemon.targets import spans
from tunnel.errors import HypervisorError, RefusedError, UnreachableError, UsageError
from tunnel.host.users import user_name
from tunnel.relay.address import TargetAddress, parse_target
from tunnel.relay.incidents import CALLER_REFUSED
from tunnel.relay.target_check import TargetVerdict
from tunnel.virt.libvirt import LibvirtGuest, LibvirtHost, State
from tunnel.virt.libvirt_move import require_idle
from tunnel.virt.polling import until
from tunnel.wire.codes import Code

LINK_DEADLINE = 10.0
"""Seconds that a link may take to come up: the peer's daemon may have just been restarted."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check that passed."""

    check: str
    detail: str


async def check_link(tunnel: LinkMonitor, within: float = LINK_DEADLINE) -> CheckResult:
    """The daemon of this host runs and is not stopping, and its link is up: the peer proved who it is.

    Raises UnreachableError, with the link's last trouble, when not.
    """
    if await tunnel.draining():
        raise UnreachableError(
            "this host is stopping: its daemon takes no new streams, and ends with those that run; start it "
            "again before the next migration"
        )
    last: dict[str, Any] = {}

    async def up() -> dict[str, Any] | None:
        nonlocal last
        last = await tunnel.link()
        return last if last["state"] == "up" and last["lanes"] else None

    with contextlib.suppress(TimeoutError):
        last = await until(up, within=within, every=0.1)
        lane = last["lanes"][0]
        return CheckResult(
            "link", f"{tunnel.peer} at {lane['remote']}, {lane['kind']} lane, {lane['cipher']}"
        )
    causes = [each for each in last.get("incidents", ()) if each["what"] != CALLER_REFUSED]
    trouble = causes[-1] if causes else None
    reason = f"{trouble['what']}: {trouble['reason']}" if trouble else "no attempt has failed yet"
    state = last.get("state", "unknown: the daemon has not answered")
    raise UnreachableError(f"{tunnel.peer} is not reachable, its link is {state} ({reason})")


async def check_redirects(tunnel: LinkMonitor, uris: Sequence[str]) -> None:
    """Connections to what ``uris`` name come out at the daemon, as one of its own has just shown.

    Raises UnreachableError when they do not.
    """
    hosts = {part for uri in uris for part in re.split("[:/?=]+", uri)}
    for listen, reason in await tunnel.faults():
        if listen.split(":")[1] in hosts:
            raise UnreachableError(
                f"{listen} does not lead to {tunnel.peer} now: connections are not redirected ({reason});"
                " see what other rules the firewall has (nft list ruleset), for example notrack"
            )


async def check_targets(tunnel: LinkMonitor, host: str, targets: Sequence[TargetAddress]) -> CheckResult:
    """The peer allows us, ``host``, all of ``targets``. If not, RefusedError says what to write there.

    Raises UnreachableError when the peer is stopping.
    """
    answers = await tunnel.probe([str(target) for target in targets])
    refused = [each for each in answers if each["verdict"] == TargetVerdict.REFUSED]
    if any(each["code"] == Code.DRAINING.name for each in refused):
        raise UnreachableError(
            f"{tunnel.peer} is stopping: its daemon takes no new streams; start it again before the next "
            "migration"
        )
    if refused:
        raise RefusedError(_refusal(tunnel.peer, host, refused))
    if any(each["verdict"] == TargetVerdict.NOT_ASKED for each in answers):
        return CheckResult(
            "targets", f"not asked: {tunnel.peer} runs an older version, which cannot be asked"
        )
    return CheckResult("targets", f"{tunnel.peer} allows {', '.join(spans(targets))}")


async def check_streams(tunnel: LinkMonitor, needed: int, parallel: int) -> CheckResult:
    """The link has room for the ``needed`` streams of a migration with ``parallel`` channels (0: none).

    Raises RefusedError, with the number of channels that fit, when not: a migration whose last channels find
    no place would neither go on nor end.
    """
    vacant = (await tunnel.link()).get("streams_vacant")
    if vacant is None:
        return CheckResult("streams", "not known: the link is down, or the daemon here runs an older version")
    if vacant >= needed:
        return CheckResult("streams", f"{needed} needed, {vacant} free")
    fitting = parallel - (needed - vacant)
    advice = f"--parallel {fitting} would fit" if fitting > 0 else "other migrations use them"
    raise RefusedError(
        f"the migration needs {needed} streams, {vacant} are free on the link with {tunnel.peer}: {advice};"
        f" transport.streams on {tunnel.peer} allows more"
    )


def _refusal(peer: str, host: str, refused: Sequence[dict[str, str]]) -> str:
    rules = spans([parse_target(each["target"]) for each in refused])
    text = f"{peer} does not let {host} reach {', '.join(rules)}: {refused[0]['reason']}"
    if any(each["code"] != Code.TARGET_FORBIDDEN.name for each in refused):
        return text
    line = ", ".join(f'"{rule}"' for rule in rules)
    return f'{text}; add {line} to egress of [[peer]] name = "{host}" on {peer}, and restart its daemon'


async def check_hosts(source: LibvirtHost, destination: LibvirtHost) -> CheckResult:
    """Both libvirts answer, and are two. Raises UsageError when they are the same host."""
    here, there = await source.uuid(), await destination.uuid()
    names = await source.name(), await destination.name()
    if here is not None and here == there:
        raise UsageError(
            f"{source.uri} and {destination.uri} are the same host to libvirt (UUID {here}): if they are "
            "two machines, give one another host_uuid in libvirtd.conf (or virtqemud.conf)"
        )
    return CheckResult("libvirt", f"{names[0]} ({source.uri}) to {names[1]} ({destination.uri})")


async def check_guest(
    source: LibvirtHost, name: str, *, resume: bool = False
) -> tuple[LibvirtGuest, CheckResult]:
    """The guest is here and can be moved: it runs or is paused, and libvirt has no job on it.

    With ``resume`` its post-copy broke.

    Raises HypervisorError when not.
    """
    guest = await source.guest(name)
    if guest is None:
        running = ", ".join(await source.running()) or "none"
        raise HypervisorError(f"there is no guest {name!r} at {source.uri}; running are: {running}")
    state = await guest.state()
    wanted = {State.POSTCOPY, State.POSTCOPY_BROKEN} if resume else {State.RUNNING, State.PAUSED}
    if state not in wanted:
        hint = "; its next start there goes on from what was saved" if state is State.SAVED else ""
        raise HypervisorError(f"{name} is {state} at {source.uri}, not {' or '.join(sorted(wanted))}{hint}")
    if not resume:
        await require_idle(guest)
    await guest.migratable_xml()
    return guest, CheckResult("guest", f"{name} is {state}")


async def check_name_free(guest: LibvirtGuest, destination: LibvirtHost) -> CheckResult:
    """The destination has no other guest of that name or UUID, and this one is not alive there.

    Raises HypervisorError, which names both UUIDs: somebody has to find out which of the two is which.
    """
    name, uri = guest.name, destination.uri
    other = await destination.guest(name) or await destination.guest_with(guest.uuid)
    if other is None:
        return CheckResult("destination", f"{name} does not run there")
    state = await other.state()
    there, here = f"a guest named {other.name!r} is {state} at {uri} already (UUID {other.uuid})", guest.uuid
    if other.uuid != here:
        raise HypervisorError(
            f"{there}, and the {name} to move is another guest (UUID {here}): rename one of the two"
        )
    if other.name != name:
        raise HypervisorError(f"{there}, and {name} has the same UUID ({here}): one guest under two names?")
    if not state.gone:
        raise HypervisorError(
            f"{there}, and here is the same guest (UUID {here}): both may have changed its disks. Find out "
            "which of them has the newer data before you end either"
        )
    return CheckResult("destination", f"{name} is {state} there")


async def check_callers(guest: LibvirtGuest, ingresses: Iterable[IngressConfig]) -> None:
    """The user that the guest's QEMU runs as may use ``ingresses``, where it connects itself.

    Raises RefusedError when not. Where libvirt does not tell that user, nothing is wrong.
    """
    uid = await guest.uid()
    for ingress in ingresses:
        if uid is not None and uid not in ingress.uids:
            raise RefusedError(
                f"the QEMU of {guest.name} runs as user {user_name(uid)}, who may not use the ingress "
                f"{ingress.listen}, and for --parallel and disks it connects itself: add that user to the "
                "ingress's users, and restart the daemon"
            )
