"""The table of contestants: who is there, who is missing, and what each says about itself."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from tunnel.bench.measure.contestants import CONTESTANTS, Contestant, choose
from tunnel.bench.measure.testbed import lay_out
from tunnel.daemon.config import load
from tunnel.engine import choice
from tunnel.engine.choice import Choice
from tunnel.errors import UsageError
from tunnel.lanes import kernel_tls
from tunnel.records.key_schedule import Keys


def test_all_take_part_unless_some_are_named() -> None:
    assert choose([]) == list(CONTESTANTS)
    assert [contestant.name for contestant in choose(["socat", "direct"])] == ["socat", "direct"]


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        UsageError, match=r"no contestant is called nginx; there are: direct, iperf3, plain-relay, mtunnel, "
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
    assert (contestant.missing() or "").startswith("not to be had with this Python: ")


def test_our_daemons_say_what_makes_their_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "choose", lambda: Choice(None, "compiled, with a library"))
    said = {c.name: c.version() for c in choose(["mtunnel", "mtunnel-python"])}
    assert "engine: compiled, with a library, " in said["mtunnel"]
    assert "engine: Python (asked for), " in said["mtunnel-python"]
    assert all("cryptography" in version for version in said.values())


def test_haproxy_says_on_which_openssl_it_runs() -> None:
    for contestant in choose(["haproxy", "haproxy-tuned"]):
        assert re.match(r"HAProxy version \d.*, running on OpenSSL \d+\.\d+", contestant.version())


def test_only_what_encrypts_is_compared_with_mtunnel() -> None:
    assert [c.name for c in CONTESTANTS if not c.encrypts] == ["direct", "iperf3", "plain-relay"]


def test_what_comes_with_us_is_never_missing_but_for_what_the_kernel_has_to_do() -> None:
    absent = [c.name for c in CONTESTANTS if not c.programs and c.missing()]
    assert absent in ([], ["mtunnel-kernel"])


def test_without_tls_in_the_kernel_its_lanes_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel,) = choose(["mtunnel-kernel"])

    def refuse(sock: socket.socket, keys: Keys) -> None:
        raise kernel_tls.NoModuleError("the kernel does no TLS: module tls not loaded")

    monkeypatch.setattr(kernel_tls, "enable", refuse)
    assert kernel.missing() == "no kernel lanes here: the kernel does no TLS: module tls not loaded"
    monkeypatch.setattr(kernel_tls, "enable", lambda sock, keys: None)
    assert kernel.missing() is None


@pytest.mark.parametrize("kind", ["userspace", "kernel"])
def test_lanes_of_each_kind_take_part(tmp: Path, kind: str) -> None:
    site = lay_out(tmp, "reno", unix_legs=False)
    (contestant,) = choose([f"mtunnel-{kind}"])
    assert contestant.sides is not None
    sides = contestant.sides(site)
    configs = [load(Path(command[-1])) for command in (sides.a, sides.b)]
    assert [config.transport.lane for config in configs] == [kind, kind]


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_each_states_its_settings(contestant: Contestant) -> None:
    assert contestant.settings


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_each_knows_its_version(contestant: Contestant) -> None:
    assert any(character.isdigit() for character in contestant.version())
