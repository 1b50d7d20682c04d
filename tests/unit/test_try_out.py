"""Serving one model by hand: what is refused before a server is started."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from flows import try_out
from tasks.model_server.tf_protos import message_module
from tasks.model_server.tf_records import masked_crc
from tasks.records import Signature, TensorSpec
from tasks.savedmodel.warmup import WARMUP, read_example
from tasks.serving.example import LONGEST, request_lines, row_of_zeros
from tests.data.hand_written import Model

MODELS = Path("tests/data/tfs_rest/models").absolute()
X, CITY = TensorSpec("x", "float32", (None, 2)), TensorSpec("city", "string", (None,))
Y = TensorSpec("y", "float32", (None,))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a directory with a configuration, and rows that fit `twov`."""
    (tmp_path / "cfg.yaml").write_text(f"name: m\nwork_dir: {tmp_path}/work\nmodels_root: {tmp_path}/models\n")
    (tmp_path / "rows.csv").write_text("x\n1\n")
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.json")
    return tmp_path


def refused(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and the one line of an error; `{}` in a word stands for the project's directory."""
    placed = [word.replace("{}", str(project)) for word in words]
    code = try_out.main(["--config", str(project / "cfg.yaml"), "--set", "serving.backend=embedded", *placed])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return code, shown.err


def test_an_unsafe_candidate_is_not_served(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A candidate that the safety gate refuses is one line with exit code 1, and no server loads it by hand either."""
    model = Model()
    model.node("ImmutableConst", "y", memory_region_name="/etc/passwd")
    model.read(project / "work" / "candidates" / "m" / "1")
    code, line = refused(project, capsys, "--version", "1")
    assert code == 1
    assert "a model is served only if it is safe: operations must not reach outside the graph" in line
    assert "ImmutableConst 'y'" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there must be a live version"),
        (["--version", "7"], "--version must be a candidate"),
        (["--model", "{}/none"], "--model must be a SavedModel directory"),
        (["--model", "{}/pipe.csv"], "--model must be a SavedModel directory"),
        (["--model", "{}/rows.csv"], "--model must be a SavedModel directory"),
        (["--rows", "{}/none.csv"], "--rows must name a file, got"),
        (["--rows", "{}/pipe.csv"], "--rows must name a file, got"),
        (["--rows", "{}/rows.xlsx"], "--rows must name a file of .parquet, .csv, .json, .npz"),
        (["--out", "{}/a.csv"], "--out saves the answers to the rows"),
        (["--rows", "{}/rows.csv", "--out", "{}/a.txt"], "--out must be a file with the suffix .csv or .json"),
        (["--rows", "{}/rows.csv", "--out", "{}/no/a.csv"], "in a writable directory"),
        (["--rows", "{}/rows.csv", "--out", "{}/pipe.json"], "in a writable directory"),
        (["--rows", "{}/rows.csv", "--out", "{}/rows.csv"], "must be different files"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """Options that name nothing to serve, read or write end with exit code 2 and what to do."""
    code, line = refused(project, capsys, *words)
    assert code == 2
    assert said in line


ROWS = [
    ("twov", "rows.csv", "", "No columns to parse"),
    ("twov", "rows.csv", "x\n", "must have rows, got none"),
    ("twov", "rows.csv", "y,z\n1,2\n", "but 'x' is not one of 'y', 'z'; rename a column, or"),
    ("twov", "rows.csv", "x,z\n1,2\n,3\n", "must be finite"),
    ("twov", "rows.csv", "x\none\n", "the rows of 'x' are text"),
    ("twov", "rows.csv", b"x\n\xff\n", "can't decode byte"),
    ("twov", "rows.json", '[{"x": [1]}, {"x": [1, 2]}]', "must have the same shape in every row"),
    ("twov", "rows.json", '[{"x": [1, 2]}]', "the rows have the shape (1, 2)"),
    ("twov", "rows.json", '[{"x": null}]', "may be a missing value"),
    ("multi", "rows.json", '[{"z": 1, "b": 2}]', "but 'a' is not one of 'z', 'b'"),
    ("text", "rows.json", '[{"s": 1}]', "it is text: string (?), but the rows of"),
    ("ints", "rows.json", '[{"x": [1, 1.5]}]', "cannot hold every value"),
]


@pytest.mark.parametrize(("model", "name", "content", "said"), ROWS)
def test_rows_that_do_not_fit(
    project: Path, capsys: pytest.CaptureFixture[str], model: str, name: str, content: str | bytes, said: str
) -> None:
    """Rows that a model cannot be asked about end with exit code 2 before a server is started."""
    (project / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    version_dir = sorted((MODELS / model).iterdir())[0]
    code, line = refused(project, capsys, "--model", str(version_dir), "--rows", f"{{}}/{name}")
    assert code == 2
    assert said in line


def test_a_signature_that_is_not_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong --signature is one line that names those that are there."""
    code, line = refused(project, capsys, "--model", str(MODELS / "twov" / "1"), "--signature", "other")
    assert (code, "it has 'serve', 'serving_default'" in line) == (2, True)


def warmup(directory: Path, signature_name: str = "", **inputs: object) -> Path:
    """Write a warm-up file with one request, and return the version's directory."""
    log = message_module("tensorflow_serving.apis.prediction_log_pb2").PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature_name
    for name, value in inputs.items():
        array = np.asarray(value)
        tensor = request.inputs[name]
        tensor.dtype = 7 if array.dtype.kind == "O" else 1
        for size in array.shape:
            tensor.tensor_shape.dim.add().size = size
        field = tensor.string_val if array.dtype.kind == "O" else tensor.float_val
        field.extend(array.ravel().tolist())
    record = log.SerializeToString()
    length = struct.pack("<Q", len(record))
    (directory / WARMUP).parent.mkdir(parents=True)
    (directory / WARMUP).write_bytes(length + masked_crc(length) + record + masked_crc(record))
    return directory


def test_the_example_is_the_first_row_of_the_warmup(tmp_path: Path) -> None:
    """It is read without TensorFlow, with texts as text."""
    city = np.array([b"Z\xc3\xbcrich", b"Bern"], object)
    version_dir = warmup(tmp_path, x=np.float32([[1, 2], [3, 4]]), city=city)
    row = read_example(version_dir, Signature((CITY, X), (Y,)))
    assert row is not None
    assert {name: array.tolist() for name, array in row.items()} == {"city": ["Zürich"], "x": [[1.0, 2.0]]}


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.float32([[1, 2]]), "signature_name": "other"},
        {"x": np.float32([[1, np.nan]])},
        {"x": np.zeros((0, 2), np.float32)},
        {"x": np.float32([[1, 2, 3]])},
        {"x": np.float32(1)},
        {"z": np.float32([[1, 2]])},
        {},
    ],
)
def test_a_warmup_that_is_no_example(tmp_path: Path, inputs: dict[str, object]) -> None:
    """A request of another signature, without a row, or that JSON cannot carry is passed over."""
    assert read_example(warmup(tmp_path, **inputs), Signature((X,), (Y,))) is None


def test_a_damaged_warmup(tmp_path: Path) -> None:
    """It is no example; what is wrong with it, the server says."""
    file = warmup(tmp_path, x=np.float32([[1, 2]])) / WARMUP
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert read_example(tmp_path, Signature((X,), (Y,))) is None
    shutil.rmtree(file.parent)
    assert read_example(tmp_path, Signature((X,), (Y,))) is None


def test_a_long_request_is_read_from_a_file(tmp_path: Path) -> None:
    """No shell takes a request of megabytes on its command line."""
    image = Signature((TensorSpec("image", "float32", (None, 64, 64)), TensorSpec("any", "int64", None)), (Y,))
    command, lines = request_lines("http://h:1/v1/models/m", row_of_zeros(image), image, tmp_path / "it's.json")
    assert max(map(len, [command, *lines])) < LONGEST
    assert (tmp_path / "it's.json").stat().st_size > LONGEST
    assert command.startswith("curl -d @'")
