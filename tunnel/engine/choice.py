"""Which engine makes a daemon's TLS records, and why, in words for ``check``, ``status`` and the log.

The compiled one, if it was built and its ciphers are as fast as those that ``cryptography`` brings. libcrypto
before 3.1 has no code for the vector instructions of newer processors (VAES): with it AES-GCM takes three
times as long, unless libipsec-mb does it. docs/decisions/0059-a-compiled-engine.md has the figures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tunnel.engine.binding import LibraryError, Provider, load
from tunnel.engine.build import HERE, file_name
from tunnel.engine.selftest import fault
from tunnel.errors import UsageError

ENGINE = "MTUNNEL_ENGINE"
"""The environment variable that keeps the compiled engine out: "python". Nothing else may stand there."""

LIBCRYPTO, IPSEC_MB = "libcrypto.so.3", "libIPSec_MB.so.1"
"""What the dynamic linker is asked for (Debian: libssl3, libipsec-mb1)."""

VECTOR_AES = (3, 1)
"""The first libcrypto that uses VAES."""

_PROCESSORS = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Choice:
    """``provider`` is None where Python makes the records; ``reason`` names the engine, and says why."""

    provider: Provider | None
    reason: str


UNASKED = Choice(None, "Python (no other engine was asked for)")


def choose(folder: Path = HERE, libcrypto: str = LIBCRYPTO, ipsec_mb: str = IPSEC_MB) -> Choice:
    """Find the fastest engine that makes the right records. ``folder`` is where the library lies.

    Where ``ENGINE`` asks for Python, no library is opened. Raises UsageError for anything else in it.
    """
    if asked := os.environ.get(ENGINE, ""):
        if asked != "python":
            raise UsageError(f"{ENGINE} is {asked!r}: it may be 'python', or not be set")
        return _python(f"asked for by {ENGINE}")
    path = folder / file_name()
    if not path.exists():
        return _python(_not_built(folder))
    try:
        return _with(Provider(load(path), libcrypto), ipsec_mb)
    except LibraryError as error:
        return _python(f"the compiled engine cannot be used: {error}")


def _with(provider: Provider, ipsec_mb: str) -> Choice:
    lack = ""
    if provider.version < VECTOR_AES:
        try:
            provider.use_ipsec_mb(ipsec_mb)
        except LibraryError as error:
            lack = f"; libipsec-mb would help (Debian: libipsec-mb1): {error}"
    if lack and has_vector_aes():
        return _python(f"{provider.name} is slower than the OpenSSL of cryptography here{lack}")
    if problem := fault(provider):
        return _python(f"the compiled engine failed its self-test with {provider.name}: {problem}")
    return Choice(provider, f"compiled, with {provider.name}")


def has_vector_aes(processors: Path = _PROCESSORS) -> bool:
    """Whether this processor has instructions that encrypt several blocks of AES at once."""
    try:
        return any("vaes" in line.split() for line in processors.read_text().splitlines() if "flags" in line)
    except OSError:
        return False


def _not_built(folder: Path) -> str:
    if any(folder.glob("engine-*.so.1")):
        return "the compiled engine is of other sources than these: install mtunnel again"
    return "the compiled engine was not built: there was no C compiler when mtunnel was installed"


def _python(reason: str) -> Choice:
    return Choice(None, f"Python ({reason})")
