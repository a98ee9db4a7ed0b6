"""One TLS connection: what it reports, and that what we use of pyOpenSSL's insides is still there."""

from __future__ import annotations

import gc
from contextlib import suppress

import pytest
from OpenSSL import SSL

from tests.support.lanes import Hosts
from tunnel.bench.sealer import SUITE, Sealer
from tunnel.transport.openssl import (
    CLOSED,
    MOST_READS,
    Buffer,
    TlsConnection,
    VerificationError,
    WantRead,
    explain,
    is_alert,
)
from tunnel.transport.tls import client_context
from tunnel.transport.tls_messages import DATA, RECORD, count_records

Ends = tuple[TlsConnection, TlsConnection]


@pytest.fixture
def ends(hosts: Hosts) -> Ends:
    """A dialing and an accepting end that shook hands in memory."""
    dialer = TlsConnection(hosts.a.client, dialing=True)
    acceptor = TlsConnection(hosts.b.server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer), (dialer, acceptor)):
        with suppress(WantRead):
            end.handshake()
        other.feed(end.flight())
    with suppress(WantRead):
        acceptor.handshake()
    return dialer, acceptor


def carry(end: TlsConnection, other: TlsConnection, size: int = 1 << 20) -> tuple[bytes, SSL.Error]:
    """Bring what ``end`` says to ``other``, ``size`` bytes at a time; what it reads, and why not more."""
    return say(end.flight(), other, size)


def say(cipher: bytes, other: TlsConnection, size: int = 1 << 20) -> tuple[bytes, SSL.Error]:
    """Let ``cipher`` come to ``other``."""
    incoming, plain = Buffer(size), Buffer(size + 2 * RECORD)
    got, reason = b"", SSL.Error()
    for start in range(0, len(cipher), size):
        piece = cipher[start : start + size]
        incoming.view[: len(piece)] = piece
        count, reason = other.decrypt(incoming, len(piece), plain)
        got += plain.view[:count]
    return got, reason


def test_everything_that_arrived_is_read_at_once(ends: Ends) -> None:
    dialer, acceptor = ends
    for size in (1, RECORD, 5):
        dialer.encrypt(bytes([size % 256]) * size)
    got, reason = carry(dialer, acceptor)
    assert got == b"\1" + bytes(RECORD) + b"\5" * 5
    assert isinstance(reason, WantRead)


