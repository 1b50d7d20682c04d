"""A hundred ordinary exports: every Keras layer that exports, preprocessing with tables, and TensorFlow's own text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.gates import Safety
from tasks.gates.safety import judge_safety
from tasks.savedmodel.safety import read_graph

# TensorFlow's variables do not know NumPy 2's `copy`; Keras reads every weight through them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROW, LINE, IMAGE, VOLUME, FILM = (4,), (6, 4), (8, 8, 3), (4, 4, 4, 2), (3, 6, 6, 2)
# layer's name: the shape of its input, and its arguments
LAYERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "Activation": (ROW, {"activation": "gelu"}),
    "ActivityRegularization": (ROW, {"l2": 0.1}),
    "AdaptiveAveragePooling1D": (LINE, {"output_size": 2}),
    "AdaptiveAveragePooling2D": (IMAGE, {"output_size": 2}),
    "AdaptiveAveragePooling3D": (VOLUME, {"output_size": 2}),
    "AdaptiveMaxPooling1D": (LINE, {"output_size": 2}),
    "AdaptiveMaxPooling2D": (IMAGE, {"output_size": 2}),
    "AdaptiveMaxPooling3D": (VOLUME, {"output_size": 2}),
    "AlphaDropout": (ROW, {"rate": 0.5}),
    "AugMix": (IMAGE, {}),
    "AutoContrast": (IMAGE, {}),
    "AveragePooling1D": (LINE, {"pool_size": 2}),
    "AveragePooling2D": (IMAGE, {"pool_size": 2}),
    "AveragePooling3D": (VOLUME, {"pool_size": 2}),
    "BatchNormalization": (ROW, {}),
    "CategoryEncoding": (ROW, {"num_tokens": 5, "output_mode": "count"}),
    "CenterCrop": (IMAGE, {"height": 4, "width": 4}),
    "ContrastLimitedAdaptiveHistogramEqualization": (IMAGE, {"value_range": (0, 1), "tile_grid_size": (2, 2)}),
    "Conv1D": (LINE, {"filters": 2, "kernel_size": 3, "padding": "causal"}),
    "Conv1DTranspose": (LINE, {"filters": 2, "kernel_size": 3}),
    "Conv2D": (IMAGE, {"filters": 2, "kernel_size": 3, "activation": "relu"}),
    "Conv2DTranspose": (IMAGE, {"filters": 2, "kernel_size": 3}),
    "Conv3D": (VOLUME, {"filters": 2, "kernel_size": 2}),
    "Conv3DTranspose": (VOLUME, {"filters": 2, "kernel_size": 2}),
    "ConvLSTM1D": ((*LINE, 2), {"filters": 2, "kernel_size": 3}),
    "ConvLSTM2D": (FILM, {"filters": 2, "kernel_size": 3}),
    "ConvLSTM3D": ((2, 3, 3, 3, 1), {"filters": 1, "kernel_size": 2}),
    "Cropping1D": (LINE, {}),
    "Cropping2D": (IMAGE, {}),
    "Cropping3D": (VOLUME, {}),
    "CutMix": (IMAGE, {}),
    "Dense": (ROW, {"units": 2, "activation": "softmax"}),
    "DepthwiseConv1D": (LINE, {"kernel_size": 3}),
    "DepthwiseConv2D": (IMAGE, {"kernel_size": 3}),
    "Discretization": (ROW, {"bin_boundaries": [0.0, 0.5, 1.0]}),
    "Dropout": (ROW, {"rate": 0.5}),
    "ELU": (ROW, {}),
    "EinsumDense": (LINE, {"equation": "abc,cd->abd", "output_shape": (None, 3)}),
    "Embedding": (ROW, {"input_dim": 9, "output_dim": 3, "mask_zero": True}),
    "Flatten": (LINE, {}),
    "GRU": (LINE, {"units": 3}),
    "GaussianDropout": (ROW, {"rate": 0.5}),
    "GaussianNoise": (ROW, {"stddev": 0.5}),
    "GlobalAveragePooling1D": (LINE, {}),
    "GlobalAveragePooling2D": (IMAGE, {}),
    "GlobalAveragePooling3D": (VOLUME, {}),
    "GlobalMaxPooling1D": (LINE, {}),
    "GlobalMaxPooling2D": (IMAGE, {}),
    "GlobalMaxPooling3D": (VOLUME, {}),
    "GroupNormalization": (LINE, {"groups": 2}),
    "Hashing": (ROW, {"num_bins": 7}),
    "Identity": (ROW, {}),
    "IntegerLookup": (ROW, {"vocabulary": [3, 5, 7]}),
    "LSTM": (LINE, {"units": 3, "return_sequences": True}),
    "LayerNormalization": (ROW, {}),
    "LeakyReLU": (ROW, {}),
    "Masking": (LINE, {}),
    "MaxPooling1D": (LINE, {}),
    "MaxPooling2D": (IMAGE, {}),
    "MaxPooling3D": (VOLUME, {}),
    "MelSpectrogram": ((600,), {"fft_length": 64, "sequence_stride": 32, "num_mel_bins": 8}),
    "MixUp": (IMAGE, {}),
    "Normalization": (ROW, {"mean": 1.0, "variance": 2.0}),
    "PReLU": (ROW, {}),
    "Permute": (LINE, {"dims": (2, 1)}),
    "RMSNormalization": (ROW, {}),
    "RandAugment": (IMAGE, {}),
    "RandomBrightness": (IMAGE, {"factor": 0.1}),
    "RandomColorDegeneration": (IMAGE, {"factor": 0.1}),
    "RandomColorJitter": (IMAGE, {"brightness_factor": 0.1}),
    "RandomContrast": (IMAGE, {"factor": 0.1}),
    "RandomCrop": (IMAGE, {"height": 4, "width": 4}),
    "RandomElasticTransform": (IMAGE, {}),
    "RandomErasing": (IMAGE, {}),
    "RandomFlip": (IMAGE, {}),
    "RandomGaussianBlur": (IMAGE, {}),
    "RandomGrayscale": (IMAGE, {}),
    "RandomHue": (IMAGE, {"factor": 0.1}),
    "RandomInvert": (IMAGE, {}),
    "RandomPerspective": (IMAGE, {}),
    "RandomPosterization": (IMAGE, {"factor": 4}),
    "RandomRotation": (IMAGE, {"factor": 0.1}),
    "RandomSaturation": (IMAGE, {"factor": 0.1}),
    "RandomSharpness": (IMAGE, {"factor": 0.1}),
    "RandomShear": (IMAGE, {"x_factor": 0.1}),
    "RandomTranslation": (IMAGE, {"height_factor": 0.1, "width_factor": 0.1}),
    "RandomZoom": (IMAGE, {"height_factor": 0.1}),
    "ReLU": (ROW, {"max_value": 6.0}),
    "RepeatVector": (ROW, {"n": 2}),
    "Rescaling": (ROW, {"scale": 0.5}),
    "Reshape": (LINE, {"target_shape": (4, 6)}),
    "Resizing": (IMAGE, {"height": 4, "width": 5, "interpolation": "bicubic"}),
    "STFTSpectrogram": ((600, 1), {"frame_length": 64, "fft_length": 64}),
    "ReversibleEmbedding": (ROW, {"input_dim": 9, "output_dim": 3}),
    "SeparableConv1D": (LINE, {"filters": 2, "kernel_size": 3}),
    "SeparableConv2D": (IMAGE, {"filters": 2, "kernel_size": 3}),
    "SimpleRNN": (LINE, {"units": 3, "go_backwards": True}),
    "Softmax": (ROW, {}),
    "Solarization": (IMAGE, {}),
    "SpatialDropout1D": (LINE, {"rate": 0.5}),
    "SpatialDropout2D": (IMAGE, {"rate": 0.5}),
    "SpatialDropout3D": (VOLUME, {"rate": 0.5}),
    "UnitNormalization": (ROW, {}),
    "UpSampling1D": (LINE, {}),
    "UpSampling2D": (IMAGE, {"interpolation": "bilinear"}),
    "UpSampling3D": (VOLUME, {}),
    "ZeroPadding1D": (LINE, {}),
    "ZeroPadding2D": (IMAGE, {}),
    "ZeroPadding3D": (VOLUME, {}),
}


def merged(name: str, **arguments: Any) -> Callable[[Any], Any]:
    def build(keras: Any) -> Any:
        left, right = keras.Input(ROW), keras.Input(ROW)
        return keras.Model([left, right], getattr(keras.layers, name)(**arguments)([left, right]))

    return build


def attending(name: str, **arguments: Any) -> Callable[[Any], Any]:
    def build(keras: Any) -> Any:
        query, value = keras.Input(LINE), keras.Input(LINE)
        layer = getattr(keras.layers, name)(**arguments)
        called = layer([query, value]) if name.endswith("eAttention") or name == "Attention" else layer(query, value)
        return keras.Model([query, value], called)

    return build


def around(make: Callable[[Any], Any], shape: tuple[int, ...] = LINE, dtype: str | None = None) -> Callable[[Any], Any]:
    def build(keras: Any) -> Any:
        given = keras.Input(shape, dtype=dtype)
        return keras.Model(given, make(keras.layers)(given))

    return build


def crossed(keras: Any) -> Any:
    left, right = keras.Input((1,), dtype="string"), keras.Input((1,), dtype="string")
    crossing = keras.layers.HashedCrossing(num_bins=7, output_mode="one_hot")
    return keras.Model([left, right], crossing((left, right)))


def vectorized(**arguments: Any) -> Callable[[Any], Any]:
    return around(
        lambda layers: layers.TextVectorization(vocabulary=["the", "cat", "sat"], **arguments), (1,), "string"
    )


def features(keras: Any) -> Any:
    """Return what FeatureSpace makes of a table, followed by a layer."""
    import tensorflow as tf

    space = keras.utils.FeatureSpace
    table = space(
        features={
            "age": space.float_discretized(num_bins=3),
            "height": space.float_normalized(),
            "weight": space.float_rescaled(scale=0.1),
            "city": space.string_categorical(num_oov_indices=1),
            "street": space.string_hashed(num_bins=5),
            "floor": space.integer_categorical(),
            "number": space.integer_hashed(num_bins=4),
        },
        crosses=[space.cross(("city", "floor"), crossing_dim=8)],
        output_mode="concat",
    )
    rows = {"age": [1.0, 2.0, 3.0], "height": [1.0, 2.0, 4.0], "weight": [1.0, 2.0, 3.0], "city": ["a", "b", "c"]}
    rows |= {"street": ["x", "y", "z"], "floor": [1, 2, 3], "number": [4, 5, 6]}
    table.adapt(tf.data.Dataset.from_tensor_slices(rows))
    return keras.Model(table.get_inputs(), keras.layers.Dense(1)(table.get_encoded_features()))


def quantized(mode: str) -> Callable[[Any], Any]:
    def build(keras: Any) -> Any:
        given = keras.Input((8,))
        model = keras.Model(given, keras.layers.Dense(4)(given))
        model.layers[-1].quantize(mode)
        return model

    return build


MODELS: dict[str, Callable[[Any], Any]] = {
    **{name: merged(name) for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")},
    "Dot": merged("Dot", axes=1),
    "AdditiveAttention": attending("AdditiveAttention"),
    "Attention": attending("Attention"),
    "GroupQueryAttention": attending("GroupQueryAttention", head_dim=2, num_query_heads=2, num_key_value_heads=1),
    "MultiHeadAttention": attending("MultiHeadAttention", num_heads=2, key_dim=2),
    "Bidirectional": around(lambda layers: layers.Bidirectional(layers.LSTM(2))),
    "TimeDistributed": around(lambda layers: layers.TimeDistributed(layers.Dense(2))),
    "SpectralNormalization": around(lambda layers: layers.SpectralNormalization(layers.Dense(2)), ROW),
    "RNN of cells": around(lambda layers: layers.RNN([layers.LSTMCell(2), layers.GRUCell(3), layers.SimpleRNNCell(2)])),
    "StackedRNNCells": around(lambda layers: layers.RNN(layers.StackedRNNCells([layers.GRUCell(2)]), unroll=True)),
    "LSTM with dropout": around(lambda layers: layers.LSTM(2, recurrent_dropout=0.1)),
    "Pipeline": around(lambda layers: layers.Pipeline([layers.Rescaling(0.5), layers.CenterCrop(4, 4)]), IMAGE),
    "StringLookup": around(lambda layers: layers.StringLookup(vocabulary=["a", "b"]), (1,), "string"),
    "StringLookup, inverted": around(lambda layers: layers.StringLookup(vocabulary=["a"], invert=True), (1,), "int64"),
    "StringLookup, tf_idf": around(
        lambda layers: layers.StringLookup(vocabulary=["a"], output_mode="tf_idf", idf_weights=[0.5]), (2,), "string"
    ),
    "IntegerLookup, multi_hot": around(
        lambda layers: layers.IntegerLookup(vocabulary=[1, 2], output_mode="multi_hot"), (2,), "int64"
    ),
    "Hashing of text": around(lambda layers: layers.Hashing(num_bins=5, salt=[1, 2]), (2,), "string"),
    "HashedCrossing": crossed,
    "TextVectorization": vectorized(output_sequence_length=5),
    "TextVectorization, n-grams": vectorized(ngrams=2, output_mode="tf_idf", idf_weights=[0.1, 0.2, 0.3]),
    "TextVectorization, characters": vectorized(split="character", standardize="lower"),
    "TextVectorization, ragged": vectorized(ragged=True),
    "FeatureSpace": features,
    "int8": quantized("int8"),
    "float8": quantized("float8"),
}


def exports(directory: Path, every: int) -> Iterator[tuple[str, Path]]:
    """Give (name, SavedModel) of every model above, or of every second, third, ... of them, exported by Keras."""
    import keras

    keras.backend.clear_session()
    models = {name: around_layer(name) for name in LAYERS} | MODELS
    for number, (name, build) in list(enumerate(models.items()))[::every]:
        build(keras).export(str(directory / str(number)), verbose=False)
        yield name, directory / str(number)


def around_layer(name: str) -> Callable[[Any], Any]:
    shape, arguments = LAYERS[name]
    return around(lambda layers: getattr(layers, name)(**arguments), shape)


@pytest.mark.parametrize(("every", "most"), [(3, 60), pytest.param(1, 200, marks=pytest.mark.long)])
def test_a_hundred_exports_of_keras_pass(every: int, most: int, tmp_path: Path) -> None:
    """Each Keras layer that exports, by itself, is judged safe, and so is preprocessing with tables in the graph."""
    judged = {name: judge_safety(read_graph(version_dir), Safety()) for name, version_dir in exports(tmp_path, every)}
    assert {name: result.summary for name, result in judged.items() if not result.passed} == {}
    assert 100 / every < len(judged) < most


def word_pieces(tf: Any) -> tuple[Any, Any]:
    """Return a tokenizer as KerasNLP's are: text is normalised and cut, words are looked up, unknown ones cut on."""
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["un", "able", "the"], [1, 2, 3]), -1)
    merges = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
    merges.insert(["u n"], tf.constant([1], tf.int64))

    def serve(text: Any) -> Any:
        lower = tf.strings.lower(tf.strings.unicode_transcode(text, "UTF-8", "UTF-8"))
        clean = tf.strings.regex_replace(lower, "!", "")
        words = tf.strings.split(clean)
        pieces = tf.ragged.map_flat_values(lambda word: tf.strings.substr(word, 0, 2), words)
        ids = tf.ragged.map_flat_values(table.lookup, tf.concat([words, pieces], axis=1))
        rank = merges.lookup(tf.strings.reduce_join(pieces, axis=1, separator=" "))
        padded = ids.to_tensor(default_value=0, shape=[None, 8])
        marks = tf.strings.unicode_decode(text, "UTF-8").to_tensor(0)
        return {"ids": padded, "ranks": rank, "marks": tf.strings.to_hash_bucket_fast(tf.strings.as_string(marks), 9)}

    return (table, merges), tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "text")])


