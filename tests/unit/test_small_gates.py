"""Size, golden and robustness: what passes, what fails, what they say; and golden rows as people write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.sections.gates import Size
from tasks.datasets.golden import read_golden
from tasks.errors import DataError
from tasks.gates.golden import judge_golden
from tasks.gates.robustness import judge_robustness
from tasks.gates.size import judge_size
from tasks.records import GraphFacts, Probe, Signature, TensorSpec

GRAPH = GraphFacts((), (), 1_000_000, 2_000_000, 4_000_000, 1234)
CHAMPION = GraphFacts((), (), 1_000_000, 1_000_000, 2_000_000, 1000)

# --- size


@pytest.mark.parametrize(
    ("passing", "failing", "missed"),
    [
        (Size(max_mb=4), Size(max_mb=3.99), "size_mb"),
        (Size(max_parameters=1234), Size(max_parameters=1233), "parameters"),
        (Size(max_ratio=2), Size(max_ratio=1.99), "ratio"),
    ],
)
def test_size_bounds(passing: Size, failing: Size, missed: str) -> None:
    """At its bound a figure passes, above it the gate fails and names bound and figure."""
    assert judge_size(GRAPH, CHAMPION, passing).passed
    result = judge_size(GRAPH, CHAMPION, failing)
    assert not result.passed
    assert result.evidence["missed"] == [missed]
    assert list(result.bounds) == [missed]
    assert "at most" in result.summary


def test_size_beside_the_champion() -> None:
    """Figures of both versions are there, in MB of a million bytes."""
    result = judge_size(GRAPH, CHAMPION, Size())
    assert result.figures == {"size_mb": 4, "parameters": 1234, "ratio": 2}
    assert result.champion == {"size_mb": 2, "parameters": 1000}
    assert result.summary == "4 MB, 1,234 parameters, 2 times the size of the champion"
    assert result.bounds == {}


@pytest.mark.parametrize("champion", [None, GraphFacts((), (), 0, 0, 0, 0)])
def test_size_without_a_ratio(champion: GraphFacts | None) -> None:
    """Without a champion, or with an empty one, there is no ratio, and a bound on it judges nothing."""
    result = judge_size(GRAPH, champion, Size(max_ratio=0.1))
    assert result.passed
    assert "ratio" not in result.figures
    assert result.bounds == {}


# --- robustness

REFUSED = Probe("wrong dtype", False, 400, True, '{"error": "not of expected type"}')
ANSWERED = Probe("empty batch", False, 200, True, '{"outputs": []}')
USUAL = Probe("a batch of 1", True, 200, True, '{"outputs": [1.0]}')


@pytest.mark.parametrize("status", [400, 404, 413, 499])
def test_robustness_passes(status: int) -> None:
    """Refusals of malformed requests and finite answers pass."""
    result = judge_robustness([USUAL, ANSWERED, Probe("x", False, status, True, "")])
    assert result.passed
    assert result.figures == {"cases": 3, "failed": 0}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Probe("deep nesting", False, 0, False, "the connection broke"), "deep nesting: no answer (the connection br"),
        (Probe("extreme values", False, 200, False, '{"outputs":[NaN]}'), "extreme values: 200, not what it should be"),
        (Probe("wrong rank", False, 500, True, "oops"), "wrong rank: 500 (oops)"),
        (Probe("wrong rank", False, 302, True, "elsewhere"), "wrong rank: 302 (elsewhere)"),
        (Probe("a large batch", True, 400, True, "too large"), "a large batch: 400 (too large)"),
        (Probe("as usual afterwards", True, 200, False, "another answer"), "as usual afterwards: 200, not"),
    ],
)
def test_robustness_names_the_case(bad: Probe, words: str) -> None:
    """No answer, a server error, NaN, and a refused usual request fail, each with the server's words."""
    result = judge_robustness([USUAL, REFUSED, bad])
    assert not result.passed
    assert words in result.summary
    assert result.summary.startswith("1 of 3 requests must be")
    assert result.evidence["failed"] == [bad.case]


def test_an_answer_of_pages_is_cut() -> None:
    """Of an answer with thousands of numbers the beginning and the end are shown."""
    result = judge_robustness([Probe("a large batch", True, 200, False, f'{{"outputs":[{"NaN," * 9000}NaN]}}')])
    assert '200, not what it should be ({"outputs":[NaN,' in result.summary
    assert len(result.summary) < 400


def test_robustness_of_nothing_is_no_approval() -> None:
    """Where nothing was asked, nothing passed."""
    assert not judge_robustness([]).passed


