"""The configuration of a rehearsal: every field with its unit, its default and its bound.

Reading it imports neither TensorFlow nor Prefect nor MLflow, and creates nothing. Of the environment, loading.py reads
what a text value names as `${NAME}`, and nothing else.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from configs.addresses import server_address, tracking_uri
from configs.times import Moment, check_order

# A model name becomes a directory, a URL segment and a registry name: no slash, no leading dot, no "..".
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


REFERENCE = re.compile(r"([A-Za-z_][\w.]*|[^:]+\.py):[A-Za-z_]\w*")
Reference = Annotated[str, StringConstraints(pattern=f"^({REFERENCE.pattern})?$")]


LONGEST_S = 2_000_000  # seconds, 23 days: a socket's time limit is at most 2**31 milliseconds
MOST = 2**32 - 1  # of anything that is counted
LARGEST = 1e38  # of anything that is measured; float32 ends at 3.4e38


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _has_an_end(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a number that no library would take: what it would do then is not known."""
        name = info.field_name or ""
        if isinstance(value, int | float) and not name.startswith("max"):  # a bound is only compared with
            seconds = name.endswith("_s") and not name.endswith("_per_s")
            most = LONGEST_S if seconds else MOST if isinstance(value, int) else LARGEST
            if value > most and value != math.inf:  # which a field allows or does not
                raise ValueError(f"must be at most {most:,.15g}{' seconds' if seconds else ''}")
        return value


def _model_name(value: object) -> object:
    """Refuse a name that could leave its directory or cut a URL in two."""
    if isinstance(value, str) and (not MODEL_NAME.fullmatch(value) or ".." in value or len(value) > 100):
        raise ValueError(
            "a model name has letters, digits, '_', '-' and '.', starts with a letter, digit or "
            "'_', has no '/' or '..' and at most 100 characters"
        )
    return value


def _columns(value: object) -> object:
    """Read a bare name as a list of one."""
    return (value,) if isinstance(value, str) else value


Columns = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], BeforeValidator(_columns)]


class Data(Section):
    """Where the rows come from and how they are split."""

    load: Reference = Field(
        "",
        description="`module:function`, beside this file or importable where the command runs, or "
        "`./FILE.py:function`; it returns (features, target)"
    )
    params: dict[str, Any] = Field(
        {}, description="keyword arguments of the function; a relative path here is not resolved"
    )
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of all rows that early stopping looks at")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of all rows that the server is judged on")
    seed: int = Field(
        0, ge=0, lt=2**32, description="key of the hash that deals rows out to the splits; another one deals them anew"
    )
    key: Columns = Field(
        (),
        description="columns that name a row: the split is dealt by their values instead of by all features. "
        "What key, group, time and split name is taken out of the features",
    )
    group: Columns = Field(
        (), description="columns that rows have in common, such as a customer: rows of equal values share a split"
    )
    time: str = Field("", description="column of times, ISO 8601 or numbers: the splits follow each other in time")
    validation_from: Moment = Field(None, description="first time of the validation rows; earlier rows are trained on")
    test_from: Moment = Field(None, description="first time of the test rows")
    split: str = Field(
        "",
        validation_alias=AliasChoices("split", "split_column"),
        description="column that says of each row train, validation or test; split_column is another name of this "
        "field. Of the rows that `rehearse` reads, those are judged of which it says test",
    )

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> Data:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction and test_fraction must leave rows to train on: their sum must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _splits_in_one_way(self) -> Data:
        ways = [name for name in ("key", "group", "time", "split") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"rows are split in one way, and {' and '.join(ways)} are several; keep one of them")
        shares = ("validation_fraction", "test_fraction")
        given = [name for name in shares if getattr(self, name) != type(self).model_fields[name].default]
        if given and (self.time or self.split):
            raise ValueError(f"{given[0]} does nothing where {ways[0]} decides; remove one of them")
        together = {bool(self.time), self.validation_from is not None, self.test_from is not None}
        if len(together) > 1:
            raise ValueError("time, validation_from and test_from belong together: give all three, or none")
        if self.validation_from is not None and self.test_from is not None:
            check_order(self.validation_from, self.test_from)
        return self

    @property
    def identity(self) -> tuple[str, ...]:
        """Return the columns by which rows are dealt out; empty is by all features."""
        return self.key or self.group


class Model(Section):
    """How the model is built."""

    build: Reference = Field(
        "",
        description="`module:function` or `./FILE.py:function` returning a compiled keras.Model; it is given the "
        "training features"
    )
    params: dict[str, Any] = Field({}, description="further keyword arguments of the function")


