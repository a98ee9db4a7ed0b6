"""``mtunnel uri``: text and JSON output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.configs import HOST, INGRESS, PEER, TLS, write_config
from tunnel.cli.main import main

RPC = '[[ingress]]\npeer = "hostb"\nlisten = "unix:/run/m/hostb/libvirt-sock"\nusers = ["root"]\n'


def uri(path: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["uri", *arguments, "--config", str(path)])
    return int(caught.value.code or 0)


@pytest.fixture
def config(tmp: Path) -> Path:
    return write_config(tmp, HOST, TLS, PEER, INGRESS, RPC)


def test_text_has_a_section_per_program(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert uri(config, "HOSTB", "web1") == 0
    lines = capsys.readouterr().out.splitlines()
    parts = [line for line in lines if line in {"# virsh", "# libvirt-python", "# nova", "# qemu"}]
    assert parts == ["# virsh", "# libvirt-python", "# nova", "# qemu"]
    assert lines[1] == "# managed direct"
    assert lines[2].startswith(
        "virsh migrate --live web1 'qemu+unix:///system?socket=/run/m/hostb/libvirt-sock'"
    )
    assert lines[lines.index("# nova") + 1].startswith("# not available: Nova inserts 127.0.1.2 into")
    assert lines[-4].startswith("# plain (option of QEMU on hostb")
    assert lines[-1] == "migrate -d tcp:127.0.1.2:49152"


def test_json_has_every_recipe(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert uri(config, "HostB.", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["peer"], answer["guest"]) == ("hostb", None)
    assert set(answer["recipes"][0]) == {"program", "name", "lines", "reason", "place"}
    assert all(bool(recipe["lines"]) != bool(recipe["reason"]) for recipe in answer["recipes"])


def test_desturi_is_used(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert uri(config, "hostb", "web1", "--desturi", "qemu+ssh://hostb/system") == 0
    assert "web1 qemu+ssh://hostb/system --migrateuri" in capsys.readouterr().out


def test_via_selects_one_of_several_ingresses(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sockets = [RPC.replace("libvirt-sock", name) for name in ("db.sock", "mail.sock")]
    rpc = RPC + 'target = "unix:/run/libvirt/libvirt-sock"\n'
    config = write_config(tmp, HOST, TLS, PEER, rpc, *sockets)
    assert uri(config, "hostb", "web1") == 0
    assert "none is named web1.sock: choose one with --via" in capsys.readouterr().out
    assert uri(config, "hostb", "web1", "--via", "unix:/run/m/hostb/mail.sock") == 0
    output = capsys.readouterr().out
    assert "--migrateuri unix:///run/m/hostb/mail.sock" in output
    assert "migrate -d unix:/run/m/hostb/mail.sock" in output
    assert uri(config, "hostb", "web1", "--via", "unix:/run/m/other.sock") == 2


def test_unknown_peer_is_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert uri(config, "hostc") == 2
    assert "no [[peer]] named 'hostc': did you mean 'hostb'?" in capsys.readouterr().err
