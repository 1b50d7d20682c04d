"""A client of TensorFlow Serving's REST interface, for throwaway servers and production alike.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import requests
from requests.adapters import HTTPAdapter

from tasks.datasets.blocks import joined, row_blocks, unanswered_rows
from tasks.datasets.predict_body import predict_body
from tasks.datasets.strings import Array, string_array
from tasks.errors import AccessDenied, PredictionError, ServingError, ServingTimeout, ServingUnavailable
from tasks.records import TensorSpec
from tasks.serving.answers import parsed
from tasks.serving.exits import remedy
from tasks.serving.streaming import MOST_CONNECTIONS, in_order, with_progress
from tasks.words import one_line

TRANSIENT = {503, 504}
DENIED = {401, 403, 407}
RETRY_WAITS_S = (0.1, 0.4, 1.6)

# maps TensorFlow's names of dtypes in /metadata to NumPy's
DTYPES = {
    "DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16", "DT_BFLOAT16": "bfloat16",
    "DT_INT8": "int8", "DT_INT16": "int16", "DT_INT32": "int32", "DT_INT64": "int64",
    "DT_UINT8": "uint8", "DT_UINT16": "uint16", "DT_UINT32": "uint32", "DT_UINT64": "uint64",
    "DT_BOOL": "bool", "DT_STRING": "string",
}  # fmt: skip


class ModelClient(Protocol):
    """The requests about one model of one server that every transport can send."""

    def states(self) -> dict[int, tuple[str, str]]:
        """Return a mapping from version to (state, error message); `launch.py` describes the states."""

    def signature_def(self, version: int, signature_name: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Return the inputs and outputs of a signature as the server reports them, sorted by name."""

    def labelled(self, label: str) -> int:
        """Return the version that a label names on the server."""

    def predict(
        self,
        version: int | str,
        inputs: Mapping[str, Array],
        outputs: Sequence[TensorSpec],
        signature_name: str,
        *,
        together: bool = False,
    ) -> dict[str, Array]:
        """Return the served answers to all rows, one array for each output, in the order of the rows.

        Args:
            version: its number, or a label.
        """

    def close(self) -> None:
        """Close the kept-alive connections."""


@dataclass(frozen=True)
class Access:
    """What a server requires of its clients.

    Attributes:
        most_rows: how many rows it accepts in one request; 0 means that there is no limit.
        headers: sent with each request.
        tls: whether gRPC uses TLS; the URL of a REST interface says it itself.
        ca_file: PEM of the trusted authorities, or None for the public ones.
        cert_file, key_file: PEM of the client's certificate and of its key, or None.
    """

    most_rows: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def new_session(access: Access) -> requests.Session:
    """Return a session with what a server requires of its clients."""
    session = requests.Session()
    session.trust_env = False  # a proxy from the environment cannot reach loopback
    session.headers.update(access.headers)
    if access.ca_file is not None:
        session.verify = str(access.ca_file)
    if access.cert_file is not None and access.key_file is not None:
        session.cert = str(access.cert_file), str(access.key_file)
    return session


