"""A client of TensorFlow Serving's REST interface, for throwaway servers and production alike.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import requests

from tasks.datasets.bodies import predict_body
from tasks.datasets.rows import Array
from tasks.errors import PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.records import TensorSpec

BODY_BYTES = 1_000_000  # about what one request should carry: the served rate is flat from there on
MAX_ROWS = 4096
CONNECTIONS = 4
TRANSIENT = {503, 504}

# TensorFlow's names of element types in /metadata, to NumPy's
DTYPES = {
    "DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16", "DT_BFLOAT16": "bfloat16",
    "DT_INT8": "int8", "DT_INT16": "int16", "DT_INT32": "int32", "DT_INT64": "int64",
    "DT_UINT8": "uint8", "DT_UINT16": "uint16", "DT_UINT32": "uint32", "DT_UINT64": "uint64",
    "DT_BOOL": "bool", "DT_STRING": "string",
}  # fmt: skip


class RestClient:
    """Ask one model of one server; every call has a time limit."""

    def __init__(self, base_url: str, model_name: str, timeout_s: float) -> None:
        """Remember where to ask; nothing is sent yet.

        Args:
            base_url: scheme, host and port. timeout_s: seconds to wait for a connection and for each answer.
        """
        self._model_url = f"{base_url}/v1/models/{model_name}"
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy from the environment must not come between us and loopback

    def close(self) -> None:
        """Close the kept-alive connections."""
        self._session.close()

    def states(self) -> dict[int, tuple[str, str]]:
        """Return version to (state, error message); see facts of the state machine in `launch.py`."""
        answer = self._get(self._model_url)
        try:
            return {
                int(v["version"]): (str(v["state"]), str(v["status"].get("error_message", "")))
                for v in answer["model_version_status"]
            }
        except (KeyError, TypeError, ValueError) as exc:
            raise ServingError(f"a status must list model_version_status, got {str(answer)[:200]}") from exc

    def signature_def(self, version: int, signature_name: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Return the inputs and outputs of a signature as the server reports them, sorted by name."""
        answer = self._get(f"{self._model_url}/versions/{version}/metadata")
        try:
            found = answer["metadata"]["signature_def"]["signature_def"][signature_name]
            return _specs(found["inputs"]), _specs(found["outputs"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ServingError(f"metadata must describe signature '{signature_name}', got {str(answer)[:200]}") from exc

    def predict(
        self, version: int, inputs: Mapping[str, Array], outputs: Sequence[TensorSpec], signature_name: str
    ) -> dict[str, Array]:
        """Return the served answer to every row, one array an output, in the order of the rows.

        Args:
            inputs: one array an input; all with the same first axis, the row.
            outputs: which outputs to read, with their dtypes.

        Raises:
            PredictionError: the server refused a request (4xx).
            ServingUnavailable, ServingTimeout: it went away or did not answer in time.
        """
        url = f"{self._model_url}/versions/{version}:predict"
        bodies = (predict_body(part, signature_name) for part in _parts(inputs))
        answers = [_read(answer, outputs) for answer in self._post_all(url, bodies)]
        return {spec.name: np.concatenate([answer[spec.name] for answer in answers]) for spec in outputs}

    def _post_all(self, url: str, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """Send bodies over a few connections and give the answers in order."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            yield from pool.map(lambda body: self._send("POST", url, body), bodies)

    def _get(self, url: str) -> Any:
        return _parse(self._send("GET", url))

    def _send(self, method: str, url: str, body: bytes | None = None) -> bytes:
        try:
            answer = self._session.request(method, url, data=body, timeout=self._timeout_s)
        except requests.Timeout as exc:
            raise ServingTimeout(
                f"the server must answer within {self._timeout_s:g} s, and {method} {url} did not; "
                "raise serving.request_timeout_s"
            ) from exc
        except requests.RequestException as exc:
            raise ServingUnavailable(f"the server must be reachable at {url}, got {type(exc).__name__}") from exc
        if answer.ok:
            return answer.content
        text = answer.text[:500]
        if answer.status_code in TRANSIENT:
            raise ServingUnavailable(f"{method} {url} must be answered, got {answer.status_code}: {text}")
        raise PredictionError(f"{method} {url} must be accepted, got {answer.status_code}: {text}")


def _specs(tensors: Mapping[str, Any]) -> list[TensorSpec]:
    """Read TensorInfo messages in JSON: sizes are strings, -1 is free, an unknown rank has no dim."""
    specs = []
    for name, info in sorted(tensors.items()):
        shape = info["tensor_shape"]
        sizes = tuple(None if int(d["size"]) < 0 else int(d["size"]) for d in shape.get("dim", []))
        specs.append(
            TensorSpec(name, DTYPES.get(info["dtype"], info["dtype"]), None if shape.get("unknown_rank") else sizes)
        )
    return specs


def _parts(inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Cut rows into parts of about `BODY_BYTES` of JSON; memory stays flat however many rows."""
    n_rows = len(next(iter(inputs.values())))
    row_bytes = sum(_json_bytes(array) for array in inputs.values())
    step = max(1, min(MAX_ROWS, BODY_BYTES // max(1, row_bytes)))
    for start in range(0, n_rows, step):
        yield {name: array[start : start + step] for name, array in inputs.items()}


def _json_bytes(array: Array) -> int:
    """Estimate what one row takes as JSON."""
    values = int(np.prod(array.shape[1:], dtype=np.int64))
    return values * (array.dtype.itemsize if array.dtype.kind in "US" else 10)


def _parse(body: bytes) -> Any:
    """Read JSON; NaN and Infinity stand bare in TensorFlow Serving's answers, which only `json` reads."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)
        except ValueError as exc:
            raise ServingError(f"the server must answer in JSON, got {body[:200]!r}") from exc


def _read(body: bytes, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read a columnar answer: one output stands bare, several stand by name."""
    try:
        found = _parse(body)["outputs"]
        named = found if len(outputs) > 1 else {outputs[0].name: found}
        return {
            spec.name: np.asarray(named[spec.name], None if spec.dtype == "string" else spec.dtype) for spec in outputs
        }
    except (KeyError, TypeError, ValueError) as exc:
        raise ServingError(
            f"an answer must hold the outputs {', '.join(s.name for s in outputs)}, got {body[:200]!r}"
        ) from exc
