"""Converts a column of a file to the values that a feature of a declared kind is trained on and served with.

    kind         values                                                  array
    number       numbers, or text that is one                            float32, or `dtype`
    category     text, or whole numbers, which become text               text
    text         text                                                    text
    boolean      true, false, yes, no, 1 or 0                            bool
    integer_id   whole numbers of at most 64 bits                        int64
    date         dates and times, or whole numbers in the unit           int64: days or seconds since 1970-01-01 UTC

Times without a zone are read as UTC, and fractions of a second are rounded down. No other value is changed: what a kind
does not allow is an error that names the file, the column, the row and the value. The first row has the number 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from configs.redaction import redact
from configs.sections.features import Feature
from configs.times import read_moment
from tasks.datasets.fitting import FLOATS_ALL_WHOLE, cast_exactly, must_survive
from tasks.datasets.rounding import Rounding
from tasks.datasets.strings import TEXT, Array
from tasks.errors import DataError, WrongFile
from tasks.words import one_line

INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_S = 86_400
SHOWN_ROWS = 5
BLANK = "an empty or blank text"
WORDS = {
    "number": "finite numbers",
    "category": "text or whole numbers",
    "text": "text",
    "boolean": "true or false",
    "integer_id": "whole numbers of at most 64 bits",
    "date": "dates in ISO 8601, or whole numbers in its unit",
}


class _Unfit(Exception):
    """A value does not fit its kind; the argument is why."""


def converted(column: Any, feature: Feature, where: str, field: str, *, given: bool = False) -> Array:
    """Return a column as an array of one value for each row; the stand-in replaces missing values.

    Args:
        column: a pyarrow chunked array. where: the file and the column, for messages. field: of the configuration.
        given: the rows are given to a command and not trained on, so that they may be as similar as they like.

    Raises:
        WrongFile: a value is missing and has no stand-in, does not fit the kind, or the values differ by less than
            float32 or float64 can tell apart.
    """
    whole = ColumnOfBlocks(feature, where, field, given=given)
    found = whole.block(column)
    whole.finish()
    return found


class ColumnOfBlocks:
    """Converts a column whose rows come in blocks to the array that `converted` makes of the whole column."""

    def __init__(self, feature: Feature, where: str, field: str, *, given: bool = False) -> None:
        """Begin with row 0; the arguments are those of `converted`."""
        self._feature, self._where, self._field, self._given = feature, where, field, given
        self._row = 0
        self._rounding = Rounding()
        self._has_fraction, self._inexact, self._beyond_float64 = False, "", ""

    def block(self, column: Any) -> Array:
        """Return the next rows.

        Raises:
            WrongFile: as `converted`; numbers of rows that a message counts are those of this block.
        """
        feature, where = self._feature, self._where
        column = plain(column, where)
        missing = missing_rows(column)
        if missing.any() and feature.missing is None:
            raise WrongFile(
                f"{where} must have a value in every row, got none in {_rows(missing, self._row)}; declare the value "
                f"that stands for a missing one, in {self._field}.missing, or fill the gaps"
            )
        present = column.filter(~missing) if missing.any() else column
        numbers = np.flatnonzero(~missing)
        values = _values(present, feature, where, numbers + self._row)
        if feature.kind == "number" and not self._given:
            self._rounding.add(values)
        if missing.any():
            value = stand_in(feature)
            if feature.kind == "number":  # a column of bytes may have a stand-in of -1, and whole numbers one of 0.5
                dtype = "int64" if values.dtype.kind in "iu" and isinstance(value, int) else "float64"
                values = _exactly(values, dtype, where)
            whole = np.empty(len(missing), values.dtype)
            whole[numbers] = values
            whole[missing] = value
            values = whole
        found = self._as_served(values)
        self._row += len(missing)
        return found

    def finish(self) -> None:
        """Say what is wrong with the column as a whole.

        Raises:
            WrongFile: as `converted`.
        """
        lost = self._rounding.words() if self._feature.dtype == "float32" else ""
        if lost:
            raise WrongFile(f"{self._where} must have numbers that float32 can tell apart, {lost}; set dtype: float64")
        close = self._rounding.words_of_scaling() if self._feature.dtype != "float32" else ""
        if close:
            raise WrongFile(
                f"{self._where} must have numbers that float64 can tell apart after they were scaled, {close}; write "
                "the difference from a constant into the file, or ignore the column"
            )
        refused = self._beyond_float64 if self._has_fraction else self._inexact
        if refused:
            raise WrongFile(refused)

    def _as_served(self, values: Array) -> Array:
        """Return values in the dtype of the input."""
        kind = self._feature.kind
        dtype = {"number": self._feature.dtype, "boolean": "bool", "integer_id": "int64", "date": "int64"}.get(kind, "")
        if not dtype:
            return values
        self._has_fraction = self._has_fraction or not must_survive(values, np.dtype(dtype))
        try:
            return _exactly(values, dtype, self._where, self._row)
        except WrongFile as exc:
            with np.errstate(over="ignore"):
                cast = values.astype(dtype)
            if np.dtype(dtype).kind != "f" or not np.isfinite(cast).all():
                raise
            self._inexact = self._inexact or str(exc)  # whole numbers among fractions are rounded like these
            self._beyond_float64 = self._beyond_float64 or self._changed_by_float64(values)
            return cast

    def _changed_by_float64(self, values: Array) -> str:
        """Return why a column with these whole numbers and with fractions is refused, or an empty text."""
        try:
            _exactly(values, "float64", self._where, self._row)
        except WrongFile as exc:
            return str(exc)
        return ""


def stand_in(feature: Feature) -> Any:
    """Return the value that a client sends for a missing one, or None if there is none."""
    if feature.kind == "date" and isinstance(feature.missing, str):
        return _date(feature.missing, feature.unit)
    return feature.missing


def missing_rows(column: Any) -> Array:
    """Return which rows have no value, bool (n,)."""
    return np.asarray(column.is_null(nan_is_null=True).to_numpy(), np.bool_)


def refuse_missing(column: Any, where: str, first_row: int = 0) -> None:
    """Raise `WrongFile` if a value is missing; the column begins with row `first_row`."""
    missing = missing_rows(column)
    if missing.any():
        raise WrongFile(
            f"{where} must have a value in every row, got none in {_rows(missing, first_row)}; remove these rows"
        )


def plain(column: Any, where: str) -> Any:
    """Return a pyarrow column without dictionaries, extensions and other encodings of text.

    Raises:
        WrongFile: the column has lists, structures, bytes or another type that no kind can be.
    """
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_null(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return column.cast(pa.string())
    if types.is_decimal(kind) and kind.scale == 0:  # ids of a database may have more digits than a float64
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column.cast(pa.string())
    if types.is_decimal(kind) or types.is_float16(kind):  # Arrow cannot compare float16
        return column.cast(pa.float64())
    known = (types.is_string, types.is_boolean, types.is_integer, types.is_floating, types.is_date, types.is_timestamp)
    if not any(check(kind) for check in known):
        nested = "; write one column for each part" if types.is_nested(kind) else "; convert it"
        raise WrongFile(f"{where} must have numbers, text, booleans or dates, got {kind}{nested}")
    return column


def _values(column: Any, feature: Feature, where: str, numbers: Array) -> Array:
    """Return values without gaps. `numbers` are the numbers of their rows, for messages."""
    from pyarrow import types

    kind, given = feature.kind, column.type
    if types.is_string(given):
        return _of_texts(column, feature, where, numbers)
    if kind == "date" and (types.is_date(given) or types.is_timestamp(given)):
        return _of_times(column, feature, where, numbers)
    if kind == "boolean" and types.is_boolean(given):
        return np.asarray(column.to_numpy(), np.bool_)
    if types.is_integer(given) or types.is_floating(given):
        return _of_numbers(np.asarray(column.to_numpy()), feature, where, numbers)
    raise WrongFile(
        f"{where} must have {WORDS[kind]}, because its kind is {kind}, got {given}; declare another kind, or convert it"
    )


def _of_numbers(array: Array, feature: Feature, where: str, numbers: Array) -> Array:
    """Return numbers as values of a kind that can be given as numbers."""
    kind = feature.kind
    if kind == "number":
        bad = ~np.isfinite(array)
        _refuse(bad, array, feature, where, numbers)
        return array
    whole = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        bad = (whole != np.floor(whole)) | (np.abs(whole) >= FLOATS_ALL_WHOLE)
    if array.dtype.kind in "iu":
        bad = (array > np.iinfo(np.int64).max) & (kind != "category")
    if kind == "boolean":
        bad = bad | ~np.isin(array, (0, 1))
    if kind == "text":
        bad[:] = True
    _refuse(bad, array, feature, where, numbers)
    if kind == "boolean":
        return array.astype(np.bool_)
    integers = array if array.dtype.kind == "u" and kind == "category" else array.astype(np.int64)
    return integers.astype(TEXT) if kind == "category" else integers


def _refuse(bad: Array, array: Array, feature: Feature, where: str, numbers: Array) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise _misfit(where, feature, str(array[first]), int(numbers[first]), int(bad.sum()))


def _of_times(column: Any, feature: Feature, where: str, numbers: Array) -> Array:
    """Return Arrow's dates and times, which are UTC if they have a zone, as numbers in the unit."""
    micros = np.asarray(column.to_numpy()).astype("M8[us]").astype(np.int64)
    seconds = micros // 1_000_000
    if feature.unit == "seconds":
        return seconds
    _whole_days(micros % (DAY_S * 1_000_000) != 0, column, where, numbers)
    return seconds // DAY_S


