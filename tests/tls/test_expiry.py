"""Expiry warnings, days in advance."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.signers import day
from tunnel.tls.expiry import Expiry, warnings

CERT = Expiry("tls.cert", "the certificate hosta.pem", day(100))


@pytest.mark.parametrize(
    ("left", "level"),
    [(30.01, None), (30, 30), (7.01, 30), (7, 7), (1.01, 7), (1, 1), (0.01, 1), (0, 0), (-3, 0)],
)
def test_expiry_is_warned_of_30_7_and_1_days_before(left: float, level: int | None) -> None:
    assert CERT.level(CERT.ends - timedelta(days=left)) == level


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (9.5, "is valid until {end}, 9 days left: renew it"),
        (1.5, "is valid until {end}, 1 day left: renew it"),
        (0.5, "is valid until {end}, less than a day left: renew it"),
        (0, "expired at {end}: renew it"),
        (-2, "expired at {end}: renew it"),
    ],
)
def test_a_warning_names_the_certificate_and_the_time_left(left: float, words: str) -> None:
    end = f"{CERT.ends:%Y-%m-%d %H:%M} UTC"
    expected = f"the certificate hosta.pem {words.format(end=end)}"
    assert CERT.warning(CERT.ends - timedelta(days=left)) == expected


def test_only_what_expires_soon_is_warned_of() -> None:
    soon = Expiry("tls.crl", "the CRL", day(3))
    assert [key for key, _ in warnings([soon, CERT], day(0))] == ["tls.crl"]
