"""Numbers as a plan writes them."""

from __future__ import annotations


def count(number: float) -> str:
    """`950`, `1.1 million`, `20 billion`."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= 0.9995 * size:
            return f"{three(number / size)} {name}"
    return f"{number:,.0f}" if number >= 10 else three(number)


def ratio(number: float) -> str:
    """Three digits, and no exponent: `0.00105`, `2.5`, `1,230`."""
    return f"{number:,.0f}" if number >= 100 else three(number)


def three(number: float) -> str:
    """Three significant digits without trailing zeros."""
    if number == 0:
        return "0"
    if abs(number) < 1e-4:
        return f"{number:.2g}"
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def flops(number: float) -> str:
    return f"{number:.2e}".replace("e+", "e") + " FLOPs"


def about(seconds: float) -> str:
    """`0.2 s`, `48 s`, `3 min`, `5.2 h`, `12 days`, `3 years`."""
    for most, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"), (63e6, 86400, "days")):
        if seconds < most:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:,.0f} {name}"
    return f"{seconds / 31557600:,.3g} years"
