"""Production's metrics: which lines of a server's text count, and what is said of them after a change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.errors import ServingError
from tasks.production.metrics import Reading, figures, in_words
from tasks.serving.metrics import LOADING, REQUESTS, RUNTIME, TRIES, WARMING, Counters, parse, rises

HERE = "http://a:8501"
RECORDED = Path(__file__).parents[1] / "data" / "tfs_metrics"
BEFORE, AFTER = ((RECORDED / f"{name}.txt").read_text() for name in ("before", "after"))
ERRORS = f'{REQUESTS}{{model_name="half",status="INVALID_ARGUMENT"}} 3\n'


def line(name: str, value: object = 1, **labels: str) -> str:
    """Return a line of metrics."""
    written = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{written}}} {value}\n"


def counted(text: str, name: str, model: str = "half") -> dict[str, float]:
    """Return the values of a counter by its labels' values."""
    found = parse(text, model)
    return {"/".join(text for _, text in labels): count for (known, labels), count in found.items() if known == name}


def test_the_counters_that_were_recorded() -> None:
    """The counters of one model and of every directory are read, and those of other models are not."""
    assert counted(AFTER, REQUESTS) == {"half/INVALID_ARGUMENT": 3, "half/OK": 5}
    assert counted(AFTER, TRIES) == {"/models/bad/1/fail": 1, "/models/half/1/success": 1, "/models/half/2/success": 1}
    assert counted(AFTER, LOADING)["/models/half/2"] == 82327
    assert counted(AFTER, RUNTIME)["Predict/+Inf/half/TF1"] == 2
    assert counted(BEFORE, REQUESTS) == {}
    assert counted(AFTER, REQUESTS, "none") == {"none/NOT_FOUND": 1}


@pytest.mark.parametrize(
    "other",
    [
        line(REQUESTS, "NaN", model_name="other", status="OK"),
        line(REQUESTS, 1, model_name="a\n", status="OK"),  # over gRPC a name can be anything, and is not escaped
        line(REQUESTS, 1, model_name=f'a\n{REQUESTS}{{model_name=\\"half\\",status=\\"OK\\"}} 9', status="OK"),
        line(REQUESTS, 1, model_name=f"a\n{LOADING}{{", status="OK"),
        line(REQUESTS, 1, model_name="half2", status="OK"),
        line(REQUESTS, 1, old_model_name="half", status="OK"),
        line(f"{REQUESTS}_created", 1, model_name="half", status="OK"),
        "\x1b[31m not a line \N{LINE SEPARATOR}\n",
        "# HELP x \\\n\n\n",
    ],
)
def test_lines_of_others_do_no_harm(other: str) -> None:
    """What clients, other models and other programs put into the text changes nothing."""
    assert parse(other + AFTER, "half") == parse(AFTER, "half")


def test_escapes_and_more_labels() -> None:
    """A directory is read with its escapes, and a label that a gateway adds does no harm."""
    text = AFTER + line(LOADING, 7, model_path='/a \\"b\\"\\\\c/half/3', zone="x")
    assert counted(text, LOADING)['/a "b"\\c/half/3/x'] == 7


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "1e30", "1e999", "0x5", "five", "", "1_000"])
def test_what_is_no_count(value: str) -> None:
    """A value that no counter has is refused as a whole, because a figure without it would be wrong."""
    with pytest.raises(ServingError, match=f"^a line of {REQUESTS} must be a counter in Prometheus' text format$"):
        parse(AFTER.replace(ERRORS, ERRORS.replace("3\n", f"{value}\n")), "half")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not have the metrics of TensorFlow Serving"),
        ("<html>log in</html>\n", "does not have the metrics of TensorFlow Serving"),
        ("# TYPE process_cpu_seconds counter\n", "does not have the metrics of TensorFlow Serving"),
        (AFTER[: AFTER.index(ERRORS) + 40], "ends within a line"),
        (AFTER + ERRORS, "must have one value"),
        (AFTER + line(REQUESTS, 1, model_name="half"), "must be a counter"),
        (AFTER + line(RUNTIME, 1, model_name="half", le="NaN"), "must be a counter"),
        (AFTER + line(RUNTIME, 1, model_name="half", le="wide"), "must be a counter"),
        (AFTER + f'{LOADING}{{model_path="/models/half/3"\n', "must be a counter"),
    ],
)
def test_what_is_no_text_of_a_server(text: str, words: str) -> None:
    """A page of another program, half a text, and a counter with two values are told, without quoting them."""
    with pytest.raises(ServingError, match=words):
        parse(text, "half")


