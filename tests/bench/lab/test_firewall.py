"""The firewall accepts the given ports and nothing else, and counts the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tests.support.lab import Listener, reaches
from tunnel.bench.lab.firewall import Firewall, ruleset
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import LabError

FOREIGN = "add table ip mtunnel"


class Nft:
    """Records its calls, and returns a prepared output."""

    def __init__(self, answer: str = "") -> None:
        self.asked: list[tuple[list[str], str]] = []
        self._answer = answer

    def __call__(self, options: Sequence[str], script: str) -> str:
        self.asked.append((list(options), script))
        return self._answer


def test_a_closed_firewall_names_no_port() -> None:
    rules = ruleset((), reject=False)
    assert "elements" not in rules
    assert "policy drop" in rules
    assert "meta l4proto tcp drop" in rules


def test_ports_and_ranges_are_accepted() -> None:
    rules = ruleset((16515, "49152-49215"), reject=True)
    assert "elements = { 16515, 49152-49215 }" in rules
    assert "meta l4proto tcp reject with tcp reset" in rules


@pytest.mark.parametrize("ports", [0, 65536, -1, "", "a", "1-2-3", "9-8", "1-", "22; flush ruleset", "²"])
def test_an_invalid_port_is_refused(ports: int | str) -> None:
    nft = Nft()
    with pytest.raises(LabError, match="is not a TCP port or a range"):
        Firewall(nft).open(ports)
    assert nft.asked == []


def test_opening_and_shutting_are_one_element_each() -> None:
    nft = Nft()
    Firewall(nft).open(22, "5-6")
    Firewall(nft).shut(22)
    assert [script for _, script in nft.asked] == [
        "add element inet lab_firewall open { 22, 5-6 }",
        "delete element inet lab_firewall open { 22 }",
    ]


def test_the_counters_are_read_by_port() -> None:
    counted = [{"elem": {"val": 22, "counter": {"packets": 3, "bytes": 180}}}]
    answer = {"nftables": [{"metainfo": {}}, {"set": {"name": "refused", "elem": counted}}]}
    assert Firewall(Nft(json.dumps(answer))).refused() == {22: 3}
    assert Firewall(Nft('{"nftables": [{"set": {"name": "refused"}}]}')).refused() == {}


def test_open_ports_and_ranges_are_read() -> None:
    answer = {"nftables": [{"metainfo": {}}, {"set": {"elem": [22, {"range": [5, 6]}]}}]}
    assert Firewall(Nft(json.dumps(answer))).opened() == [22, "5-6"]
    assert Firewall(Nft('{"nftables": [{"set": {"name": "open"}}]}')).opened() == []


@pytest.mark.root
def test_only_the_one_port_is_open(lab: Lab) -> None:
    with Listener(lab.b, 16515), Listener(lab.b, 16516):
        assert reaches(lab.a, lab.b.plan.address, 16515)
        assert not reaches(lab.a, lab.b.plan.address, 16516)
        assert not reaches(lab.a, lab.b.plan.address6, 16516)
        assert not reaches(lab.a, lab.b.plan.second_address, 16516)
    refused = lab.b.firewall.refused()
    assert refused.keys() == {16516}
    assert refused[16516] >= 3


@pytest.mark.root
def test_a_host_reaches_itself(lab: Lab) -> None:
    with Listener(lab.b, 16516):
        assert reaches(lab.b, "127.0.0.1", 16516)
        assert reaches(lab.b, lab.b.plan.address, 16516)


@pytest.mark.root
def test_ports_are_opened_and_shut_again(lab: Lab) -> None:
    with Listener(lab.b, 16516):
        lab.b.firewall.open("16516-16520")
        assert lab.b.firewall.opened() == [16515, "16516-16520"]
        assert reaches(lab.a, lab.b.plan.address, 16516)
        lab.b.firewall.shut("16516-16520")
        assert not reaches(lab.a, lab.b.plan.address, 16516)


@pytest.mark.root
def test_rejected_connections_are_refused_immediately(lab: Lab) -> None:
    lab.b.firewall.close(reject=True)
    with Listener(lab.b, 16515):
        done = lab.a.run(
            ["python3", "-c", "import socket; socket.create_connection(('192.0.2.2', 16515), timeout=20)"],
            check=False,
        )
    assert "ConnectionRefusedError" in done.stderr
    assert lab.b.firewall.refused() == {16515: 1}


@pytest.mark.root
def test_a_cut_drops_everything(lab: Lab) -> None:
    with Listener(lab.b, 16515):
        lab.b.firewall.cut()
        assert not reaches(lab.a, lab.b.plan.address, 16515)
        assert reaches(lab.b, "127.0.0.1", 16515)
        lab.b.firewall.close(but=(16515,))
        assert reaches(lab.a, lab.b.plan.address, 16515)


@pytest.mark.root
def test_removing_accepts_everything_and_keeps_other_tables(lab: Lab) -> None:
    lab.b.run(["nft", FOREIGN])
    with Listener(lab.b, 16516):
        lab.b.firewall.remove()
        assert reaches(lab.a, lab.b.plan.address, 16516)
        assert lab.b.run(["nft", "list", "tables"]).stdout == "table ip mtunnel\n"
    lab.b.firewall.close(but=(16515,))
    assert "table ip mtunnel" in lab.b.run(["nft", "list", "tables"]).stdout
