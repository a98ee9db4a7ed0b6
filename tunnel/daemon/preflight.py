"""Startup checks outside the configuration file.

``mtunnel check`` and ``mtunnel serve`` run them; ``serve``, with ``starting``, also creates the directories
of the unix sockets (``/run`` is empty after a boot). ``check`` reports every problem on which ``serve`` would
fail, except conflicts with the running daemon. Both report all problems together, in the format of
configuration errors.
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
from tunnel.lanes.kernel_tls_selftest import run_selftest
from tunnel.lanes.lane_meter import measure
from tunnel.net import peer_credentials, unix_path
from tunnel.relay.address import RedirectAddress, UnixAddress
from tunnel.relay.allow_list import UnixRule
from tunnel.tls.contexts import TlsContexts, TlsFiles, load
from tunnel.tls.lane_kinds import KernelTlsSupport

_NOT_CHEAPER = "kernel lanes work on this host, but use no less CPU"


def preflight(
    config: Config, source: str, engine: Choice = UNASKED, *, starting: bool = False
) -> TlsContexts:
    """Check everything that ``config`` refers to; return the loaded certificates.

    ``source`` is the name of the configuration file, ``engine`` that of userspace lanes. Blocks for up to a
    second, to measure the CPU cost of lanes: do not call it on a running event loop. ``starting`` creates
    missing socket directories, and requires free addresses even if a daemon with this control socket runs.
    Raises ConfigError with all problems.
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
    """Return the contexts for the lanes that are configured, and supported by this host's kernel."""
    if config.transport.lane is LaneChoice.USERSPACE:
        return replace(contexts, kernel=KernelTlsSupport((), "set in the configuration"))
    found = run_selftest(contexts.files)
    if config.transport.lane is LaneChoice.AUTO:
        found = _cheaper(found, engine)
    return load(contexts.files, found)


def _cheaper(found: KernelTlsSupport, engine: Choice) -> KernelTlsSupport:
    """Use kernel lanes only where they use less CPU per byte."""
    if found.no_module:
        return KernelTlsSupport((), f"{found.reason}; optional")
    if not found.suites:
        return found
    costs = measure(found.suites[0], engine.provider)
    suites = found.suites if costs.kernel_wins else ()
    reason = found.reason if suites or costs.faults else _NOT_CHEAPER
    return KernelTlsSupport(suites, reason + costs.faults, costs)


def _no_kernel_lanes(config: Config, contexts: TlsContexts) -> Iterator[Problem]:
    """Yield a problem if kernel lanes are required but not available."""
    if config.transport.lane is LaneChoice.KERNEL and not contexts.kernel.suites:
        reason = contexts.kernel.reason + (" (modprobe tls)" if contexts.kernel.no_module else "")
        yield "transport.lane", f"kernel lanes are not available: {reason}; or use auto or userspace"


def _not_in_this_version(config: Config) -> Iterator[Problem]:
    """Yield a problem for each valid key that this version does not implement."""
    if config.host.metrics is not None:
        yield "host.metrics", "this version has no metrics endpoint: remove the key"


def _no_redirects(config: Config) -> Iterator[Problem]:
    """Yield every redirect, if this process cannot install it."""
    redirects = [
        i for i, ingress in enumerate(config.ingresses) if isinstance(ingress.listen, RedirectAddress)
    ]
    if redirects and (problem := nftables.unavailable_reason()):
        yield from ((f"ingress[{index}].listen", problem) for index in redirects)


def _linked_rules(config: Config) -> Iterator[Problem]:
    """Yield every rule that can never match: egress follows no symbolic links (``net/unix_path``)."""
    for index, peer in enumerate(config.peers):
        for number, rule in enumerate(peer.rules):
            if isinstance(rule, UnixRule) and (link := unix_path.first_link(rule.pattern)):
                key, real = f"peer[{index}].egress[{number}]", os.path.realpath(link)
                yield key, f"{link} is a symbolic link, which egress does not follow: write {real}"


def _no_callers(config: Config) -> Iterator[Problem]:
    """Yield every TCP ingress, if its callers cannot be identified: it would refuse them all."""
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
    names = f"{tls.cert}, which names {', '.join(contexts.names)}"
    return contexts, [("host.name", f"{config.host.name} is not a DNS name in {names}")]


def _unreadable_files(config: Config) -> Iterator[Problem]:
    """Yield every unreadable file: OpenSSL would report only the first one."""
    for key, path in config.tls:
        if path is None:
            continue
        try:
            read_regular(path)
        except OSError as error:
            yield f"tls.{key}", f"{path} cannot be read: {error.strerror}"


def exposed_files(config: Config, source: Path) -> Iterator[Problem]:
    """Yield every file that users other than root and this one could change: they would control trust."""
    if source.exists() and (problem := weakness(source)):
        yield "", problem
    tls = TlsFiles(config.tls.ca, config.tls.cert, config.tls.key, config.tls.crl)
    cert, key = tls.dialing()
    files = {"ca": tls.ca, "cert": tls.cert, "key": tls.key, "crl": tls.crl}
    for name, path in files.items():
        if path is not None and (problem := weakness(path)):
            yield f"tls.{name}", problem
    for name, path in {"cert": cert, "key": key}.items():  # if outgoing lanes have a separate pair
        if path != files[name] and (problem := weakness(path)):
            yield f"tls.{name}", problem
