"""Keys for kernel TLS, against the examples of RFC 8448, and non-data records.

``test_emulated_kernel`` tests them with a kernel that has TLS.
"""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.support.network import tcp_pair
from tests.support.rfc8448 import CLIENT, SECRETS, SERVER, SUITE
from tunnel.errors import LaneError
from tunnel.lanes import kernel_tls
from tunnel.lanes.kernel_tls import crypto_info
from tunnel.records.key_schedule import SUITES, Direction, Keys, keys_of
from tunnel.records.tls_messages import (
    DATA,
)


def test_a_struct_has_the_iv_in_two_parts_and_the_number_of_the_next_record() -> None:
    raw = crypto_info(SUITE, Direction(SERVER, 2))
    assert raw == b"".join(
        [
            b"\x04\x03\x33\x00",  # TLS 1.3, TLS_CIPHER_AES_GCM_128, in native byte order
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
    assert cipher in SUITES


def test_a_socket_without_kernel_tls_gives_bytes_as_data() -> None:
    one, other = tcp_pair()
    with one, other:
        one.send(b"plain")
        other.setblocking(True)
        other.settimeout(60)
        assert kernel_tls.receive_record(other) == (DATA, b"plain")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "module tls not loaded"),
        (errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT)),
    ],
)
def test_a_kernel_without_tls_is_reported(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise OSError(number, os.strerror(number))

    keys = keys_of(SUITE, SECRETS, dialing=True, sent=0, received=0)
    with Refusing() as sock, pytest.raises(LaneError) as caught:
        kernel_tls.enable(sock, keys)
    assert words in str(caught.value)
    assert isinstance(caught.value, kernel_tls.NoModuleError) is (number == errno.ENOENT)


def test_a_cipher_that_the_kernel_does_not_support_is_named() -> None:
    options: list[tuple[int, int]] = []

    class Choosy(socket.socket):
        def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
            options.append((level, option))
            if level == 282:
                raise OSError(errno.EINVAL, "Invalid argument")

    direction = Direction(CLIENT, 0)
    with Choosy() as sock, pytest.raises(LaneError, match="CHACHA20_POLY1305_SHA256: Invalid argument"):
        kernel_tls.enable(sock, Keys("TLS_CHACHA20_POLY1305_SHA256", direction, direction))
    assert options == [(socket.IPPROTO_TCP, 31), (282, 1)]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_record_that_is_not_data_fails_reading(number: int) -> None:
    assert kernel_tls.is_control(OSError(number, ""))
    assert not kernel_tls.is_control(OSError(errno.ECONNRESET, ""))


def test_ebadmsg_is_a_failure_of_tls_and_other_errors_of_the_system() -> None:
    assert (
        kernel_tls.describe(OSError(errno.EBADMSG, ""))
        == "TLS failed: a record failed authentication (bad_record_mac)"
    )
    assert kernel_tls.describe(OSError(errno.ECONNRESET, "")) == "Connection reset by peer"
