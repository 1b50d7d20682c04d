"""What MLflow is told of a change of production; a record, never a lock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from configs.redaction import redact
from configs.schema import Config
from tasks.outcomes import Promotion
from tasks.records import Change, TrackedRun
from tasks.registry.connection import check_tracking, connect, tracking_errors

CHAMPION, CANARY = "champion", "canary"
MAX_TAG = 4000  # characters that MLflow takes


def record_change(config: Config, change: Change) -> None:
    """Move aliases and set tags for a change that is on the disk; taking it twice is the same as once.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    check_tracking(config.tracking.uri)  # by itself MLflow tries for minutes
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        version = change.registry_version or version_of(client, config.name, change.digest)
        if change.operation == "withdraw":
            _tag(client, config.name, version, change, "rolled back")
            before = version_of(client, config.name, change.previous_digest)
            _point(client, config.name, CHAMPION, before)
            return
        state = CANARY if change.label == CANARY else "promoted"
        _tag(client, config.name, version, change, state)
        if change.rolls_back is not None:
            bad = version_of(client, config.name, change.previous_digest)
            _tag(client, config.name, bad, replace(change, version=change.rolls_back), "rolled back")
            if str(client.get_registered_model(config.name).aliases.get(CANARY)) == str(bad):
                _point(client, config.name, CANARY, version)
        _point(client, config.name, CANARY if state == CANARY else CHAMPION, version)


def record_outcome(config: Config, run: TrackedRun, promotion: Promotion) -> None:
    """Tag run and model version with an outcome that changed nothing in production.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        client.set_tag(run.run_id, "promotion", promotion.state.value)
        for key, value in (("promotion", promotion.state.value), ("reason", redact(promotion.reason)[:MAX_TAG])):
            client.set_model_version_tag(run.registry_name, str(run.registry_version), key, value)


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
    """Return MLflow's newest number of the version that holds these bytes, or 0."""
    if not digest:
        return 0
    return max((int(v.version) for v in all_versions(client, name) if v.tags.get("digest") == digest), default=0)


def _tag(client: Any, name: str, version: int, change: Change, state: str) -> None:
    if version:
        for key, value in (("promotion", state), ("serving_version", str(change.version)), ("reason", change.reason)):
            if value:
                client.set_model_version_tag(name, str(version), key, redact(value)[:MAX_TAG])
    run = change.run or (client.get_model_version(name, str(version)).run_id if version else "")
    if run:
        client.set_tag(run, "promotion", state)


def _point(client: Any, name: str, alias: str, version: int) -> None:
    """Set an alias, or take it away where it has nothing to point at."""
    if version:
        client.set_registered_model_alias(name, alias, str(version))
    elif alias in client.get_registered_model(name).aliases:
        client.delete_registered_model_alias(name, alias)
