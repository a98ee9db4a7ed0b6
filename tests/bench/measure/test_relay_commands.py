"""The commands of each contestant: all use TLS 1.3 with certificates on both sides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunnel.bench.lab import tools
from tunnel.bench.measure import relay_commands
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.relay_commands import Command
from tunnel.bench.measure.site import Site, lay_out
from tunnel.daemon.config import Config, load


@pytest.fixture(params=[False, True], ids=["tcp", "unix"])
def site(request: pytest.FixtureRequest, tmp: Path) -> Site:
    return lay_out(tmp, "reno", unix_legs=request.param)


@pytest.fixture(autouse=True)
def _everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_commands, "path_of", lambda program: f"/usr/bin/{program}")


def _config(command: Command) -> str:
    return Path(command[-1]).read_text()


def _mtunnel(site: Site) -> tuple[Config, Config]:
    sides = relay_commands.mtunnel(site)
    return load(Path(sides.a[-1])), load(Path(sides.b[-1]))


def test_the_daemons_accept_their_configuration(site: Site) -> None:
    a, b = _mtunnel(site)
    assert (a.host.name, b.host.name) == ("hosta", "hostb")
    assert str(b.host.listen) == str(a.peers[0].address) == str(site.link)


def test_the_daemon_carries_the_entry_to_the_exit_and_nothing_else(site: Site) -> None:
    a, b = _mtunnel(site)
    assert [str(ingress.listen).partition(":")[2] for ingress in a.ingresses] == [str(site.entry)]
    assert [str(rule).partition(":")[2] for rule in b.peers[0].rules] == [str(site.exit)]
    assert (a.peers[0].rules, b.ingresses) == ((), ())


def test_the_daemon_uses_the_congestion_control_of_the_run(site: Site) -> None:
    assert [config.transport.congestion for config in _mtunnel(site)] == ["reno", "reno"]


def test_each_side_may_have_its_own_lane_kind(site: Site) -> None:
    sides = relay_commands.mtunnel(site, 2, 1024, ("userspace", "kernel"))
    a, b = (load(Path(side[-1])).transport for side in (sides.a, sides.b))
    assert (a.lane, b.lane) == ("userspace", "kernel")
    assert (a.lanes, b.lanes, a.rotate_records, b.rotate_records) == (2, 2, 1024, 1024)


@pytest.mark.parametrize(("engine", "asked"), [("", []), ("python", ["env", "MTUNNEL_ENGINE=python"])])
def test_the_engine_is_selected_by_the_environment(site: Site, engine: str, asked: list[str]) -> None:
    sides = relay_commands.mtunnel(site, engine=engine)
    for command in (sides.a, sides.b):
        assert command[: command.index(sys.executable)] == asked


def test_haproxy_is_tuned_by_its_buffer_size_alone(site: Site) -> None:
    default = _config(relay_commands.haproxy(site).b).splitlines()
    tuned = _config(relay_commands.haproxy(site, bufsize=262144).b).splitlines()
    assert [line for line in tuned if line not in default] == ["    tune.bufsize 262144"]
    assert [line for line in default if line not in tuned] == []


def test_haproxy_requires_tls_1_3_and_a_certificate_on_both_sides(site: Site) -> None:
    for command in (relay_commands.haproxy(site).a, relay_commands.haproxy(site).b):
        text = _config(command)
        assert f"ca-file {site.ca} verify required" in text
        assert "ssl-min-ver TLSv1.3 ciphersuites TLS_AES_256_GCM_SHA384" in text
        assert "nbthread 1\n" in text


def test_stunnel_requires_tls_1_3_and_a_certificate_on_both_sides(site: Site) -> None:
    sides = relay_commands.stunnel(site)
    for command in (sides.a, sides.b):
        text = _config(command)
        for line in ("sslVersion = TLSv1.3", "ciphersuites = TLS_AES_256_GCM_SHA384", "verifyChain = yes"):
            assert line in text.splitlines()
    assert "checkHost = hostb" in _config(sides.a)
    assert "checkHost = hosta" in _config(sides.b)


def test_socat_requires_tls_1_3_and_a_certificate_on_both_sides(site: Site) -> None:
    sides = relay_commands.socat(site)
    for address in (sides.a[-1], sides.b[-2]):
        assert "verify=1" in address
        assert "openssl-min-proto-version=TLS1.3" in address


@pytest.fixture
def _keys_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_commands, "path_of", tools.path_of)


@pytest.mark.usefixtures("_keys_made")
def test_ssh_uses_the_same_cipher_and_trusts_only_the_keys_of_this_run(site: Site) -> None:
    sides = relay_commands.ssh(site)
    server = dict(line.split(" ", 1) for line in _config(sides.b).splitlines())
    client = dict(word[2:].split("=", 1) for word in sides.a if word.startswith("-o"))
    for settings in (server, client):
        assert (settings["Ciphers"], settings["Compression"]) == ("aes256-gcm@openssh.com", "no")
    host_key = Path(server["HostKey"]).with_suffix(".pub").read_text()
    assert Path(client["UserKnownHostsFile"]).read_text() == f"hostb {host_key}"
    user_key = Path(client["IdentityFile"]).with_suffix(".pub").read_text()
    assert Path(server["AuthorizedKeysFile"]).read_text() == user_key
    assert client["StrictHostKeyChecking"] == "yes"


@pytest.mark.usefixtures("_keys_made")
def test_ssh_reads_no_configuration_of_the_machine(site: Site) -> None:
    sides = relay_commands.ssh(site)
    assert sides.a[sides.a.index("-F") + 1] == "none"
    assert Path(sides.b[-1]).parent == site.directory
    assert sides.a[sides.a.index("-L") + 1] == f"{site.entry}:{site.exit}"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo no entropy >&2; exit 5", "ssh-keygen exited with status 5: no entropy"),
        ("exec sleep 60", "timed out"),
    ],
)
def test_a_key_that_cannot_be_created_is_an_error(
    site: Site, script: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.directory / "keygen").write_text(f"#!/bin/sh\nexec sh -c '{script}'\n")
    (site.directory / "keygen").chmod(0o755)
    monkeypatch.setattr(relay_commands, "path_of", lambda program: str(site.directory / "keygen"))
    monkeypatch.setattr(relay_commands, "_KEY_SECONDS", 2.0 if "entropy" in script else 0.1)
    with pytest.raises(BenchError, match=complaint):
        relay_commands.ssh(site)


def test_the_plain_relay_has_the_same_addresses_without_keys(site: Site) -> None:
    sides = relay_commands.plain(site)
    assert sides.a[-2:] == [str(site.entry), str(site.link)]
    assert sides.b[-2:] == [str(site.link), str(site.exit)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_streams_run_on_the_given_loop(site: Site, loop: str) -> None:
    sides = relay_commands.streams(site, loop=loop)
    assert [command[3:5] for command in (sides.a, sides.b)] == [[loop, "encrypt"], [loop, "decrypt"]]


def test_the_relay_on_aiofastnet_has_the_same_arguments_as_that_on_streams(site: Site) -> None:
    sides, streams = relay_commands.fastnet(site), relay_commands.streams(site, loop="uvloop")
    assert (sides.a[2:4], sides.b[2:4]) == (
        ["tunnel.bench.measure.fastnet", "encrypt"],
        ["tunnel.bench.measure.fastnet", "decrypt"],
    )
    assert (sides.a[4:], sides.b[4:]) == (streams.a[5:], streams.b[5:])


@pytest.mark.parametrize("recipe", [relay_commands.socat, relay_commands.haproxy, relay_commands.stunnel])
def test_the_path_is_from_the_entry_over_the_link_to_the_exit(site: Site, recipe: object) -> None:
    assert callable(recipe)
    sides = recipe(site)
    texts = [" ".join(command) + _files(command) for command in (sides.a, sides.b)]
    for text, ends in zip(texts, [(site.entry, site.link), (site.link, site.exit)], strict=True):
        for end in ends:
            assert (end.path or str(end.port)) in text


def _files(command: Command) -> str:
    return "".join(Path(word).read_text() for word in command if Path(word).suffix in {".cfg", ".conf"})