class RestClient:
    """Sends requests about one model of one server over REST (a `ModelClient`); every call has a time limit.

    Temporary errors (refused or broken connections, 503, 504) are retried a few times, a 4xx never.
    """

    def __init__(
        self,
        base_url: str,
        model_name: str,
        timeout_s: float,
        sleep: Callable[[float], None] = time.sleep,
        access: Access | None = None,
    ) -> None:
        """Set the address; nothing is sent yet.

        Args:
            base_url: scheme, host and port. timeout_s: seconds to wait for a connection and for each answer.
            access: what the server requires of its clients; None means nothing.
        """
        access = access or Access()
        self._most_rows = access.most_rows
        self._model_url = f"{base_url}/v1/models/{model_name}"
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._session = new_session(access)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=MOST_CONNECTIONS))

    def close(self) -> None:
        """Close the kept-alive connections."""
        self._session.close()

    def states(self) -> dict[int, tuple[str, str]]:
        """Return a mapping from version to (state, error message), without retries: the caller polls.

        Raises:
            ServingUnavailable: the server does not listen (yet).
        """
        answer = _parse(self._send_once("GET", self._model_url))
        try:
            return {
                int(v["version"]): (str(v["state"]), str(v["status"].get("error_message", "")))
                for v in answer["model_version_status"]
            }
        except (KeyError, TypeError, ValueError) as exc:
            raise ServingError(f"a status must contain model_version_status, got {str(answer)[:200]}") from exc

    def signature_def(self, version: int, signature_name: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Return the inputs and outputs of a signature as the server reports them, sorted by name."""
        answer = _parse(self._send("GET", f"{self._model_url}/versions/{version}/metadata"))
        try:
            found = answer["metadata"]["signature_def"]["signature_def"][signature_name]
            return _specs(found["inputs"]), _specs(found["outputs"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ServingError(
                f"the metadata must describe the signature '{signature_name}', got {str(answer)[:200]}"
            ) from exc

    def labelled(self, label: str) -> int:
        """Return the version that a label names on the server.

        Source: servables/tensorflow/get_model_metadata_impl.cc: the answer's model_spec has the version that was found.

        Raises:
            PredictionError: the server does not know the label.
        """
        answer = _parse(self._send("GET", f"{self._model_url}/{_place(label)}/metadata"))
        try:
            return int(answer["model_spec"]["version"])
        except (KeyError, TypeError, ValueError) as exc:
            raise ServingError(f"the metadata must name the version, got {str(answer)[:200]}") from exc

    def predict(
        self,
        version: int | str,
        inputs: Mapping[str, Array],
        outputs: Sequence[TensorSpec],
        signature_name: str,
        *,
        together: bool = False,
    ) -> dict[str, Array]:
        """Return the served answers to all rows, one array for each output, in the order of the rows.

        Args:
            version: its number, or a label.
            inputs: one array for each input; the first axis of all is the row.
            outputs: the outputs to read, with their dtypes.
            together: send all rows in one request, regardless of its size.

        Raises:
            PredictionError: the server refused a request (4xx).
            ServingUnavailable, ServingTimeout: the server stopped or did not answer in time.
        """
        blocks = [inputs] if together else row_blocks(inputs, most=self._most_rows)
        answers = self.predict_blocks(version, blocks, outputs, signature_name)
        return whole(with_progress(answers, len(next(iter(inputs.values())))), outputs)

    def predict_blocks(
        self,
        version: int | str,
        blocks: Iterable[Mapping[str, Array]],
        outputs: Sequence[TensorSpec],
        signature_name: str,
    ) -> Iterator[dict[str, Array]]:
        """Yield the served answers to blocks of rows in order, one request for each block, in constant memory."""
        url = f"{self._model_url}/{_place(version)}:predict"

        def ask(block: Mapping[str, Array]) -> dict[str, Array]:
            return read_answer(self._send("POST", url, predict_body(block, signature_name)), outputs)

        return in_order(ask, blocks)

    def _send(self, method: str, url: str, body: bytes | None = None) -> bytes:
        """Send a request, with retries if the error is temporary."""
        for wait_s in RETRY_WAITS_S:
            try:
                return self._send_once(method, url, body)
            except ServingUnavailable:
                self._sleep(wait_s)
        return self._send_once(method, url, body)

    def _send_once(self, method: str, url: str, body: bytes | None = None) -> bytes:
        try:
            answer = self._session.request(method, url, data=body, timeout=self._timeout_s)
        except requests.Timeout as exc:
            raise ServingTimeout(
                f"the server must answer within {self._timeout_s:g} s, but it did not answer {method} {url}; "
                "raise serving.request_timeout_s"
            ) from exc
        except requests.exceptions.SSLError as exc:
            raise AccessDenied(f"TLS with the server must succeed at {url}, but it failed: {tls_words(exc)}") from exc
        except requests.RequestException as exc:
            raise ServingUnavailable(f"the server must be reachable at {url}, got {type(exc).__name__}") from exc
        if answer.ok:
            return answer.content
        status = answer.status_code
        kind = ServingUnavailable if status in TRANSIENT else AccessDenied if status in DENIED else PredictionError
        words = _words(answer.content)
        advice = f". {remedy(words)}" if remedy(words) else ""
        raise kind(f"{method} {url} must be accepted, got {status}: {words}{advice}")


def _place(version: int | str) -> str:
    """Return the part of a URL that names a version by its number, or by a label."""
    return f"versions/{version}" if isinstance(version, int) else f"labels/{version}"


def tls_words(error: BaseException) -> str:
    """Return the reason of an error of TLS, which is in its innermost cause."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(inner)
    found = next((cause for cause in reversed(causes) if isinstance(cause, ssl.SSLError)), error)
    return one_line(getattr(found, "verify_message", "") or getattr(found, "reason", "") or str(found))


def _words(body: bytes) -> str:
    """Return the server's own message from the body of an error."""
    try:
        text = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return one_line(text)


def whole(answers: Iterable[Mapping[str, Array]], outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one array for each output from the answers to consecutive blocks of rows.

    Raises:
        ServingError: the answers to two blocks have different shapes.
    """
    try:
        return joined(answers, outputs)
    except ValueError as exc:
        raise ServingError(f"the answers to all rows must have the same shape: {one_line(str(exc))}") from exc


def _specs(tensors: Mapping[str, Any]) -> list[TensorSpec]:
    """Read TensorInfo messages in JSON: sizes are strings, -1 means any size, and an unknown rank has no dim."""
    specs = []
    for name, info in sorted(tensors.items()):
        shape = info["tensor_shape"]
        sizes = tuple(None if int(d["size"]) < 0 else int(d["size"]) for d in shape.get("dim", []))
        dtype = DTYPES.get(info["dtype"], info["dtype"])
        specs.append(TensorSpec(name, dtype, None if shape.get("unknown_rank") else sizes))
    return specs


def _parse(body: bytes) -> Any:
    try:
        return parsed(body)
    except ValueError as exc:
        raise ServingError(f"the server must answer in JSON, got {body[:200]!r}") from exc


def read_answer(body: bytes, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read a columnar answer: a single output is the value itself, several outputs are a mapping by name.

    Raises:
        ServingError: it is not an answer with these outputs.
    """
    try:
        found = _parse(body)["outputs"]
        named = found if len(outputs) > 1 else {outputs[0].name: found}
        arrays = {spec.name: array_of_json(named[spec.name], spec) for spec in outputs}
    except (KeyError, TypeError, ValueError) as exc:
        names = ", ".join(spec.name for spec in outputs)
        raise ServingError(f"an answer must contain the outputs {names}, got {body[:200]!r}") from exc
    if problem := unanswered_rows(arrays):
        raise ServingError(problem)
    return arrays


def array_of_json(value: Any, spec: TensorSpec) -> Array:
    """Return nested lists as an array; the later axes of an empty one, which JSON omits, are as in the signature."""
    array = string_array(_unwrapped(value)) if spec.dtype == "string" else np.asarray(value, spec.dtype)
    if array.size or spec.shape is None:
        return array
    return array.reshape(array.shape + tuple(size or 0 for size in spec.shape[array.ndim :]))


def _unwrapped(value: Any) -> Any:
    """Return nested lists of text with each `{"b64": ...}` decoded to bytes."""
    if isinstance(value, list):
        return [_unwrapped(item) for item in value]
    if isinstance(value, dict):
        import base64

        return base64.b64decode(value["b64"])
    return value
