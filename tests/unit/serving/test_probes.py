"""Probes against a real HTTP server whose model behaves as it is told to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.gates import Robustness
from tasks.gates.robustness import judge_robustness
from tasks.records import Candidate, Probe, Signature, TensorSpec
from tasks.serving.probes import probe, up_to_the_end

NOWHERE = Path("none")
SPECS = (TensorSpec("age", "float32", (None,)), TensorSpec("city", "string", (None,)))
CANDIDATE = Candidate("m", 3, NOWHERE, "", Signature(SPECS, (), "mine"), 0, NOWHERE, NOWHERE, NOWHERE)
ROWS = {"age": np.array([3, -40, 5], np.float32), "city": np.array(["a", "b", "c"])}
MALFORMED = {
    *("malformed JSON", "empty body", "not an object", "deep nesting", "wrong input name", "missing input"),
    *("wrong dtype", "wrong rank", "ragged rows", "empty batch", "unknown signature", "unknown version"),
}
Answer = tuple[int, bytes]
Handler = Callable[[str, bytes], Answer | None]


def well_behaved(path: str, body: bytes) -> Answer:
    """Answer twice the age, and refuse what is not a column of numbers and one of text."""
    try:
        content = json.loads(body)
        ages, cities = content["inputs"].pop("age"), content["inputs"].pop("city")
        fine = path == "/v1/models/m/versions/3:predict" and content == {"signature_name": "mine", "inputs": {}}
        if not fine or not all(isinstance(city, str) for city in cities) or len(ages) != len(cities):
            return 400, b'{"error": "no"}'
        return 200, json.dumps({"outputs": [2.0 * (0 + age) for age in ages]}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        return 400, json.dumps({"error": repr(exc)}).encode()


@pytest.fixture
def serving() -> Iterator[Callable[[Handler], tuple[str, list[tuple[str, bytes]]]]]:
    """Start servers that answer with a function of path and body; None breaks the connection."""
    servers = []

    def start(handler: Handler) -> tuple[str, list[tuple[str, bytes]]]:
        requests: list[tuple[str, bytes]] = []

        class Scripted(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                requests.append((self.path, body))
                answer = handler(self.path, body)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, *_args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(url: str, inputs: dict[str, Any] | None = None, most_rows: int = 0, **settings: Any) -> dict[str, Probe]:
    probes = probe(url, CANDIDATE, inputs or ROWS, Robustness(**settings), 5, most_rows=most_rows)
    by_case = {one.case: one for one in probes}
    assert len(by_case) == len(probes)
    return by_case


def test_what_a_server_that_batches_is_asked(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """It is sent no request without rows, which it would never answer, and none with more rows than it accepts."""
    url, requests = serving(well_behaved)
    probes = ask(url, most_rows=3)
    assert "empty batch" not in probes
    assert {"wrong rank", "a large batch"} <= probes.keys()
    large = json.loads(requests[-2][1])  # the last one is as usual
    assert len(large["inputs"]["age"]) == 3


def test_every_case_is_asked(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """All cases are sent, the usual ones first and last, and a well-behaved server passes."""
    url, requests = serving(well_behaved)
    probes = ask(url)
    extremes = {"extreme values of 'age'", "extreme values of 'city'"}
    usual = {"a batch of 1", "a large batch", "as usual afterwards"}
    assert set(probes) == MALFORMED | extremes | usual
    assert {case for case, one in probes.items() if one.normal} == usual
    assert [probes[case].status for case in sorted(usual | extremes)] == [200] * 5
    assert requests[0] == requests[-1]
    assert judge_robustness(tuple(probes.values())).passed


def test_what_is_sent(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """Each request differs from the usual one in what its name says, and in nothing else."""
    url, requests = serving(well_behaved)
    cases = list(ask(url, large_batch=7))
    sent = dict(zip(cases, requests, strict=True))
    unreadable = {"malformed JSON", "empty body", "deep nesting"}
    content = {case: json.loads(body) for case, (_, body) in sent.items() if case not in unreadable}
    pair = {"age": [3, 3], "city": ["a", "a"]}
    assert content["a batch of 1"] == {"signature_name": "mine", "inputs": {"age": [3], "city": ["a"]}}
    assert content["wrong input name"]["inputs"] == {"no_such": [3, 3], "city": ["a", "a"]}
    assert content["missing input"]["inputs"] == {"city": ["a", "a"]}
    assert content["wrong dtype"]["inputs"] == {**pair, "age": ["text", "text"]}
    assert content["wrong rank"]["inputs"] == {**pair, "age": [[3, 3]]}
    assert content["ragged rows"]["inputs"] == {**pair, "age": [3, [3]]}
    assert content["empty batch"]["inputs"] == {"age": [], "city": []}
    assert content["unknown signature"] == {"signature_name": "no_such", "inputs": pair}
    assert content["unknown version"] == {"signature_name": "mine", "inputs": pair}
    assert sent["unknown version"][0] == "/v1/models/m/versions/1000003:predict"
    assert content["a large batch"]["inputs"]["age"] == [3, -40, 5, 3, -40, 5, 3]
    with pytest.raises(json.JSONDecodeError):
        json.loads(sent["malformed JSON"][1])


def test_extreme_values(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """One input at a time holds values far beyond the test rows; the others keep those of the first row."""
    url, requests = serving(well_behaved)
    sent = dict(zip(ask(url, extreme_factor=10), requests, strict=True))
    ages = json.loads(sent["extreme values of 'age'"][1])["inputs"]
    assert ages["age"] == [400, -400, 0, pytest.approx(np.finfo(np.float32).tiny)]
    assert ages["city"] == ["a"] * 4
    cities = json.loads(sent["extreme values of 'city'"][1])["inputs"]
    assert cities["age"] == [3] * 4
    assert cities["city"][0] == ""
    assert len(cities["city"][1]) == 10_000
    assert "東京" in cities["city"][2]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0.5, -0.1]], np.float32), [[1000, 1000], [-1000, -1000], [0, 0]]),
        (np.array([3, 7], np.int64), [7000, -7000, 0]),
        (np.array([3], np.int8), [127, -128, 0]),
        (np.array([3], np.uint8), [255, 0, 0]),
        (np.array([-(2**63)]), [2**63 - 1, -(2**63), 0]),
        (np.array([3e38], np.float32), [float(np.finfo(np.float32).max), -float(np.finfo(np.float32).max), 0]),
        (np.array([True]), [True, False]),
    ],
)
def test_extremes_stay_within_the_dtype(
    serving: Callable[[Handler], tuple[str, Any]], array: np.ndarray, expected: list[Any]
) -> None:
    """Extreme values are at least the factor itself and at most what the dtype holds, in the shape of a row."""
    url, requests = serving(lambda _path, _body: (200, b'{"outputs": [1.0]}'))
    cases = list(ask(url, {"x": array}))
    sent = json.loads(dict(zip(cases, requests, strict=True))["extreme values"][1])["inputs"]["x"]
    np.testing.assert_allclose(sent[:3], expected, rtol=1e-7)


def test_bytes_are_sent_as_bytes(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """Byte strings are probed with bytes that are no text, and with a number for the wrong dtype."""
    url, requests = serving(lambda _path, _body: (200, b'{"outputs": [1.0]}'))
    cases = list(ask(url, {"x": np.array([b"\xff\x00a"])}))
    sent = {c: json.loads(b) for c, (_, b) in zip(cases, requests, strict=True) if c.startswith(("wrong d", "ext"))}
    assert sent["extreme values"]["inputs"]["x"][2] == {"b64": "//6A"}
    assert sent["wrong dtype"]["inputs"]["x"] == [1, 1]


def test_a_large_batch_is_bounded(
    serving: Callable[[Handler], tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that would make the large batch larger than the bound are left out, so that memory is bounded too."""
    monkeypatch.setattr("tasks.serving.probes.LARGE_BODY_BYTES", 1_000)
    url, requests = serving(well_behaved)
    sent = dict(zip(ask(url), requests, strict=True))
    assert 1 < len(json.loads(sent["a large batch"][1])["inputs"]["age"]) < 20


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_not_finite(serving: Callable[[Handler], tuple[str, Any]], token: bytes) -> None:
    """An answer with NaN or infinity anywhere is not finite, and the gate refuses it in the server's words."""

    def overflowing(path: str, body: bytes) -> Answer:
        extreme = b"40000.0" in body
        return (200, b'{"outputs": {"a": [[1.0], [%s]], "b": ["x"]}}' % token) if extreme else well_behaved(path, body)

    url, _ = serving(overflowing)
    probes = ask(url)
    assert not probes["extreme values of 'age'"].finite
    result = judge_robustness(tuple(probes.values()))
    assert result.evidence["failed"] == ["extreme values of 'age'"]
    assert token.decode() in result.summary


