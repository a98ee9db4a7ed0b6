"""Listen addresses: missing, taken, full, or open to other users; all are reported together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tests.support.namespace import network
from tunnel.daemon import listen_checks
from tunnel.daemon.config import Config, load
from tunnel.daemon.instance_lock import claimed
from tunnel.proof.free_port import free_port

__all__ = ["network"]

INGRESS = '[[ingress]]\npeer = "hostb"\nusers = ["root"]\nlisten = '


def configured(directory: Path, listen: str = "", port: int = 0) -> Config:
    own = HOST.replace("16515", str(port or free_port("127.0.0.1")))
    return load(write_config(directory, own, TLS, PEER, INGRESS + f'"{listen}"' if listen else ""))


def problems(config: Config, *, starting: bool = False) -> dict[str, str]:
    return dict(
        [*listen_checks.sockets(config, starting=starting), *listen_checks.ports(config, starting=starting)]
    )


def test_a_missing_directory_is_created_only_at_the_start(tmp: Path) -> None:
    config = configured(tmp, f"unix:{tmp}/run/hostb/web1.sock")
    assert problems(config) == {}
    assert not (tmp / "run").exists()
    assert problems(config, starting=True) == {}
    assert (tmp / "run" / "hostb").is_dir()


def test_a_file_is_no_directory(tmp: Path) -> None:
    (tmp / "file").touch()
    found = problems(configured(tmp, f"unix:{tmp}/file/web1.sock"))
    assert found == {"ingress[0].listen": f"{tmp}/file is not a directory"}


def test_a_directory_must_be_writable(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp, "unix:/run/none/web1.sock")
    # Root may write everywhere: simulate a user who may not.
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    uid = os.getuid()
    assert problems(config) == {
        "host.control": f"the directory {tmp} is not writable for uid {uid}",
        "ingress[0].listen": f"the directory /run is not writable for uid {uid}: cannot create /run/none",
    }


def test_a_directory_that_cannot_be_created_is_reported(tmp: Path) -> None:
    config = configured(tmp, "unix:/proc/none/web1.sock")
    found = problems(config, starting=True)
    assert list(found) == ["ingress[0].listen"]


def test_a_stale_socket_is_no_problem_but_a_served_one_is(tmp: Path) -> None:
    path = tmp / "web1.sock"
    config = configured(tmp, f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen(0)
        expected = {
            "ingress[0].listen": f"another process is listening on {path}: is this daemon already running?"
        }
        for starting in (True, False):
            assert problems(config, starting=starting) == expected
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()  # the check made no connection
    assert problems(config, starting=True) == {}


def test_every_port_must_be_free(tmp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.1.2", 0)) as other:
        port, taken = server.getsockname()[1], other.getsockname()[1]
        config = configured(tmp, f"tcp:127.0.1.2:{taken}", port)
        for starting in (True, False):
            assert problems(config, starting=starting) == {
                "host.listen": f"cannot listen on 127.0.0.1 port {port}: Address already in use",
                "ingress[0].listen": f"cannot listen on 127.0.1.2 port {taken}: Address already in use",
            }
    assert problems(config, starting=True) == {}


def test_addresses_of_the_running_daemon_are_no_problem(tmp: Path) -> None:
    path = tmp / "web1.sock"
    holding = "import sys; from pathlib import Path; from tunnel.daemon.instance_lock import claimed\n"
    holding += f"with claimed(Path('{tmp}/control.sock')): print('held', flush=True); sys.stdin.read()"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as ingress,
        subprocess.Popen(
            [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as daemon,
    ):
        assert daemon.stdout is not None
        assert daemon.stdin is not None
        ingress.bind(os.fspath(path))
        config = configured(tmp, f"unix:{path}", server.getsockname()[1])
        assert daemon.stdout.readline() == "held\n"
        assert problems(config) == {}
        assert problems(config, starting=True).keys() == {"ingress[0].listen", "host.listen"}
        daemon.stdin.close()


def test_daemon_of_an_older_version_is_detected_by_its_control_socket(tmp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as control:
        control.bind(f"{tmp}/control.sock")
        assert problems(configured(tmp, port=server.getsockname()[1])) == {}


def test_ipv6_addresses_are_checked(tmp: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        host = HOST.replace("127.0.0.1:16515", f"[::1]:{port}")
        found = problems(load(write_config(tmp, host, TLS)))
    assert found == {"host.listen": f"cannot listen on ::1 port {port}: Address already in use"}


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_address_that_is_not_configured_yet_is_no_problem(tmp: Path) -> None:
    host = HOST.replace("127.0.0.1:16515", "192.0.2.1:16515")
    assert problems(load(write_config(tmp, host, TLS)), starting=True) == {}


@pytest.fixture
def full(tmp: Path) -> Iterator[Path]:
    """A full file system."""
    place = tmp / "full"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "nr_inodes=1,mode=0755", "tmpfs"]
    subprocess.run(["mount", *options, place], check=True, timeout=60)
    yield place
    subprocess.run(["umount", place], check=True, timeout=60)


@pytest.mark.root
@pytest.mark.parametrize("starting", [True, False])
@pytest.mark.parametrize("path", ["web1.sock", "hostb/web1.sock"])
def test_full_file_system_is_a_problem(tmp: Path, full: Path, path: str, starting: bool) -> None:
    found = problems(configured(tmp, f"unix:{full}/{path}"), starting=starting)
    assert found.keys() == {"ingress[0].listen"}
    assert "No space left on device" in found["ingress[0].listen"]


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_directory_that_others_may_write_is_a_problem(tmp: Path, mode: int) -> None:
    place = tmp / "open"
    place.mkdir()
    place.chmod(mode)
    found = problems(configured(tmp, f"unix:{place}/web1.sock"))
    assert f"can write to the directory {place} (mode {mode:04o})" in found["ingress[0].listen"]


@pytest.mark.root
def test_directory_may_belong_to_a_user_of_the_ingress(tmp: Path) -> None:
    """A user of the ingress gains nothing by replacing its socket; the control socket belongs to root."""
    place = tmp / "his"
    place.mkdir()
    os.chown(place, 65534, 65534)
    users = INGRESS.replace('["root"]', '["root", "65534"]')
    config = load(
        write_config(
            tmp, HOST.replace("16515", str(free_port("127.0.0.1"))), TLS, PEER, users + f'"unix:{place}/s"'
        )
    )
    assert problems(config) == {}
    assert problems(configured(tmp, f"unix:{place}/s")).keys() == {"ingress[0].listen"}
    control = HOST.replace("control.sock", f"{place}/control.sock")
    assert problems(load(write_config(tmp, control, TLS))).keys() == {"host.control"}


@pytest.mark.root
def test_nothing_is_created_in_a_directory_of_another_user(tmp: Path) -> None:
    """The owner may have placed a symbolic link to any directory of root there."""
    tmp.chmod(0o755)
    place, elsewhere = tmp / "his", tmp / "roots"
    place.mkdir()
    elsewhere.mkdir()
    (place / "link").symlink_to(elsewhere)
    os.chown(place, 65534, 65534)
    control = HOST.replace("control.sock", f"{place}/link/made/control.sock")
    config = load(write_config(tmp, control, TLS, PEER, INGRESS + f'"unix:{place}/link/other/s"'))
    with claimed(config.host.control):
        found = dict(listen_checks.sockets(config, starting=True))
    assert found.keys() == {"host.control", "ingress[0].listen"}
    assert not list(elsewhere.iterdir())
