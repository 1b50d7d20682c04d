"""Log each rehearsal as one MLflow run: what was trained, what the server answered, what the gates decided."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.loading import shown
from configs.redaction import redact
from configs.schema import Config
from tasks.datasets.rows import load_rows
from tasks.records import Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.registry.champion_run import champions_facts, facts_of
from tasks.registry.commit import git_commit
from tasks.registry.connection import connect, experiment_id, tracking_errors, write
from tasks.registry.names import tracked_name
from tasks.registry.packaging import build_package
from tasks.registry.pages import REPORT, run_url, write_description
from tasks.registry.recipes import write_recipe
from tasks.report.artifacts import describe_version, library_versions, sample, write_files
from tasks.report.data import data_document
from tasks.report.differences import differences_table
from tasks.report.page import render_page
from tasks.report.sections import Table
from tasks.report.standing import ARGUMENTS, CHANGE, TIME, WAY_BACK, block, now, standing_of, why_a_person
from tasks.report.tables import clip
from tasks.savedmodel.resumed import resumed_words

MARK_S = 5.0  # for the mark of a run that was broken off


def log_rehearsal(
    config: Config, arguments: str, splits: Splits, trained: TrainedModel, report: ValidationReport
) -> TrackedRun:
    """Log a rehearsal as one run and register the exported directory as a model version, `challenger`.

    Args:
        arguments: `--config FILE` and overrides, for the commands that a reviewer is shown.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    candidate, tags = report.candidate, _tags(config, arguments, report)
    uri = config.tracking.uri
    with tracking_errors(uri):
        experiment = experiment_id(client, config)
        run = client.create_run(experiment, run_name=f"{candidate.name} version {candidate.version}", tags=tags)
        mlflow_run_id = run.info.run_id
        with closing_run(client, mlflow_run_id):
            _log_figures(client, mlflow_run_id, config, trained, report)
            _log_rows(client, mlflow_run_id, splits, report)
            _log_dataset(client, mlflow_run_id, splits)
            with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
                write_files(Path(scratch), config, trained, report)
                write_recipe(Path(scratch), splits, trained, report.candidate)
                build_package(report.candidate, Path(scratch) / "model")
                facts = {"git commit": tags.get("git_commit", ""), "MLflow run": mlflow_run_id, **library_versions()}
                decision = block(standing_of(candidate.name, tags, 0), "")
                differences = _differences(client, mlflow_run_id, report)
                page = redact(render_page(config, splits, trained, report, facts, decision, differences))
                (Path(scratch) / REPORT).write_text(page, encoding="utf-8")
                client.log_artifacts(mlflow_run_id, scratch)
            client.log_table(mlflow_run_id, sample(config, report), "predictions.json")
            number = _register(client, run, report, tags, describe_version(arguments, report))
    return TrackedRun(
        mlflow_run_id, experiment, candidate.name, number, run_url(config.tracking.pages, experiment, mlflow_run_id)
    )


def _differences(client: Any, mlflow_run_id: str, report: ValidationReport) -> Table | None:
    """Return how a run differs from the champion's run, or None where no champion was live."""
    champion = report.champion
    if champion is None:
        return None
    theirs = champions_facts(client, report.candidate.name, champion)
    return differences_table(facts_of(client.get_run(mlflow_run_id)), theirs, champion.version)


@contextlib.contextmanager
def closing_run(client: Any, mlflow_run_id: str, *, failed: bool = False) -> Iterator[None]:
    """End the run as finished, or as failed when logging it breaks off, or if what it is about has failed."""
    try:
        yield
    except BaseException:
        _mark_failed(client, mlflow_run_id)
        raise
    client.set_terminated(mlflow_run_id, "FAILED" if failed else "FINISHED")


def _mark_failed(client: Any, mlflow_run_id: str) -> None:
    """Mark a run as failed, where MLflow answers at once: a server that hangs must not hold up an error or a Ctrl-C."""

    def mark() -> None:
        with contextlib.suppress(Exception):  # the error that broke it off is the one to report
            client.set_terminated(mlflow_run_id, "FAILED")

    marking = threading.Thread(target=mark, daemon=True)  # ends with the process, whatever it waits for
    marking.start()
    marking.join(MARK_S)


