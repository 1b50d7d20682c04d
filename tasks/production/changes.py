"""The changes of production that promotion, approval, rollback and doctor make."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import ProofMismatch, ServingError, StoreConflict, StoreError, TrackingError
from tasks.gates.way_back import REMEDY
from tasks.objects.archive import forget_old
from tasks.objects.store import catch_up as catch_up_with_store
from tasks.objects.store import claim_of, mirror_of, nothing_changed_yet
from tasks.objects.upkeep import behind, damaged, sweep
from tasks.outcomes import Promotion, PromotionState
from tasks.production.approved import approval_of
from tasks.production.live_check import Expected, problem_at_any
from tasks.production.metrics import Watch, watch
from tasks.production.proofs import prove, unproven
from tasks.production.server import endpoints
from tasks.production.steps import going_back, making_stable, publishing
from tasks.program import command_name
from tasks.proof.signing import head_keys, signer_of
from tasks.records import Candidate, Champion, Change, TrackedRun
from tasks.registry.approvals import Reviewed
from tasks.registry.changes import record_change
from tasks.savedmodel.manifest import holds
from tasks.serving.attached import left_behind
from tasks.store.champion import find_champion
from tasks.store.experiment import moved, running
from tasks.store.history import SERVED, has_line, read, rejection, served_digest, served_run
from tasks.store.layout import next_number, versions
from tasks.store.leftovers import digests_in_use, find_leftovers
from tasks.store.lock import model_lock
from tasks.store.rehearsals import recall_or_warn
from tasks.store.repair import Finding, catch_up, mend, repair
from tasks.store.retention import prune
from tasks.store.serving_config import labels_of
from tasks.store.transaction import CANARY, Production, annotate, carry_out, overtaken, tell
from tasks.store.way_back import served_version
from tasks.waiting import waiting_for
from tasks.words import one_line

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST_WHY = 600  # characters of the reason why a way back is not proven
TRIES = 5  # how often other machines may write live.json while a change begins
settled: list[Promotion] = []
"""The changes of production by this process, even if the stage that made them fails afterwards."""


def production(config: Config) -> Production:
    """Return the production of a configuration."""
    promote = config.promote
    verify, record = partial(_verify, config), partial(_record, config)
    modes = int(promote.directory_mode, 8), int(promote.file_mode, 8)
    as_label = partial(_verify, config, as_label=True)
    mirror = mirror_of(config)
    show = mirror.show if mirror is not None else _nothing
    return Production(
        config.live_dir, promote.layout, verify, record, *modes, verify_label=as_label, show=show,
        signer=signer_of(config), publics=head_keys(config),
        prove=partial(prove, config), unproven=partial(unproven, config),
    )  # fmt: skip


def _nothing() -> None:
    """Servers that watch the directory see it as it is."""


def _record(config: Config, change: Change) -> None:
    """Send a change to MLflow; one that waited here while another machine made a later one moves no alias back.

    The head of a history that was replaced by another machine's is not noted, because nobody would find it again.
    """
    if not has_line(config.live_dir, change.head):
        change = replace(change, head="")
    record_change(config, change, overtaken=overtaken(read(config.live_dir), change))


def _verify(config: Config, change: Change, *, as_label: bool = False) -> str:
    """Return why production does not give the validated answers, or an empty string.

    Args:
        as_label: ask for the label of the change, and not for the number of its version.
    """
    promote = config.promote
    if not promote.live_addresses:
        return ""
    known = recall_or_warn(config.candidates_dir, change.digest)
    expected = None
    if known is not None and known.report.served is not None:
        candidate, answers = known.report.candidate, known.report.served.answers
        if candidate.requests.is_file() and answers.is_file():
            expected = Expected(
                candidate.signature,
                candidate.requests,
                answers,
                promote.live_rows,
                config.gates.atol,
                config.gates.rtol,
            )
    if expected is None:
        log.warning("only checking that version %d is AVAILABLE: its validated answers are gone", change.version)
    where = ", ".join(promote.live_addresses)
    label = change.label if as_label else ""
    what = f"version {change.version}" + (f" as '{label}'" if label else "")
    log.info("waiting for %s at %s, at most %g s", what, where, promote.live_timeout_s)
    with waiting_for(f"{what} at {where}"):
        problem = problem_at_any(endpoints(config), change.version, expected, promote.live_timeout_s, label)
    return redact(problem)  # it is written to journal, history and outbox


@contextlib.contextmanager
def changing(config: Config) -> Iterator[Production]:
    """Hold the lock of production within a block, and first repair what a crash left behind.

    MLflow is updated after the change, never before it, so that a rollback does not wait for it.

    Raises:
        LockTimeout: another change is in progress. StoreError: the directory cannot be used.
    """
    found = production(config)
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        catch_up_with_store(config)
        for finding in mend(found, config.candidates_dir):
            log.warning("%s: %s", finding.done, finding.text)
        found.show()
        yield found


def in_turn(config: Config, change: Callable[[Production], T], *, whatever_is_live: bool = False) -> T:
    """Return the result of a change, which begins again if another machine wrote live.json at the same time.

    Machines write it for each candidate that is archived or rejected as well, which must hold up no rollback.

    Args:
        whatever_is_live: also begin again if another version, label or experiment is live by then; `change` looks at
            that itself.

    Raises:
        StoreConflict: another machine has changed production, or was faster each time. Others: as `changing`.
    """
    mirror, before = mirror_of(config), None
    conflict: StoreConflict | None = None
    for _ in range(TRIES):
        try:
            with changing(config) as found:
                live = mirror.base().live if mirror is not None else None
                now = live and (live.versions, live.labels, live.experiment)
                if conflict is not None and now != before and not whatever_is_live:
                    break
                before = now
                return change(found)
        except StoreConflict as exc:
            conflict = exc
    assert conflict is not None
    raise conflict


def examine(config: Config, *, only_look: bool) -> list[Finding]:
    """Return what the doctor finds, and repair it unless `only_look` is set."""
    found, beside, mirror = production(config), _on_attached(config, only_look), mirror_of(config)
    if only_look:
        if mirror is not None:
            with nothing_changed_yet():
                beside += [*behind(mirror), *damaged(mirror, only_look=True), *sweep(mirror, only_look=True)]
        looked = [*repair(found, config.candidates_dir, only_look=True), *catch_up(found, only_look=True), *beside]
        return [*looked, *find_leftovers(config, only_look=True)]
    with model_lock(found.model_dir, config.promote.lock_timeout_s):
        catch_up_with_store(config)
        findings = repair(found, config.candidates_dir)
        found.show()
        findings += [*damaged(mirror), *sweep(mirror)] if mirror else []
    return [*findings, *catch_up(found), *beside, *find_leftovers(config)]


def _on_attached(config: Config, only_look: bool) -> list[Finding]:
    """Return what dead runs left on an attached server, if one is configured."""
    if config.serving.backend != "attached":
        return []
    try:
        return [Finding("removed", text) for text in left_behind(config.serving.attached, only_look=only_look)]
    except ServingError as exc:
        return [Finding("reported", str(exc))]


def put_live(  # noqa: PLR0913, PLR0917  what goes live, beside what, and on whose word
    config: Config,
    candidate: Candidate,
    run: TrackedRun,
    against: Champion | None,
    actor: str,
    without: str = "",
    reviewed: Reviewed | None = None,
) -> Promotion:
    """Make a candidate that passed live, unless the champion that it was compared with is no longer live.

    Args:
        against: the champion that it was compared with, or None.
        actor: who approved, or empty. without: why the promotion has no proven way back, for the history, or empty.
        reviewed: the approval, which must count under the lock as well, or None.
    """
    watched = watch(config)
    watched.wait()
    try:
        step = partial(_put_live, config, candidate, run, against, actor, without, reviewed)
        found, promotion = in_turn(config, step, whatever_is_live=True)
    except StoreConflict as exc:
        return Promotion(PromotionState.STALE, None, f"another machine was faster: {exc}")
    if promotion.state is PromotionState.STALE:
        return promotion
    # After the lock is released, so that a rollback waits neither for metrics nor for MLflow.
    return _told(found, with_metrics(config, watched, promotion))


def _put_live(  # noqa: PLR0913, PLR0917  those of `put_live`
    config: Config,
    candidate: Candidate,
    run: TrackedRun,
    against: Champion | None,
    actor: str,
    without: str,
    reviewed: Reviewed | None,
    found: Production,
) -> tuple[Production, Promotion]:
    """Make a candidate live as `put_live` does, under the lock; a conflict with another machine is an error.

    A champion whose files have changed is another one, so that the candidate is judged again, with its way back.
    """
    champion = find_champion(found.model_dir, found.layout)
    if champion and champion.digest == candidate.digest:
        if run.mlflow_run_id == served_run(read(found.model_dir), champion.version):  # MLflow could not be updated
            is_live = f"version {champion.version} is live"
            return found, Promotion(PromotionState.PROMOTED, champion.version_dir, is_live)
        return found, _unchanged(found, candidate, champion.version, "is live")
    if actor and (rejected := rejection(read(found.model_dir), candidate.version, candidate.digest)):
        return found, Promotion(PromotionState.REJECTED, None, f"{rejected.actor} has rejected it: {rejected.reason}")
    approved = None
    if reviewed is not None:
        try:
            approved = approval_of(config, reviewed, read(found.model_dir))
        except ProofMismatch as exc:
            return found, Promotion(PromotionState.REFUSED, None, f"its approval does not count any more: {exc}")
    if (champion and champion.digest) != (against and against.digest):
        now = f"version {champion.version}" if champion else "no version"
        was = f"version {against.version}" if against else "no version"
        changed = f"{now} is live now" if now != was else "its files have changed since then"
        return found, Promotion(PromotionState.STALE, None, f"it was compared with {was}, but {changed}")
    labels = labels_of(found.model_dir) if found.layout == "labels" else {}
    if (canary := _equal_canary(found, labels, candidate, run)) is not None:
        return found, _unchanged(found, candidate, canary, "is the canary")
    number, directory = _number(config, candidate)
    _not_in_experiment(found, number)
    who = approved.words if approved else f"approved by {actor}" if actor else ""
    change = replace(
        publishing(found, candidate, champion, number, directory),
        run=run.mlflow_run_id, registry_version=run.registry_version, actor=actor,
        reason="; ".join(filter(None, (who, without_way_back(without)))),
        approval=approved.signed if approved else "",
    )  # fmt: skip
    return found, make_change(config, found, change)


def _unchanged(found: Production, candidate: Candidate, version: int, state: str) -> Promotion:
    """Return the outcome of another run's candidate whose bytes production has: nothing is changed, but it is asked."""
    live_dir = versions(found.model_dir)[version]
    same = f"candidate {candidate.version} has the bytes of version {version}, which {state}"
    problem = found.verify(Change("publish", version, live_dir.name, candidate.digest))
    if problem:
        reason = f"{same}, but production does not serve it as it was judged: {problem}; nothing was changed"
        return Promotion(PromotionState.NOT_SERVED, None, reason)
    return Promotion(PromotionState.UNCHANGED, live_dir, f"{same}; nothing was changed")


