"""Every gate refuses, for the right reason, a model that a real server serves, and lets its twin pass."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.datasets.seen import RECORD, read_record
from tasks.errors import ServingError
from tasks.gates.judge import judge, judge_files
from tasks.records import BATCHES, Backend, Candidate, Champion, GateResult, ServedAnswers
from tasks.savedmodel.manifest import hash_files
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
EMBEDDED = Backend("embedded")
Export = Callable[..., Candidate]


@pytest.fixture(scope="module")
def exported(user_config: Callable[..., Any]) -> Export:
    """Return a function that exports a builder of `tests.data.user_models` as version 2, once a module.

    All train on the rows of `groups`, split alike.
    """
    from tasks.datasets.prepare import prepare_splits
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    @cache
    def exporting(build: str, *settings: str) -> Candidate:
        config = user_config("groups", build, **dict(item.split("=", 1) for item in settings))
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


def make_live(candidate: Candidate, models_root: Path, version: int = 1) -> Champion:
    """Publish an export as the version that serves, and find it as the pipeline does."""
    shutil.copytree(candidate.version_dir, models_root / candidate.name / str(version))
    champion = find_champion(models_root / candidate.name)
    assert champion is not None
    assert champion.version == version
    return champion


def gates_of(*use: str, **settings: Any) -> Gates:
    return Gates.model_validate({"use": use, **settings})


def judged(
    candidate: Candidate, directory: Path, gates: Gates, champion: Champion | None = None, **serving: Any
) -> tuple[dict[str, GateResult], ServedAnswers]:
    """Serve a candidate, beside a champion if there is one; return the verdicts by gate, and what was served."""
    served = rehearse(Rehearsal(Serving(**serving), candidate, EMBEDDED, directory, gates, champion))
    return {gate.name: gate for gate in judge(gates, candidate, served)}, served


def x_of(candidate: Candidate, row: int) -> float:
    """Return the x of one test row."""
    return float(load_arrays(candidate.requests)["x"][row])


def graph_of(candidate: Candidate, other: Candidate) -> Candidate:
    """Return a candidate with the graph of another one under its own references."""
    return replace(candidate, version_dir=other.version_dir)


# safety ---------------------------------------------------------------------------------------------------------


def test_a_graph_that_writes_a_file_is_refused_by_name(exported: Export, tmp_path: Path) -> None:
    """Safety names the operation, the same operation allowed by name passes, and so does the graph without it."""
    writer = exported("with_layer", "model.params.layer=writing", f"model.params.file={tmp_path / 'mark'}")
    graph = read_graph(writer.version_dir)
    (refused,) = judge_files(gates_of("safety"), graph, None)
    (allowed,) = judge_files(gates_of("safety", safety={"allow_ops": ["WriteFile"]}), graph, None)
    (harmless,) = judge_files(gates_of("safety"), read_graph(exported("ruled").version_dir), None)
    assert (refused.passed, allowed.passed, harmless.passed) == (False, True, True)
    assert {operation for operation, _ in refused.evidence["reaching_out"]} == {"WriteFile"}
    assert "WriteFile" in refused.summary
    assert "gates.safety.allow_ops" in refused.summary


def test_an_unsafe_graph_is_never_loaded(exported: Export, user_config: Callable[..., Any], tmp_path: Path) -> None:
    """The stage rejects an unsafe graph without a server; a server that loads it writes the file at once."""
    from tasks.validate import validate_serving

    mark = tmp_path / "mark"
    writer = exported("with_layer", "model.params.layer=writing", f"model.params.file={mark}")
    mark.unlink(missing_ok=True)  # training ran the graph, too
    report = validate_serving.fn(user_config("groups", "ruled"), writer, (EMBEDDED,), tmp_path / "run")
    assert (report.passed, report.served, [gate.name for gate in report.failed]) == (False, None, ["safety"])
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
    with throwaway_server(EMBEDDED, Serving(), writer, tmp_path / "log"):
        assert mark.read_text() == "was here"  # by the warm-up requests that it was exported with


# size -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_model_that_outgrew_its_champion(exported: Export, tmp_path: Path) -> None:
    """Size refuses a wide model by bytes, weights and the ratio to the champion; one as small as it passes."""
    champion = make_live(exported("ruled"), tmp_path)
    gates = gates_of("size", size={"max_mb": 1, "max_parameters": 1000, "max_ratio": 2})
    (wide,) = judge_files(gates, read_graph(exported("wide").version_dir), champion)
    (twin,) = judge_files(gates, read_graph(exported("ruled", "model.params.at=0.6").version_dir), champion)
    assert wide.evidence["missed"] == ["size_mb", "parameters", "ratio"]
    assert not wide.passed
    assert wide.figures["parameters"] == 2 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 + 1
    assert twin.passed, twin.summary
    assert twin.figures["parameters"] == 2
    assert twin.figures["ratio"] == pytest.approx(1, abs=0.1)


# contract -------------------------------------------------------------------------------------------------------

PLAIN = ("ruled",)
BREAKING = {
    "renamed input": (
        PLAIN,
        ("ruled", "export.inputs={value: x, group: group}"),
        ["input 'x' was removed", "input 'value' was added"],
        False,
    ),
    "removed input": (PLAIN, ("reshaped", "model.params.change=no group"), ["input 'group' was removed"], False),
    "added input": (PLAIN, ("reshaped", "model.params.change=extra"), ["input 'extra' was added"], False),
    "dtype of an input": (
        PLAIN,
        ("reshaped", "model.params.change=group of another dtype"),
        ["input changed from group: float32 (?) to group: int32 (?)"],
        False,
    ),
    "dtype of an input back": (
        ("reshaped", "model.params.change=group of another dtype"),
        PLAIN,
        ["input changed from group: int32 (?) to group: float32 (?)"],
        False,
    ),
    "rank of an input": (
        PLAIN,
        ("reshaped", "model.params.change=x of another rank"),
        ["input changed from x: float32 (?) to x: float32 (?, ?)"],
        False,
    ),
    "rank of an input back": (
        ("reshaped", "model.params.change=x of another rank"),
        PLAIN,
        ["input changed from x: float32 (?, ?) to x: float32 (?)"],
        False,
    ),
    "renamed output": (PLAIN, ("ruled", "export.outputs={grade: score}"), ["output 'score' was removed"], True),
    "removed output": (("reshaped", "model.params.change=margin"), PLAIN, ["output 'margin' was removed"], True),
    "dtype of an output": (
        PLAIN,
        ("reshaped", "model.params.change=score of another dtype"),
        ["output changed from score: float32 (?, 1) to score: float64 (?, 1)"],
        True,
    ),
    "rank of an output": (
        PLAIN,
        ("reshaped", "model.params.change=score of another rank"),
        ["output changed from score: float32 (?, 1) to score: float32 (?)"],
        True,
    ),
}


SOONER = {"renamed input", "added input", "dtype of an input", "removed output", "rank of an output"}


@pytest.mark.parametrize(
    ("champion", "candidate", "changes", "comparable"),
    [
        pytest.param(*case, id=name, marks=[] if name in SOONER else [pytest.mark.long])
        for name, case in BREAKING.items()
    ],
)
def test_a_change_that_breaks_the_champions_clients(
    exported: Export,
    tmp_path: Path,
    champion: tuple[str, ...],
    candidate: tuple[str, ...],
    changes: list[str],
    comparable: bool,
) -> None:
    """Contract alone refuses it and says what broke; a champion that takes other inputs is not asked."""
    made, live = exported(*candidate), make_live(exported(*champion), tmp_path / "models")
    tolerance = {"atol": 1e-5, "rtol": 1e-5}  # a float64 that was computed in float32 is no more exact than that
    gates = gates_of("contract", "parity", "quality", **tolerance)
    found, served = judged(made, tmp_path, gates, live)
    assert found["contract"].evidence["breaking"] == changes
    assert all(f"this would break the champion's clients: {change}" in found["contract"].summary for change in changes)
    assert {name: gate.passed for name, gate in found.items()} == {"contract": False, "parity": True, "quality": True}
    assert served.champion is not None
    assert (served.champion.answers is not None) == comparable
    (allowed,) = judge(gates_of("contract", allow_breaking=True), made, served)
    assert allowed.passed
    assert "gates.allow_breaking permits" in allowed.summary
    assert all(change in allowed.summary for change in changes)


@pytest.mark.parametrize(
    "candidate", [("ruled", "model.params.at=0.6"), ("reshaped", "model.params.change=margin")], ids=["same", "added"]
)
def test_what_the_champions_clients_do_not_notice(exported: Export, tmp_path: Path, candidate: tuple[str, ...]) -> None:
    """The champion's signature passes, and so does one more output."""
    live = make_live(exported("ruled"), tmp_path / "models")
    found, _ = judged(exported(*candidate), tmp_path, gates_of("contract"), live)
    assert found["contract"].passed, found["contract"].summary
    assert found["contract"].figures["breaking"] == 0
    assert "clients of the champion need no change" in found["contract"].summary


# parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["rest", "both"])
def test_an_unharmed_model_keeps_parity_in_every_batch_size(exported: Export, tmp_path: Path, protocol: str) -> None:
    """All rows and small batches of the first and the last agree with the model in process."""
    found, _ = judged(exported("ruled"), tmp_path, gates_of("parity"), protocol=protocol)
    assert all(gate.passed for gate in found.values()), found["parity"].summary
    assert found["parity"].figures["batch_sizes"] == 1 + len(BATCHES)
    assert "small batches (1, 2, 7, the last 3) agree as well" in found["parity"].summary


def test_a_thousandth_in_one_row_of_the_reference(exported: Export, tmp_path: Path) -> None:
    """A reference that is 1e-3 off in one row fails parity, which names row, both values and the row's inputs."""
    made, row = exported("ruled"), 123
    reference = load_arrays(made.reference)["score"].copy()
    reference[row] += 1e-3
    save_arrays(tmp_path / "reference.npz", {"score": reference})
    found, _ = judged(replace(made, reference=tmp_path / "reference.npz"), tmp_path, gates_of("parity"))
    names_the_row(found["parity"], row, x_of(made, row))
    assert f"in process {reference[row, 0]!s}" in found["parity"].summary


@pytest.mark.parametrize("by", [1e-3, -1e-3, float("nan"), float("inf")])
def test_a_difference_in_one_served_row(exported: Export, tmp_path: Path, by: float) -> None:
    """A graph that answers one row 1e-3 (or NaN, or infinity) off fails parity, which names that row."""
    made, row = exported("ruled"), 57
    other = exported("nudged", f"model.params.row={x_of(made, row)!r}", f"model.params.by={yaml(by)}")
    found, _ = judged(graph_of(made, other), tmp_path, gates_of("parity"))
    names_the_row(found["parity"], row, x_of(made, row))
    assert found["parity"].figures["max_abs_difference"] == pytest.approx(abs(by) if np.isfinite(by) else np.inf, 0.01)


