"""Stage 6, with a person in it: what was approved goes live, if it still is what was approved."""

from __future__ import annotations

from configs.schema import Config
from tasks.errors import ManifestMismatch, StoreError
from tasks.policy import stage
from tasks.production import candidates_dir, live_dir, put_live
from tasks.records import Promotion, TrackedRun, ValidationReport
from tasks.registry.approvals import Reviewed, close, say, waiting_versions
from tasks.savedmodel.manifest import verify_manifest
from tasks.store.history import append, read
from tasks.store.layout import versions
from tasks.store.rehearsals import Rehearsed, recall

APPROVED, REJECTED = "approved", "rejected"


@stage
def find_reviewed(config: Config) -> list[Reviewed]:
    """Return the candidates that a reviewer has decided about and nobody has acted on."""
    return [found for found in waiting_versions(config) if found.review in (APPROVED, REJECTED)]


@stage
def review(config: Config, candidate: int, verdict: str, by: str) -> None:
    """Say on MLflow's page what a reviewer decided at a terminal."""
    say(config, candidate, verdict, by)


@stage
def decide(config: Config, reviewed: Reviewed) -> Promotion:
    """Promote what was approved, or close what was rejected or is not what was validated."""
    if reviewed.review == REJECTED:
        return _closed(config, reviewed, "rejected", f"rejected by {reviewed.by or 'a reviewer'}")
    problem = objection(config, reviewed)
    if problem:
        return _closed(config, reviewed, "refused", problem)
    known = recall(candidates_dir(config), reviewed.digest)
    assert known is not None  # objection() has looked
    actor = reviewed.by or "a reviewer in MLflow"
    candidate = known.report.candidate
    append(live_dir(config), candidate.version, "approved", candidate.digest, run=reviewed.run_id, actor=actor)
    return put_live(config, candidate, known.run, known.report.champion, actor)


@stage
def promote_again_judged(config: Config, reviewed: Reviewed, report: ValidationReport, run: TrackedRun) -> Promotion:
    """Promote an approved candidate that was judged anew beside the champion of today, if it passed again."""
    if not report.passed:
        reason = "; ".join(f"{gate.name}: {gate.summary}" for gate in report.failed)
        return _closed(config, reviewed, "rejected", f"judged again beside another champion: {reason}")
    close(config, reviewed, "judged again", f"see version {run.registry_version}: another champion serves since")
    return put_live(config, report.candidate, run, report.champion, reviewed.by or "a reviewer in MLflow")


def rehearsal_of(config: Config, reviewed: Reviewed) -> Rehearsed:
    """Return what is kept of a candidate.

    Raises:
        StoreError: nothing is.
    """
    known = recall(candidates_dir(config), reviewed.digest)
    if known is None:
        raise StoreError(f"candidate {reviewed.candidate} of '{config.name}' must have been judged here, and was not")
    return known


def objection(config: Config, reviewed: Reviewed) -> str:
    """Return why an approved candidate may not go live as it is, or an empty string.

    The bytes on the disk must have the digest that MLflow's version was tagged with when they were validated, and the
    history of the live directory must know of that validation: an edited tag alone approves nothing.
    """
    number, digest = reviewed.candidate, reviewed.digest
    directory = versions(candidates_dir(config)).get(number)
    known = recall(candidates_dir(config), digest)
    judged = [e for e in read(live_dir(config)) if e.version == number and e.state in ("validated", "rejected")]
    if directory is None:
        return f"candidate {number} is gone from '{candidates_dir(config)}'"
    if known is None or not any(entry.digest == digest for entry in judged):
        return f"digest {digest[:12]} is not what was validated as candidate {number}; run the rehearsal again"
    if not known.report.passed:
        return f"candidate {number} failed {', '.join(gate.name for gate in known.report.failed)}"
    try:
        verify_manifest(directory, digest)
    except (ManifestMismatch, OSError) as exc:
        return f"the bytes were changed after their validation: {exc}"
    return ""


def _closed(config: Config, reviewed: Reviewed, state: str, reason: str) -> Promotion:
    """Say on the version's page, and in the history, that it will not go live."""
    append(
        live_dir(config), reviewed.candidate, "rejected", reviewed.digest,
        run=reviewed.run_id, actor=reviewed.by or "a reviewer in MLflow", reason=reason,
    )  # fmt: skip
    close(config, reviewed, state, reason)
    return Promotion(state, None, reason)
