"""Gates: what passes, what fails, and what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from configs.sections.gates import Bound, Gates, Latency
from tasks.datasets.blocks import joined
from tasks.errors import DataError
from tasks.gates.bootstrap import Interval
from tasks.gates.contract import judge_contract
from tasks.gates.latency import judge_latency
from tasks.gates.metrics import measure
from tasks.gates.parity import TOLERANCES, Tolerance, judge_parity, tolerances
from tasks.gates.quality import AnsweredRows, gain_text, judge_quality
from tasks.gates.scores import Scored
from tasks.records import BATCHES, GateResult, Reading, Signature, TensorSpec, ValidationReport

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


USUAL = Tolerance(1e-5, 1e-5)


def parity(served: dict[str, np.ndarray], own: dict[str, np.ndarray], tolerance: Tolerance = USUAL) -> GateResult:
    return judge_parity(served, own, dict.fromkeys(own, tolerance))


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e6, 1e6, width=32)),
    st.data(),
)
def test_parity_finds_the_one_row(values: np.ndarray, data: st.DataObject) -> None:
    """Equal arrays pass; one element moved beyond tolerance fails, and its row is named."""
    assert parity({"y": values.copy()}, {"y": values}).passed
    where = tuple(data.draw(st.integers(0, n - 1)) for n in values.shape)
    moved = values.copy()
    moved[where] += np.float32(1e-3 + 1e-4 * abs(moved[where]))
    result = parity({"y": moved}, {"y": values})
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
    result = parity({"y": served}, {"y": own})
    assert not result.passed
    assert "row 1" in result.summary


def test_parity_names_output_and_shape() -> None:
    """Another shape fails with both shapes; text and integers must be equal."""
    assert "(2,) served, (3,) in process" in parity({"y": np.zeros(2)}, {"y": np.zeros(3)}).summary
    result = parity(
        {"a": np.array([1, 2]), "t": np.array(["x", "y"])},
        {"a": np.array([1, 2]), "t": np.array(["x", "z"])},
        Tolerance(1, 1),
    )
    assert result.summary.startswith("output 't'")


def test_quality_bounds() -> None:
    """A metric below its minimum, above its maximum, or NaN fails; the summary shows figure and bound."""
    rows = AnsweredRows(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    assert quality(rows, accuracy=Bound(min=0.75)).passed
    failed = quality(rows, accuracy=Bound(min=0.76))
    assert not failed.passed
    assert failed.summary == "accuracy 0.75 (at least 0.76); read as binary labels"
    assert not quality(rows, rmse=Bound(max=0.1)).passed
    assert not quality(AnsweredRows(rows.target, np.full(4, np.nan)), mae=Bound(max=9)).passed


def quality(rows: AnsweredRows, *, slices: tuple[str, ...] = (), **metrics: Bound) -> GateResult:
    return judge_quality(Gates(metrics=metrics, slices=slices), rows)  # type: ignore[arg-type]


def classifier(target: np.ndarray, accuracy: float, seed: int) -> np.ndarray:
    """Return probabilities (n, 1) that name the right class of 0 and 1 in that share of the rows."""
    right = np.random.default_rng(seed).random(len(target)) < accuracy
    return np.where(right, target, 1 - target).astype(np.float32)[:, None] * 0.8 + 0.1


def test_noise_does_not_reject() -> None:
    """Of two models equally good, one that is 1 to 3 % behind by luck on 300 rows is never refused as worse."""
    behind = 0
    for seed in range(40):
        target = np.random.default_rng(seed).integers(0, 2, 300)
        rows = AnsweredRows(target, classifier(target, 0.9, 100 + seed), classifier(target, 0.9, 200 + seed))
        found = quality(rows, accuracy=Bound(min=0.5))
        if -0.03 <= found.figures["accuracy.gain"] <= -0.01:
            behind += 1
            assert found.passed, found.summary
            assert found.figures["accuracy.gain_high"] > 0
    assert behind >= 5


def test_what_is_worse_is_rejected() -> None:
    """A model that is worse by more than the bound is refused, one that is worse by less is not."""
    target = np.random.default_rng(1).integers(0, 2, 300)
    rows = AnsweredRows(target, classifier(target, 0.8, 2), classifier(target, 0.95, 3))
    found = quality(rows, accuracy=Bound(min=0.5))
    assert not found.passed
    assert found.champion["accuracy"] > found.figures["accuracy"] + 0.1
    assert found.figures["accuracy.gain_high"] < 0
    assert not quality(rows, accuracy=Bound(min=0.5, worse_by=0.02)).passed
    assert quality(rows, accuracy=Bound(min=0.5, worse_by=0.3)).passed
    assert not quality(rows, log_loss=Bound(max=9)).passed  # less is better


def test_better_must_be_proven() -> None:
    """With `better_by`, luck does not promote and a proven gain does."""
    target = np.random.default_rng(1).integers(0, 2, 300)
    better = AnsweredRows(target, classifier(target, 0.95, 2), classifier(target, 0.8, 3))
    assert quality(better, accuracy=Bound(better_by=0.05)).passed
    assert not quality(better, accuracy=Bound(better_by=0.5)).passed
    equal = AnsweredRows(target, classifier(target, 0.9, 2), classifier(target, 0.9, 3))
    assert not quality(equal, accuracy=Bound(better_by=0.0)).passed


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.0, 0.0, 0.0), "the same as the champion's"),
        ((0.0, -0.01, 0.02), "as good as the champion's (95% confidence interval: 0.01 worse to 0.02 better)"),
        ((0.3, -0.01, 0.7), "0.3 better than the champion's (95% confidence interval: 0.01 worse to 0.7 better)"),
        ((-0.86, -0.89, -0.82), "0.86 worse than the champion's (95% confidence interval: 0.89 worse to 0.82 worse)"),
        ((0.5, math.nan, math.nan), "0.5 better than the champion's (too few rows for a confidence interval)"),
        ((math.nan, math.nan, math.nan), "not comparable with the champion's"),
    ],
)
def test_a_gain_in_words(interval: tuple[float, float, float], text: str) -> None:
    """A gain is a sentence: how much, in which direction, and how sure the rows are."""
    assert gain_text(Interval(*interval), 0.95) == text


def test_intervals_hold_what_they_promise() -> None:
    """The 95 % interval of the gain between two models with a known gap covers it in about 95 of 100 draws."""
    covered = 0
    for seed in range(200):
        target = np.random.default_rng(seed).integers(0, 2, 400)
        rows = AnsweredRows(target, classifier(target, 0.85, 1000 + seed), classifier(target, 0.9, 2000 + seed))
        figures = quality(rows, accuracy=Bound(min=0.0)).figures
        covered += figures["accuracy.gain_low"] <= -0.05 <= figures["accuracy.gain_high"]
    assert 180 <= covered <= 199


def test_without_a_bound_the_champion_still_counts() -> None:
    """No configured metric: the usual ones are measured, and a proven loss of accuracy refuses."""
    target = np.random.default_rng(1).integers(0, 2, 300)
    worse = quality(AnsweredRows(target, classifier(target, 0.7, 2), classifier(target, 0.95, 3)))
    assert not worse.passed
    assert {"accuracy", "macro_f1", "log_loss", "auc", "brier"} <= set(worse.figures)
    y = np.random.default_rng(1).normal(size=300)
    assert {"rmse", "mae", "r2"} <= set(quality(AnsweredRows(y, y[:, None] + 0.1, y[:, None])).figures)


def test_slices() -> None:
    """A slice that is proven to be below a bound refuses and is named; a small or unlucky one does not."""
    target = np.random.default_rng(1).integers(0, 2, 400)
    group = np.array(["a"] * 300 + ["b"] * 80 + ["c"] * 20)
    served = classifier(target, 0.97, 2)
    served[300:380] = classifier(target[300:380], 0.6, 3)
    served[380:] = 1 - served[380:]
    found = quality(AnsweredRows(target, served, features={"group": group}), slices=("group",), accuracy=Bound(min=0.8))
    assert not found.passed
    assert "slice group=b: accuracy" in found.summary
    by_name = {one["slice"]: one for one in found.evidence["slices"]}
    assert by_name["group=a"]["passed"]
    assert not by_name["group=b"]["passed"]
    assert not by_name["group=c"]["judged"]
    assert by_name["group=b"]["rows"] == 80


def test_slices_of_numbers_are_quarters() -> None:
    """A feature of many numbers is cut at its quartiles, every row in one slice."""
    target = np.zeros(200, np.int64)
    rows = AnsweredRows(target, classifier(target, 1, 2), features={"age": np.arange(200.0)})
    slices = quality(rows, slices=("age",), accuracy=Bound(min=0.1)).evidence["slices"]
    assert [one["rows"] for one in slices] == [50, 50, 50, 50]


def test_quality_without_bounds_says_so() -> None:
    """No bound is no silent approval."""
    rows = AnsweredRows(np.zeros(1), np.zeros(1))
    assert "no bound is configured (gates.metrics)" in judge_quality(Gates(), rows).summary
    assert "no metric is configured (gates.metrics)" in judge_quality(Gates(), None).summary
    texts = AnsweredRows(np.array(["yes", "no"], np.dtypes.StringDType()), np.zeros((2, 1), np.float32))
    assert judge_quality(Gates(), texts).summary.startswith("nothing was scored; no bound is configured")


def test_metric_that_does_not_fit_is_an_error() -> None:
    """A metric that cannot be computed is an error with both shapes, not a verdict."""
    with pytest.raises(DataError, match=r"shape \(3,\).*shape \(3, 2\)"):
        measure("rmse", Scored(np.zeros(3), np.zeros((3, 2)), Reading("regression", "values")))


def test_no_gates_is_no_approval() -> None:
    """A report without a gate has not passed."""
    assert not ValidationReport(None, None, None, ()).passed  # type: ignore[arg-type]


def test_no_tolerance_covers_what_is_not_finite() -> None:
    """Even an infinite tolerance does not let NaN pass."""
    infinite = Tolerance(np.inf, np.inf)
    assert not parity({"y": np.array([1.0, np.nan])}, {"y": np.array([5.0, 2.0])}, infinite).passed


def test_tolerance_follows_the_dtype() -> None:
    """Unless it is configured, an output's tolerance is that of its dtype; text and integers have none."""
    outputs = tuple(TensorSpec(name, name, (None,)) for name in ("float16", "float32", "float64", "int64"))
    found = tolerances(Signature((), outputs), None, None)
    assert {name: t.atol for name, t in found.items()} == {**{k: TOLERANCES[k] for k in list(found)[:3]}, "int64": 0}
    assert set(tolerances(Signature((), outputs), 0.5, None).values()) >= {Tolerance(0.5, 1e-5)}


