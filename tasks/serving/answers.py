"""Read the JSON that a model server answers with."""

from __future__ import annotations

import json
from typing import Any

import orjson


def parsed(body: bytes) -> Any:
    """Read JSON; NaN and Infinity stand bare in TensorFlow Serving's answers, which only `json` reads.

    Raises:
        ValueError: it is no JSON, or nests too deep for a reader.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)
        except RecursionError as exc:
            raise ValueError(str(exc)) from exc
