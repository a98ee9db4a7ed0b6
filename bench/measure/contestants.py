"""The contestants: programs that carry a stream from one host to another, each with the best known settings.

Those that encrypt use TLS 1.3 with TLS_AES_256_GCM_SHA384 and require a certificate from both sides;
OpenSSH uses the same AES-256-GCM and a key on both sides. To add one: its commands in ``relay_commands`` and
an entry in ``CONTESTANTS``.
"""

from __future__ import annotations

import platform
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

from tunnel import distribution
from tunnel.bench.lab.tools import find, running_on, version_said
from tunnel.bench.measure import floor, iperf
from tunnel.bench.measure.measurement import OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS
from tunnel.bench.measure.relay_commands import (
    CIPHERSUITE,
    Sides,
    fastnet,
    haproxy,
    mtunnel,
    plain,
    socat,
    ssh,
    streams,
    stunnel,
)
from tunnel.bench.measure.site import Site
from tunnel.engine import choice as engines
from tunnel.errors import LaneError, UsageError
from tunnel.lanes.lane_paths import KernelPath


@dataclass(frozen=True)
class Contestant:
    """One way to carry a stream; ``settings`` is a description for reports.

    ``sides`` is None for the bare connection. ``programs`` must be installed. ``encrypts``: whether it can be
    compared with mtunnel. ``own_load``: it is source and sink as well (iperf3), over TCP only. ``lack``
    returns any other missing requirement.
    """

    name: str
    settings: str
    version: Callable[[], str]
    sides: Callable[[Site], Sides] | None = None
    programs: tuple[str, ...] = ()
    encrypts: bool = True
    own_load: bool = False
    lack: Callable[[], str | None] = lambda: None

    def missing(self) -> str | None:
        """Return why this contestant cannot run on this machine, or None when it can."""
        absent = [program for program in self.programs if not find(program)]
        return f"{' and '.join(absent)} not installed" if absent else self.lack()


def _not_importable(module: str) -> str | None:
    try:
        import_module(module)
    except ImportError as error:
        return f"not available with this Python: {error}"
    return None


def choose(names: Sequence[str]) -> list[Contestant]:
    """Return the contestants with these ``names``, or all. Raises UsageError for an unknown name."""
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"unknown contestant: {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(CONTESTANTS)


def _python(*packages: str) -> str:
    named = [f"{package} {version(package)}" for package in packages]
    return ", ".join([*named, f"Python {platform.python_version()}", ssl.OPENSSL_VERSION])


def _mtunnel_versions(*, asked: str = "") -> str:
    """Return the versions of mtunnel and of its record engine; ``asked`` is the value of MTUNNEL_ENGINE."""
    engine = "Python (asked for)" if asked else engines.choose().reason
    packages = [f"{package} {version(package)}" for package in ("uvloop", "pyOpenSSL", "cryptography")]
    return ", ".join(
        [
            f"mtunnel {distribution.version()}",
            f"engine: {engine}",
            *packages,
            f"Python {platform.python_version()}",
            floor.python_openssl(),
        ]
    )


def _no_kernel_lanes() -> str | None:
    """Return why kernel lanes are not available on this host, or None."""
    try:
        KernelPath(CIPHERSUITE).close()
    except (LaneError, OSError) as error:
        return f"no kernel lanes here: {error}"
    return None


def _mtunnel(
    name: str,
    settings: str,
    *,
    version: Callable[[], str] = _mtunnel_versions,
    lack: Callable[[], str | None] = lambda: None,
    **options: Any,
) -> Contestant:
    """Return our daemons; ``options`` as of ``relay_commands.mtunnel``."""
    return Contestant(
        name, f"{settings}; congestion as pinned", version, partial(mtunnel, **options), lack=lack
    )


def _program(
    name: str, settings: str, sides: Callable[[Site], Sides], version: Callable[[], str], *programs: str
) -> Contestant:
    """Return a third-party contestant that consists of ``programs``."""
    return Contestant(name, settings, version, sides, programs)


_STREAMS = "256 KiB read limit, chunk and write mark; freed memory kept"
_HAPROXY = partial(running_on, "haproxy", "-vv")

CONTESTANTS: tuple[Contestant, ...] = (
    Contestant(
        name="direct",
        settings="no relay, no encryption: the source connects to the sink",
        version=_python,
        encrypts=False,
    ),
    Contestant(
        name=iperf.NAME,
        settings="bare network: no relay, no encryption, its own load; blocks of 1 MiB; over tcp alone",
        version=partial(version_said, "iperf3", "--version"),
        programs=("iperf3",),
        encrypts=False,
        own_load=True,
    ),
    Contestant(
        name=floor.HOPS,
        settings="two plain relays, no encryption: the floor's two hops; 256 KiB buffers, blocking threads",
        version=_python,
        sides=plain,
        encrypts=False,
    ),
    _mtunnel(OURS, "defaults (lane auto: what costs less)"),
    _mtunnel(
        OURS_IN_PYTHON,
        f"defaults, without the compiled engine ({engines.ENGINE}=python)",
        version=partial(_mtunnel_versions, asked="python"),
        kinds=("userspace", "userspace"),
        engine="python",
    ),
    _mtunnel(
        "mtunnel-userspace", "lane userspace, whatever the kernel can do", kinds=("userspace", "userspace")
    ),
    _mtunnel(
        "mtunnel-kernel",
        "lane kernel: kernel TLS and splice",
        lack=_no_kernel_lanes,
        kinds=("kernel", "kernel"),
    ),
    _mtunnel("mtunnel-2-lanes", "lanes 2 in one loop", lanes=2, workers=1),
    _mtunnel(OURS_WITH_WORKERS, "two workers on each side", workers=2),
    Contestant(
        name="asyncio-streams",
        settings=_STREAMS,
        version=_python,
        sides=partial(streams, loop="asyncio"),
    ),
    Contestant(
        name="uvloop-streams",
        settings=_STREAMS,
        version=partial(_python, "uvloop"),
        sides=partial(streams, loop="uvloop"),
    ),
    Contestant(
        name="aiofastnet",
        settings="protocols that read into 128 KiB of their own, on uvloop; nothing waits in a transport",
        version=partial(_python, "aiofastnet", "uvloop"),
        sides=fastnet,
        lack=partial(_not_importable, "aiofastnet"),
    ),
    _program("socat", "-b 262144", socat, partial(version_said, "socat", "-V"), "socat"),
    _program("haproxy", "nbthread 1; default buffers of 16 KiB", haproxy, _HAPROXY, "haproxy"),
    _program(
        "haproxy-tuned",
        "nbthread 1; tune.bufsize 262144",
        partial(haproxy, bufsize=262144),
        _HAPROXY,
        "haproxy",
    ),
    _program(
        "stunnel",
        "defaults: buffers of 16 KiB, one thread a connection",
        stunnel,
        partial(version_said, "stunnel", "-version"),
        "stunnel",
    ),
    _program(
        "ssh",
        "ssh -L over one connection; aes256-gcm@openssh.com, no compression, IPQoS none",
        ssh,
        partial(version_said, "ssh", "-V"),
        *("ssh", "sshd", "ssh-keygen"),
    ),
)
