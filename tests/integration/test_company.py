"""Answers alone and in company: outputs as long as their batch, half precision, and what they are held against."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.gates.judge import judge
from tasks.production.live_check import Endpoint, Expected, live_problem
from tasks.records import Backend, Candidate, Champion, GateResult, ServedAnswers
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning"),  # the tags have no loss
]
MODELS = "tests.data.unservable_models"
EMBEDDED = Backend("embedded")
Export = Callable[..., tuple[Config, Candidate]]


@pytest.fixture
def exported(make_config: Callable[..., Config], tmp_path: Path) -> Export:
    """Return a function that fits and exports a model of `unservable_models`."""
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    def making(load: str, build: str, number: int = 1, **settings: Any) -> tuple[Config, Candidate]:
        written = {key: json.dumps(value) for key, value in settings.items()}
        config = make_config(f"{MODELS}:{load}", f"{MODELS}:{build}", **written)
        splits = prepare_splits(config.data, tmp_path / "data")
        trained = fit_model(config, splits, tmp_path / "model.keras")
        version_dir = tmp_path / "m" / str(number)
        version_dir.mkdir(parents=True)
        found = export_savedmodel(config, splits, trained, version_dir, tmp_path)
        files = tmp_path / "requests.npz", tmp_path / "reference.npz", splits.test
        return config, Candidate("m", number, version_dir, found.digest, found.signature, found.size_bytes, *files)

    return making


def judged(config: Config, candidate: Candidate, directory: Path) -> tuple[ServedAnswers, dict[str, GateResult]]:
    """Serve a candidate and return what was answered, and the verdicts by gate."""
    rehearsal = Rehearsal(config.serving, candidate, EMBEDDED, directory / "run", config.gates)
    answered = rehearse(rehearsal)
    return answered, {gate.name: gate for gate in judge(config.gates, candidate, answered)}


QUICK = {"gates.metric_output": "label", "gates.use": ["contract", "parity", "quality"], "training.epochs": 2}


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("masked", {}),
        pytest.param("masked", {"serving.protocol": "both"}, marks=pytest.mark.long),
        pytest.param("zero", {}, marks=pytest.mark.long),
        ("zero", {"export.ragged": {"tags": 0}}),
    ],
)
def test_case_35_dynamic_length_output(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, settings: dict[str, Any]
) -> None:
    """A tag a word, as many as the longest text of the batch has, passes in batches of whatever length."""
    monkeypatch.setattr("tasks.datasets.blocks.MAX_ROWS", 5)  # several requests of several lengths
    config, candidate = exported("texts", "tagger", **QUICK, **{"model.params.how": how}, **settings)
    answered, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]
    lengths = {load_arrays(answered.small_batches)[f"{size}/tags"].shape[1] for size in ("1", "7")}  # type: ignore[arg-type]
    assert len(lengths) > 1  # or nothing was shown


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("batch", {}),
        pytest.param("batch", {"export.ragged": {"tags": 0}}, marks=pytest.mark.long),
        pytest.param("sum", {}, marks=pytest.mark.long),
        pytest.param("length", {}, marks=pytest.mark.long),
        ("masked", {"export.ragged": {"tags": 0}}),  # it is not what it is said to be filled with
        pytest.param("zero", {"export.ragged": {"tags": 1.5}}, marks=pytest.mark.long),
    ],
)
def test_a_real_difference_in_company_is_found(
    exported: Export, tmp_path: Path, how: str, settings: dict[str, Any]
) -> None:
    """An answer that follows from the rows beside it, or from another padding than declared, fails parity."""
    config, candidate = exported("texts", "tagger", **QUICK, **{"model.params.how": how}, **settings)
    _, gates = judged(config, candidate, tmp_path)
    assert not gates["parity"].passed
    assert gates["parity"].summary.startswith("output 'tags' in a batch of ")


def test_a_server_that_cuts_answers_short(exported: Export, tmp_path: Path) -> None:
    """Where no padding is declared, a length that is not the model's own still fails parity, alone or in company."""
    config, candidate = exported("texts", "tagger", **QUICK)
    answered, _ = judged(config, candidate, tmp_path)
    assert answered.small_batches is not None
    for file, member in ((answered.answers, "tags"), (answered.small_batches, "7/tags")):
        arrays = load_arrays(file)
        save_arrays(file, {**arrays, member: arrays[member][:, :-1]})
        gates = {gate.name: gate for gate in judge(config.gates, candidate, answered)}
        assert not gates["parity"].passed
        assert "served" in gates["parity"].summary and "shape" in gates["parity"].summary
        save_arrays(file, arrays)


