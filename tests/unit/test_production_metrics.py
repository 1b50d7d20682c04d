"""Production's metrics: which lines of a server's text count, and what is said of them after a change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ServingError
from tasks.production.metrics import Figures, Reading, figures, in_words
from tasks.serving.metrics import LOADING, REQUESTS, RUNTIME, TRIES, WARMING, Counters, parse, rises, totals

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
    assert counted(BEFORE, REQUESTS) == {"half/OK": 0}
    assert counted(AFTER, REQUESTS, "none") == {"none/NOT_FOUND": 1}


@pytest.mark.parametrize(
    "other",
    [
        line(REQUESTS, "NaN", model_name="other", status="OK"),
        line(REQUESTS, 1, model_name="a\n", status="OK"),  # over gRPC a name can be anything, and is not escaped
        line(REQUESTS, 1, model_name=f'a\n{REQUESTS}{{model_name=\\"half\\",status=\\"OK\\"}} 9', status="OK"),
        line(REQUESTS, 1, model_name=f"a\n{LOADING}{{", status="OK"),
        line(REQUESTS, 1, model_name="half2", status="OK"),
        line(f"{REQUESTS}_created", 1, model_name="half", status="OK"),
        "\x1b[31m not a line \N{LINE SEPARATOR}\n",
        "# HELP x \\\n\n\n",
        'other{x=a"} 1\nother{x="a} 1\nother 5"6\nother{x="a"y="b"} "\n',
        line(REQUESTS, 1, model_name=f"a\n{LOADING}{{model_path=", status="OK"),
        line("other", 1, model_name=f"a\n{TRIES}{{model_path=", status="OK"),
    ],
)
def test_lines_of_others_do_no_harm(other: str) -> None:
    """What clients, other models and other programs put into the text changes nothing."""
    assert parse(other + AFTER, "half") == parse(AFTER, "half")


def test_escapes_and_more_labels() -> None:
    """A directory is read with its escapes, and a label that a gateway adds does no harm."""
    text = AFTER + line(LOADING, 7, model_path='/a \\"b\\"\\\\c/half/3', zone="x")
    assert counted(text, LOADING)['/a "b"\\c/half/3/x'] == 7


@pytest.mark.parametrize(
    "value", ["NaN", "+Inf", "-Inf", "-1", "1e30", "1e999", "0x5", "five", "", "1_000", "2.5", '5"6', "5\\"]
)
def test_what_is_no_count(value: str) -> None:
    """A value that no counter has is refused as a whole, because a figure without it would be wrong."""
    with pytest.raises(ServingError, match=f"^a line of {REQUESTS} must be a counter in Prometheus' text format"):
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
        (AFTER.replace("model_name", "model"), "with the labels model_name and status"),
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


@pytest.mark.parametrize(
    "written",
    [
        f' {REQUESTS} {{ status = "INVALID_ARGUMENT" , model_name = "half" , }} 3\n',
        f'{REQUESTS}{{zone="a\\"}}b\nc",model_name="half",status="INVALID_ARGUMENT"}} 3e0 1700000000000\r\n',
    ],
)
def test_other_ways_to_write_the_same(written: str) -> None:
    """Blanks, the order of labels, an exponent, a time, and a line break within quotes change no count."""
    found = parse(AFTER.replace(ERRORS, written), "half")
    assert totals(found, REQUESTS, "status") == {"INVALID_ARGUMENT": 3, "OK": 5}


def between(before: str | None, after: str, version: int) -> Figures:
    """Return what is found on one server."""
    then: Counters | None = None if before is None else parse(before, "half")
    return figures(Reading(10.0, then), parse(after, "half"), 14.25, "half", version)


def told(before: str | None, after: str, version: int = 2, *, first: bool = False) -> str:
    """Return what is said of one server."""
    return in_words({HERE: between(before, after, version)}, [], "half", version, first=first)


SPAN = f"{HERE} in 4.2 s, all versions of half:"


def test_what_was_recorded() -> None:
    """Requests and errors between the readings, the load time of the new version, and the slowest answers."""
    assert told(BEFORE, AFTER) == (
        f"{SPAN} 8 requests, 3 errors (3 INVALID_ARGUMENT), 99% of 2 answers computed within 37.5 ms, "
        "SavedModel of version 2 loaded in 82.3 ms"
    )


def test_only_what_was_counted_is_said() -> None:
    """Without requests, without a load and without families, less is said and nothing is made up."""
    assert told(AFTER, AFTER) == f"{SPAN} 0 requests, no errors"
    bare = "# TYPE :tensorflow:serving:request_count counter\n"
    one = bare + line(REQUESTS, 1, model_name="half", status="OK")
    assert told(bare, one) == f"{SPAN} 1 request, no errors"
    renamed = AFTER.replace("request_count", "request_count_total")
    assert told(renamed, renamed) == f"{SPAN} requests and errors unknown"


SINCE = f"{HERE} since its start (it was restarted during the change, or is one of several behind this address)"


def test_a_server_that_was_not_there_before() -> None:
    """Without a reading before, all counts are those since the server's start, and are said to be."""
    assert told(None, AFTER).startswith(
        f"{HERE} since its start (it was not read before the change), all versions of half: 8 requests, 3 errors"
    )


