"""Stage 6: the judged bytes go live, or nothing changes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from filelock import FileLock

from configs.schema import Config
from tasks.outcomes import Outcome, Promotion, PromotionState
from tasks.production import move_label, put_live
from tasks.records import Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.registry.changes import record_outcome
from tasks.report.standing import why_a_person
from tasks.stage import stage
from tasks.store.history import State, append
from tasks.store.rehearsals import Rehearsed, keep
from tasks.waiting import waiting_for

log = logging.getLogger(__name__)
settled: list[Outcome] = []
"""The outcome of this process's promotion, from the moment at which production was changed."""
RIVALS = 5  # promotions of others that may come between a validation and its promotion, each of which asks for another


@contextlib.contextmanager
def turn(config: Config) -> Iterator[None]:
    """Let those who judge again, compared with a new champion, do it one after the other.

    Side by side, each would overtake all the others but one. It keeps nothing else waiting, no rollback above all.
    """
    log.info("another version went live in the meantime: judging again, compared with that version")
    with waiting_for(f"another candidate of '{config.name}' to be judged"):
        held = FileLock(config.live_dir / ".turn").acquire()
    with held:  # let go of by the kernel, however its holder ends
        yield


@stage
def keep_rehearsal(
    config: Config, splits: Splits, trained: TrainedModel, report: ValidationReport, run: TrackedRun
) -> None:
    """Keep what an approval, the live verification and a rollback need to know."""
    keep(config.candidates_dir, Rehearsed(splits, trained, report, run))
    _note(config, report, run, "validated" if report.passed else "rejected")


@stage
def promote_model(config: Config, report: ValidationReport, run: TrackedRun, wanted: bool) -> Promotion:
    """Publish a candidate that passed every gate, then say so in the registry.

    What has become of production is also in `settled`, whatever Prefect makes of this stage afterwards.
    """
    if not report.passed:
        reason = "; ".join(f"{gate.name}: {gate.summary}" for gate in report.failed)
        promotion = Promotion(PromotionState.REJECTED, None, reason)
    elif not wanted:
        promotion = Promotion(PromotionState.NOT_PROMOTED, None, "every gate passed, and promotion was not asked for")
    elif why := why_a_person(config, report):
        _note(config, report, run, "awaiting review")
        promotion = Promotion(PromotionState.AWAITING_REVIEW, None, f"every gate passed, and a person decides: {why}")
    else:
        promotion = put_live(config, report.candidate, run, report.champion, "")
        if promotion.state is not PromotionState.STALE:
            settled.append(Outcome(report, run, promotion, {}))
            return promotion
    record_outcome(config, run, promotion)
    return promotion


@stage
def make_stable(config: Config, actor: str) -> Promotion:
    """Give the canary the label `stable`."""
    return move_label(config, actor)


def _note(config: Config, report: ValidationReport, run: TrackedRun, state: State) -> None:
    reason = "; ".join(f"{gate.name}: {gate.summary}" for gate in report.failed)
    candidate = report.candidate
    append(config.live_dir, candidate.version, state, candidate.digest, run=run.run_id, reason=reason)
