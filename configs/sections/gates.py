"""The section `gates`: what a candidate must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from configs.sections.base import REFERENCE, Section


class Bound(Section):
    """What a metric must reach, by itself and compared with the champion."""

    min: float | None = Field(None, description="minimum of the metric")
    max: float | None = Field(None, description="maximum of the metric")
    worse_by: float = Field(
        0,
        ge=0,
        allow_inf_nan=True,
        description="how much worse than the champion the metric may be; a candidate that is significantly worse than "
        "that is rejected. .inf tolerates any difference",
    )
    better_by: float | None = Field(
        None, ge=0, description="how much better than the champion the metric must be, significantly"
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> Bound:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not be above max")
        return self


METRICS = ("accuracy", "macro_f1", "log_loss", "auc", "brier", "rmse", "mae", "r2")
LESS_IS_BETTER = ("log_loss", "brier", "rmse", "mae")
GATES = (
    "safety", "size", "contract", "parity", "batching", "golden", "quality", "latency", "robustness",
    "replay", "change",
)  # fmt: skip
FEWEST_REQUESTS = 100  # of which a 99th percentile is more than the slowest one


def _metric(name: str) -> str:
    """Accept a known metric or a `module:function`."""
    if name not in METRICS and not REFERENCE.fullmatch(name):
        raise ValueError(f"must be one of {', '.join(METRICS)}, or module:function, or FILE.py:function")
    return name


def _bound(value: object) -> object:
    """Read a bare number as a minimum."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"min": value}
    if not isinstance(value, dict | Bound):
        raise ValueError("must be a number, which is the minimum, or {min: NUMBER, max: NUMBER}")
    return value


class Latency(Section):
    """The latency gate: measured in every run, and judged where a bound is set (0 means no bound)."""

    requests: int = Field(200, ge=20, description="measured requests to each version, candidate and champion in turns")
    concurrency: int = Field(1, ge=1, le=64, description="concurrent requests")
    rows: int = Field(1, ge=1, description="rows in one request")
    max_cold_ms: float = Field(
        0, ge=0, description="maximum milliseconds of the first request after loading; 0 means no bound"
    )
    max_p50_ms: float = Field(0, ge=0, description="maximum of the median, in milliseconds")
    max_p95_ms: float = Field(0, ge=0, description="maximum of the 95th percentile, in milliseconds")
    max_p99_ms: float = Field(0, ge=0, description="maximum of the 99th percentile, in milliseconds")
    max_ratio: float = Field(
        0, ge=0, description="maximum ratio of the candidate's p95 to the champion's in the same server"
    )
    min_requests_per_s: float = Field(0, ge=0, description="minimum requests per second at that concurrency")
    max_memory_mb: float = Field(
        0, ge=0, description="maximum memory of the server, in MB, with only the candidate loaded"
    )


class Capacity(Section):
    """The capacity: the highest rate of independent requests at which gates.latency.max_p99_ms holds."""

    measure: bool = Field(False, description="whether it is measured; gates.latency.max_p99_ms is then required")
    requests: int = Field(
        8000,
        ge=800,
        description="requests at each rate that is tried near the capacity; with 8000 of them it is found within 10 %",
    )
    max_seconds: float = Field(
        120, gt=0, description="maximum seconds for each version; after that, the best rate so far is the capacity"
    )
    min_requests_per_s: float = Field(0, ge=0, description="minimum of the candidate's capacity; 0 means no bound")


