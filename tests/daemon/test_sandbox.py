"""The sandbox keeps what the configuration requires: computed, and enforced in a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import confined
from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.daemon.config import Config, load
from tunnel.daemon.sandbox import Confinement, capabilities, files
from tunnel.host import nftables
from tunnel.host.landlock import READ, RUN, SOCKETS, Access
from tunnel.host.privileges import Capability

USERSPACE = '[transport]\nlane = "userspace"\n'
TCP_PEER = '[[peer]]\nname = "hostb"\naddress = "192.0.2.2"\negress = ["tcp:127.0.0.1:49152"]\n'


def ingress(listen: str) -> str:
    return f'[[ingress]]\npeer = "hostb"\nusers = ["root"]\nlisten = "{listen}"\n'


def configured(directory: Path, *parts: str) -> Config:
    return load(write_config(directory, HOST, TLS, *parts))


@pytest.mark.parametrize(
    ("parts", "more"),
    [
        ((USERSPACE, TCP_PEER), set()),
        ((TCP_PEER,), {Capability.SYS_RESOURCE}),
        ((USERSPACE, PEER), {Capability.DAC_OVERRIDE}),
        ((USERSPACE, TCP_PEER, ingress("tcp:127.0.1.2:49152")), set()),
        ((USERSPACE, TCP_PEER, ingress("tcp:127.0.1.2:1000")), {Capability.NET_BIND_SERVICE}),
        ((USERSPACE, TCP_PEER, ingress("redirect:127.0.1.2:49152-49160")), {Capability.NET_BIND_SERVICE}),
        (
            (USERSPACE, TCP_PEER, ingress("unix:/run/mtunnel/web1.sock")),
            {Capability.DAC_OVERRIDE, Capability.CHOWN, Capability.FOWNER},
        ),
    ],
    ids=["least", "kernel lanes", "unix egress", "tcp", "low port", "redirect", "unix ingress"],
)
def test_capabilities_follow_the_configuration(
    tmp_path: Path, parts: tuple[str, ...], more: set[Capability]
) -> None:
    assert capabilities(configured(tmp_path, *parts)) == {Capability.NET_ADMIN} | more


def test_files_follow_the_configuration(tmp_path: Path) -> None:
    config = configured(tmp_path, TCP_PEER, ingress("unix:/run/mtunnel/hostb/web1.sock"))
    allowed = files(config, tmp_path / "mtunnel.toml")
    assert allowed[Path("/run/mtunnel/hostb")] == SOCKETS
    assert allowed[tmp_path] == SOCKETS  # the control socket is there, with the certificates
    assert allowed[Path("/etc")] == READ
    assert allowed[Path("/usr")] == RUN  # contains nft
    assert not {Path("/"), Path("/root"), Path("/home"), Path("/var"), Path("/var/lib")} & allowed.keys()


@pytest.mark.root  # changes the owner of a file
@pytest.mark.parametrize(
    ("mode", "private", "hidden"),
    [(0o600, 0o755, True), (0o640, 0o755, True), (0o644, 0o755, False), (0o644, 0o700, True)],
)
def test_a_key_of_another_user_can_be_read_when_it_is_renewed(
    tmp_path: Path, mode: int, private: int, hidden: bool
) -> None:
    config = configured(tmp_path, USERSPACE, TCP_PEER)
    key = tmp_path / "private" / "hosta.key"
    key.parent.mkdir()
    key.touch()
    key.chmod(mode)
    key.parent.chmod(private)
    for path in (key, key.parent):
        os.chown(path, 64055, 64055)
    (tmp_path / "hosta.key").symlink_to(key)
    assert (Capability.DAC_READ_SEARCH in capabilities(config)) is hidden


def test_a_key_of_our_own_needs_no_capability(tmp_path: Path) -> None:
    config = configured(tmp_path, USERSPACE, TCP_PEER)
    (tmp_path / "hosta.key").touch(mode=0o400)
    assert capabilities(config) == {Capability.NET_ADMIN}


def test_certificates_may_be_links_whose_target_changes(tmp_path: Path) -> None:
    own, live = tmp_path / "own", tmp_path / "live"
    own.mkdir()
    live.mkdir()
    (own / "hosta.pem").symlink_to(live / "hosta.pem")
    allowed = files(configured(own), own / "mtunnel.toml")
    assert {own, live} <= allowed.keys()


def test_without_nft_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "program", lambda: None)
    allowed = files(configured(tmp_path), tmp_path / "mtunnel.toml")
    assert not any(access & Access.EXECUTE for access in allowed.values())


def test_confinement_is_described_as_text() -> None:
    assert str(Confinement((Capability.NET_ADMIN,), 3)) == "capabilities: CAP_NET_ADMIN; files: confined"
    assert "not confined: this kernel has no Landlock" in str(Confinement((), 0))


def test_a_confined_process_reads_its_certificates_and_no_guest_disks(tmp_path: Path) -> None:
    own, image = tmp_path / "own", tmp_path / "images" / "web1.qcow2"
    own.mkdir()
    image.parent.mkdir()
    image.write_text("a guest's disk")
    (own / "ca.pem").write_text("a certificate")
    path = write_config(own, HOST, TLS, TCP_PEER)
    code = """
        import socket, sys
        from pathlib import Path
        from tunnel.daemon.config import load
        from tunnel.daemon.sandbox import confine
        path, image = map(Path, sys.argv[1:])
        confine(load(path), path)
        print((path.parent / "ca.pem").read_text())
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path.parent / "control.sock"))
        print(socket.getaddrinfo("localhost", 1)[0][4][1])
        import sqlite3
        try:
            print(image.read_text())
        except OSError as error:
            print(error.strerror)
    """
    assert confined.run(code, path, image) == "a certificate\n1\nPermission denied\n"
