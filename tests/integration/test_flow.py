"""The whole flow in Prefect's harness: states, their names and messages, what they carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DataError
from tasks.records import Outcome

pytestmark = [
    # Prefect's and MLflow's own dependencies have moved on; neither is judged here.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included:DeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
USER = "tests.data.user_models"


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """Have a Prefect server and database of their own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a user whose model has two outputs, one of them renamed."""
    directory = tmp_path_factory.mktemp("user")
    (directory / "cfg.yaml").write_text(f"""
name: pair
data: {{load: "{USER}:pairs"}}
model: {{build: "{USER}:two_by_two"}}
training: {{epochs: 1}}
export: {{outputs: {{sum: total, odd: odd}}}}
gates: {{metric_output: sum}}
serving: {{backend: embedded}}
""")
    return directory


@pytest.fixture
def rehearse(prefect_server: None, user: Path) -> Callable[..., Any]:
    """Return a function that runs the flow and returns its final state."""
    from flows.train_and_serve import train_and_serve

    def running(*overrides: str, promote: bool = True) -> Any:
        return train_and_serve(str(user / "cfg.yaml"), list(overrides), promote, return_state=True)

    return running


def test_a_model_that_passes_is_promoted(rehearse: Callable[..., Any], user: Path) -> None:
    """The final state is completed, named Promoted, and carries the outcome: metric of the renamed output included."""
    state = rehearse("gates.metrics={rmse: {max: 1000}}")
    assert (state.type.name, state.name) == ("COMPLETED", "Promoted"), state.message
    outcome: Outcome = state.result()
    assert outcome.report.passed
    assert outcome.promotion.live_dir == user / "models" / "pair" / "1"
    assert {gate.name: gate.figures for gate in outcome.report.gates}["quality"]["rmse"] > 0
    stages = ("prepare_data", "train_model", "export_model", "validate_serving", "log_run", "promote_model")
    assert set(outcome.seconds) >= set(stages)
    assert all(outcome.seconds[stage] > 0 for stage in stages)


def test_a_model_that_fails_a_gate_is_rejected_not_crashed(rehearse: Callable[..., Any], user: Path) -> None:
    """The final state is completed, named Rejected, and its message says which figure missed which bound."""
    live = sorted((user / "models" / "pair").iterdir()) if (user / "models").exists() else []
    state = rehearse("gates.metrics={rmse: {max: 0}}")
    assert (state.type.name, state.name) == ("COMPLETED", "Rejected"), state.message
    assert "rmse" in state.message
    assert "at most 0" in state.message
    assert state.result().promotion.live_dir is None
    assert (sorted((user / "models" / "pair").iterdir()) if (user / "models").exists() else []) == live


def test_promotion_that_is_not_wanted(rehearse: Callable[..., Any], user: Path) -> None:
    """With promote=False a model that passes ends in a completed state that is not named Promoted."""
    state = rehearse(promote=False)
    assert state.is_completed(), state.message
    assert state.name == "NotPromoted"
    assert state.result().report.passed


def test_a_stage_that_cannot_tell_fails_the_run(rehearse: Callable[..., Any]) -> None:
    """An error of a stage, raised in the TensorFlow process, fails the run with its class and is not tried again."""
    state = rehearse("data.params={colour: red}")
    assert state.is_failed()
    with pytest.raises(DataError, match="colour"):
        state.result()
