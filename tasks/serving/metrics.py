"""The counters of one model in a TensorFlow Serving that has a `--monitoring_config_file`.

Source: util/prometheus_exporter.cc, servables/tensorflow/util.cc and saved_model_warmup_util.cc in TensorFlow Serving,
cc/saved_model/loader.cc in TensorFlow (2.20). A server lists the type of every counter from its start, and a value from
the first event on. Times are microseconds. Sums of histograms have six digits only, so the counts of buckets are read.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

import requests

from tasks.errors import ServingError, ServingTimeout, ServingUnavailable
from tasks.serving.client import Access, new_session, tls_words

REQUESTS = ":tensorflow:serving:request_count"
RUNTIME = ":tensorflow:serving:runtime_latency_bucket"
TRIES = ":tensorflow:cc:saved_model:load_attempt_count"
LOADING = ":tensorflow:cc:saved_model:load_latency"
WARMING = ":tensorflow:serving:model_warmup_latency_sum"  # of a single warm-up, so that six digits suffice
LABELS = {
    REQUESTS: ("model_name", "status"),
    RUNTIME: ("model_name", "le"),
    TRIES: ("model_path", "status"),
    LOADING: ("model_path",),
    WARMING: ("model_path", "status"),
}
"""The counters that are read, with the labels that they must have."""

READ_S = 5.0
LATE = f"no whole answer within {READ_S:g} s"
MOST_BYTES = 2**24  # a server with one model writes 0.06 MB
MOST = 2.0**63  # a counter is an int64
CHUNK = 2**16
TEXT = r'"((?:[^"\\]++|\\.)*+)"'  # within quotes, with escapes and line breaks
BLANK = r"[ \t]*+"
SAMPLE = re.compile(  # the name of a counter, its labels, and the rest of the line in which they end
    rf"^{BLANK}(?P<name>[A-Za-z_:][\w:]*+){BLANK}"
    rf"(?:{{(?:{BLANK}[A-Za-z_]\w*+{BLANK}={BLANK}{TEXT}{BLANK},?+)*+)?+[^\n]*+",
    re.ASCII | re.DOTALL | re.MULTILINE,
)
OF_MODEL = re.compile(rf"[{{,]{BLANK}model_name{BLANK}={BLANK}{TEXT}", re.DOTALL)
IS_SERVING = re.compile(r"^(# TYPE )?:tensorflow:", re.MULTILINE)
COUNTS_REQUESTS = re.compile(rf"^# TYPE {REQUESTS} ", re.MULTILINE)

Series = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a counter and its labels, sorted."""
Counters = Mapping[Series, float]


def read_counters(base_url: str, path: str, model: str, access: Access) -> Counters:
    """Return the counters of a server: those of one model, and those of the directories of all models.

    Args:
        base_url: scheme, host and port. path: of the metrics. access: what the server requires of its clients.

    Raises:
        ServingUnavailable: nothing listens. ServingError: the answer is late, too long, refused, or not such metrics.
    """
    session = new_session(access)
    try:
        return parse(_body(session, f"{base_url}{path}").decode(errors="replace"), model)
    except requests.exceptions.SSLError as exc:
        raise ServingError(f"TLS failed: {tls_words(exc)}") from exc
    except requests.Timeout as exc:
        raise ServingTimeout(LATE) from exc
    except requests.ConnectionError as exc:
        raise ServingUnavailable("no server answers") from exc
    except requests.RequestException as exc:
        raise ServingError(f"the answer broke off ({type(exc).__name__})") from exc
    finally:
        session.close()


