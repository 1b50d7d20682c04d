"""Reads the JSON answers of a model server."""

from __future__ import annotations

import json
from typing import Any

import orjson


def parsed(body: bytes) -> Any:
    """Read JSON; TensorFlow Serving writes NaN and Infinity without quotes, which only `json` can read.

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
