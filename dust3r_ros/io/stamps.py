"""Stamps: integers of nanoseconds, written as decimal seconds without a float in between."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

_MOST = 2**63 - 1


def stamp_from_text(text: str) -> int | None:
    """Nanoseconds of decimal seconds ("1341841278.842700"), digits beyond the ninth dropped; None if it is none."""
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        return None
    if not seconds.is_finite() or not 0 <= seconds.scaleb(9) <= _MOST:
        return None
    return int(seconds.scaleb(9))


def stamp_to_text(stamp_ns: int) -> str:
    """Decimal seconds with nine decimals."""
    sign, stamp_ns = ("-", -stamp_ns) if stamp_ns < 0 else ("", stamp_ns)
    return f"{sign}{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"