class Change(Section):
    """The change gate: the champion is replaced by the candidate, and put back, under load in a throwaway server."""

    rate: float = Field(
        100, ge=0.1, le=10_000, description="requests per second on average; they arrive independently (Poisson)"
    )
    seconds: float = Field(
        1, gt=0, description="seconds of load before the change; after it and after the rollback, half as many"
    )
    rows: int = Field(1, ge=1, description="rows in one request")
    max_p99_ratio: float = Field(
        4,
        ge=0,
        description="maximum ratio of the 99th percentile during the change, or the rollback, to that before it; a "
        "candidate fails if the quietest of five rehearsals exceeds it. 0 means no bound",
    )
    floor_ms: float = Field(
        50, ge=0, description="a 99th percentile of at most so many milliseconds is never too slow, whatever its ratio"
    )
    max_seconds: float = Field(
        30, gt=0, description="maximum seconds from the rename to the first answer of the other version"
    )

    @model_validator(mode="after")
    def _has_enough_requests(self) -> Change:
        if self.max_p99_ratio and self.rate * self.seconds < FEWEST_REQUESTS:
            raise ValueError(
                f"rate x seconds must be at least {FEWEST_REQUESTS} requests, so that noise does not decide their 99th "
                f"percentile, got {self.rate:g} x {self.seconds:g}; raise seconds, or set max_p99_ratio: 0"
            )
        return self


class Robustness(Section):
    """The robustness gate: malformed and extreme requests."""

    extreme_factor: float = Field(
        1000, ge=1, description="how many times larger than the largest test value an extreme value is"
    )
    large_batch: int = Field(4096, ge=1, description="rows of the large batch")


class Golden(Section):
    """The golden gate: inputs with the answers that the model must give."""

    file: Path | None = Field(
        None, description="JSON or CSV file of inputs and expected outputs; without one, the gate is skipped"
    )
    atol: float = Field(1e-3, ge=0, allow_inf_nan=False, description="absolute tolerance of the expected numbers")
    rtol: float = Field(1e-3, ge=0, allow_inf_nan=False, description="relative tolerance of the expected numbers")


class Contract(Section):
    """The contract gate: what the clients of the service rely on, whichever version is live."""

    file: Path | None = Field(
        None,
        description="JSON file of the names, dtypes and shapes that clients rely on, as `rehearse --write-contract` "
        "writes it; it is checked even without a champion, and regardless of allow_breaking",
    )


class Replay(Section):
    """The replay gate: recorded requests without labels, sent to the candidate and to the champion."""

    file: Path | None = Field(
        None,
        description="recorded requests: JSON lines of predict bodies, or TFRecords of PredictionLog, plain or gzip; "
        "without a file, the gate is skipped",
    )
    every: int = Field(1, ge=1, description="sends each request whose number is a multiple of this; 1 sends all")
    max_flips: float = Field(
        0.005,
        ge=0,
        le=1,
        description="maximum share of rows whose decision differs from the champion's, in all rows and in each slice; "
        "a candidate is rejected if the confidence interval of the share lies above it",
    )
    max_slice_ratio: float = Field(
        3,
        ge=0,
        description="maximum of a slice's share of other decisions, as a multiple of the share in the other rows; a "
        "candidate is rejected if the confidence intervals prove more; 0 means no bound",
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="the probability from which on a single probability decides for class 1"
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="by how much a number, unlike a class score, may differ before it counts as another decision; "
        "empty means 1 % of the distance between the 5th and the 95th percentile of the champion's test answers",
    )
    slices: tuple[str, ...] = Field(
        (),
        description="inputs whose values divide the requests into slices that are judged separately; empty means those "
        "of gates.slices that are inputs",
    )
    max_psi: float = Field(
        0,
        ge=0,
        description="maximum of the population stability index of an input, beyond what chance explains; 0 means that "
        "it is only shown",
    )


class Safety(Section):
    """The safety gate: what the graph may do, checked before any server loads it."""

    allow_ops: tuple[str, ...] = Field(
        (),
        description="names of operations to allow that are refused by default, such as ReadFile or a custom operation",
    )
    max_graph_mb: float = Field(256, gt=0, description="maximum size of saved_model.pb, in MB")
    max_variables_mb: float = Field(
        0, ge=0, description="maximum size of the variables directory, in MB; 0 means no bound"
    )


