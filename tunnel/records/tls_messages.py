"""What TLS says beside data, once its handshake is over: alerts and handshake messages (RFC 8446)."""

from __future__ import annotations

ALERT, HANDSHAKE, DATA = 21, 22, 23
"""Content types of records (section 5.1)."""

RECORD = 16 * 1024
"""The most content of a record, in bytes (section 5.1)."""

HEADER = 5
"""Bytes in front of a record: its type, a version, its length."""

TAG = 16
"""Bytes that every suite adds to what it encrypts."""

OVERHEAD = HEADER + 1 + TAG
"""Bytes of a record beside its content; the one is its true type, behind the content (section 5.2)."""

NEW_SESSION_TICKET, KEY_UPDATE = 4, 24
"""Handshake messages that may follow the handshake (section 4)."""

CLOSE_NOTIFY = b"\x01\x00"

FATAL = 2
UNEXPECTED_MESSAGE, BAD_RECORD_MAC, RECORD_OVERFLOW, ILLEGAL_PARAMETER, DECODE_ERROR = 10, 20, 22, 47, 50
"""Alerts for what a peer sent that TLS does not allow (section 6.2)."""

BAD_CERTIFICATE, ACCESS_DENIED, NO_APPLICATION_PROTOCOL = 42, 49, 120
"""Alerts by which one side refuses the other (section 6.2)."""

SPOILT = "TLS failed: a record is not what the peer sent"
"""What bad_record_mac means to who found it."""

CLOSED = "it was closed without GOAWAY"
"""What the end of a connection means, said by close_notify or not."""

NOT_LISTED = (
    "the peer does not list this host in its configuration, or lists it twice (TLS alert access_denied): "
    "there has to be one [[peer]] there whose name is in this host's certificate"
)
"""What access_denied means to the dialing side: only the accepting one sends it."""

_ALERTS = {  # those that a peer has reason to send once it knows our certificate (section 6)
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    80: "internal_error",
    116: "certificate_required",
    120: "no_application_protocol",
}


def count_records(flight: bytes) -> int:
    """How many TLS records a whole flight is."""
    count = position = 0
    while position < len(flight):
        position += HEADER + int.from_bytes(flight[position + 3 : position + HEADER])
        count += 1
    return count


def explain_record(kind: int, content: bytes) -> str:
    """Why a kernel lane is of no more use after a record; "" if it is."""
    if kind == ALERT:
        return explain_alert(content)
    if kind == HANDSHAKE:
        return _explain_handshake(content)
    return "" if kind == DATA else f"the peer broke TLS: a record of type {kind}"


def explain_alert(content: bytes) -> str:
    """Why a connection is of no more use after an alert: after each, as section 6 has it."""
    if content == CLOSE_NOTIFY:
        return CLOSED
    if len(content) != 2:
        return f"the peer broke TLS: an alert of {len(content)} bytes"
    number = content[1]
    if number == ACCESS_DENIED:
        return NOT_LISTED
    name = f" ({_ALERTS[number]})" if number in _ALERTS else ""
    return f"the peer refused it: TLS alert {number}{name}; its log says more"


def _explain_handshake(content: bytes) -> str:
    """OpenSSL sends session tickets behind its handshake; nobody uses them. Nothing else may follow."""
    while len(content) >= 4 and content[0] == NEW_SESSION_TICKET:
        end = 4 + int.from_bytes(content[1:4])
        if end > len(content):
            break
        content = content[end:]
    if not content:
        return ""
    if content[0] == KEY_UPDATE:
        return "the peer changed its keys, which a kernel lane cannot follow"
    return "the peer began another handshake"
