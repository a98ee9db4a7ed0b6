"""The floor: what no encrypted relay in user space can undercut, measured in the same run and round.

It has two parts. Two plain hops are a contestant, ``plain-relay`` (:mod:`tunnel.bench.plain`), measured
like every other. AES-256-GCM once each way is measured here by ``openssl speed``: records of 16 KiB, the
largest that TLS has, from a buffer that never leaves the cache, and no Python. That program uses the
libcrypto of the system; where Python's ``ssl`` was built on another one, the floor is named as missing.
Memory BIOs or the AEAD of ``cryptography`` would measure copies, calls, and in the latter's case a newer
OpenSSL as well.
"""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunnel.bench.figures import GIB
from tunnel.bench.measurement import Case, Measurement
from tunnel.bench.program import BenchError
from tunnel.bench.tools import find

HOPS = "plain-relay"
CRYPTO = "aes-256-gcm"
RECORD = 16384
SETTINGS = f"openssl speed -evp aes-256-gcm -aead -bytes {RECORD}, once each way; user CPU time"


@dataclass(frozen=True)
class CryptoCost:
    """CPU seconds per GiB of AES-256-GCM, each way, as measured in ``round``."""

    round: int
    encrypt: float
    decrypt: float

    @property
    def both(self) -> float:
        """What side A and side B pay together."""
        return self.encrypt + self.decrypt


def missing() -> str | None:
    """Return why the cost of AES-GCM cannot be measured on this machine, or None when it can."""
    if not find("openssl"):
        return "openssl is not installed"
    if ssl.OPENSSL_VERSION not in version():
        return f"the program openssl is {version()}, but Python's ssl uses {ssl.OPENSSL_VERSION}"
    return None


def version() -> str:
    """Return what ``openssl version`` says."""
    return _openssl("version").strip()


def measure_crypto(number: int, seconds: int = 1) -> CryptoCost:
    """Encrypt for ``seconds``, then decrypt for as long. Raises BenchError when openssl fails."""
    return CryptoCost(number, _cost(seconds), _cost(seconds, "-decrypt"))


def _cost(seconds: int, *direction: str) -> float:
    options = ["-mr", "-evp", "aes-256-gcm", "-aead", "-bytes", str(RECORD), "-seconds", str(seconds)]
    said = _openssl("speed", *direction, *options)
    found = re.search(r"^\+F:[^:]*:AES-256-GCM:([\d.]+)$", said, re.MULTILINE)
    rate = float(found[1]) if found else 0.0  # bytes for each second of user time
    if not rate:
        raise BenchError(f"openssl speed gave no rate for AES-256-GCM, but said:\n{said}")
    return GIB / rate


def _openssl(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"cannot run openssl {arguments[0]}: {error}") from error
    return done.stdout or done.stderr


def floors(measured: Sequence[Measurement], costs: Sequence[CryptoCost]) -> Mapping[tuple[Case, int], float]:
    """Return the floor in CPU seconds per GiB, by case and round, where both of its parts were measured."""
    crypto = {cost.round: cost.both for cost in costs}
    return {
        (m.case, m.round): m.relay_cpu + crypto[m.round]
        for m in measured
        if m.contestant == HOPS and m.round in crypto
    }
