"""The steps that every candidate goes through: it is judged, logged and promoted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from configs.schema import Config
from tasks.outcomes import Promotion, PromotionState
from tasks.promote import RIVALS, keep_rehearsal, turn
from tasks.records import Backend, Candidate, Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.track import errors_logged, log_run
from tasks.validate import validate_serving

Judged = tuple[ValidationReport, TrackedRun, Promotion]


def judge_and_promote(  # noqa: PLR0913, PLR0917  results of the earlier stages
    config: Config,
    options: str,
    splits: Splits,
    trained: TrainedModel,
    candidate: Candidate,
    backends: tuple[Backend, ...],
    run_dir: Path,
    promote: Callable[[ValidationReport, TrackedRun], Promotion],
    *,
    again: bool = False,
) -> Judged:
    """Judge a candidate, log it, and promote it if it passed; start again if another version went live meanwhile.

    Args:
        options: `--config FILE` and overrides, for the commands that a reviewer is shown.
        promote: the stage that acts on the verdict.
        again: it was judged before, and another version has gone live since.
    """
    for overtaken in [again, *[True] * (RIVALS - 1)]:
        with turn(config) if overtaken else nullcontext():
            with errors_logged(config, candidate):
                report = validate_serving(config, candidate, backends, run_dir)
            run = log_run(config, options, splits, trained, report)
            keep_rehearsal(config, splits, trained, report, run)
            promotion = promote(report, run)
        if promotion.state is not PromotionState.STALE:
            break
    return report, run, promotion
