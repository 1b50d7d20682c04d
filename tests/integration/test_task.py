"""The task of a model, decided before its training and judged on what a real process answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from configs.schema import Config
from configs.sections.gates import Bound
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.readings import READINGS, read_readings
from tasks.datasets.rows import load_arrays, load_rows
from tasks.errors import DataError
from tasks.gates.judge import judge
from tasks.records import Backend, Candidate, GateResult, Splits, TrainedModel, ValidationReport
from tasks.report.pictures import draw_pictures
from tasks.report.sections import provenance_lines
from tasks.savedmodel.safety import read_graph
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
USER = "tests.data.scored_models"


class Trained(NamedTuple):
    """A model on its way, up to the candidate."""

    config: Config
    splits: Splits
    trained: TrainedModel
    candidate: Candidate


@pytest.fixture(scope="module")
def configured(make_config: Callable[..., Config]) -> Callable[..., Config]:
    """Return a function that configures a loader's targets and a builder's parameters."""

    def configuring(targets: str, build: str = "net", epochs: int = 1, **settings: Any) -> Config:
        params = {key.removeprefix("p_"): settings.pop(key) for key in list(settings) if key.startswith("p_")}
        shown = ", ".join(f"{key}: {value}" for key, value in params.items())
        return make_config(
            f"{USER}:wine", f"{USER}:{build}",
            **{"data.params": f"{{targets: {targets}}}", "model.params": f"{{{shown}}}", "training.epochs": epochs,
               **{key.replace("__", "."): value for key, value in settings.items()}},
        )  # fmt: skip

    return configuring


@pytest.fixture(scope="module")
def exported(configured: Callable[..., Config]) -> Callable[..., Trained]:
    """Return a function that trains and exports, once a module."""
    from tasks.savedmodel.exporter import export_savedmodel
    from tasks.training.fit import fit_model

    @cache
    def exporting(targets: str, **settings: Any) -> Trained:
        config = configured(targets, epochs=30, **settings)
        run_dir, version_dir = config.work_dir / "runs" / "r", config.work_dir / "candidates" / "m" / "2"
        splits = prepare_splits(config.data, run_dir)
        trained = fit_model(config, splits, run_dir / "model.keras")
        version_dir.mkdir(parents=True)
        found = export_savedmodel(config, splits, trained, version_dir, run_dir)
        requests, reference = run_dir / "requests.npz", run_dir / "reference.npz"
        candidate = Candidate(
            "m", 2, version_dir, found.digest, found.signature, found.size_bytes, requests, reference, splits.test
        )
        return Trained(config, splits, trained, candidate)

    return exporting


def with_gates(made: Trained, **changes: Any) -> Trained:
    """Return a model whose gates are configured otherwise now than when it was trained."""
    gates = made.config.gates.model_copy(update=changes)
    return made._replace(config=made.config.model_copy(update={"gates": gates}))


def judged(made: Trained, directory: Path, champion: Candidate | None = None) -> tuple[GateResult, ValidationReport]:
    """Serve a candidate; return the quality gate's verdict and the report."""
    beside = None
    if champion is not None:
        shutil.copytree(champion.version_dir, directory / "models" / "m" / "1")
        beside = find_champion(directory / "models" / "m")
    gates = made.config.gates.model_copy(update={"use": ("quality",)})
    served = rehearse(Rehearsal(made.config.serving, made.candidate, Backend("embedded"), directory, gates, beside))
    found = judge(gates, made.candidate, served)
    return found[0], ValidationReport(made.candidate, read_graph(made.candidate.version_dir), served, found, beside)