def _whole_days(bad: Array, column: Any, where: str, numbers: Array) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise WrongFile(
            f"{where} must have dates without a time of day, because its unit is days, got {column[first]} in row "
            f"{numbers[first]}; set unit: seconds"
        )


def _of_texts(column: Any, feature: Feature, where: str, numbers: Array) -> Array:
    """Return values from text; each different text is read once."""
    quick = _quick(column, feature)
    if quick is not None:
        return quick
    encoded = column.combine_chunks().dictionary_encode()
    if hasattr(encoded, "chunks"):
        encoded = encoded.combine_chunks() if encoded.num_chunks != 1 else encoded.chunk(0)
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False))
    texts = encoded.dictionary.to_pylist()
    if feature.kind in ("category", "text"):
        return np.array(texts, TEXT)[codes] if texts else np.empty(0, TEXT)
    read, found, bad = _reader(feature), [], {}
    for code, text in enumerate(texts):
        try:
            found.append(read(text))
        except _Unfit as exc:
            bad[code] = str(exc)
            found.append(0)
    if bad:
        places = np.isin(codes, list(bad))
        first = int(np.argmax(places))
        why = bad[int(codes[first])]
        raise _misfit(where, feature, texts[codes[first]], int(numbers[first]), int(places.sum()), why)
    return np.array(found)[codes] if found else np.empty(0, np.int64)