def test_nan_on_both_sides_is_no_agreement(exported: Export, tmp_path: Path) -> None:
    """A model that answers NaN to one row fails parity although it does so in process, too."""
    row = 57
    made = exported("nudged", f"model.params.row={x_of(exported('ruled'), row)!r}", "model.params.by=.nan")
    assert np.isnan(load_arrays(made.reference)["score"][row])
    found, _ = judged(made, tmp_path, gates_of("parity"))
    names_the_row(found["parity"], row, x_of(made, row))
    assert "served nan, in process nan" in found["parity"].summary


@pytest.mark.long
@pytest.mark.parametrize(("batch", "name"), [(1, "1"), (2, "2"), (7, "7"), (0, "")])
def test_a_difference_in_one_batch_size(exported: Export, tmp_path: Path, batch: int, name: str) -> None:
    """A graph that is 1e-3 off in one batch size alone, or where all rows are sent, fails parity, which names it."""
    made = exported("ruled")
    batch = batch or len(load_arrays(made.requests)["x"])
    other = exported("nudged", f"model.params.row={x_of(made, 0)!r}", f"model.params.batch={batch}")
    found, _ = judged(graph_of(made, other), tmp_path, gates_of("parity"))
    rows = f"1 of {batch} rows differ, worst in row 0:"
    assert not found["parity"].passed
    assert found["parity"].summary.startswith(
        f"output 'score' in a batch of {name}: {rows}" if name else f"output 'score': {rows}"
    )