def _equal_canary(found: Production, labels: Mapping[str, int], candidate: Candidate, run: TrackedRun) -> int | None:
    """Return the version of the canary if it has a candidate's bytes and came from another run, else None."""
    version, live = labels.get(CANARY), versions(found.model_dir)
    if version is None or version not in live or not holds(live[version], candidate.digest):
        return None
    return None if run.mlflow_run_id == served_run(read(found.model_dir), version) else version


def _not_in_experiment(found: Production, version: int) -> None:
    """Refuse to publish a version again that users are served in an experiment; it could be withdrawn from them."""
    known = running(found.model_dir)
    arm = next((arm for arm in known.arms if arm.version == version), None) if known else None
    if known and arm:
        raise StoreError(
            f"version {version} must not be published again while it is '{arm.label}' of the experiment {known.name}: "
            f"make it stable with {command_name('flows.ab')} --to {arm.label}, or end the experiment with --stop"
        )


def _warn_of_experiment(found: Production) -> None:
    """Say that a rollback has changed what the clients of an experiment get."""
    try:
        known = running(found.model_dir)
        changed = moved(found.model_dir, known) if known else []
    except StoreError as exc:  # the rollback has been made
        log.warning("%s", exc)
        return
    if known and changed:
        log.warning(
            "the experiment %s is no longer what it was: %s. Its outcomes from now on decide nothing; end it with %s "
            "--stop", known.name, "; ".join(changed), command_name("flows.ab"),
        )  # fmt: skip


