"""Warnings of ``mtunnel check``, and the faults that a running daemon reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tests.support.pki import Pki
from tunnel.daemon import aliases, config_warnings
from tunnel.daemon.aliases import Unguarded
from tunnel.daemon.config import Config, load
from tunnel.daemon.config_warnings import faults, warnings
from tunnel.errors import UnreachableError
from tunnel.tls.contexts import TlsContexts
from tunnel.tls.contexts import load as load_tls


@pytest.fixture
def contexts(tmp: Path) -> TlsContexts:
    """Certificates without warnings."""
    return load_tls(Pki(tmp).host("hosta"))


@pytest.fixture(autouse=True)
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No alias is guarded, and 127.0.1.1 is in /etc/hosts."""
    monkeypatch.setattr(
        aliases, "unguarded", lambda names: [Unguarded(name, f"{name} is open") for name in names]
    )
    monkeypatch.setattr(aliases, "own_names", lambda name, _: ["compute7"] if name == "127.0.1.1" else [])


def configured(directory: Path, *listens: str) -> Config:
    head = '[[ingress]]\npeer = "hostb"\nusers = ["root"]\n'
    return load(write_config(directory, HOST, TLS, PEER, *(f'{head}listen = "{each}"\n' for each in listens)))


def test_certificate_of_several_hosts_is_warned_of(tmp: Path) -> None:
    contexts = load_tls(Pki(tmp).host("hosta", dns=["hostb", "hostz"]))
    [(key, text)] = warnings(configured(tmp), contexts)
    assert key == "tls.cert"
    assert text.startswith(
        f"the certificate {tmp}/hosta.pem also names hostb: hosts that have several of its names"
    )
    assert text.endswith("issue one certificate per host, with its own name only")


def test_alias_that_is_not_guarded_yet_is_warned_of(tmp: Path, contexts: TlsContexts) -> None:
    [(key, text)] = warnings(configured(tmp, "redirect:127.0.1.2:49152"), contexts)
    assert key == "ingress[0].listen"
    assert text.startswith("127.0.1.2 is open. While mtunnel is not running")
    assert "mtunnel guard" in text


def test_alias_that_is_the_hosts_own_name_is_warned_of(tmp: Path, contexts: TlsContexts) -> None:
    [(key, text)] = warnings(configured(tmp, "redirect:127.0.1.1:49152"), contexts)
    assert key == "ingress[0].listen"
    assert "is the address of this host's own name (compute7 in /etc/hosts)" in text
    assert "such as 127.0.1.2" in text


def test_own_name_of_an_ingress_with_one_port_is_warned_of(tmp: Path, contexts: TlsContexts) -> None:
    [(_, text)] = warnings(configured(tmp, "tcp:127.0.1.1:1000"), contexts)
    assert "is the address of this host's own name (compute7 in /etc/hosts)" in text


def test_port_that_any_user_may_bind_is_warned_of(tmp: Path, contexts: TlsContexts) -> None:
    config = configured(tmp, "tcp:127.0.1.9:49152", "tcp:127.0.1.9:1000", f"unix:{tmp}/web1.sock")
    [(key, text)] = warnings(config, contexts)
    assert key == "ingress[0].listen"
    assert text.startswith("any local user can listen on 127.0.1.9 port 49152 while the daemon is down")


def test_port_at_a_guarded_alias_is_not_warned_of(tmp: Path, contexts: TlsContexts) -> None:
    config = configured(tmp, "redirect:127.0.1.2:49152", "tcp:127.0.1.2:16509")
    assert [key for key, _ in warnings(config, contexts)] == ["ingress[0].listen"]


def test_fault_that_the_daemon_reports_is_a_problem(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listens = ("redirect:127.0.1.2:49152", "redirect:127.0.1.3:49152", "redirect:127.0.1.4:49152")
    config = configured(tmp, *listens)
    broken = {"works": False, "reason": "Connection refused"}
    found = (None, {"works": True, "reason": None}, broken)
    ingresses = [{"listen": listen, "redirect": each} for listen, each in zip(listens, found, strict=True)]

    def ask_status(path: Path) -> dict[str, Any]:
        assert path == config.host.control
        return {"ingresses": ingresses}

    monkeypatch.setattr(config_warnings, "ask_status", ask_status)
    assert list(faults(config)) == [
        ("ingress[2].listen", "connections are not redirected: Connection refused")
    ]
    ingresses[2] = {"listen": listens[2]}  # a daemon of an older version, without this key
    assert list(faults(config)) == []


def test_without_a_daemon_or_a_redirect_there_is_no_fault(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_status(path: Path) -> dict[str, Any]:
        raise UnreachableError("cannot reach the daemon")

    monkeypatch.setattr(config_warnings, "ask_status", ask_status)
    assert list(faults(configured(tmp, "redirect:127.0.1.2:49152"))) == []
    monkeypatch.setattr(config_warnings, "ask_status", pytest.fail)
    assert list(faults(configured(tmp, "tcp:127.0.1.2:49152"))) == []


def test_address_that_is_not_configured_yet_is_warned_of(tmp: Path, contexts: TlsContexts) -> None:
    host = HOST.replace("127.0.0.1:16515", "192.0.2.1:16515")
    [(key, text)] = warnings(load(write_config(tmp, host, TLS, PEER)), contexts)
    assert key == "host.listen"
    assert text.startswith("no interface has the address 192.0.2.1: peers cannot connect")


@pytest.mark.parametrize(
    ("rule", "told"), [("open/*", True), ("open/*/s", True), ("open/web1", True), ("*", False)]
)
def test_egress_to_a_socket_that_any_user_could_create_is_warned_of(
    tmp: Path, contexts: TlsContexts, rule: str, told: bool
) -> None:
    """The user who creates it would receive the guest."""
    place = tmp / "open"
    place.mkdir()
    place.chmod(0o1777)
    peer = PEER.replace("tcp:127.0.0.1:49152-49215", f"unix:{tmp}/{rule}")
    found = dict(warnings(load(write_config(tmp, HOST, TLS, peer)), contexts))
    why = (
        f"every user can write to the directory {place} (mode 1777): "
        "run chmod go-w on it, or use another path"
    )
    text = f"any local user could create the socket that hostb connects to: {why}"
    assert found == ({"peer[0].egress[0]": text} if told else {})
