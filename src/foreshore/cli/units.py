"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["count", "human"]


def human(size: float) -> str:
    """Bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def count(number: int) -> str:
    """Weights in powers of 1000, as models are named."""
    value = float(number)
    for unit in ("", "K", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if unit == "" else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.2f}B"
