"""Gates: what passes, what fails, and what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from configs.schema import Bound
from tasks.errors import DataError
from tasks.gates.contract import judge_contract
from tasks.gates.parity import judge_parity
from tasks.gates.quality import judge_quality, labels, measure
from tasks.records import Signature, TensorSpec, ValidationReport

PIXELS = TensorSpec("pixels", "float32", (None, 64))
OUT = TensorSpec("probabilities", "float32", (None, 10))


def test_contract_passes_on_equal_signatures() -> None:
    """The signature that was exported, reported in any order, passes."""
    extra = TensorSpec("age", "float32", (None,))
    assert judge_contract(Signature((PIXELS, extra), (OUT,)), Signature((extra, PIXELS), (OUT,))).passed


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ((), (OUT,), "input 'pixels' is not served"),
        ((PIXELS,), (OUT, TensorSpec("x", "int64", (None,))), "output 'x' was not exported"),
        ((TensorSpec("pixels", "float64", (None, 64)),), (OUT,), "exported as pixels: float32"),
        ((TensorSpec("pixels", "float32", (1, 64)),), (OUT,), "free batch dimension"),
        ((PIXELS,), (TensorSpec("probabilities", "float32", (None, 9)),), "(?, 9)"),
    ],
)
def test_contract_names_the_difference(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], words: str
) -> None:
    """Every difference of name, dtype or shape fails the gate and is named."""
    result = judge_contract(Signature((PIXELS,), (OUT,)), Signature(inputs, outputs))
    assert not result.passed
    assert words in result.summary


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e6, 1e6, width=32)),
    st.data(),
)
def test_parity_finds_the_one_row(values: np.ndarray, data: st.DataObject) -> None:
    """Equal arrays pass; one element moved beyond tolerance fails, and its row is named."""
    assert judge_parity({"y": values.copy()}, {"y": values}, 1e-5, 1e-5).passed
    where = tuple(data.draw(st.integers(0, n - 1)) for n in values.shape)
    moved = values.copy()
    moved[where] += np.float32(1e-3 + 1e-4 * abs(moved[where]))
    result = judge_parity({"y": moved}, {"y": values}, 1e-5, 1e-5)
    assert not result.passed
    assert f"row {where[0]}:" in result.summary
    assert result.figures["rows_differing"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["served", "in process", "both"])
def test_parity_refuses_what_is_not_finite(bad: float, side: str) -> None:
    """NaN or infinity fails on either side, and on both."""
    served, own = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    if side != "in process":
        served[1, 0] = bad
    if side != "served":
        own[1, 0] = bad
    result = judge_parity({"y": served}, {"y": own}, 1e-5, 1e-5)
    assert not result.passed
    assert "row 1" in result.summary


def test_parity_names_output_and_shape() -> None:
    """Another shape fails with both shapes; text and integers must be equal."""
    assert "(2,) served, (3,) in process" in judge_parity({"y": np.zeros(2)}, {"y": np.zeros(3)}, 1, 1).summary
    result = judge_parity(
        {"a": np.array([1, 2]), "t": np.array(["x", "y"])},
        {"a": np.array([1, 2]), "t": np.array(["x", "z"])},
        1,
        1,
    )
    assert result.summary.startswith("output 't'")


def test_metrics_agree_with_scikit_learn() -> None:
    """Each metric is scikit-learn's figure on the same answers."""
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 200).astype(np.float32)
    target = rng.integers(0, 4, 200)
    picked = scores.argmax(1)
    assert measure("accuracy", target, scores) == sk.accuracy_score(target, picked)
    assert measure("macro_f1", target, scores) == sk.f1_score(target, picked, average="macro")
    assert measure("log_loss", target, scores) == pytest.approx(
        sk.log_loss(target, scores / scores.sum(1, keepdims=True))
    )
    y, guess = rng.normal(size=50), rng.normal(size=(50, 1))
    assert measure("rmse", y, guess) == pytest.approx(sk.root_mean_squared_error(y, guess[:, 0]))
    assert measure("mae", y, guess) == pytest.approx(sk.mean_absolute_error(y, guess[:, 0]))
    assert measure("r2", y, guess) == pytest.approx(sk.r2_score(y, guess[:, 0]))
    binary = rng.random((80, 1))
    assert measure("log_loss", target[:80] % 2, binary) == pytest.approx(sk.log_loss(target[:80] % 2, binary[:, 0]))


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (np.array([[0.1, 0.9], [0.8, 0.2]]), [1, 0]),
        (np.array([0.2, 0.7]), [0, 1]),
        (np.array([[0.2], [0.7]]), [0, 1]),
        (np.array([2, 0]), [2, 0]),
    ],
)
def test_labels(served: np.ndarray, expected: list[int]) -> None:
    """Scores name their highest class, probabilities are cut at one half, integers are labels."""
    assert labels(served).tolist() == expected


def test_quality_bounds() -> None:
    """A metric below its minimum, above its maximum, or NaN fails; the summary shows figure and bound."""
    target, served = np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])
    assert judge_quality({"accuracy": Bound(min=0.75)}, target, served).passed
    failed = judge_quality({"accuracy": Bound(min=0.76)}, target, served)
    assert not failed.passed
    assert failed.summary == "accuracy 0.75 (at least 0.76)"
    assert not judge_quality({"rmse": Bound(max=0.1)}, target, served).passed
    assert not judge_quality({"mae": Bound()}, target, np.full(4, np.nan)).passed


def test_quality_without_bounds_says_so() -> None:
    """No bound is no silent approval."""
    assert "no metric bound" in judge_quality({}, np.zeros(1), np.zeros(1)).summary


def test_metric_that_does_not_fit_is_an_error() -> None:
    """A metric that cannot be computed is an error with both shapes, not a verdict."""
    with pytest.raises(DataError, match=r"shape \(3,\).*shape \(2, 2\)"):
        measure("rmse", np.zeros(3), np.zeros((2, 2)))


def test_no_gates_is_no_approval() -> None:
    """A report without a gate has not passed."""
    assert not ValidationReport(None, None, ()).passed  # type: ignore[arg-type]


def test_no_tolerance_covers_what_is_not_finite() -> None:
    """Even an infinite tolerance does not let NaN pass."""
    assert not judge_parity({"y": np.array([1.0, np.nan])}, {"y": np.array([5.0, 2.0])}, np.inf, np.inf).passed


def test_residuals_are_never_broadcast() -> None:
    """One target column against three output columns is an error, not a figure."""
    with pytest.raises(DataError, match="shapes differ"):
        measure("rmse", np.zeros(4), np.zeros((4, 3)))
