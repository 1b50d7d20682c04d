"""Rehearsals in MLflow on SQLite: everything a reviewer needs, and the very bytes that were judged."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from tasks.datasets.rows import load_arrays
from tasks.datasets.seen import RECORD, shared_rows
from tasks.datasets.strings import is_text
from tasks.errors import ManifestMismatch, TrackingError
from tasks.gates.judge import judge
from tasks.outcomes import Promotion, PromotionState
from tasks.proof.directory import STATEMENT, proof_dir
from tasks.proof.envelope import canonical, sign
from tasks.proof.statement import PAYLOAD_TYPE
from tasks.records import Arm, Backend, Champion, Change, Signature, TensorSpec, TrackedRun, ValidationReport
from tasks.registry.approvals import close, reviewed_versions, set_review
from tasks.registry.champion_run import champions_facts, facts_of
from tasks.registry.changes import record_change, record_outcome
from tasks.registry.commit import git_commit
from tasks.registry.connection import check_tracking
from tasks.registry.packaging import build_package, mlflow_signature
from tasks.registry.recipes import fetch_files, fetch_recorded, recorded
from tasks.registry.runs import log_rehearsal
from tasks.report.artifacts import describe_version
from tasks.review import decided_here, review
from tasks.savedmodel.manifest import hash_files, verify_manifest
from tasks.savedmodel.safety import read_graph
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse

pytestmark = [
    # TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    # MLflow 3.17 warns with pandas 3 of its search for pictures in a table.
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included:DeprecationWarning"),
]


@dataclasses.dataclass(frozen=True)
class Logged:
    """A rehearsal and where MLflow keeps it."""

    made: Any
    report: ValidationReport
    run: TrackedRun
    client: Any

    @property
    def stored(self) -> Any:
        return self.client.get_run(self.run.mlflow_run_id)

    @property
    def version(self) -> Any:
        return self.client.get_model_version(self.run.registry_name, str(self.run.registry_version))

    def artifact(self, name: str) -> Path:
        return Path(self.client.download_artifacts(self.run.mlflow_run_id, name))


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> str:
    """Return one database for all rehearsals of this module."""
    return f"sqlite:///{shutil.copy(mlflow_database, tmp_path_factory.mktemp('mlflow') / 'mlflow.db')}"


@pytest.fixture(scope="module")
def logged(
    rehearsed: Callable[[str], Any], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Logged]:
    """Return a function that judges and logs one of the trained models, once."""
    from mlflow import MlflowClient

    @cache
    def logging(name: str, bound: float = 0.0) -> Logged:
        made = rehearsed(name)
        gates = made.config.gates.model_copy(update={"metrics": {} if name == "one_number" else _bounds(bound)})
        config = made.config.model_copy(
            update={"tracking": made.config.tracking.model_copy(update={"uri": tracking_uri}), "gates": gates}
        )
        served = rehearse(
            Rehearsal(config.serving, made.candidate, Backend("embedded"), tmp_path_factory.mktemp("run"))
        )
        report = ValidationReport(
            made.candidate, read_graph(made.candidate.version_dir), served, judge(gates, made.candidate, served),
            shared_rows=shared_rows(made.candidate.version_dir / RECORD),
        )  # fmt: skip
        run = log_rehearsal(config, "--config cfg.yaml", made.splits, made.trained, report)
        return Logged(made.with_(config=config), report, run, MlflowClient(tracking_uri, tracking_uri))

    return logging


def _bounds(minimum: float) -> dict[str, Any]:
    from configs.sections.gates import Bound

    return {"accuracy": Bound(min=minimum)}


def test_parameters_and_curves(logged: Callable[[str], Logged]) -> None:
    """Every setting is a parameter by its dotted name, every epoch a metric at its step."""
    found = logged("digits")
    data = found.stored.data
    assert data.params["training.epochs"] == "4"
    assert data.params["data.load"] == "configs.digits:load"
    assert data.params["best_epoch"] == str(found.made.trained.best_epoch)
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        history = found.client.get_metric_history(found.run.mlflow_run_id, name)
        assert [m.step for m in history] == [1, 2, 3, 4]
        assert [m.value for m in history] == pytest.approx(found.made.trained.history[name])


def test_every_figure_of_every_gate(logged: Callable[[str], Logged]) -> None:
    """Every gate's verdict and figures are metrics under stable names."""
    found = logged("digits")
    metrics = found.stored.data.metrics
    for gate in found.report.gates:
        assert metrics[f"gate.{gate.name}.passed"] == 1
        for name, value in gate.figures.items():
            assert metrics[f"gate.{gate.name}.{name}"] == pytest.approx(value)
    assert {"gate.contract.passed", "gate.parity.max_abs_difference", "gate.quality.accuracy"} <= set(metrics)


