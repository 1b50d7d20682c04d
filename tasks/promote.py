"""Stage 6: make the judged version live, or change nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from filelock import FileLock

from configs.loading import shown
from configs.schema import Config
from tasks.errors import StoreError
from tasks.outcomes import ALREADY_LIVE, Outcome, Promotion, PromotionState
from tasks.production.archive import archive
from tasks.production.changes import move_label, put_live
from tasks.proof.packages import installed_packages, locked
from tasks.proof.signing import signer_of
from tasks.records import Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.registry.changes import record_outcome
from tasks.registry.commit import git_commit
from tasks.report.standing import DECIDES, why_a_person
from tasks.stage import stage
from tasks.store.history import Entry, State, append, read, same_bytes, taken_back
from tasks.store.rehearsals import Provenance, Rehearsed, save_rehearsal
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
settled: list[Outcome] = []
"""The outcome of this process's promotion, from the moment at which production was changed."""
SETTLED = (PromotionState.PROMOTED, PromotionState.CANARY, PromotionState.ROLLED_BACK)
"""The outcomes that changed production, of which MLflow is told by the change itself."""
RIVALS = 5  # how often other promotions may come between a validation and its promotion, and require another one


@contextlib.contextmanager
def turn(config: Config) -> Iterator[None]:
    """Let runs that must judge again, compared with a new champion, do so one after the other.

    In parallel, only one of them would not be overtaken. Nothing else waits for this lock, in particular no rollback.
    """
    log.info("what is live has changed in the meantime: judging again, compared with what is live now")
    with waiting_for(f"another candidate of '{config.name}' to be judged"):
        held = FileLock(config.live_dir / ".turn").acquire()
    with held:  # the kernel releases it when the holder ends
        yield


@stage
def keep_rehearsal(
    config: Config, splits: Splits, trained: TrainedModel, report: ValidationReport, run: TrackedRun
) -> None:
    """Store what an approval, the live verification and a rollback need."""
    packages = trained.recipe.packages if trained.recipe is not None else installed_packages()
    provenance = Provenance(shown(config), locked(packages), git_commit())
    save_rehearsal(config.candidates_dir, Rehearsed(splits, trained, report, run, provenance))
    _note(config, report, run, "validated" if report.passed else "rejected", report.why_rejected)


@stage
def promote_model(config: Config, report: ValidationReport, run: TrackedRun, wanted: bool) -> Promotion:
    """Publish a candidate that passed every gate, then update the registry.

    The outcome is also in `settled`, in case Prefect reports another state of this stage.
    """
    entries, candidate = read(config.live_dir), report.candidate
    live_now = report.champion.digest if report.champion is not None else None
    twin = same_bytes(entries, candidate.version, candidate.digest, live_now)
    also = f"; {twin}" if twin else ""
    if not report.passed:
        promotion = Promotion(PromotionState.REJECTED, None, f"{report.why_rejected}{also}")
    elif not wanted:
        reason = f"every gate passed, but promotion was not requested{also}"
        promotion = Promotion(PromotionState.NOT_PROMOTED, None, reason)
    elif why := why_a_person(config, report) or _why_taken_back(entries, candidate.digest):
        _note(config, report, run, "awaiting review")
        promotion = Promotion(PromotionState.AWAITING_REVIEW, None, f"{DECIDES}{why}{also}")
    else:
        promotion = put_live(config, candidate, run, report.champion, "", report.without_way_back)
        if promotion.state is PromotionState.ROLLED_BACK:
            _archive_refused(config, report)
        if promotion.state in ALREADY_LIVE:
            _note(config, report, run, "unchanged", promotion.reason)
        if promotion.state in SETTLED:
            settled.append(Outcome(report, run, promotion, {}))
            return promotion
    record_outcome(config, run, promotion)  # before the archive: else nobody could decide if that fails
    if promotion.state in (PromotionState.AWAITING_REVIEW, PromotionState.NOT_PROMOTED):
        _archive(config, report, promotion)
    return promotion


def _why_taken_back(entries: list[Entry], digest: str) -> str:
    """Return why a person decides about bytes that were taken back from production, or an empty string.

    A nightly run on the same rows makes the same bytes, and must not put back each night what a person took back.
    """
    return "its bytes were taken back from production" if taken_back(entries, digest) else ""


def _archive(config: Config, report: ValidationReport, promotion: Promotion) -> None:
    """Archive a candidate whose outcome is recorded, so that the machine may go away.

    Raises:
        StoreError: it is only here.
    """
    try:
        archive(config, report.candidate.version, report.candidate.digest)
    except StoreError as exc:
        raise type(exc)(
            f"candidate {report.candidate.version} is {promotion.state.value}, but could not be archived, so that it "
            f"can only be promoted with this work_dir, '{config.work_dir}': {exc}"
        ) from exc


def _archive_refused(config: Config, report: ValidationReport) -> None:
    """Archive a candidate that production refused, which a person may still promote; production is as it is."""
    try:
        archive(config, report.candidate.version, report.candidate.digest)
    except StoreError as exc:
        log.warning("candidate %d can only be promoted with this work_dir: %s", report.candidate.version, exc)


@stage
def make_stable(config: Config, actor: str) -> Promotion:
    """Move the label `stable` to the canary."""
    return move_label(config, actor)


def _note(config: Config, report: ValidationReport, run: TrackedRun, state: State, reason: str = "") -> None:
    candidate = report.candidate
    append(
        config.live_dir, candidate.version, state, candidate.digest, signer_of(config),
        run=run.mlflow_run_id, reason=reason,
    )  # fmt: skip
