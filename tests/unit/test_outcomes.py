"""What follows from each outcome of a rehearsal."""

import pickle

import pytest

from tasks.outcomes import PromotionState

TABLE = {
    "promoted": (0, "green", "Promoted"),
    "canary": (0, "green", "Canary"),
    "awaiting review": (0, "yellow", "AwaitingReview"),
    "not promoted": (0, "", "NotPromoted"),
    "unchanged": (0, "green", "Unchanged"),
    "rejected": (3, "red", "Rejected"),
    "refused": (3, "red", "Refused"),
    "in experiment": (0, "green", "InExperiment"),
    "experiment ended": (0, "", "ExperimentEnded"),
    "rolled back": (1, "red", "RolledBack"),
    "not served": (1, "red", "NotServed"),
    "stale": (1, "red", "Stale"),
}


def test_every_outcome_has_its_exit_code_colour_and_state() -> None:
    """Scripts read the exit code, people the colour, Prefect's pages the name."""
    assert {s.value: (s.exit_code, s.colour, s.flow_state) for s in PromotionState} == TABLE


@pytest.mark.parametrize("state", PromotionState)
def test_an_outcome_stays_itself(state: PromotionState) -> None:
    """Prefect keeps results as pickles; what is read back is the same member, and reads as its value."""
    assert pickle.loads(pickle.dumps(state)) is state
    assert f"{state}" == state.value
