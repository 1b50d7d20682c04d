"""What reviewers say on MLflow's pages: the tag `review` of a model version, `approved` or `rejected`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.redaction import redact
from configs.schema import Config
from tasks.registry.changes import MAX_TAG, all_versions
from tasks.registry.connection import check_tracking, connect, tracking_errors

REVIEW, REVIEWER = "review", "reviewed_by"
APPROVED, REJECTED = "approved", "rejected"
AWAITING = "awaiting review"
WAITING = (AWAITING, "not promoted")  # it passed every gate, and a person may decide
ONCE_MORE = (*WAITING, "rolled back")  # by name only: an old tag must not bring it back again and again


@dataclass(frozen=True)
class Reviewed:
    """A model version, and what was said of it.

    Attributes:
        registry_version: MLflow's number. candidate: the candidate's number.
        digest: of the bytes that were validated, as tagged then. review: `approved`, `rejected`, or empty.
        by: who said so, where that is known. run_id: MLflow's run. promotion: what has become of it until now.
    """

    registry_version: int
    candidate: int
    digest: str
    review: str
    by: str
    run_id: str
    promotion: str

    @property
    def waits(self) -> bool:
        """Return whether a person may decide about it."""
        return self.promotion in WAITING

    @property
    def is_decided(self) -> bool:
        """Return whether something was said of it that nobody has acted on."""
        if self.waits:
            return self.review in (APPROVED, REJECTED)
        return self.promotion == REJECTED and self.review == APPROVED  # which cannot be, and must be answered


def reviewed_versions(config: Config) -> list[Reviewed]:
    """Return every version of the model, the oldest first, with what was said of it.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    check_tracking(config.tracking.uri)
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        found = all_versions(client, config.name)
    return sorted(map(_reviewed, found), key=lambda version: version.registry_version)


def _reviewed(version: Any) -> Reviewed:
    tags: Mapping[str, str] = version.tags
    number = tags.get("candidate", "")
    return Reviewed(
        int(version.version),
        int(number) if number.isdigit() else 0,
        tags.get("digest", ""),
        tags.get(REVIEW, "").strip().lower(),
        tags.get(REVIEWER, ""),
        str(version.run_id),
        tags.get("promotion", ""),
    )


def say(config: Config, reviewed: Reviewed, review: str, by: str) -> None:
    """Say on MLflow's page what a reviewer decided at a terminal.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        number = str(reviewed.registry_version)
        for key, value in (("promotion", AWAITING), (REVIEWER, by), (REVIEW, review)):
            client.set_model_version_tag(config.name, number, key, value)


def close(config: Config, reviewed: Reviewed, state: str, reason: str) -> None:
    """Say on MLflow's page what became of a version that waits, and why."""
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        number = str(reviewed.registry_version)
        client.set_model_version_tag(config.name, number, "promotion", state)
        client.set_model_version_tag(config.name, number, "reason", redact(reason)[:MAX_TAG])
        client.set_tag(reviewed.run_id, "promotion", state)
        known = client.get_model_version(config.name, number).description or ""
        client.update_model_version(config.name, number, f"**{state}: {redact(reason)}**\n\n{known}")
