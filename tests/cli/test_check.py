"""``mtunnel check``: its output for valid and invalid configurations."""

from __future__ import annotations

import json
import pwd
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import HOST, INGRESS, PEER, TLS, manual_example, write_config
from tests.support.namespace import network
from tests.support.pki import Pki
from tests.support.signers import Signer, day
from tunnel.cli.main import main
from tunnel.daemon import preflight as preflights
from tunnel.host import guard_route
from tunnel.records.key_schedule import SUITES
from tunnel.tls.lane_kinds import KernelTlsSupport, LaneCosts

TCP = '[[ingress]]\npeer = "hostb"\nlisten = "tcp:127.0.1.2:1000"\nusers = ["root"]\n'
UNIX = '[[ingress]]\npeer = "hostb"\nlisten = "unix:/run/mtunnel/web1.sock"\nusers = ["root", "4000000001"]\n'
TRANSPORT = '[transport]\nworkers = 3\nlanes = 1\nlane = "userspace"\nresume_window = "0s"\nmemory = "1GiB"\n'
OTHER_PEER = '[[peer]]\nname = "hostc"\naddress = "hostc.example"\n'


__all__ = ["network"]


@pytest.fixture
def directory(tmp: Path) -> Path:
    """A directory with certificates for hosta."""
    Pki(tmp).host("hosta", dns=["hosta.example"])
    return tmp


def check(path: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["check", "--config", str(path), *options])
    return int(caught.value.code or 0)