def test_small_batches_are_compared_too() -> None:
    """A difference that only a batch of two shows fails, and the summary says so."""
    own = np.arange(8, dtype=np.float32)
    small = {"1/y": own[:1], "2/y": own[:2] + np.float32([0, 1e-3])}
    found = judge_parity({"y": own}, {"y": own}, {"y": USUAL}, small_batches=small)
    assert not found.passed
    assert "in a batch of 2" in found.summary
    assert judge_parity({"y": own}, {"y": own}, {"y": USUAL}, small_batches={"1/y": own[:1]}).passed


def test_a_difference_that_only_later_rows_show() -> None:
    """A sum along the batch leaves its first rows as they are alone; the last ones give it away."""
    rows = np.ones(9, np.float32)
    alone = {f"{name}/y": np.cumsum(rows[part]) for name, part in BATCHES.items()}
    found = judge_parity({"y": np.cumsum(rows)}, {"y": np.cumsum(rows)}, {"y": USUAL}, small_batches=alone)
    assert "in a batch of the last 3: 3 of 3 rows differ" in found.summary


RAGGED = TensorSpec("y", "float32", (None, None, 2))


def long_as(rows: list[int], length: int, fill: float = 0.0) -> Any:
    """Return two numbers a place for rows of some lengths, filled up; what they are follows from row and place."""
    whole = np.full((len(rows), length, 2), fill, np.float32)
    for row, own in enumerate(rows):
        whole[row, :own] = np.arange(2 * own).reshape(own, 2) + own
    return whole


