"""Reads integers of any length from text of clients and users."""

import re
from typing import Final

_INTEGER: Final = re.compile(r"([+-]?)0*([0-9]{1,19})")


def int64(text: str) -> int | None:
    """Return a text as a 64-bit integer, or None if it is none; Python's own `int` fails at 4,301 digits."""
    match = _INTEGER.fullmatch(text)
    value = int(match[1] + match[2]) if match else 1 << 63
    return value if -(1 << 63) <= value < 1 << 63 else None