def test_logits_are_judged_as_what_they_mean(exported: Callable[..., Trained], tmp_path: Path) -> None:
    """Case 32: a model without a softmax reaches the bounds that its probabilities reach, and every place says so."""
    bounds = "{auc: 0.95, log_loss: {max: 0.3}, accuracy: 0.9, brier: {max: 0.2}}"
    made = exported("numbers", p_logits=True, gates__metrics=bounds)
    quality, report = judged(made, tmp_path)
    assert report.served is not None
    [logits] = load_arrays(report.served.answers).values()
    true = load_rows(made.splits.test).targets["target"]
    assert np.abs(logits.sum(axis=1) - 1).max() > 0.1
    shares = softmax(logits.astype(np.float64), axis=1)
    assert quality.passed, quality.summary
    assert quality.figures == pytest.approx(
        {
            "accuracy": sk.accuracy_score(true, logits.argmax(axis=1)),
            "auc": sk.roc_auc_score(true, shares, multi_class="ovr"),
            "log_loss": sk.log_loss(true, shares),
            "brier": sk.brier_score_loss(true, shares),
        }
    )
    assert "read as multiclass logits" in quality.summary
    assert (quality.evidence["task"], quality.evidence["scores"]) == ("multiclass", "logits")
    shown = provenance_lines(made.splits, made.trained, report, {})["task"]
    assert shown.startswith("multiclass logits (SparseCategoricalCrossentropy(from_logits=True), ")
    draw_pictures(made.config, made.trained, report, tmp_path)
    assert {"confusion", "calibration"} <= {path.stem for path in tmp_path.glob("*.png")}


def test_one_hot_targets_are_classes(exported: Callable[..., Trained], tmp_path: Path) -> None:
    """Case 31: one-hot targets are judged by accuracy, and without a bound by the metrics of classes."""
    bound = {"p_loss": "CategoricalCrossentropy", "p_end": "softmax"}
    made = exported("one-hot", **bound, gates__metrics="{accuracy: 0.8}")
    quality, report = judged(made, tmp_path / "bound")
    assert report.served is not None
    [shares] = load_arrays(report.served.answers).values()
    true = load_rows(made.splits.test).targets["target"].argmax(axis=1)
    assert quality.passed, quality.summary
    assert quality.figures == {"accuracy": sk.accuracy_score(true, shares.argmax(axis=1))}
    quality, _ = judged(with_gates(made, metrics={}), tmp_path / "usual")
    assert set(quality.figures) == {"accuracy", "macro_f1", "log_loss", "auc", "brier"}


def test_several_labels(exported: Callable[..., Trained], tmp_path: Path) -> None:
    """A model of two labels a row, trained by logits: each is cut at 0, and a row is right where both are."""
    renamed = "{grades: scores}"
    made = exported("labels", p_loss="BinaryCrossentropy", p_logits=True, p_units=2, export__outputs=renamed)
    assert list(read_readings(made.candidate.version_dir)) == ["grades"]
    quality, report = judged(made, tmp_path)
    assert report.served is not None
    [logits] = load_arrays(report.served.answers).values()
    true = load_rows(made.splits.test).targets["target"]
    assert quality.figures["accuracy"] == sk.accuracy_score(true, logits >= 0)
    assert quality.figures["auc"] == pytest.approx(sk.roc_auc_score(true, expit(logits.astype(np.float64))))
    assert "read as multilabel logits" in quality.summary


GRPC_GATES = "[safety, size, contract, parity, quality]"  # the others ask over REST


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats_over_grpc(exported: Callable[..., Trained], tmp_path: Path, dtype: str) -> None:
    """Case 06: answers of two bytes, which REST does not carry, are the model's own, and scored in float64."""
    made = exported("numbers", p_end="softmax", p_served=dtype, serving__protocol="grpc", gates__use=GRPC_GATES)
    quality, report = judged(made, tmp_path)
    [own] = load_arrays(made.candidate.reference).values()
    true = load_rows(made.splits.test).targets["target"]
    shares = own.astype(np.float64) / own.astype(np.float64).sum(axis=1, keepdims=True)
    assert quality.passed, quality.summary
    assert quality.figures["log_loss"] == pytest.approx(sk.log_loss(true, shares))
    assert report.served is not None
    [served] = load_arrays(report.served.answers).values()
    np.testing.assert_array_equal(served.astype(np.float64), own.astype(np.float64))