class Size(Section):
    """The size gate: the size on disk."""

    max_mb: float = Field(0, ge=0, description="maximum size of all files, in MB; 0 means no bound")
    max_parameters: int = Field(0, ge=0, description="maximum number of weights; 0 means no bound")
    max_ratio: float = Field(0, ge=0, description="maximum ratio of the size to the champion's; 0 means no bound")


class Gates(Section):
    """What a candidate must pass before it may go live."""

    use: tuple[Literal[GATES], ...] = Field(  # type: ignore[valid-type]
        GATES, description="the gates that judge; an empty list means the default gates, never an approval"
    )
    first_run: Literal["promote", "review"] = Field(
        "promote", description="what happens to a candidate that passes while no version is live"
    )
    allow_breaking: bool = Field(
        False, description="contract: allow changes of the signature that break the champion's clients"
    )
    atol: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="parity: absolute tolerance between served and in-process numbers; empty means a default for each "
        "dtype: float64 1e-9, float32 1e-5, float16 1e-3, bfloat16 1e-2",
    )
    rtol: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="parity: relative tolerance; empty means the default for each dtype, as above",
    )
    metrics: dict[Annotated[str, AfterValidator(_metric)], Annotated[Bound, BeforeValidator(_bound)]] = Field(
        {},
        description="maps a metric of the served answers to its bound; a bare number is a minimum. Metrics: accuracy, "
        "macro_f1, log_loss, auc, brier, rmse, mae, r2, or your own `module:function`, called with (target, served)",
    )
    metric_output: str = Field(
        "", description="the output that the metrics are computed from; required if there are several"
    )
    task: Literal["", "binary", "multiclass", "multilabel", "regression"] = Field(
        "", description="the kind of task; empty means it is inferred from the loss, the targets and the output"
    )
    scores: Literal["", "probabilities", "logits"] = Field(
        "", description="what the class scores are; empty means it is inferred from the loss and the output"
    )
    slices: tuple[str, ...] = Field(
        (), description="features whose values divide the rows into slices that are judged separately"
    )
    min_slice_rows: int = Field(30, ge=2, description="minimum number of rows for a slice to be judged")
    min_unseen_rows: int = Field(
        30,
        ge=2,
        description="minimum number of test rows that the champion has not seen, for a comparison with it. With fewer, "
        "only absolute bounds judge; without absolute bounds, a person decides",
    )
    confidence: float = Field(0.95, ge=0.5, lt=1, description="two-sided confidence level of the bootstrap intervals")
    latency: Latency = Latency()
    capacity: Capacity = Capacity()
    change: Change = Change()
    robustness: Robustness = Robustness()
    contract: Contract = Contract()
    golden: Golden = Golden()
    replay: Replay = Replay()
    safety: Safety = Safety()
    size: Size = Size()

    @property
    def judging(self) -> tuple[str, ...]:
        """Return the gates that judge, in their order."""
        return tuple(name for name in GATES if name in (self.use or GATES))

    @model_validator(mode="after")
    def _says_which_p99_the_capacity_keeps(self) -> Gates:
        if self.capacity.measure and not self.latency.max_p99_ms:
            raise ValueError("capacity.measure needs latency.max_p99_ms, the bound that the capacity keeps; set it")
        if self.capacity.min_requests_per_s and not self.capacity.measure:
            raise ValueError("capacity.min_requests_per_s needs capacity.measure: true; set it")
        return self

    @field_validator("metrics", mode="before")
    @classmethod
    def _says_what_it_bounds(cls, value: object) -> object:
        for name, bound in value.items() if isinstance(value, dict) else ():
            if name in LESS_IS_BETTER and isinstance(bound, int | float):
                raise ValueError(f"{name} needs a maximum, because lower is better: write {name}: {{max: {bound}}}")
            if isinstance(bound, dict) and all(limit is None for limit in bound.values()):
                raise ValueError(
                    f"{name} needs a bound: a number, which is the minimum, or {{min: NUMBER, max: NUMBER}}"
                )
        return value
