"""Tries a model by hand: chooses the model and the server, and sends rows to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.loading import ConfigError
from configs.schema import Config
from configs.sections.serving import Serving
from tasks.datasets.answers import Table, with_answers
from tasks.datasets.blocks import unanswered_rows
from tasks.datasets.column_files import is_declared
from tasks.datasets.declared_rows import read_declared
from tasks.datasets.fitting import features_of, fit_to_inputs
from tasks.datasets.row_files import read_table
from tasks.datasets.rows import check_rows
from tasks.datasets.strings import Array
from tasks.errors import DataError, ExportError, ServingError, SignatureMismatch, UnsafeModel, named_as
from tasks.gates.safety import judge_safety
from tasks.objects.store import refresh
from tasks.records import Backend, Signature
from tasks.registry.fetched import GRAPH, KERAS, find_model
from tasks.savedmodel.safety import MB, read_graph
from tasks.savedmodel.signature import read_signature
from tasks.savedmodel.warmup import read_example
from tasks.serving.client import ModelClient
from tasks.serving.example import request_lines, row_of_zeros
from tasks.serving.launch import ThrowawayServer, choose_backends
from tasks.store.champion import champion_version
from tasks.store.layout import versions


@dataclass(frozen=True)
class Tried:
    """A version directory to try (`launch.Served`), and the signature to use."""

    name: str
    version: int
    version_dir: Path
    signature: Signature
    run_id: str = "try-out"


@dataclass(frozen=True)
class Asked:
    """Rows to send: all columns of their file, and the columns that the model takes."""

    columns: Mapping[str, Any]
    inputs: Mapping[str, Array]


def choose_model(config: Config, version: int | None, model: Path | None, signature: str, scratch: Path) -> Tried:
    """Return a candidate, a given SavedModel, or else the live version, if it is safe to serve.

    Args:
        model: a SavedModel directory; in `scratch` it gets a number, which a server needs.
        signature: empty means `serving_default`, or the only signature.

    Raises:
        ConfigError: there is no such version, SavedModel or signature. UnsafeModel: the safety gate refuses it.
        ExportError: the model cannot be read.
    """
    if model is not None:
        number, directory = 1, _given(model, scratch)
    else:
        number, directory = _candidate(config, version) if version else _live(config)
    safety = config.gates.safety
    with named_as(directory, model or directory):
        result = judge_safety(read_graph(directory, safety.max_graph_mb * MB), safety)
        if not result.passed:
            raise UnsafeModel(f"a model is served only if it is safe: {result.summary}")
        try:
            chosen = read_signature(directory, signature, safety.max_graph_mb * MB)
        except SignatureMismatch as exc:
            raise ConfigError(str(exc)) from exc
    return Tried(config.name, number, directory, chosen)


def _given(model: Path, scratch: Path) -> Path:
    try:
        found = find_model(model)
    except ExportError:
        found = model
    if not (found / GRAPH).is_file():
        why = f"; 'rehearse' takes a {KERAS} file" if found.suffix == KERAS else ""
        raise ConfigError(f"--model must be a SavedModel directory, got '{model}'{why}")
    (scratch / "1").symlink_to(found.resolve())
    return scratch / "1"


def _candidate(config: Config, version: int) -> tuple[int, Path]:
    model_dir = config.candidates_dir
    found = versions(model_dir)
    if version not in found:
        listed = f"they are {', '.join(map(str, found))}" if found else "there is none"
        raise ConfigError(
            f"--version must be a candidate in '{model_dir}', got {version}; {listed}. Without --version, the "
            "live version is served"
        )
    return version, found[version]


def _live(config: Config) -> tuple[int, Path]:
    refresh(config)
    model_dir = config.live_dir
    version = champion_version(model_dir, config.promote.layout)
    if version is None:
        raise ConfigError(
            f"there must be a live version in '{model_dir}', but there is none; choose a candidate with --version N, "
            "or a SavedModel with --model DIRECTORY"
        )
    return version, versions(model_dir)[version]


def first_server(serving: Serving) -> tuple[Serving, Backend]:
    """Return the first of the configured servers; its image is pulled if it is missing.

    Raises:
        ServingUnavailable: serving.backend is docker, and no engine answers or the image cannot be pulled.
    """
    first = serving.model_copy(update={"image": serving.all_images[0], "images": ()})
    return first, choose_backends(first)[0]


def read_rows(config: Config, model: Tried, file: Path) -> Asked:
    """Read the rows to send to a model; columns that it does not take are not checked.

    Raises:
        ConfigError: the rows cannot be read or do not fit the model's inputs, or REST cannot carry them.
    """
    specs = model.signature.inputs
    beyond = ", ".join(map(str, model.signature.beyond_rest))
    if beyond:
        raise ConfigError(f"--rows are sent over REST, which cannot carry {beyond}; send requests over gRPC yourself")
    try:
        if config.data.features and is_declared(file):
            (columns, _), _ = read_declared(config.data, [file], needs_target=False)
        else:
            columns = dict(read_table(file)[0].items())
        taken = features_of(columns, config.export.inputs, specs)
        rows = check_rows((taken, None), str(file), needs_target=False)
        return Asked(columns, fit_to_inputs(rows.features, specs))
    except DataError as exc:
        raise ConfigError(str(exc)) from exc


def ask(model: Tried, client: ModelClient, asked: Asked) -> Table:
    """Return the rows with the server's answers.

    Raises:
        PredictionError: the server refuses the rows. ServingError: it does not answer, or not for each row.
    """
    signature = model.signature
    answers = client.predict(model.version, asked.inputs, signature.outputs, signature.name)
    n_rows = len(next(iter(asked.inputs.values())))
    if problem := unanswered_rows(answers, n_rows):
        raise ServingError(problem)
    return with_answers(asked.columns, answers)


def invitation(server: ThrowawayServer, model: Tried, file: Path) -> tuple[list[str], str, list[str]]:
    """Return the address of the model, and a request to paste as a command and as Python: from its warm-up, else zeros.

    Args:
        file: the file for a request that is too long to paste.
    """
    url = f"{server.rest_url}/v1/models/{server.served_name}"
    lines = [f"'{model.name}' version {model.version} answers at {url}:predict, its signature is at {url}/metadata"]
    if model.signature.beyond_rest:
        return [*lines, f"REST cannot carry its inputs or outputs; gRPC answers at {server.grpc_target}"], "", []
    row = read_example(model.version_dir, model.signature) or row_of_zeros(model.signature)
    return lines, *request_lines(url, row, model.signature, file)
