"""The cost of TLS records with each engine that can run here: ``python -m tunnel.bench.measure.engines``.

CPU seconds per GiB and direction, records of 16 KiB in batches of 256 KiB, from and to memory that stays in
the caches; the best of several rounds, since disturbances only add time. Also the cost of an empty call.
libipsec-mb is measured if the dynamic linker finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from rich.console import Console
from rich.table import Table

from tunnel.engine.binding import SUITES, LibraryError, Provider, load
from tunnel.engine.build import HERE, file_name
from tunnel.engine.choice import IPSEC_MB, LIBCRYPTO
from tunnel.engine.compiled import OVERHEAD, RECORD, CompiledOpener, CompiledSealer, sealed_size
from tunnel.units import GIB

BATCH = 1 << 18
ROUNDS, TURNS = 5, 200


class EngineCost(NamedTuple):
    """CPU seconds per GiB; microseconds of an empty call, None where not applicable."""

    engine: str
    suite: str
    seal: float
    open: float
    call: float | None


def measure(turns: int = TURNS) -> Iterator[EngineCost]:
    """Measure every engine with every suite. Raises LibraryError when the compiled one is missing."""
    library = load(HERE / file_name())
    providers = [Provider(library, LIBCRYPTO), Provider(library, LIBCRYPTO)]
    try:
        providers[1].use_ipsec_mb(IPSEC_MB)
    except LibraryError:
        providers.pop()
    for suite in SUITES:
        for provider in providers:
            if provider.ipsec_mb == "" or "AES" in suite:
                yield compiled_cost(provider, suite, turns)
        yield python_cost(suite, turns)


def compiled_cost(provider: Provider, suite: str, turns: int = TURNS) -> EngineCost:
    """Measure the compiled engine with one suite."""
    secret = (suite, bytes(_key_size(suite)), bytes(12))
    content, cipher, plain = [bytes(BATCH)], bytearray(sealed_size(BATCH)), bytearray(BATCH + RECORD)
    sealer = CompiledSealer(provider, *secret)
    sealing = _cost(lambda: sealer.seal(content, cipher), turns)
    CompiledSealer(provider, *secret).seal(content, cipher)
    openers = iter([CompiledOpener(provider, *secret) for _ in range(ROUNDS * turns)])
    opening = _cost(lambda: next(openers).open(cipher, len(cipher), plain), turns)
    nothing = list[bytes]()
    call = _cost(lambda: sealer.seal(nothing, cipher), 100 * turns) / GIB * BATCH * 1e6
    return EngineCost(provider.name, suite, sealing, opening, call)


def python_cost(suite: str, turns: int = TURNS) -> EngineCost:
    """Measure the AEADs of cryptography in a loop over whole records, without nonces and headers."""
    aead = (ChaCha20Poly1305 if "CHACHA20" in suite else AESGCM)(bytes(_key_size(suite)))
    nonce, header = bytes(12), bytes(5)
    inner, record = bytearray(RECORD + 1), bytearray(RECORD + OVERHEAD - len(header))
    count = range(BATCH // RECORD)

    def seal() -> None:
        for _ in count:
            aead.encrypt_into(nonce, inner, header, record)

    def open_() -> None:
        for _ in count:
            aead.decrypt_into(nonce, record, header, inner)

    return EngineCost("cryptography", suite, _cost(seal, turns), _cost(open_, turns), None)


def _key_size(suite: str) -> int:
    return 16 if "AES_128" in suite else 32


def _cost(work: Callable[[], object], turns: int) -> float:
    """Return the CPU seconds per GiB of ``work``, which handles ``BATCH`` bytes."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(turns):
            work()
        rounds.append(time.thread_time() - start)
    return min(rounds) / turns / BATCH * GIB


def show(costs: Iterator[EngineCost]) -> Table:
    """Return a table of the costs."""
    table = Table("engine", "suite", "seal, s/GiB", "open, s/GiB", "empty call, µs")
    for cost in costs:
        call = "" if cost.call is None else f"{cost.call:.2f}"
        table.add_row(cost.engine, cost.suite, f"{cost.seal:.3f}", f"{cost.open:.3f}", call)
    return table


if __name__ == "__main__":
    Console().print(show(measure()))