@pytest.mark.long
def test_each_is_read_by_its_own_record(exported: Callable[..., Trained], tmp_path: Path) -> None:
    """A champion of logits beside probabilities, and the other way round, is measured as it is alone."""
    logits = exported("numbers", p_logits=True)
    shares = exported("numbers", p_end="softmax")
    alone = {name: judged(made, tmp_path / name)[0].figures for name, made in (("l", logits), ("p", shares))}
    for name, own, other in (("l", logits, shares), ("p", shares, logits)):
        quality, report = judged(own, tmp_path / f"{name}-beside", other.candidate)
        assert report.served is not None
        assert "read as" in quality.summary
        assert quality.champion == pytest.approx(alone["p" if name == "l" else "l"], rel=1e-6)
        own_figures = {key: value for key, value in quality.figures.items() if key in alone[name]}
        assert own_figures == pytest.approx(alone[name], rel=1e-6)
        assert set(quality.figures) - set(own_figures) <= {"rows_seen", "rows_unseen"} | {
            key for key in quality.figures if ".gain" in key
        }


def test_a_champion_without_a_record(exported: Callable[..., Trained], tmp_path: Path) -> None:
    """One exported before records were kept is read as probabilities where it looks so, else as the candidate is."""
    logits, shares = exported("numbers", p_logits=True), exported("numbers", p_end="softmax")
    for name, own, other in (("p", logits, shares), ("l", logits, logits), ("refused", shares, logits)):
        old = tmp_path / name / "old"
        shutil.copytree(other.candidate.version_dir, old)
        (old / READINGS).unlink()
        quality, _ = judged(own, tmp_path / name, replace(other.candidate, version_dir=old))
        if name == "refused":
            words = "not compared with the champion: the scores of output 'of the champion' must be probabilities"
            assert words in quality.summary
            assert not quality.champion
        else:
            assert quality.champion["accuracy"] > 0.9
            assert quality.champion["log_loss"] < 0.3


def test_a_candidate_without_a_record(exported: Callable[..., Trained], tmp_path: Path) -> None:
    """One exported before records were kept is judged by what its answers look like, or by what `gates` say."""
    made = exported("numbers", p_logits=True)
    old = made.candidate.version_dir.parent / "3"
    shutil.copytree(made.candidate.version_dir, old)
    (old / READINGS).unlink()
    assert read_readings(old) == {}
    bare = made._replace(candidate=replace(made.candidate, version=3, version_dir=old))
    unsaid, _ = judged(bare, tmp_path / "unsaid")
    assert set(unsaid.figures) == {"accuracy", "macro_f1"}  # ranked only: whether they are logits cannot be seen
    with pytest.raises(DataError, match=r"'log_loss' must fit .*gates\.scores"):
        judged(with_gates(bare, metrics={"log_loss": Bound(max=1)}), tmp_path / "bound")
    said, _ = judged(with_gates(bare, scores="logits"), tmp_path / "said")
    whole, _ = judged(made, tmp_path / "whole")
    assert said.figures == whole.figures


