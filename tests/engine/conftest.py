"""The compiled engine for tests: built from these sources, with every warning an error.

Without a C compiler tests fail. ``provider`` is each set of crypto libraries available on this machine.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiled_engine import PROVIDERS, build_strictly, open_provider
from tunnel.engine.binding import Provider, load
from tunnel.engine.choice import LIBCRYPTO


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's file, in its own folder."""
    return build_strictly(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def library(built: Path) -> Any:
    return load(built)


@pytest.fixture(scope="session", params=PROVIDERS)
def provider(request: pytest.FixtureRequest, library: Any) -> Provider:
    return open_provider(library, request.param)


@pytest.fixture(scope="session")
def libcrypto(library: Any) -> Provider:
    """For tests that do not depend on the crypto library."""
    return Provider(library, LIBCRYPTO)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A local connection with small buffers; its ends do not block."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    yield ends
    for end in ends:
        end.close()