def _body(session: requests.Session, url: str) -> bytes:
    """Return the whole body of an answer, within its limits of time and size; a redirect is not followed."""
    deadline, body = time.monotonic() + READ_S, bytearray()
    with session.get(url, timeout=READ_S, stream=True, allow_redirects=False) as answer:
        if answer.status_code != 200:
            asks = "; start it with --monitoring_config_file" if answer.status_code == 404 else ""
            raise ServingError(f"status {answer.status_code} instead of 200{asks}")
        try:
            for chunk in answer.iter_content(CHUNK):
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ServingError(f"more than {MOST_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise ServingTimeout(LATE)
        except requests.ConnectionError as exc:  # a server that began to answer is there
            raise ServingError("the answer broke off") from exc
    return bytes(body)


def parse(text: str, model: str) -> Counters:
    """Return the counters in a text: those of one model, and those of the directories of all models.

    If the server counts requests, but there was none about this model, the number of those that succeeded is 0.

    Raises:
        ServingError: these are not the metrics of TensorFlow Serving, or a value is not that of a counter.
    """
    if not IS_SERVING.search(text):
        raise ServingError("the text does not have the metrics of TensorFlow Serving")
    if not text.endswith("\n"):
        raise ServingError("the text ends within a line")
    found: dict[Series, float] = {}
    for name, line in _lines(text, model):
        try:
            series, count = _sample(line)
        except (ValueError, KeyError) as exc:
            labels = " and ".join(LABELS[name])
            raise ServingError(
                f"a line of {name} must be a counter in Prometheus' text format, with the labels {labels}"
            ) from exc
        if series in found:
            raise ServingError(f"every counter of {name} must have one value")
        found[series] = count
    if COUNTS_REQUESTS.search(text) and not any(name == REQUESTS for name, _ in found):
        found[REQUESTS, (("model_name", model), ("status", "OK"))] = 0.0
    return found


def _lines(text: str, model: str) -> Iterator[tuple[str, str]]:
    """Yield the lines with counters of a model or of a directory, each with the name of the counter.

    A client can put anything into the name of another model, also a line break, but no quote without a backslash.
    """
    for found in SAMPLE.finditer(text):
        name, line = found["name"], found.group()
        if name in LABELS:
            of = OF_MODEL.search(line)
            if of is None or of[1] == model:  # without that label it could be of any model
                yield name, line.replace("\n", "\\n") + "\n"


def _sample(line: str) -> tuple[Series, float]:
    """Return the counter in a line, and its value.

    Raises:
        ValueError: the line, or its value, is not that of a counter. KeyError: a label is missing.
    """
    from prometheus_client.parser import text_string_to_metric_families  # imports an HTTP server

    (sample,) = next(iter(text_string_to_metric_families(line))).samples
    labels = {label: sample.labels[label] for label in LABELS[sample.name]}
    if not 0 <= sample.value < MOST or math.isnan(float(labels.get("le", 0))):
        raise ValueError("a counter is at least 0")
    if sample.name != WARMING and sample.value % 1:
        raise ValueError("a counter is a whole number")
    return (sample.name, tuple(sorted(sample.labels.items()))), float(sample.value)


def totals(counters: Counters, name: str, label: str) -> dict[str, float]:
    """Return the sums of a counter, by the value of one of its labels."""
    total: dict[str, float] = defaultdict(float)
    for (counter, labels), count in counters.items():
        if counter == name:
            total[dict(labels)[label]] += count
    return total


def rises(before: Counters, after: Counters) -> tuple[Counters, bool]:
    """Return how much every counter rose between two readings, and whether they are of two processes.

    A server that was restarted counts from 0 again, and behind one address there can be several; then it is what the
    second process has counted since its start.
    """
    differ = _are_two_processes(before, after)
    start: Counters = {} if differ else before
    return {series: count - start.get(series, 0) for series, count in after.items()}, differ


def _are_two_processes(before: Counters, after: Counters) -> bool:
    """Return whether a counter fell or vanished, or a time of loading changed while nothing was loaded.

    No two loads take the same number of microseconds, so those times are as good as the name of a process.
    """
    if any(after.get(series, 0) < count for series, count in before.items()):
        return True
    (tries, loading), (tries_now, loading_now) = (
        (totals(counters, TRIES, "model_path"), totals(counters, LOADING, "model_path")) for counters in (before, after)
    )
    same = [path for path, count in tries.items() if tries_now.get(path) == count]
    return any(loading.get(path) != loading_now.get(path) for path in same)
