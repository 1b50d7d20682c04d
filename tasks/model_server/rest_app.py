"""The REST interface of TensorFlow Serving as an ASGI application.

Routes and status codes are those of `http_rest_api_handler.cc` and of the libevent server under it:
what is not below `/v1/` is a 404 in HTML, what is but matches no route a 400 in JSON.

Source: TensorFlow Serving, model_servers/http_rest_api_util.cc, util/net_http/server/internal/.
"""

import asyncio
import os
import re
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from tasks.model_server import metadata
from tasks.model_server.integers import int64
from tasks.model_server.pages import page
from tasks.model_server.rest_json import InputsOf, PredictBody, decode_predict, decode_quickly
from tasks.model_server.rest_output import encode_error, encode_predict
from tasks.model_server.servables import ModelSpec, Servables
from tasks.model_server.status import HTTP_STATUS, Code, StatusError, invalid_argument
from tasks.model_server.tf_library import flush_subnormals_in_this_thread
from tasks.model_server.tf_runtime import SavedModel

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_Result = TypeVar("_Result")

MAX_BODY_BYTES: Final = 512 * 2**20
"""Size of a request body beyond which it is refused, in bytes. TensorFlow Serving itself has no limit."""
MAX_UNZIPPED_BYTES: Final = 100 * 2**20
"""Source: TensorFlow Serving, util/net_http/compression/gzip_zlib.h, kMaxUncompressedBytes."""
_SMALL_BODY: Final = 4 * 2**10
"""Up to this size, in bytes, the event loop reads every body, in about 10 ms at worst."""
_MEDIUM_BODY: Final = 256 * 2**10
"""Up to this size, in bytes, the event loop reads a body if that is quick; a change of threads would cost more."""

_VERSION_OR_LABEL: Final = r"(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PREDICTION: Final = re.compile(rf"(?i:/v1/models/([^/:]+){_VERSION_OR_LABEL}:(classify|regress|predict))")
_STATUS: Final = re.compile(rf"(?i:/v1/models(?:/([^/:]+))?{_VERSION_OR_LABEL}(?:/(metadata))?)")
_VERBS: Final = frozenset(("classify", "regress", "predict"))
_URI_PART: Final = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*"
_URI: Final = re.compile(rf"{_URI_PART}(?:#{_URI_PART})?")
_METHODS: Final = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
_JSON: Final = b"application/json"


