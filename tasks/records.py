"""What travels between stages: frozen records of paths, numbers and strings, never a model or an array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

REST_DTYPES = frozenset(
    {
        "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "string",
    }
)  # fmt: skip
"""What JSON can carry, of inputs and outputs alike. Source: TensorFlow Serving, json_tensor.cc (2.20)."""
GRPC_DTYPES = REST_DTYPES | {"float16", "bfloat16", "uint16"}


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a signature.

    Attributes:
        name: the name that requests and answers use.
        dtype: NumPy's name of the element type (`float32`, `int64`, ...); strings are `string`.
        shape: extents; None is free (the first one is the batch), and None as a whole is unknown rank.
        computed: of an output that `export.cast` changes, the dtype that the model computes it in, else empty.
        pad: of an output that is as long as its batch makes it, what fills a row that is shorter, as `export.ragged`
            declares; None is not declared.

    A server knows nothing of the last two, so that two specs are equal without them.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    computed: str = field(default="", compare=False)
    pad: int | float | str | bool | None = field(default=None, compare=False)

    def is_free(self, axis: int) -> bool:
        """Return whether an axis may have any extent."""
        return self.shape is None or (axis < len(self.shape) and self.shape[axis] is None)

    @property
    def is_ragged(self) -> bool:
        """Return whether a row's extent may follow from the rows beside it."""
        return self.shape is None or None in self.shape[1:]

    def __str__(self) -> str:
        """Return the short form that messages use, such as `pixels: float32 (?, 64)`."""
        if self.shape is None:
            return f"{self.name}: {self.dtype} (any rank)"
        return f"{self.name}: {self.dtype} ({', '.join('?' if n is None else str(n) for n in self.shape)})"


@dataclass(frozen=True)
class Signature:
    """The named inputs and outputs that a SavedModel serves under one signature name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str = "serving_default"

    @property
    def beyond_rest(self) -> tuple[TensorSpec, ...]:
        """Return the inputs and outputs that TensorFlow Serving's REST interface cannot carry."""
        return tuple(spec for spec in (*self.inputs, *self.outputs) if spec.dtype not in REST_DTYPES)


Task = Literal["binary", "multiclass", "multilabel", "regression", ""]
Scores = Literal["probabilities", "logits", "margins", "labels", "values", ""]


@dataclass(frozen=True)
class Clues:
    """What a model says about one output before it has answered.

    Attributes:
        loss: the loss that it is trained by, for people, such as `BinaryCrossentropy(from_logits=True)`; or empty.
        family: what targets that loss takes: `binary` 0 or 1 for each number, `classes` a number of a class, `one-hot`
            a row of classes, `margin` and `one-hot margin` the same of a hinge, `numbers`; empty is not known.
        from_logits: whether that loss takes logits.
        ends_in: the operation that the output comes from: `softmax`, `sigmoid`, `log_softmax`, or empty.
    """

    loss: str = ""
    family: Literal["binary", "classes", "one-hot", "margin", "one-hot margin", "numbers", ""] = ""
    from_logits: bool = False
    ends_in: Literal["softmax", "sigmoid", "log_softmax", ""] = ""


@dataclass(frozen=True)
class Reading:
    """How the answers of one output are read; decided once, and kept in the version directory.

    Attributes:
        task: in scikit-learn's words; empty where no metric of ours fits.
        scores: what the answers are: `labels` are numbers of classes, `margins` what a hinge loss trains, `values`
            the numbers of a regression.
        reason: what it follows from, for people.
    """

    task: Task = ""
    scores: Scores = ""
    reason: str = ""
    clues: Clues = Clues()

    def __str__(self) -> str:
        """Return the short form that summaries use, such as `multiclass logits`."""
        return f"{self.task} {self.scores}" if self.task else "no known task"


