"""Words of somebody else's code as one line of ours."""

from __future__ import annotations

import re
import unicodedata

MOST = 2000  # characters: a whole cause with its remedy; beyond it the middle is left out
_TERMINAL = re.compile(
    r"""
    (?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]          # a control sequence, such as the one for bold
    | (?:\x1b\]|\x9d).*?(?:\x07|\x1b\\|\x9c)  # a window's title or a link
    | \x1b[ -/]*[0-~]                         # any other escape
    """,
    re.VERBOSE | re.DOTALL,
)
_SEPARATE = {"Cc", "Zl", "Zp"}  # control characters, line and paragraph separators
_DROPPED = {"Cf"}  # what turns the direction of a line, or cannot be seen


def one_line(text: str, most: int = MOST) -> str:
    """Return text without terminal codes, control characters and line breaks, in words that every stream takes.

    Args:
        most: characters; of a longer text the beginning and the end are kept, for a remedy stands at either.
    """
    if len(text) > 40 * most:  # a body of megabytes need not be looked at letter by letter
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
