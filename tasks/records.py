"""The data that is passed between stages: frozen records of paths, numbers and strings, never a model or an array."""

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
"""The dtypes of inputs and outputs that JSON can carry. Source: TensorFlow Serving, json_tensor.cc (2.20)."""
GRPC_DTYPES = REST_DTYPES | {"float16", "bfloat16", "uint16"}


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a signature.

    Attributes:
        name: the name that requests and answers use.
        dtype: NumPy's name of the element type (`float32`, `int64`, ...); strings are `string`.
        shape: extents; None is free (the first one is the batch), and None as a whole means an unknown rank.
        computed: the model's own dtype of an output that `export.cast` changes, else empty.
        pad: the padding value of an output whose length depends on its batch, from `export.ragged`; None if it is not
            configured.
        unit: of a date in a declared contract, such as `days since 1970-01-01 UTC`, else empty.

    A server does not know the last three, so they are ignored when specs are compared.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    computed: str = field(default="", compare=False)
    pad: int | float | str | bool | None = field(default=None, compare=False)
    unit: str = field(default="", compare=False)

    def is_free(self, axis: int) -> bool:
        """Return whether an axis may have any extent."""
        return self.shape is None or (axis < len(self.shape) and self.shape[axis] is None)

    @property
    def is_ragged(self) -> bool:
        """Return whether the extent of a row may depend on the other rows of its batch."""
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
    """The facts that a model states about one output before it is called.

    Attributes:
        loss: a readable name of the loss, such as `BinaryCrossentropy(from_logits=True)`, or empty.
        family: the targets of that loss: `binary` is 0 or 1 for each number, `classes` is the number of a class,
            `one-hot` is a row of classes, `margin` and `one-hot margin` are the same for hinge losses, `numbers`; empty
            if it is unknown.
        from_logits: whether that loss takes logits.
        ends_in: the operation that computes the output: `softmax`, `sigmoid`, `log_softmax`, or empty.
    """

    loss: str = ""
    family: Literal["binary", "classes", "one-hot", "margin", "one-hot margin", "numbers", ""] = ""
    from_logits: bool = False
    ends_in: Literal["softmax", "sigmoid", "log_softmax", ""] = ""


@dataclass(frozen=True)
class Reading:
    """How the answers of one output are read; decided once, and stored in the version directory.

    Attributes:
        task: in scikit-learn's terms; empty if no built-in metric fits.
        scores: the kind of answers: `labels` are numbers of classes, `margins` are the scores of a hinge loss, `values`
            are the numbers of a regression.
        reason: why, for people.
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
    """The files of the prepared rows.

    Attributes:
        train, validation, test: `.npz` files with the members that `datasets.rows` saves.
        rows: number of rows of each split.
        digest: SHA-256 over the rows of all splits, in hexadecimal.
        source: the `module:function` that the rows came from.
        features: `name: dtype (shape)` of each feature and target, for people.
        groups: `.npz` of one fingerprint of the columns in `data.key` or `data.group` for each row, by split, or None.
        shares: the share of rows with a label, by target, label and split.
        streamed: whether the rows came as a stream, so that their numbers are mapped and not loaded.
        is_partial: whether these are the first rows of a stream that has more, for a check; they are assigned in turn.
        left_out: for a model that was trained elsewhere, how many of its training rows are not judged; None if unknown.
        classes: the values of the target of `data.file`, in the order of the model's answers; empty for others.
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
    classes: tuple[bool | int | str, ...] = ()
    streamed: bool = False
    is_partial: bool = False

    @property
    def trained_on(self) -> int:
        """Return the number of rows that the model was trained or validated on; 0 if it is unknown."""
        return self.rows["train"] + self.rows["validation"]


@dataclass(frozen=True)
class Recipe:
    """What a model was trained with, besides its rows, so that it can be trained again and compared.

    Attributes:
        config: every setting, without secrets.
        packages: the version of each installed package, by its lower-case name.
        code: SHA-256 of each file of the user's that was imported, by module.
        machine: Python, system, processor. settings: environment variables that TensorFlow and Keras read.
        weights: SHA-256 of the weights' dtypes, shapes and bytes in their order, in hexadecimal.
    """

    config: Mapping[str, Any]
    packages: Mapping[str, str]
    code: Mapping[str, str]
    machine: Mapping[str, str]
    settings: Mapping[str, str]
    weights: str


