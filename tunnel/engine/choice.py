"""Selection of the engine for TLS records, with the reason as text for ``check``, ``status`` and the log.

The compiled one, if it was built and its ciphers are as fast as those bundled with ``cryptography``.
libcrypto before 3.1 does not use the vector instructions of newer processors (VAES): AES-GCM then takes three
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
"""The environment variable that disables the compiled engine: "python", the only valid value."""

LIBCRYPTO, IPSEC_MB = "libcrypto.so.3", "libIPSec_MB.so.1"
"""Names for the dynamic linker (Debian: libssl3, libipsec-mb1)."""

VECTOR_AES = (3, 1)
"""The first libcrypto that uses VAES."""

_PROCESSORS = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Choice:
    """``provider`` is None for the Python engine; ``reason`` names the engine, and why it was selected."""

    provider: Provider | None
    reason: str


UNASKED = Choice(None, "Python (no other engine requested)")


def choose(folder: Path = HERE, libcrypto: str = LIBCRYPTO, ipsec_mb: str = IPSEC_MB) -> Choice:
    """Select the fastest engine that passes its self-test. ``folder`` contains the compiled library.

    If ``ENGINE`` is set to Python, no library is opened. Raises UsageError for any other value.
    """
    if asked := os.environ.get(ENGINE, ""):
        if asked != "python":
            raise UsageError(f"invalid {ENGINE}={asked!r}: set it to 'python', or unset it")
        return _python(f"set by {ENGINE}")
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
        return _python(f"{provider.name} is slower than cryptography's OpenSSL on this CPU{lack}")
    if problem := fault(provider):
        return _python(f"the compiled engine failed its self-test with {provider.name}: {problem}")
    return Choice(provider, f"compiled, with {provider.name}")


def has_vector_aes(processors: Path = _PROCESSORS) -> bool:
    """Return whether this processor has instructions that encrypt several AES blocks in parallel (VAES)."""
    try:
        return any("vaes" in line.split() for line in processors.read_text().splitlines() if "flags" in line)
    except OSError:
        return False


def _not_built(folder: Path) -> str:
    if any(folder.glob("engine-*.so.1")):
        return "the compiled engine was built from other sources: reinstall mtunnel"
    return "the compiled engine was not built: no C compiler was found when mtunnel was installed"


def _python(reason: str) -> Choice:
    return Choice(None, f"Python ({reason})")
