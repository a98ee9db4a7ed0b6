"""Interoperability of our records with an unmodified OpenSSL, in both roles.

First with the system's openssl program, with every suite; then with that of ``cryptography``, in memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.lanes import NAMES, Hosts, each_role
from tests.support.opensslprogram import OpensslProgram, connected
from tests.support.pyopensslpeer import shaken
from tests.support.waiting import PATIENCE
from tunnel.records.key_schedule import SUITES
from tunnel.records.record_io import seal, unseal
from tunnel.records.record_layer import RecordLayer, TlsEnd
from tunnel.records.tls_messages import BAD_RECORD_MAC, CLOSED, RECORD
from tunnel.tls.handshake import handshake

GCM_256 = "TLS_AES_256_GCM_SHA384"


class OurEnd:
    """A record layer on a socket."""

    def __init__(self, sock: socket.socket, layer: RecordLayer) -> None:
        self.layer = layer
        self.over: TlsEnd | None = None
        self.got = b""
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting = b""

    async def say(self, *pieces: bytes | memoryview) -> None:
        """Send ``pieces``."""
        out = memoryview(bytearray(1 << 19))
        await self.send(bytes(out[: seal(self.layer, pieces, out)]))

    async def send(self, records: bytes) -> None:
        """Send raw bytes."""
        await self._loop.sock_sendall(self._sock, records)

    async def hears(self, wanted: bytes) -> None:
        """Read until ``wanted`` was received."""
        async with asyncio.timeout(PATIENCE):
            while wanted not in self.got:
                await self._read()

    async def ends(self) -> TlsEnd:
        """Read until the connection ends."""
        async with asyncio.timeout(PATIENCE):
            while self.over is None:
                await self._read()
        return self.over

    async def asides(self, count: int) -> None:
        """Read until ``count`` non-data records were received."""
        async with asyncio.timeout(PATIENCE):
            while count > 0:
                await self._read()
                count -= self.layer.take_asides()

    async def _read(self) -> None:
        assert self.over is None, self.over
        cipher = await self._loop.sock_recv(self._sock, 1 << 16)
        assert cipher, "the connection was cut"
        self._waiting += cipher
        taken = 1
        while taken and self._waiting and self.over is None:
            plain = bytearray(len(self._waiting))
            taken, filled, self.over = unseal(self.layer, memoryview(self._waiting), memoryview(plain))
            self.got += plain[:filled]
            self._waiting = self._waiting[taken:]


@asynccontextmanager
async def ends(
    hosts: Hosts, suite: str, *options: str, dialing: bool
) -> AsyncIterator[tuple[OurEnd, OpensslProgram]]:
    """Our end and the program, after their handshake; ``dialing`` is our role."""
    ours, theirs = (hosts.a, hosts.b) if dialing else (hosts.b, hosts.a)
    async with connected(theirs.files, suite, *options, dialing=dialing) as (program, sock):
        keys, _ = await handshake(sock, ours, NAMES, dialing=dialing)
        assert keys.cipher == suite
        yield OurEnd(sock, RecordLayer(keys)), program


@each_role
@pytest.mark.parametrize("suite", SUITES)
async def test_data_goes_both_ways(hosts: Hosts, suite: str, dialing: bool) -> None:
    async with ends(hosts, suite, dialing=dialing) as (ours, program):
        await ours.say(b"from us\n")
        await program.says(b"from us\n")
        await program.type(b"from openssl")
        await ours.hears(b"from openssl\n")
        bulk = bytearray(b"0123456789abcde\n" * (10 * RECORD // 16 + 7))
        before = bytes(bulk)
        await ours.say(memoryview(bulk), b"the last line\n")
        await program.says(b"the last line\n")
        assert program.said.count(b"0123456789abcde\n") == 10 * RECORD // 16 + 7
        assert bulk == before
        assert b"rror" not in program.said


@each_role
@pytest.mark.parametrize("suite", SUITES)
async def test_keys_are_updated_by_either_end(hosts: Hosts, suite: str, dialing: bool) -> None:
    async with ends(hosts, suite, dialing=dialing) as (ours, program):
        await ours.say(b"at first\n")
        await program.says(b"at first\n")
        await program.type(b"also at first")
        await ours.hears(b"also at first\n")
        ours.layer.take_asides()
        for number in range(3):
            word = str(number).encode()
            await program.type(b"k")
            await ours.asides(1)
            assert (ours.layer.owes_update, ours.layer.records_received) == (False, 0)
            await program.type(b"after theirs " + word)
            await ours.hears(b"after theirs " + word)
            await program.type(b"K")
            await ours.asides(1)
            assert ours.layer.owes_update
            await ours.say(b"after ours " + word + b"\n")
            await program.says(b"after ours " + word + b"\n")
            assert ours.layer.records_sent == 1
            await program.type(b"after both " + word)
            await ours.hears(b"after both " + word)
        assert b"rror" not in program.said


async def test_a_clients_end_is_close_notify(hosts: Hosts) -> None:
    async with ends(hosts, GCM_256, dialing=False) as (ours, program):
        await program.type(b"before the end")
        await ours.hears(b"before the end\n")
        await program.type(b"Q")
        assert await ours.ends() == TlsEnd(CLOSED, None)
        assert await program.ended() == 0


async def test_a_servers_end_is_close_notify(hosts: Hosts) -> None:
    """On stdin Q closes without close_notify; with -rev the program sends it after the line CLOSE."""
    async with ends(hosts, GCM_256, "-rev", dialing=True) as (ours, program):
        await ours.say(b"before\n")
        await ours.hears(b"erofeb\n")
        await ours.say(b"CLOSE\n")
        assert await ours.ends() == TlsEnd(CLOSED, None)
        await program.says(b"CONNECTION CLOSED")


@each_role
async def test_our_end_is_close_notify(hosts: Hosts, dialing: bool) -> None:
    async with ends(hosts, GCM_256, dialing=dialing) as (ours, program):
        await ours.say(b"before the end\n")
        await ours.send(ours.layer.end())
        await program.says(b"before the end\n")
        await program.says(b"DONE|closed|CLOSED")
        assert b"rror" not in program.said


@each_role
async def test_it_sends_an_alert_for_a_record_that_is_not_ours(hosts: Hosts, dialing: bool) -> None:
    async with ends(hosts, GCM_256, dialing=dialing) as (ours, program):
        await ours.say(b"good\n")
        await program.says(b"good\n")
        await ours.send(b"\x17\x03\x03\0\x40" + bytes(64))
        over = await ours.ends()
        assert over == TlsEnd(
            "the peer refused the connection: TLS alert 20 (bad_record_mac); see its log", None
        )


@each_role
async def test_it_accepts_our_alert(hosts: Hosts, dialing: bool) -> None:
    async with ends(hosts, GCM_256, dialing=dialing) as (ours, program):
        await ours.send(ours.layer.end(BAD_RECORD_MAC))
        await program.says(b"alert bad record mac")


# In memory.


def opened(layer: RecordLayer, cipher: bytes) -> tuple[bytes, TlsEnd | None]:
    """Open ``cipher`` completely; return data and the end."""
    view, got, over = memoryview(cipher), b"", None
    while view and over is None:
        plain = bytearray(len(view))
        taken, filled, over = unseal(layer, view, memoryview(plain))
        view, got = view[taken:], got + plain[:filled]
    return got, over


def sealed(layer: RecordLayer, *pieces: bytes | memoryview) -> bytes:
    """Return the records of ``pieces``."""
    out = memoryview(bytearray(1 << 19))
    return bytes(out[: seal(layer, pieces, out)])


@each_role
@pytest.mark.parametrize("size", [0, 1, RECORD - 1, RECORD, RECORD + 1, 10 * RECORD + 9])
def test_data_of_any_size_goes_both_ways_in_memory(hosts: Hosts, dialing: bool, size: int) -> None:
    ours, theirs = shaken(hosts, dialing=dialing)
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert opened(ours, theirs.encrypt(data)) == (data, None)
    assert ours.take_asides() == (2 if dialing else 0), "session tickets"
    assert theirs.decrypt(sealed(ours, b"", data, memoryview(bytearray(data)))) == data + data
    assert theirs.ended == ""


@each_role
def test_both_ends_accept_the_others_close_notify_in_memory(hosts: Hosts, dialing: bool) -> None:
    ours, theirs = shaken(hosts, dialing=dialing)
    assert theirs.decrypt(ours.end()) == b""
    assert theirs.ended == "close_notify"
    assert opened(ours, theirs.encrypt(b"still") + theirs.close()) == (b"still", TlsEnd(CLOSED, None))


@each_role
def test_both_ends_refuse_a_changed_record_in_memory(hosts: Hosts, dialing: bool) -> None:
    ours, theirs = shaken(hosts, dialing=dialing)
    spoilt = bytearray(theirs.encrypt(b"x"))
    spoilt[-1] ^= 1
    _, over = opened(ours, bytes(spoilt))
    assert over == TlsEnd("TLS failed: a record failed authentication (bad_record_mac)", BAD_RECORD_MAC)
    theirs.decrypt(ours.end(over.alert))
    assert "bad record mac" in theirs.ended
    ours, theirs = shaken(hosts, dialing=dialing)
    spoilt = bytearray(sealed(ours, b"x"))
    spoilt[-1] ^= 1
    assert theirs.decrypt(bytes(spoilt)) == b""
    assert "bad record mac" in theirs.ended
    alert = opened(ours, theirs.encrypt(b""))[1]
    assert alert == TlsEnd(
        "the peer refused the connection: TLS alert 20 (bad_record_mac); see its log", None
    )
