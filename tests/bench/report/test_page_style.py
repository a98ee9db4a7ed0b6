"""Text is legible on light and on dark: its contrast is that which WCAG 2.1 demands."""

from __future__ import annotations

import re

import pytest

from tunnel.bench.report.charts import STYLE
from tunnel.bench.report.page_style import PAGE_STYLE

TEXT = 4.5  # WCAG 2.1, 1.4.3
GRAPHIC = 3.0  # 1.4.11


def _colours(dark: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for sheet in (STYLE, PAGE_STYLE):
        light, _, rest = sheet.partition("@media (prefers-color-scheme: dark)")
        themes = [light, rest.partition("} }")[0]] if dark else [light]
        for theme in themes:
            found |= dict(re.findall(r"--([\w-]+): #([0-9a-f]+)", theme))
    return found


def _luminance(colour: str) -> float:
    digits = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *((front, back, TEXT) for front in ("ink", "soft", "ours") for back in ("paper", "card")),
        *((tone, back, TEXT) for tone in ("good", "bad", "unclear") for back in ("card", f"{tone}-paper")),
        *(("ink", f"{tone}-paper", TEXT) for tone in ("good", "bad", "unclear")),
        *((bar, "card", GRAPHIC) for bar in ("mine", "theirs", "p0", "c0")),
    ],
)
def test_colours_have_contrast(front: str, back: str, least: float, dark: bool) -> None:
    colours = _colours(dark)
    assert _contrast(colours[front], colours[back]) >= least


def test_contrast_is_that_of_the_standard() -> None:
    assert _contrast("fff", "000000") == pytest.approx(21.0)
    assert _contrast("777777", "fff") == pytest.approx(4.48, abs=0.01)
