"""Stage 4: judge the answers of a real server, and check before the training whether such a server is available."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.loading import ConfigError
from configs.schema import Config
from tasks.datasets.declared import check_contract
from tasks.datasets.feature_record import drift, read_schema
from tasks.datasets.seen import RECORD, new_rows, shared_rows
from tasks.errors import ModelLoadError, PredictionError, StoreError
from tasks.gates.judge import judge, judge_files
from tasks.gates.replay import new_tally
from tasks.gates.serving import judge_refusal
from tasks.objects.store import refresh
from tasks.production.metrics import look_at_metrics
from tasks.production.rehearsed_change import rehearse_change
from tasks.production.server import look_at_production
from tasks.records import Backend, Candidate, Champion, GateResult, ServedAnswers, ValidationReport
from tasks.registry.connection import check_tracking
from tasks.replay.files import check_file
from tasks.replay.tally import Tally
from tasks.savedmodel.operations import misspelt
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import check_engine, choose_backends
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.stage import artifact_key, progress_shown, stage
from tasks.store.champion import find_champion
from tasks.store.seen import with_record
from tasks.store.way_back import way_back_of

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
    _look_at_way_back(config)


def _look_at_way_back(config: Config) -> None:
    """Say before the training if the files of the live version show that no candidate will be promoted by itself."""
    with contextlib.suppress(StoreError):  # the validation says it, and may find the store in order by then
        champion = find_champion(config.live_dir, config.promote.layout)
        way = way_back_of(config.live_dir, config.candidates_dir, champion, "")
        if (way.problem or way.unproven) and not config.promote.allow_no_way_back:
            effect = "will be rejected" if way.problem else "needs a person"
            log.warning(
                "a candidate %s, because its way back cannot be proven: %s", effect, way.problem or way.unproven
            )


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
    way_back = way_back_of(
        config.live_dir, config.candidates_dir, champion, candidate.digest, allowed=config.promote.allow_no_way_back
    )
    # Nothing is compared with a live version whose files were changed, and no server loads them.
    beside = None if champion is not None and way_back.problem and way_back.version == champion.version else champion
    rows = new_rows(own, beside.seen if beside else None), shared_rows(own)
    changed = drift(read_schema(candidate.version_dir), read_schema(beside.version_dir) if beside else None)
    for sentence in changed:
        log.info("compared with version %d: %s", beside.version if beside else 0, sentence)
    gates = judge_files(config.gates, graph, beside)
    if not all(gate.passed for gate in gates if gate.name == "safety"):
        return ValidationReport(candidate, graph, None, gates, champion, *rows, changed)
    directories = [run_dir / f"server{number}" for number in range(1, len(backends) + 1)]
    with progress_shown(f"{artifact_key(config.name)}-validation", f"Validation of {config.name}"):
        answers = [
            _asked(
                config,
                Rehearsal(
                    config.serving,
                    candidate,
                    backend,
                    directory,
                    config.gates,
                    beside,
                    way_back,
                    _tally(config, candidate),
                ),
            )
            for backend, directory in zip(backends, directories, strict=True)
        ]
    gates += judge(config.gates, candidate, *answers, keras_names=config.export.outputs)
    served = next((found for found in answers if isinstance(found, ServedAnswers)), None)
    if served is not None:  # the report is kept, and must not keep the files of another version's run
        served = replace(served, way_back=None)
    return ValidationReport(candidate, graph, served, gates, champion, *rows, changed)


def _tally(config: Config, candidate: Candidate) -> Callable[[ServedAnswers], Tally] | None:
    """Return what makes the counters of recorded requests, or None without such requests."""
    if config.gates.replay.file is None or "replay" not in config.gates.judging:
        return None
    return partial(new_tally, config.gates, candidate, config.export.inputs)


def _asked(config: Config, rehearsal: Rehearsal) -> ServedAnswers | GateResult:
    """Return the answers of a server, or its refusal, which is a verdict and not an error."""
    try:
        return rehearse_change(config, rehearsal, rehearse(rehearsal))
    except (ModelLoadError, PredictionError) as exc:
        from tasks.report.sections import log_tail  # the report's modules take a second to import

        return judge_refusal(str(rehearsal.backend), str(exc), log_tail(rehearsal.directory / "server.log"))


def _champion(config: Config, run_dir: Path) -> Champion | None:
    """Return the live version, with the record of its rows if there is one."""
    refresh(config)
    found = find_champion(config.live_dir, config.promote.layout)
    if found is None or not found.digest:
        return found
    return with_record(found, config.candidates_dir, config.export.inputs, run_dir / "champion_seen.npz")
