"""TLS alerts and handshake messages after the handshake, and error texts for them (RFC 8446)."""

from __future__ import annotations

ALERT, HANDSHAKE, DATA = 21, 22, 23
"""Content types of records (section 5.1)."""

RECORD = 16 * 1024
"""Maximum content of a record, in bytes (section 5.1)."""

HEADER = 5
"""Bytes of a record header: type, version, length."""

TAG = 16
"""Bytes of the authentication tag, the same for every suite."""

OVERHEAD = HEADER + 1 + TAG
"""Bytes of a record besides its content: header, content type, tag (section 5.2)."""

NEW_SESSION_TICKET, KEY_UPDATE = 4, 24
"""Post-handshake messages (section 4.6)."""

CLOSE_NOTIFY = b"\x01\x00"

FATAL = 2
UNEXPECTED_MESSAGE, BAD_RECORD_MAC, RECORD_OVERFLOW, ILLEGAL_PARAMETER, DECODE_ERROR = 10, 20, 22, 47, 50
"""Alerts for protocol violations of the peer (section 6.2)."""

BAD_CERTIFICATE, ACCESS_DENIED, NO_APPLICATION_PROTOCOL = 42, 49, 120
"""Alerts with which one side refuses the other (section 6.2)."""

SPOILT = "TLS failed: a record failed authentication (bad_record_mac)"
"""Reason when a received record cannot be decrypted."""

CLOSED = "closed without GOAWAY"
"""Reason when a connection ended, with or without close_notify."""

NOT_LISTED = (
    "the peer does not list this host in its configuration, or lists it twice (TLS alert access_denied): "
    "it needs exactly one [[peer]] whose name is in this host's certificate"
)
"""Reason for access_denied on the dialing side: only the accepting side sends it."""

_ALERTS = {  # that a peer may send after it received our certificate (section 6)
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
    """Return the number of TLS records in a complete flight."""
    count = position = 0
    while position < len(flight):
        position += HEADER + int.from_bytes(flight[position + 3 : position + HEADER])
        count += 1
    return count


def explain_record(kind: int, content: bytes) -> str:
    """Return why a record makes a kernel lane unusable; "" if it does not."""
    if kind == ALERT:
        return explain_alert(content)
    if kind == HANDSHAKE:
        return _explain_handshake(content)
    return "" if kind == DATA else f"the peer violated the TLS protocol: record of type {kind}"


def explain_alert(content: bytes) -> str:
    """Return why an alert ends the connection: every alert does (section 6)."""
    if content == CLOSE_NOTIFY:
        return CLOSED
    if len(content) != 2:
        return f"the peer violated the TLS protocol: alert of {len(content)} bytes"
    number = content[1]
    if number == ACCESS_DENIED:
        return NOT_LISTED
    name = f" ({_ALERTS[number]})" if number in _ALERTS else ""
    return f"the peer refused the connection: TLS alert {number}{name}; see its log"


def _explain_handshake(content: bytes) -> str:
    """Ignore session tickets, which OpenSSL sends after the handshake. Nothing else is allowed."""
    while len(content) >= 4 and content[0] == NEW_SESSION_TICKET:
        end = 4 + int.from_bytes(content[1:4])
        if end > len(content):
            break
        content = content[end:]
    if not content:
        return ""
    if content[0] == KEY_UPDATE:
        return "the peer sent KeyUpdate, which a kernel lane does not support"
    return "the peer started another TLS handshake"
