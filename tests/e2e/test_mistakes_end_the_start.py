"""Configuration errors are reported before anything is served: all together, one line each, exit code 2."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tests.support.daemons import TwoHosts
from tests.support.streams import Target
from tunnel.proof.local_daemon import MTUNNEL


def refused(config: Path) -> list[str]:
    """Try to serve; return the lines with the problems."""
    ended = subprocess.run(
        [*MTUNNEL, "serve", "--config", str(config)], check=False, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    head, *lines = ended.stderr.splitlines()
    assert head == f"error: {config}: {len(lines)} problem" + ("s" if len(lines) > 1 else "")
    return [line.strip() for line in lines]


def test_all_mistakes_are_reported_together(hosts: TwoHosts, target: Target) -> None:
    hosts.a.leads_to(hosts.b, target.address, users=("root", "no-such-user"))
    hosts.a.leads_to(hosts.b, target.address, "tcp:0.0.0.0:49152")
    hosts.a.transport = {"memory": "1MiB", "resume_window": "30", "lanes": 0, "window": "4MiB"}
    hosts.a.ingresses[0]["peer"] = "hostx"
    hosts.a.egress["hostb"] = ["tcp:127.0.0.1:5-1"]
    lines = refused(hosts.a.write_config())
    assert sorted(line.split(": ")[0] for line in lines) == [
        "ingress[0].peer",
        "ingress[0].users[1]",
        "ingress[1].listen",
        "peer[0].egress[0]",
        "transport.lanes",
        "transport.memory",
        "transport.resume_window",
        "transport.window",
    ]


def test_taken_port(hosts: TwoHosts, target: Target) -> None:
    host, _, port = hosts.a.address.rpartition(":")
    with socket.create_server((host, int(port))):
        entry = hosts.a.leads_to(hosts.b, target.address, target.address)
        lines = refused(hosts.a.write_config())
    own = entry.rpartition(":")[2]
    assert lines == [
        f"host.listen: cannot listen on {host} port {port}: Address already in use",
        f"ingress[0].listen: cannot listen on 127.0.0.1 port {own}: Address already in use",
    ]


def test_second_daemon_of_the_same_configuration(hosts: TwoHosts, target: Target, tmp: Path) -> None:
    hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
    hosts.start()
    argv = [*MTUNNEL, "serve", "--config", str(hosts.a.config)]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    who = f"another mtunnel daemon (process {hosts.a.pid}) holds the control socket {hosts.a.control}"
    assert f"{who}: is this daemon already running?" in ended.stderr
    assert hosts.a.daemon.serves()
    [ingress] = hosts.a.status()["ingresses"]
    assert (ingress["accepted"], ingress["refused"]) == (0, 0), "the check does not connect to a hypervisor"
    assert not target.called


def test_key_of_another_host(hosts: TwoHosts) -> None:
    hosts.a.files.key.write_bytes(hosts.b.files.key.read_bytes())
    [line] = refused(hosts.a.write_config())
    assert (
        line
        == f"tls: the private key {hosts.a.files.key} does not match the certificate {hosts.a.files.cert}"
    )


def test_missing_key(hosts: TwoHosts) -> None:
    hosts.a.files.key.unlink()
    assert refused(hosts.a.write_config()) == [
        f"tls.key: {hosts.a.files.key} cannot be read: No such file or directory"
    ]


def test_key_that_everybody_can_read(hosts: TwoHosts, tmp: Path) -> None:
    for directory in (tmp, hosts.a.files.key.parent):
        directory.chmod(0o755)
    hosts.a.files.key.chmod(0o644)
    [line] = refused(hosts.a.write_config())
    assert line == f"tls: the private key {hosts.a.files.key} can be read by every local user: chmod 600 it"


def test_certificate_of_another_name(hosts: TwoHosts) -> None:
    hosts.a.files = hosts.b.files
    [line] = refused(hosts.a.write_config())
    assert line == f"host.name: hosta is not a DNS name in {hosts.b.files.cert}, which names hostb"


def test_unix_socket_in_an_unusable_place(hosts: TwoHosts, target: Target, tmp: Path) -> None:
    (tmp / "file").touch()
    hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/file/entry")
    hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/file")
    hosts.a.leads_to(hosts.b, target.address, "unix:/proc/none/entry")
    lines = refused(hosts.a.write_config())
    assert lines[:2] == [
        f"ingress[0].listen: {tmp}/file is not a directory",
        f"ingress[1].listen: {tmp}/file exists and is not a socket: remove it",
    ]
    assert lines[2].startswith("ingress[2].listen: cannot create the directory /proc/none: ")


def test_missing_directory_of_a_unix_socket_is_created(hosts: TwoHosts, target: Target, tmp: Path) -> None:
    hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/run/hostb/entry")
    hosts.a.start()
    hosts.a.wait_serving()
    assert (tmp / "run" / "hostb" / "entry").is_socket()


def test_key_that_is_not_implemented_is_refused(hosts: TwoHosts) -> None:
    path = hosts.a.write_config()
    path.write_text(path.read_text().replace("[host]\n", '[host]\nmetrics = "127.0.0.1:9516"\n'))
    [line] = refused(path)
    assert line.startswith("host.metrics: this version ")


def test_missing_file(tmp: Path) -> None:
    assert refused(tmp / "none.toml") == ["does not exist; use --config FILE for another file"]


def test_no_file_at_all() -> None:
    ended = subprocess.run([*MTUNNEL, "serve"], check=False, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert "--config" in ended.stderr