class RestApp:
    """The ASGI application over the loaded servables."""

    def __init__(self, servables: Servables, timeout_ms: int) -> None:
        """Create the application.

        Args:
            servables: the models and their states.
            timeout_ms: how long one prediction may take, in milliseconds; 0 or less for no limit.
        """
        self._servables = servables
        self._timeout_ms = max(timeout_ms, 0)
        # Not asyncio's own threads: with those busy on large bodies, predictions for small ones would have to wait.
        self._beside_loop = ThreadPoolExecutor(
            (os.cpu_count() or 1) + 4, "large-bodies", initializer=flush_subnormals_in_this_thread
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        status, body, content_type = await self._respond(scope, receive)
        if scope["method"] == "HEAD":
            body = b""
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _respond(self, scope: Message, receive: Receive) -> tuple[int, bytes, bytes]:
        """Return status, body and content type."""
        method = scope["method"]
        path = scope["raw_path"].decode("latin-1")  # for TensorFlow Serving, the query is part of the path
        if refusal := _refusal(method, path):
            return _page(refusal)
        headers = dict(reversed(scope["headers"]))  # the first of two equal headers counts
        if method == "OPTIONS":  # a CORS preflight, if its origin is a page's
            is_preflight = re.search(rb"https?://", headers.get(b"origin", b""))
            return 200 if is_preflight else 400, b"", b"text/html; charset=ISO-8859-1"
        if headers.get(b"expect", b"100-continue").lower() != b"100-continue" and _announces_body(headers):
            return _page(417)
        body = await _read_body(receive, int(headers.get(b"content-length", 0)))
        if body is None:
            return _page(413)
        if b"gzip" in headers.get(b"content-encoding", b""):
            body = await self._beside(_unzip, body)
        return *await self._answer(method, path, body), _JSON

    async def _answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            route = _route(method, path)
            if route is None:
                return 400, b""
            spec, verb = route
            if method == "POST":
                return await self._predict(spec, verb, body)
            if verb == "metadata":
                return 200, metadata.encode(spec.name, *self._servables.find(spec))
            return 200, metadata.encode_states(self._servables.states(spec))
        except StatusError as error:
            return _failure(error)

    async def _predict(self, spec: ModelSpec, verb: str, body: bytes) -> tuple[int, bytes]:
        if verb != "predict":
            raise StatusError(
                Code.UNIMPLEMENTED,
                f"This server does not implement :{verb}; use :predict or TensorFlow Serving.",
            )
        request = self._decode_on_loop(spec, body)
        if request is None:
            return await self._beside(self._predict_all, spec, body)
        model = self._servables.find(spec)[1]
        answer = self._quick_answer(request, model)
        return 200, answer if answer is not None else await asyncio.to_thread(self._run, request, model)

    async def _beside(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run a function whose time depends on the request in a thread, while the event loop serves others."""
        return await asyncio.get_running_loop().run_in_executor(self._beside_loop, function, *arguments)

    def _quick_answer(self, request: PredictBody, model: SavedModel) -> bytes | None:
        """Return the answer if the run is known to take less than a change of threads would cost, else None."""
        if not model.is_quick(request.signature_name, request.inputs):
            return None
        outputs = model.predict(request.signature_name, request.inputs, self._timeout_ms, in_caller_thread=True)
        return encode_predict(outputs, request.is_row_format)

    def _decode_on_loop(self, spec: ModelSpec, body: bytes) -> PredictBody | None:
        """Return the request, or None if reading it here could make others wait."""
        if len(body) <= _SMALL_BODY:
            return decode_predict(body, self._inputs_of(spec))
        return decode_quickly(body, self._inputs_of(spec)) if len(body) <= _MEDIUM_BODY else None

    def _predict_all(self, spec: ModelSpec, body: bytes) -> tuple[int, bytes]:
        try:
            request = decode_predict(body, self._inputs_of(spec))
            return 200, self._run(request, self._servables.find(spec)[1])
        except StatusError as error:
            return _failure(error)

    def _run(self, request: PredictBody, model: SavedModel) -> bytes:
        outputs = model.predict(request.signature_name, request.inputs, self._timeout_ms)
        return encode_predict(outputs, request.is_row_format)

    def _inputs_of(self, spec: ModelSpec) -> InputsOf:
        return lambda name: self._servables.find(spec)[1].signature(name).inputs


@lru_cache(maxsize=256)  # clients request the same few paths repeatedly
def _refusal(method: str, path: str) -> int:
    """Return the status of a request that reaches no handler, else 0."""
    if method not in _METHODS:
        return 501
    if not _URI.fullmatch(path):
        return 400
    return 0 if path[:4].lower() == "/v1/" else 404


@lru_cache(maxsize=256)
def _route(method: str, path: str) -> tuple[ModelSpec, str] | None:
    """Return which model is meant and what is asked of it: a verb, "metadata", or else the status.

    Returns:
        None for a version that does not fit 64 bits: TensorFlow Serving forgets the body of that one error.

    Raises:
        StatusError: the path matches no route of the method.
    """
    path = path.partition("#")[0]
    match = (_PREDICTION if method == "POST" else _STATUS).fullmatch(path)
    malformed = invalid_argument(f"Malformed request: {method} {path}")
    if match is None or method not in ("GET", "POST"):
        raise malformed
    name, version, label = _unquote(match[1] or ""), match[2], _unquote(match[3]) if match[3] else None
    number = int64(version) if version else None
    if version and number is None:
        return None
    if method == "POST" and match[4] not in _VERBS:  # the pattern ignores case, the dispatch behind it does not
        raise malformed
    if not name:
        raise invalid_argument("Missing model name in request.")
    return ModelSpec(name, number, label), match[4] or ""


def _unquote(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


async def _read_body(receive: Receive, announced: int) -> bytes | None:
    """Return the body, or None as soon as it exceeds the limit, in bytes, or the client disconnects."""
    chunks: list[bytes] = []
    size = 0
    while max(size, announced) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
    return None


def _announces_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > 0


def _unzip(body: bytes) -> bytes:
    """Decompress gzip; as in TensorFlow Serving, a body that cannot be decompressed is empty."""
    inflate = zlib.decompressobj(wbits=31)  # gzip only
    try:
        text = inflate.decompress(body, MAX_UNZIPPED_BYTES)
    except zlib.error:
        return b""
    return text if inflate.eof and not inflate.unused_data else b""


def _failure(error: StatusError) -> tuple[int, bytes]:
    return HTTP_STATUS[error.code], encode_error(error.message)


def _page(status: int) -> tuple[int, bytes, bytes]:
    return status, page(status), b"text/html"