def _quick(column: Any, feature: Feature) -> Array | None:
    """Return numbers that Arrow can read by itself, or None; what it cannot read is read and explained one by one."""
    import pyarrow as pa
    from pyarrow import compute

    if feature.kind not in ("number", "integer_id"):
        return None
    trimmed = compute.utf8_trim_whitespace(column)
    if compute.any(compute.match_substring(trimmed, "x", ignore_case=True)).as_py():
        return None  # Arrow reads 0x1F as 31
    try:
        return np.asarray(trimmed.cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid:
        if feature.kind == "integer_id":
            return None
    try:
        found = np.asarray(trimmed.cast(pa.float64()).to_numpy())
    except pa.ArrowInvalid:
        return None
    return found if np.isfinite(found).all() and (np.abs(found) < FLOATS_ALL_WHOLE).all() else None


def _reader(feature: Feature) -> Callable[[str], Any]:
    if feature.kind == "date":
        return lambda text: _date(text, feature.unit)
    return {"number": _number, "integer_id": _integer, "boolean": _truth}[feature.kind]


def _number(text: str) -> float | int:
    stripped = text.strip()
    if INTEGER.fullmatch(stripped) and len(stripped) < 400:
        whole = int(stripped)
        if float(whole) != whole:
            raise _Unfit("it has more digits than float64 holds; declare it as integer_id or category if it is an id")
        return float(whole)
    if not NUMBER.fullmatch(stripped) or not np.isfinite(float(stripped)):
        raise _Unfit("")
    return float(stripped)


def _integer(text: str) -> int:
    stripped = text.strip()
    if not INTEGER.fullmatch(stripped) or len(stripped) > 20 or not -(2**63) <= int(stripped) < 2**63:
        raise _Unfit("declare it as category if it has letters or leading zeros" if stripped else "")
    return int(stripped)


def _truth(text: str) -> bool:
    try:
        return TRUTH[text.strip().lower()]
    except KeyError:
        raise _Unfit("") from None


def _date(text: str, unit: str) -> int:
    """Return a date or time as a whole number in the unit since 1970-01-01 UTC."""
    stripped = text.strip()
    if INTEGER.fullmatch(stripped) and len(stripped.lstrip("+-")) != 8:  # 20260131 is ISO 8601, too
        return _integer(stripped)
    try:
        moment = read_moment(stripped)
    except ValueError:
        raise _Unfit("") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if unit == "seconds":
        return (moment - EPOCH) // timedelta(seconds=1)
    if (moment - EPOCH) % timedelta(days=1):
        raise _Unfit("it has a time of day, and the unit is days; set unit: seconds")
    return (moment - EPOCH) // timedelta(days=1)


def date_of(number: int, unit: str) -> str:
    """Return a served date as people read it."""
    try:
        moment = EPOCH + (timedelta(days=number) if unit == "days" else timedelta(seconds=number))
    except OverflowError:
        return str(number)
    return date.isoformat(moment) if unit == "days" else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _exactly(values: Array, dtype: str, where: str, first_row: int = 0) -> Array:
    """Return numbers in a dtype that holds all of them."""
    try:
        return cast_exactly(values, dtype, f"{where} must fit {dtype}", "it", first_row)
    except DataError as exc:
        raise WrongFile(str(exc)) from exc


def _misfit(  # noqa: PLR0913, PLR0917  parts of one message
    where: str, feature: Feature, value: str, row: int, count: int, why: str = ""
) -> WrongFile:
    shown = f"'{one_line(redact(value), 60)}'" if value.strip() else BLANK
    more = f" and in {count - 1:,} more rows" if count > 1 else ""
    return WrongFile(
        f"{where} must have {WORDS[feature.kind]}, because its kind is {feature.kind}, got {shown} in row {row}{more}"
        f"; {why or 'correct the file, or declare another kind'}"
    )


def _rows(missing: Array, first_row: int = 0) -> str:
    """Return how many rows are missing, and the first ones."""
    found = np.flatnonzero(missing)
    first = ", ".join(map(str, (found[:SHOWN_ROWS] + first_row).tolist()))
    return f"{len(found):,} of {len(missing):,} rows, first in row{'s' if len(found) > 1 else ''} {first}"
