"""The steps that every candidate goes through: it is judged, logged and promoted."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from configs.schema import Config
from tasks.outcomes import Promotion, PromotionState
from tasks.promote import RIVALS, keep_rehearsal, promote_model, turn
from tasks.records import Backend, Candidate, Splits, TrackedRun, TrainedModel, ValidationReport
from tasks.show import show_run
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
    promote: bool,
) -> Judged:
    """Judge a candidate, log it, and promote it if it passed; start again if another version went live meanwhile.

    Args:
        options: `--config FILE` and overrides, for the commands that a reviewer is shown.
    """
    for attempt in range(RIVALS):
        with turn(config) if attempt else nullcontext():
            with errors_logged(config, candidate):
                report = validate_serving(config, candidate, backends, run_dir)
            run = log_run(config, options, splits, trained, report)
            keep_rehearsal(config, splits, trained, report, run)
            promotion = promote_model(config, report, run, promote)
        if promotion.state is not PromotionState.STALE:
            break
    show_run(report, run, promotion)
    return report, run, promotion
