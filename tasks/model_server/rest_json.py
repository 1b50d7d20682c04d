"""Converts request bodies to tensors as TensorFlow Serving's REST interface does.

A body of numbers in regular lists takes the quick way (`quick_json`), without Python touching an element.
Everything else (repeated keys, ragged rows, wrong types, decimals on which readers differ) goes through
`exact_json` and `json_tensors`, which know every rule and its message. Both give equal tensors.

Source: TensorFlow Serving, tensorflow_serving/util/json_tensor.cc.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tasks.model_server import exact_json, quick_json
from tasks.model_server.json_tensors import TensorBuilder, is_base64_object, text_of
from tasks.model_server.status import StatusError, invalid_argument
from tasks.model_server.tensors import Tensor

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
        StatusError: the body is not JSON or not a predict request, or its values do not fit the signature.
    """
    return decode_quickly(body, inputs_of) or _decode_exactly(body, inputs_of)


def decode_quickly(body: bytes, inputs_of: InputsOf) -> PredictBody | None:
    """Read the body of a predict request if that takes no longer than NumPy does, else return None.

    Raises:
        StatusError: the model has no such signature.
    """
    document = quick_json.read(body)
    if document is None:
        return None
    signature_name = document.content.get("signature_name", "")
    if not isinstance(signature_name, str):
        return None
    inputs = _inputs(signature_name, inputs_of)
    try:
        is_row_format = _is_row_format(document.content)
    except StatusError:
        return None  # its message shows numbers, and these may differ in their last places
    tensors = quick_json.tensors(document, inputs, is_row_format)
    return None if tensors is None else PredictBody(signature_name, is_row_format, tensors)


def _decode_exactly(body: bytes, inputs_of: InputsOf) -> PredictBody:
    document = exact_json.parse(body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {text_of(document)} Is not object")
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid_argument(
            f"JSON Value: {text_of(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    inputs = _inputs(signature_name, inputs_of)
    is_row_format = _is_row_format(document)
    if is_row_format:
        return PredictBody(signature_name, True, _tensors_of_rows(document["instances"], inputs))
    return PredictBody(signature_name, False, _tensors_of_columns(document["inputs"], inputs))


def _inputs(signature_name: str, inputs_of: InputsOf) -> Mapping[str, int]:
    inputs = inputs_of(signature_name)
    if not inputs:
        raise invalid_argument(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    return inputs


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
