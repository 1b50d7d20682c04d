"""Sends malformed and extreme requests, and records how a server answers them.

Each request has its own connection, because a server is allowed to close a connection after a refusal.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import orjson
import requests

from configs.sections.gates import Robustness
from tasks.datasets.predict_body import predict_body
from tasks.datasets.strings import Array, is_string, is_text
from tasks.records import Candidate, Probe
from tasks.serving.answers import parsed
from tasks.words import one_line

log = logging.getLogger(__name__)

DEPTH = 1000  # of nested lists: more than any tensor has dimensions, but not too deep for a parser
LONG_TEXT = 10_000  # characters
LARGE_BODY_BYTES = 64 * 2**20  # limits the memory that the client needs for a large batch
NO_SUCH = "no_such"
EMPTY = "empty batch"
MAX_WORDS = 500  # characters of the server's message in a cell of the report
MAX_BEGIN = 120  # characters of a request that was not answered
BY_A_PROXY = {502, 503, 504}  # what a proxy may answer in place of a server that ended
SAME_RTOL, SAME_ATOL = 1e-4, 1e-6  # allows for another order of summation, not for another answer


class Case(NamedTuple):
    """A request: its name, whether it is a normal request, its body, and the path after the model's URL."""

    name: str
    normal: bool
    body: bytes
    path: str = ""


def probe(  # noqa: PLR0913  (where, what and how have different owners)
    base_url: str,
    candidate: Candidate,
    inputs: Mapping[str, Array],
    robustness: Robustness,
    timeout_s: float,
    *,
    most_rows: int = 0,
    served_name: str = "",
    unanswered: Callable[[str], None] = lambda _case: None,
) -> tuple[Probe, ...]:
    """Send malformed, extreme and normal requests to one version, and repeat the first normal one at the end.

    Args:
        base_url: scheme, host and port. timeout_s: seconds to wait for each answer.
        inputs: some test rows that fit the signature, one array for each input.
        most_rows: how many rows a server that batches accepts in one request. Such a server never answers a request
            without rows, so that none is sent (measured with TensorFlow Serving 2.20). 0 means that it does not batch.
        served_name: the name by which the server knows the model; empty means the candidate's.
        unanswered: called with the name of each request that may have got no answer of the server's; it may raise an
            error.

    Returns:
        One record for each request; its status is 0 if the server does not answer. The last record, `as usual
        afterwards`, is not finite if its answer differs from that of `a batch of 1`; its words say so.
    """
    if most_rows:
        robustness = robustness.model_copy(update={"large_batch": min(robustness.large_batch, most_rows)})
    cases = [
        *(case for case in _malformed(candidate, inputs) if not most_rows or case.name != EMPTY),
        *_unusual(candidate, inputs, robustness),
        Case("as usual afterwards", True, _body(candidate, _first(inputs))),
    ]
    url = f"{base_url}/v1/models/{served_name or candidate.name}"

    def ask(case: Case) -> tuple[Probe, bytes]:
        found, body = _ask(f"{url}{case.path or f'/versions/{candidate.version}'}:predict", case, timeout_s)
        if not found.status or found.status in BY_A_PROXY:
            unanswered(case.name)
        return replace(found, words=found.words.replace(served_name or candidate.name, candidate.name)), body

    usual, before = ask(Case("a batch of 1", True, cases[-1].body))
    answered = [ask(case) for case in cases]
    last, after = answered[-1]
    probes = [usual, *(probed for probed, _ in answered[:-1]), _compared(last, before, after)]
    return tuple(probes)


def up_to_the_end(probes: Sequence[Probe], words: str) -> tuple[Probe, ...]:
    """Return the records up to the request at which the server crashed.

    Args:
        words: why it crashed, and what to do.
    """
    answered = max((at for at, one in enumerate(probes) if one.status), default=-1)
    fatal = probes[answered + 1]
    return (*probes[: answered + 1], replace(fatal, words=f"{fatal.words}. {words}"))


