"""What is specific to a pump that splices: pipes that are full, too small, or not available.

What is common to all pumps is tested by ``test_pump``, on both kinds.
"""

from __future__ import annotations

import array
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.waiting import until
from tunnel.lanes import kernel_payload
from tunnel.lanes.kernel_payload import LOOK, Pipe, PipeSegment, PipeSlice, RetransmitPipe
from tunnel.relay.pump import Pump
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.units import KIB
from tunnel.wire.payload import copied

NOISE = random.Random(16514).randbytes(4 << 20)
CRUMB = 600
"""Bytes that are worth a slot of a pipe."""
ALL = 100 * CRUMB


class Owner:
    """Records the calls of a pump."""

    def __init__(self) -> None:
        self.readable = 0
        self.delivered = 0

    def on_readable(self, pump: Pump) -> None:
        self.readable += 1

    def on_delivered(self, pump: Pump, count: int) -> None:
        self.delivered += count

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        raise AssertionError(error)

    def on_reset(self, pump: Pump, error: OSError) -> None:
        raise AssertionError(error)


class Local:
    """A pump and the hypervisor's end of its socket."""

    def __init__(self) -> None:
        ours, self.hypervisor = socket.socketpair()
        self.hypervisor.setblocking(False)
        self.owner = Owner()
        self.pump = SplicedPump(ours, 7, "unix:/run/qemu/a", self.owner)

    def read(self, limit: int) -> bytes:
        """Read, and take the frame out of its pipe, as a lane does."""
        data = self.pump.read(limit)
        assert data is not None
        return copied(data)

    def send_slots(self, count: int) -> None:
        """Let the hypervisor send pieces just large enough to be worth a pipe slot each."""
        for start in range(0, CRUMB * count, CRUMB):
            self.hypervisor.send(NOISE[start : start + CRUMB])

    def outgrow_keeper(self, monkeypatch: pytest.MonkeyPatch, size: int = 64 * KIB) -> RetransmitPipe:
        """Send more pieces than the pump's keeper has room for, with one pipe of ``size``."""
        monkeypatch.setattr(kernel_payload, "MOST_KEPT", 0)
        keeper = self.pump._keeper
        assert keeper is not None
        keeper._pipe = Pipe(size)
        self.send_slots(100)
        return keeper

    def lend(self, content: bytes) -> None:
        pipe = Pipe()
        os.write(pipe.sink, content)
        lent = PipeSlice(pipe, len(content))
        self.pump.deliver(lent)
        self.pump.flush()
        assert not lent.left, "the slice is taken completely, so that no other stream waits"

    async def take(self, size: int) -> bytes:
        got = b""

        def more() -> bool:
            nonlocal got
            try:
                got += self.hypervisor.recv(1 << 20)
            except BlockingIOError:
                return False
            return len(got) >= size

        await until(more, "for bytes")
        return got


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    made = Local()
    yield made
    made.pump.close()
    made.hypervisor.close()


@contextmanager
def descriptors(spare: int) -> Iterator[None]:
    """Limit the number of free descriptors."""
    kernel_payload._spare.clear()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = [os.open(os.devnull, os.O_RDONLY) for _ in range(spare + 1)]
    for descriptor in probe:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_frames_do_not_share_a_pipe(local: Local) -> None:
    local.hypervisor.send(b"onetwo")
    one, two = local.pump.read(3), local.pump.read(3)
    assert isinstance(one, PipeSegment)
    assert isinstance(two, PipeSegment)
    assert copied(two) == b"two"
    assert copied(one) == b"one"


async def test_received_descriptors_are_refused_or_closed_and_never_held(local: Local) -> None:
    """Linux 6.16 and newer refuse them; splice of older kernels closes them silently."""
    read, write = os.pipe()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))
    with suppress(PermissionError):
        local.hypervisor.sendmsg([b"take"], [rights])
    os.close(write)
    local.hypervisor.send(b"this")
    said = local.read(100)
    while not said.endswith(b"this"):
        said += local.read(100)
    os.set_blocking(read, False)
    assert os.read(read, 1) == b"", "the pipe's other end is still open"
    os.close(read)


