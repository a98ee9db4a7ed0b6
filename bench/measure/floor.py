"""The floor: the minimum CPU cost of an encrypted relay in user space, measured in the same run and round.

It has two parts. Two plain hops are a contestant, ``plain-relay`` (``plain_relay``), measured like every
other. AES-256-GCM once each way is measured here, for each contestant with the library that it uses: the
engine of mtunnel's daemons (``tunnel/engine/choice.py``), ``cryptography`` where Python makes the records,
and the system's libcrypto for all others, by ``openssl speed``. They differ by a factor of two where that
libcrypto has no VAES, so a floor always names its library. All process only records of 16 KiB, the largest in
TLS, in memory that stays in the cache.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from OpenSSL import SSL

from tunnel.bench.lab.tools import find
from tunnel.bench.measure.engines import EngineCost, compiled_cost, python_cost
from tunnel.bench.measure.measurement import OURS, OURS_IN_PYTHON, Case, Measurement
from tunnel.bench.measure.program import BenchError
from tunnel.engine.binding import SUITES
from tunnel.engine.choice import Choice, choose
from tunnel.units import GIB

HOPS = "plain-relay"
CRYPTO, PYTHON_CRYPTO, SYSTEM_CRYPTO = "aes-256-gcm", "aes-256-gcm-python", "aes-256-gcm-system"
"""Names of the three costs in result files: of our engine, of records made in Python, of the system."""

RECORD = 16384
_TURNS = 500  # batches of 256 KiB in each of five rounds
_SPEED = f"openssl speed -evp aes-256-gcm -aead -bytes {RECORD}, once each way; user CPU time"
_BARE = "records of 16 KiB, once each way, best of five; CPU time of the thread"


@dataclass(frozen=True)
class CryptoCost:
    """CPU seconds per GiB of AES-256-GCM, each way, as measured in ``round``.

    ``by`` is one of the names above; "" in older files, which have only the system's, for all contestants.
    ``library`` is the name and version of the library.
    """

    round: int
    encrypt: float
    decrypt: float
    by: str = ""
    library: str = ""

    @property
    def both(self) -> float:
        """The cost of side A and side B together."""
        return self.encrypt + self.decrypt


@dataclass(frozen=True)
class Cipher:
    """A cipher library: ``measure`` returns CPU seconds per GiB each way, or raises BenchError."""

    name: str
    settings: str
    library: str
    measure: Callable[[], tuple[float, float]]
    missing: str | None = None

    def cost(self, number: int) -> CryptoCost:
        """Measure it in round ``number``."""
        encrypt, decrypt = self.measure()
        return CryptoCost(number, encrypt, decrypt, self.name, self.library)


def ciphers(chosen: Choice | None = None) -> list[Cipher]:
    """Return the libraries to measure here, our engine first. ``chosen``: default: as daemons choose."""
    provider = (chosen or choose()).provider
    bindings = f"cryptography {version('cryptography')} with {python_openssl()}"
    loop = partial(_of, python_cost, SUITES[0], _TURNS)
    in_python = Cipher(PYTHON_CRYPTO, f"bare loop over {_BARE}", bindings, loop)
    ours = Cipher(CRYPTO, in_python.settings, bindings, loop)
    if provider is not None:
        work = partial(_of, compiled_cost, provider, SUITES[0], _TURNS)
        ours = Cipher(CRYPTO, f"compiled engine, batches of {_BARE}", provider.name, work)
    missing = None if find("openssl") else "openssl is not installed"
    library = "" if missing else system_openssl()
    return [ours, in_python, Cipher(SYSTEM_CRYPTO, _SPEED, library, _speed, missing)]


def python_openssl() -> str:
    """Return the version of the OpenSSL that is bundled with ``cryptography``."""
    return SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()


def system_openssl() -> str:
    """Return the version of the libcrypto that the program openssl uses. Raises BenchError."""
    text = _openssl("version").strip()
    library = re.search(r"\(Library: (.*)\)", text)
    return library[1] if library else text


def _of(measure: Callable[..., EngineCost], *arguments: object) -> tuple[float, float]:
    cost = measure(*arguments)
    return cost.seal, cost.open


def _speed(seconds: int = 1) -> tuple[float, float]:
    return _rate(seconds), _rate(seconds, "-decrypt")


def _rate(seconds: int, *direction: str) -> float:
    options = ["-mr", "-evp", "aes-256-gcm", "-aead", "-bytes", str(RECORD), "-seconds", str(seconds)]
    output = _openssl("speed", *direction, *options)
    found = re.search(r"^\+F:[^:]*:AES-256-GCM:([\d.]+)$", output, re.MULTILINE)
    rate = float(found[1]) if found else 0.0  # bytes per second of user time
    if not rate:
        raise BenchError(f"openssl speed printed no rate for AES-256-GCM:\n{output}")
    return GIB / rate


def _openssl(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"cannot run openssl {arguments[0]}: {error}") from error
    return done.stdout or done.stderr


def paid_by(contestant: str) -> str:
    """Return which AES library a contestant uses: one of the three names."""
    if contestant == OURS_IN_PYTHON:
        return PYTHON_CRYPTO
    return CRYPTO if contestant.startswith(OURS) else SYSTEM_CRYPTO


def floors(
    measured: Sequence[Measurement], costs: Sequence[CryptoCost], contestant: str = OURS
) -> Mapping[tuple[Case, int], float]:
    """Return a contestant's floor in CPU seconds per GiB, by case and round, where it was measured."""
    crypto = {cost.round: cost.both for cost in costs if cost.by in {"", paid_by(contestant)}}
    return {
        (m.case, m.round): m.relay_cpu + crypto[m.round]
        for m in measured
        if m.contestant == HOPS and m.round in crypto
    }


def library_of(contestant: str, costs: Sequence[CryptoCost]) -> str:
    """Return the library of a contestant's floor as text."""
    libraries = [cost.library for cost in costs if cost.by in {"", paid_by(contestant)}]
    return next(filter(None, libraries), "the system's libcrypto")
