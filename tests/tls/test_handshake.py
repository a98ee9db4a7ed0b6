"""The TLS handshake with peers that are unknown, silent, slow, broken, or do not use TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from pathlib import Path

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tests.support.network import tcp_pair
from tests.support.pki import Pki
from tests.support.signers import Signer
from tests.support.waiting import until
from tunnel.errors import IdentityError, LaneError, LaneLost
from tunnel.records.key_schedule import SUITES, Keys
from tunnel.records.record_io import unseal
from tunnel.records.record_layer import RecordLayer
from tunnel.records.record_sealer import RecordSealer
from tunnel.records.tls_messages import DATA, NOT_LISTED, count_records
from tunnel.tls import handshake as module
from tunnel.tls.contexts import TlsContexts, client_context, load
from tunnel.tls.handshake import handshake
from tunnel.tls.openssl import TlsConnection, WantRead
from tunnel.tls.verified_chains import VerifiedChains

Act = Callable[[socket.socket], Coroutine[None, None, None]]

KNOWN = ("hosta", "hostb")

each_role = pytest.mark.parametrize("dialing", [True, False], ids=["dialing", "accepting"])


@contextlib.asynccontextmanager
async def against(act: Act) -> AsyncIterator[socket.socket]:
    """Yield our socket; ``act`` runs on the other one until our side is done."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        task = asyncio.create_task(act(theirs))
        try:
            yield ours
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task


async def failure(contexts: TlsContexts, act: Act, *, dialing: bool) -> LaneError:
    """Return what the handshake raises when the peer does ``act``. The socket must stay open."""
    async with against(act) as ours, asyncio.timeout(60):
        with pytest.raises(LaneError) as caught:
            await handshake(ours, contexts, KNOWN, dialing=dialing)
        assert ours.fileno() >= 0
    return caught.value


def saying(data: bytes, *, then_close: bool = False) -> Act:
    async def act(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        if then_close:
            sock.shutdown(socket.SHUT_WR)
        await asyncio.get_running_loop().create_future()

    return act


async def both(
    dialing: TlsContexts, accepting: TlsContexts, known: Collection[str] = KNOWN
) -> Sequence[tuple[Keys, VerifiedChains] | BaseException]:
    """Return what the handshake of each side returns or raises, the dialing side first."""
    one, other = tcp_pair()
    with one, other:
        async with asyncio.timeout(60):
            return await asyncio.gather(
                handshake(one, dialing, known, dialing=True),
                handshake(other, accepting, known, dialing=False),
                return_exceptions=True,
            )


async def test_the_handshake_of_two_configured_hosts(hosts: Hosts) -> None:
    for end, name in zip(await both(hosts.a, hosts.b), ("hostb", "hosta"), strict=True):
        assert isinstance(end, tuple)
        keys, proof = end
        assert (keys.cipher in SUITES, proof.peer) == (True, name)


async def test_both_ends_keep_the_verified_chains(hosts: Hosts) -> None:
    dialer, acceptor = await both(hosts.a, hosts.b)
    assert isinstance(dialer, tuple)
    assert isinstance(acceptor, tuple)
    assert (dialer[1].dialing, acceptor[1].dialing) == (True, False)
    assert dialer[1].ours == acceptor[1].theirs == hosts.a.dialed
    assert dialer[1].theirs == acceptor[1].ours == hosts.b.accepted
    assert (dialer[1].trust, acceptor[1].trust) == (hosts.a.trust, hosts.b.trust)


async def test_a_valid_certificate_of_another_host_is_refused(hosts: Hosts) -> None:
    dialer, acceptor = await both(hosts.a, hosts.b, ("hosta",))
    assert isinstance(dialer, IdentityError)
    assert "names hostb; expected hosta" in str(dialer)
    assert isinstance(acceptor, tuple)


async def test_nothing_after_the_handshake_is_read_from_the_socket(hosts: Hosts) -> None:
    """The lane has to read the next record."""
    dialing, accepting = tcp_pair()
    with dialing, accepting:

        async def eager() -> None:
            keys, _ = await handshake(dialing, hosts.a, KNOWN, dialing=True)
            dialing.send(RecordSealer(keys.cipher, keys.send).record(DATA, b"early"))

        async with asyncio.timeout(60):
            (keys, _), _ = await asyncio.gather(handshake(accepting, hosts.b, KNOWN, dialing=False), eager())
        waiting = accepting.recv(1 << 16, socket.MSG_PEEK)
        assert len(waiting) == 5 + len(b"early") + 1 + 16, "the whole record is still in the socket"
        assert read(keys, accepting) == (b"early", "")


async def test_both_sides_get_the_same_keys_and_leave_later_records_unread(hosts: Hosts) -> None:
    dialing, accepting = tcp_pair()
    with dialing, accepting:
        async with asyncio.timeout(60):
            (dialer, called), (acceptor, caller) = await asyncio.gather(
                handshake(dialing, hosts.a, KNOWN, dialing=True),
                handshake(accepting, hosts.b, KNOWN, dialing=False),
            )
        assert (called.peer, caller.peer) == ("hostb", "hosta")
        assert dialer.cipher == acceptor.cipher
        assert dialer.send == acceptor.receive
        assert dialer.receive.secret == acceptor.send.secret
        assert dialer.receive.records == 0, "tickets are left to the lane"
        assert count_records(dialing.recv(1 << 16)) == acceptor.send.records == 2
        with pytest.raises(BlockingIOError):
            accepting.recv(1)


@each_role
@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64, b"QEVM\0\0\0\3" * 8, b"SSH-2.0-x\r\n"]
)
async def test_other_protocols_than_tls_are_refused_immediately(
    hosts: Hosts, dialing: bool, data: bytes
) -> None:
    error = await failure(hosts.a, saying(data), dialing=dialing)
    assert "does not use TLS" in str(error)


