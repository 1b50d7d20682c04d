"""Converts every kind of column that a loader may return to an array of numbers, booleans, text or bytes.

No value is changed or dropped: a value that an array cannot hold exactly is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from tasks.datasets.strings import TEXT, Array, bytes_array, text_array
from tasks.datasets.times import plain_times
from tasks.errors import DataError

MISSING = {"float", "NoneType", "NAType", "NaTType"}
"""The types of missing values in a column of objects."""
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


def named_columns(value: Any, default_name: str, source: str, time: str = "") -> dict[str, Array]:
    """Return the columns of a mapping, a table or a single array, by name.

    Args:
        time: the column, if there is one, that may contain dates and times; they become ISO 8601 text.

    Raises:
        DataError: two columns have the same name, a name is invalid, or a column cannot be used.
    """
    found: dict[str, Array] = {}
    for key, column in _columns(value, default_name):
        name = _name(key, source)
        if name in found:
            raise DataError(f"'{source}' must have columns with unique names, got '{name}' twice; rename one of them")
        where = f"'{source}': '{name}'"
        found[name] = check_column(plain_times(column, where) if name == time else column, where)
    return found


def check_column(column: Any, where: str) -> Array:
    """Return a column as an array of bool, int, float, text (StringDType) or bytes (objects) with the same values.

    Numbers have the byte order of this machine and at most 64 bits.

    Raises:
        DataError: a value is missing or of another type.
    """
    try:
        array = _as_array(column, where)
    except DataError:
        raise
    except (ValueError, TypeError, OverflowError, NotImplementedError) as exc:
        raise DataError(f"{where} must be readable as an array, got {type(column).__name__}: {exc}") from exc
    if array.ndim == 0:
        raise DataError(
            f"{where} must be an array or a list with one entry for each row, got {type(column).__name__}; convert it"
        )
    if array.dtype.kind == "O":
        array = _of_objects(array, where)
    elif array.dtype.kind in "UTS":
        array = _of_strings(array, where)
    if array.dtype.kind not in "biufTO":
        raise DataError(f"{where} must contain numbers, booleans, text or bytes, got {_dtype_words(array.dtype)}")
    array = _of_64_bits(array, where)
    if array.dtype.kind == "f":
        _refuse_where(~_by_row(np.isfinite(array), np.all), where, "be finite", "NaN or infinity")
    return array


def _columns(value: Any, default_name: str) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if hasattr(value, "column_names"):  # a pyarrow table, whose `columns` have no names
        return zip(value.column_names, value.columns, strict=True)
    if hasattr(value, "columns"):
        items: Callable[[], Iterable[tuple[Any, Any]]] | None = getattr(value, "items", None)
        return items() if items else [(name, value[name]) for name in value.columns]
    return [(default_name, value)]


def _name(key: Any, source: str) -> str:
    if isinstance(key, tuple):
        raise DataError(f"'{source}' must have columns with plain names, got {key!r}; flatten them")
    if not isinstance(key, str | Integral) or isinstance(key, bool):
        raise DataError(f"the names of columns must be text or whole numbers, and '{source}' has {key!r}")
    name = str(key)
    if not name or "\0" in name or not _is_unicode(name):
        raise DataError(f"the names of columns must be valid text without NUL, and '{source}' has {name!r}")
    return name


def _as_array(column: Any, where: str) -> Array:
    """Return a column of any library as a NumPy array of any dtype."""
    library, kind = type(column).__module__.split(".")[0], type(column).__name__
    if library == "scipy" or kind in ("SparseTensor", "RaggedTensor") or "Sparse" in type(_dtype(column)).__name__:
        words = "ragged" if kind == "RaggedTensor" else "sparse"
        raise DataError(f"{where} must be a dense array, got a {words} array ({kind}); make it dense")
    if isinstance(column, np.ma.MaskedArray):
        return _unmasked(column, where)
    if library == "pandas" and not isinstance(_dtype(column), np.dtype | None):
        return _of_pandas(column, where)
    if library == "pyarrow" and hasattr(column, "null_count"):
        return _of_arrow(column, where)
    if isinstance(column, list | tuple):
        return _of_list(column, where)
    return np.asarray(column.numpy() if _is_tensor(column) else column)


def _dtype(column: Any) -> Any:
    return getattr(column, "dtype", None)


def _unmasked(column: np.ma.MaskedArray[Any, Any], where: str) -> Array:
    _refuse_where(_by_row(np.ma.getmaskarray(column), np.any), where, "have no missing values", "masked values")
    return np.asarray(column.data)


def _of_arrow(column: Any, where: str) -> Array:
    """Return a pyarrow array as a NumPy array; extension types must support the conversion."""
    missing = np.asarray(column.is_null().to_pylist(), np.bool_)
    _refuse_where(missing, where, "have no missing values", "missing values")
    chunks = getattr(column, "chunks", [column])
    if chunks and all(hasattr(chunk, "to_numpy_ndarray") for chunk in chunks):  # one tensor for each row
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in chunks])
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _of_pandas(column: Any, where: str) -> Array:
    """Return a column of a pandas dtype, without missing values, in the corresponding NumPy dtype."""
    _refuse_where(np.asarray(column.isna()), where, "have no missing values", "missing values")
    if column.dtype.kind in "Mm":
        raise DataError(f"{where} must contain numbers, booleans, text or bytes, got {_dtype_words(column.dtype)}")
    meant = getattr(column.dtype, "numpy_dtype", None)
    if isinstance(meant, np.dtype) and meant.kind in "biuf":
        return np.asarray(column.to_numpy(dtype=meant))
    categories = getattr(column.dtype, "categories", None)
    if categories is not None:
        codes = np.asarray(getattr(column, "cat", column).codes)
        return np.asarray(check_column(categories, where)[codes])
    return np.asarray(column.to_numpy())


def _of_list(column: list[Any] | tuple[Any, ...], where: str) -> Array:
    """Return a list as an array of its own dtype; text becomes objects, not an array of the longest item's width."""
    column = [_plain_row(row) for row in column]
    _refuse_masked(column, where)
    try:
        if column and all(isinstance(row, np.ndarray) and row.dtype.kind != "O" for row in column):
            return np.stack(column)
        array = np.array(column, dtype=object)
    except ValueError as exc:
        raise _ragged(where, [np.shape(row) for row in column]) from exc
    return array if array.size else np.asarray(column)