def go_back(config: Config, to: int | None, actor: str) -> Promotion:
    """Make the previous version, or version `to`, live again.

    This does not wait for MLflow and for metrics; `inform` and `with_metrics` do so afterwards.

    Raises:
        StoreError: there is no version to go back to, or its files are gone.
    """

    def back(found: Production) -> Promotion:
        change = going_back(found, config.candidates_dir, to, actor)
        _check_proof(found, change.version, Path(change.source), change.digest)
        if found.layout == "labels":
            promotion = make_change(config, found, change)
            _warn_of_experiment(found)
            return promotion
        with next_number(config.candidates_dir, found.model_dir, claim_of(config)) as number:
            directory = f"{number:0{config.export.version_width}d}"
        return make_change(config, found, replace(change, version=number, directory=directory))

    return in_turn(config, back)


def without_way_back(why: str) -> str:
    """Return the words about a promotion without a proven way back, for journal, history and outbox, or nothing."""
    return f"without a proven way back: {one_line(redact(why), MOST_WHY)}" if why else ""


def damage_of(config: Config, found: Production, stable: int | None) -> str:
    """Return why a rollback could not put back the version that is stable now, as its files show, or an empty string.

    No server is asked: the version that takes its place was judged beside it, or beside the stable one of that time.
    """
    way = served_version(found.model_dir, config.candidates_dir, stable)[0] if stable is not None else None
    if way is None or not way.problem:
        return ""
    return f"version {stable}, which a rollback would return to, cannot be served: {way.problem}"