@pytest.mark.parametrize("most", [pytest.param(4096, marks=pytest.mark.long), 5])
def test_production_answers_in_other_company(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Live verification takes however few first rows for what they were among all rows, and finds a changed one."""
    monkeypatch.setattr("tasks.datasets.blocks.MAX_ROWS", most)
    config, candidate = exported("texts", "tagger", **QUICK)
    answered, _ = judged(config, candidate, tmp_path)
    arrays, n_rows = load_arrays(answered.answers), answered.rows
    changed = tmp_path / "changed.npz"
    save_arrays(changed, {**arrays, "tags": arrays["tags"] + np.float32(1e-3)})
    with throwaway_server(EMBEDDED, config.serving, candidate, tmp_path / "log") as (server, _):
        for rows in range(1, n_rows + 1):
            expected = Expected(candidate.signature, candidate.requests, answered.answers, rows, None, None)
            assert live_problem(Endpoint(server.rest_url, "m"), 1, expected, 30) == ""
            found = live_problem(Endpoint(server.rest_url, "m"), 1, replace(expected, answers=changed), 30)
            assert "differently than validated" in found


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "protocol"),
    [
        pytest.param(how, protocol, marks=() if one else pytest.mark.long)
        for how, proven in (("half", "rest"), ("bfloat16", "grpc"), ("uint16", "both"))
        for protocol in ("rest", "grpc", "both")
        for one in (protocol == proven,)
    ],
)
def test_a_cast_output_passes_every_gate(exported: Export, tmp_path: Path, how: str, protocol: str) -> None:
    """What REST cannot carry is served in the dtype of `export.cast`, and held against the model's own numbers."""
    wanted = "int32" if how == "uint16" else "float32"
    settings = {"export.cast": {"extra": wanted}, "gates.metric_output": "score", "serving.protocol": protocol}
    settings["gates.latency.requests"] = 20
    config, candidate = exported("rows", "outputs", **{"model.params.how": how}, **settings)
    assert {spec.name: spec.dtype for spec in candidate.signature.outputs}["extra"] == wanted
    answered, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]
    assert {"latency", "robustness"} <= set(gates)
    assert load_arrays(answered.answers)["extra"].dtype == wanted


@pytest.mark.parametrize("how", [pytest.param("half", marks=pytest.mark.long), "bfloat16", "uint16"])
def test_an_output_beyond_rest_over_grpc(
    exported: Export, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Over gRPC alone, without the gates that ask over REST, such an output is judged as it is."""
    settings = {
        "gates.metric_output": "score",
        "serving.protocol": "grpc",
        "gates.use": ["safety", "size", "contract", "parity", "quality"],
    }
    config, candidate = exported("rows", "outputs", **{"model.params.how": how}, **settings)
    answered, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]
    served, own = load_arrays(answered.answers)["extra"], load_arrays(candidate.reference)["extra"]
    np.testing.assert_array_equal(served, own)
    assert own.any() or how == "uint16"  # small numbers are none there
    expected = Expected(candidate.signature, candidate.requests, answered.answers, 9, None, None)
    with throwaway_server(EMBEDDED, config.serving, candidate, tmp_path / "log") as (server, _):
        assert live_problem(Endpoint(server.rest_url, "m"), 1, expected, 30) == ""  # and says that it saw no answers
    assert "version 1 only has to be AVAILABLE: REST cannot carry extra" in caplog.text
    save_arrays(candidate.reference, {**load_arrays(candidate.reference), "extra": own + own.dtype.type(1)})
    assert not {gate.name: gate for gate in judge(config.gates, candidate, answered)}["parity"].passed


def test_inputs_in_any_structure(exported: Export, tmp_path: Path) -> None:
    """Inputs that are nested in the model are served by their names, side by side."""
    config, candidate = exported("twins", "nested_inputs", **{"gates.latency.requests": 20})
    assert {spec.name for spec in candidate.signature.inputs} == {"x", "z"}
    _, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]


@pytest.mark.parametrize("how", ["named", "loss", "mixed precision"])
def test_cases_6_and_16_that_can_be_served(exported: Export, tmp_path: Path, how: str) -> None:
    """A Lambda of a function with a name, a loss of the user's own and mixed precision inside pass every gate."""
    config, candidate = exported("rows", "layers", **{"model.params.how": how, "gates.latency.requests": 20})
    _, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]


