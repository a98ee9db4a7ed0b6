"""Which aliases are guarded, which cannot be, and the removal of stale guards."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tests.support.namespace import network, nft, tables
from tunnel.daemon import aliases, listen_checks
from tunnel.daemon.config import Config, load
from tunnel.errors import UsageError
from tunnel.host import guard_route, nftables
from tunnel.host.nftables import Redirect, RedirectTable

__all__ = ["network"]

in_network = pytest.mark.usefixtures("network")


@pytest.fixture
def names(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A replacement for /etc/hosts."""
    file = tmp / "hosts"
    file.write_text("127.0.0.1 localhost\n")
    monkeypatch.setattr(aliases, "HOSTS", file)
    monkeypatch.setattr(socket, "gethostname", lambda: "compute7")
    return file


def configured(directory: Path, *listens: str) -> Config:
    ingresses = [f'[[ingress]]\npeer = "hostb"\nlisten = "{listen}"\n' for listen in listens]
    return load(write_config(directory, HOST, TLS, PEER, *ingresses))


@pytest.mark.parametrize(
    "line",
    [
        "127.0.1.1 anything",
        "127.0.1.2 compute7",
        "127.0.1.2 x COMPUTE7.example.org # Debian",
        "127.0.1.2\thosta.example\thosta",
    ],
)
def test_hosts_own_name_is_recognized(names: Path, line: str) -> None:
    names.write_text(f"# a comment\n\n127.0.0.1 localhost\n{line}\n")
    own = aliases.own_names(line.split(maxsplit=1)[0], "hosta")
    assert own == line.partition("#")[0].split()[1:]


@pytest.mark.parametrize(
    "line", ["127.0.1.2 hostb", "#127.0.1.2 compute7", "127.0.1.22 compute7", "::1 hosta"]
)
def test_other_names_are_ignored(names: Path, line: str) -> None:
    names.write_text(f"{line}\n")
    assert aliases.own_names("127.0.1.2", "hosta") == []


def test_without_a_file_there_is_no_name(names: Path) -> None:
    names.unlink()
    assert aliases.own_names("127.0.1.1", "hosta") == []


def test_aliases_of_redirects_are_guarded_unless_they_are_the_host_itself(names: Path, tmp: Path) -> None:
    names.write_text("127.0.1.1 compute7\n")
    redirects = ("redirect:127.0.1.2:1-5", "redirect:127.0.1.2:7-9", "redirect:127.0.1.1:1-5")
    assert aliases.guarded(configured(tmp, "tcp:127.0.1.9:7", *redirects)) == ["127.0.1.2"]


@pytest.mark.root
@in_network
def test_unguarded_alias_is_reported_with_its_reason() -> None:
    aliases.install(["127.0.1.2", "127.0.1.3"])
    subprocess.run(["ip", "address", "add", "127.0.1.3/8", "dev", "lo"], check=True, timeout=60)
    found = {each.alias: each.reason for each in aliases.unguarded(["127.0.1.2", "127.0.1.3", "127.0.1.4"])}
    assert found.keys() == {"127.0.1.3", "127.0.1.4"}
    assert "127.0.1.3 is assigned to an interface" in found["127.0.1.3"]
    assert found["127.0.1.4"].startswith("no route guards 127.0.1.4")


@pytest.mark.root
@in_network
def test_guard_without_a_daemon_is_a_route_and_a_rejection(names: Path, tmp: Path) -> None:
    names.write_text("127.0.1.1 compute7\n")
    config = configured(tmp, "redirect:127.0.1.2:1-5", "redirect:127.0.1.1:7-9")
    assert aliases.put_in_place(config) == ["127.0.1.2"]
    assert guard_route.installed() == {"127.0.1.2"}
    listed = nft("list", "table", "ip", "mtunnel-hosta")
    assert "redirect" not in listed
    assert "ip daddr 127.0.1.1 tcp dport 7-9 reject" in listed
    aliases.take_away(config)
    assert (guard_route.installed(), tables()) == (set(), [])


@pytest.mark.root
@in_network
def test_existing_table_is_left_to_its_daemon(tmp: Path) -> None:
    RedirectTable("hosta").install([Redirect("127.0.1.2", 1, 5, 1002)])
    before = nft("list", "ruleset")
    aliases.put_in_place(configured(tmp, "redirect:127.0.1.2:1-5"))
    assert nft("list", "ruleset") == before


@pytest.mark.root
@in_network
def test_address_guarded_for_a_previous_configuration_is_released(tmp: Path) -> None:
    aliases.put_in_place(configured(tmp, "redirect:127.0.1.2:1-5", "redirect:127.0.1.3:1-5"))
    RedirectTable("hostb").close([Redirect("127.0.1.3", 1, 5, 0)])
    config = configured(tmp, "tcp:127.0.1.2:49152", "tcp:127.0.1.3:49152", "tcp:127.0.1.4:49152")
    assert aliases.left_behind(config) == {"127.0.1.2"}, "the other one also belongs to another daemon"
    assert [key for key, _ in listen_checks.ports(config, starting=False)] == ["ingress[1].listen"]
    problems = list(listen_checks.ports(config, starting=True))
    assert [key for key, _ in problems] == ["ingress[1].listen"]
    assert aliases.left_behind(config) == set()
    socket.create_server(("127.0.1.2", 49152)).close()


@pytest.mark.root
@in_network
def test_address_that_is_still_redirected_stays_guarded(tmp: Path) -> None:
    config = configured(tmp, "redirect:127.0.1.2:1-5", "tcp:127.0.1.2:49152")
    aliases.put_in_place(config)
    aliases.release(config)
    assert guard_route.installed() == {"127.0.1.2"}


def test_nothing_is_released_if_the_routes_cannot_be_listed(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> set[str]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(guard_route, "installed", fail)
    config = configured(tmp, "tcp:127.0.1.2:49152")
    assert aliases.left_behind(config) == set()
    aliases.release(config)


@pytest.mark.root
@in_network
def test_guards_of_other_daemons_stay() -> None:
    aliases.install(["127.0.1.2", "127.0.1.3", "127.0.1.4"])
    RedirectTable("hostb").close([Redirect("127.0.1.3", 1, 5, 0)])
    aliases.discard(RedirectTable("hosta"), keep=["127.0.1.4"])
    assert guard_route.installed() == {"127.0.1.3", "127.0.1.4"}


def test_failure_to_guard_is_a_usage_error(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(alias: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(nftables, "unavailable_reason", lambda: None)
    monkeypatch.setattr(guard_route, "install", fail)
    config = configured(tmp, "redirect:127.0.1.2:1-5")
    with pytest.raises(
        UsageError, match=r"cannot add a guard route for 127\.0\.1\.2: Operation not permitted"
    ):
        aliases.put_in_place(config)
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: "there is no firewall here")
    with pytest.raises(UsageError, match="there is no firewall here"):
        aliases.put_in_place(config)