def _tags(config: Config, arguments: str, report: ValidationReport) -> dict[str, str]:
    """Return the tags that a run and its model version share."""
    tags = {
        "digest": report.candidate.digest,
        "candidate": str(report.candidate.version),
        "serving_version": str(report.candidate.version),
        "judged_beside": str(report.champion.version) if report.champion else "",
        "judged_beside_digest": report.champion.digest if report.champion else "",
        "git_commit": git_commit(),
        "validation_status": "passed" if report.passed else "rejected",
        "training": resumed_words(report.candidate.version_dir),
        "failed_gates": ", ".join(gate.name for gate in report.failed),
        "needs_person": why_a_person(config, report),
        WAY_BACK: clip(report.way_back.summary, 600) if report.way_back else "",
        ARGUMENTS: arguments,
        TIME: now(),
    }
    tags[CHANGE] = next((gate.summary for gate in report.gates if gate.name == "change"), "")
    quality = next((gate.evidence for gate in report.gates if gate.name == "quality"), {})
    tags |= {name: str(quality.get(name, "")) for name in ("task", "scores")}
    if report.served is not None:
        server = report.served.server
        tags |= {
            "backend": server.backend,
            "backend_reason": server.reason,
            "image": server.image,
            "image_id": server.image_id,
            "server_args": " ".join(server.args),
            "server_url": server.url,
            "server_version": server.version,
        }
    return {name: redact(value) for name, value in tags.items() if value}


def _log_figures(
    client: Any, mlflow_run_id: str, config: Config, trained: TrainedModel, report: ValidationReport
) -> None:
    """Log parameters, one metric per name and epoch, and every gate's figures, in batches."""
    figures = {
        f"gate.{gate.name}.{name}": value
        for gate in report.gates
        for name, value in {**gate.figures, "passed": float(gate.passed)}.items()
    }
    figures["parameters"] = trained.parameters or report.graph.parameters
    if report.served is not None:
        figures["serving.startup_s"] = report.served.server.startup_s
        figures["serving.rows_per_s"] = report.served.rows_per_s
    log_metrics(client, mlflow_run_id, trained.history, figures)
    source = {"model.source": redact(trained.source)} if trained.source else {"best_epoch": trained.best_epoch}
    log_params(client, mlflow_run_id, shown(config) | source)


def log_metrics(
    client: Any, mlflow_run_id: str, history: Mapping[str, tuple[float, ...]], figures: Mapping[str, float]
) -> None:
    """Log one metric per name and epoch, and single figures."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(tracked_name(name), value, now, epoch)
        for name, values in history.items()
        for epoch, value in enumerate(values, 1)
    ]
    metrics += [Metric(tracked_name(name), value, now, 0) for name, value in figures.items()]
    for start in range(0, len(metrics), 1000):  # MLflow takes 1000 metrics a call
        client.log_batch(mlflow_run_id, metrics[start : start + 1000])


def log_params(client: Any, mlflow_run_id: str, values: Mapping[str, Any]) -> None:
    """Log settings by their dotted names."""
    from mlflow.entities import Param

    params = [Param(tracked_name(name), str(value)[:6000]) for name, value in _flat(values).items()]
    for start in range(0, len(params), 100):  # MLflow takes 100 parameters a call
        client.log_batch(mlflow_run_id, params=params[start : start + 100])


def _log_rows(client: Any, mlflow_run_id: str, splits: Splits, report: ValidationReport) -> None:
    """Log how the rows are split, and which of them the champion has seen; labels, whose names are free, as JSON."""
    found = data_document(splits, report)
    client.log_dict(mlflow_run_id, found, "splits.json")
    figures = {f"{name}_rows": count for name, count in splits.rows.items()} | found
    for name, value in figures.items():
        if isinstance(value, int):
            client.log_metric(mlflow_run_id, f"data.{name}", float(value))


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _log_dataset(client: Any, mlflow_run_id: str, splits: Splits) -> None:
    """Log the training and test rows as MLflow datasets: schema, size and digest, not the rows."""
    import mlflow.data
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import DatasetInput, InputTag

    inputs = []
    for context, path in (("training", splits.train), ("testing", splits.test)):
        rows = load_rows(path)
        if not len(rows):  # of a model that was trained elsewhere
            continue
        # MLflow's digest is at most 36 characters long
        dataset = mlflow.data.from_numpy(
            dict(rows.features),
            CodeDatasetSource({"loader": splits.source}),
            dict(rows.targets),
            f"{splits.source} {context}",
            splits.digest[:36],
        )
        inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", context)]))
    write(client.log_inputs, mlflow_run_id, inputs)  # rivals on the same rows name the same data


def _register(client: Any, run: Any, report: ValidationReport, tags: Mapping[str, str], body: str) -> int:
    """Create the model version whose source is the logged directory, and make it the challenger if it passed."""
    from mlflow.exceptions import MlflowException

    name = report.candidate.name
    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    of_version = {key: value for key, value in tags.items() if key != ARGUMENTS}  # too long for the table of tags
    created = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=of_version)
    write_description(client, created, run, body)
    if report.passed:
        write(client.set_registered_model_alias, name, "challenger", created.version)
    return int(created.version)
