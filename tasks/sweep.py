"""The stages of a sweep: open its directory, train what is not trained yet, export all, compare, log."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.redaction import known
from configs.schema import Config
from configs.sections.gates import Bound
from configs.variants import Variant
from tasks.datasets.rows import load_arrays, load_rows
from tasks.errors import (
    DataError,
    ExportError,
    PipelineError,
    StoreError,
    SweepStopped,
    TrackingError,
    TrainingError,
    TrainingLost,
)
from tasks.export import export_next
from tasks.faults import Fault, fault_of
from tasks.gates.judge import check_slices, judge_files
from tasks.gates.ranking import lowest_wins, ranked, score
from tasks.outcomes import Promotion
from tasks.records import (
    Backend,
    Candidate,
    ComparedVariant,
    Leaderboard,
    Splits,
    SweepRun,
    TrackedRun,
    TrainedModel,
)
from tasks.registry.connection import preload
from tasks.registry.sweeps import log_sweep, note_outcome
from tasks.savedmodel.exporter import save_requests
from tasks.savedmodel.safety import MB, read_graph
from tasks.serving.side_by_side import Asked, ask_side_by_side
from tasks.stage import side_task, stage, timed_as
from tasks.store.champion import find_champion
from tasks.store.history import read, state_of
from tasks.store.journal import pending
from tasks.store.sweeps import (
    TRAINED,
    end_sweep,
    is_usable,
    open_sweep,
    read_failed,
    read_trained,
    remove_tries,
    tries_of,
)
from tasks.sweeping.comparing import why_no_metric
from tasks.sweeping.identity import code_files, sweep_identity, variant_key
from tasks.sweeping.training import Job, train_variant
from tasks.training.process import call, shut_down

log = logging.getLogger(__name__)
TrainAll = Callable[[Sequence[Job]], Mapping[str, str]]
"""Trains jobs on a task runner; returns the last words about each one that gave no outcome, by its name."""

UNDECIDED = ("", "exported", "validated")  # states of a version before its outcome

train = side_task(train_variant)


@dataclass(frozen=True)
class Contestant:
    """A variant on its way to the leaderboard.

    Attributes:
        compared: what is known of it so far; with a reason, it takes part no more.
        trained: its model, in the directory of the sweep. candidate: what was exported of it.
        evidence: the directory of its requests and in-process answers.
    """

    variant: Variant
    compared: ComparedVariant
    evidence: Path
    trained: TrainedModel | None = None
    candidate: Candidate | None = None

    def failed(self, error: object) -> Contestant:
        """Return the same with the reason why it takes part no more."""
        reason = " ".join(str(error).split())
        log.warning("%s failed: %s", self.variant, reason)
        return replace(self, compared=replace(self.compared, reason=reason))

    @property
    def takes_part(self) -> bool:
        """Return whether it has not failed."""
        return not self.compared.reason


@contextlib.contextmanager
def sweep_directory(config: Config, splits: Splits) -> Iterator[Path]:
    """Provide the directory of the sweep of this configuration on these rows, which another command may have begun.

    An interrupt or an error says that the sweep can go on, if there is something that it can go on with.
    """
    with open_sweep(config, sweep_identity(config, splits, call(code_files, config))) as directory:
        try:
            yield directory
        except SweepStopped:  # it says so itself
            raise
        except BaseException as exc:
            begun = any(directory.glob(f"*/{TRAINED if isinstance(exc, Exception) else '*'}"))
            if begun:
                log.warning("the sweep goes on where it was if you run the same command again")
            raise


@contextlib.contextmanager
def removed_when_judged(
    directory: Path, variants: Sequence[Variant], config: Config, candidate: Candidate
) -> Iterator[None]:
    """Remove the variants of a sweep after its winner has an outcome, also if an interrupt or an error came then.

    Args:
        config, candidate: of the winner.
    """
    keys = {variant_key(variant.config) for variant in variants}
    try:
        yield
    except BaseException:
        state = _outcome(config, candidate)
        if state:
            log.warning("version %d, the best variant, is %s already: the sweep has ended", candidate.version, state)
            end_sweep(directory, keys)
        raise
    end_sweep(directory, keys)


def _outcome(config: Config, candidate: Candidate) -> str:
    """Return what has become of a judged candidate, by what is on the disk, or an empty string before that."""
    with contextlib.suppress(PipelineError):  # what cannot be read says nothing, and the sweep can go on
        change = pending(config.live_dir)
        if change is not None and change.digest == candidate.digest:
            return "being promoted"
        state = state_of(read(config.live_dir), candidate.version)
        return state if state not in UNDECIDED else ""
    return ""


def check_rows(config: Config, variants: Sequence[Variant], splits: Splits) -> None:
    """Refuse rows by which no variants can be compared, before anything is trained, and say which variant will win.

    Where no metric is named, the first variant that can be built shows whether one suits its answers.

    Raises:
        DataError: they have no target, or several and none of them is chosen, or gates.slices names none of them; or
            there is no metric for the answers, or several outputs and none of them is chosen.
    """
    rows, metric = load_rows(splits.validation), compared_by(config)
    targets = rows.targets
    if not targets:
        raise DataError("a sweep compares answers with targets, but the rows have none; let data.load return them")
    if len(targets) > 1 and not config.gates.metric_output:
        raise DataError(
            f"gates.metric_output must name the output by which variants are compared, because the rows have several "
            f"targets: {', '.join(targets)}"
        )
    check_slices(config.gates, rows.features)
    if not metric:
        _check_answers(variants, splits)
    else:
        extreme = "lowest" if lowest_wins(metric, config.gates) else "highest"
        log.info("the variant with the %s %s on the validation rows wins", extreme, metric)


def _check_answers(variants: Sequence[Variant], splits: Splits) -> None:
    for variant in variants:
        try:
            if problem := call(why_no_metric, variant.config, splits):
                raise DataError(problem)
        except TrainingLost:  # the next one gets a process of its own
            shut_down()
        except TrainingError:  # its own process finds the same, and the leaderboard says it
            continue
        else:
            return


def train_variants(
    variants: Sequence[Variant], splits: Splits, sweep_dir: Path, run_dir: Path, train_all: TrainAll
) -> list[Contestant]:
    """Train all variants that are not trained yet, and return what became of each."""
    with timed_as("train_variants"):
        jobs = [_job(variant, splits, sweep_dir, run_dir.name) for variant in variants]
        for job in jobs:
            remove_tries(job.directory)
        pending = [job for job in jobs if read_trained(job.directory) is None]
        if len(pending) < len(jobs):
            log.info("going on with the sweep in '%s': %d of %d variants are trained already",
                     sweep_dir, len(jobs) - len(pending), len(jobs))  # fmt: skip
        lost: Mapping[str, str] = {}
        if pending:
            shut_down()  # the memory of this process, also on a GPU, is for the variants
            preload()
            lost = train_all(pending)
        return [
            _contestant(variant, job, lost.get(job.name, ""), run_dir)
            for variant, job in zip(variants, jobs, strict=True)
        ]


def _job(variant: Variant, splits: Splits, sweep_dir: Path, command: str) -> Job:
    config, metric = variant.config, compared_by(variant.config)
    if metric and metric not in config.gates.metrics:  # the training refuses a metric that does not fit the model
        metrics = {**config.gates.metrics, metric: Bound()}
        config = config.model_copy(update={"gates": config.gates.model_copy(update={"metrics": metrics})})
    return Job(str(variant), config, splits, sweep_dir / variant_key(variant.config), command, known())


def compared_by(config: Config) -> str:
    """Return the metric that chooses the winner, or an empty string for the first one that suits the answers."""
    return config.sweep.metric or next(iter(config.gates.metrics), "")


def _contestant(variant: Variant, job: Job, words: str, run_dir: Path) -> Contestant:
    known_so_far = ComparedVariant(variant.number, variant.values, variant.words)
    contestant = Contestant(variant, known_so_far, run_dir / "variants" / str(variant.number))
    found = read_trained(job.directory)
    if found is None:
        count = tries_of(job.directory, job.command)
        lost = f"it must be trained before sweep.tries ({count}) are used up, got {words or 'no answer'}"
        return contestant.failed(read_failed(job.directory, job.command) or lost)
    trained, seconds = found
    compared = replace(known_so_far, parameters=trained.parameters, seconds=seconds, history=trained.history)
    return replace(contestant, trained=trained, compared=compared)


@stage
def export_variants(contestants: Sequence[Contestant], splits: Splits, run_dir: Path) -> list[Contestant]:
    """Export each trained variant to a version of its own, and write the validation rows as its requests."""
    return [_exported(one, splits, run_dir) if one.trained is not None else one for one in contestants]


def _exported(contestant: Contestant, splits: Splits, run_dir: Path) -> Contestant:
    """Export a variant; like its training, this is tried again if the process was killed or had too little memory."""
    lost: PipelineError | None = None
    for _ in range(contestant.variant.config.sweep.tries):
        try:
            return _export(contestant, splits, run_dir)
        except (ExportError, DataError, TrainingLost) as exc:
            assert contestant.trained is not None
            needed = (contestant.trained.keras_file, splits.train, splits.validation, splits.test)
            if exc.fault is Fault.MACHINE or not is_usable(run_dir, *needed):  # that must not choose the winner
                raise
            if not isinstance(exc, TrainingLost) and exc.fault is not Fault.MEMORY:
                return contestant.failed(exc)
            lost = exc
            log.warning("%s is exported again, got %s", contestant.variant, exc)
            shut_down()  # the next try, or variant, gets a process of its own
    return contestant.failed(lost)


def _export(contestant: Contestant, splits: Splits, run_dir: Path) -> Contestant:
    config, trained = contestant.variant.config, contestant.trained
    assert trained is not None
    candidate = export_next(config, splits, trained, run_dir, contestant.evidence)
    rows = contestant.evidence / "validation_requests.npz"
    call(save_requests, config, splits.validation, trained, candidate.signature, rows)
    log.info("%s is version %d", contestant.variant, candidate.version)
    compared = replace(contestant.compared, version=candidate.version)
    return replace(contestant, candidate=candidate, compared=compared)


@stage
def compare_variants(
    config: Config, contestants: Sequence[Contestant], splits: Splits, backend: Backend, run_dir: Path
) -> Leaderboard:
    """Judge the files of each variant, serve all that pass in one server, and rank what it answers to validation rows.

    What a variant cannot do is its failure, and none of the others.

    Raises:
        ServingUnavailable: no server can be started or reached.
    """
    judged = [_with_safe_files(config, one) for one in contestants]
    asked = [
        Asked(one.candidate, one.evidence / "validation_requests.npz", one.evidence / "validation_answers.npz")
        for one in judged
        if one.takes_part and one.candidate is not None
    ]
    faults = ask_side_by_side(backend, config.serving, asked, run_dir / "server_variants.log")
    metric, scored = compared_by(config), []
    for one in judged:
        answered = one
        if one.candidate is not None and (fault := faults.get(one.candidate.version)):
            if not is_usable(run_dir, one.candidate.version_dir / "saved_model.pb"):
                raise fault
            answered = one.failed(fault)
        metric, compared = _scored(metric, answered, splits)
        scored.append(compared)
    return ranked(metric, config.gates, splits.rows["validation"], scored)


def _with_safe_files(config: Config, contestant: Contestant) -> Contestant:
    if contestant.candidate is None or not contestant.takes_part:
        return contestant
    champion = find_champion(config.live_dir, config.promote.layout)
    graph = read_graph(contestant.candidate.version_dir, config.gates.safety.max_graph_mb * MB)
    refused = [gate for gate in judge_files(config.gates, graph, champion) if not gate.passed]
    return contestant.failed("; ".join(f"{gate.name}: {gate.summary}" for gate in refused)) if refused else contestant


def _scored(metric: str, contestant: Contestant, splits: Splits) -> tuple[str, ComparedVariant]:
    """Return the metric, which the first variant may decide, and a variant with its score."""
    if contestant.candidate is None or not contestant.takes_part:
        return metric, contestant.compared
    config = contestant.variant.config
    on_validation = replace(contestant.candidate, targets=splits.validation)
    answers = load_arrays(contestant.evidence / "validation_answers.npz")
    try:
        metric, value = score(config.gates, metric, on_validation, answers, config.export.outputs)
    except DataError as exc:
        if fault_of(exc) is not Fault.OWN:
            raise
        return metric, contestant.failed(exc).compared
    return metric, replace(contestant.compared, score=value)


@stage
def log_leaderboard(config: Config, board: Leaderboard, splits: Splits) -> SweepRun:
    """Log the sweep as an MLflow run with one child run for each variant."""
    return log_sweep(config, board, splits)


def log_outcome(config: Config, sweep: SweepRun, run: TrackedRun, promotion: Promotion) -> None:
    """Add the judged winner to the sweep's run; production may have changed already, so a failure is a warning."""
    try:
        note_outcome(config, sweep, run, str(promotion.state))
    except TrackingError as exc:
        log.warning("the sweep's run does not show its outcome: %s", exc)


