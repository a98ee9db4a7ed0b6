"""The contestants: ways to carry a stream from one host to another, each with the best settings that we know.

All encrypt with TLS 1.3 and TLS_AES_256_GCM_SHA384, and demand a certificate from both sides. Adding one
means a recipe and an entry in ``CONTESTANTS``.
"""

from __future__ import annotations

import platform
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from tunnel.bench.recipes import Sides, haproxy, mtunnel, socat, streams, stunnel
from tunnel.bench.site import Site
from tunnel.bench.tools import find, version_said
from tunnel.errors import UsageError


@dataclass(frozen=True)
class Contestant:
    """One way to carry a stream. ``sides`` is None for the bare connection; ``settings`` are for readers."""

    name: str
    settings: str
    version: Callable[[], str]
    sides: Callable[[Site], Sides] | None = None
    program: str | None = None

    def missing(self) -> str | None:
        """Return why this contestant cannot take part on this machine, or None when it can."""
        if self.program is None or find(self.program):
            return None
        return f"{self.program} is not installed"


def choose(names: Sequence[str]) -> list[Contestant]:
    """Return the contestants called ``names``, or all. Raises UsageError for an unknown name."""
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no contestant is called {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in names] if names else list(CONTESTANTS)


def _python(*packages: str) -> str:
    named = [f"{package} {version(package)}" for package in packages]
    return ", ".join([*named, f"Python {platform.python_version()}", ssl.OPENSSL_VERSION])


_STREAMS = "256 KiB read limit, chunk and write mark; freed memory kept"

CONTESTANTS: tuple[Contestant, ...] = (
    Contestant(
        name="direct",
        settings="no relay, no encryption: the source connects to the sink",
        version=_python,
    ),
    Contestant(
        name="mtunnel",
        settings="defaults; congestion as pinned",
        version=partial(_python, "mtunnel", "uvloop"),
        sides=mtunnel,
    ),
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
        name="socat",
        settings="-b 262144",
        version=partial(version_said, "socat", "-V"),
        sides=socat,
        program="socat",
    ),
    Contestant(
        name="haproxy",
        settings="nbthread 1; default buffers of 16 KiB",
        version=partial(version_said, "haproxy", "-v"),
        sides=haproxy,
        program="haproxy",
    ),
    Contestant(
        name="haproxy-tuned",
        settings="nbthread 1; tune.bufsize 262144",
        version=partial(version_said, "haproxy", "-v"),
        sides=partial(haproxy, bufsize=262144),
        program="haproxy",
    ),
    Contestant(
        name="stunnel",
        settings="defaults: buffers of 16 KiB, one thread a connection",
        version=partial(version_said, "stunnel", "-version"),
        sides=stunnel,
        program="stunnel",
    ),
)
