"""The declarations for Python match the C files, and a library that is not ours is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.compiled_engine import PROVIDERS, open_provider, run
from tunnel.engine import binding, build, compiled, transfer
from tunnel.engine.binding import LibraryError, Provider, load
from tunnel.engine.choice import LIBCRYPTO

HEADER = re.sub(r"/\*.*?\*/", "", build.HEADER.read_text(), flags=re.DOTALL)
BINDING = Path(binding.__file__).read_text()


def declared(text: str) -> set[str]:
    """Return every function and struct with members, without white space."""
    found = re.findall(
        r"^ *[\w *]+\bmt_\w+\([^)]*\);|struct (?:piece|opened|sent) \{[^}]*\}", text, re.MULTILINE
    )
    return {re.sub(r"\s+", "", item) for item in found}


def test_the_declarations_match_the_header() -> None:
    assert len(declared(BINDING)) == 19
    assert declared(BINDING) == declared(HEADER)


def constants() -> dict[str, int]:
    values = {}
    for name, value in re.findall(r"\b([A-Z_]+) = ([-\d <]+)[, ]", HEADER):
        left, _, right = value.partition("<<")
        values[name] = int(left) << int(right or 0)
    return values


def test_the_constants_match_the_header() -> None:
    found = constants()
    assert (found["RECORD"], found["MOST_BYTES"]) == (compiled.RECORD, compiled.MOST_BYTES)
    assert found["HEADER"] + 1 + found["TAG"] == compiled.OVERHEAD
    for name in ("ALERT", "HANDSHAKE", "DATA"):
        assert found[name] == getattr(compiled, name)
    stops = ("INPUT_USED", "CONTROL", "BUDGET", "ROOM_USED", "SOCKET_FULL", "SOCKET_EMPTY", "SOCKET_ENDED")
    sources = ("SOCKET_FAILED", "SOURCE_EMPTY", "SOURCE_ENDED", "SOURCE_FAILED")
    assert [found[name] for name in (*stops, *sources)] == [stop.value for stop in transfer.Stop]
    errors = [value for value in found.values() if value < 0]
    assert sorted(errors) == [*range(-10, 0)]
    assert compiled.FAULTS.keys() == {found["SPENT"], *range(found["NO_CONTENT"], found["CIPHER"])}


def test_suites_are_in_the_order_of_the_header() -> None:
    (names,) = re.findall(r"enum suite \{ (.*), SUITES \}", HEADER)
    for suite, name in zip(binding.SUITES, names.split(", "), strict=True):
        assert name in suite.replace("TLS_", "")


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF" + bytes(100)])
def test_a_file_that_is_no_library(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine-1.so"
    path.write_bytes(content)
    with pytest.raises(LibraryError, match=r"engine-1\.so"):
        load(path)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_library_is_not_opened(tmp_path: Path, part: float) -> None:
    """The dynamic linker would kill the process by SIGBUS."""
    whole = (build.HERE / build.file_name()).read_bytes()
    path = tmp_path / "engine-1.so"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(LibraryError, match=r"engine-1\.so is truncated: reinstall mtunnel"):
        load(path)


def test_a_library_without_our_functions(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="mt_provider"):
        load(Path(stub(tmp_path, "(void)table;")))


def test_missing_crypto_libraries(library: Any) -> None:
    with pytest.raises(LibraryError, match=r"libnone\.so"):
        Provider(library, "libnone.so")
    provider = Provider(library, LIBCRYPTO)
    with pytest.raises(LibraryError, match=r"libnone\.so"):
        provider.use_ipsec_mb("libnone.so")
    assert provider.ipsec_mb == ""


def test_wrong_crypto_libraries(library: Any) -> None:
    with pytest.raises(LibraryError, match=r"libc\.so\.6 lacks functions of OpenSSL 3"):
        Provider(library, "libc.so.6")
    with pytest.raises(LibraryError, match=r"libc\.so\.6 is not libipsec-mb 1"):
        Provider(library, LIBCRYPTO).use_ipsec_mb("libc.so.6")


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_names_its_libraries(library: Any, name: str) -> None:
    provider = open_provider(library, name)
    assert provider.version[0] == 3
    crypto = f"libcrypto 3.{provider.version[1]}.{provider.version[2]}"
    if name == "libipsec-mb":
        assert re.fullmatch(rf"libipsec-mb 1\.\d\.\d \(AES-GCM\) and {crypto}", provider.name)
    else:
        assert provider.name == crypto


def stub(folder: Path, body: str) -> str:
    """Compile a library that pretends to be libipsec-mb."""
    source, target = folder / "stub.c", folder / "stub.so"
    source.write_text(
        "const char *imb_get_version_str(void) { return \"1.9.0\"; }\n"
        "static void *table[512];\n"
        "static void here(void) {}\n"
        "void aes_gcm_init_256_sse(void) {}\n"
        "void free_mb_mgr(void *table) { (void)table; }\n"
        "void *alloc_mb_mgr(unsigned long flags) { (void)flags; return table; }\n"
        f"void init_mb_mgr_auto(void **table, void *none) {{ (void)here; (void)none; {body} }}\n"
    )  # fmt: skip
    run([*build.compiler(), "-shared", "-fPIC", "-o", target, source])
    return str(target)


@pytest.mark.parametrize(
    "body",
    [
        "(void)table;",
        "for (int i = 0; i < 512; i++) table[i] = (void *)1;",
        "for (int i = 0; i < 512; i++) table[i] = (void *)here;",
        "for (int i = 0; i < 512; i++) table[i] = (void *)aes_gcm_init_256_sse;",
    ],
)
def test_another_table_of_functions_is_never_called(tmp_path: Path, library: Any, body: str) -> None:
    """libipsec-mb may change it: the symbol name of each function is verified."""
    with pytest.raises(LibraryError, match=r"1\.9\.0 has another table of functions"):
        Provider(library, LIBCRYPTO).use_ipsec_mb(stub(tmp_path, body))