BINARY, ONE_HOT, SPARSE = "BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"
DECIDED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "sparse": ("numbers", {"p_end": "softmax"}, "multiclass", "probabilities"),
    "sparse logits": ("numbers", {"p_logits": True}, "multiclass", "logits"),
    "sparse column": ("column", {"p_logits": True}, "multiclass", "logits"),
    "softmax whatever the loss says": (
        "numbers",
        {"p_end": "softmax", "p_logits": True},
        "multiclass",
        "probabilities",
    ),
    "log-softmax": ("numbers", {"p_end": "log_softmax", "p_logits": True}, "multiclass", "logits"),
    "half precision": ("numbers", {"p_end": "softmax", "p_dtype": "float16"}, "multiclass", "probabilities"),
    "one-hot": ("one-hot", {"p_loss": ONE_HOT, "p_end": "softmax"}, "multiclass", "probabilities"),
    "one-hot logits": ("one-hot", {"p_loss": ONE_HOT, "p_logits": True}, "multiclass", "logits"),
    "one-hot divergence": ("one-hot", {"p_loss": "KLDivergence", "p_end": "softmax"}, "multiclass", "probabilities"),
    "one-hot by squares": (
        "one-hot",
        {"p_loss": "MeanSquaredError", "p_end": "softmax"},
        "multiclass",
        "probabilities",
    ),
    "one-hot by values": ("one-hot", {"p_loss": "MeanSquaredError"}, "regression", "values"),
    "one-hot margins": ("one-hot", {"p_loss": "CategoricalHinge"}, "multiclass", "margins"),
    "soft classes": ("soft", {"p_loss": ONE_HOT, "p_end": "softmax"}, "regression", "values"),
    "soft logits": ("soft", {"p_loss": ONE_HOT, "p_logits": True}, "", ""),
    "binary": ("binary", {"p_loss": BINARY, "p_units": 1, "p_end": "sigmoid"}, "binary", "probabilities"),
    "binary logits": ("binary", {"p_loss": BINARY, "p_units": 1, "p_logits": True}, "binary", "logits"),
    "binary focal": (
        "binary",
        {"p_loss": "BinaryFocalCrossentropy", "p_units": 1, "p_logits": True},
        "binary",
        "logits",
    ),
    "two classes": ("binary", {"p_units": 2, "p_logits": True}, "binary", "logits"),
    "hinge": ("signs", {"p_loss": "Hinge", "p_units": 1}, "binary", "margins"),
    "sigmoid by squares": (
        "binary",
        {"p_loss": "MeanSquaredError", "p_units": 1, "p_end": "sigmoid"},
        "binary",
        "probabilities",
    ),
    "labels": ("labels", {"p_loss": BINARY, "p_units": 2, "p_end": "sigmoid"}, "multilabel", "probabilities"),
    "labels logits": ("labels", {"p_loss": BINARY, "p_units": 2, "p_logits": True}, "multilabel", "logits"),
    "values": ("alcohol", {"p_loss": "Huber", "p_units": 1}, "regression", "values"),
    "counts": ("numbers", {"p_loss": "Poisson", "p_units": 1, "p_end": "exponential"}, "regression", "values"),
    "tokens": ("tokens", {"build": "tagger"}, "", ""),
    "task said": (
        "one-hot",
        {"p_loss": ONE_HOT, "p_end": "softmax", "gates__task": "regression"},
        "regression",
        "values",
    ),
    "scores said": ("numbers", {"p_loss": "own", "gates__scores": "logits"}, "multiclass", "logits"),
    "scores said of values": (
        "signs",
        {"p_loss": "MeanSquaredError", "p_units": 1, "gates__scores": "logits"},
        "binary",
        "logits",
    ),
    "a metric of one's own": (
        "numbers",
        {"p_loss": "own", "gates__metrics": f"{{'{USER}:spread': 0}}"},
        "multiclass",
        "probabilities",
    ),
}


def decided(config: Config, directory: Path) -> Any:
    """Return how the only output is read, decided as before a training."""
    from tasks.training.fit import build_model
    from tasks.training.readings import decide_readings

    splits = prepare_splits(config.data, directory)
    rows = load_rows(splits.train)
    [reading] = decide_readings(build_model(config, rows), config, rows, splits).values()
    return reading


@pytest.mark.parametrize(("targets", "settings", "task", "scores"), DECIDED.values(), ids=DECIDED)
def test_what_is_decided(
    configured: Callable[..., Config], tmp_path: Path, targets: str, settings: dict[str, Any], task: str, scores: str
) -> None:
    """The task and the scores follow from the loss, the targets and the output, and from what `gates` say."""
    reading = decided(configured(targets, **settings), tmp_path)
    assert (reading.task, reading.scores) == (task, scores), reading.reason