@pytest.mark.parametrize(
    ("pad", "company", "alone", "same"),
    [
        (None, long_as([2, 5], 5), long_as([2], 2), True),
        (None, long_as([2, 5], 5, fill=7), long_as([2], 2, fill=9), True),  # whatever stands behind the end
        (None, long_as([2, 5], 5), long_as([2], 2) + 1, False),
        (0.0, long_as([2, 5], 5), long_as([2], 2), True),
        (7.0, long_as([2, 5], 5, fill=7), long_as([2], 2), True),
        (7.0, long_as([2, 5], 5, fill=8), long_as([2], 2), False),
        (0.0, long_as([2, 5], 5), long_as([2], 2)[:, :1], False),  # cut short: the padding is not what stood there
        (0.0, long_as([2, 5], 5), long_as([2], 9), True),
        (0.0, long_as([2, 5], 5), long_as([2], 9, fill=1), False),
        (None, long_as([2, 5], 5), long_as([2], 2)[..., :1], False),  # an axis that is not free
        (None, long_as([2, 5], 5), long_as([2], 2)[..., 0], False),
    ],
)
def test_outputs_as_long_as_their_batch(pad: float | None, company: Any, alone: Any, same: bool) -> None:
    """Beside other rows an answer may be longer, by its declared padding or by what nobody declared, and not else."""
    whole, small = {"y": company}, {"1/y": alone}
    options: dict[str, Any] = {"small_batches": small, "outputs": (replace(RAGGED, pad=pad),)}
    assert judge_parity(whole, whole, {"y": USUAL}, **options).passed == same
    # in the very same batch nothing is left open, not even the length
    for served, agrees in ((alone, True), (alone[:, :-1], False), (alone + 1, False)):
        options |= {"small_batches": {"1/y": served}, "same_batches": small}
        assert judge_parity(whole, whole, {"y": USUAL}, **options).passed == (same and agrees)
    if company.shape[1] > 1:
        cut = {"y": company[:, :-1]}
        assert not judge_parity(cut, whole, {"y": USUAL}, **options | {"small_batches": {}}).passed


