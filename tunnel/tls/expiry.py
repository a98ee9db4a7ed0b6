"""What ends, and when to say so: certificates, authorities and CRLs, days before they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

LEVELS = (30, 7, 1)
"""Days before an end at which it is warned of."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """Something that ends, and is to be renewed before. ``key`` is its file's in the configuration."""

    key: str
    what: str
    ends: datetime

    def days_left(self, moment: datetime) -> int:
        """Whole days that are left; negative once it has ended."""
        return (self.ends - moment).days

    def level(self, moment: datetime) -> int | None:
        """The smallest of LEVELS that is reached; 0 once it has ended, None while it is far away."""
        left = (self.ends - moment).total_seconds() / 86400
        return 0 if left <= 0 else min((level for level in LEVELS if left <= level), default=None)

    def warning(self, moment: datetime) -> str:
        """What to tell an operator."""
        days = self.days_left(moment)
        when = f"{self.ends:%Y-%m-%d %H:%M} UTC"
        if self.ends <= moment:
            return f"{self.what} expired at {when}: renew it"
        left = "less than a day" if days < 1 else f"{days} day" + ("s" if days > 1 else "")
        return f"{self.what} is valid until {when}, {left} left: renew it"


def warnings(expiries: Iterable[Expiry], moment: datetime) -> Iterator[tuple[str, str]]:
    """What ends soon: the key of its file and what to tell an operator, for each."""
    for expiry in expiries:
        if expiry.level(moment) is not None:
            yield expiry.key, expiry.warning(moment)