def _malformed(candidate: Candidate, inputs: Mapping[str, Array]) -> Iterator[Case]:
    """Yield requests that no client should send."""
    rows = {name: array[np.zeros(2, np.int64)] for name, array in inputs.items()}
    columns = json.loads(_body(candidate, rows))["inputs"]
    name = next(iter(inputs))  # the first input stands for all
    wrong_dtype: Any = 1 if is_string(inputs[name]) else "text"

    def asking(changed: Mapping[str, Any], signature_name: str = candidate.signature.name) -> bytes:
        return orjson.dumps({"signature_name": signature_name, "inputs": changed})

    whole = asking(columns)
    yield Case("malformed JSON", False, whole[: len(whole) // 2])
    yield Case("empty body", False, b"")
    yield Case("not an object", False, b"[1, 2]")
    yield Case("deep nesting", False, b'{"inputs": ' + b"[" * DEPTH + b"1" + b"]" * DEPTH + b"}")
    yield Case("wrong input name", False, asking({(n if n != name else NO_SUCH): v for n, v in columns.items()}))
    yield Case("missing input", False, asking({n: v for n, v in columns.items() if n != name}))
    yield Case("wrong dtype", False, asking({**columns, name: _replaced(columns[name], wrong_dtype)}))
    yield Case("wrong rank", False, asking({**columns, name: [columns[name]]}))
    yield Case("ragged rows", False, asking({**columns, name: [columns[name][0], [columns[name][1]]]}))
    yield Case(EMPTY, False, _body(candidate, {n: array[:0] for n, array in inputs.items()}))
    yield Case("unknown signature", False, asking(columns, NO_SUCH))
    yield Case("unknown version", False, whole, f"/versions/{candidate.version + 1_000_000}")


def _unusual(candidate: Candidate, inputs: Mapping[str, Array], robustness: Robustness) -> Iterator[Case]:
    """Yield valid requests that are large, or that have extreme values in one input at a time."""
    for name, array in inputs.items():
        values = _extremes(array, robustness.extreme_factor)
        if not len(values):
            continue
        rows = {n: a[np.zeros(len(values), np.int64)] for n, a in inputs.items()}
        rows[name] = np.broadcast_to(values.reshape(-1, *[1] * (array.ndim - 1)), (len(values), *array.shape[1:]))
        suffix = f" of '{name}'" if len(inputs) > 1 else ""
        yield Case(f"extreme values{suffix}", False, _body(candidate, rows))
    one_row = len(_body(candidate, _first(inputs)))
    n_rows = max(1, min(robustness.large_batch, LARGE_BODY_BYTES // one_row))
    if n_rows < robustness.large_batch:
        log.info("The large batch is limited to %d rows, because one row has %d bytes", n_rows, one_row)
    tiled = {name: array[np.arange(n_rows) % len(array)] for name, array in inputs.items()}
    yield Case("a large batch", True, _body(candidate, tiled))


def _extremes(array: Array, factor: float) -> Array:
    """Return values beyond those of an input that its dtype can hold, of shape (k,)."""
    if is_text(array):
        return np.array(["", "x" * LONG_TEXT, "Köln 東京 \N{SNAKE}", '\x01\n\t"\\'])
    if is_string(array):
        return np.array([b"", b"x" * LONG_TEXT, b"\xff\xfe\x80"])
    if array.dtype.kind == "b":
        return np.array([True, False])
    if array.dtype.kind not in "iuf":
        return np.empty(0)
    largest = factor * max(1.0, float(np.abs(array.astype(np.float64)).max(initial=0)))
    if array.dtype.kind == "f":
        limits = np.finfo(array.dtype)
        largest = min(largest, float(limits.max))
        return np.array([largest, -largest, 0, limits.tiny], array.dtype)
    whole = np.iinfo(array.dtype)
    return np.array([min(int(largest), int(whole.max)), max(-int(largest), int(whole.min)), 0], array.dtype)


def _first(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array[:1] for name, array in inputs.items()}


def _body(candidate: Candidate, inputs: Mapping[str, Array]) -> bytes:
    return predict_body(inputs, candidate.signature.name)


def _replaced(value: Any, by: Any) -> Any:
    """Return nested lists with every element replaced."""
    return [_replaced(item, by) for item in value] if isinstance(value, list) else by


def _ask(url: str, case: Case, timeout_s: float) -> tuple[Probe, bytes]:
    """Send one request; return its record and the whole body of the answer."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy from the environment cannot reach loopback
            session.headers["Connection"] = "close"
            answer = session.post(url, data=case.body, timeout=timeout_s, allow_redirects=False)
    except requests.Timeout:
        return Probe(case.name, case.normal, 0, False, f"the server did not answer within {timeout_s:g} s"), b""
    except requests.RequestException as exc:
        begins = one_line(case.body.decode(errors="replace"), MAX_BEGIN)
        words = f"{type(exc).__name__}: the connection broke; the request was {begins or 'empty'}"
        return Probe(case.name, case.normal, 0, False, words), b""
    finite = answer.status_code != 200 or _is_finite(answer.content)
    return Probe(case.name, case.normal, answer.status_code, finite, _words(answer.content)), answer.content


def _is_finite(body: bytes) -> bool:
    """Return whether an answer contains outputs and all of their numbers are finite."""
    content = _parse(body)
    if not isinstance(content, dict) or "outputs" not in content:
        return False
    numbers = np.array([leaf for leaf in _leaves(content["outputs"]) if isinstance(leaf, float)])
    return bool(np.isfinite(numbers).all())


def _compared(last: Probe, before: bytes, after: bytes) -> Probe:
    """Return the last record, marked as not finite if the same request was answered differently before."""
    if last.status != 200 or not last.finite or not before or _same(_parse(before), _parse(after)):
        return last
    words = f"the answer changed: it was {_words(before)[:200]}, and is now {_words(after)[:200]}"
    return replace(last, finite=False, words=words)


def _same(before: Any, after: Any) -> bool:
    """Return whether two answers have the same structure and text, and nearly the same numbers."""
    pairs = list(zip_longest(_leaves(before), _leaves(after)))
    numbers = np.array([pair for pair in pairs if all(map(_is_number, pair))], np.float64).reshape(-1, 2)
    rest = all(a == b for a, b in pairs if not (_is_number(a) and _is_number(b)))
    return rest and bool(np.allclose(numbers[:, 0], numbers[:, 1], rtol=SAME_RTOL, atol=SAME_ATOL))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the names and values of nested lists and objects in order."""
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _leaves(item)
    else:
        yield value


def _parse(body: bytes) -> Any:
    """Read an answer; return None if it is not JSON."""
    try:
        return parsed(body)
    except ValueError:
        return None


def _words(body: bytes) -> str:
    """Return the start of a body in one line."""
    return one_line(body.decode(errors="replace"), MAX_WORDS)
