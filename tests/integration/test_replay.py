"""Recorded requests against real servers: what the gate finds, names and refuses, and what it leaves alone."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.errors import DataError, ServingError
from tasks.gates.judge import judge
from tasks.gates.replay import new_tally
from tasks.model_server.tf_protos import message_module
from tasks.model_server.tf_records import masked_crc
from tasks.records import Backend, Candidate, Champion, GateResult, ServedReplay, Signature
from tasks.replay.bodies import arrays_of, message_of
from tasks.replay.files import Request, requests_in
from tasks.savedmodel.warmup import WARMUP
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion
from tests.data.replayed_models import bodies

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
MODELS = "tests.data.replayed_models"
Export = Callable[..., Candidate]
RENAMED = {"years": "age", "city": "city", "pair": "pair"}
BODIES = [*bodies(60), *bodies(300, rows_in_each=30, seed=2)]


@pytest.fixture(scope="module")
def exported(make_config: Callable[..., Any]) -> Export:
    """Return a function that exports the shop with a change as version 2, once a module."""
    from tasks.datasets.prepare import prepare_splits
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    @cache
    def exporting(change: str = "", *settings: str) -> Candidate:
        given = dict(item.split("=", 1) for item in settings)
        config = make_config(f"{MODELS}:rows", f"{MODELS}:shop", **{"model.params.change": change}, **given)
        run_dir, version_dir = config.work_dir / "runs" / "r", config.work_dir / "candidates" / "m" / "2"
        splits = prepare_splits(config.data, run_dir / "data")
        trained = fit_model(config, splits, run_dir / "model.keras")
        version_dir.mkdir(parents=True)
        found = export_savedmodel(config, splits, trained, version_dir, run_dir)
        requests, reference = run_dir / "requests.npz", run_dir / "reference.npz"
        return Candidate(
            "m", 2, version_dir, found.digest, found.signature, found.size_bytes, requests, reference, splits.test
        )

    return exporting


@pytest.fixture(scope="module")
def refusing(exported: Export, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """Return a shop that refuses ages above 99, whose warm-up is drawn from requests of which some have such ages."""
    lines = [*bodies(20, age=50.0), *bodies(5, age=99.5), b'{"inputs": {"age": [1]}}', b"nonsense"]
    file = recorded(tmp_path_factory.mktemp("recorded"), lines)
    return exported("refusing", f"gates.replay.file={file}", "export.warmup_from=requests")


@pytest.fixture
def champion(exported: Export, tmp_path: Path) -> Champion:
    """Return the shop without a change as the version that is live."""
    shutil.copytree(exported().version_dir, tmp_path / "models" / "m" / "1")
    found = find_champion(tmp_path / "models" / "m")
    assert found is not None
    return found


def recorded(directory: Path, lines: Iterable[bytes] = BODIES) -> Path:
    file = directory / "requests.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def replayed(
    candidate: Candidate,
    champion: Champion | None,
    file: Path,
    use: Sequence[str] = (),
    protocol: str = "rest",
    **settings: Any,
) -> tuple[GateResult, ServedReplay]:
    """Replay a file, and return the verdict of the gate with what was counted."""
    gates = Gates.model_validate({"use": ["replay", *use], "replay": {"file": file, "slices": ["city"]} | settings})
    tally = partial(new_tally, gates, candidate, {})
    serving = Serving.model_validate({"protocol": protocol})
    directory = file.parent / "server"
    served = rehearse(Rehearsal(serving, candidate, Backend("embedded"), directory, gates, champion, tally=tally))
    (verdict,) = (gate for gate in judge(gates, candidate, served) if gate.name == "replay")
    assert served.replay is not None
    return verdict, served.replay


def test_an_equal_model_raises_no_alarm(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """Bodies in both formats and sizes are answered alike by an equal model: nothing flips in any slice."""
    verdict, found = replayed(exported(), champion, recorded(tmp_path))
    assert verdict.passed
    assert (found.requests, found.rows) == (360, 60 + 300 * 30)
    assert {one.title for one in found.slices} == {"", "city=Köln", "city=Oslo", "city=Rome", "city=Lima"}
    assert [one.flipped for one in found.slices] == [0] * 5
    assert (found.refused, found.refused_by_both, found.refused_by_champion, found.unread) == (0, 0, 0, 0)
    assert found.flipped == ()


def test_a_planted_change_of_one_percent_in_one_slice(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """A change of 1 % of one city's decisions is refused, names that city alone, and lists rows of it."""
    verdict, found = replayed(exported("planted"), champion, recorded(tmp_path))
    assert not verdict.passed
    failed = [one["slice"] for one in verdict.evidence["slices"] if not one["passed"]]
    assert failed == ["city=Köln"]
    assert verdict.summary.startswith("slice city=Köln: ")
    assert found.flipped
    for row in found.flipped:
        assert row["inputs"]["city"] == "Köln"
        assert 40 <= row["inputs"]["age"] < 41
        assert row["candidate"] != row["champion"]
        body = json.loads(BODIES[row["request"] - 1])
        ages = body["inputs"]["age"] if "inputs" in body else [one["age"] for one in body["instances"]]
        assert ages[row["row"]] == pytest.approx(row["inputs"]["age"])