REFUSED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "unknown loss on scores": (
        "numbers",
        {"p_loss": "own"},
        ["must be probabilities", "row 0", "gates.scores: logits"],
    ),
    "probabilities of a linear layer": (
        "binary",
        {"p_loss": BINARY, "p_units": 1},
        ["must be probabilities (BinaryCrossentropy,", "end the model in a sigmoid"],
    ),
    "classes that do not add up": (
        "numbers",
        {"p_end": "sigmoid"},
        ["row 0, which adds up to", "instead of 1", "end the model in a softmax"],
    ),
    "logits said of a softmax": (
        "numbers",
        {"p_end": "softmax", "gates__scores": "logits"},
        ["gates.scores is logits", "ends in a softmax"],
    ),
    "probabilities said of logits": (
        "numbers",
        {"p_logits": True, "gates__scores": "probabilities"},
        ["must be probabilities (gates.scores)"],
    ),
    "scores of a regression": (
        "alcohol",
        {"p_loss": "Huber", "p_units": 1, "gates__scores": "logits"},
        ["gates.scores applies to scores of classes"],
    ),
    "labels said of classes": (
        "numbers",
        {"p_logits": True, "gates__task": "multilabel"},
        ["gates.task is multilabel", "targets of shape (n,)"],
    ),
    "regression said of classes": (
        "numbers",
        {"p_logits": True, "gates__task": "regression"},
        ["gates.task is regression", "not have the same number"],
    ),
    "classes said of values": (
        "alcohol",
        {"p_loss": "Huber", "p_units": 1, "gates__task": "binary"},
        ["gates.task is binary", "are not 0 and 1"],
    ),
    "accuracy of values": (
        "alcohol",
        {"p_loss": "Huber", "p_units": 1, "gates__metrics": "{accuracy: 0.5}"},
        ["metric 'accuracy'", "a regression (Huber,", "gates.task"],
    ),
    "rmse of classes": (
        "numbers",
        {"p_logits": True, "gates__metrics": "{rmse: {max: 1}}"},
        ["metric 'rmse'", "(n, 3)", "different shapes"],
    ),
    "log_loss of margins": (
        "signs",
        {"p_loss": "Hinge", "p_units": 1, "gates__metrics": "{log_loss: {max: 1}}"},
        ["metric 'log_loss'", "margins (Hinge,", "probabilities or logits"],
    ),
    "accuracy of tokens": (
        "tokens",
        {"build": "tagger", "gates__metrics": "{accuracy: 0.5}"},
        ["(n, 2, 3)", "tokens", "module:function"],
    ),
    "auc of a class without a test row": (
        "two of three",
        {"p_logits": True, "gates__metrics": "{auc: 0.5}"},
        ["metric 'auc' needs test rows", "all rows have the same value for 2"],
    ),
    "accuracy of soft logits": (
        "soft",
        {"p_loss": ONE_HOT, "p_logits": True, "gates__metrics": "{accuracy: 0.5}"},
        ["not one-hot"],
    ),
}


@pytest.mark.parametrize(("targets", "settings", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_before_training(
    configured: Callable[..., Config], tmp_path: Path, targets: str, settings: dict[str, Any], words: list[str]
) -> None:
    """What is said of the scores, the task or a metric, and what is there, contradict each other: one line says so."""
    with pytest.raises(DataError) as caught:
        decided(configured(targets, **settings), tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`:UserWarning")  # which loses go by
def test_no_epoch_is_trained_before_the_refusal(
    configured: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage that trains refuses first: no epoch is logged, and nothing is saved."""
    from tasks.training.fit import fit_model

    caplog.set_level("INFO", "tasks")
    config = configured("numbers", p_loss="own")
    splits = prepare_splits(config.data, tmp_path)
    with pytest.raises(DataError, match="must be probabilities"):
        fit_model(config, splits, tmp_path / "model.keras")
    assert not [record for record in caplog.records if "epoch" in record.getMessage()]
    assert not (tmp_path / "model.keras").exists()