def test_datasets(logged: Callable[[str], Logged]) -> None:
    """Training and test rows are dataset inputs with their loader, shapes and the digest of the split."""
    found = logged("digits")
    inputs = found.stored.inputs.dataset_inputs
    contexts = {item.tags[0].value: item.dataset for item in inputs}
    assert set(contexts) == {"training", "testing"}
    for dataset in contexts.values():
        assert found.made.splits.digest.startswith(dataset.digest)
        assert dataset.name.startswith("configs.digits:load")
        assert json.loads(dataset.schema)["mlflow_tensorspec"]["features"]
    assert json.loads(contexts["training"].profile)["features_shape"]["features"] == [
        found.made.splits.rows["train"],
        64,
    ]


def test_how_rows_are_split(logged: Callable[[str], Logged]) -> None:
    """Rows of each split and those that several share are metrics; label shares are in splits.json."""
    found = logged("digits")
    metrics, splits = found.stored.data.metrics, found.made.splits
    assert [metrics[f"data.{name}_rows"] for name in splits.rows] == list(splits.rows.values())
    assert metrics["data.shared_rows"] == found.report.shared_rows == 0
    assert "data.new_rows" not in metrics  # no champion was live
    document = json.loads(found.artifact("splits.json").read_text())
    assert document["rows"] == splits.rows
    assert len(document["label_shares"]["target"]) == 10
    for split in splits.rows:
        assert sum(shares[split] for shares in document["label_shares"]["target"].values()) == pytest.approx(1)
    assert found.artifact(f"model/saved_model/{RECORD}").is_file()


def test_commands_and_gates_stay_on_the_page(logged: Callable[[str], Logged]) -> None:
    """Whatever becomes of a version, its page keeps a line a gate, and the command that tries it."""
    found = logged("digits")
    text = describe_version("--config cfg.yaml", found.report)
    assert found.version.description.endswith(text.strip())
    assert found.stored.data.tags["mlflow.note.content"] == found.version.description
    assert "flows.try_out --config cfg.yaml --version 1`" in text
    for gate in found.report.gates:
        assert f"| {gate.name} | pass |" in text


def test_differences_from_the_champions_run(logged: Callable[[str], Logged], rehearsed: Callable[[str], Any]) -> None:
    """What a run was made of can be read from MLflow; the run of bytes that MLflow does not know is none."""
    found = logged("digits")
    facts = facts_of(found.stored)
    assert facts["training.epochs"] == "4"
    assert facts["weights"] == f"{found.made.trained.parameters:,}"
    assert facts["rows to train on"] == f"{found.made.splits.rows['train']:,}"
    assert found.made.splits.digest.startswith(facts["data digest"])
    graph = read_graph(found.made.candidate.version_dir)
    champion = Champion(1, found.made.candidate.version_dir, found.made.candidate.digest, graph)
    assert champions_facts(found.client, "digits", champion) == facts
    assert champions_facts(found.client, "digits", dataclasses.replace(champion, digest="0" * 64)) is None


