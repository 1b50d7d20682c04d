"""Writes rows as the body of a `:predict` request, and reads the JSON of requests and answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tasks.datasets.strings import Array, is_string, is_text


def predict_body(inputs: Mapping[str, Array], signature_name: str = "serving_default") -> bytes:
    """Return rows as the columnar body of a request; float32 becomes the shortest text that reads back the same.

    Args:
        inputs: one array for each input; the first axis of all is the row.

    Source: https://www.tensorflow.org/tfx/serving/api_rest#predict_api
    """
    columns = {name: _jsonable(array) for name, array in inputs.items()}
    return orjson.dumps({"signature_name": signature_name, "inputs": columns}, option=orjson.OPT_SERIALIZE_NUMPY)


def parsed(body: bytes) -> Any:
    """Read JSON; TensorFlow Serving reads and writes NaN and Infinity without quotes, which only `json` can read.

    Raises:
        ValueError: the body is not JSON, or is nested too deep.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)
        except RecursionError as exc:
            raise ValueError(str(exc)) from exc


def _jsonable(array: Array) -> Any:
    if is_string(array):
        return array.tolist() if is_text(array) else _encoded(array.tolist())
    return np.ascontiguousarray(array)


def _encoded(value: Any) -> Any:
    """Return nested lists with bytes in TensorFlow Serving's form for bytes."""
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    return {"b64": base64.b64encode(value).decode()}
