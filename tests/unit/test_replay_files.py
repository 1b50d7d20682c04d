"""Recorded requests as files: both forms, plain and compressed, and everything that is wrong with one."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.schema import Config
from tasks.errors import DataError
from tasks.model_server.tf_protos import message_module
from tasks.model_server.tf_records import masked_crc
from tasks.records import Signature, TensorSpec
from tasks.replay import files
from tasks.replay.bodies import arrays_of, body_of, message_of, shown
from tasks.replay.draw import drawn
from tasks.replay.files import Request, check_file, look_at, requests_in

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (None,)), TensorSpec("name", "string", (None,)), TensorSpec("v", "int64", (None, 2))),
    (),
)
ROW = b'{"instances": [{"x": 1.5, "name": "K\xc3\xb6ln", "v": [1, 2]}]}'
COLUMN = b'{"inputs": {"x": [1, NaN], "name": ["a", {"b64": "/w=="}], "v": [[1, 2], [3, 4]]}}'
RULE = "gates.replay.file must "


def written(directory: Path, content: bytes, *, packed: bool = False) -> Path:
    file = directory / "requests"
    file.write_bytes(gzip.compress(content) if packed else content)
    return file


def framed(*records: bytes) -> bytes:
    """Return the bytes of a TFRecord file."""
    return b"".join(
        (length := struct.pack("<Q", len(data))) + masked_crc(length) + data + masked_crc(data) for data in records
    )


def logged(model: str = "m", signature: str = "serving_default", kind: str = "predict_log", **inputs: Any) -> bytes:
    """Return a PredictionLog as TensorFlow Serving writes it."""
    entry = message_module("tensorflow_serving.apis.prediction_log_pb2").PredictionLog()
    request = getattr(entry, kind).request
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if kind == "predict_log":
        rows = {"x": np.ones(1, np.float32), "name": np.array(["Köln"]), "v": np.array([[1, 2]])} | inputs
        request.CopyFrom(message_of(rows, Signature(SIGNATURE.inputs, (), signature), model))
        request.model_spec.version.value = 7
    return bytes(entry.SerializeToString())


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_json_lines_in_both_formats(tmp_path: Path, packed: bool) -> None:
    """Bodies with rows and with columns are read as a server reads them, whatever the ends of their lines are."""
    file = written(tmp_path, b"\xef\xbb\xbf" + ROW + b"\r\n\n" + COLUMN, packed=packed)
    assert look_at(file, "m").requests == 2
    first, second = requests_in(file, "m")
    assert (first.number, first.body, second.number, second.body) == (1, ROW, 3, COLUMN)
    one, two = arrays_of(first, SIGNATURE), arrays_of(second, SIGNATURE)
    assert (one["x"].tolist(), one["name"].tolist(), one["v"].tolist()) == ([1.5], ["Köln"], [[1, 2]])
    assert two["name"].tolist() == [b"a", b"\xff"]
    assert np.isnan(two["x"][1])
    assert shown(two, 1) == {"x": "nan", "name": "�", "v": [3, 4]}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_prediction_logs(tmp_path: Path, packed: bool) -> None:
    """A PredictRequest becomes the same rows, and a body that a server reads as the same rows, NaN included."""
    rows = {
        "x": np.array([np.nan, 2], np.float32),
        "name": np.array([b"\xff", b"b"], object),
        "v": np.ones((2, 2), int),
    }
    file = written(tmp_path, framed(logged(), logged(**rows)), packed=packed)
    assert look_at(file, "m") == look_at(file, "m")
    assert look_at(file, "m").kind == "TFRecords"
    first, second = requests_in(file, "m")
    assert arrays_of(first, SIGNATURE)["name"].tolist() == ["Köln"]
    for request in (first, second):
        again = arrays_of(Request(1, body_of(request)), SIGNATURE)
        for name, array in arrays_of(request, SIGNATURE).items():
            np.testing.assert_array_equal(again[name], array)


SKIPPED = {
    b"nonsense": "it is not JSON",
    b'{"instances": [1]': "it is not JSON",
    b"[1, 2]": "it is not a JSON object",
    b'{"x": 1}': "it must have either 'instances' or 'inputs'",
    b'{"instances": [1], "inputs": [1]}': "it must have either 'instances' or 'inputs'",
    b'{"a":' * 100_000: "it is not JSON",
}


@pytest.mark.parametrize(("line", "reason"), SKIPPED.items(), ids=range(len(SKIPPED)))
def test_a_line_that_is_no_body(tmp_path: Path, line: bytes, reason: str) -> None:
    """A damaged line is left out with its number and the reason, and those around it are read."""
    found = list(requests_in(written(tmp_path, b"\n".join([ROW, line, ROW])), "m"))
    assert [(one.number, bool(one.skipped)) for one in found] == [(1, False), (2, True), (3, False)]
    assert found[1].skipped.startswith(reason)


def test_records_that_are_not_sent(tmp_path: Path) -> None:
    """Records of other models and kinds, without inputs, of other bytes or with a wrong checksum say so."""
    damaged = bytearray(framed(logged()))
    damaged[-10] ^= 1
    others = [logged("other"), logged(kind="classify_log"), b"", b"\xff\xff"]
    empty = message_module("tensorflow_serving.apis.prediction_log_pb2").PredictionLog()
    empty.predict_log.request.model_spec.name = "m"
    file = written(tmp_path, framed(logged(), *others, empty.SerializeToString()) + bytes(damaged) + framed(logged("")))
    assert [one.skipped for one in requests_in(file, "m")] == [
        "", "it asks for the model 'other'", "it is a classify_log, and only predict requests are sent", "it is empty",
        "it is not a PredictionLog", "it has no inputs", "its bytes do not fit their checksum", "",
    ]  # fmt: skip


HALF = framed(b"x" * 100)[:60]
UNUSABLE = {
    "empty": (b"", "which is empty"),
    "blank": (b"\n \n", "which is empty"),
    "csv": (b"age,city\n1,Oslo\n", "which begins with b'age,city"),
    "list": (b'[{"instances": [1]}]', "begins with a list: write one body on each line"),
    "utf-16": ('{"instances": [1]}'.encode("utf-16"), "is UTF-16: write UTF-8"),
    "zlib": (b"\x78\x9c" + b"1" * 20, "compressed with zlib"),
    "instances alone": (b'{"x": 1.0}\n' * 3, "none of the first 1,000 can be used (request 1: it must have either"),
    "pretty": (b'{\n "instances": [1]\n}', "request 1: it is not JSON"),
    "half a record": (HALF, "record 1 is cut short"),
    "half a header": (framed(logged()) + HALF[:7], "record 2 is cut short"),
    "wrong length": (framed(logged()) + b"\x01" + HALF[1:], "the length of record 2 does not fit its checksum"),
    "another model": (framed(logged("other")), "request 1: it asks for the model 'other'"),
    "half a gzip": (gzip.compress(ROW * 99)[:-9], "gzip compression is damaged: it is cut short"),
    "wrong gzip": (gzip.compress(ROW)[:-8] + b"\0" * 8, "gzip compression is damaged: CRC check failed"),
    "torn gzip": (gzip.compress(ROW)[:12] + b"\xff" * 40, "gzip compression is damaged"),
}


@pytest.mark.parametrize(("content", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, words: str) -> None:
    """What is wrong with a file as a whole is one line of configuration error, before anything is trained."""
    file = written(tmp_path, content)
    config = Config.model_validate({"name": "m", "gates": {"replay": {"file": file}}})
    with pytest.raises(ConfigError) as caught:
        check_file(config)
    assert words in str(caught.value)
    assert str(caught.value).startswith("gates.replay.file")
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file and a directory are named; a configuration that does not use the file does not look at it."""
    for path, words in ((tmp_path / "no", "does not exist"), (tmp_path, "which is not a file")):
        with pytest.raises(ConfigError, match=words):
            check_file(Config.model_validate({"name": "m", "gates": {"replay": {"file": path}}}))
    unused = {"use": ["parity"], "replay": {"file": tmp_path / "no"}}
    assert not check_file(Config.model_validate({"name": "m", "gates": unused}))
    file = written(tmp_path, ROW)
    assert (
        check_file(Config.model_validate({"name": "m", "gates": {"replay": {"file": file}}}))
        == "1 request as JSON lines"
    )