@each_role
async def test_garbage_in_a_tls_record_is_refused(hosts: Hosts, dialing: bool) -> None:
    record = b"\x16\x03\x01" + (64).to_bytes(2) + b"\x99" * 64
    error = await failure(hosts.a, saying(record), dialing=dialing)
    assert "the TLS handshake failed" in str(error)


@each_role
async def test_a_connection_closed_by_the_peer_is_a_loss(hosts: Hosts, dialing: bool) -> None:
    for data in (b"", b"\x16", b"\x16\x03\x01\x01\x00", b"\x16\x03\x01\x01\x00half of it"):
        error = await failure(hosts.a, saying(data, then_close=True), dialing=dialing)
        assert isinstance(error, LaneLost), data
        assert "closed the connection" in str(error)


@each_role
async def test_a_reset_is_a_loss(hosts: Hosts, dialing: bool) -> None:
    async def act(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    error = await failure(hosts.a, act, dialing=dialing)
    assert isinstance(error, LaneLost)
    assert "connection lost during the TLS handshake" in str(error)


@each_role
@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x01\x00", b"\x16\x03\x01\x01\x00half"])
async def test_a_silent_peer_times_out(
    hosts: Hosts, dialing: bool, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    error = await failure(hosts.a, saying(data), dialing=dialing)
    assert "timed out after" in str(error)


async def test_a_slow_peer_times_out(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout is for the whole handshake, not for each byte."""
    monkeypatch.setattr(module, "TIMEOUT", 0.3)

    async def act(sock: socket.socket) -> None:
        for byte in b"\x16\x03\x01\x40\x00" + bytes(0x4000):
            await asyncio.get_running_loop().sock_sendall(sock, bytes([byte]))
            await asyncio.sleep(0.01)

    error = await failure(hosts.a, act, dialing=False)
    assert "timed out after" in str(error)


async def test_the_size_of_a_hello_is_bounded(hosts: Hosts) -> None:
    """An unauthenticated peer must not make us buffer much."""
    hello = b"\1" + (140_000).to_bytes(3) + bytes(140_000)
    records = [hello[start : start + 16384] for start in range(0, len(hello), 16384)]
    data = b"".join(b"\x16\x03\x01" + len(record).to_bytes(2) + record for record in records)
    error = await failure(hosts.a, saying(data), dialing=False)
    assert "excessive message size" in str(error)


@each_role
async def test_the_number_of_handshake_records_is_bounded(hosts: Hosts, dialing: bool) -> None:
    """Each costs a loop iteration, and a real peer needs few."""
    hello = (b"\2" if dialing else b"\1") + (20_000).to_bytes(3) + bytes(20_000)
    pieces = [b"\x16\x03\x01\x00\x01" + bytes([byte]) for byte in hello]
    error = await failure(hosts.a, saying(b"".join(pieces)), dialing=dialing)
    assert str(error) == "the peer sent more than 32 records in the TLS handshake"


async def test_the_size_of_a_chain_is_bounded(hosts: Hosts, tmp: Path) -> None:
    """All of its certificates are parsed before the first is verified."""
    signer = Signer("ring")
    context = client_context(signer.host("hosta").files(tmp / "long", *[signer] * 150, ca=[signer]))
    context.set_verify(SSL.VERIFY_NONE)
    dialer = TlsConnection(context, dialing=True)

    async def act(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(WantRead):
                dialer.handshake()
            await loop.sock_sendall(sock, dialer.flight())
            dialer.feed(await loop.sock_recv(sock, 65536))

    async with against(act) as ours, asyncio.timeout(20):
        with pytest.raises(LaneError, match="sent more than 32 KiB in the TLS handshake"):
            await handshake(ours, hosts.b, KNOWN, dialing=False)


async def test_a_record_longer_than_tls_allows_is_refused(hosts: Hosts) -> None:
    error = await failure(hosts.a, saying(b"\x16\x03\x01\x49\x01"), dialing=False)
    assert "length too long" in str(error)


async def test_an_unknown_authority_is_refused_with_an_alert(hosts: Hosts, tmp: Path) -> None:
    stranger = load(Pki(tmp / "other").host("hosta"))
    dialer, acceptor = await both(stranger, hosts.b)
    assert isinstance(dialer, IdentityError)  # it does not trust the acceptor's authority either
    assert isinstance(acceptor, LaneError)
    assert "refused" in str(acceptor)


async def test_an_older_tls_is_refused(hosts: Hosts) -> None:
    async def act(sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        outgoing = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
        await asyncio.get_running_loop().sock_sendall(sock, outgoing.read())
        await asyncio.get_running_loop().create_future()

    error = await failure(hosts.a, act, dialing=False)
    assert "unsupported protocol" in str(error)


async def told(dialing: TlsContexts, accepting: TlsContexts, known: Collection[str]) -> str:
    """Return the reason that the dialing side reads after the accepting side has refused it."""
    one, other = tcp_pair()
    with one, other:
        async with asyncio.timeout(60):
            ours, refusal = await asyncio.gather(
                handshake(one, dialing, KNOWN, dialing=True),
                handshake(other, accepting, known, dialing=False),
                return_exceptions=True,
            )
        assert isinstance(refusal, IdentityError)
        assert isinstance(ours, tuple)
        other.close()
        return read(ours[0], one)[1]


def read(keys: Keys, sock: socket.socket) -> tuple[bytes, str]:
    """Return the data received, and the reason of the end."""
    layer, cipher = RecordLayer(keys), memoryview(sock.recv(1 << 16))
    plain, got, over = memoryview(bytearray(len(cipher))), b"", None
    while cipher and over is None:
        taken, filled, over = unseal(layer, cipher, plain)
        cipher, got = cipher[taken:], got + plain[:filled]
    return got, over.reason if over is not None else ""


async def test_a_dialing_side_that_is_not_listed_receives_access_denied(hosts: Hosts) -> None:
    assert await told(hosts.a, hosts.b, ("hostc",)) == NOT_LISTED


async def test_an_accepting_side_with_another_name_receives_bad_certificate(hosts: Hosts) -> None:
    dialing, accepting = tcp_pair()
    with dialing, accepting:
        async with asyncio.timeout(60):
            refusal, theirs = await asyncio.gather(
                handshake(dialing, hosts.a, ("hostc",), dialing=True),
                handshake(accepting, hosts.b, KNOWN, dialing=False),
                return_exceptions=True,
            )
        assert isinstance(refusal, IdentityError)
        assert isinstance(theirs, tuple)
        assert "TLS alert 42 (bad_certificate)" in read(theirs[0], accepting)[1]


async def test_a_peer_without_a_common_protocol_receives_an_alert(hosts: Hosts) -> None:
    """Also one that offers none: that is detected only after the handshake."""
    for offered in (["h2"], ["h2", "http/1.1"], []):
        alerts: list[str] = []

        async def act(sock: socket.socket, offered: list[str] = offered, alerts: list[str] = alerts) -> None:
            alerts.append(await foreign(sock, hosts, offered))
            await asyncio.get_running_loop().create_future()

        async with against(act) as ours, asyncio.timeout(60):
            with pytest.raises(IdentityError, match="does not support mtunnel/1"):
                await handshake(ours, hosts.b, KNOWN, dialing=False)
            await until(lambda alerts=alerts: alerts)  # type: ignore[misc]  # a default argument
        assert "no application protocol" in alerts[0].lower().replace("_", " "), offered


async def foreign(sock: socket.socket, hosts: Hosts, protocols: list[str]) -> str:
    """Dial with Python's ssl and ``protocols``; return the error that ends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(hosts.a.files.cert, hosts.a.files.key)
    if protocols:
        context.set_alpn_protocols(protocols)
    loop, incoming, outgoing = asyncio.get_running_loop(), ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            tls.do_handshake()
            await loop.sock_sendall(sock, outgoing.read())
            tls.read(1)
        except ssl.SSLWantReadError:
            await loop.sock_sendall(sock, outgoing.read())
            incoming.write(await loop.sock_recv(sock, 1 << 16))
        except ssl.SSLError as error:
            return str(error)


async def test_a_cancelled_handshake_leaves_the_socket_open(hosts: Hosts) -> None:
    async with against(saying(b"")) as ours:
        task = asyncio.create_task(handshake(ours, hosts.a, KNOWN, dialing=False))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ours.fileno() >= 0