class Training(Section):
    """How the model is fitted."""

    epochs: int = Field(50, ge=1, description="most epochs")
    batch_size: int = Field(32, ge=1, description="rows in one step")
    patience: int = Field(5, ge=0, description="epochs without improvement before stopping; 0 never stops early")
    monitor: str = Field("val_loss", description="the figure that early stopping watches")
    mode: Literal["auto", "min", "max"] = Field("auto", description="whether less or more of it is better")
    deterministic: bool = Field(True, description="only operations that give the same numbers twice; slower on a GPU")


CAST = ("float32", "float64", "int32", "int64", "uint32", "uint64")


class Export(Section):
    """How the SavedModel is written."""

    inputs: dict[str, str] = Field(
        {}, description="served name of an input: Keras' name of it; empty serves Keras' names"
    )
    outputs: dict[str, str] = Field(
        {}, description="served name of an output: Keras' name of it; empty serves Keras' names"
    )
    cast: dict[str, Literal[CAST]] = Field(  # type: ignore[valid-type]
        {},
        description="served name of an input or output: the dtype that clients see in place of the model's own, which "
        "it must hold without loss; for float16, bfloat16 and uint16, which REST cannot carry",
    )
    ragged: dict[str, StrictBool | StrictInt | FiniteFloat | StrictStr] = Field(
        {},
        description="served name of an output whose rows are as long as the longest of their batch: the value that "
        "fills the shorter ones; without it the part is compared that both have",
    )
    version_width: int = Field(0, ge=0, le=18, description="digits of the version directory's name; 8 writes 00000123")
    warmup_rows: int = Field(
        8,
        ge=0,
        le=1000,
        description="rows of the warm-up request that the server replays at load; 0 writes none",
    )


class Serving(Section):
    """The throwaway server."""

    backend: Literal["auto", "docker", "embedded"] = Field(
        "auto", description="auto is docker where an engine and the image are available"
    )
    image: str = Field(
        "tensorflow/serving:2.19.1",
        min_length=1,
        description="container image, by tag or digest; pulled if absent",
    )
    images: tuple[str, ...] = Field(
        (), description="several images, each of which must pass, such as today's and the next; replaces image"
    )
    platform: str = Field("", description="platform of the image, such as linux/amd64; empty is the engine's own")
    protocol: Literal["rest", "grpc", "both"] = Field(
        "rest", description="how the test rows are sent; both must give the same answers"
    )
    startup_timeout_s: float = Field(60, gt=0, description="seconds from the start of the server to AVAILABLE")
    request_timeout_s: float = Field(30, gt=0, description="seconds for one request")
    memory_mb: int = Field(2048, ge=64, description="memory limit of the server in MiB")
    cpus: float = Field(0, ge=0, le=10_000, description="processor limit of the container; 0 is none")
    pids_limit: int = Field(
        4096,
        ge=16,
        description="most processes and threads in the container; TensorFlow Serving starts hundreds, and more of them "
        "the more processors there are",
    )

    @property
    def all_images(self) -> tuple[str, ...]:
        """Return the images that a candidate must pass on."""
        return self.images or (self.image,)