def test_artifacts(logged: Callable[[str], Logged]) -> None:
    """The run keeps configuration, report, server log, two pictures, a table of predictions and the model."""
    found = logged("digits")
    names = {item.path for item in found.client.list_artifacts(found.run.mlflow_run_id)}
    expected = {
        "config.json",
        "recipe.json",
        "report.json",
        "server.log",
        "curves.png",
        "parity.png",
        "predictions.json",
        "model",
    }
    assert names >= expected
    assert json.loads(found.artifact("config.json").read_text())["name"] == "digits"
    report = json.loads(found.artifact("report.json").read_text())
    assert report["passed"] is True
    assert [gate["name"] for gate in report["gates"]] == [gate.name for gate in found.report.gates]
    assert found.artifact("server.log").read_bytes() == found.report.served.server.log.read_bytes()
    for picture in ("curves.png", "parity.png"):
        content = found.artifact(picture).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) > 5000


def test_what_a_version_was_made_of(logged: Callable[[str], Logged], tmp_path: Path) -> None:
    """By its digest MLflow gives back what a version was trained with, and files with exactly its bytes."""
    found = logged("digits")
    config, candidate = found.made.config.model_copy(update={"name": "digits"}), found.report.candidate
    kept = fetch_recorded(config, candidate.digest, tmp_path / "recipe")
    assert kept == recorded(found.made.splits, found.made.trained, candidate)
    assert kept is not None
    assert kept.recipe.config["training"]["epochs"] == 4
    assert kept.recipe.packages["keras"]
    assert "configs.digits" in kept.recipe.code
    assert {path for path, _, _ in kept.files} >= {"saved_model.pb", "fingerprint.pb"}
    files = fetch_files(config, candidate.digest, tmp_path / "files")
    assert files is not None
    assert hash_files(files).digest == candidate.digest
    assert fetch_recorded(config, "0" * 64, tmp_path / "none") is None


def test_the_served_version_of_a_digest(log_as: Callable[[str, int], Logged]) -> None:
    """Of two versions with the same bytes, a rollback and the champion's alias name the one that served."""
    served, again = log_as("digits", 4), log_as("digits", 5)
    config = served.made.config
    record_change(config, publish(served, registry_version=1))
    record_outcome(config, again.run, Promotion(PromotionState.UNCHANGED, None, "it has the bytes of version 4"))
    assert told(again).startswith("digits version 5 (registry version 2) has the bytes that were live already on ")
    record_change(config, publish(served, version=7, previous=6, rolls_back=6))  # by the digest alone
    assert told(served) == "digits version 7 (registry version 1) went live on 2026-11-26 02:13 UTC."
    assert again.version.tags["promotion"] == "unchanged"
    assert served.client.get_model_version_by_alias("digits", "champion").version == 1


def test_table_of_predictions(logged: Callable[[str], Logged]) -> None:
    """The table holds the first test rows with inputs, targets, served and in-process answers side by side."""
    found = logged("penguins")
    table = json.loads(found.artifact("predictions.json").read_text())
    rows = min(found.made.config.tracking.sample_rows, found.report.served.rows)
    assert len(table["data"]) == rows
    columns = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
    requests = load_arrays(found.made.candidate.requests)
    assert list(columns["input.island"]) == requests["island"][:rows].tolist()
    for column, arrays in (("served", found.report.served.answers), ("in_process", found.made.candidate.reference)):
        np.testing.assert_allclose(columns[f"{column}.species"], load_arrays(arrays)["species"][:rows])
    assert list(columns["target.target"]) == load_arrays(found.made.candidate.targets)["y/target"][:rows].tolist()


