"""Stage 4: judge the answers of a real server, and check before the training whether such a server is available."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from configs.loading import ConfigError
from configs.schema import Config
from tasks.datasets.declared import check_contract
from tasks.datasets.feature_record import drift, read_schema
from tasks.datasets.seen import RECORD, new_rows, shared_rows
from tasks.errors import ModelLoadError, PredictionError
from tasks.gates.judge import judge, judge_files
from tasks.gates.replay import new_tally
from tasks.gates.serving import judge_refusal
from tasks.objects.store import refresh
from tasks.production.metrics import look_at_metrics
from tasks.production.server import look_at_production
from tasks.records import Backend, Candidate, Champion, GateResult, ServedAnswers, ValidationReport
from tasks.registry.connection import check_tracking
from tasks.replay.files import check_file
from tasks.replay.tally import Tally
from tasks.savedmodel.operations import misspelt
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import check_engine, choose_backends
from tasks.serving.rehearse import Rehearsal, rehearse
from tasks.stage import artifact_key, progress_shown, stage
from tasks.store.champion import find_champion
from tasks.store.seen import with_record

log = logging.getLogger(__name__)


@stage
def check_services(config: Config) -> None:
    """Fail before the training if Docker or MLflow is needed and does not answer.

    Raises:
        ConfigError: `gates.safety.allow_ops` has a misspelt operation, or the declared contract is invalid.
    """
    for name, meant in misspelt(config.gates.safety.allow_ops).items():
        raise ConfigError(f"gates.safety.allow_ops: TensorFlow has no operation '{name}'; did you mean '{meant}'?")
    check_contract(config.gates)
    check_file(config)
    check_engine(config.serving)
    check_tracking(config.tracking.uri)
    look_at_production(config)
    look_at_metrics(config)


@stage
def fetch_servers(config: Config) -> tuple[Backend, ...]:
    """Choose the servers that judge, and pull their images, in parallel with the training."""
    return choose_backends(config.serving)


@stage
def validate_serving(
    config: Config, candidate: Candidate, backends: tuple[Backend, ...], run_dir: Path
) -> ValidationReport:
    """Judge the candidate's files, and then the answers of throwaway servers; a failed gate is a value.

    An unsafe graph is never loaded. If a server refuses the candidate, the candidate is rejected; a server that does
    not answer is an error. The champion is the version that is live, not the last one that passed.
    """
    graph = read_graph(candidate.version_dir, config.gates.safety.max_graph_mb * 1e6)
    champion, own = _champion(config, run_dir), candidate.version_dir / RECORD
    rows = new_rows(own, champion.seen if champion else None), shared_rows(own)
    changed = drift(read_schema(candidate.version_dir), read_schema(champion.version_dir) if champion else None)
    for sentence in changed:
        log.info("compared with version %d: %s", champion.version if champion else 0, sentence)
    gates = judge_files(config.gates, graph, champion)
    if not all(gate.passed for gate in gates if gate.name == "safety"):
        return ValidationReport(candidate, graph, None, gates, champion, *rows, changed)
    with progress_shown(f"{artifact_key(config.name)}-validation", f"Validation of {config.name}"):
        answers = [
            _asked(
                Rehearsal(
                    config.serving,
                    candidate,
                    backend,
                    run_dir / f"server{n}",
                    config.gates,
                    champion,
                    _tally(config, candidate),
                )
            )
            for n, backend in enumerate(backends, start=1)
        ]
    gates += judge(config.gates, candidate, *answers, keras_names=config.export.outputs)
    served = next((found for found in answers if isinstance(found, ServedAnswers)), None)
    return ValidationReport(candidate, graph, served, gates, champion, *rows, changed)


def _tally(config: Config, candidate: Candidate) -> Callable[[ServedAnswers], Tally] | None:
    """Return what makes the counters of recorded requests, or None without such requests."""
    if config.gates.replay.file is None or "replay" not in config.gates.judging:
        return None
    return partial(new_tally, config.gates, candidate, config.export.inputs)


def _asked(rehearsal: Rehearsal) -> ServedAnswers | GateResult:
    """Return the answers of a server, or its refusal, which is a verdict and not an error."""
    try:
        return rehearse(rehearsal)
    except (ModelLoadError, PredictionError) as exc:
        from tasks.report.sections import log_tail  # the report's modules take a second to import

        return judge_refusal(str(rehearsal.backend), str(exc), log_tail(rehearsal.directory / "server.log"))


def _champion(config: Config, run_dir: Path) -> Champion | None:
    """Return the live version, with the record of its rows if there is one."""
    refresh(config)
    found = find_champion(config.live_dir, config.promote.layout)
    if found is None:
        return None
    return with_record(found, config.candidates_dir, config.export.inputs, run_dir / "champion_seen.npz")
