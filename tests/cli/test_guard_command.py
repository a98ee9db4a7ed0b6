"""``mtunnel guard``: guards the addresses that the configuration redirects, and removes the guard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configs import HOST, INGRESS, PEER, TLS, write_config
from tests.support.namespace import network, tables
from tunnel.cli.main import main
from tunnel.host import guard_route as route

__all__ = ["network"]


def guard(path: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["guard", "--config", str(path), *options])
    return int(caught.value.code or 0)


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_guard_is_installed_and_removed(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp, HOST, TLS, PEER, INGRESS)
    for _ in range(2):
        assert guard(path) == 0
        assert capsys.readouterr().out == "guarded: 127.0.1.2\n"
        assert route.is_guarded("127.0.1.2")
        assert tables() == ["mtunnel-hosta"]
    for _ in range(2):
        assert guard(path, "--remove") == 0
        assert not route.is_guarded("127.0.1.2")
        assert tables() == []


def test_without_a_redirect_there_is_nothing_to_do(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(write_config(tmp, HOST, TLS, PEER)) == 0
    assert capsys.readouterr().out == "nothing to guard\n"


def test_errors_in_the_file_are_2(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guard(write_config(tmp, HOST, PEER)) == 2
    assert "tls: is missing" in capsys.readouterr().err
