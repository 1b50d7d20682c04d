"""What reviewers decide on MLflow's pages: the tag `review` of a model version, `approved` or `rejected`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema import Config
from tasks.outcomes import PromotionState
from tasks.registry.changes import all_versions
from tasks.registry.connection import check_tracking, connect, tracking_errors, write
from tasks.registry.pages import update_pages
from tasks.report.standing import APPROVAL, APPROVED, BY, PENDING, REJECTED, REVIEW, REVIEWER, TIME, WAITING, now
from tasks.words import one_line

MOST_NAME = 200  # characters of a reviewer's name, which anyone may have written
UNDECIDED = ("", PENDING)
ONCE_MORE = (*WAITING, "rolled back")  # by name only: an old tag must not bring it back again and again


@dataclass(frozen=True)
class Reviewed:
    """A model version, and what a reviewer decided about it.

    Attributes:
        registry_version: MLflow's number. candidate_version: the candidate's number.
        digest: of the bytes that were validated, as tagged then. review: `pending`, `approved`, `rejected`, or empty.
        by: who decided, where that is known. mlflow_run_id: MLflow's run. promotion: what has become of it until now.
        approval: the signed approval, or empty.
    """

    registry_version: int
    candidate_version: int
    digest: str
    review: str
    by: str
    mlflow_run_id: str
    promotion: str
    approval: str = ""

    @property
    def waits(self) -> bool:
        """Return whether a person may decide about it."""
        return self.promotion in WAITING

    @property
    def is_decided(self) -> bool:
        """Return whether it has a decision that has not been carried out."""
        if self.waits:
            return self.review in (APPROVED, REJECTED)
        return self.promotion == REJECTED and self.review == APPROVED  # which cannot be, and must be answered


def reviewed_versions(config: Config) -> list[Reviewed]:
    """Return every version of the model, the oldest first, with what reviewers decided about it.

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
        one_line(tags.get(REVIEWER, ""), MOST_NAME),
        str(version.run_id),
        tags.get("promotion", ""),
        tags.get(APPROVAL, ""),
    )


def set_review(config: Config, reviewed: Reviewed, review: str, by: str, approval: str = "") -> None:
    """Write what a reviewer decided at a terminal on MLflow's page.

    Args:
        approval: the signed approval. It is written before the decision, of which others are told at once; without one,
            an earlier approval is removed.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        number = str(reviewed.registry_version)
        if approval:  # as it is: an envelope holds no secret, and hiding a part of it would break its signature
            write(client.set_model_version_tag, config.name, number, APPROVAL, approval)
        elif reviewed.approval:
            client.delete_model_version_tag(config.name, number, APPROVAL)
        tags = {"promotion": PromotionState.AWAITING_REVIEW.value, REVIEWER: by, REVIEW: review, TIME: now()}
        update_pages(client, config.tracking.pages, config.name, reviewed.registry_version, tags)


def close(config: Config, reviewed: Reviewed, state: str, reason: str) -> None:
    """Write what became of a waiting version, and why, on MLflow's page."""
    client = connect(config)
    with tracking_errors(config.tracking.uri):
        tags = {"promotion": state, "reason": reason, TIME: now(), BY: reviewed.by}
        update_pages(client, config.tracking.pages, config.name, reviewed.registry_version, tags)
