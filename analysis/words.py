"""Numbers as a person reads them. Three significant digits: the histograms carry no more."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "\N{EN DASH}"
PERCENT = "\N{NO-BREAK SPACE}%"


def number(value: float | None) -> str:
    """Three significant digits without an exponent, thousands set apart: 0.0451, 4.51, 45.1, 45,100."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 99.95 or value == 0:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.0995 else f"{value:.3g}"


def brief(value: float | None) -> str:
    """Like :func:`number`, without zeros at the end: 20 rather than 20.0."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def ms(value: float | None) -> str:
    """A time in ms with its unit."""
    return NONE if value is None else f"{number(value)} ms"


def percent(fraction: float | None) -> str:
    """A fraction as percent: 0 %, 0.25 %, 12 %, and < 0.01 % rather than a rounded 0."""
    if fraction is None:
        return NONE
    if 0 < fraction < 0.0001:
        return f"<\N{NO-BREAK SPACE}0.01{PERCENT}"
    if fraction >= 0.1:
        return f"{100 * fraction:.0f}{PERCENT}"
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + PERCENT


def per_s(value: float | None) -> str:
    """A rate with its unit."""
    return NONE if value is None else f"{brief(value)}/s"


def mebibytes(value: float | None) -> str:
    """Bytes as MiB with the unit."""
    return NONE if value is None else f"{value / 2**20:,.0f} MiB"


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``3 trials``, ``1,000 requests``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
