"""A flood of connections without a certificate, at a steady rate, in a thread."""

from __future__ import annotations

import threading
from typing import Self

from tunnel.bench.measure.callers import PER_MINUTE, Callers, Says, words
from tunnel.bench.measure.endpoint import ProgramAddress


class Flood:
    """Connects to ``address`` (``IP:PORT``) while the context lasts; ``made`` counts the connections."""

    def __init__(self, address: str, says: Says, per_second: float = PER_MINUTE / 60) -> None:
        self._callers = Callers(ProgramAddress.parse(address), words(says), per_second)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._callers.run, args=(self._over.wait,), name="flood")

    @property
    def made(self) -> int:
        """The number of connections so far."""
        return self._callers.made

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._callers.close()