@pytest.mark.parametrize("name", ["digits", "penguins"])
def test_the_registered_bytes_are_the_judged_bytes(logged: Callable[[str], Logged], name: str) -> None:
    """The SavedModel that the model version points to has the candidate's digest, file by file."""
    found = logged(name)
    assert found.version.run_id == found.run.mlflow_run_id
    source = found.version.source
    assert source == f"{found.stored.info.artifact_uri}/model"
    directory = found.artifact("model")
    assert (directory / "MLmodel").is_file()
    verified = verify_manifest(directory / "saved_model", found.made.candidate.digest)
    assert verified.digest == found.version.tags["digest"]


def test_tags_and_alias(logged: Callable[[str], Logged], rehearsed: Callable[[str], Any]) -> None:
    """Run and version carry digest, serving version, backend and commit; the version is challenger, not champion."""
    found = logged("digits")
    for tags in (found.stored.data.tags, found.version.tags):
        assert tags["digest"] == rehearsed("digits").candidate.digest
        assert tags["serving_version"] == "1"
        assert tags["backend"] == "embedded"
        assert (tags["task"], tags["scores"]) == ("multiclass", "probabilities")
        assert tags["validation_status"] == "passed"
        assert tags.get("git_commit", "") == git_commit()
        assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", tags.get("git_commit", ""))
    aliases = found.client.get_registered_model("digits").aliases
    assert {name: int(version) for name, version in aliases.items()} == {"challenger": found.run.registry_version}
    assert found.stored.info.status == "FINISHED"


def test_champion_only_after_promotion(logged: Callable[[str], Logged], tmp_path: Path) -> None:
    """A rejection is tagged and moves no alias; a promotion makes its version the champion."""
    found = logged("penguins")
    record_outcome(found.made.config, found.run, Promotion(PromotionState.REJECTED, None, "quality: missed"))
    assert "champion" not in found.client.get_registered_model("penguins").aliases
    assert found.version.tags["promotion"] == found.stored.data.tags["promotion"] == "rejected"
    digest = found.made.candidate.digest
    keep_statement(found)
    record_change(found.made.config, Change("publish", 1, "1", digest, str(tmp_path), run=found.run.mlflow_run_id))
    champion = found.client.get_model_version_by_alias("penguins", "champion")
    assert int(champion.version) == found.run.registry_version
    assert found.version.tags["promotion"] == found.stored.data.tags["promotion"] == "promoted"
    assert ", unsigned; check it with `" in found.version.description


def keep_statement(found: Logged) -> None:
    """Put an unsigned statement where a promotion writes it."""
    proof = proof_dir(found.made.config.live_dir, found.made.candidate.digest)
    proof.mkdir(parents=True)
    (proof / STATEMENT).write_bytes(sign(canonical({}), PAYLOAD_TYPE, None))


@pytest.fixture
def log_as(logged: Callable[[str], Logged], tmp_path: Path, mlflow_database: Path) -> Callable[[str, int], Logged]:
    """Return a function that logs one of the models as a version of `digits` in a database of its own."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{shutil.copy(mlflow_database, tmp_path / 'mlflow.db')}"

    def logging(name: str, number: int) -> Logged:
        known = logged(name)
        config = known.made.config.model_copy(
            update={"name": "digits", "tracking": known.made.config.tracking.model_copy(update={"uri": uri})}
        )
        candidate = dataclasses.replace(known.report.candidate, name="digits", version=number)
        report = dataclasses.replace(known.report, candidate=candidate)
        run = log_rehearsal(config, "--config cfg.yaml", known.made.splits, known.made.trained, report)
        return Logged(known.made.with_(config=config, candidate=candidate), report, run, MlflowClient(uri, uri))

    return logging


def told(found: Logged) -> str:
    """Return the first line of a version's page, after comparing it with those of its run and of its report."""
    page = found.version.description
    assert found.stored.data.tags["mlflow.note.content"] == page
    assert found.stored.data.tags.get("promotion") == found.version.tags.get("promotion")
    first = page.splitlines()[0].strip("*").replace("\\", "")
    assert f'<p class="standing">{first}</p>' in found.artifact("report.html").read_text()
    assert "| quality |" in page
    return str(first)


