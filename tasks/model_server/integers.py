"""Integers in text that a client or a user wrote, however long."""

import re
from typing import Final

_INTEGER: Final = re.compile(r"([+-]?)0*([0-9]{1,19})")


def int64(text: str) -> int | None:
    """Return the 64-bit integer that is the whole of a text, or None: Python's own `int` fails at 4,301 digits."""
    match = _INTEGER.fullmatch(text)
    value = int(match[1] + match[2]) if match else 1 << 63
    return value if -(1 << 63) <= value < 1 << 63 else None
