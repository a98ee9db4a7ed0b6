"""Non-data records: allowed ones are processed and answered; any other ends the connection with its alert."""

from __future__ import annotations

import pytest

from tests.support.compiled_engine import compiled_engine
from tests.support.rfc8448 import CLIENT, SERVER, SUITE
from tunnel.engine.binding import Provider
from tunnel.errors import LaneError
from tunnel.records.key_schedule import SUITES, Direction, Keys
from tunnel.records.record_io import SPARE, seal, unseal
from tunnel.records.record_layer import MOST_MESSAGE, RecordLayer, TlsEnd
from tunnel.records.record_opener import NonDataRecord, RecordOpener
from tunnel.records.record_sealer import RecordSealer
from tunnel.records.tls_messages import (
    ACCESS_DENIED,
    ALERT,
    BAD_RECORD_MAC,
    CLOSE_NOTIFY,
    CLOSED,
    DATA,
    DECODE_ERROR,
    FATAL,
    HANDSHAKE,
    ILLEGAL_PARAMETER,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    NOT_LISTED,
    OVERHEAD,
    RECORD,
    UNEXPECTED_MESSAGE,
)

OURS, THEIRS = Direction(CLIENT, 0), Direction(SERVER, 0)
TICKET = bytes([NEW_SESSION_TICKET]) + (300).to_bytes(3) + bytes(300)
UPDATE = bytes([KEY_UPDATE, 0, 0, 1, 0])
PART = (HANDSHAKE, TICKET[:9])


class Far:
    """A record layer, and a peer that sends arbitrary records."""

    def __init__(self, provider: Provider | None = None) -> None:
        self.layer = RecordLayer(Keys(SUITE, OURS, THEIRS), provider)
        self.said = RecordSealer(SUITE, THEIRS)
        self.heard = RecordOpener(SUITE, OURS)

    def hear(self, *records: bytes) -> tuple[bytes, TlsEnd | None]:
        """Let the layer open ``records``, as a lane does; return data and the end."""
        cipher = memoryview(b"".join(records))
        plain, got, over = memoryview(bytearray(len(cipher))), b"", None
        while cipher and over is None:
            taken, filled, over = unseal(self.layer, cipher, plain)
            assert taken or over, "every call makes progress"
            cipher, got = cipher[taken:], got + plain[:filled]
        return got, over

    def tell(self, *pieces: bytes) -> list[bytes | NonDataRecord]:
        """Seal ``pieces``; return what the peer receives: data and non-data records, in order."""
        out = memoryview(bytearray(1 << 17))
        return self.take(bytes(out[: seal(self.layer, pieces, out)]))

    def take(self, cipher: bytes) -> list[bytes | NonDataRecord]:
        """Let the peer open ``cipher``, applying KeyUpdates."""
        heard: list[bytes | NonDataRecord] = []
        while cipher:
            plain = bytearray(len(cipher))
            taken, filled, found = self.heard.open(memoryview(cipher), len(cipher), memoryview(plain))
            assert taken, found
            cipher = cipher[taken:]
            heard += [bytes(plain[:filled])] if filled else []
            if isinstance(found, NonDataRecord):
                heard.append(found)
                if found.kind == HANDSHAKE:
                    self.heard.update()
        return heard


@pytest.fixture(params=["python", "compiled"])
def far(request: pytest.FixtureRequest) -> Far:
    """With each engine."""
    return Far(compiled_engine() if request.param == "compiled" else None)


def test_data_goes_both_ways(far: Far) -> None:
    assert far.tell(b"there", bytes(40_000)) == [b"there" + bytes(40_000)]
    assert far.hear(far.said.record(DATA, b"and "), far.said.record(DATA, b"back")) == (b"and back", None)
    assert far.layer.records_sent in {3, 4}, "pieces may share a record"
    assert far.layer.records_received == 2
    assert far.layer.cipher == SUITE


@pytest.mark.parametrize("cipher", SUITES)
def test_two_layers_interoperate(cipher: str) -> None:
    one, other = (Direction(bytes([number]) * SUITES[cipher].hash.digest_size, number) for number in (1, 2))
    dialer, acceptor = (
        RecordLayer(Keys(cipher, one, other)),
        RecordLayer(Keys(cipher, other, one)),
    )
    for sender, receiver in ((dialer, acceptor), (acceptor, dialer)):
        memory = memoryview(bytearray(range(256)) * 300)
        out, plain = memoryview(bytearray(100_000)), memoryview(bytearray(100_000))
        size = seal(sender, [b"head", memory], out)
        assert unseal(receiver, out[:size], plain) == (size, 4 + len(memory), None)
        assert plain[: 4 + len(memory)] == b"head" + bytes(memory)
        assert sender.records_sent == receiver.records_received


