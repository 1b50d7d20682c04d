"""A JSON reader that accepts, refuses and rounds as TensorFlow Serving's does.

TensorFlow Serving reads bodies with RapidJSON 1.1: `NaN` and `Infinity` are numbers, a byte-order mark
and text after the document are skipped, bytes that are not UTF-8 stay as they are, the first of two
equal keys is the one that is found, and decimals are converted by RapidJSON's quick method, which can
miss the nearest double by a few units in the last place. No Python reader does all that, so bodies that
orjson refuses or could read differently come here: slower, but exact to the offset in the message. In its place
`json` fails 4 of the 356 recorded answers and words 19 errors otherwise, orjson 3 and 20, python-rapidjson 2 and 21.

Source: RapidJSON 1.1.0, reader.h and internal/strtod.h.
"""

import re
from typing import Any, Final

from tasks.model_server.status import StatusError, invalid_argument

_SPACE: Final = re.compile(rb"[ \n\r\t]*")
_NUMBER: Final = re.compile(rb"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_NUMBER_TAIL: Final = re.compile(rb"[0-9.eE+-]*")
_PLAIN_TEXT: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_LITERALS: Final = {b"n": (b"null", None), b"t": (b"true", True), b"f": (b"false", False)}
_ESCAPES: Final = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_SMALLEST_NORMAL: Final = 2.2250738585072014e-308
_END: Final = b""
_MAX_DEPTH: Final = 100_000
"""The depth at which nesting is refused. RapidJSON recurses, and a stack of 8 MB leaves each level 84 bytes."""
POWERS_OF_TEN: Final = tuple(float(f"1e{power}") for power in range(309))
"""As in RapidJSON's internal/pow10.h: `10.0**23` and `10.0**210` are other doubles."""


class RepeatedKeys(dict[str, Any]):
    """A JSON object that repeats a key: as a dict the first value, in `pairs` all of them in order."""

    pairs: list[tuple[str, Any]]


def members(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return every member of a JSON object in order, repeated keys included."""
    return value.pairs if isinstance(value, RepeatedKeys) else list(value.items())


def parse(body: bytes) -> Any:
    """Read the first JSON document of a body.

    Args:
        body: the request body; what follows the document is ignored.

    Returns:
        dict, list, str, int, float, bool or None. An int is a JSON integer that fits into 64 bits,
        signed or unsigned. Bytes that are not UTF-8 appear in a str as surrogate escapes.

    Raises:
        StatusError: not JSON; the message names the offset as RapidJSON does.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    return _Reader(body).document()


class _Reader:
    """One pass over one body. Containers are kept on a stack, so nesting is bounded by memory only."""

    def __init__(self, body: bytes, offset: int = 0) -> None:
        # RapidJSON regards a NUL byte as the end of its input.
        self._body = body.partition(b"\0")[0]
        self._at = 0
        self._offset = offset  # of the body in a longer one

    def document(self) -> Any:
        for byte in (b"\xef", b"\xbb", b"\xbf"):  # the byte-order mark, each byte optional, as there
            self._at += self._peek() == byte
        self._skip_space()
        if self._peek() in (_END, b"]", b"}", b",", b":"):
            raise self._error("The document is empty.")
        return self._value()

    def _value(self) -> Any:
        """Read one value with everything inside it."""
        stack: list[tuple[list[Any], bool]] = []
        while True:
            opener = self._peek()
            if opener in (b"[", b"{") and opener:
                self._at += 1
                self._skip_space()
                is_object = opener == b"{"
                if self._peek() != (b"}" if is_object else b"]"):
                    if len(stack) == _MAX_DEPTH:
                        raise self._error(f"Nested deeper than {_MAX_DEPTH} levels.")
                    stack.append(([], is_object))
                    self._name_if(is_object, stack[-1][0])
                    continue
                self._at += 1
                value: Any = {} if is_object else []
            else:
                value = self._scalar(opener)
            while stack:  # hand the value to its container, and every container that ends here to its own
                items, is_object = stack[-1]
                items.append(value)
                if not self._container_ends(is_object):
                    self._name_if(is_object, items)
                    break
                stack.pop()
                value = _object(items) if is_object else items
            else:
                return value

    def _name_if(self, is_object: bool, items: list[Any]) -> None:
        """Read a member's name and colon into `items` where an object is open."""
        if not is_object:
            return
        if self._peek() != b'"':
            raise self._error("Missing a name for object member.")
        items.append(self._string())
        self._skip_space()
        if self._peek() != b":":
            raise self._error("Missing a colon after a name of object member.")
        self._at += 1
        self._skip_space()

    def _container_ends(self, is_object: bool) -> bool:
        """Read what follows an element: False after a comma, True after the closing bracket."""
        self._skip_space()
        mark = self._peek()
        if mark == b",":
            self._at += 1
            self._skip_space()
            return False
        if mark == (b"}" if is_object else b"]"):
            self._at += 1
            return True
        raise self._error(
            "Missing a comma or '}' after an object member."
            if is_object
            else "Missing a comma or ']' after an array element."
        )

    def _scalar(self, first: bytes) -> Any:
        if first == b'"':
            return self._string()
        if first not in _LITERALS:
            return self._number()
        text, value = _LITERALS[first]
        for position, byte in enumerate(text, self._at):
            if self._body[position : position + 1] != bytes((byte,)):
                raise self._error("Invalid value.", position)
        self._at += len(text)
        return value

    def _number(self) -> int | float:
        start = self._at
        match = _NUMBER.match(self._body, start)
        if match is None:
            return self._nan_or_infinity()
        self._at = match.end()
        sign, whole, fraction, exponent_sign, exponent = match.groups()
        if exponent is None and fraction is None and self._peek() == b".":
            raise self._error("Miss fraction part in number.", self._at + 1)
        if exponent is None and self._peek() in (b"e", b"E") and self._peek():
            signed = self._body[self._at + 1 : self._at + 2] in (b"+", b"-") and self._at + 1 < len(self._body)
            raise self._error("Miss exponent in number.", self._at + 1 + signed)
        if exponent is None and fraction is None:
            integer = int(sign + whole) if len(whole) < 21 else 1 << 64
            if -(1 << 63) <= integer < 1 << 64:
                return integer
        power = int((exponent_sign or b"") + (exponent.lstrip(b"0")[:12] or b"0")) if exponent else 0
        value = _decimal(whole, fraction or b"", power, largest=1 << 63 if sign else (1 << 64) - 1)
        if value is None:
            raise self._error("Number too big to be stored in double.", start)
        return -value if sign else value

    def _nan_or_infinity(self) -> float:
        negative = self._peek() == b"-"
        self._at += negative
        for text in (b"NaN", b"Infinity", b"Inf"):
            if self._body.startswith(text, self._at):
                break
        else:
            raise self._error("Invalid value.")
        self._at += len(text)
        if text == b"Inf" and self._peek() == b"i":
            raise self._error("Invalid value.")
        value = float(text)
        if self._peek() in (b".", b"e", b"E"):  # RapidJSON reads on as if a 0 had stood there: NaN.5 is 0.5
            rest = _NUMBER_TAIL.match(self._body, self._at)
            assert rest is not None  # the pattern matches the empty string
            reader = _Reader(b"0" + rest.group(), self._offset + self._at - 1)
            value = float(reader._number())
            self._at += reader._at - 1
        return -value if negative else value

    def _string(self) -> str:
        """Read a string whose opening quote is next. RapidJSON does not check that it is UTF-8."""
        self._at += 1
        parts: list[bytes] = []
        while True:
            plain = _PLAIN_TEXT.match(self._body, self._at)
            assert plain is not None  # the pattern matches the empty string
            parts.append(plain.group())
            self._at = plain.end()
            mark = self._peek()
            if mark == b'"':
                self._at += 1
                return b"".join(parts).decode("utf-8", "surrogateescape")
            if mark == _END:
                raise self._error("Missing a closing quotation mark in string.")
            if mark != b"\\":
                raise self._error("Invalid escape character in string.")
            parts.append(self._escape())

    def _escape(self) -> bytes:
        start = self._at
        letter = self._body[start + 1 : start + 2]
        self._at += 2
        if letter != b"u":
            if not letter or letter[0] not in _ESCAPES:
                raise self._error("Invalid escape character in string.", start)
            return bytes((_ESCAPES[letter[0]],))
        code = self._hex4(start)
        if 0xD800 <= code <= 0xDBFF:
            follows = self._body[self._at : self._at + 2] == b"\\u"
            self._at += 2
            low = self._hex4(start) if follows else 0
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._error("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + low - 0xDC00
        return chr(code).encode("utf-8", "surrogatepass")

    def _hex4(self, escape_start: int) -> int:
        digits = self._body[self._at : self._at + 4]
        if not re.fullmatch(rb"[0-9A-Fa-f]{4}", digits):
            raise self._error("Incorrect hex digit after \\u escape in string.", escape_start)
        self._at += 4
        return int(digits, 16)

    def _skip_space(self) -> None:
        match = _SPACE.match(self._body, self._at)
        assert match is not None  # the pattern matches the empty string
        self._at = match.end()

    def _peek(self) -> bytes:
        return self._body[self._at : self._at + 1]

    def _error(self, message: str, offset: int | None = None) -> StatusError:
        at = self._offset + (self._at if offset is None else offset)
        return invalid_argument(f"JSON Parse error: {message} at offset: {at}")


def _object(items: list[Any]) -> dict[str, Any]:
    """Build an object from names and values in turn; the first of two equal names is found."""
    pairs = list(zip(items[::2], items[1::2], strict=True))
    found = dict(reversed(pairs))
    if len(found) == len(pairs):
        return dict(pairs)
    repeated = RepeatedKeys(found)
    repeated.pairs = pairs
    return repeated


def _decimal(whole: bytes, fraction: bytes, power: int, largest: int) -> float | None:
    """Convert an unsigned decimal as RapidJSON does without kParseFullPrecisionFlag.

    Args:
        whole: the digits before the point.
        fraction: the digits after it.
        power: the decimal exponent.
        largest: the last integer that still is accumulated as an integer.

    Returns:
        The double, or None where RapidJSON calls the number too big.
    """
    if len(whole) + len(fraction) <= 15 and abs(power - len(fraction)) <= 22:
        return float(b"%be%d" % (whole + fraction, power - len(fraction)))  # exact either way
    if len(whole) > 20 or int(whole) > largest:
        return _big_integer(whole, power, largest)
    integer, taken = int(whole), 0
    digits = len(whole) - 1  # significant digits, of which RapidJSON does not count the first
    for digit in fraction:
        if integer > 0x1FFFFFFFFFFFFF:  # 2**53 - 1: beyond it RapidJSON goes on in floating point
            break
        integer = integer * 10 + digit - 48
        taken += 1
        digits += integer != 0
    significand = float(integer)
    for digit in fraction[taken:]:
        if digits >= 17:
            break
        significand = significand * 10.0 + (digit - 48)
        taken += 1
        digits += significand > 0.0
    if power > 308 + taken:
        return None
    return _scale(significand, power - taken)


def _big_integer(whole: bytes, power: int, largest: int) -> float | None:
    """Convert an integer of more than 64 bits: from there on RapidJSON accumulates a double."""
    kept = 19 if int(whole[:20]) > largest else 20  # digits that still fit; 10**18 always does
    kept -= int(whole[:kept]) > largest
    significand = float(int(whole[:kept]))
    for digit in whole[kept:]:
        if significand >= 1.7976931348623157e307:
            return None
        significand = significand * 10 + (digit - 48)
    return None if power > 308 else _scale(significand, power)


def _scale(significand: float, power: int) -> float:
    """Return significand * 10**power in RapidJSON's two steps; subnormal results become zero.

    TensorFlow Serving handles requests in threads that flush subnormal numbers to zero.
    """
    if power < -308:
        significand, power = _flush(significand / 1e308), power + 308
    if power < -308:
        return 0.0
    return _flush(significand * POWERS_OF_TEN[power] if power >= 0 else significand / POWERS_OF_TEN[-power])


def _flush(value: float) -> float:
    return value if value >= _SMALLEST_NORMAL else 0.0
