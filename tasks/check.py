"""What can be known of a configuration and the user's code in seconds, before anything is trained.

Nothing that is checked here is kept: no Prefect flow, no MLflow run, no candidate, no number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.redaction import redact
from configs.schema import Config
from tasks.datasets.declared import read_contract
from tasks.datasets.prepare import prepare_splits
from tasks.errors import PipelineError
from tasks.production.server import is_silent
from tasks.records import Splits
from tasks.registry.connection import check_experiment, check_tracking
from tasks.serving.launch import check_engine
from tasks.store.layout import check_writable
from tasks.training.fit import try_model
from tasks.training.process import call
from tasks.words import one_line

HEALTH_TIMEOUT_S = 10.0


def checks(config: Config, scratch: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Give each check's name, and what makes it: it returns what it found in words, or raises an error of ours.

    Args:
        scratch: a directory for rows and the trial export, which the caller removes.
    """
    splits: list[Splits] = []

    def rows() -> str:
        splits.append(call(prepare_splits, config.data, scratch / "data"))
        found = splits[0]
        counts = ", ".join(f"{number:,} {name}" for name, number in found.rows.items())
        return f"{counts} rows; {'; '.join(found.features)}"

    def model() -> str:
        return str(call(try_model, config, splits[0], scratch))

    yield "work_dir", lambda: _writable(config.work_dir, "work_dir")
    yield "models_root", lambda: _production(config)
    contract = config.gates.contract.file
    if contract is not None:
        yield "contract", lambda: _contract(contract)
    yield "serving", lambda: _engine(config)
    yield "tracking", lambda: _tracking(config)
    yield "prefect", _prefect
    yield "data", rows
    if splits:  # without rows there is nothing to build on
        yield "model", model


def _writable(directory: Path, field: str) -> str:
    check_writable(directory, field)
    return f"'{directory}' can be written"


def _production(config: Config) -> str:
    silent = f"; no server answers at promote.live_url {config.promote.live_url}, as before the first version"
    return _writable(config.models_root, "models_root") + (silent if is_silent(config) else "")


def _contract(file: Path) -> str:
    declared = read_contract(file)
    return f"'{file}' declares {', '.join(map(str, (*declared.inputs, *declared.outputs)))}"


def _engine(config: Config) -> str:
    check_engine(config.serving)
    return f"serving.backend is {config.serving.backend}"


def _tracking(config: Config) -> str:
    check_tracking(config.tracking.uri)
    check_experiment(config)
    return f"MLflow at {redact(config.tracking.uri)} can be used"


def _prefect() -> str:
    """Ask the Prefect API that is configured for its health; without one a run brings its own."""
    import requests

    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        return "no PREFECT_API_URL is set: a run starts a temporary Prefect server"
    try:
        requests.get(f"{url.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S).raise_for_status()
    except requests.RequestException as exc:
        words = one_line(f"{type(exc).__name__}: {exc}")
        raise PipelineError(
            f"Prefect's API at {redact(url)} must answer, got {words}; start it, or unset PREFECT_API_URL"
        ) from exc
    return f"Prefect's API at {redact(url)} answers"
