"""The choice between KVM and TCG, by booting a guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.errors import UsageError
from tunnel.proof import accelerator
from tunnel.proof.accelerator import Accelerator, choose_accelerator
from tunnel.proof.pattern_guest import Workload, build_image
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verify import wait_filled
from tunnel.units import MIB


async def test_chosen_accelerator_runs_the_guest(tmp: Path) -> None:
    chosen = await choose_accelerator()
    kernel = tmp / "kernel"
    kernel.write_bytes(build_image(Workload()))
    async with await Qemu.start("guest", Machine(kernel, 16 * MIB, chosen.name), tmp) as qemu:
        await wait_filled(qemu.monitor, tmp, within=30)


async def test_host_without_kvm_gets_tcg(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp / "kvm"
    monkeypatch.setattr(accelerator, "_DEVICE", device)
    assert await choose_accelerator() == Accelerator("tcg", f"{device} is missing or not accessible")


async def test_unusable_kvm_gives_tcg_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(accelerator, "_KVM", "no-such-accelerator")
    chosen = await choose_accelerator()
    assert chosen.name == "tcg"
    assert chosen.reason.startswith("/dev/null exists, but is unusable: ")
    assert "no-such-accelerator" in chosen.reason


async def test_kvm_that_does_not_boot_in_time_gives_tcg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(accelerator, "_KVM", "tcg")
    monkeypatch.setattr(accelerator, "_PATIENCE", 0.0)
    chosen = await choose_accelerator()
    assert chosen == Accelerator("tcg", "/dev/null exists, but booted no guest in 0 s")


async def test_kvm_that_boots_the_guest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(accelerator, "_KVM", "tcg")
    monkeypatch.setattr(accelerator, "_PATIENCE", 30.0)
    assert await choose_accelerator() == Accelerator("kvm", "booted a test guest")


async def test_missing_qemu_is_not_a_missing_kvm(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_DEVICE", Path("/dev/null"))
    monkeypatch.setenv("PATH", str(tmp))
    with pytest.raises(UsageError, match="apt install"):
        await choose_accelerator()