def pictures(tf: Any) -> tuple[Any, Any]:
    def one(image: Any) -> Any:
        return tf.image.resize(tf.io.decode_jpeg(image, channels=3), [4, 4])

    def serve(images: Any) -> Any:
        decoded = tf.map_fn(one, images, fn_output_signature=tf.float32)
        kept = tf.image.non_max_suppression(tf.reshape(decoded, [-1, 4]), tf.reshape(decoded, [-1, 4])[:, 0], 2)
        return {"image": tf.image.adjust_contrast(decoded, 2.0), "kept": kept}

    return None, tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])


def examples(tf: Any) -> tuple[Any, Any]:
    fields = {"age": tf.io.FixedLenFeature([], tf.float32), "words": tf.io.VarLenFeature(tf.string)}

    def serve(packed: Any) -> Any:
        parsed = tf.io.parse_example(packed, fields)
        return {"age": parsed["age"], "words": tf.sparse.to_dense(parsed["words"], default_value="")}

    return None, tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "examples")])


def branches(tf: Any) -> tuple[Any, Any]:
    """Return a model of branches, loops, arrays, a generator, a gradient and an assertion, which prints a line."""
    generator = tf.random.Generator.from_seed(1)

    def serve(x: Any) -> Any:
        tf.print("rows:", tf.shape(x)[0])
        tf.debugging.assert_all_finite(x, "numbers must be finite")
        tf.debugging.assert_rank(x, 1)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.sin(x) ** 2)
        chosen = tf.switch_case(tf.size(x) % 3, [lambda: x, lambda: x * 2, lambda: -x])
        total = tf.while_loop(lambda i, _: i < 3, lambda i, a: (i + 1, a + chosen), (0, tf.zeros_like(x)))[1]
        kept = tf.TensorArray(tf.float32, 2).write(0, total).write(1, chosen).stack()
        noise = generator.normal(tf.shape(x))
        return {"y": tf.cond(y > 0, lambda: total, lambda: chosen) + tape.gradient(y, x), "kept": kept + noise}

    return generator, tf.function(serve, input_signature=[tf.TensorSpec([None], tf.float32, "x")])


