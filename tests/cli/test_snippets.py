"""Commands that migrate a guest to a peer match the configuration; unavailable ones have a reason."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.cli.snippets import Snippet, recipes
from tunnel.daemon.config import Config, load

ALIAS = "redirect:127.0.1.2:49152-49215"
RPC = "unix:/run/mtunnel/127.0.1.2/libvirt-sock"
URI = "qemu+unix:///system?socket=/run/mtunnel/127.0.1.2/libvirt-sock"


def configuration(directory: Path, *listens: str) -> Config:
    tables = [f'[[ingress]]\npeer = "hostb"\nlisten = "{each}"\nusers = ["root"]\n' for each in listens]
    return load(write_config(directory, HOST, TLS, PEER, *tables))


def cook(directory: Path, *listens: str, desturi: str | None = None) -> dict[tuple[str, str], Snippet]:
    found = recipes(configuration(directory, *listens), "hostb", "web1", desturi)
    return {(each.program, each.name): each for each in found}


def virsh(found: dict[tuple[str, str], Snippet], name: str) -> list[str]:
    (line,) = found["virsh", name].lines
    return shlex.split(line)


def test_managed_direct_command(tmp_path: Path) -> None:
    expected = f"virsh migrate --live web1 {URI} --migrateuri tcp://127.0.1.2 --listen-address 127.0.0.1"
    assert virsh(cook(tmp_path, ALIAS, RPC), "managed direct") == expected.split()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("peer to peer", "--p2p"),
        ("multifd", "--p2p --parallel --parallel-connections 4"),
        ("post-copy", "--p2p --postcopy --postcopy-after-precopy"),
        ("post-copy recovery", "--p2p --postcopy --postcopy-resume"),
        ("storage", "--p2p --copy-storage-all"),
    ],
)
def test_other_modes_add_their_options(tmp_path: Path, name: str, options: str) -> None:
    words = virsh(cook(tmp_path, ALIAS, RPC), name)
    assert words[:3] == ["virsh", "migrate", "--live"]
    assert words[3 : words.index("web1")] == options.split()


@pytest.mark.parametrize("guest", ["-web1", "--web1", "--live"])
def test_name_with_a_leading_dash_is_no_option(tmp_path: Path, guest: str) -> None:
    found = recipes(configuration(tmp_path, ALIAS, RPC), "hostb", guest, None)
    lines = [recipe.lines[0] for recipe in found if recipe.program == "virsh" and recipe.lines]
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line)
        assert words[-3:] == ["--", guest, URI]
        assert {"--migrateuri", "--listen-address"} <= set(words[:-3])


@pytest.mark.parametrize("guest", ["1", "007", "c7a5fdbd-edaf-9455-926a-d65c16db1809"])
def test_name_that_looks_like_an_id_is_not_passed_to_virsh(tmp_path: Path, guest: str) -> None:
    found = {
        each.program: each for each in recipes(configuration(tmp_path, ALIAS, RPC), "hostb", guest, None)
    }
    assert (found["virsh"].lines, found["virsh"].name) == ((), "all")
    assert f"virsh interprets {guest} as an id or UUID" in found["virsh"].reason
    assert f'lookupByName("{guest}")' in "\n".join(found["libvirt-python"].lines)


def test_lines_survive_the_shell(tmp_path: Path) -> None:
    (line,) = cook(tmp_path, ALIAS, RPC)["virsh", "peer to peer"].lines
    assert f"'{URI}'" in line  # the question mark is a glob pattern


@pytest.mark.parametrize(
    ("listens", "options"),
    [
        (("tcp:127.0.1.2:49152", "tcp:127.0.1.2:49153"), "--disks-port 49153"),
        (
            ("unix:/run/m/web1.sock", "unix:/run/m/web1-disks.sock"),
            "--disks-uri unix:///run/m/web1-disks.sock",
        ),
    ],
)
def test_disks_have_their_own_route(tmp_path: Path, listens: tuple[str, ...], options: str) -> None:
    words = virsh(cook(tmp_path, RPC, *listens), "storage")
    assert options in " ".join(words)


def test_storage_without_a_route_has_a_reason(tmp_path: Path) -> None:
    found = cook(tmp_path, RPC, "tcp:127.0.1.2:49152")
    assert found["virsh", "storage"].lines == ()
    assert "49153" in found["virsh", "storage"].reason
    assert found["virsh", "peer to peer"].lines


def test_python_lines_parse(tmp_path: Path) -> None:
    text = "\n".join(cook(tmp_path, ALIAS, RPC)["libvirt-python", "peer to peer"].lines)
    call = ast.parse(text).body[-1]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    uri, parameters, _ = call.value.args
    assert ast.literal_eval(uri) == URI
    assert isinstance(parameters, ast.Dict)
    keys = [ast.unparse(key) for key in parameters.keys if key is not None]
    values = [ast.literal_eval(value) for value in parameters.values]
    assert dict(zip(keys, values, strict=True)) == {
        "libvirt.VIR_MIGRATE_PARAM_URI": "tcp://127.0.1.2",
        "libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS": "127.0.0.1",
    }


def settings(recipe: Snippet) -> dict[str, str]:
    parted = (line.partition(" = ") for line in recipe.lines if not line.startswith("#"))
    return {key: value for key, _, value in parted}


def test_nova_settings_for_both_hosts(tmp_path: Path) -> None:
    found = settings(cook(tmp_path, ALIAS, RPC)["nova", "all"])
    assert found == {
        "live_migration_inbound_addr": "127.0.1.2",
        "live_migration_uri": "qemu+unix:///system?socket=/run/mtunnel/%s/libvirt-sock",
        "migration_address": '"127.0.0.1"',
    }
    assert found["live_migration_uri"] % found["live_migration_inbound_addr"] == URI  # as Nova does it


def test_nova_over_the_default_libvirt_port_needs_only_the_scheme(tmp_path: Path) -> None:
    found = settings(cook(tmp_path, ALIAS, "tcp:127.0.1.2:16509")["nova", "all"])
    assert found["live_migration_scheme"] == "tcp"
    assert "live_migration_uri" not in found


@pytest.mark.parametrize(
    ("listens", "desturi", "reason"),
    [
        (("tcp:127.0.1.2:49152", RPC), None, "specifies no port"),
        (("unix:/run/m/web1.sock", RPC), None, "specifies no port"),
        ((ALIAS, "unix:/run/mtunnel/hostb/libvirt-sock"), None, "the libvirt ingress must contain it"),
        ((ALIAS,), "qemu+tls://hostb/system", "--desturi must contain it"),
        ((ALIAS,), None, "give --desturi"),
    ],
)
def test_unavailable_nova_has_a_reason(
    tmp_path: Path, listens: tuple[str, ...], desturi: str | None, reason: str
) -> None:
    found = cook(tmp_path, *listens, desturi=desturi)["nova", "all"]
    assert found.lines == ()
    assert reason in found.reason


def test_qemu_needs_no_libvirt(tmp_path: Path) -> None:
    assert cook(tmp_path, ALIAS)["qemu", "plain"].lines == (
        "-incoming tcp:127.0.0.1:49152",
        "migrate_set_capability return-path on",
        "migrate -d tcp:127.0.1.2:49152",
    )
    assert "add [[ingress]]" in cook(tmp_path, RPC)["qemu", "all"].reason


def test_guest_without_a_name_is_a_placeholder(tmp_path: Path) -> None:
    found = recipes(configuration(tmp_path, ALIAS, RPC), "hostb", None, None)
    assert " GUEST " in found[0].lines[0]
