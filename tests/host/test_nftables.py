"""The daemon's table: its rules, atomic changes, and that no other table is changed."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from tests.support.namespace import nft, ruleset, tables
from tunnel.errors import UsageError
from tunnel.host import nftables as module
from tunnel.host import privileges, reserved_ports
from tunnel.host.nftables import (
    Redirect,
    RedirectTable,
    generation,
    guarded_by,
    our_tables,
    table_name,
    unavailable_reason,
)

RANGE = Redirect("127.0.1.2", 49152, 49215, 40121, "hostb")
SINGLE = Redirect("127.0.1.3", 5, 5, 40122)
SHARED = Redirect("127.0.1.4", 7, 9, 40123, exclusive=False)
REJECTED = [
    "ip daddr 127.0.1.2 reject with tcp reset",
    "ip daddr 127.0.1.3 reject with tcp reset",
]
RULES = [
    'ip daddr 127.0.1.2 tcp dport 49152-49215 redirect to :40121 comment "hostb"',
    "ip daddr 127.0.1.3 tcp dport 5 redirect to :40122",
]
ANOTHER_CHAIN = (
    "delete table ip mtunnel-hosta; add table ip mtunnel-hosta;"
    " add chain ip mtunnel-hosta output { type filter hook output priority 0; }"
)
FOREIGN = "add table ip other; add chain ip other out { type nat hook output priority -100; }"

in_network = pytest.mark.usefixtures("network")


def rules(name: str = "mtunnel-hosta") -> list[str]:
    lines = [line.strip() for line in nft("list", "table", "ip", name).splitlines()]
    # The match that the kind of the reset implies is printed by some versions only.
    return [line.replace(" meta l4proto tcp", "") for line in lines if line.startswith("ip ")]


@pytest.fixture
def program(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of an ``nft`` that is found before any other; this process has the capability."""
    status = tmp / "status"
    status.write_text("Name:\tmtunnel\nCapEff:\t0000000000001400\n")
    monkeypatch.setattr(privileges, "_PROCESS_STATUS", status)
    monkeypatch.setenv("PATH", f"{tmp}:{os.environ['PATH']}")
    return tmp / "nft"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_each_host_has_its_own_table_name() -> None:
    assert table_name("hosta.example") == "mtunnel-hosta.example"
    first, second = (table_name(".".join(["a" * 61] * 4) + f".{end}") for end in "xy")
    assert first != second
    assert max(len(first), len(second)) <= 255


def test_a_change_is_one_transaction(program: Path, tmp: Path) -> None:
    script(program, f'cat > {tmp}/said; echo "$@" > {tmp}/words')
    RedirectTable("hosta").install([RANGE, SINGLE])
    assert (tmp / "words").read_text() == "-j -f -\n"
    commands = json.loads((tmp / "said").read_text())["nftables"]
    table = {"table": {"family": "ip", "name": "mtunnel-hosta"}}
    assert commands[:3] == [{"add": table}, {"delete": table}, {"add": table}]
    chain = [["add"], ["flush"], ["add"], ["add"]]
    assert [list(command) for command in commands[3:]] == [*chain, *chain], "the guard, then the redirects"
    rejection = commands[5]["add"]["rule"]
    assert [next(iter(each)) for each in rejection["expr"]] == ["match", "match", "reject"]
    rule = commands[9]["add"]["rule"]
    assert rule["comment"] == "hostb"
    assert [next(iter(each)) for each in rule["expr"]] == ["match", "match", "redirect"]
    assert rule["expr"][1]["match"]["right"] == {"range": [49152, 49215]}
    assert "comment" not in commands[10]["add"]["rule"]
    assert {
        each["table"] for command in commands[3:] for part in command.values() for each in part.values()
    } == {"mtunnel-hosta"}


def test_the_error_of_nft_is_reported(program: Path) -> None:
    script(program, "echo 'internal:0:0-0: Error: No such file or directory; ' >&2; echo more >&2; exit 1")
    table = RedirectTable("hosta")
    for change in (table.remove, partial(table.clear, [RANGE]), partial(table.close, [RANGE])):
        with pytest.raises(UsageError) as caught:
            change()
        assert str(caught.value) == (
            "cannot change the nftables table mtunnel-hosta: internal:0:0-0: Error: No such file or directory"
            " (redirect needs CAP_NET_ADMIN and a kernel with nftables and NAT)"
        )


