"""Stage 6 with a reviewer: make an approved candidate live if it is unchanged."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from configs.loading import ConfigError
from configs.schema import Config
from tasks.errors import ManifestMismatch, ProofMismatch, StoreError, VersionExists
from tasks.outcomes import ALREADY_LIVE, Promotion, PromotionState
from tasks.production.approved import approval_of, noted
from tasks.production.archive import bring, share_history
from tasks.production.changes import put_live
from tasks.production.server import look_at_production
from tasks.program import command_name
from tasks.proof.approval import Approval, sign_approval
from tasks.proof.signing import reviewer_key, signer_of
from tasks.records import TrackedRun, ValidationReport
from tasks.registry.approvals import ONCE_MORE, UNDECIDED, Reviewed, close, reviewed_versions, set_review
from tasks.registry.changes import record_outcome
from tasks.registry.pages import MAX_TAG
from tasks.report.standing import APPROVED, REJECTED, UNNAMED
from tasks.savedmodel.manifest import verify_manifest
from tasks.stage import stage
from tasks.store.history import append, read, rejection
from tasks.store.layout import versions
from tasks.store.rehearsals import Rehearsed, recall

log = logging.getLogger(__name__)


@stage
def find_reviewed(config: Config, number: int = 0) -> list[Reviewed]:
    """Return the candidates with a reviewer's decision that has not been carried out.

    Args:
        number: the one candidate to look at, so that no other one is fetched; 0 means all.
    """
    look_at_production(config)
    found = [version for version in reviewed_versions(config) if number in (0, version.candidate_version)]
    for version in found:
        if version.waits and version.review not in (*UNDECIDED, APPROVED, REJECTED):
            log.warning(
                "candidate %d has the tag review=%s, which is not a decision: set it to %s or %s",
                version.candidate_version, version.review, APPROVED, REJECTED,
            )  # fmt: skip
    return decided_here(config, found)


def decided_here(config: Config, found: list[Reviewed]) -> list[Reviewed]:
    """Return those with a decision that this machine can carry out; the others are left to the machine that can.

    Raises:
        StoreUnreachable: the object store with the candidates' archive does not answer.
    """
    here = []
    for version in (version for version in found if version.is_decided):
        if elsewhere := _elsewhere(config, version):
            log.warning("%s", elsewhere)
        elif _counts(config, version):
            here.append(version)
    return here


def _counts(config: Config, reviewed: Reviewed) -> bool:
    """Return whether a decision counts; one that lacks the signature it needs waits, and says what to do.

    A rejection always counts, and an approval of what was rejected is answered.
    """
    if reviewed.review == REJECTED or not reviewed.waits:
        return True
    try:
        approval_of(config, reviewed, read(config.live_dir))
    except ProofMismatch as exc:
        log.warning(
            "candidate %d is not approved: %s. It waits as before; a reviewer approves it with %s --config FILE "
            "--version %d --approve --by NAME --key KEY",
            reviewed.candidate_version, exc, command_name("flows.promote"), reviewed.candidate_version,
        )  # fmt: skip
        return False
    return True


def _elsewhere(config: Config, reviewed: Reviewed) -> str:
    """Return why this machine cannot decide about a candidate of an object store, or an empty string."""
    why = "it is not in the candidates' archive"
    try:
        if bring(config, reviewed.candidate_version, reviewed.digest):
            return ""
    except (ManifestMismatch, VersionExists) as exc:
        why = str(exc)
    return (
        f"candidate {reviewed.candidate_version} of '{config.name}' was not judged with this work_dir, "
        f"'{config.work_dir}', and can only be decided with the one that has its files: {why}"
    )


@stage
def review(  # noqa: PLR0913
    config: Config, number: int, verdict: str, by: str, key: str = "", *, later: bool = False
) -> None:  # fmt: skip
    """Write a reviewer's decision from a terminal to MLflow's page.

    Args:
        key: the file of the reviewer's private key, which signs an approval where `promote.approvers` demands it.
        later: another process carries it out, so that this machine needs no files of the candidate.

    Raises:
        ConfigError: the candidate does not wait for a decision, or the key cannot be used.
    """
    private = reviewer_key(config, verdict, key)
    known = reviewed_versions(config)
    of_it = [version for version in known if version.candidate_version == number]
    open_ones = [version for version in of_it if version.promotion in ONCE_MORE]
    if not open_ones:
        others = ", ".join(str(version.candidate_version) for version in known if version.waits) or "none"
        what = f"{number}, which is {of_it[-1].promotion or 'being judged'}" if of_it else f"{number}"
        raise ConfigError(f"--version must be a candidate that awaits review, got {what}; waiting: {others}")
    reviewed = open_ones[-1]
    if not later and (elsewhere := _elsewhere(config, reviewed)):
        raise ConfigError(f"--version: {elsewhere}")
    approval = ""
    if private is not None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        meant = (config.name, reviewed.digest, reviewed.candidate_version, reviewed.mlflow_run_id)
        approval = sign_approval(Approval(*meant, by, time), private)
        if len(approval) > MAX_TAG:
            raise ConfigError(f"--by must be a name of at most 200 characters, got {len(by)}")
    set_review(config, reviewed, verdict, by, approval)


@stage
def decide(config: Config, reviewed: Reviewed) -> Promotion:
    """Promote an approved candidate, or close one that was rejected or has changed."""
    if reviewed.review == REJECTED:
        return _closed(config, reviewed, PromotionState.REJECTED, f"rejected by {reviewed.by or UNNAMED}")
    problem = objection(config, reviewed)
    if problem:
        return _closed(config, reviewed, PromotionState.REFUSED, problem)
    known = rehearsal_of(config, reviewed)
    candidate = known.report.candidate
    report = known.report
    if report.way_back is None:  # an earlier release judged it
        return Promotion(PromotionState.STALE, None, "it was judged without its way back, and is judged again")
    try:
        approved = approval_of(config, reviewed, read(config.live_dir))
    except ProofMismatch as exc:  # it has changed since it was found
        return Promotion(PromotionState.REFUSED, None, f"its approval does not count: {exc}")
    if _last(config, reviewed) != ("approved", noted(approved)):  # else a second try
        append(
            config.live_dir, candidate.version, "approved", candidate.digest, signer_of(config),
            run=reviewed.mlflow_run_id, actor=approved.by, reason=noted(approved),
        )  # fmt: skip
    without = report.without_way_back
    promotion = put_live(config, candidate, known.run, report.champion, approved.by, without, reviewed)
    if promotion.state in ALREADY_LIVE:  # no change of production tells MLflow
        _note_unchanged(config, reviewed, promotion)
        close(config, reviewed, promotion.state, promotion.reason)
    return promotion


@stage
def promote_again_judged(config: Config, reviewed: Reviewed, report: ValidationReport, run: TrackedRun) -> Promotion:
    """Promote an approved candidate that passed again, compared with the version that is live now."""
    if not report.passed:
        reason = f"judged again, compared with what is live now: {report.why_rejected}"
        return _closed(config, reviewed, PromotionState.REJECTED, reason)
    approved, without = approval_of(config, reviewed, read(config.live_dir)), report.without_way_back
    promotion = put_live(config, report.candidate, run, report.champion, approved.by, without, reviewed)
    if promotion.state in ALREADY_LIVE:
        _note_unchanged(config, reviewed, promotion)
        record_outcome(config, run, promotion)
    if promotion.state is not PromotionState.STALE:
        close(config, reviewed, "judged again", f"the result is registry version {run.registry_version}")
    return promotion


def rehearsal_of(config: Config, reviewed: Reviewed) -> Rehearsed:
    """Return the stored rehearsal of a candidate.

    Raises:
        StoreError: there is none.
    """
    known = recall(config.candidates_dir, reviewed.digest, reviewed.candidate_version)
    if known is None:
        number = reviewed.candidate_version
        raise StoreError(
            f"candidate {number} of '{config.name}' must have been judged with this work_dir, but it was not; run the "
            "rehearsal again"
        )
    return known


def objection(config: Config, reviewed: Reviewed) -> str:
    """Return why an approved candidate may not go live, or an empty string.

    The files on the disk must have the digest with which MLflow's version was tagged at their validation, and that
    validation must be in the history of the live directory, so that an edited tag alone cannot approve anything.
    """
    number, digest = reviewed.candidate_version, reviewed.digest
    directory = versions(config.candidates_dir).get(number)
    known = recall(config.candidates_dir, digest, number)
    judged = [e for e in read(config.live_dir) if e.version == number and e.state in ("validated", "rejected")]
    if directory is None:
        return f"candidate {number} is no longer in '{config.candidates_dir}'"
    if rejected := rejection(read(config.live_dir), number, digest):
        return f"candidate {number} was rejected before ({rejected.reason}); run the rehearsal again"
    if known is None or not any(entry.digest == digest for entry in judged):
        return f"digest {digest[:12]} is not what was validated as candidate {number}; run the rehearsal again"
    if not known.report.passed:
        return f"candidate {number} failed {', '.join(gate.name for gate in known.report.failed)}"
    try:
        verify_manifest(directory, digest)
    except (ManifestMismatch, OSError) as exc:
        return f"the files were changed after their validation: {exc}"
    return ""


def _last(config: Config, reviewed: Reviewed) -> tuple[str, str]:
    """Return state and reason of the last line about a candidate."""
    entries = [entry for entry in read(config.live_dir) if entry.version == reviewed.candidate_version]
    return (entries[-1].state, entries[-1].reason) if entries else ("", "")


def _note_unchanged(config: Config, reviewed: Reviewed, promotion: Promotion) -> None:
    """Record in the history that an approved candidate waits no more, because its bytes are live."""
    append(
        config.live_dir, reviewed.candidate_version, "unchanged", reviewed.digest, signer_of(config),
        run=reviewed.mlflow_run_id, actor=reviewed.by or UNNAMED, reason=promotion.reason,
    )  # fmt: skip
    share_history(config)


def _closed(config: Config, reviewed: Reviewed, state: PromotionState, reason: str) -> Promotion:
    """Record on the version's page and in the history that it will not go live."""
    append(
        config.live_dir, reviewed.candidate_version, "rejected", reviewed.digest, signer_of(config),
        run=reviewed.mlflow_run_id, actor=reviewed.by or UNNAMED, reason=reason,
    )  # fmt: skip
    share_history(config)
    close(config, reviewed, state, reason)
    return Promotion(state, None, reason)