def _plain_row(row: Any) -> Any:
    """Return a row that is text, bytes or a tensor in a form that NumPy keeps as one item."""
    if isinstance(row, bytearray):
        return bytes(row)
    return row.numpy() if _is_tensor(row) else row


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.startswith("tensorflow.") and hasattr(value, "numpy")


def _of_objects(array: Array, where: str) -> Array:
    """Return objects that are all text, all bytes or all numbers; refuse other types."""
    items = array.ravel().tolist()
    if not items:  # a table without rows; the caller reports that
        return text_array((), array.shape)
    types = {type(item) for item in items}
    if all(issubclass(one, list | tuple | np.ndarray) for one in types):
        return _of_rows(items, where) if array.ndim == 1 else _refuse_types(array, items, where)
    if all(issubclass(one, str) for one in types):
        return _of_strings(array, where)
    if all(issubclass(one, bytes | bytearray) for one in types):
        return bytes_array(map(bytes, items), array.shape)
    if all(issubclass(one, NUMBERS) for one in types):
        return _of_numbers(array, items, where)
    return _refuse_types(array, items, where)


def _of_rows(rows: list[Any], where: str) -> Array:
    """Return rows that are lists or arrays of the same shape as one array."""
    _refuse_masked(rows, where)
    shapes = [np.array(row, dtype=object).shape for row in rows]
    if len(set(shapes)) != 1:
        raise _ragged(where, shapes)
    stacked = np.array([np.array(row, dtype=object).tolist() for row in rows], dtype=object)
    if {type(item) for item in stacked.ravel().tolist()} & {list, tuple, np.ndarray}:
        raise DataError(f"{where} must have the same shape in every row, got ragged lists in row 0; pad them")
    return _of_objects(stacked, where)


def _refuse_masked(rows: Iterable[Any], where: str) -> None:
    masked = np.array([_is_masked(row) for row in rows], np.bool_)
    _refuse_where(masked, where, "have no missing values", "masked values")


def _is_masked(row: Any) -> bool:
    if isinstance(row, list | tuple) and row and isinstance(row[0], list | tuple | np.ma.MaskedArray):
        return any(map(_is_masked, row))
    return isinstance(row, np.ma.MaskedArray) and bool(np.ma.getmaskarray(row).any())