def test_an_nft_that_fails_without_output(program: Path) -> None:
    script(program, "exit 3")
    with pytest.raises(UsageError, match=r"table mtunnel-hosta: nft exited with status 3 \("):
        RedirectTable("hosta").install([RANGE])


def test_an_nft_that_hangs_times_out(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    script(program, "exec sleep 60")
    with pytest.raises(UsageError, match=r"timed out after 0\.2 s waiting for nft"):
        RedirectTable("hosta").install([RANGE])


def test_an_nft_that_cannot_be_executed(program: Path) -> None:
    program.write_text("#!/no/such/shell\n")
    program.chmod(0o755)
    with pytest.raises(UsageError, match="nft: No such file or directory"):
        RedirectTable("hosta").install([RANGE])


def test_redirect_is_available_with_nft_and_capabilities(program: Path) -> None:
    script(program, "exit 0")
    assert unavailable_reason() is None


def test_nft_must_be_installed(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(module, "_SBIN", "/nowhere")
    missing = "needs the program nft: install the package nftables"
    assert missing in str(unavailable_reason())
    with pytest.raises(UsageError, match=missing):
        RedirectTable("hosta").install([RANGE])
    with pytest.raises(UsageError, match="nft is not installed"):
        RedirectTable("hosta").remove()


def test_nft_is_found_outside_of_path(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    script(program, "exit 0")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module, "_SBIN", f"/nowhere:{program.parent}")
    assert unavailable_reason() is None


def test_the_capabilities_are_required(program: Path) -> None:
    script(program, "exit 0")
    privileges._PROCESS_STATUS.write_text("CapEff:\t000001fffefffbff\n")
    assert "needs the capability CAP_NET_BIND_SERVICE" in str(unavailable_reason())
    privileges._PROCESS_STATUS.write_text("CapEff:\t000001fffeffefff\n")
    assert "needs the capability CAP_NET_ADMIN" in str(unavailable_reason())
    with pytest.raises(UsageError, match="run it as root"):
        RedirectTable("hosta").install([RANGE])


def test_unreadable_capabilities_are_left_to_nft(program: Path) -> None:
    script(program, "exit 0")
    privileges._PROCESS_STATUS.unlink()
    assert unavailable_reason() is None


def test_a_privileged_port_is_required(program: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(program, "exit 0")
    monkeypatch.setattr(reserved_ports, "_START", tmp / "start")
    (tmp / "start").write_text("0\n")
    assert "any user could take over the redirect" in str(unavailable_reason())


@pytest.mark.root
@in_network
def test_rules_are_as_an_operator_would_write_them() -> None:
    RedirectTable("hosta").install([RANGE, SINGLE])
    assert rules() == [*REJECTED, *RULES]
    priorities = ("-100", "dstnat")  # newer releases of nft print its name
    assert any(f"type nat hook output priority {each}; policy accept;" in ruleset() for each in priorities)


@pytest.mark.root
@in_network
def test_a_table_of_an_earlier_process_is_replaced() -> None:
    RedirectTable("hosta").install([SINGLE])
    nft("add chain ip mtunnel-hosta more")
    RedirectTable("hosta").install([RANGE])
    assert rules() == [REJECTED[0], RULES[0]]
    assert "more" not in ruleset()


@pytest.mark.root
@in_network
def test_other_tables_are_not_changed() -> None:
    nft(FOREIGN)
    RedirectTable("hostb").install([SINGLE])
    before = ruleset()
    table = RedirectTable("hosta")
    table.install([RANGE])
    assert tables() == ["other", "mtunnel-hostb", "mtunnel-hosta"]
    table.repair([RANGE, SINGLE])
    table.clear([RANGE])
    assert rules() == REJECTED[:1]
    table.close([RANGE])
    assert rules() == REJECTED[:1]
    table.remove()
    assert ruleset() == before


@pytest.mark.root
@in_network
@pytest.mark.parametrize(
    "damage",
    [
        "delete table ip mtunnel-hosta",
        "flush chain ip mtunnel-hosta output",
        "flush chain ip mtunnel-hosta output; delete chain ip mtunnel-hosta output",
        "add rule ip mtunnel-hosta output counter",
        "flush chain ip mtunnel-hosta guard",
        "add rule ip mtunnel-hosta guard accept",
        ANOTHER_CHAIN,
    ],
)
def test_every_damage_is_repaired(damage: str) -> None:
    table = RedirectTable("hosta")
    table.install([RANGE, SINGLE])
    before, seen, number = sorted(ruleset().splitlines()), table.fingerprint(), generation()
    nft(damage)
    assert generation() != number
    assert table.fingerprint() != seen, "which the daemon compares"
    table.repair([RANGE, SINGLE])
    assert sorted(ruleset().splitlines()) == before


@pytest.mark.root
@in_network
def test_a_change_of_another_table_does_not_change_the_fingerprint() -> None:
    table = RedirectTable("hosta")
    assert not table.exists()
    nothing = table.fingerprint()
    table.install([RANGE])
    assert table.exists()
    seen, number = table.fingerprint(), generation()
    assert seen != nothing
    nft(FOREIGN)
    nft("add table ip6 mtunnel-hosta")
    assert generation() != number
    assert table.fingerprint() == seen


@pytest.mark.root
@in_network
def test_connections_that_are_not_redirected_are_rejected() -> None:
    """A listener on all addresses represents any program of this host."""
    with socket.create_server(("0.0.0.0", 0)) as anybody:
        port = anybody.getsockname()[1]
        alias = Redirect("127.0.1.2", port, port, 1)
        others = Redirect("127.0.1.4", port + 1, port + 1, 1, exclusive=False)
        RedirectTable("hosta").close([alias, others])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((alias.host, port), 10)
        socket.create_connection((others.host, port), 10).close()
        assert rules()[1] == f"ip daddr 127.0.1.4 tcp dport {port + 1} reject with tcp reset"


@pytest.mark.root
@in_network
def test_untracked_connections_are_rejected_too() -> None:
    nft("add table ip x; add chain ip x out { type filter hook output priority raw; }")
    nft("add rule ip x out oif lo notrack")
    with socket.create_server(("0.0.0.0", 0)) as anybody:
        port = anybody.getsockname()[1]
        RedirectTable("hosta").install([Redirect("127.0.1.2", port, port, port)])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.1.2", port), 10)


@pytest.mark.root
@in_network
def test_tables_of_all_daemons_are_listed_with_guarded_addresses() -> None:
    nft(FOREIGN)
    RedirectTable("hosta").install([RANGE, SHARED])
    RedirectTable("hostb").close([SINGLE])
    assert our_tables() == {"mtunnel-hosta", "mtunnel-hostb"}
    assert guarded_by(["mtunnel-hosta"]) == {"127.0.1.2", "127.0.1.4"}
    assert guarded_by(our_tables()) == {"127.0.1.2", "127.0.1.3", "127.0.1.4"}


@pytest.mark.root
@in_network
def test_removing_a_missing_table_is_no_error() -> None:
    table = RedirectTable("hosta")
    table.remove()
    assert tables() == []


@pytest.mark.root
@in_network
def test_connections_outlive_repair_and_clear() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        redirect = Redirect("127.0.1.2", 49152, 49215, listener.getsockname()[1])
        table = RedirectTable("hosta")
        table.install([redirect])
        with socket.create_connection(("127.0.1.2", 49200), 10) as caller:
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(60)
                for change in (partial(table.repair, [redirect]), partial(table.clear, [redirect])):
                    change()
                    caller.sendall(b"there")
                    assert accepted.recv(5) == b"there"
                    accepted.sendall(b"back")
                    assert caller.recv(4) == b"back"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.1.2", 49200), 10)


@pytest.mark.root
@in_network
def test_a_transaction_that_fails_changes_nothing() -> None:
    table = RedirectTable("hosta")
    table.install([RANGE])
    with pytest.raises(UsageError, match="cannot change the nftables table mtunnel-hosta: "):
        table.install([SINGLE, Redirect("127.0.1.4", 9, 5, 40123)])
    assert rules() == [REJECTED[0], RULES[0]]
