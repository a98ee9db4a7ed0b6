"""The meaning of alerts and handshake messages for a lane."""

from __future__ import annotations

import pytest

from tunnel.records.tls_messages import (
    ALERT,
    CLOSE_NOTIFY,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    count_records,
    explain_record,
)

UPDATE = bytes([KEY_UPDATE, 0, 0, 1, 0])
TICKET = bytes([NEW_SESSION_TICKET]) + (5).to_bytes(3) + b"12345"


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        (ALERT, CLOSE_NOTIFY, "closed without GOAWAY"),
        (ALERT, b"\x02\x30", "the peer refused the connection: TLS alert 48 (unknown_ca); see its log"),
        (ALERT, b"\x02\x31", "the peer does not list this host in its configuration"),
        (ALERT, b"\x02\x78",
         "the peer refused the connection: TLS alert 120 (no_application_protocol); see its log"),
        (ALERT, b"\x02\xfe", "the peer refused the connection: TLS alert 254; see its log"),
        (ALERT, b"", "the peer violated the TLS protocol: alert of 0 bytes"),
        (HANDSHAKE, TICKET, ""),
        (HANDSHAKE, TICKET + TICKET, ""),
        (HANDSHAKE, UPDATE, "the peer sent KeyUpdate, which a kernel lane does not support"),
        (HANDSHAKE, TICKET + UPDATE, "the peer sent KeyUpdate"),
        (HANDSHAKE, b"\x01\0\0\0", "the peer started another TLS handshake"),
        (HANDSHAKE, TICKET[:-1], "the peer started another TLS handshake"),
        (25, b"?", "the peer violated the TLS protocol: record of type 25"),
    ],
)  # fmt: skip
def test_explain_record(kind: int, content: bytes, reason: str) -> None:
    assert explain_record(kind, content).startswith(reason)
    assert bool(explain_record(kind, content)) is bool(reason)


def test_a_data_record_is_allowed() -> None:
    assert explain_record(DATA, b"data") == ""


def test_the_records_of_a_flight_are_counted() -> None:
    assert count_records(b"") == 0
    assert count_records(b"\x16\x03\x03\0\2ab" + b"\x17\x03\x03\0\0" * 2) == 3