def test_answers_that_depend_on_the_other_rows(exported: Export, tmp_path: Path) -> None:
    """A model that centres each batch agrees over all rows and is found out by the small batches."""
    found, _ = judged(exported("by_batch"), tmp_path, gates_of("parity"))
    assert not found["parity"].passed
    assert found["parity"].summary.startswith("output 'score' in a batch of 1: 1 of 1 rows differ, worst in row 0:")
    assert found["parity"].evidence["outputs"]["score"]["batch"] in BATCHES  # and not all rows at once


def names_the_row(parity: GateResult, row: int, x: float) -> None:
    """Assert that one row is found, and named with its inputs."""
    assert not parity.passed
    assert f"1 of {parity.figures['rows']:.0f} rows differ, worst in row {row}: served" in parity.summary
    assert parity.figures["rows_differing"] == 1
    assert parity.evidence["outputs"]["score"]["row"] == row
    assert parity.evidence["worst"][0]["row"] == row
    assert parity.evidence["worst"][0]["inputs"]["x"] == pytest.approx(x)


def yaml(value: float) -> str:
    return {"nan": ".nan", "inf": ".inf"}.get(repr(value), repr(value))


# golden ---------------------------------------------------------------------------------------------------------


def write_json(path: Path, x: list[float], score: list[float]) -> None:
    rows = [{"inputs": {"x": a, "group": 0}, "outputs": {"score": [b]}} for a, b in zip(x, score, strict=True)]
    path.write_text(json.dumps(rows))


def write_csv(path: Path, x: list[float], score: list[float]) -> None:
    with path.open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["inputs.x", "inputs.group", "outputs.score"])
        lines.writerows(zip(x, [0] * len(x), score, strict=True))


@pytest.mark.parametrize(("file", "write"), [("golden.json", write_json), ("golden.csv", write_csv)])
def test_a_golden_row_that_is_answered_otherwise(
    exported: Export, tmp_path: Path, file: str, write: Callable[[Path, list[float], list[float]], None]
) -> None:
    """The model that the golden rows were written for passes; one that is 0.01 off in one of them fails by row."""
    made = exported("ruled")
    x = [0.0, 0.25, x_of(made, 57), 0.5, 1.0]
    write(tmp_path / file, x, [float(1 / (1 + np.exp(-200 * (value - 0.5)))) for value in x])
    gates = gates_of("parity", "golden", golden={"file": tmp_path / file})
    twin, _ = judged(made, tmp_path, gates)
    assert twin["golden"].passed, twin["golden"].summary
    assert twin["golden"].figures["rows"] == 5
    off = exported("nudged", f"model.params.row={x[2]!r}", "model.params.by=0.01")
    found, _ = judged(off, tmp_path, gates)
    assert {name: gate.passed for name, gate in found.items()} == {"parity": True, "golden": False}
    assert "1 of 5 rows differ, worst in row 2: served" in found["golden"].summary
    assert found["golden"].figures["max_abs_difference"] == pytest.approx(0.01, rel=0.01)


# quality --------------------------------------------------------------------------------------------------------


MANY = "data.params.rows=4000"  # so that chance decides nothing


def accuracy(**bound: float) -> dict[str, Any]:
    return {"metrics": {"accuracy": bound}}


