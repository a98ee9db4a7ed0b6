"""Warnings of ``mtunnel check``: valid configurations that are probably unintended or may be dangerous."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from tunnel.daemon import aliases, libvirt_keepalives
from tunnel.daemon.config import Config, IngressConfig
from tunnel.daemon.config_errors import Problem
from tunnel.daemon.config_types import QEMU_USERS
from tunnel.daemon.control_socket import ask_status
from tunnel.daemon.rpc import is_libvirt, reaches_libvirt
from tunnel.errors import TunnelError
from tunnel.host.permissions import open_to_everybody
from tunnel.host.reserved_ports import is_reserved
from tunnel.host.users import user_name
from tunnel.net.listener import is_configured
from tunnel.relay.address import ListenAddress, RedirectAddress, TcpAddress
from tunnel.relay.allow_list import UnixRule
from tunnel.tls import expiry
from tunnel.tls.contexts import ONE_EACH, TlsContexts
from tunnel.tls.rejections import now


def warnings(config: Config, contexts: TlsContexts) -> Iterator[Problem]:
    """Yield every warning with its key: of the certificates, then of the ingresses in file order."""
    yield from expiry.warnings(contexts.expiries(now()), now())
    yield from contexts.trust.gaps(contexts.accepted, contexts.dialed)
    if shared := shared_names(config, contexts):
        yield "tls.cert", shared
    if not is_configured(config.host.listen.host):
        yield "host.listen", absent(config.host.listen.host)
    if hasty := libvirt_keepalives.warning(config):
        yield "transport.resume_window", hasty
    yield from _open_rules(config)
    guarded = set(aliases.guarded(config))
    for index, ingress in enumerate(config.ingresses):
        yield from ((f"ingress[{index}].users", text) for text in _users(ingress))
        texts = list(_place(ingress.listen, guarded, config.host.name))
        yield from ((f"ingress[{index}].listen", text) for text in texts)


def _open_rules(config: Config) -> Iterator[Problem]:
    """Yield every rule for sockets that any user could create, and so receive data meant for a QEMU."""
    for index, peer in enumerate(config.peers):
        for number, rule in enumerate(peer.rules):
            if isinstance(rule, UnixRule) and (problem := open_to_everybody(Path(rule.directory))):
                key = f"peer[{index}].egress[{number}]"
                yield key, f"any local user could create the socket that {peer.name} connects to: {problem}"


def absent(host: str) -> str:
    """Return the warning for a listen address that is not assigned to an interface."""
    return f"no interface has the address {host}: peers cannot connect until one does"


def faults(config: Config) -> Iterator[Problem]:
    """Yield the ingress problems that the running daemon reports; none when it is not reachable."""
    if not any(isinstance(ingress.listen, RedirectAddress) for ingress in config.ingresses):
        return
    try:
        facts = ask_status(config.host.control)
    except TunnelError:
        return
    redirects = {each["listen"]: each.get("redirect") for each in facts["ingresses"]}
    for index, ingress in enumerate(config.ingresses):
        redirect = redirects.get(str(ingress.listen))
        if redirect and not redirect["works"]:
            yield f"ingress[{index}].listen", f"connections are not redirected: {redirect['reason']}"


def shared_names(config: Config, contexts: TlsContexts) -> str:
    """Return a warning if this host's certificate also has names of peers, else "".

    A host that has several names of a certificate in its configuration cannot identify the peer.
    """
    if others := [peer.name for peer in config.peers if peer.name in contexts.names]:
        names = f"the certificate {contexts.files.cert} also names {', '.join(others)}"
        return f"{names}: hosts that have several of its names configured reject it; {ONE_EACH}"
    return ""


def _users(ingress: IngressConfig) -> Iterator[str]:
    others = [user_name(uid) for uid in sorted(ingress.uids - {0})]
    if others and reaches_libvirt(ingress):
        who = ", ".join(others)
        danger = f"{who} may connect to libvirt on {ingress.peer} here, which amounts to root access there"
        yield f'{danger}; a guest that escapes runs as its QEMU\'s user: write users = ["root"]'
    if not (others or "uids" in ingress.model_fields_set or is_libvirt(ingress.target)):
        who = " or ".join(QEMU_USERS)
        problem = f"this host has no user {who}, so only root may connect"
        danger = "if QEMU runs as another user, --parallel and disks will be refused"
        yield f'{problem}; {danger}: write users = ["root", "ITS_USER"]'


def _place(listen: ListenAddress, guarded: Collection[str], host: str) -> Iterator[str]:
    """Yield the warnings for the listen address of an ingress; ``host`` is this host's name."""
    match listen:
        case RedirectAddress(alias):
            yield from _own_name(alias, host)
            yield from _unguarded(alias) if alias in guarded else ()
        case TcpAddress(alias, port):
            if alias != "127.0.0.1":  # localhost is no alias of a peer
                yield from _own_name(alias, host)
            if alias not in guarded and not is_reserved(port):
                yield _open_to_users(listen)


def _own_name(alias: str, host: str) -> Iterator[str]:
    if names := ", ".join(aliases.own_names(alias, host)):
        yield (
            f"{alias} is the address of this host's own name ({names} in /etc/hosts): other programs use it,"
            " so it cannot be guarded; use another address in 127.0.0.0/8, such as 127.0.1.2"
        )


def _unguarded(alias: str) -> Iterator[str]:
    for _, reason, _ in aliases.unguarded([alias]):
        yield (
            f"{reason}. While mtunnel is not running they would receive what is sent to the peer, in plain"
            " text. The first mtunnel serve after a boot sets the guard; mtunnel guard sets it earlier"
        )


def _open_to_users(listen: TcpAddress) -> str:
    return (
        f"any local user can listen on {listen.host} port {listen.port} while the daemon is down, and receive"
        " what is sent to the peer, in plain text: use redirect: or unix: if local users are not trusted"
    )
