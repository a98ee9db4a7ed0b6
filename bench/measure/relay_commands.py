"""The commands and configuration files of the two sides of each contestant."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunnel.bench.lab.tools import path_of
from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.site import ADDRESS_A, HOST_A, HOST_B, Site
from tunnel.certs.pair_files import Pair
from tunnel.engine.choice import ENGINE

Command = list[str]

CIPHERSUITE = "TLS_AES_256_GCM_SHA384"


@dataclass(frozen=True)
class Sides:
    """The commands of the two processes of a relay: plaintext enters at ``a`` and leaves at ``b``."""

    a: Command
    b: Command


# -- mtunnel -------------------------------------------------------------------------------------------------


LANES = {
    "userspace": 'lane = "userspace"\n',
    "kernel": 'lane = "kernel"\n',
}
"""Configuration lines, by lane kind."""


def mtunnel(
    site: Site,
    lanes: int = 1,
    records: int = 0,
    kinds: Sequence[str] = ("", ""),
    dialed: ProgramAddress | None = None,
    engine: str = "",
    workers: int = 0,
) -> Sides:
    """Return two daemons with one link of ``lanes`` lanes, one ingress and ``workers`` each; 0: the default.

    ``records``: limit per key, ``kinds`` (of LANES): of the lanes of both sides, if not the defaults.
    ``dialed``: the address that A dials, if not that of B. ``engine``: the value of MTUNNEL_ENGINE, if any.
    """
    common = f"lanes = {lanes}\n" + (f"rotate_records = {records}\n" if records else "")
    common += f"workers = {workers}\n" if workers else ""
    transport_a, transport_b = (common + LANES.get(kind, "") for kind in kinds)
    listen_a = free_tcp(ADDRESS_A)
    config_a = mtunnel_host(site, HOST_A, listen_a, site.pair_a, transport_a)
    config_a += mtunnel_peer(HOST_B, dialed or site.link, ())
    config_a += mtunnel_ingress(HOST_B, site.entry, site.exit)
    config_b = mtunnel_host(site, HOST_B, site.link, site.pair_b, transport_b)
    config_b += mtunnel_peer(HOST_A, listen_a, [mtunnel_address(site.exit)])
    return mtunnel_sides(site, config_a, config_b, engine)


def mtunnel_sides(site: Site, config_a: str, config_b: str, engine: str = "") -> Sides:
    """Return two daemons with these configurations, and with ``engine`` in MTUNNEL_ENGINE, if not empty."""
    return Sides(
        a=mtunnel_serve(site, HOST_A, config_a, engine),
        b=mtunnel_serve(site, HOST_B, config_b, engine),
    )


def mtunnel_serve(site: Site, name: str, config: str, engine: str = "") -> Command:
    """Return the daemon of host ``name`` with this configuration, which is written into a file."""
    asked = ["env", f"{ENGINE}={engine}"] if engine else []
    return [
        *(*asked, sys.executable, "-m", "tunnel.cli.main"),
        *("serve", "--config", str(site.write(f"{name}.toml", config))),
    ]


def mtunnel_host(site: Site, name: str, listen: ProgramAddress, pair: Pair, transport: str) -> str:
    """Return the start of a configuration; ``transport``: more lines of that section."""
    return f"""\
[host]
name = "{name}"
listen = "{listen}"
control = "{site.directory}/{name}.control"

[tls]
ca = "{site.ca}"
cert = "{pair.cert}"
key = "{pair.key}"

[transport]
congestion = "{site.congestion}"
{transport}"""


def mtunnel_peer(name: str, address: ProgramAddress, egress: Sequence[str]) -> str:
    """Return the section of a peer, with its egress rules."""
    allowed = ", ".join(f'"{target}"' for target in egress)
    return f"""
[[peer]]
name = "{name}"
address = "{address}"
egress = [{allowed}]
"""


def mtunnel_ingress(
    peer: str, listen: ProgramAddress, target: ProgramAddress, users: Sequence[str] = ()
) -> str:
    """Return the section of an ingress for ``users``, by default the current user."""
    allowed = ", ".join(f'"{user}"' for user in users or [pwd.getpwuid(os.geteuid()).pw_name])
    return f"""