def publish(found: Logged, **details: Any) -> Change:
    """Return the change that brings a logged version into production."""
    candidate = found.made.candidate
    what = {"version": candidate.version, "time": "2026-11-26T02:13:45+00:00", **details}
    return Change("publish", directory="", digest=candidate.digest, source="", **what)


@pytest.mark.long
def test_pages_over_a_rollback_a_rejection_and_a_withdrawal(log_as: Callable[[str, int], Logged]) -> None:
    """Each page begins with both numbers and what became of the version; a decision is asked for until it is made."""
    one = log_as("digits", 4)
    config = one.made.config
    assert one.version.description.startswith("**digits version 4 (registry version 1) passed every gate on 2")
    keep_statement(one)
    record_change(config, publish(one))
    assert told(one) == "digits version 4 (registry version 1) went live on 2026-11-26 02:13 UTC."

    arm, time = Arm("b", 4, one.made.candidate.digest, 50), "2026-11-26T03:00:00+00:00"
    started = Change("experiment", 4, "4", arm.digest, experiment="trial", arms=(arm,), time=time)
    record_change(config, started)
    assert told(one) == "digits version 4 (registry version 1) went live on 2026-11-26 02:13 UTC."
    assert f"Experiment: trial, label b, 50 %, since {time}" in one.version.description
    assert f"trial, label b, 50 %, since {time}" in one.artifact("report.html").read_text()
    record_change(config, dataclasses.replace(started, operation="end", reason="stopped"))
    assert f"Experiment: trial, label b, 50 %, until {time}: stopped" in one.version.description

    two = log_as("penguins", 5)
    record_outcome(config, two.run, Promotion(PromotionState.AWAITING_REVIEW, None, "a person decides"))
    assert told(two) == "digits version 5 (registry version 2) passed every gate and waits for your decision."
    assert two.version.tags["review"] == "pending"
    assert "arguments" not in two.version.tags  # too long for the table in which the reviewer looks for `review`
    assert [found.is_decided for found in reviewed_versions(config)] == [False, False]
    figures = "http://h:8501 in 4.2 s: 8 requests, no errors"
    record_change(config, publish(two, actor="ann", reason="approved by ann", previous=4, metrics=figures))
    assert told(two) == "digits version 5 (registry version 2) went live on 2026-11-26 02:13 UTC."
    assert f"Decided by: ann \N{MIDDLE DOT} Production's metrics: {figures}" in two.version.description
    assert two.version.tags["production_metrics"] == figures
    assert "--approve" not in two.version.description

    back = {"version": 6, "previous": 5, "previous_digest": two.made.candidate.digest, "rolls_back": 5}
    record_change(config, publish(one, **back, actor="carl", reason="rollback from version 5"))
    assert told(one) == "digits version 6 (registry version 1) went live on 2026-11-26 02:13 UTC."
    assert told(two) == "digits version 5 (registry version 2) was rolled back on 2026-11-26 02:13 UTC."
    assert "Decided by: carl" in two.version.description
    # the metrics were those of its promotion, and the statement is about the bytes of the other version
    assert not {"production_metrics", "proof"} & two.version.tags.keys()

    three = log_as("one_number", 7)
    change = dataclasses.replace(publish(three, reason="it answers NaN"), operation="withdraw", previous=6)
    record_change(config, dataclasses.replace(change, previous_digest=one.made.candidate.digest))
    assert told(three) == "digits version 7 (registry version 3) was rolled back on 2026-11-26 02:13 UTC."
    assert "Reason: it answers NaN" in three.version.description
    assert one.client.get_model_version_by_alias("digits", "champion").version == 1

    record_change(config, publish(three), overtaken=True)  # it waited while another machine went on
    assert told(three) == "digits version 7 (registry version 3) went live on 2026-11-26 02:13 UTC."
    assert one.client.get_model_version_by_alias("digits", "champion").version == 1

    four = log_as("digits", 8)
    record_outcome(config, four.run, Promotion(PromotionState.AWAITING_REVIEW, None, "a person decides"))
    four.client.set_model_version_tag("digits", "4", "review", " Rejected ")
    four.client.set_model_version_tag("digits", "4", "reviewed_by", "dora\n\x1b[1m")
    [decided] = [found for found in reviewed_versions(config) if found.is_decided]
    close(config, decided, "rejected", f"rejected by {decided.by}")
    assert told(four).startswith("digits version 8 (registry version 4) was rejected by dora on ")
    assert "--approve" not in four.version.description


