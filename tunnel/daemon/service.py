"""The daemon of one host, from a checked configuration to an orderly shutdown."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import structlog

from tunnel import distribution
from tunnel.daemon import aliases, libvirt_keepalives
from tunnel.daemon.certificates import Certificates
from tunnel.daemon.config import Config, PeerConfig
from tunnel.daemon.config_warnings import absent, shared_names
from tunnel.daemon.control_socket import Command, ControlSocket
from tunnel.daemon.drain import Drain
from tunnel.daemon.redirects import Redirects
from tunnel.daemon.worker_count import count_workers
from tunnel.engine.choice import UNASKED, Choice
from tunnel.errors import UsageError
from tunnel.lanes.lane_factory import maker
from tunnel.net.listener import is_configured
from tunnel.relay.address import UnixAddress, parse_target
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.ingress import Ingress, IngressPlan
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link, LinkPlan
from tunnel.relay.link_group import EveryLink, LinkGroup
from tunnel.relay.link_status import ingress_facts
from tunnel.relay.pump import Pump
from tunnel.relay.rotator import Rotator
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.relay.status_schema import DaemonStatus, ProbeAnswer
from tunnel.relay.worker_load import WorkerLoad
from tunnel.relay.workers import Workers
from tunnel.tls.contexts import TlsContexts
from tunnel.tls.lane_kinds import PLACES, EncryptionStatus, LaneKind, figures
from tunnel.wire.codes import Code
from tunnel.wire.frames import ID_SIZE
from tunnel.wire.probes import MAX_PROBES
from tunnel.wire.rotation import RotationPlan
from tunnel.wire.session import DEFAULT_LIMITS, Settings

RELOADED = (
    "reload: certificates and CRLs are read again, and firewall rules put in place; the configuration is "
    "not read again, restart the daemon for that"
)

NOTIFY_TIMEOUT = 0.1
"""Seconds to wait for systemd to accept a message; the event loop is blocked meanwhile."""

PROBE_DEADLINE = 4.0
"""Seconds that a peer may take to reply to a probe: less than the timeout of a control command."""

log = structlog.get_logger()


class Service:
    """The running daemon: owns links, ingresses, workers, redirects and the control socket."""

    def __init__(self, config: Config, contexts: TlsContexts, engine: Choice = UNASKED) -> None:
        self._config = config
        self._engine = engine
        self._contexts = contexts
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        transport = config.transport
        self._workers = Workers(count_workers(transport, compiled=engine.provider is not None))
        self._make_lane = maker(contexts.lane, engine.provider)
        self._links: dict[str, LinkGroup] = {}
        self._every_link = EveryLink(self._links.values())
        self._certificates = Certificates(contexts, config.host.name, self._every_link)
        self._make_links(os.urandom(ID_SIZE))
        self._ingresses: list[Ingress] = []
        self._reception: LaneAcceptor | None = None
        self._control: ControlSocket | None = None
        self._redirects: Redirects | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises UsageError when an address or a redirect is not available."""
        self._watch_signals()
        try:
            await self._workers.start()
            self._listen()
            self._redirects = Redirects(self._config.host.name, self._ingresses)
            await self._redirects.install()
            async with asyncio.TaskGroup() as tasks:
                helpers = []
                for link, dialer in self._dialers():
                    helpers.append(tasks.create_task(dialer.run(), name="dialer"))
                    helpers.append(tasks.create_task(Rotator(link, dialer).run(), name="rotator"))
                groups = self._links.values()
                helpers += [tasks.create_task(group.keep(), name="sessions") for group in groups]
                helpers.append(tasks.create_task(self._redirects.keep(), name="redirects"))
                helpers.append(tasks.create_task(self._certificates.run(), name="certificates"))
                self._log_encryption()
                log.info("serving", host=self._config.host.name, listen=str(self._config.host.listen))
                if not is_configured(self._config.host.listen.host):
                    log.warning("not reachable", reason=absent(self._config.host.listen.host))
                if hasty := libvirt_keepalives.warning(self._config):
                    log.warning("libvirt gives up before links do", reason=hasty)
                notify("READY=1")
                await self._stopping.wait()
                notify("STOPPING=1")
                timeout = self._config.host.drain_timeout
                await Drain(self._every_link, timeout, self._hurry, tell_status).run()
                for helper in helpers:
                    helper.cancel()
        finally:
            await self._close()
        log.info("stopped")

    async def status(self) -> DaemonStatus:
        """Return the reply to ``mtunnel status``, after a probe of every redirect."""
        faults = await self._redirects.examine() if self._redirects else {}
        return {
            "host": self._config.host.name,
            "version": distribution.version(),
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._started, 3),
            "draining": self._stopping.is_set(),
            "listen": str(self._config.host.listen),
            "listen_configured": is_configured(self._config.host.listen.host),
            "rejected": self._reception.rejected if self._reception else 0,
            "certificate": self._certificates.facts(),
            "lane": self._lane_facts(),
            "workers": self._workers.facts(),
            "links": await asyncio.gather(*(group.facts() for group in self._links.values())),
            "ingresses": [
                ingress_facts(ingress, faults.get(str(ingress.plan.listen))) for ingress in self._ingresses
            ],
        }

    def _lane_facts(self) -> EncryptionStatus:
        return {**self._contexts.lane_facts(), "engine": self._engine.reason}

    def _log_encryption(self) -> None:
        facts, lane = self._lane_facts(), self._contexts.lane
        event = f"encryption: in the {PLACES[lane]}{figures(facts['cpu_seconds_per_gib'], lane)}"
        workers = len(self._workers)
        log.info(event, reason=facts["reason"], engine=facts["engine"], workers=workers)

    async def probe(self, peer: object, targets: object) -> list[ProbeAnswer]:
        """Return whether ``peer`` would admit streams to each of ``targets``, for ``mtunnel migrate``.

        Raises UsageError for an unknown peer or an invalid target, UnreachableError on timeout.
        """
        group = self._link(peer)
        if not isinstance(targets, list) or len(targets) > MAX_PROBES:
            raise UsageError(f"targets: expected a list of at most {MAX_PROBES}")
        wanted = [_target(text) for text in targets]
        deadline = asyncio.get_running_loop().time() + PROBE_DEADLINE
        answers = await asyncio.gather(*(group.probe(target, deadline) for target in wanted))
        return [answer.facts() for answer in answers]

    def record(self, peer: object, text: object) -> None:
        """Log ``text``, an action of a command, on this host and on ``peer``. Raises UsageError."""
        group = self._link(peer)
        if not isinstance(text, str) or not text.isprintable():
            raise UsageError("text: expected one line")
        group.record(text)

    def _link(self, peer: object) -> LinkGroup:
        group = self._links.get(peer) if isinstance(peer, str) else None
        if group is None:
            raise UsageError(f"no peer {peer!r}; configured peers: {', '.join(self._links) or 'none'}")
        return group

    # Starting.

    def _make_links(self, instance: bytes) -> None:
        busyness = WorkerLoad()
        for peer, plan in self._link_plans():
            dial = self._dial_plan(peer, self._certificates.as_known) if self._leads_to(peer) else None
            self._links[peer.name] = LinkGroup(plan, instance, self._workers, dial, busyness)

    def _link_plans(self) -> Iterator[tuple[PeerConfig, LinkPlan]]:
        transport = self._config.transport
        limits = replace(DEFAULT_LIMITS, streams=transport.streams, lanes=transport.lanes)
        settings = Settings(limits, memory=transport.memory)
        own = [ingress.listen for ingress in self._config.ingresses]
        for peer in self._config.peers:
            host = self._config.host.name
            egress = replace(peer.egress, own=(*own, UnixAddress(str(self._config.host.control))))
            pump = SplicedPump if self._contexts.lane is LaneKind.KERNEL else Pump
            rotation = RotationPlan(transport.rotate_records, transport.rotate_after)
            window = transport.resume_window
            yield (
                peer,
                LinkPlan(host, peer.name, settings, window, rotation=rotation, egress=egress, pump=pump),
            )

    def _dialers(self) -> Iterator[tuple[Link, Dialer]]:
        for peer in self._config.peers:
            if self._leads_to(peer):
                link = self._links[peer.name].standing
                yield link, Dialer(self._dial_plan(peer, self._certificates.for_next_lane), link)

    def _leads_to(self, peer: PeerConfig) -> bool:
        """Whether an ingress leads to ``peer``. Otherwise only the peer dials."""
        return any(ingress.peer == peer.name for ingress in self._config.ingresses)

    def _dial_plan(self, peer: PeerConfig, contexts: Callable[[], TlsContexts]) -> DialPlan:
        return DialPlan(
            peer.address.host,
            peer.address.port,
            contexts,
            self._config.transport.congestion,
            self._config.host.listen.host,
            self._make_lane,
            lambda: shared_names(self._config, self._certificates.current),
        )

    def _listen(self) -> None:
        host, transport = self._config.host, self._config.transport
        commands: dict[str, Command] = {"status": self.status, "probe": self.probe, "record": self.record}
        self._control = ControlSocket(host.control, commands)
        self._reception = LaneAcceptor(
            host.listen.host,
            host.listen.port,
            self._certificates.for_next_lane,
            transport.congestion,
            self._links,
            self._make_lane,
            {peer.name: peer.address.host for peer in self._config.peers},
        )
        guarded = set(aliases.guarded(self._config))
        for ingress in self._config.ingresses:
            apart = not isinstance(ingress.listen, UnixAddress) and ingress.listen.host in guarded
            plan = IngressPlan(ingress.listen, ingress.target, ingress.uids, guarded=apart)
            self._ingresses.append(Ingress(plan, self._links[ingress.peer]))

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop_now)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        log.warning(RELOADED)
        self._certificates.reload()
        if self._redirects is not None:
            self._redirects.repair()

    # Stopping.

    def _stop(self) -> None:
        """Refuse new streams and drain; a second call ends the drain."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        for group in self._links.values():
            group.drain()

    def _stop_now(self) -> None:
        self._hurry.set()
        self._stop()

    async def _close(self) -> None:
        """Shut down from the outside in: no step leaves work for a component closed before it."""
        if self._redirects is not None:
            await self._redirects.clear()
        for ingress in self._ingresses:
            await ingress.close()
        if self._reception is not None:
            await self._reception.close()
        reason = f"{self._config.host.name} is stopping"
        await asyncio.gather(*(group.close(Code.NONE, reason) for group in self._links.values()))
        await self._workers.stop()
        if self._redirects is not None:
            await self._redirects.close()
        if self._control is not None:
            await self._control.close()


def _target(text: object) -> str:
    """Return the canonical form of a target. Raises UsageError."""
    try:
        return str(parse_target(str(text)))
    except ValueError as error:
        raise UsageError(str(error)) from None


def notify(state: str) -> None:
    """Send ``state`` to systemd, if it started this process (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(NOTIFY_TIMEOUT)
        sock.sendto(state.encode(), address)


def tell_status(text: str) -> None:
    """Set the status text that ``systemctl status`` shows."""
    notify(f"STATUS={text}")
