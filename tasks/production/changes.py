"""The changes of production that promotion, approval, rollback and doctor make."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.redaction import redact
from configs.schema import Config
from tasks.errors import ProofMismatch, ServingError, StoreConflict, StoreError
from tasks.gates.way_back import REMEDY
from tasks.objects.store import catch_up as catch_up_with_store
from tasks.objects.store import claim_of, mirror_of, nothing_changed_yet
from tasks.objects.upkeep import behind, damaged, sweep
from tasks.outcomes import Promotion, PromotionState
from tasks.production.approved import approval_of
from tasks.production.metrics import watch
from tasks.production.steps import going_back, making_stable, publishing
from tasks.production.turn import in_turn, make_change, production, told, with_metrics
from tasks.program import command_name
from tasks.records import Candidate, Champion, Change, TrackedRun
from tasks.registry.approvals import Reviewed
from tasks.savedmodel.manifest import holds
from tasks.serving.attached import left_behind
from tasks.store.champion import find_champion
from tasks.store.experiment import moved, running
from tasks.store.history import SERVED, read, rejection, served_digest, served_run
from tasks.store.layout import next_number, versions
from tasks.store.leftovers import find_leftovers
from tasks.store.lock import model_lock
from tasks.store.repair import Finding, catch_up, repair
from tasks.store.serving_config import labels_of
from tasks.store.transaction import CANARY, Production
from tasks.store.way_back import served_version
from tasks.words import one_line

log = logging.getLogger(__name__)

MOST_WHY = 600  # characters of the reason why a way back is not proven


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
    return told(found, with_metrics(config, watched, promotion))


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
    return told(found, with_metrics(config, watched, promotion))


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