def test_more_are_passed_over_than_there_are(tmp_path: Path) -> None:
    """If `every` is larger than the number of requests, none would be sent: that is said before the training."""
    replay = {"file": written(tmp_path, b"\n".join([ROW] * 9)), "every": 10}
    with pytest.raises(ConfigError, match=r"gates\.replay\.every must be at most .* got 10, but .* has 9 requests"):
        check_file(Config.model_validate({"name": "m", "gates": {"replay": replay}}))
    found = check_file(Config.model_validate({"name": "m", "gates": {"replay": {**replay, "every": 9}}}))
    assert found == "9 requests as JSON lines"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"instances": [{"x": 1, "name": "a"}]}', "keys must be equal to"),
        (b'{"inputs": {"x": [1], "name": ["a"]}}', "Missing named input: v"),
        (b'{"inputs": {"x": [1], "name": ["a"], "v": [[1, 2, 3]]}}', "it has the shape (1, 3)"),
        (b'{"inputs": {"x": [1, 2], "name": ["a"], "v": [[1, 2]]}}', "its inputs have 1 and 2 rows"),
        (b'{"inputs": {"x": ["a"], "name": ["a"], "v": [[1, 2]]}}', "is not of expected type: float"),
        (b'{"signature_name": "other", "inputs": {}}', "it asks for the signature 'other'"),
        (b'{"inputs": {"x": %s1%s, "name": ["a"], "v": [[1, 2]]}}' % (b"[" * 100, b"]" * 100), "dimension"),
    ],
)
def test_a_request_that_does_not_fit_the_inputs(body: bytes, words: str) -> None:
    """Names, shapes, types and signatures that differ from the model's are told in a server's words or in ours."""
    with pytest.raises(DataError) as caught:
        arrays_of(Request(1, body), SIGNATURE)
    assert words in str(caught.value)


