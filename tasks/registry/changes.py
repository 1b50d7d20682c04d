"""Record changes of production in MLflow; this is a record, never a lock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from configs.schema import Config
from tasks.outcomes import Promotion, PromotionState
from tasks.proof.directory import kept_statement
from tasks.proof.keys import key_id
from tasks.proof.signing import approvers_of
from tasks.records import Arm, Change, TrackedRun
from tasks.registry.connection import check_tracking, connect, tracking_errors, write
from tasks.registry.pages import update_pages
from tasks.report.standing import (
    APPROVERS,
    BY,
    CHANGED,
    EXPERIMENT,
    HEAD,
    METRICS,
    PENDING,
    PROOF,
    PROOF_OF,
    REVIEW,
    TIME,
    WAITING,
    now,
)

CHAMPION, CANARY = "champion", "canary"
STATEMENT_DIGEST = "proof_statement"


def record_change(config: Config, change: Change, *, overtaken: bool = False) -> None:
    """Move aliases and set tags for a change that is on the disk; recording it twice has no further effect.

    Args:
        overtaken: a later change was made, perhaps by another machine that told MLflow first; aliases stay then.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    check_tracking(config.tracking.uri)  # by itself MLflow tries for minutes
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        for arm in change.arms:
            _tell_arm(client, config, change, arm)
        if change.operation in ("experiment", "end"):
            return
        version = change.registry_version or version_of(client, config.name, change.digest)
        if change.operation == "withdraw":
            _tell(client, config, version, change, PromotionState.ROLLED_BACK)
            if not overtaken:
                _point(client, config.name, CHAMPION, version_of(client, config.name, change.previous_digest))
            return
        state = PromotionState.CANARY if change.label == CANARY else PromotionState.PROMOTED
        _tell(client, config, version, change, state)
        if change.rolls_back is not None:
            bad = version_of(client, config.name, change.previous_digest)
            its_end = replace(change, version=change.rolls_back, metrics="")
            _tell(client, config, bad, its_end, PromotionState.ROLLED_BACK)
            if str(client.get_registered_model(config.name).aliases.get(CANARY)) == str(bad):
                _point(client, config.name, CANARY, version)
        if not overtaken:
            _point(client, config.name, CANARY if change.label == CANARY else CHAMPION, version)


def record_outcome(config: Config, run: TrackedRun, promotion: Promotion) -> None:
    """Tag run and model version with an outcome that changed nothing in production.

    A version that a person may decide about has the tag `review` from then on, for the person to edit.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        tags = {"promotion": promotion.state.value, "reason": promotion.reason, TIME: now()}
        if promotion.state in WAITING:
            known = client.get_model_version(run.registry_name, str(run.registry_version)).tags
            tags[REVIEW] = known.get(REVIEW) or PENDING
            tags[APPROVERS] = ", ".join(key_id(public)[:8] for public in approvers_of(config))
        update_pages(client, config.tracking.pages, run.registry_name, run.registry_version, tags)


def all_versions(client: Any, name: str) -> list[Any]:
    """Return every version of a registered model; an empty list where there is no such model."""
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def version_of(client: Any, name: str, digest: str) -> int:
    """Return MLflow's number of the version that holds these bytes, or 0.

    Several runs can have made the same bytes: then it is the newest one that served, or the newest one if none did.
    """
    if not digest:
        return 0
    found = [v for v in all_versions(client, name) if v.tags.get("digest") == digest]
    newest = max(found, key=lambda v: (v.tags.get("promotion") in CHANGED, int(v.version)), default=None)
    return int(newest.version) if newest is not None else 0


def _tell(client: Any, config: Config, version: int, change: Change, state: PromotionState) -> None:
    """Write on a version's pages what a change of production meant for it; without a version, tag the run only."""
    if version:
        tags = {
            "promotion": state.value, "serving_version": str(change.version), "reason": change.reason,
            TIME: change.time or now(), BY: change.actor, METRICS: change.metrics, HEAD: change.head,
            **_proof(config, change, state),
        }  # fmt: skip
        update_pages(client, config.tracking.pages, config.name, version, tags)
    elif change.run:
        client.set_tag(change.run, "promotion", state.value)


def _proof(config: Config, change: Change, state: PromotionState) -> dict[str, str]:
    """Return the tags that say which statement is kept about a version that a change made live, and where it is."""
    if state is PromotionState.ROLLED_BACK:  # the change may be about other bytes; a withdrawn directory has moved
        return {PROOF_OF: ""} if change.operation == "withdraw" else {}
    kept = kept_statement(config.live_dir, change.digest)
    if kept is None:
        return {}
    return {PROOF: str(kept), STATEMENT_DIGEST: kept.statement, PROOF_OF: str(config.live_dir / change.directory)}


def _tell_arm(client: Any, config: Config, change: Change, arm: Arm) -> None:
    """Write on the pages of a version what it is, or was, in an experiment."""
    version = version_of(client, config.name, arm.digest)
    if version:
        words = "since" if change.operation == "experiment" else "until"
        why = "" if change.operation == "experiment" else f": {change.reason}"
        part = f"{change.experiment}, label {arm.label}, {arm.share} %, {words} {change.time or now()}{why}"
        update_pages(client, config.tracking.pages, config.name, version, {EXPERIMENT: part})


def _point(client: Any, name: str, alias: str, version: int) -> None:
    """Set an alias, or remove it where there is no version to point at."""
    if version:
        write(client.set_registered_model_alias, name, alias, str(version))
    elif alias in client.get_registered_model(name).aliases:
        client.delete_registered_model_alias(name, alias)