class Bound(Section):
    """What a metric must reach, by itself and beside the champion."""

    min: float | None = Field(None, description="the metric must be at least this")
    max: float | None = Field(None, description="the metric must be at most this")
    worse_by: float = Field(
        0,
        ge=0,
        allow_inf_nan=True,
        description="how much worse than the champion is tolerated; refused where the rows prove more; .inf is any",
    )
    better_by: float | None = Field(
        None, ge=0, description="how much better than the champion the rows must prove it to be"
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> Bound:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min must not be above max: no metric is at least {self.min:g} and at most {self.max:g}")
        return self


METRICS = ("accuracy", "macro_f1", "log_loss", "auc", "brier", "rmse", "mae", "r2")
LESS_IS_BETTER = ("log_loss", "brier", "rmse", "mae")
GATES = ("safety", "size", "contract", "parity", "golden", "quality", "latency", "robustness")


def _metric(name: str) -> str:
    """Take a known metric or a `module:function`."""
    if name not in METRICS and not REFERENCE.fullmatch(name):
        raise ValueError(f"a metric is one of {', '.join(METRICS)}, module:function or FILE.py:function")
    return name


def _bound(value: object) -> object:
    """Read a bare number as a minimum."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"min": value}
    if not isinstance(value, dict | Bound):
        raise ValueError("a bound is a number, which is the minimum, or {min: NUMBER, max: NUMBER}")
    return value


class Latency(Section):
    """The latency gate: measured in every run, a judgement where a bound is set (0 is none)."""

    requests: int = Field(200, ge=20, description="measured requests to each version, the champion's in turn")
    concurrency: int = Field(1, ge=1, le=64, description="requests under way at once")
    rows: int = Field(1, ge=1, description="rows in one request")
    max_cold_ms: float = Field(0, ge=0, description="milliseconds of the first request after loading; 0 is no bound")
    max_p50_ms: float = Field(0, ge=0, description="milliseconds that half of the requests take at most")
    max_p95_ms: float = Field(0, ge=0, description="milliseconds that 95 of 100 requests take at most")
    max_p99_ms: float = Field(0, ge=0, description="milliseconds that 99 of 100 requests take at most")
    max_ratio: float = Field(0, ge=0, description="p95 as a multiple of the champion's in the same server")
    min_requests_per_s: float = Field(0, ge=0, description="requests each second at that concurrency")
    max_memory_mb: float = Field(0, ge=0, description="server memory in MB while the candidate alone is loaded")


class Robustness(Section):
    """The robustness gate: malformed and extreme requests."""

    extreme_factor: float = Field(
        1000, ge=1, description="extreme values lie this many times beyond the largest of the test rows"
    )
    large_batch: int = Field(4096, ge=1, description="rows of the large batch")


class Golden(Section):
    """The golden gate: inputs with the answers that they must get."""

    file: Path | None = Field(None, description="JSON or CSV file of inputs and expected outputs; none skips the gate")
    atol: float = Field(1e-3, ge=0, allow_inf_nan=False, description="absolute tolerance of the expected numbers")
    rtol: float = Field(1e-3, ge=0, allow_inf_nan=False, description="relative tolerance of the expected numbers")


class Contract(Section):
    """The contract gate: what the service's clients rely on, whichever version is live."""

    file: Path | None = Field(
        None,
        description="JSON file of names, dtypes and shapes that clients rely on, as `rehearse --write-contract` writes "
        "it; judged without a champion, too, and whatever allow_breaking says",
    )


class Safety(Section):
    """The safety gate: what the graph may do, looked at before any server loads it."""

    allow_ops: tuple[str, ...] = Field(
        (),
        description="operations allowed although they are refused: ReadFile, ..., or a custom one's exact name",
    )
    max_graph_mb: float = Field(256, gt=0, description="largest saved_model.pb, in MB")
    max_variables_mb: float = Field(0, ge=0, description="largest variables directory, in MB; 0 is no bound")


class Size(Section):
    """The size gate: what is on the disk."""

    max_mb: float = Field(0, ge=0, description="bytes of all files, in MB; 0 is no bound")
    max_parameters: int = Field(0, ge=0, description="number of weights; 0 is no bound")
    max_ratio: float = Field(0, ge=0, description="bytes as a multiple of the champion's; 0 is no bound")


class Gates(Section):
    """What a candidate must show before it may go live."""

    use: tuple[Literal[GATES], ...] = Field(  # type: ignore[valid-type]
        GATES, description="the gates that judge; an empty list is the default set, never an approval"
    )
    first_run: Literal["promote", "review"] = Field(
        "promote", description="what becomes of a candidate that passes while no champion is live"
    )
    allow_breaking: bool = Field(
        False, description="contract: let the signature differ from the champion's in a way that breaks clients"
    )
    atol: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="parity: absolute tolerance between served and in-process numbers; empty is by dtype: "
        "float64 1e-9, float32 1e-5, float16 1e-3, bfloat16 1e-2",
    )
    rtol: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="parity: relative tolerance; empty is by dtype, as above"
    )
    metrics: dict[Annotated[str, AfterValidator(_metric)], Annotated[Bound, BeforeValidator(_bound)]] = Field(
        {},
        description="metric of the served answers: its bound; a bare number is a minimum. "
        "Names: accuracy, macro_f1, log_loss, auc, brier, rmse, mae, r2, or `module:function`(target, served)",
    )
    metric_output: str = Field("", description="the output that the metrics judge; needed where there are several")
    task: Literal["", "binary", "multiclass", "multilabel", "regression"] = Field(
        "", description="what the judged output answers; empty is decided from the loss, the targets and the output"
    )
    scores: Literal["", "probabilities", "logits"] = Field(
        "", description="what the scores of classes are; empty is decided from the loss and the output"
    )
    slices: tuple[str, ...] = Field((), description="features by whose values the metrics are judged once more")
    min_slice_rows: int = Field(30, ge=2, description="rows that a slice needs to be judged")
    min_unseen_rows: int = Field(
        30,
        ge=2,
        description="test rows that must be left to compare with the champion once those that it has seen are left "
        "out; with fewer, absolute bounds judge alone, and without any a person decides",
    )
    confidence: float = Field(0.95, ge=0.5, lt=1, description="of the bootstrap intervals, two-sided")
    latency: Latency = Latency()
    robustness: Robustness = Robustness()
    contract: Contract = Contract()
    golden: Golden = Golden()
    safety: Safety = Safety()
    size: Size = Size()

    @property
    def judging(self) -> tuple[str, ...]:
        """Return the gates that judge, in their order."""
        return tuple(name for name in GATES if name in (self.use or GATES))

    @field_validator("metrics", mode="before")
    @classmethod
    def _says_what_it_bounds(cls, value: object) -> object:
        for name, bound in value.items() if isinstance(value, dict) else ():
            if name in LESS_IS_BETTER and isinstance(bound, int | float):
                raise ValueError(f"less {name} is better, so a bare number is no bound: write {name}: {{max: {bound}}}")
            if isinstance(bound, dict) and all(limit is None for limit in bound.values()):
                raise ValueError(
                    f"{name} needs a bound: a number, which is the minimum, or {{min: NUMBER, max: NUMBER}}"
                )
        return value


