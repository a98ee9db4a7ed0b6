"""What is outside the file: certificates, directories, ports; all of it in one report."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tests.support.pki import Pki
from tunnel.daemon import preflight as module
from tunnel.daemon.config import Config, load
from tunnel.daemon.preflight import preflight
from tunnel.errors import ConfigError
from tunnel.transport import credentials, nftables
from tunnel.transport.ktls import Capability
from tunnel.transport.lane import LaneKind
from tunnel.transport.tls import TlsContexts

INGRESS = '[[ingress]]\npeer = "hostb"\nusers = ["root"]\nlisten = '


def configured(directory: Path, listen: str = "", **host: object) -> Config:
    own = HOST.replace("127.0.0.1:16515", f"127.0.0.1:{host['port']}") if host else HOST
    return load(write_config(directory, own, TLS, PEER, INGRESS + f'"{listen}"' if listen else ""))


def problems(config: Config, *, starting: bool = False) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        preflight(config, "mtunnel.toml", starting=starting)
    return dict(caught.value.problems)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def directory(tmp: Path) -> Path:
    """A directory with certificates for hosta."""
    Pki(tmp).host("hosta", dns=["hosta.example"])
    return tmp


def test_when_all_is_well_the_certificates_come_back(directory: Path) -> None:
    contexts = preflight(configured(directory), "mtunnel.toml")
    assert isinstance(contexts, TlsContexts)
    assert contexts.names == ("hosta", "hosta.example")


def test_every_file_that_cannot_be_read_is_named(tmp: Path) -> None:
    (tmp / "hosta.key").mkdir()
    assert problems(configured(tmp)) == {
        "tls.ca": f"{tmp}/ca.pem cannot be read: No such file or directory",
        "tls.cert": f"{tmp}/hosta.pem cannot be read: No such file or directory",
        "tls.key": f"{tmp}/hosta.key cannot be read: Is a directory",
    }


def test_a_bad_certificate_is_reported_with_the_rest(directory: Path) -> None:
    (directory / "hosta.pem").write_text("nonsense")
    (directory / "file").touch()
    found = problems(configured(directory, f"unix:{directory}/file"))
    assert "holds no PEM block" in found["tls"]
    assert found["ingress[0].listen"] == f"{directory}/file exists and is not a socket: remove it"


def test_the_certificate_must_name_this_host(directory: Path) -> None:
    config = load(write_config(directory, HOST.replace("hosta", "hostz"), TLS))
    assert problems(config) == {
        "host.name": f"hostz is not a DNS name of {directory}/hosta.pem: that is hosta, hosta.example"
    }


def test_a_missing_directory_is_made_only_at_the_start(directory: Path) -> None:
    config = configured(directory, f"unix:{directory}/run/hostb/web1.sock", port=free_port())
    preflight(config, "mtunnel.toml")
    assert not (directory / "run").exists()
    preflight(config, "mtunnel.toml", starting=True)
    assert (directory / "run" / "hostb").is_dir()


def test_a_file_is_no_directory(directory: Path) -> None:
    (directory / "file").touch()
    found = problems(configured(directory, f"unix:{directory}/file/web1.sock"))
    assert found == {"ingress[0].listen": f"{directory}/file is not a directory"}


def test_a_directory_must_be_writable(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(directory, "unix:/run/none/web1.sock")
    # Root may write everywhere: take the kernel's answer from a host where it may not.
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    uid = os.getuid()
    assert problems(config) == {
        "host.control": f"the directory {directory} is not writable for uid {uid}",
        "ingress[0].listen": f"the directory /run is not writable for uid {uid}: /run/none cannot be made",
    }


def test_a_directory_that_cannot_be_made_is_reported(directory: Path) -> None:
    config = configured(directory, "unix:/proc/none/web1.sock", port=free_port())
    found = problems(config, starting=True)
    assert list(found) == ["ingress[0].listen"]


def test_a_socket_left_behind_is_no_problem_but_a_served_one_is(directory: Path) -> None:
    path = directory / "control.sock"
    config = configured(directory, port=free_port())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        preflight(config, "mtunnel.toml", starting=True)
        server.listen(0)
        expected = {"host.control": f"another process listens on {path}: is this daemon running already?"}
        assert problems(config, starting=True) == expected
        assert problems(config, starting=True) == expected  # now that its backlog is full
        preflight(config, "mtunnel.toml")  # to look is allowed while it runs


def test_every_port_must_be_free_at_the_start(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.1.2", 0)) as other:
        port, taken = server.getsockname()[1], other.getsockname()[1]
        host = HOST.replace("16515", str(port))
        config = load(write_config(directory, host, TLS, PEER, INGRESS + f'"tcp:127.0.1.2:{taken}"'))
        preflight(config, "mtunnel.toml")
        assert problems(config, starting=True) == {
            "host.listen": f"cannot listen on 127.0.0.1 port {port}: Address already in use",
            "ingress[0].listen": f"cannot listen on 127.0.1.2 port {taken}: Address already in use",
        }
    preflight(
        load(write_config(directory, HOST.replace("16515", str(port)), TLS)), "mtunnel.toml", starting=True
    )


def test_ipv6_is_tried_as_such(directory: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        host = HOST.replace("127.0.0.1:16515", f"[::1]:{port}")
        found = problems(load(write_config(directory, host, TLS)), starting=True)
    assert found == {"host.listen": f"cannot listen on ::1 port {port}: Address already in use"}


def test_what_this_version_cannot_do_is_refused_not_left_out(directory: Path) -> None:
    host = HOST + 'metrics = "127.0.0.1:9516"\n[transport]\nlanes = 2\nrotate_records = 4096\n'
    config = load(write_config(directory, host, TLS, PEER))
    assert problems(config) == {
        "transport.rotate_records": "this version does not rotate lanes: leave it out",
        "host.metrics": "this version has no metrics endpoint: leave it out",
    }


NO_MODULE = Capability((), "module tls not loaded")
NO_KERNEL = Capability((), "the self-test failed: spliced bytes are not what they were")
KERNEL = Capability(("TLS_AES_128_GCM_SHA256",), "the self-test passed")


def wanting(directory: Path, lane: str) -> Config:
    return load(write_config(directory, HOST, TLS, PEER, f'[transport]\nlane = "{lane}"\n'))


@pytest.mark.parametrize("lane", ["auto", "kernel"])
def test_kernel_lanes_are_for_who_passes_the_self_test(
    directory: Path, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "examine", lambda files: KERNEL)
    contexts = preflight(wanting(directory, lane), "mtunnel.toml")
    assert contexts.lane is LaneKind.KERNEL
    assert contexts.kernel is KERNEL


@pytest.mark.parametrize(
    ("found", "reason"), [(NO_KERNEL, NO_KERNEL.reason), (NO_MODULE, "module tls not loaded; optional")]
)
def test_auto_falls_back_and_knows_why(
    directory: Path, monkeypatch: pytest.MonkeyPatch, found: Capability, reason: str
) -> None:
    monkeypatch.setattr(module, "examine", lambda files: found)
    contexts = preflight(wanting(directory, "auto"), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel.reason == reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [(NO_KERNEL, NO_KERNEL.reason), (NO_MODULE, "module tls not loaded (modprobe tls)")],
)
def test_whoever_wants_kernel_lanes_gets_no_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch, found: Capability, reason: str
) -> None:
    monkeypatch.setattr(module, "examine", lambda files: found)
    problem = f"no kernel lanes here: {reason}; or use auto or userspace"
    assert problems(wanting(directory, "kernel")) == {"transport.lane": problem}


def test_userspace_switches_kernel_lanes_off(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda files: KERNEL)
    contexts = preflight(wanting(directory, "userspace"), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel.reason == "the configuration says so"


def test_every_redirect_that_cannot_be_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listens = ("redirect:127.0.1.2:49152-49215", "tcp:127.0.1.3:49152", "redirect:127.0.1.4:49152-49215")
    ingresses = [INGRESS + f'"{listen}"' for listen in listens]
    config = load(write_config(directory, HOST, TLS, PEER, *ingresses))
    monkeypatch.setattr(nftables, "obstacle", lambda: "there is no firewall here")
    assert problems(config) == {
        "ingress[0].listen": "there is no firewall here",
        "ingress[2].listen": "there is no firewall here",
    }
    monkeypatch.setattr(nftables, "obstacle", lambda: None)
    preflight(config, "mtunnel.toml")


def test_without_a_redirect_nobody_asks_for_a_firewall(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "obstacle", lambda: "there is no firewall here")
    preflight(configured(directory, "tcp:127.0.1.3:49152"), "mtunnel.toml")


def test_every_ingress_whose_callers_cannot_be_known_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens = ("tcp:127.0.1.3:49152", f"unix:{directory}/guests", "redirect:127.0.1.4:49152-49215")
    ingresses = [INGRESS + f'"{listen}"' for listen in listens]
    config = load(write_config(directory, HOST, TLS, PEER, *ingresses))
    monkeypatch.setattr(nftables, "obstacle", lambda: None)
    monkeypatch.setattr(credentials, "obstacle", lambda: "this kernel tells nothing")
    assert problems(config) == {
        "ingress[0].listen": "this kernel tells nothing",
        "ingress[2].listen": "this kernel tells nothing",
    }


def test_without_an_ingress_on_tcp_nobody_asks_who_calls(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "obstacle", lambda: "this kernel tells nothing")
    preflight(configured(directory, f"unix:{directory}/guests"), "mtunnel.toml")
