"""Request bodies to tensors, as TensorFlow Serving's REST interface does.

A body of numbers in regular lists goes through orjson and NumPy without Python touching an element.
Everything else (`NaN`, repeated keys, ragged rows, wrong types: whatever NumPy would guess about) goes
through `exact_json` and `json_tensors`, which know every rule and its message. Both give equal tensors.

Source: TensorFlow Serving, tensorflow_serving/util/json_tensor.cc.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from tasks.model_server import exact_json
from tasks.model_server.json_tensors import TensorBuilder, is_base64_object, text_of, to_numpy
from tasks.model_server.status import StatusError, invalid_argument
from tasks.model_server.tensors import DT_BOOL, DT_DOUBLE, DT_FLOAT, DT_STRING, NUMPY_DTYPES, Tensor

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_LONG_DECIMAL: Final = re.compile(rb"[0-9.]{17}|[0-9][eE]")
_TOO_BIG: Final = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")
_SHORT_BODY: Final = 2048
"""Up to this size, in bytes, searching the text for long decimals costs less than NumPy's checks."""
_LARGE: Final = 1e300
"""Where RapidJSON begins to refuse numbers that a double can still hold."""
_INTEGER_RANGES: Final = {
    3: (-(2**31), 2**31 - 1), 4: (-(2**31), 2**31 - 1), 5: (-(2**31), 2**31 - 1), 6: (-(2**31), 2**31 - 1),
    9: (-(2**63), 2**63 - 1), 22: (0, 2**32 - 1), 23: (0, 2**64 - 1),
}  # fmt: skip
"""What a JSON integer may be for each integer DataType, before 8 and 16 bit ones are cut to size."""

InputsOf = Callable[[str], Mapping[str, int]]
"""From a signature's name to the DataType of each of its inputs; raises StatusError if there is none."""


class PredictBody(NamedTuple):
    """A decoded predict request.

    Attributes:
        signature_name: as sent; empty stands for the default signature.
        is_row_format: True for `instances` (answered with `predictions`), False for `inputs`.
        inputs: one tensor for each input of the signature.
    """

    signature_name: str
    is_row_format: bool
    inputs: dict[str, Tensor]


