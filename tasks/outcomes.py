"""The possible outcomes of a rehearsal, each with its exit code, colour and Prefect state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from tasks.records import Change, Leaderboard, SweepRun, TrackedRun, ValidationReport

DONE, FAILED, USAGE, REJECTION, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of every command."""
GREEN, RED, YELLOW = "green", "red", "yellow"  # rich's names


class PromotionState(StrEnum):
    """The outcome of a candidate; the value is shown in MLflow's tags and to people.

    Attributes:
        exit_code: exit code of the command.
        colour: colour of its line in a terminal.
    """

    exit_code: int
    colour: str

    def __new__(cls, value: str, exit_code: int, colour: str) -> Self:
        """Create a member from its line below."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.exit_code = exit_code
        member.colour = colour
        return member

    PROMOTED = "promoted", DONE, GREEN
    CANARY = "canary", DONE, GREEN
    AWAITING_REVIEW = "awaiting review", DONE, YELLOW
    NOT_PROMOTED = "not promoted", DONE, ""  # --no-promote
    UNCHANGED = "unchanged", DONE, GREEN  # its bytes are live already
    REJECTED = "rejected", REJECTION, RED  # by a gate or a person
    REFUSED = "refused", REJECTION, RED  # approved, but not identical to what was judged
    IN_EXPERIMENT = "in experiment", DONE, GREEN  # versions are live under labels of their own
    EXPERIMENT_ENDED = "experiment ended", DONE, ""
    ROLLED_BACK = "rolled back", FAILED, RED  # production did not serve it as it was judged
    NOT_SERVED = "not served", FAILED, RED  # its bytes are live already, but production does not serve them
    STALE = "stale", FAILED, RED  # the champion beside which it was judged is no longer live

    @property
    def flow_state(self) -> str:
        """Return the name of Prefect's state, such as `AwaitingReview`."""
        return self.value.title().replace(" ", "")


ALREADY_LIVE = (PromotionState.UNCHANGED, PromotionState.NOT_SERVED)


@dataclass(frozen=True)
class Promotion:
    """The outcome of a candidate, with its reason.

    Attributes:
        live_dir: `<models_root>/<name>/<N>` when promoted, or unchanged; else None.
        reason: one line for people.
        change: the change of production that was made or taken back, or None.
        metrics: what production's metrics say about it, one line, or empty.
    """

    state: PromotionState
    live_dir: Path | None
    reason: str
    change: Change | None = None
    metrics: str = ""


@dataclass(frozen=True)
class Outcome:
    """The complete result of a rehearsal, for the caller of the flow. `seconds` is by stage."""

    report: ValidationReport
    run: TrackedRun
    promotion: Promotion
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class SweepOutcome:
    """The complete result of a sweep.

    Attributes:
        winner: the rehearsal of the best variant. board: all variants. run: the sweep's place in MLflow.
        overrides: `--set` items that give another command the winner's configuration.
    """

    winner: Outcome
    board: Leaderboard
    run: SweepRun
    overrides: tuple[str, ...]