@dataclass(frozen=True)
class TrainedModel:
    """A trained model on disk.

    Attributes:
        keras_file: the `.keras` file.
        history: one number of each metric for each epoch, as reported by `fit`.
        parameters: number of trainable and fixed weights.
        best_epoch: the epoch (from 1) whose weights are used.
        readings: by Keras' name of each output that has a target.
        rounded: the largest change by a cast to the dtype of an input or a loss, in words, by input and target.
        source: where a model that was trained elsewhere came from, else empty.
        resumed: after how many epochs the training was resumed from its backup, once for each interruption.
        recipe: what it was trained with; None for a model that was trained elsewhere or by an earlier release.
    """

    keras_file: Path
    history: Mapping[str, tuple[float, ...]]
    parameters: int
    best_epoch: int
    readings: Mapping[str, Reading] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    resumed: tuple[int, ...] = ()
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Candidate:
    """An exported version directory, whose files are judged, registered and promoted unchanged.

    Attributes:
        name: model name. version: the serving version, from the directory's name.
        version_dir: `<work_dir>/candidates/<name>/<N>`.
        digest: the manifest's SHA-256, in hexadecimal.
        size_bytes: total size of the manifest's files.
        requests: `.npz` of the test rows in the form of the signature, one array for each input.
        reference: `.npz` of the in-process predictions for these rows, one array for each output. For an output whose
            length depends on its batch, they come from the batches that are served, and `reference_batches` has the
            predictions for the small batches and the extents of each row.
        targets: `.npz` of the expected answers, as `datasets.rows` saves them.
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
        """Return the `.npz` of in-process predictions in small batches, `<rows>/<output>`; it may not exist."""
        return self.reference.with_name("reference_batches.npz")

    @property
    def run_id(self) -> str:
        """Return the name of its run, which is the name of the directory of its rows."""
        return self.requests.parent.name


@dataclass(frozen=True)
class ComparedVariant:
    """What became of one variant of a sweep.

    Attributes:
        number: from 1. values: what it sets, by dotted key. words: the same for people.
        version: of its candidate, or None if it was not exported.
        score: the metric of the served answers to the validation rows, or None if it failed.
        reason: why it failed, one line, or empty.
        parameters: number of weights. seconds: of its training, when it was trained; 0 if it was not.
        history: as in `TrainedModel`.
    """

    number: int
    values: Mapping[str, Any]
    words: str
    version: int | None = None
    score: float | None = None
    reason: str = ""
    parameters: int = 0
    seconds: float = 0
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaderboard:
    """The variants of a sweep, the best first and those that failed last, each group by its number.

    Attributes:
        metric: the name of the scores' metric. rows: number of validation rows that they are of.
    """

    metric: str
    rows: int
    variants: tuple[ComparedVariant, ...]

    @property
    def winner(self) -> ComparedVariant | None:
        """Return the best variant, or None if all failed."""
        return next((variant for variant in self.variants if variant.score is not None), None)

    @property
    def failed(self) -> tuple[ComparedVariant, ...]:
        """Return the variants that have no score."""
        return tuple(variant for variant in self.variants if variant.score is None)


BATCHES: Mapping[str, slice] = {
    "1": slice(0, 1),
    "2": slice(0, 2),
    "7": slice(0, 7),
    "the last 3": slice(-3, None),
}
"""Small batches that are sent in addition to all rows, by name. The last 3 reveal a cumulative sum along the batch."""
EXTENT = "extent"
"""Used instead of the name of a batch: the extents of each row's answer among all rows, int64 of shape (rows, axes)."""


