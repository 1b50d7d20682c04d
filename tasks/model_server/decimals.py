"""Converts many decimals at once to the doubles that RapidJSON converts them to.

RapidJSON's quick method can miss the nearest double of a long decimal by a unit or two, which a float64 input shows.
`exact_json` does the same for a single number and for every number; this module leaves rare numbers to it.

Source: RapidJSON 1.1.0, reader.h, ParseNumber; internal/strtod.h, StrtodNormalPrecision.
"""

from typing import Any, Final

import numpy as np

from tasks.model_server.exact_json import POWERS_OF_TEN

_Array = np.ndarray[Any, Any]

_AROUND_NUMBERS: Final = b"0123456789.+-eE[], \n\r\t"
_TO_SPACES: Final = bytes.maketrans(b"eE+[],\n\r\t", b" " * 9)
_POWERS: Final = np.array(POWERS_OF_TEN)
_EXACT: Final = 2**53 - 1
"""The largest integer with which RapidJSON goes on in integers, digit by digit."""
_MOST_DIGITS: Final = 10**17


def read(text: bytes) -> _Array | None:
    """Read every number of a JSON text, in order.

    Args:
        text: nested lists with a number in them, or a part of such a text that cuts through none.

    Returns:
        The doubles, or None if there is something else in it, or a number of more than 17 digits or with an
        exponent so small that its double is zero or nearly so.
    """
    if text.translate(None, _AROUND_NUMBERS):
        return None
    codes = np.frombuffer(b"," + text + b",", np.uint8)
    inside = (codes > ord("*")) & (codes != ord(",")) & (codes | 6 != ord("_"))  # no space, comma or bracket
    starts, ends = np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2).T + 1
    points, point = _places(codes == ord("."), starts)
    has_exponent, exponent_mark = _places((codes | 0x20) == ord("e"), starts)
    integers = np.fromstring(text.translate(_TO_SPACES, b"."), np.int64, sep=" ")
    at = np.arange(len(starts)) + np.cumsum(has_exponent) - has_exponent  # an exponent is an integer of its own
    digits, exponents = np.abs(integers[at]), np.zeros(len(starts), np.int64)
    exponents[has_exponent] = integers[at[has_exponent] + 1]
    decimals = np.where(points, np.where(has_exponent, exponent_mark, ends) - point - 1, 0)
    powers = exponents - decimals
    if digits.max() >= _MOST_DIGITS or digits.min() < 0 or powers.min() < -308 or powers.max() > 308:
        return None  # below 0: the smallest int64, for which many digits are taken
    doubles = _scaled(_significands(digits, decimals > 0), powers)
    is_negative = (codes[starts] == ord("-")) & (points | has_exponent | (digits > 0))  # the integer -0 is 0
    return np.where(is_negative, -doubles, doubles)


def _places(marked: _Array, starts: _Array) -> tuple[_Array, _Array]:
    """Return which numbers contain a mark and where; each contains it at most once."""
    places = np.flatnonzero(marked)
    numbers = np.searchsorted(starts, places) - 1
    has_mark, place = np.zeros(len(starts), np.bool_), np.zeros(len(starts), np.int64)
    has_mark[numbers], place[numbers] = True, places
    return has_mark, place


def _significands(digits: _Array, has_decimals: _Array) -> _Array:
    """Return all digits of each number as a double: the last one is added to a double if an integer was too large."""
    before, last = np.divmod(digits, 10)
    split = has_decimals & (before > _EXACT)
    return np.where(split, before.astype(np.float64) * 10.0 + last, digits.astype(np.float64))


def _scaled(significands: _Array, powers: _Array) -> _Array:
    scales = _POWERS[np.abs(powers)]
    with np.errstate(over="ignore", under="ignore"):
        scaled: _Array = np.where(powers < 0, significands / scales, significands * scales)
    return scaled