def test_a_page_without_its_report_is_written_all_the_same(
    log_as: Callable[[str, int], Logged], caplog: pytest.LogCaptureFixture
) -> None:
    """A report that was removed, and a page from an older release, do not keep MLflow from being told."""
    found = log_as("digits", 1)
    Path(found.stored.info.artifact_uri.removeprefix("file://"), "report.html").unlink()
    old = "digits version 1 passed every gate.\n\n| gate |\n\n- approve it: `promote --approve`"
    found.client.update_model_version("digits", "1", old)
    record_outcome(found.made.config, found.run, Promotion(PromotionState.AWAITING_REVIEW, None, "a person decides"))
    [waiting] = reviewed_versions(found.made.config)
    set_review(found.made.config, waiting, "approved", "ann")
    assert found.version.description.startswith("**digits version 1 was approved by ann, but the decision")
    record_change(found.made.config, publish(found))
    assert found.version.description.startswith("**digits version 1 went live on 2026-11-26 02:13 UTC.**")
    assert found.version.description.endswith("digits version 1 passed every gate.\n\n| gate |")
    assert "could not be updated" in caplog.text


@pytest.mark.parametrize("name", ["digits", "penguins", "one_number"])
def test_pyfunc_predicts_the_in_process_numbers(
    logged: Callable[[str], Logged], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlflow.pyfunc.load_model("models:/...")` gives the in-process numbers for the test rows and its own example."""
    import mlflow

    found = logged(name)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(found.made.config.tracking.uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{name}/{found.run.registry_version}")
    finally:
        mlflow.set_tracking_uri(before[0])
    requests, reference = load_arrays(found.made.candidate.requests), load_arrays(found.made.candidate.reference)
    # MLflow knows no text but that of fixed width
    answers = loaded.predict({key: np.array(v.tolist()) if is_text(v) else v for key, v in requests.items()})
    [output] = reference
    np.testing.assert_allclose(_array(answers[output], reference[output]), reference[output], rtol=1e-6, atol=1e-7)
    example = loaded.input_example
    assert example is not None
    first = reference[output][:3]
    np.testing.assert_allclose(_array(loaded.predict(example)[output], first), first, rtol=1e-5, atol=1e-6)


def _array(column: Any, like: Any) -> Any:
    """Return one output of what MLflow answers, a table whose cells are rows, or numbers where a row has one."""
    return np.stack([np.asarray(row) for row in column]).reshape(like.shape)


def test_a_rejected_rehearsal_is_logged_too(logged: Callable[..., Logged]) -> None:
    """A rehearsal that missed a bound is a run and a version tagged with the gate that rejected it."""
    found = logged("noisy", 1.1)
    for tags in (found.stored.data.tags, found.version.tags):
        assert (tags["validation_status"], tags["failed_gates"]) == ("rejected", "quality")
    assert found.stored.data.metrics["gate.quality.passed"] == 0


def test_a_deleted_experiment(logged: Callable[[str], Logged], tmp_path: Path) -> None:
    """A deleted experiment is one line that names it and how to get it back."""
    found = logged("digits")
    gone = found.client.create_experiment("gone")
    found.client.delete_experiment(gone)
    config = found.made.config
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"experiment": "gone"})})
    with pytest.raises(TrackingError, match="experiment 'gone' must be active.*mlflow experiments restore") as caught:
        log_rehearsal(config, "", found.made.splits, found.made.trained, found.report)
    assert "\n" not in str(caught.value)


def test_nothing_to_log_to(tmp_path: Path, held_port: int) -> None:
    """A server that does not answer and a file where a directory must be are one line each, before anything runs."""
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for uri, words in (
        (f"http://127.0.0.1:{held_port}", "does not answer"),
        (f"sqlite:///{tmp_path}/file/mlflow.db", "writable directory"),
        (f"sqlite:///{tmp_path}/absent/mlflow.db", "writable directory"),
        (f"sqlite:///{tmp_path}/directory", "a file that can be read and written"),
    ):
        with pytest.raises(TrackingError, match=words) as caught:
            check_tracking(uri)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_a_database_of_another_kind(logged: Callable[[str], Logged], tmp_path: Path) -> None:
    """A file that is no database is a TrackingError in one line when the run is logged."""
    (tmp_path / "mlflow.db").write_text("this is a diary")
    found = logged("digits")
    tracking = found.made.config.tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/mlflow.db"})
    with pytest.raises(TrackingError, match="MLflow at sqlite:///.* must answer") as caught:
        log_rehearsal(
            found.made.config.model_copy(update={"tracking": tracking}),
            "",
            found.made.splits,
            found.made.trained,
            found.report,
        )
    assert "\n" not in str(caught.value)
    assert (tmp_path / "mlflow.db").read_text() == "this is a diary"


def test_changed_bytes_are_never_registered(rehearsed: Callable[[str], Any], tmp_path: Path) -> None:
    """A candidate whose bytes changed since the export is refused before anything carries its digest."""
    candidate = rehearsed("digits").candidate
    changed = tmp_path / "1"
    shutil.copytree(candidate.version_dir, changed)
    (changed / "saved_model.pb").write_bytes((changed / "saved_model.pb").read_bytes() + b"\0")
    (tmp_path / "package").mkdir()
    with pytest.raises(ManifestMismatch, match=r"changed: saved_model\.pb"):
        build_package(dataclasses.replace(candidate, version_dir=changed), tmp_path / "package")
    assert not (tmp_path / "package" / "MLmodel").exists()


def test_a_signature_of_half_precision() -> None:
    """Types that NumPy lacks or REST does not carry have a form in MLflow that it reads back."""
    from mlflow.models import ModelSignature

    inputs, outputs = ("float16", "uint16", "string"), ("bfloat16", "float16", "float32")
    specs = [tuple(TensorSpec(f"{name}", name, (None, 3)) for name in names) for names in (inputs, outputs)]
    written = mlflow_signature(Signature(*specs)).to_dict()
    assert ModelSignature.from_dict(written).to_dict() == written
    assert [item["tensor-spec"]["dtype"] for item in json.loads(written["outputs"])] == [
        "float32", "float16", "float32",
    ]  # fmt: skip


def test_a_candidate_of_another_machine_is_left_to_it(log_as: Callable[[str, int], Logged], address: str) -> None:
    """With an object store, a machine without a candidate's files neither decides about it nor closes it."""
    found = log_as("digits", 4)
    here = found.made.config
    record_outcome(here, found.run, Promotion(PromotionState.AWAITING_REVIEW, None, "a person decides"))
    config = here.model_copy(update={"models_root": address, "work_dir": here.work_dir / "other"})
    with pytest.raises(ConfigError, match="candidate 4 of 'digits' was not judged with this work_dir"):
        review.fn(config, 4, "approved", "ann")
    assert found.version.tags["review"] == "pending"
    found.client.set_model_version_tag("digits", "1", "review", "approved")
    assert [one.is_decided for one in reviewed_versions(config)] == [True]
    assert decided_here(config, reviewed_versions(config)) == []
    assert len(decided_here(here, reviewed_versions(here))) == 1  # a directory is shared
