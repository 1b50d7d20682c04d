"""Paths are routed as TensorFlow Serving's expressions route them."""

import asyncio
from typing import Any

import pytest

from tasks.model_server.rest_app import _read_body, _route
from tasks.model_server.servables import ModelSpec
from tasks.model_server.status import StatusError


@pytest.mark.parametrize(
    ("method", "path", "spec", "verb"),
    [
        ("GET", "/v1/models/m", ModelSpec("m"), ""),
        ("GET", "/V1/Models/m/VERSIONS/007", ModelSpec("m", 7), ""),
        ("GET", "/v1/models/m/labels/stable", ModelSpec("m", label="stable"), ""),
        ("GET", "/v1/models/m/labels/stable/metadata", ModelSpec("m", label="stable"), "metadata"),
        ("GET", "/v1/models/%6d%2F", ModelSpec("m/"), ""),
        ("GET", "/v1/models/m?a=b", ModelSpec("m?a=b"), ""),
        ("POST", "/v1/models/m:predict", ModelSpec("m"), "predict"),
        ("POST", "/v1/models/m/versions/3:classify", ModelSpec("m", 3), "classify"),
        ("POST", "/v1/models/m/labels/a%20b:regress", ModelSpec("m", label="a b"), "regress"),
    ],
)
def test_routes(method: str, path: str, spec: ModelSpec, verb: str) -> None:
    """Names are unquoted, numbers read, case ignored; a query is part of the name."""
    assert _route(method, path) == (spec, verb)


def test_case_of_what_is_asked() -> None:
    """METADATA in capitals is a status request, PREDICT in capitals no request at all."""
    route = _route("GET", "/v1/models/m/METADATA")
    assert route is not None
    assert route[1] != "metadata"
    with pytest.raises(StatusError, match="Malformed request: POST /v1/models/m:PREDICT"):
        _route("POST", "/v1/models/m:PREDICT")


@pytest.mark.parametrize("path", ["/v1/models/m/versions/9223372036854775808", "/v1/models/m/versions/" + "9" * 30])
def test_version_beyond_64_bits(path: str) -> None:
    """A version that does not fit is told apart, for its answer has no body."""
    assert _route("GET", path) is None
    assert _route("POST", f"{path}:predict") is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models/m/versions/-1"),
        ("GET", "/v1/models/m/versions/1/labels/a"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/m:predict/"),
        ("PUT", "/v1/models/m"),
    ],
)
def test_malformed(method: str, path: str) -> None:
    """Whatever matches no expression is malformed, and the message repeats it."""
    with pytest.raises(StatusError, match=f"Malformed request: {method} {path}"):
        _route(method, path)


def test_missing_name() -> None:
    """The list of all models is not to be had."""
    with pytest.raises(StatusError, match="Missing model name"):
        _route("GET", "/v1/models")


def test_a_body_whose_sender_is_gone() -> None:
    """What came of it is not taken for all of it, so no prediction is made."""
    messages = iter([{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    assert asyncio.run(_read_body(receive, 0)) is None
