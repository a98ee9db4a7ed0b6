"""The self-test of kernel TLS where it has to fail; where it passes: ``test_emulated_kernel``."""

from __future__ import annotations

import socket

import pytest

from tests.support.lanes import Hosts
from tests.support.network import tcp_pair
from tunnel.errors import LaneError
from tunnel.lanes import kernel_tls, kernel_tls_selftest
from tunnel.lanes.kernel_tls_selftest import run_selftest
from tunnel.records.key_schedule import SUITES, Keys
from tunnel.tls.contexts import client_context, server_context
from tunnel.tls.lane_kinds import KernelTlsSupport


def no_tls(sock: socket.socket, keys: Keys) -> None:
    raise LaneError("kernel TLS is not available: Operation not supported")


def test_a_kernel_without_tls_fails(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_tls, "enable", no_tls)
    found = run_selftest(hosts.a.files)
    assert found.suites == ()
    assert found.reason == "the self-test failed: kernel TLS is not available: Operation not supported"


def test_a_module_that_is_not_loaded_is_not_a_failure(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def enable(sock: socket.socket, keys: Keys) -> None:
        tried.append(keys.cipher)
        raise kernel_tls.NoModuleError("kernel TLS is not available: module tls not loaded")

    monkeypatch.setattr(kernel_tls, "enable", enable)
    assert run_selftest(hosts.a.files) == KernelTlsSupport((), "module tls not loaded", no_module=True)
    assert len(tried) == 1


def test_a_kernel_that_delivers_an_alert_as_data_fails(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a plain socket: payload crosses it, which is not enough."""
    monkeypatch.setattr(kernel_tls, "enable", lambda sock, keys: None)
    found = run_selftest(hosts.a.files)
    assert found.suites == ()
    assert "the kernel delivers an alert as data" in found.reason


def test_only_suites_that_work_are_used(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def choosy(suite: str, files: object) -> None:
        if "CHACHA" in suite:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(kernel_tls_selftest, "_try", choosy)
    found = run_selftest(hosts.a.files)
    assert found.suites == ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256")
    assert found.reason == f"the self-test passed with {', '.join(found.suites)}"


@pytest.mark.parametrize("suite", SUITES)
def test_both_ends_have_the_same_secrets_and_record_numbers(hosts: Hosts, suite: str) -> None:
    server = server_context(hosts.b.files, (suite,))
    client = client_context(hosts.b.files, (suite,))
    ours, theirs = kernel_tls_selftest._shake_hands(server, client)
    assert ours.cipher == theirs.cipher == suite
    assert ours.send == theirs.receive
    assert ours.receive == theirs.send
    assert ours.send.secret != ours.receive.secret
    assert ours.send.records == 2, "OpenSSL's session tickets"
    assert theirs.send.records == 0


def test_changed_bytes_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tcp_pair()
    with one, other:
        kernel_tls_selftest._cross(one, other, b"payload")
        one.send(b"?" * 27)
        with pytest.raises(LaneError, match="the decrypted header differs from the one sent"):
            kernel_tls_selftest._cross(one, other, b"payload")


def test_bytes_that_never_arrive_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_tls_selftest, "PATIENCE", 0.05)
    one, other = tcp_pair()
    third, fourth = tcp_pair()
    with (
        one,
        other,
        third,
        fourth,
        pytest.raises(LaneError, match=r"timed out after 0\.05 seconds waiting for a loopback socket"),
    ):
        kernel_tls_selftest._cross(one, third, b"payload")