@dataclass(frozen=True)
class Splits:
    """Where the prepared rows lie.

    Attributes:
        train, validation, test: `.npz` files with the members that `datasets.rows` saves.
        rows: number of rows of each split.
        digest: SHA-256 over the rows of all splits, in hexadecimal.
        source: the `module:function` that the rows came from.
        features: `name: dtype (shape)` of each feature and target, for people.
        groups: `.npz` of a fingerprint a row of what `data.key` or `data.group` names, by split; else None.
        shares: target, label and split to the share of the split's rows that have the label.
        left_out: of a model that was trained elsewhere, how many given rows are not judged because it was trained on
            them; None where that is not known.
    """

    train: Path
    validation: Path
    test: Path
    rows: Mapping[str, int]
    digest: str
    source: str
    features: tuple[str, ...]
    groups: Path | None = None
    shares: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    left_out: int | None = None

    @property
    def trained_on(self) -> int:
        """Return how many rows the model is known to have been trained or validated on; 0 is not known."""
        return self.rows["train"] + self.rows["validation"]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model on disk.

    Attributes:
        keras_file: Keras' own `.keras` file.
        history: per metric one number an epoch, as `fit` reported them.
        parameters: number of trainable and fixed weights.
        best_epoch: the epoch (from 1) whose weights were kept.
        readings: by Keras' name of an output that has a target.
        rounded: what a cast to the dtype of an input or a loss changes most, in words, by input and target.
        source: of a model that was trained elsewhere, where it came from.
    """

    keras_file: Path
    history: Mapping[str, tuple[float, ...]]
    parameters: int
    best_epoch: int
    readings: Mapping[str, Reading] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Candidate:
    """An exported version directory: these bytes, and no others, are judged, registered and promoted.

    Attributes:
        name: model name. version: the serving version, from the directory's name.
        version_dir: `<work_dir>/candidates/<name>/<N>`.
        digest: the manifest's SHA-256, in hexadecimal.
        size_bytes: total size of the manifest's files.
        requests: `.npz` of the test rows as the signature takes them, one array an input.
        reference: `.npz` of the in-process predictions of those rows, one array an output. Where an output is as
            long as its batch makes it, they come from the batches that are served, and `reference_batches` beside
            it holds those of the small ones, and of each row its extents.
        targets: `.npz` of what they should be, as `datasets.rows` saves them.
    """

    name: str
    version: int
    version_dir: Path
    digest: str
    signature: Signature
    size_bytes: int
    requests: Path
    reference: Path
    targets: Path

    @property
    def reference_batches(self) -> Path:
        """Return the `.npz` of in-process predictions in small batches, `<rows>/<output>`; it may not be there."""
        return self.reference.with_name("reference_batches.npz")

    @property
    def run_id(self) -> str:
        """Return the name of the run that it came from: that of the directory of its rows."""
        return self.requests.parent.name


BATCHES: Mapping[str, slice] = {
    "1": slice(0, 1),
    "2": slice(0, 2),
    "7": slice(0, 7),
    "the last 3": slice(-3, None),
}
"""Small batches that are asked besides all rows, by name. A sum along the batch leaves its first rows as they are."""
EXTENT = "extent"
"""In place of a batch's name: the extents that a row's answer has among all rows, int64 of shape (rows, axes)."""


@dataclass(frozen=True)
class GateResult:
    """One judgement on what was served.

    Attributes:
        name: the gate. passed: its verdict.
        summary: one line for people, with the figure and its bound.
        note: what the summary says besides the figures, for a table that shows these; None where it needs all of it.
        figures: numbers by stable names, for comparing runs. units: the unit of a figure, where it has one.
        bounds: of a figure, as text such as `at least 0.95`, where it has one.
        champion: the champion's figures, by the same names, where it was measured beside.
        evidence: JSON-ready details, such as the worst row.
        needs_person: why a person must decide although it passed, or empty.
    """

    name: str
    passed: bool
    summary: str
    figures: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, str] = field(default_factory=dict)
    champion: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    needs_person: str = ""
    note: str | None = None


@dataclass(frozen=True)
class GraphFacts:
    """What a SavedModel holds, read from its files without loading it.

    Attributes:
        reaching_out: (operation, node's name) of every operation that reaches outside the graph, functions included.
        outside: files of it that are links or lie outside its directory.
        graph_bytes: size of saved_model.pb. variables_bytes: of variables/.
        total_bytes: of all files but the fingerprints of the rows that it knows.
        parameters: number of elements of all variables whose shape is known.
        unclear: why the graph cannot be judged: it is too large, or says one thing and may mean another.
        reasons: for each operation of `reaching_out` what it reaches, in a few words and in a sentence.
    """

    reaching_out: tuple[tuple[str, str], ...]
    outside: tuple[str, ...]
    graph_bytes: int
    variables_bytes: int
    total_bytes: int
    parameters: int
    unclear: tuple[str, ...] = ()
    reasons: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """The version that is live.

    Attributes:
        version_dir: `<models_root>/<name>/<N>`. digest: of its bytes, in hexadecimal.
        graph: what its files hold.
        seen: `.npz` of the rows that it knows (datasets/seen.py), or None.
    """

    version: int
    version_dir: Path
    digest: str
    graph: GraphFacts
    seen: Path | None = None


@dataclass(frozen=True)
class Probe:
    """What a server answered to one request that is malformed or extreme.

    Attributes:
        case: what was wrong with it, such as `wrong dtype`. normal: whether it should have been answered as usual.
        status: HTTP status, 0 if there was no answer.
        finite: whether every number of an answer is finite. words: the start of the body.
    """

    case: str
    normal: bool
    status: int
    finite: bool
    words: str


@dataclass(frozen=True)
class Backend:
    """One throwaway server that judges: `docker` with its image, or `embedded`; why, where `auto` had to choose."""

    kind: str
    image: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ServerFacts:
    """Which server gave the answers.

    Attributes:
        backend: `docker` or `embedded`. reason: why `auto` chose it, or empty.
        image, image_id: the container image as asked for and its content id; empty when embedded.
        version: what the server calls itself, where it says so.
        startup_s: seconds from its start to AVAILABLE.
        log: the file with everything that the server printed.
    """

    backend: str
    reason: str
    image: str
    image_id: str
    version: str
    startup_s: float
    log: Path


@dataclass(frozen=True)
class ServedChampion:
    """What the champion answered in the same server as the candidate.

    Attributes:
        signature: as its `/metadata` reports it.
        answers: `.npz` of its answers to the same test rows, None where its signature does not take them.
        readings: by name of an output, as its own export kept them; empty for one exported before they were kept.
        seen: `.npz` of the rows that it knows (datasets/seen.py), or None.
    """

    signature: Signature
    answers: Path | None
    readings: Mapping[str, Reading] = field(default_factory=dict)
    seen: Path | None = None


@dataclass(frozen=True)
class ServedLatency:
    """How long requests took.

    Attributes:
        samples: `.npz` of float64 milliseconds a request, one array `candidate` and, where it was there, `champion`.
        requests_per_s: by the same names.
        memory_mb: resident memory of the server while the candidate alone was loaded, 0 where it is not known.
        cold_ms: milliseconds of the first request after loading.
    """

    samples: Path
    requests_per_s: Mapping[str, float]
    memory_mb: float
    cold_ms: float


@dataclass(frozen=True)
class ServedAnswers:
    """What a real server answered about one candidate.

    Attributes:
        signature: inputs and outputs as its `/metadata` reports them.
        answers: `.npz` of the answers to the test rows, one array an output.
        other_answers: the same over the other transport, where both were asked, else None.
        rows: number of test rows. rows_per_s: of them each second, request building and parsing included.
        small_batches: `.npz` of the answers to a few rows in small batches: `<rows>/<output>`, see `BATCHES`.
        golden: `.npz` of the answers to the golden rows, one array an output, or None.
        probes: the robustness gate's requests and what became of them.
        latency: where it was measured, else None. champion: what it answered, where one is live.
    """

    server: ServerFacts
    signature: Signature
    answers: Path
    rows: int
    rows_per_s: float
    other_answers: Path | None = None
    small_batches: Path | None = None
    golden: Path | None = None
    probes: tuple[Probe, ...] = ()
    latency: ServedLatency | None = None
    champion: ServedChampion | None = None


@dataclass(frozen=True)
class ValidationReport:
    """The verdict on one candidate: every judgement, in the order in which they were made.

    Attributes:
        graph: what the candidate's files hold.
        served: what the first image answered, for pictures and tables; every image was judged. None where the
            safety gate kept the candidate from every server.
        champion: the version that serves, which it was compared with, or None.
        new_rows: different rows of all splits that the champion's data did not have; None where nobody can tell.
        shared_rows: different rows, as the server is asked, that are in more than one split; None likewise.
    """

    candidate: Candidate
    graph: GraphFacts
    served: ServedAnswers | None
    gates: tuple[GateResult, ...]
    champion: Champion | None = None
    new_rows: int | None = None
    shared_rows: int | None = None

    @property
    def needs_person(self) -> str:
        """Return why a person must decide although every gate passed, or an empty string."""
        return "; ".join(dict.fromkeys(gate.needs_person for gate in self.gates if gate.needs_person))

    @property
    def passed(self) -> bool:
        """Return whether every gate passed; no gates at all is not an approval."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> tuple[GateResult, ...]:
        """Return the gates that did not pass."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def why_rejected(self) -> str:
        """Return what the failed gates say, in one line; empty where none failed."""
        return "; ".join(f"{gate.name}: {gate.summary}" for gate in self.failed)

    @property
    def refusals(self) -> tuple[GateResult, ...]:
        """Return the verdicts of the servers that refused the candidate (`gates.serving`)."""
        return tuple(gate for gate in self.gates if gate.name.partition(".")[0] == "serving")


@dataclass(frozen=True)
class TrackedRun:
    """Where MLflow keeps a rehearsal.

    Attributes:
        registry_version: MLflow's own number of the registered model version.
        url: page of the run, or empty where the tracking URI has no pages.
    """

    mlflow_run_id: str
    experiment_id: str
    registry_name: str
    registry_version: int
    url: str


@dataclass(frozen=True)
class Change:
    """One change of what serves; written down before its first step (store/journal.py).

    Attributes:
        operation: `publish` brings bytes in under a number, `withdraw` takes a live version away, `label` moves one.
        version: the number that it is about. directory: that number's name on the disk. digest: of its bytes.
        source: where the bytes are. previous: the champion until now, or None; previous_digest: of its bytes.
        rolls_back: the version that this one replaces because it was bad, or None.
        label: of the `labels` layout, or empty.
        run: MLflow's run id. registry_version: MLflow's number of the model version, 0 where there is none.
        actor: who asked for it. reason: one line. time: when it was done, ISO 8601; empty before.
    """

    operation: Literal["publish", "withdraw", "label"]
    version: int
    directory: str
    digest: str
    source: str = ""
    previous: int | None = None
    previous_digest: str = ""
    rolls_back: int | None = None
    label: str = ""
    run: str = ""
    registry_version: int = 0
    actor: str = ""
    reason: str = ""
    time: str = field(default="", compare=False)