def test_a_difference() -> None:
    """Counters that are new count from 0; where one went down or away, the server was restarted and all do."""
    first, second = parse(BEFORE, "half"), parse(AFTER, "half")
    rose, restarted = rises(first, second)
    assert not restarted
    assert {count for (name, _), count in rose.items() if name == REQUESTS} == {3, 5}
    assert rose[LOADING, (("model_path", "/models/half/1"),)] == 0
    for later in (first, {series: count - 1 for series, count in second.items()}):
        assert rises(second, later) == (later, True)
    assert rises(second, second) == (dict.fromkeys(second, 0), False)


def told(before: str | None, after: str, version: int = 2, *, first: bool = False) -> str:
    """Return what is said of one server."""
    then: Counters | None = None if before is None else parse(before, "half")
    found = figures(Reading(10.0, then), Reading(14.25, parse(after, "half")), "half", version)
    return in_words({HERE: found}, [], version, first=first)


def test_what_was_recorded() -> None:
    """Requests and errors between the readings, the load time of the new version, and the slowest answers."""
    assert told(BEFORE, AFTER) == (
        f"{HERE} in 4.2 s: 8 requests, 3 errors (3 INVALID_ARGUMENT), version 2 loaded in 82.3 ms, "
        "99% of 2 answers computed within 37.5 ms"
    )


def test_only_what_was_counted_is_said() -> None:
    """Without requests, without a load and without families, less is said and nothing is made up."""
    assert told(AFTER, AFTER) == f"{HERE} in 4.2 s: 0 requests, no errors"
    bare = "# TYPE :tensorflow:serving:request_count counter\n"
    one = bare + line(REQUESTS, 1, model_name="half", status="OK")
    assert told(bare, one) == f"{HERE} in 4.2 s: 1 request, no errors"


def test_a_server_that_was_not_there_before() -> None:
    """Without a reading before, all counts are those since the server's start, and are said to be."""
    assert told(None, AFTER).startswith(f"{HERE} since its start: 8 requests, 3 errors")


@pytest.mark.parametrize(
    "before", [AFTER.replace('OK"} 5', 'OK"} 6'), AFTER + line(LOADING, model_path="/models/half/0")]
)
def test_a_restart(before: str) -> None:
    """Counts that went down or away are not subtracted."""
    assert told(before, AFTER).startswith(f"{HERE} since its start, which was during the change: 8 requests, 3 errors")


def test_a_first_version() -> None:
    """Requests before there is a model fail as expected, also those of the verification; other errors are errors."""
    missing = AFTER + line(REQUESTS, 12, model_name="half", status="NOT_FOUND")
    only = missing.replace(line(REQUESTS, 3, model_name="half", status="INVALID_ARGUMENT"), "")
    assert "12 errors (12 NOT_FOUND, as expected before the first version)" in told(None, only, first=True)
    assert "15 errors (3 INVALID_ARGUMENT, 12 NOT_FOUND)" in told(None, missing, first=True)
    assert "12 errors (12 NOT_FOUND)" in told(None, only)


def test_a_status_that_no_server_has() -> None:
    """Text from a counter is not repeated: it could be anything, in several lines."""
    odd = "".join(line(REQUESTS, 2, model_name="half", status=text) for text in ("", "<b>\\n", "ok", "INTERNAL"))
    assert told(AFTER, AFTER + odd) == f"{HERE} in 4.2 s: 8 requests, 8 errors (2 INTERNAL, 6 other)"


