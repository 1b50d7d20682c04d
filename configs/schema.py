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

from configs.addresses import (
    check_different,
    check_headers,
    header_name,
    header_value,
    host_and_port,
    page_address,
    path_of_metrics,
    production_address,
    server_address,
    tracking_uri,
)
from configs.serving_flags import MODELS, PARAMETERS, check_flag, check_place, check_places, flag_value, most_rows
from configs.times import Moment, check_order

# A model name becomes a directory, a URL segment and a registry name: no slash, no leading dot, no "..".
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


REFERENCE = re.compile(r"([A-Za-z_][\w.]*|[^:]+\.py):[A-Za-z_]\w*")
Reference = Annotated[str, StringConstraints(pattern=f"^({REFERENCE.pattern})?$")]


LONGEST_S = 2_000_000  # seconds, 23 days: a socket's time limit is at most 2**31 milliseconds
MOST = 2**32 - 1  # the limit of every count
LARGEST = 1e38  # the limit of every measured quantity; float32 ends at 3.4e38


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, and the values are read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _has_an_end(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a number that is larger than the libraries accept."""
        name = info.field_name or ""
        if isinstance(value, int | float) and not name.startswith("max"):  # a bound is only compared
            seconds = name.endswith("_s") and not name.endswith("_per_s")
            most = LONGEST_S if seconds else MOST if isinstance(value, int) else LARGEST
            if value > most and value != math.inf:  # each field allows infinity or not
                raise ValueError(f"must be at most {most:,.15g}{' seconds' if seconds else ''}")
        return value


def _model_name(value: object) -> object:
    """Refuse a name that could leave its directory or cut a URL in two."""
    if isinstance(value, str) and (not MODEL_NAME.fullmatch(value) or ".." in value or len(value) > 100):
        raise ValueError(
            "must consist of letters, digits, '_', '-' and '.', start with a letter, digit or '_', "
            "not contain '..', and have at most 100 characters"
        )
    return value


def _columns(value: object) -> object:
    """Read a bare name as a list of one."""
    return (value,) if isinstance(value, str) else value


Columns = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], BeforeValidator(_columns)]


class Data(Section):
    """Where the rows come from, and how they are split."""

    load: Reference = Field(
        "",
        description="the function that returns (features, target): `module:function`, for a module beside the YAML "
        "file or one that can be imported where the command runs, or `./FILE.py:function`",
    )
    params: dict[str, Any] = Field(
        {}, description="keyword arguments of the function; relative paths in them are passed on unchanged"
    )
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of all rows that early stopping watches")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of all rows that the gates judge")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="seed of the hash that assigns rows to the splits; another seed gives other splits",
    )
    key: Columns = Field(
        (),
        description="columns that identify a row: the split is computed from their values instead of from all "
        "features. The columns of key, group, time and split are removed from the features",
    )
    group: Columns = Field(
        (), description="columns that group rows, such as a customer: rows with equal values are in the same split"
    )
    time: str = Field("", description="column of times (ISO 8601 or numbers): the splits follow each other in time")
    validation_from: Moment = Field(
        None, description="first time of the validation rows; earlier rows are training rows"
    )
    test_from: Moment = Field(None, description="first time of the test rows")
    split: str = Field(
        "",
        validation_alias=AliasChoices("split", "split_column"),
        description="column that contains train, validation or test for each row; split_column is another name of this "
        "field. `rehearse` judges the test rows only",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_the_split_once(cls, value: object) -> object:
        if isinstance(value, dict) and {"split", "split_column"} <= value.keys():
            raise ValueError("split and split_column are two names of the same field; remove one of them")
        return value

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> Data:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"the sum of validation_fraction ({self.validation_fraction:g}) and test_fraction "
                f"({self.test_fraction:g}) must be below 1, so that training rows are left"
            )
        return self

    @model_validator(mode="after")
    def _splits_in_one_way(self) -> Data:
        ways = [name for name in ("key", "group", "time", "split") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"only one of key, group, time and split can be set, not {' and '.join(ways)}; keep one")
        shares = ("validation_fraction", "test_fraction")
        given = [name for name in shares if getattr(self, name) != type(self).model_fields[name].default]
        if given and (self.time or self.split):
            raise ValueError(f"{given[0]} has no effect when {ways[0]} is set; remove one of them")
        together = {bool(self.time), self.validation_from is not None, self.test_from is not None}
        if len(together) > 1:
            raise ValueError("time, validation_from and test_from must be set together: set all three, or none")
        if self.validation_from is not None and self.test_from is not None:
            check_order(self.validation_from, self.test_from)
        return self

    @property
    def identity(self) -> tuple[str, ...]:
        """Return the columns that decide a row's split; empty means all features."""
        return self.key or self.group


class Model(Section):
    """How the model is built."""

    build: Reference = Field(
        "",
        description="the function that returns a compiled keras.Model, as `module:function` or `./FILE.py:function`; "
        "its first argument is the training features",
    )
    params: dict[str, Any] = Field({}, description="keyword arguments of the function")


class Training(Section):
    """How the model is trained."""

    epochs: int = Field(50, ge=1, description="maximum number of epochs")
    batch_size: int = Field(32, ge=1, description="rows in one training step")
    patience: int = Field(
        5, ge=0, description="epochs without improvement before training stops; 0 disables early stopping"
    )
    monitor: str = Field("val_loss", description="the metric that early stopping watches")
    mode: Literal["auto", "min", "max"] = Field("auto", description="whether a lower or a higher value is better")
    deterministic: bool = Field(True, description="use deterministic operations only; slower on a GPU")


CAST = ("float32", "float64", "int32", "int64", "uint32", "uint64")


class Export(Section):
    """How the SavedModel is written."""

    inputs: dict[str, str] = Field(
        {}, description="maps the served name of an input to Keras' name; empty serves Keras' names"
    )
    outputs: dict[str, str] = Field(
        {}, description="maps the served name of an output to Keras' name; empty serves Keras' names"
    )
    cast: dict[str, Literal[CAST]] = Field(  # type: ignore[valid-type]
        {},
        description="maps the served name of an input or output to the dtype that clients see instead of the model's "
        "own. It must represent every value exactly. Use it for float16, bfloat16 and uint16, which REST cannot carry",
    )
    ragged: dict[str, StrictBool | StrictInt | FiniteFloat | StrictStr] = Field(
        {},
        description="maps the served name of an output that is padded to the longest row of its batch to the padding "
        "value; without it, only the part that both answers have is compared",
    )
    version_width: int = Field(
        0, ge=0, le=18, description="minimum digits of the version directory's name; 8 writes 00000123"
    )
    warmup_rows: int = Field(
        8,
        ge=0,
        le=1000,
        description="rows of the warm-up request that the server replays when it loads the model; 0 writes none",
    )


def _absolute(path: str) -> str:
    """Accept an absolute path, or nothing."""
    if path and not path.startswith("/"):
        raise ValueError("must be an absolute path, because TensorFlow Serving refuses a relative one")
    return path


class Attached(Section):
    """A TensorFlow Serving that is running already, for `serving.backend: attached`."""

    url: Annotated[str, AfterValidator(server_address)] = Field(
        "", description="REST address of the server, such as http://127.0.0.1:8501"
    )
    grpc: Annotated[str, AfterValidator(host_and_port)] = Field(
        "", description="gRPC address of the server, such as 127.0.0.1:8500; needed with protocol grpc or both"
    )
    directory: Path | None = Field(
        None,
        description="directory, shared with the server and used by rehearsals only, whose models.config the server "
        "watches",
    )
    seen_as: Annotated[str, AfterValidator(_absolute)] = Field(
        "",
        description="absolute path of that directory as the server sees it; empty means the same path",
    )
    lock_timeout_s: float = Field(600, ge=0, description="seconds to wait while another run uses the server")


class Serving(Section):
    """The throwaway server that the candidate is rehearsed in."""

    backend: Literal["auto", "docker", "embedded", "attached"] = Field(
        "auto",
        description="auto uses docker if an engine and the image are available, else embedded; attached uses a server "
        "that is running already",
    )
    image: str = Field(
        "tensorflow/serving:2.19.1",
        min_length=1,
        description="container image, by tag or digest; it is pulled if it is not available locally",
    )
    images: tuple[str, ...] = Field(
        (), description="several images, such as today's and the next; the candidate must pass on each. Replaces image"
    )
    platform: str = Field("", description="platform of the image, such as linux/amd64; empty uses the engine's default")
    protocol: Literal["rest", "grpc", "both"] = Field(
        "rest", description="how the test rows are sent; with both, the two must give the same answers"
    )
    startup_timeout_s: float = Field(60, gt=0, description="seconds until the started server must report AVAILABLE")
    request_timeout_s: float = Field(30, gt=0, description="time limit of one request, in seconds")
    memory_mb: int = Field(2048, ge=64, description="memory limit of the server in MiB")
    cpus: float = Field(0, ge=0, le=10_000, description="CPU limit of the container; 0 means no limit")
    pids_limit: int = Field(
        4096,
        ge=16,
        description="maximum number of processes and threads in the container; TensorFlow Serving starts hundreds, and "
        "more of them on a machine with more processors",
    )
    args: tuple[Annotated[str, AfterValidator(check_flag)], ...] = Field(
        (),
        description="flags that production's TensorFlow Serving is started with, such as --enable_batching; the "
        "container gets them as well. They need backend docker or auto, and auto then never uses the embedded server",
    )
    files: dict[Annotated[str, AfterValidator(check_place)], Path] = Field(
        {},
        description="files that these flags name: maps the absolute path in the container to a file, whose path is "
        "relative to the YAML file",
    )
    gpus: Literal["all"] | Annotated[StrictInt, Field(ge=0)] = Field(
        0, description="GPUs that the container gets: a number, or all"
    )
    attached: Attached = Attached()

    @model_validator(mode="after")
    def _gives_flags_to_a_container(self) -> Serving:
        if self.for_containers and self.backend not in ("auto", "docker"):
            raise ValueError(
                f"{self.for_containers} needs backend: docker or auto, because a {self.backend} server takes none"
            )
        check_places(self.files)
        parameters = flag_value(self.args, PARAMETERS)
        if parameters and parameters not in self.files:
            raise ValueError(
                f"args names --{PARAMETERS}={parameters}, so files must map '{parameters}' to a file on this machine"
            )
        return self

    @property
    def for_containers(self) -> str:
        """Return the first field that is set and only a container can have, or an empty string."""
        return next((name for name in ("args", "files", "gpus") if getattr(self, name)), "")

    @property
    def most_rows(self) -> int:
        """Return how many rows a request may have, which is limited if the server batches; 0 means no limit.

        Raises:
            ValueError: the file with the parameters of batching cannot be used.
        """
        return most_rows(self.args, self.files.get(flag_value(self.args, PARAMETERS) or ""))

    @model_validator(mode="after")
    def _says_what_it_is_attached_to(self) -> Serving:
        if self.backend != "attached":
            return self
        needed = ["url", "directory", *(["grpc"] if self.protocol != "rest" else [])]
        if missing := [f"attached.{name}" for name in needed if not getattr(self.attached, name)]:
            reason = f" and protocol: {self.protocol}" if "attached.grpc" in missing else ""
            needs = " and ".join(missing)
            raise ValueError(f"backend: attached{reason} needs {needs}; set it, or choose another backend")
        if self.images:
            raise ValueError(
                "images has no effect with backend: attached, which judges on the one server that is running; remove it"
            )
        return self

    @property
    def all_images(self) -> tuple[str, ...]:
        """Return the images that a candidate must pass on."""
        return self.images or (self.image,)


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
GATES = ("safety", "size", "contract", "parity", "batching", "golden", "quality", "latency", "robustness")


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
                raise ValueError(f"{name} needs a maximum, because lower is better: write {name}: {{max: {bound}}}")
            if isinstance(bound, dict) and all(limit is None for limit in bound.values()):
                raise ValueError(
                    f"{name} needs a bound: a number, which is the minimum, or {{min: NUMBER, max: NUMBER}}"
                )
        return value


class Tracking(Section):
    """Where MLflow records the runs."""

    uri: Annotated[str, AfterValidator(tracking_uri)] = Field(
        "sqlite:///mlflow.db", description="MLflow's tracking URI; a relative sqlite path is relative to the YAML file"
    )
    browser_url: Annotated[str, AfterValidator(page_address)] = Field(
        "", description="address of MLflow in a reviewer's browser, for links; empty means tracking.uri"
    )
    experiment: str = Field("", description="experiment name; empty means the model's name")
    sample_rows: int = Field(50, ge=0, description="number of test rows in the table of predictions")

    @property
    def pages(self) -> str:
        """Return the address that links begin with; that of a database is none."""
        return self.browser_url or self.uri


Layout = Literal["latest", "labels"]


def _mode(value: object) -> object:
    """Read the mode of a file: octal digits, as text or as YAML's own octal number."""
    digits = f"{value:04o}" if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(digits, str) or not re.fullmatch(r"0?[0-7]{3}", digits):
        raise ValueError("must be four octal digits that begin with 0, such as 0755")
    return digits.zfill(4)


Mode = Annotated[str, BeforeValidator(_mode)]


class LiveTls(Section):
    """The files for TLS connections to production; each is PEM, and its path is relative to the YAML file."""

    ca_file: Path | None = Field(
        None, description="certificates of the authorities to trust, instead of the public ones"
    )
    cert_file: Path | None = Field(
        None, description="the client's certificate, for a server that asks for one; key_file has its key"
    )
    key_file: Path | None = Field(None, description="the key of the client's certificate")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> LiveTls:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file must be set together: set both, or none")
        return self


Address = Annotated[str, AfterValidator(production_address)]
Headers = dict[Annotated[str, AfterValidator(header_name)], Annotated[str, AfterValidator(header_value)]]


class Promote(Section):
    """How a candidate goes live."""

    mode: Literal["auto", "review"] = Field(
        "auto", description="auto promotes a candidate that passes every gate; review waits for a person's approval"
    )
    layout: Layout = Field(
        "latest",
        description="latest: the highest version is live; labels: models.config names the stable version and "
        "the canary",
    )
    live_url: Address = Field(
        "",
        description="address of the production server, where a new version is verified, such as http://HOST:8501; "
        "grpc://HOST:8500 verifies over gRPC, and https:// and grpcs:// use TLS",
    )
    live_urls: tuple[Address, ...] = Field(
        (),
        description="addresses of several production servers, such as the replicas of one service: each must load a "
        "new version within live_timeout_s and answer it as the rehearsal did. Replaces live_url",
    )
    live_headers: Headers = Field(
        {},
        description="headers of each request to production (metadata over gRPC), such as {Authorization: Bearer "
        "${TOKEN}}, which takes the value from the environment",
    )
    live_tls: LiveTls = LiveTls()
    live_timeout_s: float = Field(60, gt=0, description="seconds within which production must load a new version")
    live_rows: int = Field(
        100, ge=1, description="number of test rows that production must answer as the rehearsal did"
    )
    metrics_path: Annotated[str, AfterValidator(path_of_metrics)] = Field(
        "",
        description="path of the Prometheus metrics of production, such as /monitoring/prometheus/metrics: requests, "
        "errors and load time around a change are read at each REST address and recorded; empty reads nothing",
    )
    keep: int = Field(
        0,
        ge=0,
        description="number of live versions, and of candidates with the files of their runs, to keep; 0 keeps all",
    )
    lock_timeout_s: float = Field(60, ge=0, description="seconds to wait while another process changes the same model")
    directory_mode: Mode = Field("0755", description="mode of the published directories, regardless of the umask")
    file_mode: Mode = Field("0644", description="mode of the published files, regardless of the umask")

    @model_validator(mode="after")
    def _owner_gets_in(self) -> Promote:
        if self.directory_mode[1] != "7" or self.file_mode[1] not in "4567":
            raise ValueError(
                "directory_mode must begin with 07, and file_mode with 04, 05, 06 or 07, so that the owner has access"
            )
        return self

    @model_validator(mode="after")
    def _labels_need_to_look(self) -> Promote:
        if self.layout == "labels" and not self.live_addresses:
            raise ValueError("layout: labels needs live_url, where a version must be AVAILABLE before a label moves")
        return self

    @model_validator(mode="after")
    def _tls_has_a_use(self) -> Promote:
        files = [name for name, file in self.live_tls if file is not None]
        if files and not any(address.startswith(("https:", "grpcs:")) for address in self.live_addresses):
            raise ValueError(f"live_tls.{files[0]} needs a live_url of https:// or grpcs://")
        return self

    @model_validator(mode="after")
    def _requests_are_clear(self) -> Promote:
        if "" in self.live_urls:
            raise ValueError("live_urls must not contain an empty address")
        check_different(self.live_urls)
        check_headers(self.live_headers, self.live_addresses)
        return self

    @model_validator(mode="after")
    def _metrics_are_read_over_http(self) -> Promote:
        if self.metrics_path and not any(address.startswith("http") for address in self.live_addresses):
            raise ValueError("metrics_path needs a live_url of http:// or https://, where the metrics are read")
        return self

    @property
    def live_addresses(self) -> tuple[str, ...]:
        """Return the addresses at which a new version is verified; none means that it is not verified."""
        return self.live_urls or ((self.live_url,) if self.live_url else ())


class Config(Section):
    """One rehearsal: data, model, export, server, gates, tracking, promotion."""

    name: Annotated[str, BeforeValidator(_model_name)] = Field(
        description="name of the model in URLs, directories and the registry"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the initial weights and of shuffling")
    work_dir: Path = Field(Path(".rehearsal"), description="directory of candidates, and of the files of runs")
    models_root: Path = Field(
        Path("models"),
        description="directory of live versions: production TensorFlow Serving watches <models_root>/<name>",
    )
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    export: Export = Export()
    serving: Serving = Serving()
    gates: Gates = Gates()
    tracking: Tracking = Tracking()
    promote: Promote = Promote()

    @model_validator(mode="after")
    def _file_is_not_in_the_place_of_the_model(self) -> Config:
        if f"{MODELS}/{self.name}" in self.serving.files:
            raise ValueError(f"serving.files must not contain '{MODELS}/{self.name}', where the candidate is")
        return self

    @property
    def candidates_dir(self) -> Path:
        """Return `<work_dir>/candidates/<name>`, which holds the numbered candidates."""
        return self.work_dir / "candidates" / self.name

    @property
    def live_dir(self) -> Path:
        """Return `<models_root>/<name>`, the directory that production watches."""
        return self.models_root / self.name

    def needs_person(self, *, has_champion: bool) -> bool:
        """Return whether a person must approve a candidate that passed."""
        return self.promote.mode == "review" or (not has_champion and self.gates.first_run == "review")
