"""Stage 6: the judged bytes go live, or nothing changes."""

from __future__ import annotations

from configs.schema import Config
from tasks.errors import TrackingError
from tasks.policy import stage
from tasks.records import Candidate, Promotion, TrackedRun, ValidationReport
from tasks.registry.aliases import record_promotion
from tasks.store.publish import model_lock, publish


@stage
def promote_model(config: Config, report: ValidationReport, run: TrackedRun, wanted: bool) -> Promotion:
    """Publish a candidate that passed every gate, then say so in the registry."""
    candidate = report.candidate
    if not report.passed:
        reason = "; ".join(f"{gate.name}: {gate.summary}" for gate in report.failed)
        promotion = Promotion("rejected", None, reason)
    elif not wanted:
        promotion = Promotion("not promoted", None, "every gate passed; promotion was not asked for")
    elif config.needs_person(has_champion=report.champion is not None):
        promotion = Promotion("awaiting review", None, "every gate passed; a person decides")
    else:
        return _promote(config, candidate, run)
    record_promotion(config, run, promotion)
    return promotion


def _promote(config: Config, candidate: Candidate, run: TrackedRun) -> Promotion:
    """Publish and move the alias under one lock, so that `champion` is always the version that serves."""
    with model_lock(config.models_root / candidate.name, config.promote.lock_timeout_s):
        live_dir = publish(candidate, config.models_root, config.promote.lock_timeout_s)
        promotion = Promotion("promoted", live_dir, f"version {candidate.version} is live")
        try:
            record_promotion(config, run, promotion)
        except TrackingError as exc:
            raise TrackingError(f"version {candidate.version} is live, but champion did not move: {exc}") from exc
    return promotion
