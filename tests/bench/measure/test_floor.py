"""The floor: two hops and AES-GCM twice, with the library that a contestant uses."""

from __future__ import annotations

import pytest

from tests.support.compiled_engine import compiled_engine
from tunnel.bench.measure import floor
from tunnel.bench.measure.floor import CRYPTO, PYTHON_CRYPTO, SYSTEM_CRYPTO, CryptoCost, ciphers, floors
from tunnel.bench.measure.measurement import Case, Measurement
from tunnel.bench.measure.program import BenchError
from tunnel.engine.choice import Choice
from tunnel.units import GIB

CASE = Case("tcp", 1)
IN_PYTHON = Choice(None, "Python")


def _hops(number: int, cpu: float, case: Case = CASE, name: str = floor.HOPS) -> Measurement:
    return Measurement(name, number, case, GIB, 1.0, {"a": cpu / 2, "b": cpu / 2}, {})


def test_the_floor_is_hops_and_encryption_of_the_same_round() -> None:
    costs = [CryptoCost(1, 0.25, 0.5, CRYPTO), CryptoCost(2, 1.0, 1.0, CRYPTO)]
    found = floors([_hops(1, 1.0), _hops(2, 2.0)], costs)
    assert found == {(CASE, 1): 1.75, (CASE, 2): 4.0}


def test_each_case_has_its_own_hops() -> None:
    many = Case("unix", 64)
    found = floors([_hops(1, 1.0), _hops(1, 3.0, many)], [CryptoCost(1, 0.5, 0.5, CRYPTO)])
    assert found == {(CASE, 1): 2.0, (many, 1): 4.0}


def test_without_hops_or_encryption_there_is_no_floor() -> None:
    assert floors([_hops(1, 1.0)], [CryptoCost(2, 1.0, 1.0, CRYPTO)]) == {}
    assert floors([_hops(1, 1.0, name="socat")], [CryptoCost(1, 1.0, 1.0, CRYPTO)]) == {}


@pytest.mark.parametrize(
    ("contestant", "low", "library"),
    [
        ("mtunnel", 1.2, "libipsec-mb"),
        ("mtunnel-2-lanes", 1.2, "libipsec-mb"),
        ("mtunnel-python", 1.4, "cryptography"),
        ("haproxy-tuned", 1.8, "OpenSSL 3.0"),
        ("aiofastnet", 1.8, "OpenSSL 3.0"),
    ],
)
def test_each_contestant_is_priced_by_its_own_library(contestant: str, low: float, library: str) -> None:
    costs = [
        CryptoCost(1, 0.1, 0.1, CRYPTO, "libipsec-mb"),
        CryptoCost(1, 0.2, 0.2, PYTHON_CRYPTO, "cryptography"),
        CryptoCost(1, 0.4, 0.4, SYSTEM_CRYPTO, "OpenSSL 3.0"),
    ]
    assert floors([_hops(1, 1.0)], costs, contestant) == {(CASE, 1): pytest.approx(low)}
    assert floor.library_of(contestant, costs) == library


def test_in_older_files_the_system_s_library_is_used_for_all() -> None:
    costs = [CryptoCost(1, 0.5, 0.5)]
    for contestant in ("mtunnel", "mtunnel-python", "socat"):
        assert floors([_hops(1, 1.0)], costs, contestant) == {(CASE, 1): 2.0}
        assert floor.library_of(contestant, costs) == "the system's libcrypto"


def test_daemons_without_the_compiled_engine_are_priced_by_cryptography() -> None:
    ours, in_python, system = ciphers(IN_PYTHON)
    assert (ours.name, in_python.name, system.name) == (CRYPTO, PYTHON_CRYPTO, SYSTEM_CRYPTO)
    assert (ours.library, ours.settings) == (in_python.library, in_python.settings)
    assert ours.library.startswith("cryptography ")
    assert floor.python_openssl() in ours.library
    assert "bare loop over records of 16 KiB" in ours.settings
    assert "openssl speed" in system.settings
    assert system.library.startswith("OpenSSL ")


def test_daemons_with_the_compiled_engine_are_priced_by_its_library() -> None:
    provider = compiled_engine()
    ours, in_python, _ = ciphers(Choice(provider, "compiled"))
    assert ours.library == provider.name
    assert "compiled engine" in ours.settings
    assert in_python.library.startswith("cryptography ")


def test_the_engine_is_the_one_that_daemons_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = compiled_engine()
    monkeypatch.setattr(floor, "choose", lambda: Choice(provider, "compiled"))
    assert ciphers()[0].library == provider.name


def test_each_library_measures_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_TURNS", 2)
    for chosen in (Choice(compiled_engine(), "compiled"), IN_PYTHON):
        for cipher in ciphers(chosen):
            cost = cipher.cost(3)
            assert (cost.round, cost.by, cost.library) == (3, cipher.name, cipher.library)
            # From a future processor to a busy one without AES instructions.
            assert 0.001 < cost.encrypt < 100
            assert 0.001 < cost.decrypt < 100
            assert cost.both == cost.encrypt + cost.decrypt


@pytest.mark.parametrize("output", ["", "+F:25:AES-256-GCM:0.00\n"])
def test_an_openssl_without_a_rate_is_an_error(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = ciphers(IN_PYTHON)[-1]
    monkeypatch.setattr(floor, "_openssl", lambda *arguments: output)
    with pytest.raises(BenchError, match="printed no rate"):
        system.cost(1)


def test_an_openssl_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchError, match="cannot run openssl version"):
        floor.system_openssl()


@pytest.mark.parametrize(
    ("said", "library"),
    [
        ("OpenSSL 3.0.22 25 Aug 2026 (Library: OpenSSL 3.0.19 27 Jan 2026)\n", "OpenSSL 3.0.19 27 Jan 2026"),
        ("OpenSSL 3.6.5 29 Sep 2026\n", "OpenSSL 3.6.5 29 Sep 2026"),
    ],
)
def test_the_library_is_the_one_that_the_program_runs_on(
    said: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "_openssl", lambda *arguments: said)
    assert floor.system_openssl() == library


def test_without_the_program_only_the_system_s_cost_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "find", lambda program: None)
    assert [cipher.missing for cipher in ciphers(IN_PYTHON)] == [None, None, "openssl is not installed"]