def test_a_missed_bound(exported: Export, tmp_path: Path) -> None:
    """A model that is wrong in a tenth of the rows misses 0.95, with figure and bound; its sound twin reaches it."""
    gates = gates_of("quality", **accuracy(min=0.95))
    found, _ = judged(exported("ruled", "model.params.at=0.6"), tmp_path, gates)
    twin, _ = judged(exported("ruled"), tmp_path, gates)
    assert not found["quality"].passed
    x = load_arrays(exported("ruled").requests)["x"]
    assert found["quality"].figures["accuracy"] == pytest.approx(1 - np.mean((x > 0.5) & (x < 0.6)), abs=0.01)
    assert found["quality"].evidence["missed"] == ["accuracy"]
    assert "at least 0.95" in found["quality"].summary
    assert twin["quality"].passed
    assert twin["quality"].figures["accuracy"] == 1


def test_proven_worse_than_the_champion(exported: Export, tmp_path: Path) -> None:
    """A model with a tenth of the rows wrong is refused beside a champion that is always right, bound or no bound."""
    live = make_live(exported("ruled"), tmp_path / "models")
    found, served = judged(exported("ruled", "model.params.at=0.6"), tmp_path, gates_of("quality"), live)
    quality = found["quality"]
    assert not quality.passed
    assert quality.champion["accuracy"] == 1
    assert quality.figures["accuracy.gain"] == pytest.approx(quality.figures["accuracy"] - 1)
    assert quality.figures["accuracy.gain_high"] < 0
    (tolerated,) = judge(gates_of("quality", **accuracy(min=0.5, worse_by=0.2)), exported("ruled"), served)
    assert tolerated.passed, tolerated.summary


def test_noise_does_not_reject(exported: Export, tmp_path: Path) -> None:
    """A model that is wrong in two rows more than the champion passes: the rows do not prove it worse."""
    live = make_live(exported("ruled"), tmp_path / "models")
    x = np.sort(load_arrays(exported("ruled").requests)["x"])
    _, second, third, *_ = x[x > 0.501].tolist()
    unlucky = exported("ruled", f"model.params.at={(second + third) / 2}")
    found, _ = judged(unlucky, tmp_path, gates_of("quality"), live)
    quality = found["quality"]
    assert -3.5 < quality.figures["accuracy.gain"] * len(x) < -1.5
    assert quality.figures["accuracy.gain_high"] == 0
    assert quality.passed, quality.summary


def test_proven_better_than_the_champion(exported: Export, tmp_path: Path) -> None:
    """Where a proof of being better is asked for, a better model gives it and an equal one does not."""
    worse = exported("ruled", "model.params.at=0.7")
    live, gates = make_live(worse, tmp_path / "models"), gates_of("quality", **accuracy(better_by=0.02))
    better, _ = judged(exported("ruled"), tmp_path, gates, live)
    equal, _ = judged(worse, tmp_path, gates, live)
    assert better["quality"].passed, better["quality"].summary
    assert better["quality"].figures["accuracy.gain_low"] > 0.02
    assert not equal["quality"].passed
    assert "proven better than the champion by at least 0.02" in equal["quality"].bounds["accuracy"]


def test_what_the_champion_has_seen_is_left_out(exported: Export, tmp_path: Path) -> None:
    """Beside a champion that was split by another seed, only test rows that it has not seen are compared."""
    live = make_live(exported("ruled", MANY, "data.seed=1", "model.params.at=0.6"), tmp_path / "models")
    candidate = exported("ruled", MANY)
    assert live.seen is not None
    found, _ = judged(candidate, tmp_path, gates_of("quality"), live)
    quality = found["quality"]
    theirs, ours = (set(read_record(path).rows["test"].tolist()) for path in (live.seen, record_of(candidate)))
    assert quality.passed, quality.summary
    assert quality.figures["rows_unseen"] == len(ours & theirs) < len(ours) / 2
    assert quality.figures["rows_seen"] == len(ours - theirs)
    assert quality.champion["accuracy.unseen"] < quality.figures["accuracy.unseen"] == 1
    assert f"{len(ours - theirs)} that it has seen are left out" in quality.summary


def record_of(candidate: Candidate) -> Path:
    return candidate.version_dir / RECORD


