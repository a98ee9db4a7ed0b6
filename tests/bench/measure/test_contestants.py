"""The table of contestants: which are available, which are missing, and their descriptions."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from tunnel.bench.measure.contestants import CONTESTANTS, Contestant, choose
from tunnel.bench.measure.site import lay_out
from tunnel.daemon.config import load
from tunnel.engine import choice
from tunnel.engine.choice import Choice
from tunnel.errors import UsageError
from tunnel.lanes import kernel_tls
from tunnel.records.key_schedule import Keys


def test_all_are_chosen_unless_some_are_named() -> None:
    assert choose([]) == list(CONTESTANTS)
    assert [contestant.name for contestant in choose(["socat", "direct"])] == ["socat", "direct"]


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        UsageError, match=r"unknown contestant: nginx; known: direct, iperf3, plain-relay, mtunnel, "
    ):
        choose(["direct", "nginx"])


def test_names_are_unique() -> None:
    names = [contestant.name for contestant in CONTESTANTS]
    assert len(set(names)) == len(names)


def test_a_program_that_is_not_installed_makes_its_contestant_missing() -> None:
    absent = Contestant("x", "none", str, programs=("sh", "no-such-relay", "nor-this"))
    assert absent.missing() == "no-such-relay and nor-this not installed"


def test_a_module_that_cannot_be_imported_makes_its_contestant_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (contestant,) = choose(["aiofastnet"])
    assert contestant.missing() is None
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    assert (contestant.missing() or "").startswith("not available with this Python: ")


def test_the_version_of_our_daemons_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "choose", lambda: Choice(None, "compiled, with a library"))
    versions = {c.name: c.version() for c in choose(["mtunnel", "mtunnel-python"])}
    assert "engine: compiled, with a library, " in versions["mtunnel"]
    assert "engine: Python (asked for), " in versions["mtunnel-python"]
    assert all("cryptography" in version for version in versions.values())


def test_the_version_of_haproxy_names_its_openssl() -> None:
    for contestant in choose(["haproxy", "haproxy-tuned"]):
        assert re.match(r"HAProxy version \d.*, running on OpenSSL \d+\.\d+", contestant.version())


def test_only_contestants_that_encrypt_are_compared_with_mtunnel() -> None:
    assert [c.name for c in CONTESTANTS if not c.encrypts] == ["direct", "iperf3", "plain-relay"]


def test_our_own_contestants_are_never_missing_except_kernel_lanes() -> None:
    absent = [c.name for c in CONTESTANTS if not c.programs and c.missing()]
    assert absent in ([], ["mtunnel-kernel"])


def test_without_kernel_tls_its_lanes_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel,) = choose(["mtunnel-kernel"])

    def refuse(sock: socket.socket, keys: Keys) -> None:
        raise kernel_tls.NoModuleError("kernel TLS is not available: module tls not loaded")

    monkeypatch.setattr(kernel_tls, "enable", refuse)
    assert kernel.missing() == "no kernel lanes here: kernel TLS is not available: module tls not loaded"
    monkeypatch.setattr(kernel_tls, "enable", lambda sock, keys: None)
    assert kernel.missing() is None


@pytest.mark.parametrize("kind", ["userspace", "kernel"])
def test_lanes_of_each_kind_are_configured(tmp: Path, kind: str) -> None:
    site = lay_out(tmp, "reno", unix_legs=False)
    (contestant,) = choose([f"mtunnel-{kind}"])
    assert contestant.sides is not None
    sides = contestant.sides(site)
    configs = [load(Path(command[-1])) for command in (sides.a, sides.b)]
    assert [config.transport.lane for config in configs] == [kind, kind]


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_each_has_a_description_of_its_settings(contestant: Contestant) -> None:
    assert contestant.settings


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_each_has_a_version(contestant: Contestant) -> None:
    assert any(character.isdigit() for character in contestant.version())
