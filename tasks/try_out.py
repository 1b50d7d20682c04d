"""One model to be tried by hand: which one, which server, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.loading import ConfigError
from configs.schema import Config, Serving
from tasks.datasets.answers import Table, with_answers
from tasks.datasets.fitting import features_of, fit_to_inputs
from tasks.datasets.row_files import read_table
from tasks.datasets.rows import check_rows
from tasks.datasets.strings import Array
from tasks.errors import DataError, ExportError, ServingError, UnsafeModel
from tasks.gates.safety import judge_safety
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
    """A version directory that is served by hand (`launch.Served`), and the signature that is asked."""

    name: str
    version: int
    version_dir: Path
    signature: Signature
    run_id: str = "try-out"


@dataclass(frozen=True)
class Asked:
    """Rows to ask about: all columns of their file as they were read, and what the model takes of them."""

    columns: Mapping[str, Any]
    inputs: Mapping[str, Array]


def choose_model(config: Config, version: int | None, model: Path | None, signature: str, scratch: Path) -> Tried:
    """Return a candidate, a given SavedModel, or without either the live version; one that is safe to be served.

    Args:
        model: a SavedModel of any name; in `scratch` it gets a number, as a server asks for one.
        signature: empty for `serving_default`, or the only one.

    Raises:
        ConfigError: there is no such version or SavedModel. UnsafeModel: the safety gate refuses it.
        SignatureMismatch: it has no such signature. ExportError: it cannot be read.
    """
    if model is not None:
        number, directory = 1, _given(model, scratch)
    else:
        number, directory = _candidate(config, version) if version else _live(config)
    safety = config.gates.safety
    result = judge_safety(read_graph(directory, safety.max_graph_mb * MB), safety)
    if not result.passed:  # a server would do what it was made for
        raise UnsafeModel(f"a model is served only if it is safe: {result.summary}")
    return Tried(config.name, number, directory, read_signature(directory, signature, safety.max_graph_mb * MB))


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
        raise ConfigError(
            f"--version must be a candidate in '{model_dir}', got {version}; there are {list(found)}, and without "
            "--version the live version is served"
        )
    return version, found[version]


def _live(config: Config) -> tuple[int, Path]:
    model_dir = config.live_dir
    version = champion_version(model_dir, config.promote.layout)
    if version is None:
        raise ConfigError(
            f"there must be a live version in '{model_dir}', and there is none; name a candidate by --version N, or a "
            "SavedModel by --model DIRECTORY"
        )
    return version, versions(model_dir)[version]


def first_server(serving: Serving) -> tuple[Serving, Backend]:
    """Return the first of the configured servers; its image is pulled if it is not there.

    Raises:
        ServingUnavailable: docker was asked for, and no engine answers or the image cannot be pulled.
    """
    first = serving.model_copy(update={"image": serving.all_images[0], "images": ()})
    return first, choose_backends(first)[0]


def read_rows(config: Config, model: Tried, file: Path) -> Asked:
    """Read the rows that a model is asked about; a column that it does not take may hold anything.

    Raises:
        ConfigError: they cannot be read or do not fit the model's inputs, or REST cannot carry them.
    """
    specs = model.signature.inputs
    beyond = ", ".join(map(str, model.signature.beyond_rest))
    if beyond:
        raise ConfigError(f"--rows are sent over REST, which cannot carry {beyond}; ask over gRPC, without --rows")
    try:
        columns = dict(read_table(file)[0].items())
        taken = features_of(columns, config.export.inputs, specs)
        rows = check_rows((taken, None), str(file), needs_target=False)
        return Asked(columns, fit_to_inputs(rows.features, specs))
    except DataError as exc:
        raise ConfigError(str(exc)) from exc


def ask(model: Tried, client: ModelClient, asked: Asked) -> Table:
    """Return the rows with what the server answers to them.

    Raises:
        PredictionError: the server refuses the rows. ServingError: it does not answer, or not to each row.
    """
    signature = model.signature
    answers = client.predict(model.version, asked.inputs, signature.outputs, signature.name)
    n_rows = len(next(iter(asked.inputs.values())))
    for name, array in answers.items():
        if len(array) != n_rows:
            got = f"{len(array)} of '{name}' for {n_rows} rows"
            raise ServingError(f"every output must have an answer for each row, got {got}")
    return with_answers(asked.columns, answers)


def invitation(server: ThrowawayServer, model: Tried, file: Path) -> tuple[list[str], str, list[str]]:
    """Return where the model answers, and a request to paste as a command and as Python: of its warm-up, else zeros.

    Args:
        file: where a request is written that is too long to be pasted.
    """
    url = f"{server.rest_url}/v1/models/{model.name}"
    lines = [f"'{model.name}' version {model.version} answers at {url}:predict, its signature is at {url}/metadata"]
    if model.signature.beyond_rest:
        return [*lines, f"REST cannot carry its inputs or outputs; gRPC answers at {server.grpc_target}"], "", []
    row = read_example(model.version_dir, model.signature) or row_of_zeros(model.signature)
    return lines, *request_lines(url, row, model.signature, file)