def test_complex_numbers_cannot_be_sent_as_json() -> None:
    """A PredictRequest may hold what JSON cannot; such a record is refused, and ends no run."""
    request = message_of({"x": np.ones(1, np.float32)}, Signature(SIGNATURE.inputs[:1], ()), "m")
    request.inputs["x"].dtype, request.inputs["x"].tensor_content = 8, np.ones(1, np.complex64).tobytes()
    with pytest.raises(DataError, match="'x' has complex numbers"):
        body_of(Request(1, message=request))


def test_a_number_and_a_list_of_it_are_the_same_value() -> None:
    """Clients of an input of shape (n,) may send `[[1], [2]]` as well, which a model may take."""
    bodies = [
        b'{"inputs": {"x": %s, "name": ["a", "b"], "v": [[1, 2], [3, 4]]}}' % x for x in (b"[1, 2]", b"[[1], [2]]")
    ]
    plain, listed = (arrays_of(Request(1, body), SIGNATURE)["x"].tolist() for body in bodies)
    assert plain == listed == [1, 2]


def test_a_first_line_that_was_cut_hides_no_other(tmp_path: Path) -> None:
    """A log that was rotated begins within a line, which is left out as any other damaged line is."""
    file = written(tmp_path, ROW[5:] + b"\n" + ROW + b"\n")
    assert (
        check_file(Config.model_validate({"name": "m", "gates": {"replay": {"file": file}}}))
        == "2 requests as JSON lines"
    )
    assert [one.skipped for one in requests_in(file, "m")] == ["it is not JSON", ""]