def winner_of(
    board: Leaderboard, contestants: Sequence[Contestant], run_dir: Path
) -> tuple[Variant, TrainedModel, Candidate]:
    """Return the best variant, with its files in the run directory, as those of any other run.

    Raises:
        PipelineError: all variants failed.
    """
    best = board.winner
    if best is None:
        first = board.failed[0]
        raise PipelineError(
            f"at least one variant must be trained and served, but all {len(board.variants)} failed; "
            f"variant {first.number} ({first.words}): {first.reason}",
            detail="\n".join(f"variant {one.number} ({one.words}): {one.reason}" for one in board.failed[1:]),
        )
    winner = next(one for one in contestants if one.variant.number == best.number)
    assert winner.trained is not None and winner.candidate is not None
    try:
        for path in sorted(winner.evidence.iterdir()):
            path.rename(run_dir / path.name)
        _link(winner.trained.keras_file, run_dir / "model.keras")
        shutil.rmtree(run_dir / "variants")
    except OSError as exc:
        raise StoreError(f"work_dir must be writable, got '{exc.filename}': {exc.strerror}") from exc
    candidate = replace(winner.candidate, requests=run_dir / "requests.npz", reference=run_dir / "reference.npz")
    return winner.variant, replace(winner.trained, keras_file=run_dir / "model.keras"), candidate


def _link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
