"""The floor: two hops and two times AES-GCM, of the OpenSSL that Python uses."""

from __future__ import annotations

import ssl

import pytest

from tunnel.bench import floor
from tunnel.bench.figures import GIB
from tunnel.bench.floor import CryptoCost
from tunnel.bench.measurement import Case, Measurement
from tunnel.bench.program import BenchError

CASE = Case("tcp", 1)


def _hops(number: int, cpu: float, case: Case = CASE, name: str = floor.HOPS) -> Measurement:
    return Measurement(name, number, case, GIB, 1.0, {"a": cpu / 2, "b": cpu / 2}, {})


def test_the_floor_is_hops_and_encryption_of_the_same_round() -> None:
    costs = [CryptoCost(1, 0.25, 0.5), CryptoCost(2, 1.0, 1.0)]
    found = floor.floors([_hops(1, 1.0), _hops(2, 2.0)], costs)
    assert found == {(CASE, 1): 1.75, (CASE, 2): 4.0}


def test_each_case_has_its_own_hops() -> None:
    many = Case("unix", 64)
    found = floor.floors([_hops(1, 1.0), _hops(1, 3.0, many)], [CryptoCost(1, 0.5, 0.5)])
    assert found == {(CASE, 1): 2.0, (many, 1): 4.0}


def test_half_a_floor_is_none() -> None:
    assert floor.floors([_hops(1, 1.0)], [CryptoCost(2, 1.0, 1.0)]) == {}
    assert floor.floors([_hops(1, 1.0, name="socat")], [CryptoCost(1, 1.0, 1.0)]) == {}


def test_openssl_says_what_both_directions_cost() -> None:
    cost = floor.measure_crypto(3)
    assert cost.round == 3
    # From a processor of tomorrow to one that has no instructions for AES and is busy with other things.
    assert 0.001 < cost.encrypt < 100
    assert 0.001 < cost.decrypt < 100
    assert cost.both == cost.encrypt + cost.decrypt


@pytest.mark.parametrize("said", ["", "+F:25:AES-256-GCM:0.00\n"])
def test_an_openssl_without_a_rate_is_an_error(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_openssl", lambda *arguments: said)
    with pytest.raises(BenchError, match="gave no rate"):
        floor.measure_crypto(1)


def test_an_openssl_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchError, match="cannot run openssl version"):
        floor.version()


def test_another_openssl_than_that_of_python_is_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "version", lambda: f"{ssl.OPENSSL_VERSION} (Library: {ssl.OPENSSL_VERSION})")
    assert floor.missing() is None
    monkeypatch.setattr(floor, "version", lambda: "OpenSSL 0.9.8")
    assert (
        floor.missing()
        == f"the program openssl is OpenSSL 0.9.8, but Python's ssl uses {ssl.OPENSSL_VERSION}"
    )


def test_without_openssl_the_floor_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "find", lambda program: None)
    assert floor.missing() == "openssl is not installed"