def test_requests_that_only_the_candidate_refuses(
    exported: Export, refusing: Candidate, champion: Champion, tmp_path: Path
) -> None:
    """Ages that the new graph refuses are named with the first request; what both refuse is not its fault."""
    wrong = [b'{"instances": [{"age": "x", "city": "Oslo", "pair": [1, 2]}]}', b'{"inputs": {"ages": [1]}}']
    file = recorded(tmp_path, [*wrong, *bodies(20, age=50.0), *bodies(3, age=99.5), b"nonsense"])
    verdict, found = replayed(refusing, champion, file)
    assert not verdict.passed
    assert "the candidate refused 3 requests that the champion answered, first request 23: 400: " in verdict.summary
    assert "too old" in verdict.summary
    assert (found.requests, found.refused, found.refused_by_both, found.unread) == (25, 3, 2, 2)
    assert found.skipped == {"it is not JSON (the first one is request 26)": 1}
    assert verdict.note is not None
    assert "both versions refused 2 requests" in verdict.note
    twin, _ = replayed(exported(), champion, file)
    assert twin.passed


def test_answers_that_are_not_numbers_any_more(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """A sum that becomes NaN for a few ages is refused; of JSON answers, NaN is read as what it is."""
    verdict, found = replayed(
        exported("lost"), champion, recorded(tmp_path, [*bodies(5, age=50.0), *bodies(2, 4, age=99.5)])
    )
    assert not verdict.passed
    assert found.not_finite == 8
    assert "answered 8 rows with NaN or infinity" in verdict.summary


def test_a_number_that_moves_in_one_slice(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """A regression's answer beyond the tolerance is another decision, by default 1 % of the champion's range."""
    file = recorded(tmp_path, bodies(20, rows_in_each=30))
    verdict, found = replayed(exported("moved"), champion, file)
    assert [one["slice"] for one in verdict.evidence["slices"] if not one["passed"]] == ["city=Köln"]
    koln = next(one for one in found.slices if one.title == "city=Köln")
    assert koln.flipped == koln.rows > 0
    assert "1 % of the range" in found.rules["total"]
    assert found.rules["old"] == "another side of 0.5"
    allowed, _ = replayed(exported("moved"), champion, file, tolerance=1.5)
    assert allowed.passed


def test_a_request_that_crashes_the_candidate(exported: Export, champion: Champion, tmp_path: Path) -> None:
    """The request is named, it is the candidate's fault because it crashes alone, and the gate fails."""
    file = recorded(tmp_path, [*bodies(30, age=50.0), *bodies(1, age=99.5), *bodies(30, age=50.0)])
    verdict, found = replayed(exported("crashing"), champion, file)
    assert not verdict.passed
    assert found.crash.startswith("request 31 crashed the server: ")
    assert "Check failed: age <= 99" in verdict.summary
    assert "no further request was sent" in verdict.summary


@pytest.mark.long
def test_a_crash_that_is_not_the_candidates(exported: Export, tmp_path: Path) -> None:
    """If the live version crashes the server, there is no verdict about the candidate, and the error says why."""
    shutil.copytree(exported("crashing").version_dir, tmp_path / "models" / "m" / "1")
    live = find_champion(tmp_path / "models" / "m")
    with pytest.raises(ServingError, match="the candidate alone answers them"):
        replayed(exported(), live, recorded(tmp_path, [*bodies(9, age=50.0), *bodies(1, age=99.5)]))


def test_the_first_version(exported: Export, refusing: Candidate, tmp_path: Path) -> None:
    """Without a champion, requests show only refusals, which a person judges, and inputs beside the training rows."""
    file = recorded(tmp_path, [*bodies(40, age=120.0), *bodies(2, city="Bonn", age=50.0)])
    verdict, found = replayed(exported(), None, file)
    assert (verdict.passed, verdict.needs_person, found.slices) == (True, "", ())
    assert "no version is live, so only refusals and the inputs are looked at" in verdict.summary
    inputs = {one.name: one for one in found.inputs}
    assert inputs["age"].outside == 40
    assert inputs["age"].named[0] == {"request": 1, "row": 0, "value": 120.0}
    assert inputs["city"].named[0] == {"request": 41, "row": 0, "value": "Bonn"}
    assert inputs["age"].psi > 1 > inputs["pair[0]"].psi
    refused, _ = replayed(refusing, None, file)
    assert refused.passed
    assert "the candidate refused 40 recorded requests" in refused.needs_person


def logs(lines: Iterable[bytes], signature: Signature, model: str = "m") -> bytes:
    """Return bodies as TensorFlow Serving logs them: TFRecords of PredictionLog, with a version of that day."""
    records = b""
    for line in lines:
        entry = message_module("tensorflow_serving.apis.prediction_log_pb2").PredictionLog()
        entry.predict_log.request.CopyFrom(message_of(arrays_of(Request(1, line), signature), signature, model))
        entry.predict_log.request.model_spec.version.value = 999
        data, length = entry.SerializeToString(), struct.pack("<Q", entry.ByteSize())
        records += length + masked_crc(length) + data + masked_crc(data)
    return records


@pytest.mark.parametrize(
    ("protocol", "transport"),
    [("both", "gRPC"), pytest.param("rest", "JSON that was made of the PredictRequests", marks=pytest.mark.long)],
)
def test_recorded_prediction_logs(
    exported: Export, champion: Champion, tmp_path: Path, protocol: str, transport: str
) -> None:
    """Compressed logs find the same flips as the bodies that they were made of, over gRPC and as JSON."""
    lines = BODIES[60:160]
    (tmp_path / "other").mkdir()
    _, bodies_found = replayed(exported("planted"), champion, recorded(tmp_path / "other", lines))
    file = tmp_path / "logs.gz"
    signature = exported().signature
    file.write_bytes(gzip.compress(logs(lines, signature) + logs(lines[:3], signature, "another")))
    verdict, found = replayed(exported("planted"), champion, file, protocol=protocol)
    assert found.transport == transport
    assert transport in str(verdict.note)
    assert found.skipped == {"it asks for the model 'another' (the first one is request 101)": 3}
    assert found.slices == bodies_found.slices
    assert found.slices[0].flipped > 0
    assert [(one["request"], one["row"]) for one in found.flipped] == [
        (one["request"], one["row"]) for one in bodies_found.flipped
    ]


@pytest.mark.parametrize("allowed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_champion_that_takes_other_inputs(
    exported: Export, champion: Champion, tmp_path: Path, allowed: bool
) -> None:
    """Requests that do not fit a renamed input are refusals, which a permitted break leaves to a person."""
    candidate = exported("", f"export.inputs={json.dumps(RENAMED)}")
    file = recorded(tmp_path, bodies(5))
    gates = Gates.model_validate({"use": ["replay"], "replay": {"file": file}, "allow_breaking": allowed})
    tally = partial(new_tally, gates, candidate, RENAMED)
    served = rehearse(
        Rehearsal(Serving(), candidate, Backend("embedded"), tmp_path / "s", gates, champion, tally=tally)
    )
    (verdict,) = judge(gates, candidate, served)
    assert served.replay is not None
    assert (served.replay.refused, served.replay.unread) == (5, 5)
    assert verdict.passed is allowed
    needed = "the candidate refused 5 recorded requests, which gates.allow_breaking permits"
    assert verdict.needs_person == (needed if allowed else "")


def test_the_warm_up_is_drawn_from_the_requests(refusing: Candidate, tmp_path: Path) -> None:
    """Requests that the model accepts become its warm-up, those that it refuses do not, and the server loads it."""
    drawn = [arrays_of(request, refusing.signature) for request in requests_in(refusing.version_dir / WARMUP, "m")]
    accepted = [arrays_of(Request(1, line), refusing.signature) for line in bodies(20, age=50.0)]
    assert [rows["pair"].tolist() for rows in drawn] == [rows["pair"].tolist() for rows in accepted]
    with throwaway_server(Backend("embedded"), Serving(), refusing, tmp_path / "log") as (server, _):
        assert "Number of warmup records read: 20" in server.log()


def test_requests_that_do_not_fit_are_found_before_the_training(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    """A file of another model and a slice that is no input are refused at the trial export of the untrained model."""
    from tasks.datasets.prepare import prepare_splits
    from tasks.training.fit import try_model

    other = recorded(tmp_path, [b'{"instances": [{"x": 1}]}'])
    config = make_config(f"{MODELS}:rows", f"{MODELS}:shop", **{"gates.replay.file": other})
    splits = prepare_splits(config.data, tmp_path / "data")
    with pytest.raises(DataError, match=r"must have requests that fit the inputs of the model, got none \(request 1: "):
        try_model(config, splits, tmp_path)
    fitting = make_config(f"{MODELS}:rows", f"{MODELS}:shop", **{"gates.replay.file": recorded(tmp_path, BODIES[:1]),
                          "gates.replay.slices": "[town]"})  # fmt: skip
    with pytest.raises(DataError, match="gates.replay.slices must name inputs of the model, got 'town'; they are age"):
        try_model(fitting, splits, tmp_path)