@dataclass(frozen=True)
class GateResult:
    """The result of one gate.

    Attributes:
        name: the gate. passed: its verdict.
        summary: one line for people, with the figure and its bound.
        note: the summary without the figures, for a table that shows these; None means the whole summary.
        figures: numbers by stable names, for comparing runs. units: the units of figures that have one.
        bounds: the bounds of figures that have one, as text such as `at least 0.95`.
        champion: the champion's figures by the same names, if it was measured as well.
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
    """The contents of a SavedModel, read from its files without loading it.

    Attributes:
        reaching_out: (operation, name of the node) of every operation that reaches outside of it, also in functions.
        outside: files that are links or are outside its directory.
        graph_bytes: size of saved_model.pb. variables_bytes: size of variables/.
        total_bytes: size of all files except the fingerprints of its rows.
        parameters: number of elements of all variables whose shape is known.
        unclear: why the graph cannot be judged: it is too large or ambiguous.
        reasons: for each operation in `reaching_out` what it reaches, in a few words and in a sentence.
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
class FeatureFacts:
    """What a declared feature means, and which values of it a version was trained on.

    Attributes:
        kind: as in `data.features`. dtype: of the served input.
        unit: of a date, `days` or `seconds` since 1970-01-01 UTC, else empty.
        missing: the value that stands for a missing one, as clients send it, or None.
        distinct: number of different values. values: all of them, sorted, for a category with few; else empty.
        low, high: the range of a number or a date in its unit; None for other kinds.
    """

    kind: str
    dtype: str
    unit: str = ""
    missing: bool | int | float | str | None = None
    distinct: int = 0
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DataSchema:
    """The declared features and the target of a version.

    Attributes:
        features: by the served name of the input.
        target: the name of its column. classes: its values in the order of the answers; empty for a number.
    """

    features: Mapping[str, FeatureFacts]
    target: str = ""
    classes: tuple[bool | int | str, ...] = ()


@dataclass(frozen=True)
class Champion:
    """The version that is live.

    Attributes:
        version_dir: `<models_root>/<name>/<N>`. digest: of its files, in hexadecimal.
        graph: the contents of its files.
        seen: `.npz` of the rows that it has seen (datasets/seen.py), or None.
    """

    version: int
    version_dir: Path
    digest: str
    graph: GraphFacts
    seen: Path | None = None


@dataclass(frozen=True)
class Probe:
    """The answer of a server to one malformed or extreme request.

    Attributes:
        case: the name of the request, such as `wrong dtype`. normal: whether it should be answered normally.
        status: HTTP status, or 0 if there was no answer.
        finite: whether all numbers of the answer are finite. words: the start of the body.
    """

    case: str
    normal: bool
    status: int
    finite: bool
    words: str


@dataclass(frozen=True)
class Backend:
    """One server that judges.

    Attributes:
        kind: `docker` with its image, `embedded`, or `attached` with its URL. reason: why `auto` chose it, or empty.
    """

    kind: str
    image: str = ""
    reason: str = ""
    url: str = ""

    def __str__(self) -> str:
        """Return the short form for people, such as `docker tensorflow/serving:2.19.1`."""
        return " ".join(filter(None, (self.kind, self.image or self.url)))