[[ingress]]
peer = "{peer}"
listen = "{mtunnel_address(listen)}"
target = "{mtunnel_address(target)}"
users = [{allowed}]
"""


def mtunnel_address(endpoint: ProgramAddress) -> str:
    """Return an endpoint in the syntax of configurations."""
    return f"unix:{endpoint}" if endpoint.is_unix else f"tcp:{endpoint}"


# -- our own relays, for comparison --------------------------------------------------------------------------


def streams(site: Site, *, loop: str) -> Sides:
    """Return two processes of :mod:`tunnel.bench.measure.asyncio_relay`."""
    return _python_sides(site, "tunnel.bench.measure.asyncio_relay", loop)


def fastnet(site: Site) -> Sides:
    """Return two processes of :mod:`tunnel.bench.measure.fastnet`."""
    return _python_sides(site, "tunnel.bench.measure.fastnet")


def _python_sides(site: Site, *module: str) -> Sides:
    run = [sys.executable, "-m", *module]
    entry, link, out = str(site.entry), str(site.link), str(site.exit)
    files_a = [str(site.ca), str(site.pair_a.cert), str(site.pair_a.key)]
    files_b = [str(site.ca), str(site.pair_b.cert), str(site.pair_b.key)]
    return Sides(
        a=[*run, "encrypt", entry, link, *files_a, HOST_B],
        b=[*run, "decrypt", link, out, *files_b, HOST_A],
    )


def plain(site: Site) -> Sides:
    """Return two processes of :mod:`tunnel.bench.measure.plain_relay`, which do not encrypt."""
    run = [sys.executable, "-m", "tunnel.bench.measure.plain_relay"]
    entry, link, out = str(site.entry), str(site.link), str(site.exit)
    return Sides(a=[*run, entry, link], b=[*run, link, out])


# -- third-party programs ------------------------------------------------------------------------------------


def socat(site: Site) -> Sides:
    """Return two socat processes, each forking a child for every connection."""
    run = [path_of("socat"), "-b", "262144"]
    common = f"cafile={site.ca},verify=1,openssl-min-proto-version=TLS1.3"
    listen_a = _socat_plain(site.entry, listen=True)
    listen_b = (
        f"OPENSSL-LISTEN:{site.link.port},bind={site.link.host},reuseaddr,fork,{_socat_files(site.pair_b)}"
    )
    dial = f"OPENSSL:{site.link},{_socat_files(site.pair_a)},{common},commonname={HOST_B}"
    return Sides(
        a=[*run, listen_a, dial],
        b=[*run, f"{listen_b},{common},commonname={HOST_A}", _socat_plain(site.exit, listen=False)],
    )


def _socat_files(pair: Pair) -> str:
    return f"cert={pair.cert},key={pair.key}"


def _socat_plain(endpoint: ProgramAddress, *, listen: bool) -> str:
    if endpoint.is_unix:
        return f"UNIX-LISTEN:{endpoint},fork" if listen else f"UNIX-CONNECT:{endpoint}"
    if listen:
        return f"TCP-LISTEN:{endpoint.port},bind={endpoint.host},reuseaddr,fork"
    return f"TCP:{endpoint}"


def haproxy(site: Site, *, bufsize: int | None = None) -> Sides:
    """Return two HAProxy processes with one thread each; ``bufsize`` in bytes, None: the default, 16 KiB."""
    tls = f"ca-file {site.ca} verify required ssl-min-ver TLSv1.3 ciphersuites {CIPHERSUITE}"
    bundle_a, bundle_b = _bundle(site, HOST_A, site.pair_a), _bundle(site, HOST_B, site.pair_b)
    entry, out = _haproxy_address(site.entry), _haproxy_address(site.exit)
    dial = f"{site.link} ssl crt {bundle_a} {tls} verifyhost {HOST_B} sni str({HOST_B})"
    config_a = _haproxy_config(bufsize, entry, dial)
    config_b = _haproxy_config(bufsize, f"{site.link} ssl crt {bundle_b} {tls}", out)
    run = [path_of("haproxy"), "-db", "-f"]
    return Sides(
        a=[*run, str(site.write("haproxy-a.cfg", config_a))],
        b=[*run, str(site.write("haproxy-b.cfg", config_b))],
    )


def _haproxy_config(bufsize: int | None, bind: str, server: str) -> str:
    tune = f"\n    tune.bufsize {bufsize}" if bufsize else ""
    return f"""\