def test_robustness_shows_five_cases() -> None:
    """A server that is gone fails every later case; five are shown and all are counted."""
    result = judge_robustness([Probe(f"case {n}", False, 0, False, "gone") for n in range(9)])
    assert "case 4" in result.summary
    assert "case 5" not in result.summary
    assert result.summary.endswith("and 4 more")
    assert result.figures["failed"] == 9


# --- golden: the judgement


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6), st.data())
def test_golden_finds_the_one_row(values: list[float], data: st.DataObject) -> None:
    """Answers within tolerance pass; one outside fails, and its row and both values are named."""
    expected = np.array(values, np.float32)
    assert judge_golden({"y": expected + np.float32(5e-4)}, {"y": expected}, 1e-3, 1e-3).passed
    row = data.draw(st.integers(0, len(values) - 1))
    served = expected.copy()
    served[row] += np.float32(0.01 + 0.01 * abs(served[row]))
    result = judge_golden({"y": served}, {"y": expected}, 1e-3, 1e-3)
    assert not result.passed
    assert f"row {row}: served {served[row]!s}, expected {expected[row]!s}" in result.summary
    assert result.figures["rows_differing"] == 1


@pytest.mark.parametrize(
    ("atol", "rtol", "passed"), [(0.5, 0, True), (0.49, 0, False), (0, 0.05, True), (0, 0.049, False)]
)
def test_golden_tolerances(atol: float, rtol: float, passed: bool) -> None:
    """10.5 for 10 is within 0.5 absolute or 0.05 relative, and not within less."""
    assert judge_golden({"y": np.array([10.5])}, {"y": np.array([10.0])}, atol, rtol).passed is passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_golden_refuses_what_is_not_finite(bad: float) -> None:
    """A served NaN or infinity fails whatever the tolerance."""
    result = judge_golden({"y": np.array([1.0, bad])}, {"y": np.array([1.0, 1.0])}, 1e300, 0)
    assert not result.passed
    assert "row 1" in result.summary


@pytest.mark.parametrize("served", [np.array(["höher", "low"]), np.char.encode(np.array(["höher", "low"]), "utf-8")])
def test_golden_text_is_equal(served: np.ndarray) -> None:
    """Text passes when it is the same, as text or as its bytes, and fails when it only begins alike."""
    assert judge_golden({"t": served}, {"t": np.array(["höher", "low"])}, 1, 1).passed
    result = judge_golden({"t": served}, {"t": np.array(["höher", "lower"])}, 1e9, 1e9)
    assert not result.passed
    assert "row 1" in result.summary


def test_golden_integers_are_no_fractions() -> None:
    """Class 5001 is not nearly class 5000; where integers are amounts, `atol` says so. Booleans are equal or not."""
    served, expected = np.array([5001, 2**53 + 1]), np.array([5000, 2**53 + 1])
    assert not judge_golden({"y": served}, {"y": expected}, 1e-3, 1e-3).passed
    assert judge_golden({"y": served}, {"y": expected}, 1, 0).passed
    assert not judge_golden({"y": expected}, {"y": np.array([5000, 2**53])}, 1e-3, 0).passed
    assert not judge_golden({"y": np.array([True])}, {"y": np.array([False])}, 5, 5).passed


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ({}, "output 'y': nothing served, shape (2, 1) expected"),
        ({"y": np.ones((2, 2))}, "output 'y': shape (2, 2) served, shape (2, 1) expected"),
    ],
)
def test_golden_needs_every_expected_output(served: dict[str, Any], words: str) -> None:
    """A missing output, or one of another shape, fails; outputs that nobody expects do not matter."""
    result = judge_golden(served, {"y": np.ones((2, 1))}, 1, 1)
    assert not result.passed
    assert result.summary == words
    assert judge_golden({"y": np.ones((2, 1)), "z": np.zeros(2)}, {"y": np.ones((2, 1))}, 0, 0).passed


def test_golden_of_nothing_is_no_approval() -> None:
    """Without an expected output or row nothing passed."""
    assert not judge_golden({"y": np.ones(2)}, {}, 1, 1).passed
    assert not judge_golden({"y": np.ones(0)}, {"y": np.ones(0)}, 1, 1).passed


# --- golden: the file

ONE = Signature((TensorSpec("x", "float32", (None,)),), (TensorSpec("y", "float32", (None, 1)),))
TWO = Signature(
    (TensorSpec("v", "float32", (None, 2)), TensorSpec("city.name", "string", (None,))),
    (
        TensorSpec("score", "float64", (None, 2)),
        TensorSpec("label", "string", (None,)),
        TensorSpec("n", "int8", (None,)),
    ),
)


