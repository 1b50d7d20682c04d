"""Probes against the real embedded server, and the safety gate on graphs that TensorFlow itself wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.gates import Robustness, Safety
from configs.sections.serving import Serving
from tasks.datasets.rows import Array, load_arrays
from tasks.gates.robustness import judge_robustness
from tasks.gates.safety import judge_safety
from tasks.records import Backend, Candidate, GateResult, Probe, Signature
from tasks.savedmodel.safety import read_graph
from tasks.serving.launch import throwaway_server
from tasks.serving.probes import probe

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
MODELS = Path("tests/data/tfs_rest/models")
LINE = np.array([1.0, 2.0], np.float32)


def candidate_of(version_dir: Path) -> Candidate:
    nowhere = version_dir / "none"
    return Candidate("m", 1, version_dir, "", Signature((), ()), 0, nowhere, nowhere, nowhere)


def probed(candidate: Candidate, inputs: dict[str, Array], log: Path, **settings: Any) -> tuple[Probe, ...]:
    with throwaway_server(Backend("embedded"), Serving(), candidate, log_file=log) as (server, _):
        return probe(server.rest_url, candidate, inputs, Robustness(**settings), 30)


def saved(function: Any, directory: Path, **parts: Any) -> Path:
    """Save a function of one float vector `x` as TensorFlow does; `parts` are what it must keep."""
    import tensorflow as tf

    module = tf.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    module.serve = tf.function(function, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    version_dir = directory / "m" / "1"
    tf.saved_model.save(module, str(version_dir), signatures=module.serve)
    return version_dir


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("dense3", {"feat": np.ones((2, 3), np.float32)}),
        ("ints", {"n": np.array([[1, -5]])}),
        ("text", {"text": np.array(["abc", "ä"])}),
        ("kmulti", {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 1), np.float32)}),
        ("multi", {"a": np.ones((2, 3), np.float32), "b": np.array([1, 2], np.int32)}),
        ("cr", {"x": np.array([1.0, 2.0], np.float32)}),
    ],
)
def test_recorded_models_stand_every_probe(model: str, inputs: dict[str, Array], tmp_path: Path) -> None:
    """Models of numbers, integers, text and several inputs refuse or answer every malformed and extreme request."""
    shutil.copytree(MODELS / model / "1", tmp_path / "m" / "1")
    probes = probed(candidate_of(tmp_path / "m" / "1"), inputs, tmp_path / "log")
    result = judge_robustness(probes)
    assert result.passed, result.summary
    refused = {one.case for one in probes if 400 <= one.status < 500}
    assert {"malformed JSON", "empty body", "deep nesting", "wrong dtype", "unknown version"} <= refused


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "table",
        "of_bytes",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("penguins", "two_by_two", "naming")),
    ],
)
def test_exported_models_are_safe_and_robust(rehearsed: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    """What the pipeline exports from Keras reaches out nowhere and stands every probe, a batch of 4096 included."""
    made = rehearsed(name)
    safe = judge_safety(read_graph(made.candidate.version_dir), Safety())
    assert safe.passed, safe.summary
    probes = probed(made.candidate, load_arrays(made.candidate.requests), tmp_path / "log")
    result = judge_robustness(probes)
    assert result.passed, result.summary
    assert {one.case for one in probes if one.normal} == {"a batch of 1", "a large batch", "as usual afterwards"}


def test_parameters_are_those_of_keras(rehearsed: Callable[[str], Any]) -> None:
    """The weights counted in the graph are the weights that Keras counts, although it writes copies beside them."""
    made = rehearsed("digits")
    graph = read_graph(made.candidate.version_dir)
    assert graph.parameters == made.trained.parameters
    assert graph.total_bytes > graph.variables_bytes > 4 * graph.parameters


def test_an_answer_that_overflows_fails(tmp_path: Path) -> None:
    """A model whose answer to an extreme request is Infinity is refused, its twin that saturates is not."""
    import tensorflow as tf

    bad = saved(lambda x: {"y": tf.exp(x)}, tmp_path / "bad")
    result = judge_robustness(probed(candidate_of(bad), {"x": LINE}, tmp_path / "log"))
    assert result.evidence["failed"] == ["extreme values"]
    assert "Infinity" in result.summary
    good = saved(lambda x: {"y": tf.sigmoid(x)}, tmp_path / "good")
    assert judge_robustness(probed(candidate_of(good), {"x": LINE}, tmp_path / "log")).passed


def test_a_model_that_remembers_fails(tmp_path: Path) -> None:
    """A model that answers the same request otherwise once it has seen others is refused."""
    import tensorflow as tf

    seen = tf.Variable(0.0)
    version_dir = saved(lambda x: {"y": x + seen.assign_add(1.0)}, tmp_path, seen=seen)
    result = judge_robustness(probed(candidate_of(version_dir), {"x": LINE}, tmp_path / "log"))
    assert result.evidence["failed"] == ["as usual afterwards"]
    assert "the answer changed" in result.summary


def test_a_model_that_ends_the_server_fails(tmp_path: Path) -> None:
    """A server that dies of a request is no exception but failed probes, from the fatal one on; the graph shows why."""
    import tensorflow as tf

    def serve(x: Any) -> Any:
        with tf.control_dependencies([tf.cond(tf.reduce_max(x) > 100, abort, lambda: tf.constant(True))]):
            return {"y": x + 1}

    def abort() -> Any:
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="ended", exit_without_error=False)]):
            return tf.constant(True)

    version_dir = saved(serve, tmp_path)
    result = judge_robustness(probed(candidate_of(version_dir), {"x": LINE}, tmp_path / "log"))
    assert result.evidence["failed"] == ["extreme values", "a large batch", "as usual afterwards"]
    assert "extreme values: no answer" in result.summary
    assert "Abort" in judged(version_dir).summary


def judged(version_dir: Path) -> GateResult:
    return judge_safety(read_graph(version_dir), Safety())


def python_function(tf: Any) -> Callable[[Any], Any]:
    return lambda x: {"y": tf.py_function(lambda v: v, [x], tf.float32)}


def numpy_function(tf: Any) -> Callable[[Any], Any]:
    return lambda x: {"y": tf.numpy_function(lambda v: v, [x], tf.float32)}


def reading(tf: Any) -> Callable[[Any], Any]:
    return lambda x: {"y": x, "stolen": tf.io.read_file("/etc/passwd")}


def writing_in_a_nested_function(tf: Any) -> Callable[[Any], Any]:
    @tf.function
    def inner(x: Any) -> Any:
        tf.io.write_file("/tmp/written-by-a-model", tf.strings.as_string(tf.reduce_sum(x)))
        return x

    return lambda x: {"y": tf.function(lambda v: inner(v) + 1)(x)}


def writing_in_a_loop(tf: Any) -> Callable[[Any], Any]:
    def body(step: Any, x: Any) -> Any:
        tf.io.write_file("/tmp/written-by-a-model", tf.strings.as_string(step))
        return step + 1, x

    return lambda x: {"y": tf.while_loop(lambda step, _: step < 3, body, (0, x))[1]}


def reading_in_a_branch(tf: Any) -> Callable[[Any], Any]:
    return lambda x: {"y": tf.cond(x[0] > 0, lambda: tf.io.read_file("/etc/passwd"), lambda: tf.constant(""))}


def reading_in_a_dataset(tf: Any) -> Callable[[Any], Any]:
    def serve(x: Any) -> Any:
        lines = tf.data.TextLineDataset("/etc/passwd").reduce(tf.constant(""), lambda a, b: a + b)
        return {"y": x, "lines": lines}

    return serve


def printing_to_a_file(tf: Any) -> Callable[[Any], Any]:
    def serve(x: Any) -> Any:
        with tf.control_dependencies([tf.print(x, output_stream="file:///tmp/written-by-a-model")]):
            return {"y": x + 1}

    return serve


def restoring_by_request(tf: Any) -> Callable[[Any], Any]:
    return lambda x: {"y": x + tf.raw_ops.RestoreV2(prefix="/models/other/variables", tensor_names=["w"],
                                                    shape_and_slices=[""], dtypes=[tf.float32])[0]}  # fmt: skip


def saving_by_request(tf: Any) -> Callable[[Any], Any]:
    def serve(x: Any) -> Any:
        tf.raw_ops.SaveV2(prefix="/tmp/written-by-a-model", tensor_names=["x"], shape_and_slices=[""], tensors=[x])
        return {"y": x}

    return serve


def memory_of_a_file(tf: Any) -> Callable[[Any], Any]:
    return lambda x: {
        "y": x,
        "stolen": tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[4], memory_region_name="/etc/passwd"),
    }


def a_graph_in_a_text(tf: Any) -> Callable[[Any], Any]:
    def serve(x: Any) -> Any:
        dataset = tf.raw_ops.DatasetFromGraph(graph_def=tf.strings.as_string(tf.reduce_sum(x)))
        stolen = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset)
        return {"y": x, "stolen": stolen}

    return serve


@pytest.mark.parametrize(
    ("make", "op"),
    [
        (memory_of_a_file, "ImmutableConst"),
        (python_function, "EagerPyFunc"),
        (numpy_function, "PyFunc"),
        (reading, "ReadFile"),
        (writing_in_a_nested_function, "WriteFile"),
        (writing_in_a_loop, "WriteFile"),
        (reading_in_a_branch, "ReadFile"),
        (printing_to_a_file, "PrintV2"),
        (restoring_by_request, "RestoreV2"),
        (saving_by_request, "SaveV2"),
    ],
)
def test_what_tensorflow_writes_is_seen_through(
    make: Callable[[Any], Callable[[Any], Any]], op: str, tmp_path: Path
) -> None:
    """Files and Python, behind functions, loops, branches and datasets, are found, and found alone."""
    import tensorflow as tf

    graph = read_graph(saved(make(tf), tmp_path))
    assert {found for found, _ in graph.reaching_out} == {op}
    assert not judge_safety(graph, Safety()).passed
    assert judge_safety(graph, Safety(allow_ops=(op,))).passed


@pytest.mark.parametrize(
    ("make", "op", "others"),
    [
        (reading_in_a_dataset, "TextLineDataset", {"TensorSliceDataset", "FlatMapDataset", "ReduceDataset"}),
        (a_graph_in_a_text, "DatasetFromGraph", {"DatasetToGraphV2"}),
    ],
)
def test_datasets_are_refused(
    make: Callable[[Any], Callable[[Any], Any]], op: str, others: set[str], tmp_path: Path
) -> None:
    """A dataset of files, or of a graph that arrives as text, is refused, and with it all that is done to it."""
    import tensorflow as tf

    graph = read_graph(saved(make(tf), tmp_path))
    assert {found for found, _ in graph.reaching_out} == {op} | others
    assert not judge_safety(graph, Safety(allow_ops=tuple(others))).passed
    assert judge_safety(graph, Safety(allow_ops=(op, *others))).passed


@pytest.mark.parametrize("saved_again", [False, True])
def test_vocabulary_files_are_assets(saved_again: bool, tmp_path: Path) -> None:
    """Lookup tables with vocabulary files, of Keras and of TensorFlow, pass; loaded and saved again they still do."""
    import keras
    import tensorflow as tf

    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("a\nb\nc\n")
    text = keras.Input((1,), dtype="string", name="t")
    looked_up = keras.layers.StringLookup(vocabulary=str(vocabulary))(text)
    keras.Model(text, looked_up).export(str(tmp_path / "keras"), verbose=False)

    filled = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(filled, -1)
    module.serve = tf.function(
        lambda t: {"y": module.table.lookup(t)}, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path / "tensorflow"), signatures=module.serve)

    for name in ("keras", "tensorflow"):
        version_dir = tmp_path / name
        if saved_again:
            loaded = tf.saved_model.load(str(version_dir))
            version_dir = tmp_path / f"{name} again"
            tf.saved_model.save(loaded, str(version_dir), signatures=loaded.signatures)
        assert judged(version_dir).passed, judged(version_dir).summary
        assert (version_dir / "assets" / "words.txt").exists()
