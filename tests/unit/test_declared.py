"""The declared contract: its file, and what the contract gate makes of it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.loading import load_config
from configs.sections.gates import Contract, Gates
from tasks.check import checks
from tasks.datasets.declared import LARGEST, check_contract, read_contract, write_contract
from tasks.gates.contract import judge_contract
from tasks.records import GRPC_DTYPES, Signature, TensorSpec

AGE, CITY = TensorSpec("age", "float32", (None,)), TensorSpec("city", "string", (None, 3))
SCORE, ANY = TensorSpec("score", "float32", (None,)), TensorSpec("any", "int64", None)
FOUR = TensorSpec("city", "string", (None, 4))
DOUBLE = TensorSpec("age", "float64", (None,))
DECLARED = Signature((AGE, CITY), (SCORE,), "ask")
DOCUMENT: dict[str, Any] = {
    "signature": "serving_default",
    "inputs": {"x": {"dtype": "float32", "shape": [None, 2]}},
    "outputs": {"y": {"dtype": "float32", "shape": None}},
}

extents = st.none() | st.lists(st.none() | st.integers(0, 2**40), max_size=4).map(tuple)
tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8")), st.tuples(st.sampled_from(sorted(GRPC_DTYPES)), extents), min_size=1
)


@given(tensors, tensors, st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_is_written_reads_back(tmp_path_factory: Any, inputs: Any, outputs: Any, name: str) -> None:
    """Any names, dtypes and shapes survive."""
    sides = [tuple(TensorSpec(key, *side[key]) for key in sorted(side)) for side in (inputs, outputs)]
    signature = Signature(sides[0], sides[1], name)
    file = tmp_path_factory.mktemp("contract") / "c.json"
    write_contract(file, signature)
    assert read_contract(file) == signature


def test_the_form_in_the_documentation(tmp_path: Path) -> None:
    """A contract is JSON that a person can read and change: a line a tensor."""
    write_contract(tmp_path / "c.json", Signature((AGE,), (SCORE, ANY)))
    assert (tmp_path / "c.json").read_text() == (
        '{\n  "signature": "serving_default",\n'
        '  "inputs": {\n    "age": {"dtype": "float32", "shape": [null]}\n  },\n'
        '  "outputs": {\n    "score": {"dtype": "float32", "shape": [null]},\n'
        '    "any": {"dtype": "int64", "shape": null}\n  }\n}\n'
    )


def changed(**parts: Any) -> str:
    return json.dumps(DOCUMENT | parts)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        (b"\xff", "can't decode byte"),
        ("[" * 100_000, "recursion depth"),
        ("[]", "the file: Input should be"),
        ("null", "the file: Input should be"),
        ('{"inputs": {"x": [1]}, "outputs": {"y": [1]}}', "signature: Field required"),
        ('{"signature": "a", "signature": "b"}', "'signature' is given twice"),
        (changed(extra=1), "extra: Extra inputs"),
        (changed(signature=""), "signature: String should have at least 1"),
        (changed(signature=None), "signature: Input should be a valid string"),
        (changed(inputs={}), "inputs: Dictionary should have at least 1"),
        (changed(outputs=[]), "outputs: Input should be"),
        (changed(inputs={"x": {"dtype": "float33", "shape": [None]}}), "inputs.x.dtype: Input should be"),
        (changed(inputs={"x": {"dtype": "float32"}}), "inputs.x.shape: Field required"),
        (changed(inputs={"x": {"dtype": "float32", "shape": [True]}}), "inputs.x.shape.0: Input should be"),
        (changed(inputs={"x": {"dtype": "float32", "shape": [-1]}}), "inputs.x.shape.0: Input should be"),
        (changed(inputs={"x": {"dtype": "float32", "shape": [2.0]}}), "inputs.x.shape.0: Input should be"),
        (changed(inputs={"x": {"dtype": "float32", "shape": "?"}}), "inputs.x.shape: Input should be"),
        (changed(inputs={"x\n\x1b[31m": 1}), "inputs.x : Input should be"),
        (" " * (LARGEST + 1), "at most 1024 KB"),
    ],
)
def test_a_file_that_is_no_contract(tmp_path: Path, content: str | bytes, said: str) -> None:
    """It is one line that names the field, the file and the first mistake, and a configuration error."""
    file = tmp_path / "c.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        check_contract(Gates(contract=Contract(file=file)))
    line = str(caught.value)
    assert line.startswith("gates.contract.file must be a contract in the form that 'rehearse")
    assert str(file) in line
    assert said in line
    assert line.isprintable()
    assert len(line) < 700


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """What has taken the place of a file since the configuration was read is refused."""
    os.mkfifo(tmp_path / "c.json")
    for name in ("c.json", "none.json", "."):
        with pytest.raises(ConfigError, match="it must be a regular file"):
            read_contract(tmp_path / name)
    check_contract(Gates())  # no file, nothing to check


def test_check_reads_it(tmp_path: Path) -> None:
    """`check` says what is declared, before the rows are loaded."""
    write_contract(tmp_path / "c.json", DECLARED)
    (tmp_path / "cfg.yaml").write_text("name: m\ngates: {contract: {file: c.json}}\n")
    made = dict(itertools.islice(checks(load_config(tmp_path / "cfg.yaml"), tmp_path), 3))
    assert made["contract"]().endswith("c.json' declares age: float32 (?), city: string (?, 3), score: float32 (?)")


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (Signature((AGE,), (SCORE,), "ask"), "input 'city' was removed"),
        (Signature((AGE, CITY, ANY), (SCORE,), "ask"), "input 'any' was added"),
        (Signature((AGE, CITY), (ANY,), "ask"), "output 'score' was removed"),
        (Signature((AGE, FOUR), (SCORE,), "ask"), "input changed from city: string (?, 3) to city: string (?, 4)"),
        (Signature((DOUBLE, CITY), (SCORE,), "ask"), "input changed from age: float32 (?) to age: float64 (?)"),
        (Signature((AGE, CITY), (SCORE,)), "the signature changed from 'ask' to 'serving_default'"),
    ],
)
def test_a_broken_contract_is_refused_without_a_champion(served: Signature, said: str) -> None:
    """What the declared clients would trip over fails the gate on the first run, whatever is allowed."""
    result = judge_contract(served, served, allow_breaking=True, declared=DECLARED)
    assert not result.passed
    assert f"would break the declared contract: {said}" in result.summary
    assert result.figures == {"differences": 1, "broken": 1}
    assert judge_contract(served, served).passed


def test_champion_and_contract_are_both_judged() -> None:
    """Either alone fails the gate, and each is named; what keeps both passes."""
    ours, other = DECLARED, Signature((AGE,), (SCORE,), "ask")
    both = judge_contract(ours, ours, other, declared=other)
    assert (both.figures["breaking"], both.figures["broken"]) == (1, 1)
    for broken in ("the champion's clients", "the declared contract"):
        assert f"would break {broken}: input 'city' was added" in both.summary
    assert not judge_contract(ours, ours, other, declared=ours).passed
    assert not judge_contract(ours, ours, ours, declared=other).passed
    kept = judge_contract(ours, ours, ours, declared=ours)
    assert kept.passed
    assert kept.summary.endswith("clients of the champion need no change; the declared contract is kept")


def test_what_breaks_no_contract() -> None:
    """A further output, and an extent that is free now, are no break."""
    served = Signature((AGE, TensorSpec("city", "string", (None, None))), (SCORE, ANY), "ask")
    assert judge_contract(served, served, declared=DECLARED).passed
