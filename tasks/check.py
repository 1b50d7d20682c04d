"""Checks a configuration and the user's code within seconds, before anything is trained.

The checks leave nothing behind: no Prefect flow, no MLflow run, no candidate, no version number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.redaction import redact
from configs.schema import Config
from tasks.datasets.declared import read_contract
from tasks.datasets.prepare import prepare_splits
from tasks.datasets.stream import Limit
from tasks.errors import PipelineError, ServingError
from tasks.objects.store import look_at_store
from tasks.production.metrics import watch
from tasks.production.server import silent
from tasks.proof.keys import key_id, signing_key
from tasks.records import Splits
from tasks.registry.connection import check_experiment, check_tracking
from tasks.registry.reasons import reason
from tasks.replay.files import check_file
from tasks.serving.launch import check_engine
from tasks.store.layout import check_writable
from tasks.training.fit import try_model
from tasks.training.process import call
from tasks.words import counted, few

HEALTH_TIMEOUT_S = 10.0
NOT_SEEN = (
    "only a run sees whether the other rows can be used, whether the stream ends, whether the disk has room for it, "
    "and how many rows each split gets"
)


def checks(config: Config, scratch: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the name of each check and its function, which returns a description or raises one of our errors.

    Args:
        scratch: a directory for rows and the trial export, which the caller removes.
    """
    splits: list[Splits] = []

    def rows() -> str:
        splits.append(call(prepare_splits, config.data, scratch / "data", Limit()))
        found = splits[0]
        if found.is_partial:
            return (
                f"the first {sum(found.rows.values()):,} rows of a stream that has more were looked at; {NOT_SEEN}; "
                f"{few(found.features, '; ')}"
            )
        counts = ", ".join(f"{number:,} {name}" for name, number in found.rows.items())
        return f"{counts} rows; {few(found.features, '; ')}"

    def model() -> str:
        return str(call(try_model, config, splits[0], scratch))

    yield "work_dir", lambda: _writable(config.work_dir, "work_dir")
    yield "models_root", lambda: _production(config)
    if config.promote.metrics_path:
        yield "metrics", lambda: _metrics(config)
    contract = config.gates.contract.file
    if contract is not None:
        yield "contract", lambda: _contract(contract)
    if config.gates.replay.file is not None:
        yield "replay", lambda: f"'{config.gates.replay.file}' holds {check_file(config) or 'what no gate reads'}"
    if config.promote.signing_key or config.promote.require_proof:
        yield "proof", lambda: _proof(config)
    yield "serving", lambda: _engine(config)
    yield "tracking", lambda: _tracking(config)
    yield "prefect", _prefect
    yield "data", rows
    if splits:  # a model cannot be built without rows
        yield "model", model


def _writable(directory: Path, field: str) -> str:
    check_writable(directory, field)
    return f"'{directory}' is writable"


def _production(config: Config) -> str:
    if config.object_store:
        look_at_store(config)
        writable = f"'{config.object_store}' can be written, and keeps conditional writes"
    else:
        writable = _writable(config.live_root, "models_root")
    absent = silent(config)
    return f"{writable}; no server answers at {absent}, as expected before the first version" if absent else writable


def _metrics(config: Config) -> str:
    """Read production's metrics once; a server that is not there is told by another check."""
    count, problems = watch(config).first_look()
    if problems:
        raise ServingError(f"promote.metrics_path must lead to production's metrics, but {'; '.join(problems)}")
    if not count:
        return "production's metrics could not be tried, because no server answers"
    return f"the metrics of {counted(count, 'server')} can be read at {config.promote.metrics_path}"


def _contract(file: Path) -> str:
    declared = read_contract(file)
    return f"'{file}' declares {', '.join(map(str, (*declared.inputs, *declared.outputs)))}"


def _proof(config: Config) -> str:
    key = signing_key(config.promote, signs=config.promote.mode == "auto")
    if key is None:
        return "no key is needed here, because a person decides and signs elsewhere"
    return f"key {key_id(key.public_key())[:12]} signs promotions"


def _engine(config: Config) -> str:
    check_engine(config.serving)
    attached = config.serving.attached
    if config.serving.backend == "attached":
        return f"the model server at {attached.url} answers, and '{attached.directory}' is writable"
    return f"serving.backend {config.serving.backend} can be used"


def _tracking(config: Config) -> str:
    check_tracking(config.tracking.uri)
    check_experiment(config)
    return f"MLflow at {redact(config.tracking.uri)} can be used"


def _prefect() -> str:
    """Request the health of the configured Prefect API; without one, a run starts a temporary server."""
    import requests

    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        check_writable(Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser(), "PREFECT_HOME")
        return "PREFECT_API_URL is not set: a run starts a temporary Prefect server"
    try:
        requests.get(f"{url.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S).raise_for_status()
    except requests.RequestException as exc:
        raise PipelineError(
            f"Prefect's API at {redact(url)} must answer, got {redact(reason(exc)[0])}; start it (prefect server "
            "start), correct PREFECT_API_URL, or unset it to use a temporary server"
        ) from exc
    return f"Prefect's API at {redact(url)} answers"