def _ragged(where: str, shapes: list[tuple[int, ...]]) -> DataError:
    other = next((number for number, shape in enumerate(shapes) if shape != shapes[0]), 0)
    return DataError(
        f"{where} must have the same shape in every row, got shape {shapes[0]} in row 0 and {shapes[other]} in row "
        f"{other}; pad or cut the rows"
    )


def _of_numbers(array: Array, items: list[Any], where: str) -> Array:
    """Return numbers in the dtype that holds all of them exactly."""
    found = np.array(items)
    if found.dtype.kind == "f" and all(isinstance(item, Integral) and int(item) >= 0 for item in items):
        found = np.array(items, np.uint64)  # NumPy makes floats of them if some fit int64
    if found.dtype.kind not in "biuf":
        raise DataError(f"{where} must contain whole numbers of at most 64 bits, got larger ones")
    unequal = [number for number, (had, has) in enumerate(zip(items, found.tolist(), strict=True))
               if had != has and isinstance(had, Integral)]  # fmt: skip
    if unequal:
        row = int(np.unravel_index(unequal[0], array.shape)[0])
        raise DataError(
            f"{where} must contain numbers that one dtype can hold, got {items[unequal[0]]} in row {row}, which "
            f"{found.dtype} would change"
        )
    return found.reshape(array.shape)


def _of_strings(array: Array, where: str) -> Array:
    """Return text as StringDType and bytes as objects."""
    if array.dtype.kind == "S":
        return array.astype(object)
    items = array.ravel().tolist()
    bad = next((n for n, item in enumerate(items) if not isinstance(item, str) or not _is_unicode(item)), None)
    if bad is None:  # str() of a subclass, such as an Enum, may differ
        return array if array.dtype == TEXT else text_array(map(str.__str__, items), array.shape)
    row = int(np.unravel_index(bad, array.shape)[0])
    got = f"the lone surrogate in {items[bad][:40]!r}" if isinstance(items[bad], str) else f"missing {items[bad]}"
    raise DataError(f"{where} must be valid UTF-8 text in every row, got {got} in row {row}; correct it")


def _of_64_bits(array: Array, where: str) -> Array:
    """Return numbers in a dtype that TensorFlow accepts."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # too large numbers are refused next
            narrow = array.astype(np.float64)
        lost = (narrow != array) & np.isfinite(array)
        if lost.any():
            row = int(np.argwhere(lost)[0][0])
            raise DataError(f"{where} must fit float64, got a longer number in row {row}; round it")
        return narrow
    return array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind in "iuf" else array


def _refuse_types(array: Array, items: list[Any], where: str) -> Array:
    """Raise `DataError` with the types, and the first row of the rarest."""
    names = [type(item).__name__ for item in items]
    usual = Counter(names).most_common(1)[0][0]  # of equally rare types, the first one
    first = next((n for n, name in enumerate(names) if name != usual), 0)
    row = int(np.unravel_index(first, array.shape)[0])
    missing = " or ".join(sorted(set(names) & MISSING))
    raise DataError(
        f"{where} must be all text, all bytes or all numbers, got {', '.join(sorted(set(names)))} "
        f"(row {row}: {names[first]}); convert them (Decimal to float, dates to whole seconds as int64, "
        f"others to text){f'; {missing} may be a missing value' if missing else ''}"
    )


def _refuse_where(bad: Array, where: str, rule: str, got: str) -> None:
    """Raise `DataError` if a row is bad; `bad` is of shape (rows,)."""
    if bad.any():
        raise DataError(
            f"{where} must {rule}, got {got} in {int(bad.sum())} of {len(bad)} rows, first in row "
            f"{int(np.argmax(bad))}; drop these rows or fill in the values"
        )


def _by_row(array: Array, join: Any) -> Array:
    return np.asarray(join(array, axis=tuple(range(1, array.ndim)))) if array.ndim else np.atleast_1d(array)


def _dtype_words(dtype: Any) -> str:
    if dtype.kind in "Mm":
        return f"dtype {dtype}; convert times, for example to whole seconds as int64"
    if dtype.names:
        return f"dtype {dtype}; return each field as a column of its own"
    return f"dtype {dtype}; convert it, for example to float32 or int32"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
