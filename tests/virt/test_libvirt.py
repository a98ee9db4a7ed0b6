"""The real library, with libvirt's test driver: no daemon, no root."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt as library
import pytest

from tunnel.errors import HypervisorError, UnreachableError, UsageError
from tunnel.virt import libvirt as module
from tunnel.virt.libvirt import LibvirtGuest, LibvirtHost, State, keepalive

DRIVER = "test:///default"


@pytest.fixture
async def host() -> AsyncIterator[LibvirtHost]:
    async with await LibvirtHost.connect(DRIVER) as connected:
        yield connected


@pytest.fixture
async def guest(host: LibvirtHost) -> LibvirtGuest:
    found = await host.guest("test")
    assert found is not None
    return found


async def test_host_has_a_name_and_lists_running_guests(host: LibvirtHost) -> None:
    assert host.uri == DRIVER
    assert await host.name()
    assert await host.running() == ["test"]
    assert await host.uuid() is None  # this driver has none


async def test_version_is_the_librarys(host: LibvirtHost) -> None:
    major, minor, micro = await host.version()
    assert (major * 1000 + minor) * 1000 + micro == library.getVersion()


async def test_again_connects_to_the_same_libvirt(host: LibvirtHost) -> None:
    async with await host.again() as another:
        assert another is not host
        assert another.uri == DRIVER
        assert await another.state_of("test") is State.RUNNING


async def test_state_follows_the_guest(host: LibvirtHost, guest: LibvirtGuest) -> None:
    assert await guest.state() is State.RUNNING
    await guest.suspend()
    assert await host.state_of("test") is State.PAUSED
    assert "<name>test</name>" in await guest.migratable_xml()


async def test_guest_that_does_not_exist_is_absent(host: LibvirtHost) -> None:
    assert await host.guest("nobody") is None
    assert await host.state_of("nobody") is State.ABSENT


@pytest.mark.parametrize(
    ("state", "reason", "meant"),
    [
        (library.VIR_DOMAIN_RUNNING, library.VIR_DOMAIN_RUNNING_MIGRATED, State.RUNNING),
        (library.VIR_DOMAIN_PAUSED, library.VIR_DOMAIN_PAUSED_USER, State.PAUSED),
        (library.VIR_DOMAIN_PAUSED, library.VIR_DOMAIN_PAUSED_POSTCOPY, State.POSTCOPY),
        (library.VIR_DOMAIN_PAUSED, library.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, State.POSTCOPY_BROKEN),
        (library.VIR_DOMAIN_RUNNING, library.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED, State.POSTCOPY_BROKEN),
        (library.VIR_DOMAIN_SHUTOFF, library.VIR_DOMAIN_SHUTOFF_MIGRATED, State.OFF),
        (library.VIR_DOMAIN_SHUTOFF, library.VIR_DOMAIN_SHUTOFF_SAVED, State.SAVED),
        (library.VIR_DOMAIN_CRASHED, 0, State.CRASHED),
        (library.VIR_DOMAIN_PMSUSPENDED, 0, State.OTHER),
    ],
)
def test_libvirts_states_are_mapped(state: int, reason: int, meant: State) -> None:
    assert module._state(library, state, reason) is meant


async def test_shut_off_and_saved_are_distinguished(host: LibvirtHost, guest: LibvirtGuest) -> None:
    await host_call(guest, "managedSave")
    assert await guest.state() is State.SAVED
    await host_call(guest, "create")
    await host_call(guest, "destroy")
    assert await host.state_of("test") is State.OFF
    assert State.OFF.gone
    assert State.SAVED.gone
    assert not State.PAUSED.gone


async def host_call(guest: LibvirtGuest, verb: str) -> None:
    await guest._ask(verb, getattr(guest._domain, verb))


async def test_guest_is_found_by_its_uuid(host: LibvirtHost, guest: LibvirtGuest) -> None:
    found = await host.guest_with(guest.uuid)
    assert found is not None
    assert (found.name, found.uuid) == ("test", guest.uuid)
    assert await host.guest_with("00000000-0000-4000-8000-000000000000") is None


@pytest.mark.parametrize(
    ("label", "uid"),
    [
        ("+64055:+64055", 64055),
        ("107:107", 107),
        ("root:root", 0),
        ("nobody-of-this-name:x", None),
        (None, None),
    ],
)
def test_user_of_qemu_is_read_from_its_label(label: str | None, uid: int | None) -> None:
    dac = f"<seclabel type='dynamic' model='dac'><label>{label}</label></seclabel>" if label else ""
    other = "<seclabel type='dynamic' model='apparmor'><label>libvirt-1</label></seclabel>"
    assert module._qemu_uid(f"<domain>{other}{dac}</domain>") == uid


async def test_user_of_qemu_is_unknown_if_libvirt_sets_none(guest: LibvirtGuest) -> None:
    assert await guest.uid() is None


@pytest.mark.parametrize(
    ("stats", "operation"),
    [
        ({}, None),
        ({"type": 0}, None),
        ({"type": 2, "operation": library.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}, "migration out"),
        ({"type": 1, "operation": library.VIR_DOMAIN_JOB_OPERATION_BACKUP}, "backup"),
        ({"type": 1, "operation": 9999}, "unknown"),
        ({"type": 1}, "unknown"),
    ],
)
async def test_job_is_named(guest: LibvirtGuest, stats: dict[str, int], operation: str | None) -> None:
    class Domain:
        def jobStats(self) -> dict[str, int]:  # noqa: N802  libvirt's name
            return stats

    assert await LibvirtGuest(Domain(), "web1", guest.host).operation() == operation


async def test_driver_without_jobs_has_no_operation(guest: LibvirtGuest) -> None:
    assert await guest.operation() is None


async def test_unsupported_calls_raise_libvirts_error_text(host: LibvirtHost, guest: LibvirtGuest) -> None:
    for failing in (guest.abort(), guest.job(), guest.completed_job(), guest.start_postcopy()):
        with pytest.raises(HypervisorError, match="test: this function is not supported by the connection"):
            await failing
    with pytest.raises(HypervisorError, match="p2p migration is not supported"):
        await guest.migrate(DRIVER, {"LIVE", "PEER2PEER"}, {})
    with pytest.raises(HypervisorError, match="virDomainMigrate3"):
        await guest.migrate(host, {"LIVE"}, {"migrate_uri": "tcp://127.0.1.2"})


async def test_iterations_registers_and_deregisters(guest: LibvirtGuest) -> None:
    passed: list[int] = []
    async with guest.iterations(passed.append):
        pass
    assert passed == []


@pytest.mark.parametrize(
    "uri", ["qemu+unix:///system?socket=/nonexistent/libvirt-sock", "qemu+tcp://127.0.0.1:1/system"]
)
async def test_failed_connection_is_unreachable(uri: str) -> None:
    with pytest.raises(UnreachableError, match="cannot connect to libvirt at qemu"):
        await LibvirtHost.connect(uri)


async def test_silent_listener_is_unreachable(tmp: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp / "silent"))
        silent.listen()
        with pytest.raises(UnreachableError, match=r"timed out after 0\.2 s connecting to libvirt at qemu"):
            await LibvirtHost.connect(f"qemu+unix:///system?socket={tmp}/silent", within=0.2)


@pytest.mark.parametrize(
    ("silence", "expected"), [(0, (5, 5)), (25, (5, 5)), (50, (5, 10)), (140.5, (5, 29))]
)
def test_keepalive_tolerates_the_silence(silence: float, expected: tuple[int, int]) -> None:
    interval, count = keepalive(silence)
    assert (interval, count) == expected
    assert interval * (count + 1) - interval >= silence, "the last reply may be as old as an interval"


async def test_wrong_uri_is_refused(host: LibvirtHost) -> None:
    with pytest.raises((HypervisorError, UnreachableError), match="test:///nonexistent"):
        await LibvirtHost.connect("test:///nonexistent/file.xml")


async def test_libvirt_writes_no_errors_to_stderr(
    host: LibvirtHost, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await host.guest("nobody") is None
    assert capfd.readouterr() == ("", "")


def test_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    module._library.cache_clear()
    monkeypatch.setitem(sys.modules, "libvirt", None)
    try:
        with pytest.raises(UsageError, match=r"pip install .*\[libvirt\]"):
            module.require_library()
    finally:
        module._library.cache_clear()


class Failure(library.libvirtError):  # type: ignore[misc]  # the library ships no types
    """A fake error of libvirt."""

    def __init__(self, code: int, words: str) -> None:
        self.err = (code, 0, words, 2, "", None, None, 0, 0)


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        (library.VIR_ERR_MIGRATE_UNSAFE, "Unsafe migration", "use --copy-storage"),
        (library.VIR_ERR_AUTH_FAILED, "authentication failed", "group libvirt"),
        (library.VIR_ERR_INTERNAL_ERROR, "Postcopy is not supported", "vm.unprivileged_userfaultfd=1"),
        (library.VIR_ERR_INTERNAL_ERROR, "client socket is closed", "a connection to libvirt was lost"),
        (
            library.VIR_ERR_SYSTEM_ERROR,
            "Cannot recv data: Connection reset by peer",
            "a connection to libvirt was lost",
        ),
        (library.VIR_ERR_OPERATION_INVALID, "only with VIR_MIGRATE_TLS flag", "--tls-destination"),
    ],
)
def test_errors_have_a_hint(code: int, words: str, hint: str) -> None:
    text = module._words(library, Failure(code, words))
    assert text.startswith(words)
    assert hint in text


async def test_events_are_handled_by_one_daemon_thread(host: LibvirtHost) -> None:
    turning = [thread for thread in threading.enumerate() if thread.name == "libvirt events"]
    assert turning
    assert all(thread.daemon for thread in turning)