@pytest.mark.parametrize("cut", [7, 60])
def test_a_record_that_is_being_written_while_the_file_is_read(tmp_path: Path, cut: int) -> None:
    """A file that was whole before the training may grow; the part of a record at its end is left out."""
    file = written(tmp_path, framed(logged()) + framed(b"x" * 100)[:cut])
    assert [one.skipped for one in requests_in(file, "m")] == ["", "it is cut short"]


@pytest.mark.parametrize("record", [False, True], ids=["line", "record"])
def test_a_request_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bool) -> None:
    """A request that cannot be held is left out with the reason, in both forms, and the others are read."""
    monkeypatch.setattr(files, "LONGEST", 200)
    long = {"name": np.array(["x" * 300])}
    content = framed(logged(), logged(**long), logged()) if record else b"\n".join([ROW, ROW + b" " * 300, ROW])
    file = written(tmp_path, content)
    found = list(requests_in(file, "m"))
    assert [one.number for one in found] == [1, 2, 3]
    assert [one.skipped for one in found] == ["", files.TOO_LONG, ""]
    assert look_at(file, "m").requests == 3


def numbers(file: Path, count: int, seed: int) -> list[float]:
    config = Config.model_validate(
        {"name": "m", "seed": seed, "gates": {"replay": {"file": file}},
         "export": {"warmup_from": "requests", "warmup_requests": count}}
    )  # fmt: skip
    signature = Signature((TensorSpec("x", "float32", (None,)),), ())
    return [float(rows["x"][0]) for rows in drawn(file, signature, config)]


def test_requests_are_drawn_with_the_same_probability(tmp_path: Path) -> None:
    """Each request is drawn about as often as any other, a seed draws the same ones, and what does not fit is left."""
    lines = [b'{"inputs": {"x": [%d]}}' % number for number in range(20)]
    file = written(tmp_path, b"\n".join([*lines, b'{"inputs": {"x": ["text"]}}']))
    assert numbers(file, 4, 1) == numbers(file, 4, 1)
    often = np.bincount([int(x) for seed in range(400) for x in numbers(file, 5, seed)], minlength=20)
    assert often.min() > 60  # 95 are expected of each, with a standard deviation of 8.5
    assert often.max() < 130
    assert numbers(file, 1000, 0) == list(range(20))


def test_only_what_fits_is_drawn(tmp_path: Path) -> None:
    """Many requests that do not fit keep no seed from finding the only one that does, however few are drawn."""
    others = [b'{"inputs": {"y": [%d]}}' % number for number in range(50)]
    file = written(tmp_path, b"\n".join([*others, b'{"inputs": {"x": [7]}}', *others]))
    assert all(numbers(file, 1, seed) == [7] for seed in range(10))


def test_nothing_to_draw(tmp_path: Path) -> None:
    """A file of which nothing fits is refused with the reason."""
    file = written(tmp_path, b'{"inputs": {"y": [1]}}')
    with pytest.raises(DataError, match="must have requests that fit the inputs of the model, got none"):
        numbers(file, 5, 0)
    with pytest.raises(ValueError, match=r"drawn from gates\.replay\.file; set that file"):
        Config.model_validate({"name": "m", "export": {"warmup_from": "requests"}})


def test_long_values_are_cut(tmp_path: Path) -> None:
    """A row that is shown has a bounded size, whatever its inputs are."""
    rows: dict[str, Any] = {"x": np.zeros((1, 1000)), "name": np.array(["a" * 10_000])}
    found: dict[str, Any] = shown(rows, 0)
    shown_numbers: Sequence[Any] = found["x"]
    assert len(shown_numbers) == 16
    assert shown_numbers[-1] == "and 985 more"
    assert len(found["name"]) <= 120