@pytest.mark.parametrize("size", [1, 3, 1000, RECORD, 3 * RECORD + 7])
def test_records_may_come_in_pieces(ends: Ends, size: int) -> None:
    dialer, acceptor = ends
    payload = bytes(range(256)) * (RECORD // 64)
    dialer.encrypt(payload)
    got, reason = carry(dialer, acceptor, size)
    assert got == payload
    assert isinstance(reason, WantRead)


def test_what_is_to_be_sent_is_taken_in_pieces(ends: Ends) -> None:
    dialer, acceptor = ends
    payload = bytes(range(256)) * (RECORD // 64)
    buffer, cipher = Buffer(1000), b""
    assert dialer.take(buffer) == 0
    dialer.encrypt(payload[:RECORD])
    while count := dialer.take(buffer):
        cipher += buffer.view[:count]
        if len(cipher) == len(buffer.view):
            dialer.encrypt(payload[RECORD:])  # more comes before all is taken
    assert say(cipher, acceptor)[0] == payload


def test_bytes_are_fed_only_in_the_handshake(ends: Ends) -> None:
    dialer, acceptor = ends
    dialer.encrypt(b"x")
    carry(dialer, acceptor)
    with pytest.raises(TypeError):
        acceptor.feed(b"x")


def test_an_end_has_a_name(ends: Ends) -> None:
    dialer, acceptor = ends
    acceptor.say_goodbye()
    _, reason = carry(acceptor, dialer)
    assert isinstance(reason, SSL.ZeroReturnError)
    assert explain(reason) == CLOSED
    with pytest.raises(SSL.Error) as caught:
        acceptor.encrypt(b"x")
    assert explain(caught.value) == "protocol is shutdown"
    acceptor.say_goodbye()
    assert acceptor.flight() == b"", "it was said"


def test_garbage_is_no_end(ends: Ends) -> None:
    dialer, acceptor = ends
    _, reason = say(b"\x17\x03\x03\x00\x20" + bytes(32), dialer)
    assert "bad record mac" in explain(reason)
    _, answer = carry(dialer, acceptor)
    assert is_alert(explain(answer))


def test_what_a_connection_settled(ends: Ends) -> None:
    dialer, acceptor = ends
    for end in (dialer, acceptor):
        assert (end.version, end.protocol) == ("TLSv1.3", "mtunnel/1")
        assert end.cipher.startswith("TLS_")
        assert end.peer_certificate is not None


def test_faults_have_words() -> None:
    assert str(VerificationError(10)) == "certificate has expired"
    assert explain(SSL.Error([("SSL routines", "", "TLSV1 ALERT UNKNOWN CA")])) == "tlsv1 alert unknown ca"
    assert is_alert("tlsv1 alert unknown ca")
    assert not is_alert("wrong version number")
    assert explain(SSL.Error([("system library", "", "")])) == "system library"
    assert explain(SSL.Error()) == explain(SSL.Error([])) == "unknown reason"


def test_the_failure_of_one_connection_is_not_taken_for_anothers(ends: Ends) -> None:
    """OpenSSL keeps errors by thread, and OpenSSL 3 looks there first, whichever connection it is about."""
    dialer, _ = ends
    say(b"no TLS at all", dialer)
    assert not SSL._lib.ERR_peek_error()  # type: ignore[attr-defined]


def test_reasons_keep_no_buffers_alive(ends: Ends) -> None:
    """They come with every batch, and a buffer caught in a cycle of garbage has crashed the collector."""
    dialer, acceptor = ends
    dialer.encrypt(b"x")
    _, reason = carry(dialer, acceptor)
    assert reason.__traceback__ is None
    gc.collect()


def test_both_ends_know_the_same_secrets(ends: Ends) -> None:
    dialer, acceptor = ends
    for name in ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"):
        assert dialer.secrets[name] == acceptor.secrets[name] != b""
    assert dialer.secrets["CLIENT_TRAFFIC_SECRET_0"] != dialer.secrets["SERVER_TRAFFIC_SECRET_0"]


def test_a_call_decrypts_no_more_than_so_many_records_and_keeps_the_rest(ends: Ends) -> None:
    dialer, acceptor = ends
    for number in range(3 * MOST_READS):
        dialer.encrypt(number.to_bytes(2))
    cipher, incoming, plain = dialer.flight(), Buffer(1 << 20), Buffer(1 << 20)
    incoming.view[: len(cipher)] = cipher
    count, reason = acceptor.decrypt(incoming, len(cipher), plain)
    assert (count, acceptor.more) == (2 * MOST_READS, True)
    assert isinstance(reason, WantRead)
    incoming.view[: len(cipher)] = bytes(len(cipher))  # as the next lane of the loop does
    got = bytes(plain.view[:count])
    while acceptor.more:
        count, reason = acceptor.decrypt_more(plain)
        assert isinstance(reason, WantRead)
        assert count <= 2 * MOST_READS
        got += plain.view[:count]
    assert got == b"".join(number.to_bytes(2) for number in range(3 * MOST_READS))
    dialer.encrypt(b"behind them")
    assert carry(dialer, acceptor)[0] == b"behind them"


def test_exactly_as_many_records_as_a_call_takes_leave_nothing(ends: Ends) -> None:
    dialer, acceptor = ends
    for _ in range(MOST_READS):
        dialer.encrypt(b"x")
    got, _ = carry(dialer, acceptor)
    assert got == b"x" * MOST_READS
    assert not acceptor.more


def test_a_torn_record_behind_many_is_read_when_its_rest_comes(ends: Ends) -> None:
    dialer, acceptor = ends
    for _ in range(MOST_READS):
        dialer.encrypt(b"x")
    dialer.encrypt(b"torn")
    cipher, incoming, plain = dialer.flight(), Buffer(1 << 20), Buffer(1 << 20)
    incoming.view[: len(cipher)] = cipher
    count, _ = acceptor.decrypt(incoming, len(cipher) - 3, plain)
    assert (count, acceptor.more) == (MOST_READS, True)
    assert (acceptor.decrypt_more(plain)[0], acceptor.more) == (0, False)
    assert say(cipher[-3:], acceptor)[0] == b"torn"


@pytest.mark.parametrize("asking", [False, True], ids=["telling", "asking"])
def test_messages_of_tls_itself_are_counted(hosts: Hosts, asking: bool) -> None:
    dialer = TlsConnection(client_context(hosts.a.files, (SUITE,)), dialing=True)
    acceptor = TlsConnection(hosts.b.server, dialing=False)
    for end, other in ((dialer, acceptor), (acceptor, dialer)) * 2:
        with suppress(WantRead):
            end.handshake()
        if flight := end.flight():
            other.feed(flight)
    seal = Sealer(dialer)
    cipher = b"".join(seal.update(asking=asking) for _ in range(2 * MOST_READS)) + seal.data(b"x")
    incoming, plain = Buffer(1 << 20), Buffer(1 << 20)
    incoming.view[: len(cipher)] = cipher
    assert acceptor.decrypt(incoming, len(cipher), plain)[0] == 0
    assert (acceptor.more, acceptor.take_asides(), acceptor.take_asides()) == (True, MOST_READS, 0)
    while acceptor.more:
        count, _ = acceptor.decrypt_more(plain)
    assert bytes(plain.view[:count]) == b"x"
    assert acceptor.take_asides() >= MOST_READS


def test_the_tickets_of_a_handshake_are_messages_of_tls_itself(ends: Ends) -> None:
    dialer, acceptor = ends
    acceptor.encrypt(b"x")
    assert carry(acceptor, dialer)[0] == b"x"
    assert dialer.take_asides() == 2


def test_a_flight_is_all_that_is_to_be_said_in_whole_records(hosts: Hosts) -> None:
    dialer = TlsConnection(hosts.a.client, dialing=True)
    with suppress(WantRead):
        dialer.handshake()
    hello = dialer.flight()
    assert count_records(hello) == 1
    assert count_records(hello * 3) == 3
    assert dialer.flight() == b""
    assert count_records(b"") == 0


# Records, by which keys wear.


def test_records_are_counted_at_both_ends(ends: Ends) -> None:
    dialer, acceptor = ends
    for size in (1, RECORD, 5, 3 * RECORD + 1, 20):
        dialer.encrypt(bytes(size))
        carry(dialer, acceptor)
    assert dialer.records_sent == acceptor.records_received == 1 + 1 + 1 + 4 + 1
    assert acceptor.records_sent == 0, "the handshake's owner counts session tickets"


@pytest.mark.parametrize("size", [1, 700, RECORD, 3 * RECORD + 7])
def test_records_that_come_in_pieces_are_counted_once(ends: Ends, size: int) -> None:
    dialer, acceptor = ends
    dialer.encrypt(bytes(6 * RECORD))
    cipher = dialer.flight()
    most = 0
    for start in range(0, len(cipher), size):
        say(cipher[start : start + size], acceptor, size)
        most = max(most, acceptor.records_received)
    assert most == acceptor.records_received == 6


def test_tiny_records_that_are_kept_for_later_are_not_counted_yet(ends: Ends) -> None:
    dialer, acceptor = ends
    for _ in range(MOST_READS + 50):
        dialer.encrypt(b"x")
    incoming, plain, cipher = Buffer(1 << 20), Buffer(1 << 20), dialer.flight()
    incoming.view[: len(cipher)] = cipher
    acceptor.decrypt(incoming, len(cipher), plain)
    assert acceptor.more
    assert acceptor.records_received == MOST_READS
    acceptor.decrypt_more(plain)
    assert acceptor.records_received == MOST_READS + 50


def test_empty_records_and_padding_count_rather_too_much(ends: Ends) -> None:
    """No call tells of them; what they take on the wire does."""
    dialer, acceptor = ends
    seal, cipher = Sealer(dialer), b""
    for _ in range(300):
        say(b"".join(seal.data(b"") for _ in range(20)) + seal.data(b"x"), acceptor)
    assert 300 * 21 - 757 <= acceptor.records_received <= 300 * 21
    before = acceptor.records_received
    padded = b"x" + bytes([DATA]) + bytes(1000)  # and a last zero for its type (RFC 8446 section 5.4)
    for _ in range(100):
        cipher += seal.record(0, padded)
    got, reason = say(cipher, acceptor)
    assert got == b"x" * 100
    assert isinstance(reason, WantRead)
    assert acceptor.records_received >= before + 100


def test_keys_that_change_are_not_counted_anew(ends: Ends) -> None:
    """The count is of all keys of a direction, and so never too small for one."""
    dialer, acceptor = ends
    seal = Sealer(dialer)
    say(seal.data(b"x") + seal.update(asking=False) + seal.data(b"x"), acceptor)
    assert acceptor.records_received == 3