def loads(path: str, **counts: int) -> str:
    """Return the lines about a directory."""
    tries = "".join(line(TRIES, number, model_path=path, status=status) for status, number in counts.items())
    return tries + line(LOADING, 3_000_000, model_path=path) + line(WARMING, "1.5e+06", model_path=path, status="OK")


def test_the_load_of_a_version() -> None:
    """Warm-up is said, the time of two loads is the mean, and loads that failed are counted."""
    there = "/models/half/00007"
    assert "version 7 loaded in 3.0 s and warmed up in 1.5 s" in told(AFTER, AFTER + loads(there, success=1), 7)
    assert "version 7 loaded in 1.5 s and warmed up in 750 ms" in told(AFTER, AFTER + loads(there, success=2), 7)
    failed = told(AFTER, AFTER + loads(there, fail=1), 7)
    assert failed == f"{HERE} in 4.2 s: 0 requests, no errors, version 7 failed to load once"
    assert "failed to load 6 times" in told(AFTER, AFTER + loads(there, fail=6), 7)


@pytest.mark.parametrize(
    ("paths", "is_known"),
    [
        (["/srv/half/7"], True),
        (["gs://bucket/models/half/7"], True),
        (["/srv/elsewhere/7"], True),  # base_path may have another name
        (["/srv/other/7", "/srv/half/7"], True),
        (["/srv/other/7", "/srv/elsewhere/7"], False),
        (["/a/half/7", "/b/half/7"], False),
        (["/srv/half/70"], False),
        (["/srv/half/7/deeper"], False),
        (["7"], True),
        ([""], False),
    ],
)
def test_the_directory_of_a_version(paths: list[str], is_known: bool) -> None:
    """Models share numbers, so a load time is said only where a directory can be but that of the version."""
    text = told(AFTER, AFTER + "".join(loads(path, success=1) for path in paths), 7)
    assert ("version 7 loaded" in text) == is_known


@pytest.mark.parametrize(
    ("buckets", "words"),
    [
        ({"1000": 0, "+Inf": 0}, ""),
        ({"+Inf": 5}, ""),
        ({"1000": 99, "2000": 99, "+Inf": 100}, ", 99% of 100 answers computed within 1 ms"),
        ({"1000": 98, "2000": 99, "+Inf": 100}, ", 99% of 100 answers computed within 2 ms"),
        ({"1000": 98, "1.27482e+06": 98, "+Inf": 100}, ""),
    ],
)
def test_the_speed(buckets: Mapping[str, int], words: str) -> None:
    """The bound of the bucket in which the slowest of 99% lie; none where it has no bound."""
    before = "# TYPE :tensorflow:serving:runtime_latency histogram\n"
    after = before + "".join(line(RUNTIME, count, model_name="half", le=bound) for bound, count in buckets.items())
    assert told(before, after) == f"{HERE} in 4.2 s: 0 requests, no errors{words}"


def test_several_servers() -> None:
    """The sums of all replicas and the slowest load come first, then each; one without figures is named."""
    later = parse(AFTER + loads("/x/half/9", success=1), "half")
    readings = [(parse(BEFORE, "half"), parse(AFTER, "half")), (None, later)]
    found = {
        f"http://{host}:8501": figures(Reading(0, before), Reading(2, after), "half", 9)
        for host, (before, after) in zip("ab", readings, strict=True)
    }
    text = in_words(found, ["http://c:8501"], 9, first=False)
    assert text.startswith(
        "2 servers: 16 requests, 6 errors (6 INVALID_ARGUMENT), version 9 loaded in at most 3.0 s; "
        "http://a:8501 in 2.0 s: 8 requests"
    )
    assert "; http://b:8501 since its start: 8 requests" in text
    assert text.endswith("; not read: http://c:8501")
    assert in_words({}, ["http://c:8501"], 9, first=False) == ""