# Tickets.


def test_tickets_are_ignored(far: Far) -> None:
    record = far.said.record(HANDSHAKE, TICKET)
    got = far.hear(record, far.said.record(HANDSHAKE, TICKET * 3), far.said.record(DATA, b"x"))
    assert got == (b"x", None)
    assert (far.layer.take_asides(), far.layer.take_asides()) == (4, 0)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 303, 305])
def test_tickets_may_be_split_over_records(far: Far, size: int) -> None:
    whole = TICKET * 2
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    got = far.hear(*(far.said.record(HANDSHAKE, piece) for piece in pieces), far.said.record(DATA, b"x"))
    assert got == (b"x", None)
    assert far.layer.take_asides() == max(len(pieces), 2), "each record counts, and each message"


def test_the_size_of_a_message_is_bounded(far: Far) -> None:
    header = bytes([NEW_SESSION_TICKET]) + MOST_MESSAGE.to_bytes(3)
    assert far.hear(far.said.record(HANDSHAKE, header + bytes(RECORD - 4))) == (b"", None)
    assert (
        far.hear(far.said.record(HANDSHAKE, bytes(RECORD)), far.said.record(HANDSHAKE, bytes(4)))[1] is None
    )
    assert far.hear(far.said.record(DATA, b"x")) == (b"x", None)
    header = bytes([NEW_SESSION_TICKET]) + (MOST_MESSAGE + 1).to_bytes(3)
    over = far.hear(far.said.record(HANDSHAKE, header))[1]
    assert over == TlsEnd(
        f"the peer violated the TLS protocol: handshake message 4 of {MOST_MESSAGE + 1} bytes", DECODE_ERROR
    )


# KeyUpdate.


def test_a_key_update_is_applied(far: Far) -> None:
    before = far.said.record(DATA, b"old, ")
    assert far.hear(before, far.said.update(), far.said.record(DATA, b"new")) == (b"old, new", None)
    assert far.layer.records_received == 1, "with the current key"
    assert not far.layer.owes_update
    assert far.tell(b"x") == [b"x"]
    assert far.layer.take_asides() == 1


def test_a_requested_key_update_is_sent_once_before_the_next_data(far: Far) -> None:
    assert far.tell(b"old") == [b"old"]
    far.hear(far.said.update(asking=True), far.said.update(asking=True))
    assert far.layer.owes_update
    assert far.tell(b"new") == [NonDataRecord(HANDSHAKE, UPDATE), b"new"]
    assert far.layer.records_sent == 1
    assert far.tell(b"and on") == [b"and on"]
    far.hear(far.said.update(asking=True))
    assert far.tell() == [NonDataRecord(HANDSHAKE, UPDATE)], "also if there is nothing else to send"


def test_the_extra_output_of_seal_is_bounded(far: Far) -> None:
    far.hear(far.said.update(asking=True))
    out = memoryview(bytearray(SPARE + OVERHEAD + 1))
    assert seal(far.layer, [b"x"], out) == len(out)


def test_keys_may_change_any_number_of_times(far: Far) -> None:
    for number in range(100):
        word = str(number).encode()
        assert far.hear(far.said.update(asking=True), far.said.record(DATA, word)) == (word, None)
        assert far.tell(word)[1:] == [word]


# Ends.


def test_our_end_is_sent_once_and_nothing_after_it(far: Far) -> None:
    assert far.take(far.layer.end()) == [NonDataRecord(ALERT, CLOSE_NOTIFY)]
    assert far.layer.end() == far.layer.end(BAD_RECORD_MAC) == b""
    with pytest.raises(LaneError, match="after the end"):
        far.tell(b"x")
    assert far.hear(far.said.record(DATA, b"x")) == (b"x", None), "the peer may continue"


def test_after_our_end_no_key_update_is_pending(far: Far) -> None:
    far.hear(far.said.update(asking=True))
    assert far.take(far.layer.end()) == [NonDataRecord(ALERT, CLOSE_NOTIFY)]
    assert not far.layer.owes_update
    far.hear(far.said.update(asking=True))
    assert not far.layer.owes_update


