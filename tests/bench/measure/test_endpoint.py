"""Endpoints: both kinds can be converted to text and back, listen and connect."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp


@pytest.mark.parametrize("text", ["127.0.0.2:16515", "/run/mtunnel/a.sock"])
def test_parse_reads_what_str_wrote(text: str) -> None:
    assert str(ProgramAddress.parse(text)) == text


def test_a_tcp_endpoint_has_host_and_port() -> None:
    endpoint = ProgramAddress.parse("127.0.0.2:16515")
    assert (endpoint.host, endpoint.port, endpoint.is_unix) == ("127.0.0.2", 16515, False)


def test_a_path_is_a_unix_endpoint() -> None:
    assert ProgramAddress.parse("/run/a.sock").is_unix


def test_both_kinds_connect_to_where_they_listen(tmp: Path) -> None:
    for endpoint in (free_tcp("127.0.0.2"), ProgramAddress(path=str(tmp / "a.sock"))):
        with endpoint.listen() as server, endpoint.connect() as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


def test_a_free_port_is_on_the_given_address() -> None:
    endpoint = free_tcp("127.0.0.3")
    assert endpoint.host == "127.0.0.3"
    assert endpoint.port > 0