def test_a_row_is_compared_as_far_as_its_own_block_went() -> None:
    """Rows that were answered in two blocks of different lengths are each compared within their own."""
    first, second = long_as([2, 1], 2), long_as([5], 5, fill=3)
    whole = joined([{"y": first}, {"y": second}], [RAGGED])
    extents = np.array([[2, 2], [2, 2], [5, 2]])
    alone = long_as([2, 1, 5], 5, fill=8)
    options: dict[str, Any] = {"small_batches": {"the last 3/y": alone}, "outputs": (RAGGED,)}
    found = judge_parity(whole, whole, {"y": USUAL}, same_batches={"extent/y": extents}, **options)
    assert not found.passed  # row 1 is one place long, and behind it 8 is not what stood there
    assert "1 of 3 rows differ, worst in row 1:" in found.summary
    options["small_batches"] = {"the last 3/y": long_as([2, 1, 5], 5, fill=0)}
    assert judge_parity(whole, whole, {"y": USUAL}, same_batches={"extent/y": extents}, **options).passed


def test_worst_rows_carry_their_inputs() -> None:
    """The rows that differ most are listed with output, both values and the inputs that led to them."""
    own = np.zeros((6, 3), np.float32)
    moved = own.copy()
    moved[4, 2] = 1e-3
    found = judge_parity({"y": moved}, {"y": own}, {"y": USUAL}, inputs={"x": np.arange(6), "t": np.array([b"a"] * 6)})
    (worst,) = found.evidence["worst"]
    assert (worst["output"], worst["row"], worst["element"]) == ("y", 4, [2])
    assert (worst["served"], worst["in_process"]) == (pytest.approx(1e-3), 0)
    assert worst["inputs"] == {"x": 4, "t": "a"}