def _check_proof(found: Production, version: int, directory: Path, digest: str) -> None:
    """Refuse bytes without the proof that `promote.require_proof` demands.

    Raises:
        ProofMismatch: they do not verify.
    """
    if problem := found.unproven(directory, digest):
        raise ProofMismatch(
            f"version {version} must have a proof (promote.require_proof), but {problem}; choose another version, or "
            "add --set promote.require_proof=false if you accept these bytes without one"
        )


def inform(config: Config) -> None:
    """Send the changes of production to MLflow.

    Raises:
        TrackingError: MLflow cannot be updated; the next promotion or the doctor will do it.
    """
    tell(production(config))


def move_label(config: Config, actor: str) -> Promotion:
    """Make the canary the stable version."""
    watched = watch(config)
    watched.wait()

    def move(found: Production) -> tuple[Production, Promotion]:
        change = making_stable(found, actor)
        _check_proof(found, change.version, found.model_dir / change.directory, change.digest)
        damage = damage_of(config, found, change.previous)
        if damage and not config.promote.allow_no_way_back:
            return found, Promotion(PromotionState.REFUSED, None, f"{damage}; {REMEDY}")
        return found, make_change(config, found, replace(change, reason=without_way_back(damage)))

    found, promotion = in_turn(config, move)
    return _told(found, with_metrics(config, watched, promotion))


def with_metrics(config: Config, watched: Watch, promotion: Promotion) -> Promotion:
    """Return an outcome with what production's metrics say about it, which MLflow will be told; never fails.

    Args:
        watched: began before the change.
    """
    change = promotion.change
    if change is None:
        return promotion
    try:
        metrics = watched.told(config.name, change.version, first=change.previous is None)
    except Exception as exc:  # noqa: BLE001  production has been changed, whatever its metrics are
        log.warning("production's metrics are unknown: %s", type(exc).__name__)
        return promotion
    if not metrics:
        return promotion
    log.info("production's metrics: %s", metrics)
    problem = "the change does not wait in its outbox"
    try:
        written = annotate(config.live_dir, change, metrics)
    except StoreError as exc:
        written, problem = False, str(exc)
    if not written:
        log.warning("MLflow does not get production's metrics: %s", problem)
    return replace(promotion, metrics=metrics)


def make_change(config: Config, found: Production, change: Change) -> Promotion:
    """Make a change, then prune; return the outcome."""
    result = carry_out(found, change)
    if result.state != "live":
        before = f"; version {change.previous} is still live" if change.previous else ""
        return Promotion(PromotionState.ROLLED_BACK, None, f"{result.reason}{before}", change)
    is_canary = change.label == CANARY
    what = f"version {change.version} is {'the canary' if is_canary else 'live'}"
    if result.unwritten:
        log.warning(
            "%s, but this could not be recorded: %s; the next change or the doctor will do it", what, result.unwritten
        )
    keep = 0 if result.unwritten else config.promote.keep
    try:
        in_use = digests_in_use(config) if keep else ()
        for path in prune(found.model_dir, config.candidates_dir, found.layout, keep, in_use, found.signer):
            log.info("removed %s (promote.keep: %d)", path, config.promote.keep)
        if not result.unwritten:
            found.show()
            forget_old(config, in_use)
    except (StoreError, OSError) as exc:  # the change succeeded, and MLflow must be updated; the next one prunes again
        log.warning("old versions could not be removed: %s", exc)
    reason = ", ".join(filter(None, (what, change.reason)))
    state = PromotionState.CANARY if is_canary else PromotionState.PROMOTED
    settled.append(Promotion(state, result.live_dir, reason, change))
    return settled[-1]


def _told(found: Production, promotion: Promotion) -> Promotion:
    """Return an outcome after sending it to MLflow; if that fails, the outcome does not change."""
    try:
        tell(found)
    except (TrackingError, StoreError) as exc:
        log.warning(
            "%s, but MLflow could not be updated; the next promotion or the doctor will do it: %s",
            promotion.reason,
            exc,
        )
    return promotion


def _number(config: Config, candidate: Candidate) -> tuple[int, str]:
    """Return the live version number and its directory name: the candidate's own, unless a higher one was live."""
    model_dir = config.live_dir
    ever_live = [e.version for e in read(model_dir) if e.state in (*SERVED, "rolled back", "superseded")]
    if candidate.version > max([0, *ever_live, *versions(model_dir)]):
        return candidate.version, candidate.version_dir.name
    served = versions(model_dir).get(candidate.version)
    again = served_digest(read(model_dir), candidate.version) == candidate.digest
    if served is not None and again and config.promote.layout == "labels":
        return candidate.version, served.name  # the same canary again
    with next_number(config.candidates_dir, model_dir, claim_of(config)) as number:
        return number, f"{number:0{config.export.version_width}d}"
