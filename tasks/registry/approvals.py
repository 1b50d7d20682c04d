"""What reviewers say on MLflow's pages: the tag `review` of a model version, `approved` or `rejected`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema import Config
from tasks.errors import TrackingError
from tasks.registry.connection import connect, tracking_errors

REVIEW, REVIEWER = "review", "reviewed_by"
WAITING = "awaiting review"


@dataclass(frozen=True)
class Reviewed:
    """A model version that waits, and what was said of it.

    Attributes:
        registry_version: MLflow's number. candidate: the candidate's number.
        digest: of the bytes that were validated, as tagged then. review: `approved`, `rejected`, or empty.
        by: who said so, where that is known. run_id: MLflow's run.
    """

    registry_version: int
    candidate: int
    digest: str
    review: str
    by: str
    run_id: str


def waiting_versions(config: Config) -> list[Reviewed]:
    """Return the versions of the model that wait for a person, the oldest first, whatever was said of them.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        found = client.search_model_versions(f"name = '{config.name}'", max_results=1000)
    waiting = [_reviewed(version) for version in found if version.tags.get("promotion") == WAITING]
    return sorted(waiting, key=lambda version: version.registry_version)


def _reviewed(version: Any) -> Reviewed:
    tags: Mapping[str, str] = version.tags
    number = tags.get("serving_version", "")
    return Reviewed(
        int(version.version),
        int(number) if number.isdigit() else 0,
        tags.get("digest", ""),
        tags.get(REVIEW, "").strip().lower(),
        tags.get(REVIEWER, ""),
        str(version.run_id),
    )


def say(config: Config, candidate: int, review: str, by: str) -> Reviewed:
    """Say on MLflow's page what a reviewer decided about a candidate that waits.

    Raises:
        TrackingError: no such candidate waits, or MLflow cannot be reached.
    """
    waiting = waiting_versions(config)
    found = [version for version in waiting if version.candidate == candidate]
    if not found:
        numbers = ", ".join(str(version.candidate) for version in waiting) or "none"
        raise TrackingError(f"--version must be a candidate that awaits review, got {candidate}; waiting: {numbers}")
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        number = str(found[-1].registry_version)
        client.set_model_version_tag(config.name, number, REVIEWER, by)
        client.set_model_version_tag(config.name, number, REVIEW, review)
    return next(version for version in waiting_versions(config) if version.registry_version == int(number))


def close(config: Config, reviewed: Reviewed, state: str, reason: str) -> None:
    """Say on MLflow's page what became of a version that waits, and why."""
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        number = str(reviewed.registry_version)
        client.set_model_version_tag(config.name, number, "promotion", state)
        client.set_model_version_tag(config.name, number, "reason", reason[:4000])
        client.set_tag(reviewed.run_id, "promotion", state)
        known = client.get_model_version(config.name, number).description or ""
        client.update_model_version(config.name, number, f"**{state}: {reason}**\n\n{known}")
