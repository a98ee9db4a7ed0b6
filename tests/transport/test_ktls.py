"""Keys for a kernel: against the examples of RFC 8448, and records that are none of data.

What a kernel does with them is shown where there is one with TLS: ``test_emulated_kernel``.
"""

from __future__ import annotations

import errno
import os
import socket

import pytest
from cryptography.hazmat.primitives import hashes

from tests.support.network import tcp_pair
from tunnel.errors import LaneError
from tunnel.transport import ktls
from tunnel.transport.ktls import (
    ALERT,
    CLOSE_NOTIFY,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    Direction,
    Keys,
    crypto_info,
    expand_label,
    explain,
    keys_of,
)

# RFC 8448 section 3: TLS_AES_128_GCM_SHA256.
CLIENT = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
SERVER = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
TRACES = {
    "client": (CLIENT, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"),
    "server": (SERVER, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"),
}
SECRETS = {"CLIENT_TRAFFIC_SECRET_0": CLIENT, "SERVER_TRAFFIC_SECRET_0": SERVER, "EXPORTER_SECRET": b"?"}
UPDATE = bytes([KEY_UPDATE, 0, 0, 1, 0])
TICKET = bytes([NEW_SESSION_TICKET]) + (5).to_bytes(3) + b"12345"


@pytest.mark.parametrize(("secret", "key", "iv"), TRACES.values(), ids=TRACES)
def test_the_key_schedule_is_that_of_the_rfc(secret: bytes, key: str, iv: str) -> None:
    assert expand_label(secret, "key", 16, hashes.SHA256()).hex() == key
    assert expand_label(secret, "iv", 12, hashes.SHA256()).hex() == iv


def test_a_struct_has_the_iv_in_two_parts_and_the_number_of_the_next_record() -> None:
    raw = crypto_info("TLS_AES_128_GCM_SHA256", Direction(SERVER, 2))
    assert raw == b"".join(
        [
            b"\x04\x03\x33\x00",  # TLS 1.3, TLS_CIPHER_AES_GCM_128, in the order of this machine
            bytes.fromhex("dd83549aadf1e984"),  # iv
            bytes.fromhex("9f02283b6c9c07efc26bb9f2ac92e356"),  # key
            bytes.fromhex("cf782b88"),  # salt
            bytes([0, 0, 0, 0, 0, 0, 0, 2]),
        ]
    )


@pytest.mark.parametrize(
    ("cipher", "number", "size"),
    [
        ("TLS_AES_256_GCM_SHA384", 52, 4 + 8 + 32 + 4 + 8),
        ("TLS_AES_128_GCM_SHA256", 51, 4 + 8 + 16 + 4 + 8),
        ("TLS_CHACHA20_POLY1305_SHA256", 54, 4 + 12 + 32 + 8),
    ],
)
def test_structs_have_the_sizes_of_the_kernels_header(cipher: str, number: int, size: int) -> None:
    raw = crypto_info(cipher, Direction(bytes(48), 0))
    assert len(raw) == size
    assert raw[2] == number
    assert cipher in ktls.SUITES


@pytest.mark.parametrize("dialing", [True, False])
def test_each_side_sends_under_its_own_secret(dialing: bool) -> None:
    keys = keys_of("TLS_AES_128_GCM_SHA256", SECRETS, dialing=dialing, sent=2, received=1)
    assert keys.send == Direction(CLIENT if dialing else SERVER, 2)
    assert keys.receive == Direction(SERVER if dialing else CLIENT, 1)


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        (ALERT, CLOSE_NOTIFY, "it was closed without GOAWAY"),
        (ALERT, b"\x02\x30", "the peer refused it: TLS alert 48 (unknown_ca); its log says more"),
        (ALERT, b"\x02\x31", "the peer does not list this host in its configuration"),
        (ALERT, b"\x02\x78", "the peer refused it: TLS alert 120 (no_application_protocol); its log"),
        (ALERT, b"\x02\xfe", "the peer refused it: TLS alert 254; its log says more"),
        (ALERT, b"", "the peer broke TLS: an alert of 0 bytes"),
        (HANDSHAKE, TICKET, ""),
        (HANDSHAKE, TICKET + TICKET, ""),
        (HANDSHAKE, UPDATE, "the peer changed its keys, which a kernel lane cannot follow"),
        (HANDSHAKE, TICKET + UPDATE, "the peer changed its keys"),
        (HANDSHAKE, b"\x01\0\0\0", "the peer began another handshake"),
        (HANDSHAKE, TICKET[:-1], "the peer began another handshake"),
        (25, b"?", "the peer broke TLS: a record of type 25"),
    ],
)  # fmt: skip
def test_what_a_record_that_is_not_data_means(kind: int, content: bytes, reason: str) -> None:
    assert explain(kind, content).startswith(reason)
    assert bool(explain(kind, content)) is bool(reason)


def test_a_part_of_a_data_record_ends_nothing() -> None:
    assert explain(DATA, b"data") == ""


def test_a_socket_without_kernel_tls_gives_bytes_as_data() -> None:
    one, other = tcp_pair()
    with one, other:
        one.send(b"plain")
        other.setblocking(True)
        other.settimeout(60)
        assert ktls.receive_record(other) == (DATA, b"plain")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "module tls not loaded"),
        (errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT)),
    ],
)
def test_a_kernel_without_tls_says_so(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise OSError(number, os.strerror(number))

    keys = keys_of("TLS_AES_128_GCM_SHA256", SECRETS, dialing=True, sent=0, received=0)
    with Refusing() as sock, pytest.raises(LaneError) as caught:
        ktls.enable(sock, keys)
    assert words in str(caught.value)
    assert isinstance(caught.value, ktls.NoModuleError) is (number == errno.ENOENT)


def test_a_cipher_that_the_kernel_does_not_know_is_named() -> None:
    options: list[tuple[int, int]] = []

    class Choosy(socket.socket):
        def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
            options.append((level, option))
            if level == 282:
                raise OSError(errno.EINVAL, "Invalid argument")

    direction = Direction(CLIENT, 0)
    with Choosy() as sock, pytest.raises(LaneError, match="CHACHA20_POLY1305_SHA256: Invalid argument"):
        ktls.enable(sock, Keys("TLS_CHACHA20_POLY1305_SHA256", direction, direction))
    assert options == [(socket.IPPROTO_TCP, 31), (282, 1)]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_record_that_is_not_data_fails_reading(number: int) -> None:
    assert ktls.is_control(OSError(number, ""))
    assert not ktls.is_control(OSError(errno.ECONNRESET, ""))


def test_a_spoilt_record_is_the_fault_of_tls_and_the_rest_of_the_systems() -> None:
    assert ktls.describe(OSError(errno.EBADMSG, "")) == "TLS failed: a record is not what the peer sent"
    assert ktls.describe(OSError(errno.ECONNRESET, "")) == "Connection reset by peer"