@pytest.mark.parametrize("answer", [b"", b"not JSON", b"[1.0]", b'{"error": "yes, but 200"}', b"[" * 100_000])
def test_an_answer_without_outputs_is_none(serving: Callable[[Handler], tuple[str, Any]], answer: bytes) -> None:
    """A 200 that holds no outputs is not taken for an answer."""
    url, _ = serving(lambda _path, _body: (200, answer))
    assert not any(one.finite for one in ask(url).values())


def test_a_server_that_breaks_off(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """A broken connection is status 0 with the reason, and the other requests go on."""
    url, _ = serving(lambda path, body: None if not body else well_behaved(path, body))
    probes = ask(url)
    assert probes["empty body"] == Probe(
        "empty body", False, 0, False, "ConnectionError: the connection broke; the request was empty"
    )
    assert judge_robustness(tuple(probes.values())).evidence["failed"] == ["empty body"]


def test_a_server_that_does_not_answer(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """A request without an answer in time is status 0 and says after how long."""
    release = threading.Event()

    def hanging(path: str, body: bytes) -> Answer:
        if not body:
            release.wait(20)
        return well_behaved(path, body)

    url, _ = serving(hanging)
    probes = {one.case: one for one in probe(url, CANDIDATE, ROWS, Robustness(), 0.5)}
    release.set()
    assert probes["empty body"] == Probe("empty body", False, 0, False, "the server did not answer within 0.5 s")
    assert probes["as usual afterwards"].status == 200


def test_nobody_is_there() -> None:
    """Where nobody listens every request is status 0; nothing is raised."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening
        probes = ask(f"http://127.0.0.1:{held.getsockname()[1]}")
    assert {one.status for one in probes.values()} == {0}
    assert not judge_robustness(tuple(probes.values())).passed


@pytest.mark.parametrize(
    ("later", "passes"),
    [
        (b'{"outputs": [6.0]}', True),
        (b'{ "outputs": [ 6.00001 ] }', True),
        (b'{"outputs": [6.1]}', False),
        (b'{"outputs": [6.0, 6.0]}', False),
        (b'{"outputs": ["6.0"]}', False),
        (b'{"outputs": {"y": [6.0]}}', False),
    ],
)
def test_another_answer_afterwards(serving: Callable[[Handler], tuple[str, Any]], later: bytes, passes: bool) -> None:
    """The usual request must be answered as before the malformed ones; if it is not, the gate says both answers."""
    url, requests = serving(
        lambda path, body: (200, later) if len(requests) > 1 and body == requests[0][1] else well_behaved(path, body)
    )
    probes = ask(url)
    result = judge_robustness(tuple(probes.values()))
    assert result.passed is passes
    if not passes:
        assert result.evidence["failed"] == ["as usual afterwards"]
        assert f"and is now {later.decode()}" in result.summary


def test_words_are_the_start_of_the_body(serving: Callable[[Handler], tuple[str, Any]]) -> None:
    """Words are one line of at most 500 characters, whatever the body is."""
    url, _ = serving(lambda _path, _body: (400, b"a\n\xff " * 5000))
    for one in ask(url).values():
        assert one.words.startswith("a \N{REPLACEMENT CHARACTER} a")
        assert len(one.words) <= 500


def test_records_end_with_the_request_that_ended_the_server() -> None:
    """What nobody was there to answer is left out; a request without an answer before is none that ended it."""
    slow, fine, fatal, after = (
        Probe(name, False, status, True, "w") for name, status in (("a", 0), ("b", 400), ("c", 0), ("d", 0))
    )
    found = up_to_the_end([slow, fine, fatal, after], "it ended")
    assert [one.case for one in found] == ["a", "b", "c"]
    assert found[-1].words == "w. it ended"
    assert up_to_the_end([fatal, after], "it ended")[0].words == "w. it ended"