@pytest.mark.parametrize("how", [pytest.param("half", marks=pytest.mark.long), "bfloat16", "uint16"])
def test_a_cast_input_passes(exported: Export, tmp_path: Path, how: str) -> None:
    """An input that REST cannot carry takes what clients can send, and the model gets its own dtype."""
    settings = {"export.cast": {"x": "int32" if how == "uint16" else "float32"}, "gates.latency.requests": 20}
    load = "counts" if how == "uint16" else "rows"
    config, candidate = exported(load, "inputs", **{"model.params.how": how}, **settings)
    _, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]


@pytest.mark.parametrize("how", ["half", pytest.param("uint16", marks=pytest.mark.long)])
def test_an_input_beyond_rest_over_grpc(exported: Export, tmp_path: Path, how: str) -> None:
    """Over gRPC an input is sent in the model's own dtype."""
    settings = {"serving.protocol": "grpc", "gates.use": ["contract", "parity", "quality"], "model.params.how": how}
    config, candidate = exported("counts" if how == "uint16" else "rows", "inputs", **settings)
    _, gates = judged(config, candidate, tmp_path)
    assert all(gate.passed for gate in gates.values()), [gate.summary for gate in gates.values()]


def test_a_champion_beyond_rest(exported: Export, tmp_path: Path) -> None:
    """A candidate that REST carries is judged over REST beside a champion that it does not carry."""
    settings = {"model.params.how": "half", "gates.metric_output": "score", "gates.latency.requests": 20}
    over_grpc = {"serving.protocol": "grpc", "gates.use": ["contract", "parity"]}
    _, old = exported("rows", "outputs", **settings, **over_grpc)
    champion = Champion(1, old.version_dir, old.digest, read_graph(old.version_dir))
    config, candidate = exported("rows", "outputs", 2, **settings, **{"export.cast": {"extra": "float32"}})
    rehearsal = Rehearsal(config.serving, candidate, EMBEDDED, tmp_path / "run", config.gates, champion)
    gates = {gate.name: gate for gate in judge(config.gates, candidate, rehearse(rehearsal))}
    assert [name for name, gate in gates.items() if not gate.passed] == ["contract"]
    assert "output changed from extra: float16 (?, 1) to extra: float32 (?, 1)" in gates["contract"].summary


@pytest.mark.long
def test_more_rows_than_are_answered_at_once(exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of different lengths are put together in process as they are served."""
    monkeypatch.setattr("tasks.datasets.blocks.MAX_ROWS", 3)
    _, candidate = exported("texts", "tagger", **QUICK)
    texts, tags = load_arrays(candidate.requests)["text"], load_arrays(candidate.reference)["tags"]
    words = [len(str(text).split()) for text in texts.tolist()]
    longest = [max(words[start : start + 3]) for start in range(0, len(words), 3)]
    assert len(set(longest)) > 1
    assert tags.shape == (len(texts), max(words), 3)
    for number, length in enumerate(longest):
        assert not tags[3 * number : 3 * number + 3, length:].any()
        assert tags[3 * number : 3 * number + 3, :length].all()
