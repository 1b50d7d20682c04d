"""Rehearsals in an embedded and in an attached server: exported models are judged by what a real process answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.errors import ModelLoadError, ServingError
from tasks.gates.judge import judge as judged
from tasks.records import Backend, Champion, GateResult
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tests.attached_server import SharedServer

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
ATTACHED = {"digits", "table", "naming", "padded"}  # the models that an attached server is asked for, too


@dataclasses.dataclass(frozen=True)
class Judge:
    """A server that judges, and the settings of `serving` that use it."""

    backend: Backend
    settings: dict[str, Any]

    def serving(self, **settings: Any) -> Serving:
        return Serving(**{**self.settings, **settings})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """Run a server on a shared directory; at the end, nothing of any rehearsal is left there."""
    server = SharedServer(tmp_path_factory.mktemp("attached") / "shared").start()
    yield server
    server.kill()
    assert server.is_empty


@pytest.fixture(params=["embedded", "attached"])
def judge(request: pytest.FixtureRequest, shared: SharedServer) -> Judge:
    """Return each server that judges."""
    if request.param == "embedded":
        return Judge(Backend("embedded"), {})
    return Judge(Backend("attached", url=shared.url), shared.settings)


def on_each(*names: str, long: tuple[str, ...] = ()) -> Any:
    """Parametrize a test by model and server; models in `long` are slower proofs."""
    every = (*names, *long)
    pairs = [(name, "embedded") for name in every] + [(name, "attached") for name in every if name in ATTACHED]
    cases = [pytest.param(*pair, marks=pytest.mark.long if pair[0] in long else ()) for pair in pairs]
    return pytest.mark.parametrize(("name", "judge"), cases, indirect=["judge"])


EMBEDDED_ALONE = pytest.mark.parametrize("judge", ["embedded"], indirect=True)  # the server cannot matter


def by_name(gates: tuple[GateResult, ...]) -> dict[str, GateResult]:
    return {gate.name: gate for gate in gates}


@contextmanager
def served(judge: Judge, made: Any, log: Path) -> Iterator[Callable[[Any], Any]]:
    """Serve a candidate; give a function that posts a body to `:predict` and returns what came back."""
    with throwaway_server(judge.backend, judge.serving(), made.candidate, log) as (server, _):
        url = f"{server.rest_url}/v1/models/{server.served_name}:predict"

        def asking(body: Any) -> Any:
            with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=600) as answer:
                return json.loads(answer.read())

        yield asking


@on_each("digits", "table", "of_bytes", "noisy", "padded", long=("penguins", "one_number", "naming", "renamed"))
def test_what_is_served_is_what_keras_answers(
    rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path, name: str
) -> None:
    """Contract and parity pass for every test row of a model that was exported unharmed."""
    made = rehearsed(name)
    answered = rehearse(Rehearsal(judge.serving(), made.candidate, judge.backend, tmp_path))
    found = by_name(judged(made.config.gates, made.candidate, answered))
    assert found["contract"].passed, found["contract"].summary
    assert found["parity"].passed, found["parity"].summary
    assert answered.rows == made.splits.rows["test"] == found["parity"].figures["rows"]
    assert (answered.server.backend, answered.server.url) == (judge.backend.kind, judge.backend.url)
    assert answered.server.log.read_text().strip()


@on_each("table", "naming", long=("digits", "of_bytes", "two_by_two"))
def test_both_transports_give_the_same(
    rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path, name: str
) -> None:
    """Asked over REST and gRPC, one server gives the same bits, text and bytes included, and both fit the model."""
    made = rehearsed(name)
    answered = rehearse(Rehearsal(judge.serving(protocol="both"), made.candidate, judge.backend, tmp_path))
    gates = judged(made.config.gates, made.candidate, answered)
    assert "transport" in by_name(gates)
    assert all(gate.passed for gate in gates), [gate.summary for gate in gates]


@on_each("digits", "naming")
def test_grpc_alone_judges(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path, name: str) -> None:
    """Asked over gRPC alone, contract and parity pass for a model that was exported unharmed."""
    made = rehearsed(name)
    answered = rehearse(Rehearsal(judge.serving(protocol="grpc"), made.candidate, judge.backend, tmp_path))
    gates = judged(made.config.gates, made.candidate, answered)
    assert all(gate.passed for gate in gates), [gate.summary for gate in gates]


@EMBEDDED_ALONE
def test_several_outputs_need_no_choice_without_metrics(
    rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path
) -> None:
    """A model with several outputs passes without `gates.metric_output` where no metric is configured."""
    made = rehearsed("two_by_two")
    answered = rehearse(Rehearsal(judge.serving(), made.candidate, judge.backend, tmp_path))
    assert all(gate.passed for gate in judged(made.config.gates, made.candidate, answered))


@EMBEDDED_ALONE
def test_longer_text_is_not_the_same_text(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """A served text that only begins like the one in process fails parity."""
    made = rehearsed("naming")
    answered = rehearse(Rehearsal(judge.serving(), made.candidate, judge.backend, tmp_path))
    answers = load_arrays(answered.answers)
    longer = np.char.add(answers["label"], np.array("er", answers["label"].dtype.kind))
    save_arrays(answered.answers, {**answers, "label": longer})
    assert not by_name(judged(made.config.gates, made.candidate, answered))["parity"].passed


@EMBEDDED_ALONE
def test_metrics_judge_the_named_output(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """With `gates.metric_output` the metric compares that output with the target of the same name."""
    made = rehearsed("two_by_two")
    answered = rehearse(Rehearsal(judge.serving(), made.candidate, judge.backend, tmp_path))
    gates = Gates(metric_output="odd", metrics={"accuracy": 0.0})  # type: ignore[dict-item]
    quality = by_name(judged(gates, made.candidate, answered))["quality"]
    scores = load_arrays(answered.answers)["odd"]
    target = load_arrays(made.splits.test)["y/odd"]
    assert quality.figures["accuracy"] == pytest.approx(float(np.mean(scores.argmax(axis=1) == target)))


@EMBEDDED_ALONE
def test_a_bare_number_is_an_instance(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """A model of one number answers `{"instances": [1.0, 2.0, 5.0]}` with three predictions on its line."""
    with served(judge, rehearsed("one_number"), tmp_path / "log") as ask:
        rows = np.array(ask({"instances": [1.0, 2.0, 5.0]})["predictions"])
        columns = np.array(ask({"inputs": {"x": [1.0, 2.0, 5.0]}})["outputs"])
    assert rows.shape == (3, 1)
    np.testing.assert_array_equal(rows, columns)
    assert (rows[2] - rows[1])[0] == pytest.approx(3 * (rows[1] - rows[0])[0], rel=1e-4)


def test_a_row_of_a_table_is_an_object(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """A tabular model answers rows as objects of bare values, text beyond ASCII and unseen text included."""
    rows = [{"age": 3.0, "city": "a"}, {"age": 3.0, "city": "Köln"}, {"age": 3, "city": "never seen"}]
    with served(judge, rehearsed("table"), tmp_path / "log") as ask:
        together = ask({"instances": rows})["predictions"]
        alone = [ask({"instances": [row]})["predictions"][0] for row in rows]
    assert together == alone
    assert len({prediction[0] for prediction in together}) == 3


@EMBEDDED_ALONE
def test_several_outputs_are_answered_by_name(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """Renamed inputs and outputs are what clients use."""
    with served(judge, rehearsed("renamed"), tmp_path / "log") as ask:
        [prediction] = ask({"instances": [{"l": [1.0, 2.0, 3.0], "r": 4}]})["predictions"]
    assert sorted(prediction) == ["o", "t"]
    assert sum(prediction["o"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("variables/variables.index", lambda content: content[: len(content) // 2]),
        ("variables/variables.data-00000-of-00001", lambda content: content[:10]),
        ("saved_model.pb", lambda _: b"this is not a SavedModel"),
    ],
)
def test_a_damaged_model_is_refused(
    rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    """Damaged bytes are a ModelLoadError well within the deadline, one line, with the server's words below it."""
    made = rehearsed("digits")
    version_dir = Path(shutil.copytree(made.candidate.version_dir, tmp_path / "1"))
    (version_dir / file).write_bytes(damage((version_dir / file).read_bytes()))
    candidate = dataclasses.replace(made.candidate, version_dir=version_dir)
    with pytest.raises(ModelLoadError) as caught:
        rehearse(Rehearsal(judge.serving(startup_timeout_s=50), candidate, judge.backend, tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert "digits" in str(caught.value)
    assert caught.value.detail.strip()


def test_other_bytes_fail_parity(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """Another model under this one's name passes the contract and fails parity, which names the worst row."""
    made, other = rehearsed("digits"), rehearsed("noisy")
    impostor = dataclasses.replace(made.candidate, version_dir=other.candidate.version_dir)
    answered = rehearse(Rehearsal(judge.serving(), impostor, judge.backend, tmp_path))
    found = by_name(judged(made.config.gates, impostor, answered))
    assert found["contract"].passed
    assert not found["parity"].passed
    row = found["parity"].evidence["outputs"]["probabilities"]["row"]
    assert f"worst in row {row}:" in found["parity"].summary
    ours, theirs = (load_arrays(path)["probabilities"][row] for path in (made.candidate.reference, answered.answers))
    assert np.abs(ours - theirs).max() > 1e-5


def test_another_signature_fails_the_contract(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """A served output of another width fails the contract, which shows both sides."""
    made = rehearsed("digits")
    pixels, probabilities = made.candidate.signature.inputs, made.candidate.signature.outputs
    claimed = dataclasses.replace(
        made.candidate.signature, outputs=(dataclasses.replace(probabilities[0], shape=(None, 11)),), inputs=pixels
    )
    candidate = dataclasses.replace(made.candidate, signature=claimed)
    found = by_name(
        judged(made.config.gates, candidate, rehearse(Rehearsal(judge.serving(), candidate, judge.backend, tmp_path)))
    )
    assert not found["contract"].passed
    assert "(?, 11)" in found["contract"].summary
    assert "(?, 10)" in found["contract"].summary


def test_a_champion_beside_it(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """In one server each version gives its own answers, and a champion that does not load is no verdict."""
    made, other = rehearsed("digits"), rehearsed("noisy")
    live_dir = Path(shutil.copytree(other.candidate.version_dir, tmp_path / "live" / "00000002"))
    champion = Champion(2, live_dir, "", read_graph(live_dir))
    gates = Gates.model_validate({"use": ["parity", "latency"], "latency": {"requests": 40}})
    asked = Rehearsal(judge.serving(), made.candidate, judge.backend, tmp_path / "run", gates, champion)
    answered = rehearse(asked)
    assert answered.champion is not None
    assert answered.champion.answers is not None
    both = [load_arrays(path)["probabilities"] for path in (answered.answers, answered.champion.answers)]
    references = [load_arrays(one.candidate.reference)["probabilities"] for one in (made, other)]
    for answers, reference in zip(both, references, strict=True):
        np.testing.assert_allclose(answers, reference, atol=1e-4)
    assert answered.latency is not None
    assert (answered.latency.memory_mb == 0) == (judge.backend.kind == "attached")

    (live_dir / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ServingError, match="served alone, but not in one server with version 2") as caught:
        rehearse(asked)
    assert type(caught.value) is ServingError


def test_probes_name_the_model_as_the_user_does(rehearsed: Callable[[str], Any], judge: Judge, tmp_path: Path) -> None:
    """What a server says to malformed requests does not have the name that an attached server knows the model by."""
    made = rehearsed("digits")
    gates = Gates.model_validate({"use": ["robustness"], "robustness": {"large_batch": 64}})
    answered = rehearse(Rehearsal(judge.serving(), made.candidate, judge.backend, tmp_path, gates))
    assert judged(gates, made.candidate, answered)[0].passed
    words = {probe.case: probe.words for probe in answered.probes}
    assert "Specific(digits, 1000001)" in words["unknown version"]
    assert "-rehearsal-" not in str(words)