def test_an_end_may_be_an_alert(far: Far) -> None:
    assert far.take(far.layer.end(BAD_RECORD_MAC)) == [NonDataRecord(ALERT, bytes([FATAL, BAD_RECORD_MAC]))]


def test_at_the_key_limit_no_alert_is_made() -> None:
    layer = RecordLayer(Keys(SUITE, Direction(CLIENT, SUITES[SUITE].most_records), THEIRS))
    assert layer.end() == b""


@pytest.mark.parametrize(
    ("content", "reason", "answer"),
    [
        (CLOSE_NOTIFY, CLOSED, None),
        (bytes([FATAL, ACCESS_DENIED]), NOT_LISTED, None),
        (bytes([1, 90]), "the peer refused the connection: TLS alert 90; see its log", None),
        (b"\2", "the peer violated the TLS protocol: alert of 1 bytes", DECODE_ERROR),
        (CLOSE_NOTIFY * 2, "the peer violated the TLS protocol: alert of 4 bytes", DECODE_ERROR),
        (b"", "the peer violated the TLS protocol: unexpected record of type 21", UNEXPECTED_MESSAGE),
    ],
)
def test_an_alert_is_the_end(far: Far, content: bytes, reason: str, answer: int | None) -> None:
    got, over = far.hear(far.said.record(DATA, b"x"), far.said.record(ALERT, content))
    assert (got, over) == (b"x", TlsEnd(reason, answer))


BREACHES: dict[str, tuple[list[tuple[int, bytes]], int]] = {
    "a ClientHello": ([(HANDSHAKE, b"\1\0\0\2ab")], UNEXPECTED_MESSAGE),
    "the type of one": ([(HANDSHAKE, b"\1")], UNEXPECTED_MESSAGE),
    "a CertificateRequest": ([(HANDSHAKE, b"\x0d\0\0\0")], UNEXPECTED_MESSAGE),
    "another message after a ticket": ([(HANDSHAKE, TICKET + b"\x14")], UNEXPECTED_MESSAGE),
    "KeyUpdate, and more": ([(HANDSHAKE, UPDATE + TICKET)], UNEXPECTED_MESSAGE),
    "KeyUpdate, and the start of more": ([(HANDSHAKE, UPDATE + b"\4")], UNEXPECTED_MESSAGE),
    "KeyUpdate of no byte": ([(HANDSHAKE, UPDATE[:3] + b"\0")], DECODE_ERROR),
    "KeyUpdate of two bytes": ([(HANDSHAKE, UPDATE[:3] + b"\2\0\0")], DECODE_ERROR),
    "KeyUpdate that asks for 2": ([(HANDSHAKE, UPDATE[:4] + b"\2")], ILLEGAL_PARAMETER),
    "an empty message": ([(HANDSHAKE, b"")], UNEXPECTED_MESSAGE),
    "data in a ticket": ([PART, (DATA, b"lost")], UNEXPECTED_MESSAGE),
    "empty data in a ticket": ([PART, (DATA, b""), (HANDSHAKE, TICKET[9:])], UNEXPECTED_MESSAGE),
    "an alert in a ticket": ([PART, (ALERT, CLOSE_NOTIFY)], UNEXPECTED_MESSAGE),
    "change_cipher_spec": ([(20, b"\1")], UNEXPECTED_MESSAGE),
    "a heartbeat": ([(24, b"\1\0\0")], UNEXPECTED_MESSAGE),
    "an undefined type": ([(255, b"?")], UNEXPECTED_MESSAGE),
}  # fmt: skip


@pytest.mark.parametrize(("records", "alert"), BREACHES.values(), ids=BREACHES)
def test_a_violation_ends_the_connection_with_its_alert(
    far: Far, records: list[tuple[int, bytes]], alert: int
) -> None:
    good = far.said.record(DATA, b"good")
    bad = [far.said.record(kind, content) for kind, content in records]
    got, over = far.hear(good, *bad)
    assert got == b"good"
    assert over is not None
    assert over.alert == alert
    assert over.reason.startswith(
        ("the peer violated the TLS protocol: ", "the peer started another TLS handshake")
    )
    assert far.hear(far.said.record(DATA, b"after")) == (b"", over), "nothing after it is opened"


def test_a_record_under_another_key_is_a_violation(far: Far) -> None:
    foreign = RecordSealer(SUITE, OURS).record(DATA, b"x")
    got, over = far.hear(foreign)
    assert (got, over) == (
        b"",
        TlsEnd("TLS failed: a record failed authentication (bad_record_mac)", BAD_RECORD_MAC),
    )