@pytest.mark.parametrize(
    "before",
    [
        AFTER.replace('OK"} 5', 'OK"} 6'),
        AFTER + line(LOADING, model_path="/models/half/0"),
        AFTER.replace("180275", "170001").replace('OK"} 5', 'OK"} 4'),  # the same load cannot take another time
    ],
)
def test_another_process(before: str) -> None:
    """Counts are not subtracted from those of another process: one that was restarted, or another replica."""
    assert told(before, AFTER).startswith(f"{SINCE}, all versions of half: 8 requests, 3 errors")


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
    assert told(AFTER, AFTER + odd) == f"{SPAN} 8 requests, 8 errors (2 INTERNAL, 6 other)"


def loads(path: str, warm_up: str = "OK", **counts: int) -> str:
    """Return the lines about a directory."""
    tries = "".join(line(TRIES, number, model_path=path, status=status) for status, number in counts.items())
    return tries + line(LOADING, 3_000_000, model_path=path) + line(WARMING, "1.5e+06", model_path=path, status=warm_up)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"success": 1}, "loaded in 3.0 s and warmed up in 1.5 s"),
        ({"success": 2}, "loaded 2 times in 3.0 s altogether and warmed up in 1.5 s"),
        ({"fail": 1}, "failed to load once"),
        ({"fail": 6}, "failed to load 6 times"),
        ({"fail": 5, "success": 1}, "failed to load 5 times, and was loaded once"),  # in a time that is not known
        ({"success": 1, "warm_up": "INTERNAL: it\n\t [[{{node a}}]]"}, "loaded in 3.0 s but its warm-up failed"),
    ],
)
def test_the_load_of_a_version(lines: Mapping[str, Any], words: str) -> None:
    """A time is said only where it is known of what it is; a load that failed and a warm-up that failed are said."""
    text = told(AFTER, AFTER + loads("/models/half/00007", **lines), 7)
    assert text == f"{SPAN} 0 requests, no errors, SavedModel of version 7 {words}"


@pytest.mark.parametrize(
    ("paths", "is_known"),
    [
        (["/srv/half/7"], True),
        (["gs://bucket/models/half/7"], True),
        (["/srv/elsewhere/7"], True),  # base_path may have another name
        (["/srv/elsewhere/6", "/srv/elsewhere/7"], True),
        (["/srv/other/7", "/srv/half/7"], True),
        (["/srv/other/7", "/srv/half/6"], False),  # it is the other model that has a version 7
        (["/srv/other/7", "/srv/elsewhere/6"], False),
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
    before = "# TYPE :tensorflow:serving:request_count counter\n"
    text = told(before, before + "".join(loads(path, success=1) for path in paths), 7)
    assert ("version 7 loaded" in text) == is_known


@pytest.mark.parametrize(
    ("buckets", "words"),
    [
        ({"1000": 0, "+Inf": 0}, ""),
        ({"+Inf": 5}, ""),
        ({"1000": 99, "2000": 99, "+Inf": 100}, ", 99% of 100 answers computed within 1 ms"),
        ({"1000": 98, "2000": 99, "+Inf": 100}, ", 99% of 100 answers computed within 2 ms"),
        ({"1000": 98, "1.27482e+06": 99, "+Inf": 100}, ", 99% of 100 answers computed within 1.3 s"),
        ({"999600": 1, "+Inf": 1}, ", 99% of 1 answers computed within 1.0 s"),
        ({"1000": 98, "1.27482e+06": 98, "+Inf": 100}, ""),
        ({"1000": 100, "2000": 60, "+Inf": 100}, ""),  # the counts of buckets include those of smaller ones
        ({"-1000": 100, "+Inf": 100}, ""),
        ({"1000": 98, "2000": 100}, ""),  # how many there were is not known
    ],
)
def test_the_speed(buckets: Mapping[str, int], words: str) -> None:
    """The bound of the bucket in which the slowest of 99% lie; none where it has no bound."""
    before = "# TYPE :tensorflow:serving:request_count counter\n"
    after = before + "".join(line(RUNTIME, count, model_name="half", le=bound) for bound, count in buckets.items())
    assert told(before, after) == f"{SPAN} 0 requests, no errors{words}"


def test_several_servers() -> None:
    """Sums are of what was counted between two readings, and say of how many; a server with errors comes early."""
    fine = AFTER.replace(ERRORS, "") + loads("/x/half/9", success=1)
    found = {
        "http://a": between(AFTER, AFTER + loads("/x/half/9", success=1), 9),
        "http://b": between(BEFORE, fine, 9),
        "http://c": between(None, AFTER, 9),  # may have counted for months
    }
    text = in_words(found, ["http://d"], "half", 9, first=False)
    assert text.startswith(
        "2 of 4 servers within 4.2 s, all versions of half: 5 requests, no errors; "
        "2 of 4 servers loaded the SavedModel of version 9 in at most 3.0 s; not read: http://d; "
        "http://c since its start ("
    )
    assert in_words({}, ["http://d"], "half", 9, first=False) == "unknown, not read: http://d"
    assert in_words({}, [], "half", 9, first=False) == ""
    same = {f"http://{host}": found["http://a"] for host in range(99)}
    many = in_words(same, [*map(str, range(99))], "half", 9, first=False)
    assert len(many) < 4000  # what MLflow would cut within a number
    assert ", 7, and 91 more; http://0 in 4.2 s" in many
    assert many.endswith(f" and warmed up in 1.5 s; {99 - many.count('http://')} more not shown")