def test_a_valid_configuration_is_summarized(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(directory, HOST, TLS, TRANSPORT, PEER, OTHER_PEER, TCP, UNIX)
    assert check(path) == 0
    lines = capsys.readouterr().out.splitlines()
    identity = lines.pop(3)
    assert identity.startswith("  certificate hosta, hosta.example: valid until 20")
    assert lines.pop(5).startswith("  engine      userspace lanes: ")
    assert lines == [
        f"{path} is valid.",
        "",
        "host hosta, listening on 127.0.0.1:16515",
        "  links       1 lane (userspace), 512 streams per peer, 1GiB memory, no resume",
        "  encryption  userspace lanes: set in the configuration",
        "  workers     3",
        "",
        "peer hostb at 192.0.2.2:16515",
        "  egress      tcp:127.0.0.1:49152-49215",
        "              unix:/run/qemu/*",
        "  ingress     tcp:127.0.1.2:1000 -> tcp:127.0.0.1:1000, for root",
        "              unix:/run/mtunnel/web1.sock -> unix:/run/mtunnel/web1.sock, for root, 4000000001",
        "",
        "peer hostc at hostc.example:16515",
        "  egress      none",
        "  ingress     none",
    ]


@pytest.mark.root  # redirect needs nftables
@pytest.mark.usefixtures("network")
def test_the_manuals_complete_example_is_valid(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pki = Pki(tmp)
    pki.host("hosta")
    pki.revoke(lasting=timedelta(days=60))
    path = write_config(tmp, manual_example())
    guard_route.install("127.0.1.2")
    assert check(path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []


def test_the_minimal_configuration_is_summarized(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write_config(directory, HOST, TLS)) == 0
    lines = capsys.readouterr().out.splitlines()
    links = "  links       1 lane (auto), 512 streams per peer, 256MiB memory, resume window 30s"
    assert lines[4] == links
    assert lines[-1] == "no peers configured"


def test_the_engine_is_the_requested_one(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(directory, HOST, TLS, PEER, TCP, UNIX)
    monkeypatch.setenv("MTUNNEL_ENGINE", "python")
    assert check(path) == 0
    expected = "  engine      userspace lanes: Python (set by MTUNNEL_ENGINE)"
    assert expected in capsys.readouterr().out.splitlines()
    assert check(path, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["lane"]["engine"] == "Python (set by MTUNNEL_ENGINE)"
    monkeypatch.setenv("MTUNNEL_ENGINE", "c")
    assert check(path) == 2
    assert "invalid MTUNNEL_ENGINE='c'" in capsys.readouterr().err


def test_measured_costs_are_printed(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        preflights, "run_selftest", lambda files: KernelTlsSupport(tuple(SUITES), "it passed")
    )
    monkeypatch.setattr(preflights, "measure", lambda *_: LaneCosts(0.74, 0.61))
    path = write_config(directory, HOST, TLS)
    assert check(path) == 0
    line = (
        "  encryption  userspace lanes (0.61 CPU s/GiB; in the kernel 0.74): "
        "kernel lanes work on this host, but use no less CPU"
    )
    assert line in capsys.readouterr().out.splitlines()
    assert check(path, "--json") == 0
    lane = json.loads(capsys.readouterr().out)["lane"]
    assert lane["kind"] == "userspace"
    assert lane["cpu_seconds_per_gib"] == {"kernel": 0.74, "userspace": 0.61}


def test_json_has_stable_keys(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(directory, HOST, TLS, PEER, TCP, UNIX)
    assert check(path, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["certificate"].pop("not_after").endswith("+00:00")
    assert answer.pop("lane").keys() == {"kind", "reason", "engine", "cpu_seconds_per_gib"}
    assert answer == {
        "ok": True,
        "file": str(path),
        "warnings": [],
        "host": {
            "name": "hosta",
            "listen": "127.0.0.1:16515",
            "control": f"{directory}/control.sock",
            "metrics": None,
        },
        "certificate": {
            "file": f"{directory}/hosta.pem",
            "names": ["hosta", "hosta.example"],
            "ends_first": f"the certificate {directory}/hosta.pem",
        },
        "transport": {
            "lane": "auto",
            "lanes": 1,
            "workers": None,
            "congestion": None,
            "streams": 512,
            "memory": 268435456,
            "resume_window": 30.0,
            "rotate_records": 4194304,
            "rotate_after": 86400.0,
        },
        "peers": [
            {
                "name": "hostb",
                "address": "192.0.2.2:16515",
                "egress": ["tcp:127.0.0.1:49152-49215", "unix:/run/qemu/*"],
            }
        ],
        "ingresses": [
            {
                "peer": "hostb",
                "listen": "tcp:127.0.1.2:1000",
                "target": "tcp:127.0.0.1:1000",
                "users": ["root"],
            },
            {
                "peer": "hostb",
                "listen": "unix:/run/mtunnel/web1.sock",
                "target": "unix:/run/mtunnel/web1.sock",
                "users": ["root", "4000000001"],
            },
        ],
    }


RPC = """\
[[ingress]]
peer = "hostb"
listen = "unix:/run/mtunnel/hostb/libvirt-sock"
target = "{}"
users = {}
"""


@pytest.mark.parametrize(
    "target", ["unix:/run/libvirt/libvirt-sock", "tcp:127.0.0.1:16509", "tcp:127.0.0.1:16514"]
)
def test_users_other_than_root_of_a_libvirt_ingress_are_a_warning(
    directory: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    path = write_config(directory, HOST, TLS, PEER, TCP, RPC.format(target, '["root", "4000000001"]'))
    assert check(path) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("warning: ingress[1].users: 4000000001 may connect to libvirt on hostb")
    assert last.endswith('write users = ["root"]')
    assert check(path, "--json") == 0
    [warning] = json.loads(capsys.readouterr().out)["warnings"]
    assert last == f"warning: {warning['key']}: {warning['message']}"


def test_root_as_user_of_a_libvirt_ingress_is_no_warning(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rpc = RPC.format("unix:/run/libvirt/libvirt-sock", '["root"]')
    assert check(write_config(directory, HOST, TLS, PEER, UNIX, rpc)) == 0
    assert "warning" not in capsys.readouterr().out


def test_default_users_without_a_qemu_user_are_a_warning(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(directory, HOST, TLS, PEER, TCP.replace('users = ["root"]\n', ""))
    accounts = {"root": pwd.getpwuid(0)}
    monkeypatch.setattr(pwd, "getpwnam", accounts.__getitem__)
    assert check(path) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("warning: ingress[0].users: this host has no user libvirt-qemu or qemu, so")
    accounts["qemu"] = pwd.struct_passwd(("qemu", "x", 107, 107, "", "/", "/bin/false"))
    assert check(path) == 0
    assert "warning" not in capsys.readouterr().out


def test_the_first_expiry_is_printed_with_a_warning(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inter = Signer("inter", Signer("root"), until=3.5)
    files = inter.host("hosta").files(tmp, inter, ca=[inter.issuer], crls=[inter.crl(until=60)])
    tls = f'[tls]\nca = "ca.pem"\ncert = "host.pem"\nkey = "host.key"\ncrl = "{files.crl}"\n'
    path = write_config(tmp, HOST, tls)
    assert check(path) == 0
    lines = capsys.readouterr().out.splitlines()
    whose = f"the intermediate CN=inter in {tmp}/host.pem"
    assert lines[3] == f"  certificate hosta: valid until {day(3.5):%Y-%m-%d}, 3 days ({whose} expires first)"
    unseen = "it has no CRL of CN=root: revocation of the intermediate CN=inter would go undetected"
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert warnings == [
        f"warning: tls.cert: {whose} is valid until {day(3.5):%Y-%m-%d %H:%M} UTC, 3 days left: renew it",
        f"warning: tls.crl: {unseen}",
    ]
    assert check(path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["certificate"]["ends_first"] == whose
    assert [each["key"] for each in facts["warnings"]] == ["tls.cert", "tls.crl"]


def test_one_certificate_for_several_hosts_is_a_warning(
    tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Pki(tmp).host("hosta", dns=["hostb", "hostc"])
    assert check(write_config(tmp, HOST, TLS, PEER, OTHER_PEER)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        f"warning: tls.cert: the certificate {tmp}/hosta.pem also names hostb, hostc: hosts that have several"
    )


def test_errors_in_the_file_are_2(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp, HOST.replace("name", "nmae"), TLS, INGRESS)
    assert check(path) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        f"error: {path}: 3 problems",
        "  host.name: is missing",
        "  host.nmae: unknown key: did you mean 'name'?",
        "  ingress[0].peer: there is no [[peer]] named hostb",
    ]


def test_errors_in_referenced_files_are_2(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp, HOST, TLS)
    assert check(path) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {path}: 3 problems"


def test_json_includes_the_errors(tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp, HOST)
    assert check(path, "--json") == 2
    output = capsys.readouterr()
    assert output.err == ""
    assert json.loads(output.out) == {
        "ok": False,
        "file": str(path),
        "problems": [{"key": "tls", "message": "is missing"}],
    }


def test_nothing_is_started_or_created(directory: Path) -> None:
    path = write_config(directory, HOST.replace("control.sock", "run/control.sock"), TLS)
    assert check(path) == 0
    assert not (directory / "run").exists()
