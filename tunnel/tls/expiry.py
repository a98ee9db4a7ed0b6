"""Expiry warnings for certificates, authorities and CRLs, days in advance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

LEVELS = (30, 7, 1)
"""Days before the expiry at which a warning is due."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """The expiry date of ``what``. ``key`` is the configuration key of its file.

    ``own`` is that file, if it is a certificate of this host itself, not one of its issuers or a CRL.
    """

    key: str
    what: str
    ends: datetime
    own: Path | None = None

    def days_left(self, moment: datetime) -> int:
        """Whole days left; negative after the expiry."""
        return (self.ends - moment).days

    def level(self, moment: datetime) -> int | None:
        """The smallest of LEVELS that is reached; 0 after the expiry, None before all levels."""
        left = (self.ends - moment).total_seconds() / 86400
        return 0 if left <= 0 else min((level for level in LEVELS if left <= level), default=None)

    def warning(self, moment: datetime) -> str:
        """The warning for the operator."""
        days = self.days_left(moment)
        when = f"{self.ends:%Y-%m-%d %H:%M} UTC"
        if self.ends <= moment:
            return f"{self.what} expired at {when}: renew it"
        left = "less than a day" if days < 1 else f"{days} day" + ("s" if days > 1 else "")
        return f"{self.what} is valid until {when}, {left} left: renew it"


def warnings(expiries: Iterable[Expiry], moment: datetime) -> Iterator[tuple[str, str]]:
    """Yield (key, warning) for everything that has expired or expires soon."""
    for expiry in expiries:
        if expiry.level(moment) is not None:
            yield expiry.key, expiry.warning(moment)