class Tracking(Section):
    """MLflow."""

    uri: Annotated[str, AfterValidator(tracking_uri)] = Field(
        "sqlite:///mlflow.db", description="tracking URI; a relative sqlite path lies beside the YAML file"
    )
    experiment: str = Field("", description="experiment name; empty is the model's name")
    sample_rows: int = Field(50, ge=0, description="test rows in the predictions table")


Layout = Literal["latest", "labels"]


def _mode(value: object) -> object:
    """Read the mode of a file: octal digits, as text or as YAML's own octal number."""
    digits = f"{value:04o}" if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(digits, str) or not re.fullmatch(r"0?[0-7]{3}", digits):
        raise ValueError("a mode is four octal digits that begin with 0, such as 0755")
    return digits.zfill(4)


Mode = Annotated[str, BeforeValidator(_mode)]


class Promote(Section):
    """How a candidate goes live."""

    mode: Literal["auto", "review"] = Field(
        "auto", description="auto promotes what passes every gate; review waits for a person's approval"
    )
    layout: Layout = Field(
        "latest", description="latest: the highest number serves; labels: models.config says which, stable and canary"
    )
    live_url: Annotated[str, AfterValidator(server_address)] = Field(
        "",
        description="REST address of the production server, such as http://host:8501; a new version is verified there",
    )
    live_timeout_s: float = Field(60, gt=0, description="seconds until production must have loaded a new version")
    live_rows: int = Field(100, ge=1, description="test rows whose answers production must repeat")
    keep: int = Field(0, ge=0, description="live versions, and candidates, that are kept; 0 keeps all")
    lock_timeout_s: float = Field(60, ge=0, description="seconds to wait for another promotion of the same model")
    directory_mode: Mode = Field(
        "0755", description="mode of the published directories, whatever the umask of the run"
    )
    file_mode: Mode = Field(
        "0644", description="mode of the published files, whatever the umask of the run"
    )

    @model_validator(mode="after")
    def _owner_gets_in(self) -> Promote:
        if self.directory_mode[1] != "7" or self.file_mode[1] not in "4567":
            raise ValueError("directory_mode must begin with 07 and file_mode with 04, 05, 06 or 07, or nobody gets in")
        return self

    @model_validator(mode="after")
    def _labels_need_to_look(self) -> Promote:
        if self.layout == "labels" and not self.live_url:
            raise ValueError("layout: labels needs live_url: a label only moves to a version seen AVAILABLE there")
        return self


class Config(Section):
    """One rehearsal: data, model, export, server, gates, tracking, promotion."""

    name: Annotated[str, BeforeValidator(_model_name)] = Field(
        description="model name, in URLs, directories and the registry"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the weights and the shuffling")
    work_dir: Path = Field(Path(".rehearsal"), description="candidates and everything in between")
    models_root: Path = Field(Path("models"), description="production TensorFlow Serving watches <models_root>/<name>")
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    export: Export = Export()
    serving: Serving = Serving()
    gates: Gates = Gates()
    tracking: Tracking = Tracking()
    promote: Promote = Promote()

    @property
    def candidates_dir(self) -> Path:
        """Return `<work_dir>/candidates/<name>`, the numbered directories of what is judged."""
        return self.work_dir / "candidates" / self.name

    @property
    def live_dir(self) -> Path:
        """Return `<models_root>/<name>`, the directory that production watches."""
        return self.models_root / self.name

    def needs_person(self, *, has_champion: bool) -> bool:
        """Return whether a candidate that passed needs a person's approval."""
        return self.promote.mode == "review" or (not has_champion and self.gates.first_run == "review")