global
    nbthread 1{tune}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen relay
    bind {bind}
    server next {server}
"""


def _haproxy_address(endpoint: ProgramAddress) -> str:
    return f"unix@{endpoint}" if endpoint.is_unix else str(endpoint)


def stunnel(site: Site) -> Sides:
    """Return two stunnel processes, each with a thread for every connection."""
    config_a = _stunnel_config(
        site, site.pair_a, site.entry, site.link, f"client = yes\ncheckHost = {HOST_B}"
    )
    config_b = _stunnel_config(site, site.pair_b, site.link, site.exit, f"checkHost = {HOST_A}")
    return Sides(
        a=[path_of("stunnel"), str(site.write("stunnel-a.conf", config_a))],
        b=[path_of("stunnel"), str(site.write("stunnel-b.conf", config_b))],
    )


def _stunnel_config(
    site: Site, pair: Pair, accept: ProgramAddress, connect: ProgramAddress, role: str
) -> str:
    return f"""\
foreground = yes
pid =
[relay]
accept = {accept}
connect = {connect}
{role}
sslVersion = TLSv1.3
ciphersuites = {CIPHERSUITE}
CAfile = {site.ca}
cert = {pair.cert}
key = {pair.key}
verifyChain = yes
"""


def ssh(site: Site) -> Sides:
    """Return an ssh client with one forwarding, and a separate sshd, with keys made for this run and user."""
    host_key, user_key = _ssh_key(site, "ssh-host"), _ssh_key(site, "ssh-user")
    known = site.write("ssh-known-hosts", f"{HOST_B} {_public(host_key)}")
    server = {
        "ListenAddress": site.link,
        "HostKey": host_key,
        "AuthorizedKeysFile": site.write("ssh-authorized", _public(user_key)),
        "AuthenticationMethods": "publickey",
        "StrictModes": "no",  # it rejects /tmp as a parent, but only this user can read the directory
        "UsePAM": "no",
        "PidFile": "none",
        "Subsystem": "none none",
    }
    client = {
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": HOST_B,
        "StrictHostKeyChecking": "yes",
        "IdentityFile": user_key,
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
    }
    config_b = "".join(f"{key} {value}\n" for key, value in (_SSH_TUNING | server).items())
    options = [f"-o{key}={value}" for key, value in (_SSH_TUNING | client).items()]
    user = pwd.getpwuid(os.geteuid()).pw_name
    dial = ["-L", f"{site.entry}:{site.exit}", "-p", str(site.link.port), f"{user}@{site.link.host}"]
    serve = [path_of("sshd"), "-D", "-e", "-f", str(site.write("sshd.conf", config_b))]
    return Sides(a=[path_of("ssh"), "-N", "-F", "none", *options, *dial], b=[*_with_privsep(), *serve])


_KEY_SECONDS = 20.0
_SSH_TUNING = {"Ciphers": "aes256-gcm@openssh.com", "Compression": "no", "IPQoS": "none"}


def _ssh_key(site: Site, name: str) -> Path:
    path = site.directory / name
    make = [path_of("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    try:
        subprocess.run(
            make, check=True, timeout=_KEY_SECONDS, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        raise BenchError(f"ssh-keygen exited with status {error.returncode}: {error.stderr}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"ssh-keygen timed out after {_KEY_SECONDS:.0f} s") from error
    return path


def _public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


def _with_privsep() -> Command:
    """Return the command prefix of sshd as root: it requires /run/sshd, made in a private mount namespace."""
    if os.geteuid() != 0:
        return []
    script = 'mount -t tmpfs -o mode=755 none /run && mkdir -m 755 /run/sshd && exec "$@"'
    return [path_of("unshare"), "--mount", "sh", "-c", script, "sh"]


def _bundle(site: Site, name: str, pair: Pair) -> str:
    # HAProxy requires the certificate and its key in one file.
    return str(site.write(f"{name}.bundle.pem", pair.cert.read_text() + pair.key.read_text()))
