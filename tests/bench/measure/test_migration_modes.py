"""The command of each mode matches its name, and modes that cannot be measured have a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.lab.host_plan import PORT, plan
from tunnel.bench.measure.migration_modes import INGRESSES, MODES, MigrationMode, choose
from tunnel.errors import UsageError

BY_NAME = {mode.name: mode for mode in MODES}


def command(mode: MigrationMode) -> list[str]:
    return mode.command("web1", plan(Path("/lab"))[1])


def test_the_modes_are_those_of_the_readme() -> None:
    assert list(BY_NAME) == [
        *("native", "native-tls", "multifd-4", "multifd-tls-4", "multifd-tls-8"),
        *("tunnelled-tcp", "tunnelled-tls", "tunnelled-unix"),
        *("mtunnel", "mtunnel-multifd-4", "mtunnel-multifd-8", "mtunnel-postcopy"),
    ]


def test_cuts_are_made_only_on_request() -> None:
    assert choose([]) == list(MODES)
    assert not any(mode.cuts for mode in MODES)
    (cut,) = choose(["mtunnel-cut"])
    assert cut.cuts == 100
    assert "reset 100 times" in cut.settings
    assert command(cut) == command(BY_NAME["mtunnel"])


def test_placeholders_are_filled_in() -> None:
    begin = ["virsh", "migrate", "--live", "--p2p", "web1"]
    native = ["qemu+tls://hostb.lab/system", "--migrateuri", "tcp://hostb.lab", "--tls"]
    assert command(BY_NAME["native-tls"]) == [*begin, *native]
    socket = "qemu+unix:///system?socket=/lab/B/run/libvirt/libvirt-sock"
    assert command(BY_NAME["tunnelled-unix"]) == [*begin, socket, "--tunnelled"]
    assert not any("{" in word for mode in MODES for word in [*command(mode), mode.settings])


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_name_matches_the_command(mode: MigrationMode) -> None:
    words = command(mode)
    assert ("--parallel" in words) == ("multifd" in mode.name)
    assert ("--postcopy" in words) == mode.postcopy == mode.name.endswith("-postcopy")
    assert ("--tunnelled" in words) == mode.name.startswith("tunnelled")
    assert mode.encrypts == ("-tls" in mode.name or mode.uses_mtunnel)
    assert mode.uses_mtunnel == mode.name.startswith("mtunnel")
    assert (f"tcp://{INGRESSES[0].listen.split(':')[1]}" in words) == mode.uses_mtunnel


@pytest.mark.parametrize("mode", [m for m in MODES if "multifd" in m.name], ids=lambda mode: mode.name)
def test_the_name_has_the_number_of_channels(mode: MigrationMode) -> None:
    words, channels = command(mode), mode.name.rpartition("-")[2]
    assert words[words.index("--parallel-connections") + 1] == channels
    assert f"{channels} channels" in mode.about


def test_former_names_are_accepted() -> None:
    former = ["multifd", "mtunnel-multifd", "multifd-tls"]
    assert [mode.name for mode in choose(former)] == ["multifd-4", "mtunnel-multifd-4", "multifd-tls-4"]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_only_native_modes_need_open_ports(mode: MigrationMode) -> None:
    assert bool(mode.ports) == (mode.on_network and not mode.uses_mtunnel)
    assert PORT not in mode.ports


def test_a_mode_without_network_is_not_measured_over_a_shaped_link() -> None:
    reasons = {mode.name: mode.missing(10**9) for mode in MODES}
    assert [name for name, reason in reasons.items() if reason] == ["tunnelled-unix"]
    assert "not slowed by a link of 1 Gbit/s" in str(reasons["tunnelled-unix"])
    assert not any(mode.missing(None) for mode in MODES)


def test_modes_are_chosen_by_name() -> None:
    assert choose([]) == list(MODES)
    assert [mode.name for mode in choose(["mtunnel", "native", "mtunnel"])] == ["mtunnel", "native"]
    with pytest.raises(UsageError, match="unknown mode: rdma, ssh; known: native, native-tls"):
        choose(["rdma", "native", "ssh"])
