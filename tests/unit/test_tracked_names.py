"""Names that MLflow takes, whatever a model's metrics and parameters are called."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from tasks.registry.names import LONGEST, read_back, tracked_name

NAMES = st.text(st.one_of(st.sampled_from("_x40./@:- a%(\\\0ä"), st.characters()), max_size=20)


@given(NAMES)
@example("")
@example("..")
@example("_x40_")
@example("_x4@")
@example("_@x40_")
@example("../../etc")
@example("a//b")
def test_any_name_is_taken_and_can_be_read_back(name: str) -> None:
    """MLflow's own checks take what a name becomes, and the name can be told from it."""
    tracked = tracked_name(name)
    _validate_metric_name(tracked)
    _validate_param_name(tracked)
    assert read_back(tracked) == name


@pytest.mark.parametrize(
    ("name", "tracked"),
    [
        ("val_loss", "val_loss"), ("gate.parity.rows", "gate.parity.rows"), ("top k: 5", "top k: 5"),
        ("recall@2", "recall_x40_2"), ("lr (max)", "lr _x28_max_x29_"), ("a<b", "a_x3c_b"), ("größe", "gr_xf6__xdf_e"),
    ],
)  # fmt: skip
def test_usual_names_stay(name: str, tracked: str) -> None:
    """What MLflow takes is not touched, and what it does not take can be read by people."""
    assert tracked_name(name) == tracked


def test_long_names_are_cut_and_stay_apart() -> None:
    """A name that is too long keeps its beginning, and two of them never become one."""
    one, other = tracked_name("a" * 1000), tracked_name("a" * 1001)
    assert len(one) == len(other) == LONGEST
    assert one != other
    _validate_metric_name(one)