def decode_predict(body: bytes, inputs_of: InputsOf) -> PredictBody:
    """Read the body of a predict request.

    Args:
        body: JSON text, uncompressed.
        inputs_of: looks the inputs of a signature up.

    Raises:
        StatusError: not JSON, not a predict request, or values that do not fit the signature.
    """
    document = _orjson_document(body)
    is_exact = document is None
    if is_exact:
        document = exact_json.parse(body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {text_of(document)} Is not object")
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid_argument(
            f"JSON Value: {text_of(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    inputs = inputs_of(signature_name)
    if not inputs:
        raise invalid_argument(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    is_row_format = _is_row_format(document)
    if not is_exact:
        tensors = _quick_tensors(document, inputs, is_row_format, body)
        if tensors is not None:
            return PredictBody(signature_name, is_row_format, tensors)
        document = exact_json.parse(body)
    if is_row_format:
        return PredictBody(signature_name, True, _tensors_of_rows(document["instances"], inputs))
    return PredictBody(signature_name, False, _tensors_of_columns(document["inputs"], inputs))


def _is_row_format(document: dict[str, Any]) -> bool:
    """Tell `instances` from `inputs`, and refuse a document that has not exactly one of them."""
    if "instances" not in document:
        if "inputs" not in document:
            raise invalid_argument("Missing 'inputs' or 'instances' key")
        return False
    if "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {text_of(document)} Not formatted correctly expecting only"
            " one of 'inputs' or 'instances' keys to exist "
        )
    if not isinstance(document["instances"], list):
        raise invalid_argument(f"JSON Value: {text_of(document)} Expecting 'instances' to be an list/array")
    if not document["instances"]:
        raise invalid_argument(f"JSON Value: {text_of(document)} No values in 'instances' array")
    return True


# --- the quick way: orjson and NumPy ---


def _orjson_document(body: bytes) -> Any:
    """Return the document if orjson certainly reads it as RapidJSON does, else None.

    Differences in the last place of a double are looked for later, where the DataType is known.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return document
    # orjson keeps the last of two equal keys. Every member of an object has one colon, so the text has
    # more colons than the document has members if a key is repeated (or if a string holds a colon).
    colons = body.count(b":")
    rows, columns = document.get("instances"), document.get("inputs")
    known = len(document) + (len(columns) if isinstance(columns, dict) else 0)
    if colons != known and isinstance(rows, list):
        known += sum(len(row) for row in rows if isinstance(row, dict))
    if colons != known and _STRING.sub(b"", body).count(b":") != _count_members(document):
        return None
    return document


def _count_members(document: Any) -> int:
    count, left = 0, [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            count += len(value)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return count


def _quick_tensors(
    document: dict[str, Any], inputs: Mapping[str, int], is_row_format: bool, body: bytes
) -> dict[str, Tensor] | None:
    """Return the tensors, or None where the exact rules must decide."""
    # NumPy takes true for 1 where both are in one list, that is between brackets. Single letters are found ten
    # times faster than words, and a body of numbers has none of these there.
    lists = body[body.find(b"[") : body.rfind(b"]")]
    has_bool = (b"u" in lists or b"l" in lists) and (b"true" in lists or b"false" in lists)
    if (b"e" in lists or b"E" in lists) and _TOO_BIG.search(lists):
        return None  # RapidJSON refuses large exponents even of 0, and many digits whatever exponent follows
    short = (len(body) <= _SHORT_BODY or DT_DOUBLE in inputs.values()) and not _LONG_DECIMAL.search(body)
    try:
        columns = _columns(document["instances" if is_row_format else "inputs"], inputs, is_row_format)
        tensors = {}
        for name, dtype in inputs.items():
            if dtype == DT_STRING:
                tensors[name] = _string_tensor(columns[name], name, is_row_format)
                continue
            tensor = _number_tensor(columns[name], dtype, short)
            if tensor is None or (has_bool and dtype != DT_BOOL):
                return None
            tensors[name] = tensor
        return tensors
    except (StatusError, LookupError, ValueError, TypeError, OverflowError):
        return None  # whatever is wrong, the exact rules say it in the right words


def _columns(content: Any, inputs: Mapping[str, int], is_row_format: bool) -> dict[str, Any]:
    """Return what was sent for each input, by name.

    Raises:
        LookupError: a name is missing or unknown.
    """
    first = content[0] if is_row_format else content
    if not isinstance(first, dict) or is_base64_object(first):
        (name,) = inputs
        return {name: content}
    if not is_row_format:
        return dict(content)
    if any(len(row) != len(inputs) for row in content):
        raise LookupError
    return {name: [row[name] for row in content] for name in inputs}


def _string_tensor(column: Any, name: str, is_row_format: bool) -> Tensor:
    builder = TensorBuilder(name, DT_STRING)
    if not is_row_format:
        return builder.whole(column)
    for value in column:
        builder.add_row(value)
    return builder.batch(len(column))


def _number_tensor(column: Any, dtype: int, short: bool) -> Tensor | None:
    """Return the tensor of nested lists of numbers, or None where NumPy cannot be trusted with them.

    Args:
        column: what was sent.
        dtype: DataType number.
        short: whether every decimal in the body is so short that all readers agree on it.
    """
    array = np.array(column)
    kind = array.dtype.kind
    if dtype in (DT_FLOAT, DT_DOUBLE):
        if kind not in "fiu" or not (short or kind != "f" or (dtype == DT_FLOAT and _rounds_alike(array))):
            return None
    elif dtype == DT_BOOL:
        if kind != "b":
            return None
    else:
        low, high = _INTEGER_RANGES[dtype]
        if kind not in "iu" or int(array.min()) < low or int(array.max()) > high:
            return None
    flat = array.reshape(-1)
    if short and kind == "f":  # nothing too large or too small can be among them
        return Tensor(dtype, array.shape, flat.astype(NUMPY_DTYPES[dtype], copy=False))
    return Tensor(dtype, array.shape, to_numpy(flat, dtype))


def _rounds_alike(doubles: np.ndarray[Any, Any]) -> bool:
    """Return whether RapidJSON's doubles, a few units off at most, round to the same float32."""
    if np.abs(doubles).max(initial=0) > _LARGE:
        return False
    few_units = doubles * 2.0**-50
    with np.errstate(over="ignore", under="ignore"):
        unsure = (doubles - few_units).astype(np.float32) != (doubles + few_units).astype(np.float32)
    if not np.count_nonzero(unsure):
        return True
    # An integer that a double holds comes out exact, even half-way between two float32.
    return bool(np.all(~unsure | ((doubles == np.rint(doubles)) & (np.abs(doubles) < 2**53))))


# --- the exact way ---


def _tensors_of_rows(rows: list[Any], inputs: Mapping[str, int]) -> dict[str, Tensor]:
    """Read `instances`: a list of values (one input), or of objects with one member for each input."""
    if not isinstance(rows[0], dict) and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    builders = {name: TensorBuilder(name, dtype) for name, dtype in inputs.items()}
    named = _is_object(rows[0])
    for number, row in enumerate(rows):
        if named != _is_object(row):
            expected = "Expecting object but got list" if named else "Expecting value/list but got object"
            raise invalid_argument(f"{expected} at item {number} of input list")
        if named:
            _add_named_row(row, number, builders)
        else:
            _add(builders, next(iter(builders)), row, f"{number}")
    used = builders if named else dict([next(iter(builders.items()))])
    return {name: builder.batch(len(rows)) for name, builder in used.items()}


def _add_named_row(row: dict[str, Any], number: int, builders: dict[str, TensorBuilder]) -> None:
    pairs = [(name.partition("\0")[0], value) for name, value in exact_json.members(row)]  # a C string there
    for name, value in pairs:
        _add(builders, name, value, f"{number} key: {name}")
    if {name for name, _ in pairs} != builders.keys():
        raise invalid_argument(
            f"Failed to process element: {number} of 'instances' list. JSON object: {text_of(row)}"
            f" keys must be equal to: {','.join(sorted(builders))}"
        )


def _add(builders: dict[str, TensorBuilder], name: str, value: Any, where: str) -> None:
    try:
        if name not in builders:
            raise invalid_argument(f"JSON object: does not have named input: {name}")
        builders[name].add_row(value)
    except StatusError as error:
        raise invalid_argument(f"Failed to process element: {where} of 'instances' list. Error: {error}") from None


def _tensors_of_columns(content: Any, inputs: Mapping[str, int]) -> dict[str, Tensor]:
    """Read `inputs`: the value of the only input, or an object with a member for each input."""
    if not _is_object(content):
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        ((name, dtype),) = inputs.items()
        return {name: TensorBuilder(name, dtype).whole(content)}
    for name in inputs:
        if name not in content:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: TensorBuilder(name, dtype).whole(content[name]) for name, dtype in inputs.items()}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64_object(value)