@dataclass(frozen=True)
class ServerFacts:
    """The server that gave the answers.

    Attributes:
        backend: `docker`, `embedded` or `attached`. reason: why `auto` chose it, or empty.
        image, image_id: the configured container image and its content id; empty without a container.
        version: the version of the server, or empty if it is unknown.
        startup_s: seconds from its start to AVAILABLE.
        log: the file with everything that the server printed.
        url: the address of an attached server, or empty.
        args: the flags from the configuration that it was started with.
    """

    backend: str
    reason: str
    image: str
    image_id: str
    version: str
    startup_s: float
    log: Path
    url: str = ""
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the short form for people, such as `attached http://127.0.0.1:8501`."""
        return str(Backend(self.backend, self.image, url=self.url))


@dataclass(frozen=True)
class ServedBatches:
    """The answers to one-row requests that concurrent clients sent to a server that batches.

    Attributes:
        clients: how many requests were open at the same time. requests: how many there were.
        answers: `.npz` of the answers, one array for each output, or None if a request was refused.
        rows: the test row of each request.
        refusal: the server's words if it refused a request, or empty.
    """

    clients: int
    requests: int
    answers: Path | None
    rows: tuple[int, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class ServedChampion:
    """The answers of the champion in the same server as the candidate.

    Attributes:
        signature: as its `/metadata` reports it.
        answers: `.npz` of its answers to the same test rows, or None if they do not fit its signature.
        readings: by name of an output, from its own export; empty if an older release exported it.
        seen: `.npz` of the rows that it has seen (datasets/seen.py), or None.
        declared: its declared features, or None without a record of them.
    """

    signature: Signature
    answers: Path | None
    readings: Mapping[str, Reading] = field(default_factory=dict)
    seen: Path | None = None
    declared: DataSchema | None = None


@dataclass(frozen=True)
class Recorded:
    """What a version answered when it was judged.

    Attributes:
        signature: of its export. requests: `.npz` of the test rows that it was judged on, one array for each input.
        answers: `.npz` of what a server answered to them, one array for each output.
    """

    signature: Signature
    requests: Path
    answers: Path


@dataclass(frozen=True)
class WayBack:
    """The version that a rollback would return to after the promotion of a candidate.

    Attributes:
        version: its number, or 0 if there is none to return to, which `absent` explains in a few words.
        version_dir: the directory of its files, or None if they are gone.
        recorded: its recorded answers, or None if they are gone.
        problem: why it cannot be served again, as its files show, or empty.
        unproven: why it is not known whether it can be served again, or empty.
        refusal: the words of a server that refused it, or empty. log: the end of what that server printed.
        answers: `.npz` of what the server answered to the recorded requests, or None if it was not asked.
        allowed: whether `promote.allow_no_way_back` permits a promotion without a proven way back.
    """

    version: int = 0
    version_dir: Path | None = None
    recorded: Recorded | None = None
    problem: str = ""
    unproven: str = ""
    refusal: str = ""
    log: str = ""
    answers: Path | None = None
    allowed: bool = False
    absent: str = "no version is live"


@dataclass(frozen=True)
class ServedLatency:
    """The measured duration of requests.

    Attributes:
        samples: `.npz` of the milliseconds of each request, float64: an array `candidate` and, if there is one,
            `champion`.
        requests_per_s: by the same names.
        memory_mb: resident memory of the server with only the candidate loaded, or 0 if it is unknown.
        cold_ms: milliseconds of the first request after loading.
        capacity: requests per second at which the p99 still keeps its bound, by the same names; empty if not measured.
    """

    samples: Path
    requests_per_s: Mapping[str, float]
    memory_mb: float
    cold_ms: float
    capacity: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedChange:
    """A rehearsed change: the candidate replaced the champion in a server under load, and a rollback put it back.

    Attributes:
        old, new, back: the numbers under which the champion, the candidate and the champion again were served; `back`
            is 0 if there was no rollback.
        requests: `.npz` with one element for each request, in the order of the intended times: `due_s`, `sent_s` and
            `done_s` float64, seconds since the load began; `status` int64, 200 for an answer and 0 for none; `named`
            int64, the version that the answer names, or 0; `like_old` and `like_new` bool, whether it equals the
            validated answer of the champion and of the candidate. None if there was no load.
        changed_s, rolled_back_s: when the candidate was renamed into place and when the rollback began, in the same
            seconds; None if they did not. labelled_s: with labels, when the label moved to the candidate.
        renamed_back_s: when the server could first see the rollback.
        peak_mb, limit_mb: the most memory that the server used, and its limit, in MB; 0 if unknown.
        killed: the words about a server that was killed at its memory limit while it held both versions, or empty.
        problem: why the server did not serve the candidate, or the champion again, or empty.
        no_way_back: why there was no rollback to rehearse, or empty.
        not_rehearsed: why nothing was rehearsed, or empty.
        refusals: the words of the first requests that were refused.
        rounds: how often it was rehearsed, because the p99 may have risen by noise; this is the quietest of them.
        usual_ms: the smallest p99 before the change, of several rehearsals; 0 if there was one.
    """

    old: int
    new: int
    back: int = 0
    requests: Path | None = None
    changed_s: float | None = None
    rolled_back_s: float | None = None
    labelled_s: float | None = None
    renamed_back_s: float | None = None
    peak_mb: float = 0
    limit_mb: float = 0
    killed: str = ""
    problem: str = ""
    no_way_back: str = ""
    not_rehearsed: str = ""
    refusals: tuple[str, ...] = ()
    rounds: int = 1
    usual_ms: float = 0


@dataclass(frozen=True)
class ReplayedSlice:
    """How often the decisions for some of the replayed rows differ from the champion's.

    Attributes:
        title: such as `city=Oslo`; empty for all rows.
        requests: number of requests with such rows. rows: of these rows. flipped: of those with another decision.
        squares: sums over the requests of flipped^2, flipped * rows and rows^2, because rows of one request are alike.
    """

    title: str
    requests: int
    rows: int
    flipped: int
    squares: tuple[int, int, int]


@dataclass(frozen=True)
class ReplayedInput:
    """How the values of one input in the replayed requests differ from those of the training rows.

    Attributes:
        name: of the input, with the place of the element if it has several.
        values: number of values. span: of the training rows, for people.
        psi: population stability index. noise: what chance alone exceeds 1 time in 20.
        outside: number of values that no training row has, or that are outside of their range.
        named: the first of them, with request, row and value.
    """

    name: str
    values: int
    psi: float
    noise: float
    span: str
    outside: int
    named: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ServedReplay:
    """What became of recorded requests.

    Attributes:
        file: their name. transport: how they were sent, for people.
        requests: number of requests that were sent. rows: of the rows that both versions answered.
        skipped: how many were not sent, by reason with the first one.
        refused: how many only the candidate refused. refused_by_both, refused_by_champion: likewise.
        not_finite: rows that the champion answered with numbers, and the candidate with NaN or infinity.
        unread: how many do not fit the candidate's inputs, so that their values are unknown.
        rules: by output, what counts as another decision.
        slices: of the decisions, all rows first; empty without a champion.
        flipped, refusals: the first rows with another decision, and the first requests that one of them refused.
        inputs: beside the training rows. reference: which rows these are.
        notes: what else a reader must know.
        crash: at which request the candidate crashed the server, after which nothing was sent, or empty.
    """

    file: str
    transport: str
    requests: int
    rows: int
    skipped: Mapping[str, int]
    refused: int
    refused_by_both: int
    refused_by_champion: int
    not_finite: int
    unread: int
    rules: Mapping[str, str]
    slices: tuple[ReplayedSlice, ...]
    flipped: tuple[Mapping[str, Any], ...]
    refusals: tuple[Mapping[str, Any], ...]
    inputs: tuple[ReplayedInput, ...]
    reference: str = ""
    notes: tuple[str, ...] = ()
    crash: str = ""


@dataclass(frozen=True)
class ServedAnswers:
    """The answers of a real server about one candidate.

    Attributes:
        signature: inputs and outputs as its `/metadata` reports them.
        answers: `.npz` of the answers to the test rows, one array for each output.
        other_answers: the same over the other transport if both are used, else None.
        rows: number of test rows. rows_per_s: rows per second, including the time to build and parse requests.
        small_batches: `.npz` of the answers to a few rows in small batches: `<rows>/<output>`, see `BATCHES`.
        golden: `.npz` of the answers to the golden rows, one array for each output, or None.
        batches: the answers of a server that batches to concurrent clients; None if it does not batch.
        probes: the requests of the robustness gate and their answers.
        latency: the measured latency, or None. champion: the answers of the live version, or None.
        replay: what became of recorded requests, or None.
        change: the rehearsed change from the champion to the candidate, or None.
        way_back: what is known of the version that a rollback would return to, or None if it was not looked for.
    """

    server: ServerFacts
    signature: Signature
    answers: Path
    rows: int
    rows_per_s: float
    other_answers: Path | None = None
    small_batches: Path | None = None
    golden: Path | None = None
    batches: ServedBatches | None = None
    probes: tuple[Probe, ...] = ()
    latency: ServedLatency | None = None
    champion: ServedChampion | None = None
    replay: ServedReplay | None = None
    change: ServedChange | None = None
    way_back: WayBack | None = None


@dataclass(frozen=True)
class ValidationReport:
    """The verdict on one candidate: the results of all gates, in the order of their judgement.

    Attributes:
        graph: the contents of the candidate's files.
        served: the answers of the first image, for pictures and tables, although every image was judged; None if the
            candidate was not served, because the safety gate refused it.
        champion: the live version, which it was compared with, or None.
        new_rows: distinct rows of all splits that the champion's data did not have; None if it is unknown.
        shared_rows: distinct requests that are in more than one split; None if it is unknown.
        drift: how the declared features and their values differ from the champion's, one sentence each.
    """

    candidate: Candidate
    graph: GraphFacts
    served: ServedAnswers | None
    gates: tuple[GateResult, ...]
    champion: Champion | None = None
    new_rows: int | None = None
    shared_rows: int | None = None
    drift: tuple[str, ...] = ()

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
        """Return the summaries of the failed gates in one line, or an empty string."""
        return "; ".join(f"{gate.name}: {gate.summary}" for gate in self.failed)

    @property
    def compared_with(self) -> Champion | None:
        """Return the live version, or None if there is none, or if it could not be served beside the candidate."""
        return None if self.served is not None and self.served.champion is None else self.champion

    @property
    def way_back(self) -> GateResult | None:
        """Return the verdict on the way back, of several servers' the worst, or None if there is none."""
        found = [gate for gate in self.gates if gate.name.partition(".")[0] == "way_back"]
        return min(found, key=lambda gate: (gate.passed, not gate.evidence.get("not_proven")), default=None)

    @property
    def without_way_back(self) -> str:
        """Return why a promotion of this candidate has no proven way back, or an empty string."""
        found = self.way_back
        return str(found.evidence.get("not_proven", "")) if found else ""

    @property
    def refusals(self) -> tuple[GateResult, ...]:
        """Return the verdicts of the servers that refused the candidate (`gates.serving`)."""
        return tuple(gate for gate in self.gates if gate.name.partition(".")[0] == "serving")


