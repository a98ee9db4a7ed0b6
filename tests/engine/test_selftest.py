"""A library that encrypts incorrectly is detected before it is used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiled_engine import run
from tests.support.reference_records import ReferenceRecords, Secret
from tunnel.engine import build, selftest
from tunnel.engine.binding import SUITES, Provider, load
from tunnel.engine.choice import LIBCRYPTO
from tunnel.engine.compiled import CompiledOpener

SERVER_KEY = bytes.fromhex("9f02283b6c9c07efc26bb9f2ac92e356")
SERVER_IV = bytes.fromhex("cf782b88dd83549aadf1e984")
FROM_SERVER = (
    "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e"
    "fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1"
    "67 c2 95 5d"
)
"""RFC 8448 section 3: the server's application data, its second record under these keys."""


def test_every_provider_passes(provider: Provider) -> None:
    assert selftest.fault(provider) == ""


def test_the_record_of_the_server_in_the_rfcs_trace(provider: Provider) -> None:
    cipher, plain = bytes.fromhex(FROM_SERVER), bytearray(100)
    opener = CompiledOpener(provider, SUITES[1], SERVER_KEY, SERVER_IV, 1)
    assert opener.open(cipher, len(cipher), plain) == (len(cipher), 50, None)
    assert plain[:50] == bytes(range(50))
    assert ReferenceRecords(Secret(SUITES[1], SERVER_KEY, SERVER_IV, 1)).seal(bytes(range(50))) == cipher


CHANGES = {
    "another version": ("out[2] = 3;", "out[2] = 4;", "RFC 8448"),
    "another nonce": ("nonce[NONCE - 1 - i] ^=", "nonce[NONCE - 1 - i] |=", "records differ"),
    "half a number": ("i < 8; i++)", "i < 4; i++)", "records differ"),
    "a number twice": ("number = direction->number++", "number = direction->number", "records differ"),
    "no authentication": ("aead_verify(aead, in + HEADER + size - TAG))", "1)", "modified record"),
    "a byte too many": ("opened->filled += size - 1", "opened->filled += size", "does not open"),
    "a byte twice": ("from->offset += part", "from->offset += part - (part == 17)", "records differ"),
}
"""For records.c: the original text, its replacement, and the expected finding."""


@pytest.mark.parametrize("change", CHANGES)
def test_an_incorrect_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    right, wrong, found = CHANGES[change]
    for path in (build.HEADER, *build.SOURCES):
        text = path.read_text()
        if path.name == "records.c":
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(build, "SOURCES", tuple(tmp_path / path.name for path in build.SOURCES))
    build.build(tmp_path / "engine.so")
    assert found in selftest.fault(Provider(load(tmp_path / "engine.so"), LIBCRYPTO))


def wrong_libcrypto(folder: Path, replaced: str) -> str:
    """Compile a libcrypto that is the real one, except for one function."""
    source, target = folder / "wrong.c", folder / "wrong.so"
    source.write_text(f"#include <string.h>\n#include <dlfcn.h>\n{replaced}\n")
    real = Path(next(iter(re.findall(r"/\S*libcrypto\.so\.3\S*", Path("/proc/self/maps").read_text()))))
    run([*build.compiler(), "-shared", "-fPIC", "-o", target, source, "-Wl,--no-as-needed", real, "-ldl"])
    return str(target)


REPLACED = {
    "final": "int EVP_CipherFinal_ex(void *c, void *o, int *n) { *n = 0; return 1; }",
    "tag": "int EVP_CIPHER_CTX_ctrl(void *c, int k, int n, void *p) { return 1; }",
    "update": "int EVP_CipherUpdate(void *c, void *o, int *n, void *i, int s) { *n = s; return 1; }",
}


@pytest.mark.parametrize("replaced", REPLACED)
def test_an_incorrect_libcrypto(tmp_path: Path, library: Any, replaced: str) -> None:
    provider = Provider(library, wrong_libcrypto(tmp_path, REPLACED[replaced]))
    assert selftest.fault(provider) != ""