async def test_reads_are_bounded_by_the_keeper(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = local.outgrow_keeper(monkeypatch)
    got = b""
    while (frame := local.pump.read(4 * CRUMB)) is not None:
        assert isinstance(frame, PipeSegment)
        got += copied(frame)
    assert len(got) == CRUMB * keeper._pipe.size // 4096
    assert local.pump.read(4 * CRUMB) is None
    assert local.owner.readable == 0
    local.pump.release(len(got) - CRUMB)
    assert local.owner.readable == 1, "there is room again"
    local.pump.release(len(got))
    assert local.owner.readable == 1, "reported once"
    while len(got) < ALL:
        got += local.read(4 * CRUMB)
        local.pump.release(len(got))
    assert got == NOISE[:ALL]
    assert local.pump.read(4 * CRUMB) is None
    local.hypervisor.send(b"x")
    await until(lambda: local.owner.readable > 1, "for the socket to be watched again")


async def test_full_keeper_is_copied_if_no_credit_arrives(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = local.outgrow_keeper(monkeypatch)
    got = b""

    def all_read() -> bool:
        nonlocal got
        if keeper.end == len(got) < ALL and (frame := local.pump.read(4 * CRUMB)) is not None:
            got += copied(frame)
        return len(got) == ALL

    await until(all_read, "for everything, though nothing is ever delivered", 5)
    assert got == NOISE[:ALL]
    assert local.owner.readable > 0
    assert keeper.again(0, ALL) == (0, NOISE[:ALL]), "and all of it is kept"


async def test_pump_that_waits_for_room_may_be_closed(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.outgrow_keeper(monkeypatch)
    while local.pump.read(4 * CRUMB) is not None:
        pass
    relief = local.pump._relief
    assert relief is not None
    local.pump.close()
    assert relief.cancelled()
    assert local.owner.readable == 0


async def test_tiny_pieces_are_kept_in_memory(local: Local) -> None:
    """Each would pin a page in a pipe: thousands of them need many MiB for a few KiB."""
    keeper = local.pump._keeper
    assert keeper is not None
    count, got = 5000, b""
    for start in range(count):
        local.hypervisor.send(NOISE[start : start + 1])
        got += local.read(1)
    assert got == NOISE[:count]
    assert keeper.again(0, count) == (0, NOISE[:count]), "all of it is kept nevertheless"
    assert keeper._pipe.size <= kernel_payload.PIPE_SIZE
    assert keeper._in_pipe <= LOOK


async def test_with_small_pipes_it_works_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_payload, "Pipe", lambda: Pipe(8192))
    local = Local()
    local.hypervisor.send(b"QEVM")
    assert local.pump.read(100) == b"QEVM"
    local.pump.close()
    local.hypervisor.close()


async def test_store_does_not_grow_for_tiny_pieces(local: Local) -> None:
    """Each pins a page, whatever its size."""
    sent = 0
    while not local.pump.backlog:
        local.lend(NOISE[sent : sent + 10_000])
        sent += 10_000
    one, other = socket.socketpair()
    with one, other:
        for start in range(sent, sent + 4000, 10):
            other.send(NOISE[start : start + 10])
            if (start - sent) % 1000 == 990:
                pipe = Pipe()
                assert pipe.fill(one.fileno(), 1000) == 1000
                lent = PipeSlice(pipe, 1000)
                local.pump.deliver(lent)
                local.pump.flush()
                assert not lent.left
    sent += 4000
    assert local.pump._store is not None
    assert local.pump._store.size == kernel_payload.PIPE_SIZE
    assert local.pump._waiting, "what did not fit is in memory"
    assert await local.take(sent) == NOISE[:sent]


async def test_backlog_is_first_in_a_pipe_and_then_in_memory(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunnel.relay import spliced_pump

    monkeypatch.setattr(spliced_pump, "MOST_KEPT", 0)
    sent = 0
    while not local.pump._waiting:
        local.lend(NOISE[sent : sent + 100_000])
        sent += 100_000
        assert sent < 8 << 20
    assert local.pump._stored > 0
    local.pump.deliver(NOISE[sent : sent + 1000])  # out of order before: copied by now
    local.pump.flush()
    sent += 1000
    local.lend(NOISE[sent : sent + 1000])
    sent += 1000
    assert local.owner.delivered + local.pump.backlog == sent
    assert await local.take(sent) == NOISE[:sent]
    await until(lambda: not local.pump.backlog)
    assert local.owner.delivered == sent
    local.lend(b"and at once again")
    assert await local.take(17) == b"and at once again"


async def test_without_descriptors_it_works_in_memory() -> None:
    with descriptors(2):
        local = Local()
        local.hypervisor.send(b"QEVM")
        assert local.pump.read(100) == b"QEVM"
    local.lend(b"back")
    assert await local.take(4) == b"back"
    local.pump.release(4)
    local.pump.close()
    local.hypervisor.close()


async def test_descriptors_may_run_out_later(local: Local) -> None:
    local.hypervisor.send(NOISE[:100])
    with descriptors(0):
        assert local.read(40) == NOISE[:40]
        assert local.read(60) == NOISE[40:100]
    local.hypervisor.send(NOISE[100:200])
    assert local.read(100) == NOISE[100:200]
    keeper = local.pump._keeper
    assert keeper is not None
    begin, load = keeper.again(20, 200)
    assert begin == 20
    assert isinstance(load, Pipe)
    assert load.read(180) == NOISE[20:200], "all of it is kept nevertheless"


async def test_frame_with_a_small_pipe_is_sent_from_memory(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel makes pipes small for a user that has very many."""
    keeper = local.outgrow_keeper(monkeypatch, 128 * KIB)
    monkeypatch.setattr(kernel_payload, "take_pipe", lambda: Pipe(4096))
    frame = local.pump.read(ALL)
    assert frame == NOISE[: CRUMB * keeper._pipe.size // 4096]