def algebra(tf: Any) -> tuple[Any, Any]:
    def serve(x: Any) -> Any:
        square = tf.matmul(x, x, transpose_b=True) + tf.eye(tf.shape(x)[0])
        spectrum = tf.signal.irfft(tf.signal.rfft(x))
        picked = tf.tensor_scatter_nd_add(x, [[0, 0]], [1.0])
        sums = tf.math.segment_sum(x, tf.zeros([tf.shape(x)[0]], tf.int32))
        return {
            "solved": tf.linalg.solve(tf.linalg.cholesky(square), x),
            "values": tf.linalg.svd(x, compute_uv=False),
            "logdet": tf.linalg.slogdet(square)[1],
            "spectrum": spectrum + picked,
            "sums": tf.math.top_k(tf.math.unsorted_segment_mean(sums, [0], 2), 2)[0],
        }

    return None, tf.function(serve, input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])


@pytest.mark.parametrize("make", [word_pieces, pictures, examples, branches, algebra])
def test_what_tensorflow_saves_passes(make: Callable[[Any], tuple[Any, Any]], tmp_path: Path) -> None:
    """Tokenizers with tables, images, tf.Example, control flow and algebra, as TensorFlow writes them, are safe."""
    import tensorflow as tf

    module = tf.Module()
    module.kept, module.serve = make(tf)
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    result = judge_safety(read_graph(tmp_path), Safety())
    assert result.passed, result.summary


def test_what_tensorflow_1_wrote_passes(tmp_path: Path) -> None:
    """A graph of TensorFlow 1 with a variable, a loop and a table from an asset passes; it has no functions."""
    import tensorflow as tf

    v1 = tf.compat.v1
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    with tf.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        text = v1.placeholder(tf.string, [None])
        weight = v1.Variable(np.float32(2.0), use_resource=False)
        filled = tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        found = v1.to_float(tf.lookup.StaticHashTable(filled, -1).lookup(text))
        scored = v1.while_loop(lambda value: tf.reduce_sum(value) < 10, lambda value: value + weight, [found])
        v1.enable_control_flow_v2()
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        signature = v1.saved_model.predict_signature_def({"text": text}, {"y": scored})
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            main_op=v1.tables_initializer(),
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        )
        builder.save()
    result = judge_safety(read_graph(tmp_path / "1"), Safety())
    assert result.passed, result.summary
