"""Converts messages of foreign code to one printable line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MOST = 2000  # characters, enough for a cause with its remedy; the middle of a longer text is removed
_TERMINAL = re.compile(
    r"""
    (?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]          # a control sequence, such as the one for bold
    | (?:\x1b\]|\x9d).*?(?:\x07|\x1b\\|\x9c)  # a window's title or a link
    | \x1b[ -/]*[0-~]                         # any other escape
    """,
    re.VERBOSE | re.DOTALL,
)
_SEPARATE = {"Cc", "Zl", "Zp"}  # control characters, line and paragraph separators
_DROPPED = {"Cf"}  # characters that change the direction of a line or are invisible


def one_line(text: str, most: int = MOST) -> str:
    """Return text without terminal codes, control characters and line breaks, which every stream can write.

    Args:
        most: characters; the beginning and the end of a longer text are kept, because a remedy may be in either.
    """
    if len(text) > 40 * most:  # do not process megabytes letter by letter
        text = text[: 20 * most] + text[-20 * most :]
    plain = "".join(_kept(letter) for letter in _TERMINAL.sub("", text))
    line = " ".join(plain.encode("utf-8", "backslashreplace").decode().split())
    if len(line) <= most:
        return line
    end = most // 3
    return f"{line[: most - end - 5]} ... {line[-end:]}"


def _kept(letter: str) -> str:
    category = unicodedata.category(letter)
    return " " if category in _SEPARATE else "" if category in _DROPPED else letter


def counted(count: int, what: str) -> str:
    """Return a number with its noun, which is regular, such as `1 key` or `1,200 keys`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def few(items: Sequence[object], between: str = ", ", most: int = 20) -> str:
    """Return the first items in one text, and how many more there are."""
    more = f"{between}and {len(items) - most:,} more" if len(items) > most else ""
    return between.join(map(str, items[:most])) + more


def size_words(size: int) -> str:
    """Return a number of bytes in MB or GB, powers of ten, as the tools for disks count."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def of_candidate(number: int, reason: str) -> str:
    """Return a reason that says once which candidate it is about."""
    which = f"candidate {number}"
    return reason if reason.startswith(f"{which} ") else f"{which}: {reason}"
