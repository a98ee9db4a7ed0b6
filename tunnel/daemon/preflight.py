"""What must be right outside the configuration file before a daemon can run with it.

``mtunnel check`` looks, ``mtunnel serve`` looks and takes hold: with ``starting`` the directories of the unix
sockets are made (``/run`` is empty after a boot). What would end the start, ``check`` reports as well, unless
it is the running daemon itself that is in the way. Both report everything at once, in the form of the file's
own mistakes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tunnel.daemon import listen_checks
from tunnel.daemon.config import Config
from tunnel.daemon.config_errors import Problem
from tunnel.daemon.config_types import LaneChoice
from tunnel.engine.choice import UNASKED, Choice
from tunnel.errors import CertificateError, ConfigError
from tunnel.files import read_regular
from tunnel.host import nftables
from tunnel.host.permissions import weakness
from tunnel.lanes.kernel_tls import NO_MODULE
from tunnel.lanes.kernel_tls_selftest import run_selftest
from tunnel.lanes.lane_meter import measure
from tunnel.net import peer_credentials, unix_path
from tunnel.relay.address import RedirectAddress, UnixAddress, UnixRule
from tunnel.tls.contexts import TlsContexts, TlsFiles, load
from tunnel.tls.lane_kinds import KernelTlsSupport

_NOT_CHEAPER = "kernel lanes work here, and cost no less"


def preflight(
    config: Config, source: str, engine: Choice = UNASKED, *, starting: bool = False
) -> TlsContexts:
    """Check what ``config`` refers to; return its certificates, loaded. ``source`` is the file's name.

    ``engine`` is that of userspace lanes; measuring what a byte costs takes up to a second, so this is not
    for a loop that serves. ``starting`` makes missing socket directories, and needs every address to be free
    even where a daemon with this control socket runs. Raises ConfigError that names all problems.
    """
    contexts, problems = _certificates(config)
    problems += exposed_files(config, Path(source))
    problems += listen_checks.sockets(config, starting=starting)
    problems += _no_redirects(config)
    problems += _no_callers(config)
    problems += _linked_rules(config)
    problems += _not_in_this_version(config)
    if contexts is not None:
        contexts = _for_lanes(config, contexts, engine)
        problems += _no_kernel_lanes(config, contexts)
    problems += listen_checks.ports(config, starting=starting)
    if problems or contexts is None:
        raise ConfigError(source, problems)
    return contexts


def _for_lanes(config: Config, contexts: TlsContexts, engine: Choice) -> TlsContexts:
    """Fit the contexts for the lanes that the configuration wants and this host's kernel can do."""
    if config.transport.lane is LaneChoice.USERSPACE:
        return replace(contexts, kernel=KernelTlsSupport((), "the configuration says so"))
    found = run_selftest(contexts.files)
    if config.transport.lane is LaneChoice.AUTO:
        found = _cheaper(found, engine)
    return load(contexts.files, found)


def _cheaper(found: KernelTlsSupport, engine: Choice) -> KernelTlsSupport:
    """Use what the kernel can do only where a byte costs less that way."""
    if found.reason == NO_MODULE:
        return KernelTlsSupport((), f"{NO_MODULE}; optional")
    if not found.suites:
        return found
    costs = measure(found.suites[0], engine.provider)
    suites = found.suites if costs.kernel_wins else ()
    reason = found.reason if suites or costs.faults else _NOT_CHEAPER
    return KernelTlsSupport(suites, reason + costs.faults, costs)


def _no_kernel_lanes(config: Config, contexts: TlsContexts) -> Iterator[Problem]:
    """Whoever insists on kernel lanes must not get others."""
    if config.transport.lane is LaneChoice.KERNEL and not contexts.kernel.suites:
        reason = contexts.kernel.reason + (" (modprobe tls)" if contexts.kernel.reason == NO_MODULE else "")
        yield "transport.lane", f"no kernel lanes here: {reason}; or use auto or userspace"


def _not_in_this_version(config: Config) -> Iterator[Problem]:
    """The file may say what this version cannot do yet: then it must not seem to be done."""
    if config.host.metrics is not None:
        yield "host.metrics", "this version has no metrics endpoint: leave it out"


def _no_redirects(config: Config) -> Iterator[Problem]:
    """Name every redirect, if this process could not put it in place."""
    redirects = [
        i for i, ingress in enumerate(config.ingresses) if isinstance(ingress.listen, RedirectAddress)
    ]
    if redirects and (problem := nftables.unavailable_reason()):
        yield from ((f"ingress[{index}].listen", problem) for index in redirects)


def _linked_rules(config: Config) -> Iterator[Problem]:
    """Name every rule that can never be used: an egress follows no symbolic link (``transport/unixpath``)."""
    for index, peer in enumerate(config.peers):
        for number, rule in enumerate(peer.rules):
            if isinstance(rule, UnixRule) and (link := unix_path.first_link(rule.pattern)):
                key, real = f"peer[{index}].egress[{number}]", os.path.realpath(link)
                yield key, f"{link} is a symbolic link, which no egress follows: write {real}"


def _no_callers(config: Config) -> Iterator[Problem]:
    """Name every ingress on TCP, if its callers could not be told apart: it would refuse them all."""
    on_tcp = [
        index for index, ingress in enumerate(config.ingresses) if not isinstance(ingress.listen, UnixAddress)
    ]
    if on_tcp and (problem := peer_credentials.unavailable_reason()):
        yield from ((f"ingress[{index}].listen", problem) for index in on_tcp)


def _certificates(config: Config) -> tuple[TlsContexts | None, list[Problem]]:
    unreadable = list(_unreadable_files(config))
    if unreadable:
        return None, unreadable
    tls = config.tls
    try:
        contexts = load(TlsFiles(tls.ca, tls.cert, tls.key, tls.crl))
    except CertificateError as error:
        return None, [("tls", str(error))]
    if config.host.name in contexts.names:
        return contexts, []
    names = ", ".join(contexts.names)
    return contexts, [("host.name", f"{config.host.name} is not a DNS name of {tls.cert}: that is {names}")]


def _unreadable_files(config: Config) -> Iterator[Problem]:
    """OpenSSL stops at the first file that it cannot read; an operator wants to hear of all."""
    for key, path in config.tls:
        if path is None:
            continue
        try:
            read_regular(path)
        except OSError as error:
            yield f"tls.{key}", f"{path} cannot be read: {error.strerror}"


def exposed_files(config: Config, source: Path) -> Iterator[Problem]:
    """Name every file that others than root and this user could change: they would decide whom to trust."""
    if source.exists() and (problem := weakness(source)):
        yield "", problem
    tls = TlsFiles(config.tls.ca, config.tls.cert, config.tls.key, config.tls.crl)
    cert, key = tls.dialing()
    files = {"ca": tls.ca, "cert": tls.cert, "key": tls.key, "crl": tls.crl}
    for name, path in files.items():
        if path is not None and (problem := weakness(path)):
            yield f"tls.{name}", problem
    for name, path in {"cert": cert, "key": key}.items():  # where one pair is for dialing
        if path != files[name] and (problem := weakness(path)):
            yield f"tls.{name}", problem
