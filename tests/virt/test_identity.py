"""The QEMU behind a monitor is identified, and that of another guest is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from tests.support.guests import small_machine
from tunnel.errors import HypervisorError, UsageError
from tunnel.proof.qemu import Qemu
from tunnel.virt.identity import Identity, comparable, identify, require_guest, require_same
from tunnel.virt.qmp import Monitor

ONE, TWO = UUID("11111111-1111-4111-8111-111111111111"), UUID("22222222-2222-4222-8222-222222222222")


class FakeMonitor:
    """The monitor of a QEMU that was started with the given name and UUID."""

    name = "source"

    def __init__(self, name: Any, uuid: str) -> None:
        self.answers: dict[str, Any] = {"query-name": name, "query-uuid": {"UUID": uuid}}

    async def execute(self, command: str) -> Any:
        return self.answers[command]


@pytest.mark.parametrize(
    ("name", "uuid", "found"),
    [
        ({"name": "web1"}, str(ONE), Identity("web1", ONE)),
        ({}, "00000000-0000-0000-0000-000000000000", Identity(None, None)),
        ({"name": ""}, str(ONE), Identity(None, ONE)),
    ],
)
async def test_unset_name_and_uuid_are_none(name: dict[str, str], uuid: str, found: Identity) -> None:
    assert await identify(cast("Monitor", FakeMonitor(name, uuid))) == found


@pytest.mark.parametrize("name", [{}, [], None, "web1", {"name": "web1"}])
@pytest.mark.parametrize("uuid", [{}, [], None, {"UUID": 7}, {"UUID": "web1"}])
async def test_unexpected_replies_are_not_from_qemu(name: Any, uuid: Any) -> None:
    monitor = FakeMonitor(name, "")
    monitor.answers["query-uuid"] = uuid
    with pytest.raises(HypervisorError, match="source: this is not a QEMU monitor: "):
        await identify(cast("Monitor", monitor))


async def test_real_qemu_is_identified(tmp: Path) -> None:
    machine = dataclasses.replace(small_machine(tmp, "-uuid", str(ONE)), name="guest=web1,debug-threads=on")
    async with await Qemu.start("source", machine, tmp) as qemu:
        assert await identify(qemu.monitor) == Identity("web1", ONE)


def test_named_guest_must_match() -> None:
    found = Identity("web1", ONE)
    require_guest("web1", found, "source")
    require_guest(None, found, "source")
    for other in ("mailserver", "web", "web11", "WEB1"):
        with pytest.raises(UsageError, match=rf"source: this QEMU runs web1 \(UUID {ONE}\), not {other}"):
            require_guest(other, found, "source")


def test_qemu_without_a_name_is_refused_for_a_named_guest() -> None:
    require_guest(None, Identity(None, None), "source")
    with pytest.raises(UsageError, match=r"source: this QEMU has no name .* cannot verify that it runs web1"):
        require_guest("web1", Identity(None, ONE), "source")


@pytest.mark.parametrize(
    "waiting", [Identity("db7", None), Identity("db7", ONE), Identity("web1", TWO), Identity(None, TWO)]
)
def test_qemu_that_waits_for_another_guest_is_refused(waiting: Identity) -> None:
    with pytest.raises(
        UsageError, match=r"destination: this QEMU is waiting for .*, but the guest to migrate is web1"
    ):
        require_same(Identity("web1", ONE), waiting, "destination")


@pytest.mark.parametrize(
    ("waiting", "compared"),
    [
        (Identity("web1", ONE), True),
        (Identity("web1", None), True),
        (Identity(None, ONE), True),
        (Identity(None, None), False),
    ],
)
def test_qemu_that_may_wait_for_it_is_accepted(waiting: Identity, compared: bool) -> None:
    source = Identity("web1", ONE)
    require_same(source, waiting, "destination")
    assert comparable(source, waiting) == compared


def test_identity_includes_its_uuid() -> None:
    assert str(Identity("web1", ONE)) == f"web1 (UUID {ONE})"
    assert str(Identity("web1", None)) == "web1"
    assert str(Identity(None, None)) == "an unnamed guest"