@dataclass(frozen=True)
class TrackedRun:
    """The place of a rehearsal in MLflow.

    Attributes:
        registry_version: MLflow's own number of the registered model version.
        url: page of the run, or empty if the tracking URI has no pages.
    """

    mlflow_run_id: str
    experiment_id: str
    registry_name: str
    registry_version: int
    url: str


@dataclass(frozen=True)
class Arm:
    """One version of an experiment on real users.

    Attributes:
        label: `a`, `b`, ... in `models.config`. digest: of the version's files, in hexadecimal.
        share: of the keys, in percent.
    """

    label: str
    version: int
    digest: str
    share: int

    def __str__(self) -> str:
        """Return the short form that messages use."""
        return f"{self.label}: version {self.version} ({self.share} %)"


@dataclass(frozen=True)
class SweepRun:
    """The place of a sweep in MLflow; `url` is its page, or empty if the tracking URI has no pages."""

    mlflow_run_id: str
    url: str


@dataclass(frozen=True)
class Change:
    """One change of production, which is recorded before its first step (store/journal.py).

    Attributes:
        operation: `publish` makes a version live, `withdraw` removes a live version, `label` moves a label,
            `experiment` gives several versions a label each, `end` removes these labels.
        version: the number of the version. directory: its name on the disk. digest: of its files.
        source: the directory of its files. previous: the champion until now, or None; previous_digest: of its files.
        rolls_back: the faulty version that this one replaces, or None.
        label: a label of the `labels` layout, or empty.
        run: MLflow's run id. registry_version: MLflow's number of the model version, or 0.
        actor: who requested the change. reason: one line. time: when it was made, ISO 8601; empty before.
        metrics: what production's metrics say about it, one line, or empty.
        approval: the signed approval, or empty.
        head: the digest of the history's last line after the change, or empty before.
        experiment: the name of the experiment that begins or ends, or empty. arms: its versions; the version of an
            experiment's beginning or end is that of its first arm, and that of a `label` which ends it is the winner.
    """

    operation: Literal["publish", "withdraw", "label", "experiment", "end"]
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
    metrics: str = field(default="", compare=False)
    head: str = field(default="", compare=False)
    approval: str = ""
    experiment: str = ""
    arms: tuple[Arm, ...] = ()

    @property
    def title(self) -> str:
        """Return what it changes, in words."""
        if self.operation in ("experiment", "end"):
            return f"{'start' if self.operation == 'experiment' else 'end'} of the experiment {self.experiment}"
        return f"{self.operation} of version {self.version}"