def written(directory: Path, content: Any, name: str = "golden.json") -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": {"x": [1, 2.5]}, "outputs": {"y": [[3], [4]]}},
        {"inputs": [1, 2.5], "outputs": [3, 4]},
        [{"inputs": {"x": 1}, "outputs": {"y": [3]}}, {"inputs": {"x": 2.5}, "outputs": {"y": [4]}}],
        [{"inputs": 1, "outputs": 3}, {"inputs": 2.5, "outputs": 4}],
        "\N{ZERO WIDTH NO-BREAK SPACE}inputs.x,outputs.y\n1,3\n\n 2.5,4\n",
        "outputs.y.0,inputs.x\n3,1\n4,2.5\n",
    ],
)
def test_forms_of_one_input_and_output(content: Any, tmp_path: Path) -> None:
    """Columns, rows, bare values and CSV give the same arrays, in the dtype and shape of the signature."""
    name = "golden.csv" if isinstance(content, str) else "golden.json"
    inputs, expected = read_golden(written(tmp_path, content, name), ONE)
    assert inputs["x"].tolist() == [1, 2.5]
    assert expected["y"].tolist() == [[3], [4]]
    assert inputs["x"].dtype == expected["y"].dtype == np.float32


@pytest.mark.parametrize(
    "content",
    [
        {
            "inputs": {"v": [[1, 2], [3, 4]], "city.name": ["Köln", ""]},
            "outputs": {"label": ["a", "007"], "n": [1, 2.0]},
        },
        [
            {"inputs": {"v": [1, 2], "city.name": "Köln"}, "outputs": {"label": "a", "n": 1}},
            {"inputs": {"v": [3, 4], "city.name": ""}, "outputs": {"n": 2, "label": "007"}},
        ],
        "inputs.v.1,inputs.v.0,inputs.city.name,outputs.label,outputs.n\n2,1,Köln,a,1\n4,3,,007,2.0\n",
    ],
)
def test_forms_of_several(content: Any, tmp_path: Path) -> None:
    """Vectors, text, names with dots and a subset of the outputs are read from every form; text stays text."""
    name = "golden.csv" if isinstance(content, str) else "golden.json"
    inputs, expected = read_golden(written(tmp_path, content, name), TWO)
    assert inputs["v"].tolist() == [[1, 2], [3, 4]]
    assert inputs["city.name"].tolist() == ["Köln", ""]
    assert {name: array.tolist() for name, array in expected.items()} == {"label": ["a", "007"], "n": [1, 2]}
    assert expected["n"].dtype == np.int8


