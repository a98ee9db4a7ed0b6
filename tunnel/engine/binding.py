"""The functions of the compiled library, declared to Python as in ``engine.h``; the C files document them.

By cffi in ABI mode: one library for all Pythons, built without their headers. Each call releases the GIL and
costs 0.3 microseconds.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cffi

ffi: Any = cffi.FFI()
ffi.cdef(
    """
    struct piece { const uint8_t *data; size_t size; };
    struct opened {
        size_t consumed; size_t filled; size_t content; size_t records; size_t received; int type; int error;
    };
    struct sent { size_t taken; size_t gone; size_t sent; size_t unsent; int error; };
    struct room { uint8_t *data; size_t size; };
    struct carried { struct sent sent; size_t read; int error; };
    struct sink {
        uint32_t stream; int target; uint64_t offset; uint64_t limit; size_t left;
        size_t passed; int full; int error;
    };
    struct passed { struct opened opened; size_t start; size_t frames; size_t current; };
    struct provider;
    struct direction;
    struct buffer;

    struct provider *mt_provider(const char *libcrypto, char *why, size_t room);
    unsigned long mt_libcrypto_version(const struct provider *provider);
    const char *mt_use_ipsec_mb(struct provider *provider, const char *ipsec_mb, char *why, size_t room);

    struct direction *mt_direction_new(const struct provider *provider, int suite, int sealing,
        const uint8_t *key, const uint8_t *iv, uint64_t number, uint64_t limit);
    void mt_direction_free(struct direction *direction);
    uint64_t mt_direction_number(const struct direction *direction);
    int64_t mt_seal(struct direction *direction, int type, const struct piece *pieces, size_t count,
        uint8_t *out, size_t room);
    int mt_open(struct direction *direction, const uint8_t *in, size_t size, uint8_t *out, size_t room,
        struct opened *opened);

    struct buffer *mt_buffer_new(void);
    void mt_buffer_free(struct buffer *buffer);
    size_t mt_buffer_waiting(const struct buffer *buffer);
    int mt_buffer_put(struct buffer *buffer, const uint8_t *data, size_t size);
    int mt_send(struct direction *direction, struct buffer *buffer, int fd, int type,
        const struct piece *pieces, size_t count, int more, struct sent *sent);
    int mt_receive(struct direction *direction, struct buffer *buffer, int fd, uint8_t *out, size_t room,
        struct opened *opened);

    int mt_carry(struct direction *direction, struct buffer *buffer, int fd, int source,
        uint32_t stream, uint64_t offset, const struct room *rooms, size_t count, struct carried *carried);
    int mt_pass(struct direction *direction, struct buffer *buffer, int fd, uint8_t *out, size_t room,
        size_t most, struct sink *sinks, size_t count, struct passed *passed);
    """
)

BYTES = ffi.typeof("uint8_t[]")
PIECES = ffi.typeof("struct piece[]")
OPENED = ffi.typeof("struct opened *")
SENT = ffi.typeof("struct sent *")
ROOMS = ffi.typeof("struct room[]")
CARRIED = ffi.typeof("struct carried *")
SINKS = ffi.typeof("struct sink[]")
PASSED = ffi.typeof("struct passed *")

SUITES = ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")
"""Cipher suites in the order of ``enum suite``."""

FUNCTIONS = (
    *("mt_provider", "mt_direction_new", "mt_seal", "mt_open"),
    *("mt_send", "mt_receive", "mt_carry", "mt_pass"),
)
"""Functions by which a library of ours is recognized."""

_WHY = 512

_ELF_64 = b"\x7fELF\x02"
_ELF_HEADER = struct.Struct("@40xQ10xHH2x")  # e_shoff, e_shentsize, e_shnum


class LibraryError(Exception):
    """A library cannot be used; the text is the reason."""


def load(path: Path) -> Any:
    """Open the compiled library. Raises LibraryError if it is not ours, of another machine, or truncated."""
    try:
        if not _is_whole(path.read_bytes()):
            raise LibraryError(f"{path.name} is truncated: reinstall mtunnel")
        library = ffi.dlopen(str(path))
        for name in FUNCTIONS:
            getattr(library, name)
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path.name}: {error}") from error
    return library


def _is_whole(data: bytes) -> bool:
    """Return whether a library is complete, unlike one written to a full disk: dlopen(3) would get SIGBUS.

    An ELF file ends with its section table, the offset of which is in the header (elf(5), 64 bits).
    """
    if data[: len(_ELF_64)] != _ELF_64 or len(data) < _ELF_HEADER.size:
        return len(data) > 0  # dlopen reports the error
    start, size, count = _ELF_HEADER.unpack_from(data)
    return bool(start + size * count <= len(data))


class Provider:
    """The crypto libraries: libcrypto, and after ``use_ipsec_mb`` libipsec-mb for AES-GCM."""

    def __init__(self, library: Any, libcrypto: str) -> None:
        """Open ``libcrypto``, a name or path for dlopen(3). Raises LibraryError on failure."""
        why = ffi.new("char[]", _WHY)
        self.library = library
        self.handle = library.mt_provider(libcrypto.encode(), why, _WHY)
        if self.handle == ffi.NULL:
            raise LibraryError(_text(why))
        number = library.mt_libcrypto_version(self.handle)
        self.version = (number >> 28, number >> 20 & 0xFF, number >> 4 & 0xFFFF)
        """libcrypto's version: major, minor, patch (OPENSSL_VERSION_NUMBER(3))."""
        self.ipsec_mb = ""
        """libipsec-mb's version, if it does AES-GCM."""

    def use_ipsec_mb(self, name: str) -> None:
        """Use libipsec-mb for AES-GCM, for keys created from now on. Raises LibraryError on failure."""
        why = ffi.new("char[]", _WHY)
        version = self.library.mt_use_ipsec_mb(self.handle, name.encode(), why, _WHY)
        if version == ffi.NULL:
            raise LibraryError(_text(why))
        self.ipsec_mb = _text(version)

    @property
    def name(self) -> str:
        """The crypto libraries and their versions, as text."""
        crypto = f"libcrypto {'.'.join(map(str, self.version))}"
        return f"libipsec-mb {self.ipsec_mb} (AES-GCM) and {crypto}" if self.ipsec_mb else crypto


def _text(characters: Any) -> str:
    text: bytes = ffi.string(characters)
    return text.decode("utf-8", "replace")