AGE = TensorSpec("age", "float32", (None,))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ((), (OUT,), "input 'pixels' was removed"),
        ((PIXELS, AGE), (OUT,), "input 'age' was added"),
        ((PIXELS,), (TensorSpec("scores", "float32", (None, 10)),), "output 'probabilities' was removed"),
        ((TensorSpec("pixels", "float64", (None, 64)),), (OUT,), "input changed from pixels: float32"),
        ((TensorSpec("pixels", "float32", (None, 8, 8)),), (OUT,), "(?, 8, 8)"),
        ((PIXELS,), (TensorSpec("probabilities", "float32", (None, 11)),), "(?, 11)"),
    ],
)
def test_what_breaks_the_champions_clients(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], words: str
) -> None:
    """What a client of the champion would trip over is refused and named, unless it is allowed."""
    champion, ours = Signature((PIXELS,), (OUT,)), Signature(inputs, outputs)
    refused = judge_contract(ours, ours, champion)
    assert not refused.passed
    assert words in refused.summary
    assert judge_contract(ours, ours, champion, allow_breaking=True).passed


def test_what_breaks_no_client() -> None:
    """An added output, and an extent that is free now, are fine."""
    ours = Signature((TensorSpec("pixels", "float32", (None, None)),), (OUT, TensorSpec("x", "int64", (None,))))
    assert judge_contract(ours, ours, Signature((PIXELS,), (OUT,))).passed


TIMES = {"candidate": np.full(100, 2.0), "champion": np.full(100, 1.0)}
RATES = {"candidate": 500.0, "champion": 1000.0}


@pytest.mark.parametrize(
    ("bounds", "missed"),
    [
        ({}, []),
        ({"max_p50_ms": 3.0, "max_ratio": 2.5, "min_requests_per_s": 400.0, "max_cold_ms": 10.0}, []),
        ({"max_p50_ms": 1.9}, ["p50_ms"]),
        ({"max_p99_ms": 1.0}, ["p99_ms"]),
        ({"max_ratio": 1.5}, ["p95_ratio"]),
        ({"min_requests_per_s": 501.0}, ["requests_per_s"]),
        ({"max_cold_ms": 8.0}, ["cold_ms"]),
        ({"max_memory_mb": 100.0}, ["memory_mb"]),
    ],
)
def test_latency_bounds(bounds: dict[str, float], missed: list[str]) -> None:
    """Each bound refuses what is beyond it, and names figure and bound; without bounds nothing is refused."""
    found = judge_latency(TIMES, RATES, 9.0, 120.0, Latency(**bounds))  # type: ignore[arg-type]
    assert found.evidence["missed"] == missed
    assert found.passed == (not missed)
    assert all(name in found.summary for name in missed)
    assert found.champion["p95_ms"] == 1


def test_latency_without_a_champion() -> None:
    """Without a champion there is no ratio, and a bound on it refuses nothing."""
    found = judge_latency({"candidate": TIMES["candidate"]}, RATES, 9.0, 0.0, Latency(max_ratio=1.0))
    assert found.passed
    assert "p95_ratio" not in found.figures
    assert "memory_mb" not in found.figures


def test_memory_that_is_unknown() -> None:
    """A bound on a memory that nobody knows refuses nothing and approves nothing: a person must decide."""
    found = judge_latency(TIMES, RATES, 9.0, 0.0, Latency(max_memory_mb=100.0))
    assert found.passed
    assert "memory_mb" not in found.figures
    assert found.needs_person in found.summary
    assert "memory is unknown, but gates.latency.max_memory_mb limits it to 100 MB" in found.needs_person
    assert judge_latency(TIMES, RATES, 9.0, 0.0, Latency()).needs_person == ""
    assert judge_latency(TIMES, RATES, 9.0, 99.0, Latency(max_memory_mb=100.0)).needs_person == ""


def test_residuals_are_never_broadcast() -> None:
    """One target column against three output columns is an error, not a figure."""
    with pytest.raises(DataError, match="shapes differ"):
        measure("rmse", Scored(np.zeros(4), np.zeros((4, 3)), Reading("regression", "values")))