def test_the_record_is_part_of_what_is_judged(exported: Export) -> None:
    """An export's digest covers the rows that it knows, each once, and its size does not."""
    candidate = exported("ruled")
    rows = read_record(record_of(candidate)).rows
    assert {name: len(found) for name, found in rows.items()}["test"] == len(load_arrays(candidate.requests)["x"])
    assert len(np.unique(np.concatenate(list(rows.values())))) == sum(map(len, rows.values())) == 1000
    assert hash_files(candidate.version_dir).digest == candidate.digest
    assert RECORD.as_posix() in [path for path, _, _ in hash_files(candidate.version_dir).files]
    size = read_graph(candidate.version_dir).total_bytes
    everything = sum(path.stat().st_size for path in candidate.version_dir.rglob("*") if path.is_file())
    assert size == everything - record_of(candidate).stat().st_size


def test_a_champion_whose_rows_nobody_knows(exported: Export, user_config: Callable[..., Any], tmp_path: Path) -> None:
    """One that was exported before is not compared, and where no bound is absolute a person decides."""
    live = make_live(exported("ruled"), tmp_path / "models")
    record = live.version_dir / RECORD
    record.unlink()
    before = find_champion(tmp_path / "models" / "m")
    assert before is not None
    assert before.seen is None
    found, served = judged(exported("ruled"), tmp_path, gates_of("quality"), before)
    assert found["quality"].passed
    assert "not compared with the champion: it is unknown which rows" in found["quality"].summary
    assert "exported by an older release" in found["quality"].needs_person
    (bound,) = judge(gates_of("quality", **accuracy(min=0.5)), exported("ruled"), served)
    assert (bound.passed, bound.needs_person) == (True, "")


def test_a_slice_that_fails(exported: Export, tmp_path: Path) -> None:
    """A model that reaches its bound over all rows is refused for the group in which it is proven not to."""
    gates = gates_of("quality", **accuracy(min=0.7), slices=["group"])
    found, _ = judged(exported("ruled", MANY, "model.params.shift=0.5"), tmp_path, gates)
    twin, _ = judged(exported("ruled"), tmp_path, gates)
    assert found["quality"].figures["accuracy"] > 0.7
    assert not found["quality"].passed
    assert {s["slice"]: s["passed"] for s in found["quality"].evidence["slices"]} == {
        "group=0.0": True,
        "group=1.0": False,
    }
    assert "slice group=1.0: accuracy" in found["quality"].summary
    assert twin["quality"].passed, twin["quality"].summary


# latency --------------------------------------------------------------------------------------------------------


def test_a_model_that_is_really_slow(exported: Export, tmp_path: Path) -> None:
    """A graph with a long loop takes longer than its champion, and is refused by figure and bound; another passes.

    The bounds are far from what any machine measures: which side a figure falls on is not the machine's to say.
    """
    live = make_live(exported("ruled"), tmp_path / "models")
    gates = gates_of("parity", "latency", latency={"requests": 40, "max_p50_ms": 1e-4, "max_ratio": 1e-4})
    slow = exported("with_layer", "model.params.layer=slow", "model.params.turns=120", "training.batch_size=600")
    found, served = judged(slow, tmp_path, gates, live)
    latency = found["latency"]
    assert found["parity"].passed
    assert not latency.passed
    assert {"p50_ms", "p95_ratio"} <= set(latency.evidence["missed"])
    assert f"p50_ms is {latency.figures['p50_ms']:.4g} (at most 0.0001)" in latency.summary
    assert f"p95_ratio is {latency.figures['p95_ratio']:.4g} (at most 0.0001)" in latency.summary
    assert latency.figures["p50_ms"] > latency.champion["p50_ms"]
    assert served.latency is not None
    assert {name: len(taken) for name, taken in load_arrays(served.latency.samples).items()} == {
        "candidate": 40,
        "champion": 40,
    }
    wide = gates_of("parity", "latency", latency={"requests": 40, "max_p50_ms": 1e6, "max_ratio": 1e6})
    twin, _ = judged(exported("ruled", "model.params.at=0.6"), tmp_path, wide, live)
    assert twin["latency"].passed, twin["latency"].summary
    assert twin["latency"].figures["memory_mb"] > 50


