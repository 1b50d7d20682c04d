"""Corners of TensorFlow Serving's REST port that no recording reaches, each with where its source says so."""

import gzip
import json
import socket
from typing import Any

import numpy as np
import pytest

ROW = b'{"instances": [[1.0]]}'
ANSWER = {"predictions": [[2.5]]}


def _ask(server: Any, raw: bytes) -> tuple[int, str, bytes]:
    """Send bytes as they are; return status, content type and body."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=600) as client:
        client.sendall(raw)
        file = client.makefile("rb")
        status = int(file.readline().split()[1])
        headers = dict(line.rstrip().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
        body = file.read(int(headers[b"content-length"]))
        file.close()
        return status, headers[b"content-type"].decode(), body


def _get(target: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def _post(body: bytes, target: str = "/v1/models/half:predict", more: str = "") -> bytes:
    return _get(target, "POST", f"Content-Length: {len(body)}\r\n{more}") + body


@pytest.mark.parametrize(
    ("origin", "status"),
    [("", 400), ("Origin: null\r\n", 400), ("Origin: \r\n", 400), ("Origin: HTTP://a\r\n", 400),
     ("Origin: http://a\r\n", 200), ("Origin: https://a:8\r\n", 200)],
)  # fmt: skip
def test_options(zoo_server: Any, origin: str, status: int) -> None:
    """A CORS preflight is one with a page's origin (http_server.cc, ProcessRequest)."""
    answer = _ask(zoo_server, _get("/v1/models/half:predict", "OPTIONS", origin))
    assert answer == (status, "text/html; charset=ISO-8859-1", b"")


@pytest.mark.parametrize(
    ("target", "status", "error"),
    [
        ("/v1/models/half?", 404, "Could not find any versions of model half?"),
        ("/v1/models/?", 404, "Could not find any versions of model ?"),
        ("/v1/models/half/metadata?", 400, "Malformed request: GET /v1/models/half/metadata?"),
    ],
)
def test_empty_query_is_part_of_the_name(zoo_server: Any, target: str, status: int, error: str) -> None:
    """A bare question mark counts as every query does (evhttp_request.cc, `path_and_query`)."""
    answer = _ask(zoo_server, _get(target))
    assert (answer[0], json.loads(answer[2])["error"]) == (status, error)


def test_predict_with_an_empty_query(zoo_server: Any) -> None:
    """It matches no route."""
    assert _ask(zoo_server, _post(ROW, "/v1/models/half:predict?"))[0] == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/v1/models/half", 200),
        ("//localhost:80/v1/models/half", 200),
        ("/v1/models/half#fragment", 200),
        ("/v1/models/half#a?b", 200),
        ("/v1/models/half#a#b", 400),
        ("/v1/models/half#%", 400),
        ("/v1/models/half#[", 400),
    ],
)
def test_parts_of_a_target(zoo_server: Any, target: str, status: int) -> None:
    """Scheme, host and fragment are parsed and dropped (libevent, evhttp_uri_parse)."""
    answer = _ask(zoo_server, _get(target))
    assert answer[:2] == (status, "application/json" if status == 200 else "text/html")


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 19, "9223372036854775808"])
def test_versions_that_fit_no_64_bits(zoo_server: Any, digits: str) -> None:
    """They get a 400 without a body, however many digits they have (http_rest_api_util.cc, SimpleAtoi)."""
    path = f"/v1/models/half/versions/{digits}"
    for raw in (_get(path), _get(f"{path}/metadata"), _post(ROW, f"{path}:predict"), _post(ROW, f"{path}:predict")):
        assert _ask(zoo_server, raw)[::2] == (400, b"")
    path = "/v1/models/half/versions/" + "0" * 5000 + "1"
    assert _ask(zoo_server, _get(path))[0] == 200
    assert json.loads(_ask(zoo_server, _post(ROW, f"{path}:predict"))[2]) == ANSWER
    assert _ask(zoo_server, _get(f"/v1/models/half/labels/{digits}"))[0] == 200  # a label is not looked at there


def test_what_is_no_http_gets_a_page(zoo_server: Any) -> None:
    """A request that cannot be parsed is answered in HTML (libevent, evhttp_send_error)."""
    status, kind, body = _ask(zoo_server, b"GET /v1/models/half\r\n\r\n")
    assert (status, kind) == (400, "text/html")
    assert b"<TITLE>400 Bad Request</TITLE>" in body


def test_an_unknown_expectation_fails(zoo_server: Any) -> None:
    """Only 100-continue is expected of a server (libevent, evhttp_get_body)."""
    assert _ask(zoo_server, _post(ROW, more="Expect: miracles\r\n"))[0] == 417
    assert _ask(zoo_server, _get("/v1/models/half", more="Expect: miracles\r\n"))[0] == 200


def test_gzip_with_something_behind_it(zoo_server: Any) -> None:
    """The footer ends the body, or it counts as empty (gzip_zlib.cc); of two encodings the first is looked at."""
    packed, encoding = gzip.compress(ROW), "Content-Encoding: gzip\r\n"
    for broken in (packed + b"\n", packed + packed):
        status, _, body = _ask(zoo_server, _post(broken, more=encoding))
        assert (status, json.loads(body)["error"]) == (400, "JSON Parse error: The document is empty")
    status, _, body = _ask(zoo_server, _post(packed, more=f"{encoding}Content-Encoding: identity\r\n"))
    assert (status, json.loads(body)) == (200, ANSWER)


@pytest.mark.parametrize(
    ("signature", "number", "answer"),
    [
        ("f32", "0e400", None),  # reader.h, ParseNumber: the exponent is checked before the number is looked at
        ("f32", "0.0e99999", None),
        ("f32", "0.000e311", 0.0),  # maxExp = 308 - expFrac
        ("f32", "1" + "0" * 310 + "e-300", None),
        ("f32", "2" + "0" * 308, None),
        ("f64", "8.64118e-18", 8.64118e-18),  # pow10.h has the nearest 1e23
        ("f32", "3.38630559326702496e-06", 3.3863057069538627e-06),
        ("f64", "1e0000000000000005", 100000.0),
        ("f64", "1e-0000000000000005", 1e-05),
        ("f32", "NaN.5", 0.5),  # after NaN ParseNumber goes on to the fraction
        ("f32", "-Infinity.5", -0.5),
        ("f32", "NaNe5", 0.0),
        ("f32", "NaN.", None),
    ],
)
def test_odd_numbers(zoo_server: Any, signature: str, number: str, answer: float | None) -> None:
    """Numbers are read as RapidJSON 1.1 reads them, by both ways through the reader."""
    for body in (f'{{"signature_name": "{signature}", "inputs": [{number}]}}',
                 f'{{"signature_name": "{signature}", "inputs": [{number}{", 1.0" * 900}]}}'):  # fmt: skip
        status, found = zoo_server.predict("zoo", body.encode())
        assert status == (400 if answer is None else 200), found
        if answer is not None:
            assert np.float32(found["outputs"][0]) == np.float32(answer)
            assert signature == "f32" or found["outputs"][0] == answer


def test_name_of_an_input_ends_at_nul(zoo_server: Any) -> None:
    """In rows, not in columns (json_tensor.cc: `const string& name = kv.name.GetString()`)."""
    rows = b'{"signature_name": "f32", "instances": [{"x\\u0000y": 1}]}'
    assert zoo_server.predict("zoo", rows) == (200, {"predictions": [1.0]})
    assert zoo_server.predict("zoo", b'{"signature_name": "f32", "inputs": {"x\\u0000y": 1}}')[0] == 400
