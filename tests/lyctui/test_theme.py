"""Text is readable in each theme, also after rounding to the 256 colours of an SSH line."""

from __future__ import annotations

import pytest
from rich.color import Color, ColorSystem

from lyctui.theme import CRIMSON, DARK, LIGHT, OWN_VARIABLES, THEMES

TEXTS = (
    "text",
    "text-muted",
    "dim",
    "strong",
    "accent-text",
    "warning-text",
    "error-text",
    "success-text",
)


def rounded(color: str) -> tuple[int, int, int]:
    """The colour as a terminal of 256 colours shows it."""
    return tuple(Color.parse(color).downgrade(ColorSystem.EIGHT_BIT).get_truecolor())  # type: ignore[return-value]


def luminance(rgb: tuple[int, int, int]) -> float:
    """Relative luminance (WCAG 2.1)."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio (WCAG 2.1)."""
    high, low = sorted((luminance(rounded(first)), luminance(rounded(second))), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_contrast(theme, name):
    color = theme.variables[name]
    for surface in (theme.background, theme.surface, theme.panel):
        assert contrast(color, surface) >= 4.5, (name, color, surface)


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
def test_focus_contrast_and_three_surfaces(theme):
    assert contrast(theme.variables["on-accent"], theme.accent) >= 4.5
    assert contrast(theme.variables["block-cursor-foreground"], CRIMSON) >= 4.5
    assert contrast(theme.foreground, theme.background) >= 4.5
    surfaces = {rounded(each) for each in (theme.background, theme.surface, theme.panel)}
    assert len(surfaces) == 3, "the surfaces stay apart at 256 colours"


def test_accent_is_number_161():
    assert Color.parse(CRIMSON).downgrade(ColorSystem.EIGHT_BIT).number == 161


def test_every_theme_knows_our_variables():
    for theme in THEMES.values():
        assert set(OWN_VARIABLES) <= set(theme.variables)