# robustness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "value"), [("exp", "Infinity"), ("log", "NaN")])
def test_what_is_no_number_beyond_the_rows(exported: Export, tmp_path: Path, function: str, value: str) -> None:
    """A model that answers extreme values with NaN or infinity fails, in the server's words; clamped it passes."""
    builds = [
        ("unbounded", f"model.params.function={function}", f"model.params.clamped={clamped}")
        for clamped in ("false", "true")
    ]
    gates = gates_of("parity", "robustness", robustness={"large_batch": 64})
    (found, _), (twin, _) = (judged(exported(*build), tmp_path, gates) for build in builds)
    assert {name: gate.passed for name, gate in found.items()} == {"parity": True, "robustness": False}
    assert found["robustness"].evidence["failed"] == ["extreme values of 'x'"]
    assert "extreme values of 'x': 200" in found["robustness"].summary
    assert value in found["robustness"].summary
    assert twin["robustness"].passed, twin["robustness"].summary


def test_a_model_that_remembers_requests(exported: Export, tmp_path: Path) -> None:
    """A model that answers the same request otherwise afterwards fails; its twin without a memory passes."""
    gates = gates_of("robustness", robustness={"large_batch": 64})
    found, _ = judged(exported("with_layer", "model.params.layer=counting"), tmp_path, gates)
    twin, _ = judged(exported("ruled"), tmp_path, gates)
    assert found["robustness"].evidence["failed"] == ["as usual afterwards"]
    assert "the answer changed" in found["robustness"].summary
    assert not found["robustness"].passed
    assert twin["robustness"].passed, twin["robustness"].summary


# candidate and champion in one server ---------------------------------------------------------------------------


def test_both_versions_are_pinned_in_one_server(exported: Export, tmp_path: Path) -> None:
    """One server has candidate and champion AVAILABLE and no version that lies beside them."""
    made, live = exported("ruled", "model.params.at=0.6"), make_live(exported("ruled"), tmp_path / "models")
    shutil.copytree(live.version_dir, live.version_dir.parent / "7")  # appeared after the champion was looked for
    with throwaway_server(EMBEDDED, Serving(), made, tmp_path / "log", live) as (_, client):
        assert {version: state for version, (state, _) in client.states().items()} == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_each_version_gives_its_own_answers(exported: Export, tmp_path: Path) -> None:
    """The champion's answers are what the champion answers in process, the candidate's are the candidate's."""
    made, old = exported("ruled", "model.params.at=0.6"), exported("ruled")
    _, served = judged(made, tmp_path, gates_of("parity"), make_live(old, tmp_path / "models"))
    assert served.champion is not None
    assert served.champion.answers is not None
    answers = {"candidate": served.answers, "champion": served.champion.answers}
    scores: Mapping[str, Any] = {name: load_arrays(path)["score"] for name, path in answers.items()}
    np.testing.assert_allclose(scores["candidate"], load_arrays(made.reference)["score"], atol=1e-5)
    np.testing.assert_allclose(scores["champion"], load_arrays(old.reference)["score"], atol=1e-5)
    assert np.abs(scores["candidate"] - scores["champion"]).max() > 0.9
    assert (tmp_path / "server_both.log").read_text().strip()


def test_a_champion_that_the_server_refuses(exported: Export, tmp_path: Path) -> None:
    """A live version that does not load is an error that names it, never a verdict on the candidate."""
    live = make_live(exported("ruled"), tmp_path / "models")
    (live.version_dir / "variables" / "variables.index").write_bytes(b"damaged")
    with pytest.raises(ServingError) as caught:
        judged(exported("ruled", "model.params.at=0.6"), tmp_path, gates_of("parity"), live)
    assert "'m' version 1, which is live, but refused it" in str(caught.value)
    assert str(live.version_dir) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.detail
