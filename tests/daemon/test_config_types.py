"""Each kind of value: the parsed value, and the error message for an invalid one."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tunnel.daemon import config_types
from tunnel.relay.address import Endpoint, TcpAddress


def read(kind: Any, value: object, directory: Path = Path("/etc/mtunnel")) -> Any:
    return TypeAdapter(kind).validate_python(value, context={"directory": directory})


def complaint(kind: Any, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        read(kind, value)
    return str(caught.value.errors()[0]["msg"])


def account(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/false"))


def test_addresses_are_parsed() -> None:
    assert read(config_types.Target, "tcp:127.0.0.1:1") == TcpAddress("127.0.0.1", 1)
    assert read(config_types.PeerEndpoint, "HostB.example") == Endpoint("hostb.example", 16515)
    assert read(config_types.LinkEndpoint, "[::]") == Endpoint("::", 16515)
    assert read(config_types.HostName, "HostA") == "hosta"


def test_text_must_be_a_string() -> None:
    assert "must be a quoted string, not 3" in complaint(config_types.Rule, 3)


def test_listen_addresses_are_no_names() -> None:
    assert "'hosta' is not an IP address: write one of this host" in complaint(
        config_types.LinkEndpoint, "hosta:1"
    )
    assert "HOST:PORT" in complaint(config_types.MetricsEndpoint, "127.0.0.1")


def test_paths_are_relative_to_the_file() -> None:
    assert read(config_types.FilePath, "ca.pem") == Path("/etc/mtunnel/ca.pem")
    assert read(config_types.FilePath, "/srv/ca.pem") == Path("/srv/ca.pem")
    assert "must be a quoted path" in complaint(config_types.FilePath, "")
    assert "must be a quoted path" in complaint(config_types.FilePath, 1)


def test_without_a_file_paths_are_relative_to_the_working_directory() -> None:
    assert TypeAdapter(config_types.FilePath).validate_python("ca.pem") == Path.cwd() / "ca.pem"


def test_a_socket_path_must_fit_the_kernel() -> None:
    assert read(config_types.SocketPath, "control.sock") == Path("/etc/mtunnel/control.sock")
    assert "has 108 bytes, the limit is 107" in complaint(config_types.SocketPath, "/" + "x" * 107)


@pytest.mark.parametrize("path", ["/", "..", "run/.."])
def test_a_socket_path_must_name_a_file(path: str) -> None:
    assert "has no file name" in complaint(config_types.SocketPath, path)


def test_paths_have_no_nul() -> None:
    for kind in (config_types.FilePath, config_types.SocketPath):
        assert "contains a NUL character" in complaint(kind, "a\0b")


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]:16515", "[::ffff:0.0.0.0]"])
def test_peers_have_no_wildcard_addresses(address: str) -> None:
    assert "is a wildcard address: write an address of the peer" in complaint(
        config_types.PeerEndpoint, address
    )


def test_users_become_uids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", {"qemu": account("qemu", 107)}.__getitem__)
    assert read(config_types.Uid, "qemu") == 107
    assert read(config_types.Uid, "64055") == 64055
    assert "there is no user 'libvirt-qemu'" in complaint(config_types.Uid, "libvirt-qemu")
    assert "there is no user '٣'" in complaint(config_types.Uid, "٣")  # a digit, but not an ASCII one
    assert "there is no user '999" in complaint(config_types.Uid, "9" * 5000)
    assert "there is no user '4294967295'" in complaint(
        config_types.Uid, str(2**32 - 1)
    )  # (uid_t) -1 is no user


def test_a_missing_default_user_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", {"root": account("root", 0)}.__getitem__)
    assert config_types.default_uids() == {0}
    accounts = {"root": account("root", 0), "libvirt-qemu": account("libvirt-qemu", 64055)}
    monkeypatch.setattr(pwd, "getpwnam", accounts.__getitem__)
    assert config_types.default_uids() == {0, 64055}
    accounts = {"root": account("root", 0), "qemu": account("qemu", 107)}  # Fedora, RHEL, SUSE
    monkeypatch.setattr(pwd, "getpwnam", accounts.__getitem__)
    assert config_types.default_uids() == {0, 107}


def test_the_lane_is_one_of_three() -> None:
    assert read(config_types.Lane, "kernel") is config_types.LaneChoice.KERNEL
    assert "must be one of auto, userspace, kernel, not 'plaintext'" in complaint(
        config_types.Lane, "plaintext"
    )


@pytest.mark.parametrize("value", [0, 17, "4", True, 1.0])
def test_lanes_are_a_number_from_1_to_16(value: object) -> None:
    assert read(config_types.Lanes, 16) == 16
    assert complaint(config_types.Lanes, value)


def test_congestion_control_must_be_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_types, "CONGESTION_CONTROLS", tmp_path / "available")
    assert read(config_types.Congestion, "bbr") == "bbr"  # cannot be checked
    (tmp_path / "available").write_text("reno cubic\n")
    assert read(config_types.Congestion, "cubic") == "cubic"
    assert "'bbr' is not available: this host has reno, cubic" in complaint(config_types.Congestion, "bbr")


def test_a_link_needs_some_memory() -> None:
    assert read(config_types.Memory, "64MiB") == 64 * 2**20
    assert "needs at least 64MiB" in complaint(config_types.Memory, "63MiB")
    assert "at most 1TiB" in complaint(config_types.Memory, "1025GiB")
    assert "is not a number with a unit" in complaint(config_types.Memory, "9" * 400 + "TiB")


def test_durations_have_units() -> None:
    assert read(config_types.Duration, "10min") == 600.0
    assert read(config_types.Duration, "0s") == 0.0
    assert "has no unit" in complaint(config_types.Duration, "30")


def test_the_resume_window_can_be_off_but_not_unlimited() -> None:
    assert read(config_types.ResumeWindow, "0s") == 0.0
    assert read(config_types.ResumeWindow, "1h") == 3600.0
    assert "at most 3600s" in complaint(config_types.ResumeWindow, "61min")


def test_a_lane_is_rotated_before_its_key_limit() -> None:
    assert read(config_types.Records, 2**24) == 2**24
    assert complaint(config_types.Records, 2**24 + 1)
    assert complaint(config_types.Records, 1023)


def test_the_lifetime_of_a_lane_is_unlimited_or_in_range() -> None:
    assert read(config_types.RotateAfter, "0s") == 0.0
    assert read(config_types.RotateAfter, "24h") == 86400.0
    assert read(config_types.RotateAfter, "60s") == 60.0
    for wrong in ("59s", "721h"):
        assert "out of range: 60s to 720h, or 0s to disable" in complaint(config_types.RotateAfter, wrong)


def test_values_of_this_host_are_checked() -> None:
    assert read(config_types.Uid, "root") == 0
    assert read(config_types.Congestion, config_types.CONGESTION_CONTROLS.read_text().split()[0])


def test_workers_are_a_number_or_auto() -> None:
    assert read(config_types.WorkerCount, "auto") is None
    assert read(config_types.WorkerCount, 3) == 3
    for wrong in (0, 65, "3", True, 1.0):
        assert 'must be "auto" or a number from 1 to 64' in complaint(config_types.WorkerCount, wrong)