def test_twelve_elements_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Element 10 of a CSV vector comes after element 9, not after element 1."""
    wide = Signature((TensorSpec("x", "int64", (None, 12)),), ONE.outputs)
    header = ",".join([*(f"inputs.x.{n}" for n in range(12)), "outputs.y"])
    inputs, _ = read_golden(written(tmp_path, f"{header}\n{','.join(map(str, range(13)))}\n", "g.csv"), wide)
    assert inputs["x"].tolist() == [list(range(12))]


def test_booleans(tmp_path: Path) -> None:
    """Booleans are true and false, in CSV 1 and 0 too, and never numbers in JSON."""
    flags = Signature((TensorSpec("x", "bool", (None,)),), (TensorSpec("y", "bool", (None,)),))
    inputs, expected = read_golden(written(tmp_path, "inputs.x,outputs.y\ntrue,0\nFalse,1\n", "g.csv"), flags)
    assert (inputs["x"].tolist(), expected["y"].tolist()) == ([True, False], [False, True])
    with pytest.raises(DataError, match="row 0 of input 'x' must contain finite bool values, got 1"):
        read_golden(written(tmp_path, {"inputs": [1], "outputs": [True]}), flags)
    with pytest.raises(DataError, match="row 0, column outputs.y must be true or false, got 'yes'"):
        read_golden(written(tmp_path, "inputs.x,outputs.y\ntrue,yes\n", "g.csv"), flags)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "must be readable, got JSONDecodeError"),
        ("[" * 100_000, "must be readable, got RecursionError"),
        ("[]", "there must be at least one row, got none"),
        ('"text"', "it must be .*got str"),
        ('{"inputs": [1]}', r"it must be .*got \['inputs'\]"),
        ('{"inputs": {"z": [1]}, "outputs": [1]}', "names in inputs must be those of the model, x, got z"),
        ('{"inputs": {}, "outputs": [1]}', "inputs must contain x, but x is missing"),
        ('{"inputs": [1], "outputs": {}}', "outputs must contain y, but y is missing"),
        ('{"inputs": {"x": 1}, "outputs": [1]}', "inputs.x must be a list with one entry for each row, got 1"),
        ('{"inputs": [1, 2], "outputs": [1]}', r"must have the same number of rows, got \{'x': 2, 'output y': 1\}"),
        ('{"inputs": [], "outputs": []}', "there must be at least one row"),
        ('{"inputs": [1, 2], "outputs": [1, NaN]}', "row 1 of output 'y' must contain finite float32 values, got NaN"),
        ('{"inputs": [Infinity], "outputs": [1]}', "input 'x' must contain finite float32 values, got Infinity"),
        ('{"inputs": [1], "outputs": [null]}', "row 0 of output 'y' must contain finite float32 values, got null"),
        ('{"inputs": [1], "outputs": ["1"]}', "row 0 of output 'y' must contain .*got \"1\""),
        ('{"inputs": [1], "outputs": [true]}', "row 0 of output 'y' must contain .*got true"),
        ('{"inputs": [1], "outputs": [1e39]}', "row 0 of output 'y' must contain finite float32 values"),
        ('{"inputs": [1], "outputs": [1' + "0" * 400 + "]}", "row 0 of output 'y' must contain finite float32 values"),
        ('{"inputs": [1, 2], "outputs": [[1], [1, 2]]}', r"row 1 of output 'y' must have the shape of row 0"),
        ('{"inputs": [[1, [2]]], "outputs": [1]}', "row 0 of input 'x' must have the shape of row 0"),
        ('{"inputs": [1], "outputs": [[1, 2]]}', r"must fit the model's output: it is y: float32 \(\?, 1\)"),
        ('{"inputs": [[1, 2]], "outputs": [1]}', r"must fit the model's input: it is x: float32 \(\?\)"),
        ('[{"inputs": 1, "outputs": 1}, {"inputs": 1}]', "row 1 must be an object with inputs and outputs"),
        ("[1]", "row 0 must be an object with inputs and outputs, got 1"),
    ],
)
def test_json_that_cannot_be_used(content: str, words: str, tmp_path: Path) -> None:
    """Every problem of a JSON file is a DataError of one line with the file and the place."""
    file = written(tmp_path, content)
    with pytest.raises(DataError, match=words) as caught:
        read_golden(file, ONE)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "inputs must contain x, but x is missing"),
        ("inputs.x,outputs.y\n", "there must be at least one row"),
        ("inputs.x,outputs.y\n1,\n", "row 0, column outputs.y must be a number, got ''"),
        ("inputs.x,outputs.y\n1,2\n1,nan\n", "row 1 of output 'y' must contain finite float32 values, got NaN"),
        ("inputs.x,outputs.y\n1,2\n1\n", "row 1 must have 2 cells, like the header, got 1"),
        ("inputs.x,outputs.y,price\n1,2,3\n", r"columns must be inputs.x, outputs.y.*got price"),
        ("inputs.x,inputs.x,outputs.y\n1,2,3\n", "the names of columns must be unique"),
        ("inputs.x\n1\n", "outputs must contain y, but y is missing"),
        ("outputs.y\n1\n", "inputs must contain x, but x is missing"),
        ("inputs.x.0,inputs.x.2,outputs.y\n1,2,3\n", r"elements of inputs.x must be inputs.x.0, inputs.x.1, got"),
        ("inputs.x,inputs.x.0,outputs.y\n1,2,3\n", "elements of inputs.x must be"),
        ('inputs.x,outputs.y\n1,"2\n', "must be readable, got Error"),
    ],
)
def test_csv_that_cannot_be_used(content: str, words: str, tmp_path: Path) -> None:
    """Every problem of a CSV file is a DataError of one line with the file, the row and the column."""
    file = written(tmp_path, content, "golden.csv")
    with pytest.raises(DataError, match=words) as caught:
        read_golden(file, ONE)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_integers_must_fit(tmp_path: Path) -> None:
    """A fraction, or an integer beyond its dtype, is refused."""
    for value in (1.5, 128, -129):
        content = {"inputs": {"v": [[1, 2]], "city.name": ["a"]}, "outputs": {"n": [value]}}
        with pytest.raises(DataError, match="row 0 of output 'n' must contain finite int8 values"):
            read_golden(written(tmp_path, content), TWO)


@pytest.mark.parametrize("name", ["missing.json", "missing.csv", "golden.yaml"])
def test_files_that_are_not_there(name: str, tmp_path: Path) -> None:
    """A missing file, or one of another kind, is a DataError with its path and the setting."""
    with pytest.raises(DataError, match=r"gates\.golden\.file .*" + name):
        read_golden(tmp_path / name, ONE)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A file that is not UTF-8 is a DataError."""
    (tmp_path / "golden.csv").write_bytes(b"inputs.x,outputs.y\n\xff,1\n")
    with pytest.raises(DataError, match="UnicodeDecodeError"):
        read_golden(tmp_path / "golden.csv", ONE)
