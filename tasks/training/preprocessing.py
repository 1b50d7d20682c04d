"""Puts declared features into the graph of a model: scales and vocabularies of the training rows, in a FeatureSpace.

    from tasks.training.preprocessing import preprocess

    def build(features, hidden=32):
        inputs, encoded = preprocess(features)
        answer = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dense(hidden, activation="relu")(encoded))
        ...

`keras.utils.FeatureSpace` makes the inputs and puts the layers together. The layers get their state here and not by
`FeatureSpace.adapt`, for three reasons: its scales are float32, which cannot tell today's seconds since 1970 apart; it
saves a vocabulary as lines of a file, which values with line breaks change; and `IntegerLookup` uses -1 for unknown
values unless it is told otherwise, so that an id of -1 would be unknown. Numbers are scaled by `Rescaling` and not by
`Normalization`, which divides by at least 1e-7, and reads a mean and a variance as float32. Seen with Keras 3.15.1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from configs.sections.data import Data
from configs.sections.features import Feature
from tasks.datasets.kinds import stand_in
from tasks.datasets.mapped import let_go
from tasks.datasets.rows import Array
from tasks.datasets.strings import as_objects

MOST_ONE_HOT = 32  # values, including the position of unknown ones; more values get an embedding
WIDEST_EMBEDDING = 64
BLOCK_ROWS = 2**16  # that are read at once; another number changes the last bits of scales
UNKNOWN_TEXT, UNKNOWN_INTEGER = "[UNK]", -(2**63)
"""Stand for unknown values in the lookup layers, and are themselves read as unknown."""


class DeclaredFeatures(dict[str, Any]):
    """The training features that a builder gets, by name, with what the configuration declares about them.

    Attributes:
        declared: by the name of each feature.
        target: name of the target. classes: its values in the order of the answers; empty for a number.
        scale, offset: standard deviation and mean of a target that is a number, over the training rows; else 1 and 0.
    """

    def __init__(
        self, features: Mapping[str, Any], data: Data, targets: Mapping[str, Array], classes: Sequence[Any]
    ) -> None:
        super().__init__(features)
        self.declared: Mapping[str, Feature] = data.features
        self.target = data.target.name
        self.classes = tuple(classes)
        self._taken = set(self.declared)
        self.scale, self.offset = (1.0, 0.0) if classes else _scale_of(next(iter(targets.values())))

    def layer_names(self, name: str) -> str:
        """Return a name that no feature and no other layer has, because all names in a model must be different."""
        while name in self._taken:
            name = f"{name}_"
        self._taken.add(name)
        return name


def preprocess(features: DeclaredFeatures) -> tuple[dict[str, Any], Any]:
    """Return the inputs of a model by name, and all features as one float32 tensor of shape (rows, width).

    Numbers and dates are scaled to mean 0 and standard deviation 1, a category or an id becomes a one-hot vector or an
    embedding, depending on how many values there are, and text becomes the words that it contains. A value that stands
    for a missing one does not influence the scale, becomes the mean, and has a position of its own.

    Raises:
        TypeError: the features are not declared, because the rows come from `data.load`.
    """
    import keras

    if not isinstance(features, DeclaredFeatures):
        raise TypeError("preprocess takes the features that model.build gets with data.file and data.features")
    own = features.layer_names
    space = keras.utils.FeatureSpace(
        {name: _feature(own(f"encode_{name}"), feature, features[name]) for name, feature in features.declared.items()},
        output_mode="dict",
    )
    space.build_from_config({})  # there is nothing to adapt, because every layer has its state
    inputs, encoded = space.get_inputs(), space.get_encoded_features()
    parts = []
    for name, feature in features.declared.items():
        part = encoded[name]
        if space.features[name].output_mode == "int":
            size = space.preprocessors[name].vocabulary_size()
            part = keras.layers.Embedding(size, _width(size), name=own(f"embed_{name}"))(part)
        missing = stand_in(feature)
        if missing is not None and feature.kind in ("number", "date"):
            is_missing = keras.ops.equal(inputs[name], np.asarray(missing, inputs[name].dtype).item())
            number = keras.ops.cast(is_missing, "float32")
            part = keras.ops.where(is_missing, 0.0, part)  # a stand-in may be many standard deviations away
            for tensor, word in ((is_missing, "missing"), (number, "missing_number"), (part, "known")):
                tensor._keras_history.operation.name = own(f"{word}_{name}")
            parts.append(number)
        parts.append(keras.layers.Flatten(name=own(f"flat_{name}"))(part))
    joined = keras.layers.Concatenate(name=own("features"))(parts) if len(parts) > 1 else parts[0]
    return dict(inputs), joined


def _feature(own: str, feature: Feature, array: Any) -> Any:
    """Return one feature of a FeatureSpace, with the state that follows from the training rows.

    Args:
        own: the name of its layer.
    """
    import keras

    make, layers = keras.utils.FeatureSpace.feature, keras.layers
    if feature.kind in ("number", "date"):
        missing = stand_in(feature)
        scale, offset = _scale_of(array, missing)
        dtype = feature.dtype if feature.kind == "number" else "int64"
        factor, shift = np.array([1 / scale]), np.array([-offset / scale])  # Keras would read floats as float32
        layer = layers.Rescaling(factor, shift, dtype="float64", name=own)
        return make(dtype, layer, "float")
    if feature.kind == "boolean":
        return make("bool", layers.Rescaling(1.0, name=own), "float")
    if feature.kind == "text":
        words = _words(array, feature.vocabulary)
        return make("string", layers.TextVectorization(output_mode="multi_hot", vocabulary=words, name=own), "float")
    values = _most_frequent(array, feature.vocabulary)
    mode = "one_hot" if len(values) < MOST_ONE_HOT else "int"
    if feature.kind == "integer_id":
        known_ids = [int(value) for value in values if value != UNKNOWN_INTEGER] or [0]
        lookup = layers.IntegerLookup(vocabulary=known_ids, oov_token=UNKNOWN_INTEGER, name=own)
        return make("int64", lookup, mode)
    known_texts = [str(value) for value in values if value != UNKNOWN_TEXT] or [""]
    return make("string", layers.StringLookup(vocabulary=known_texts, oov_token=UNKNOWN_TEXT, name=own), mode)


def _scale_of(array: Array, missing: Any = None) -> tuple[float, float]:
    """Return standard deviation and mean as float64; a column with one value keeps its scale.

    Sums are made of blocks of rows that begin at the same rows wherever the array is, so that they are equal to the
    last bit for rows in memory and on the disk.

    Args:
        missing: the value that stands for a missing one, and does not count.
    """
    count, low, high, total = 0, math.inf, -math.inf, []
    for block in _known_numbers(array, missing):
        count, low, high = count + len(block), min(low, float(block.min())), max(high, float(block.max()))
        total.append(float(block.sum()))
    if not count:
        return 1.0, 0.0
    if low == high:  # their computed deviation may be a rounding error above 0
        return 1.0, low
    mean = _sum(total) / count
    with np.errstate(over="ignore"):
        squares = [float(((block - mean) ** 2).sum()) for block in _known_numbers(array, missing)]
    scale = math.sqrt(_sum(squares) / count)
    return scale if scale > 0 and math.isfinite(scale) else 1.0, mean


def _sum(numbers: Sequence[float]) -> float:
    """Return a sum that is rounded once; one that is too large is infinite."""
    try:
        return math.fsum(numbers)
    except OverflowError:
        return math.inf


def _known_numbers(array: Array, missing: Any) -> Iterator[Array]:
    """Yield the values of each block of rows as float64, without those that stand for missing ones."""
    for block in _blocks(array):
        known = block if missing is None else block[block != np.asarray(missing, array.dtype)]
        if known.size:
            yield known.astype(np.float64)


def _blocks(array: Array) -> Iterator[Array]:
    """Yield the rows of an array in blocks of a fixed size, text as objects; those on the disk are let go."""
    for begin in range(0, len(array), BLOCK_ROWS):
        yield as_objects(array[begin : begin + BLOCK_ROWS])
        let_go([array])


def _most_frequent(array: Array, most: int) -> list[Any]:
    """Return the most frequent values; of equally frequent ones the first in their order."""
    counts = Counter[Any]()
    for block in _blocks(array):
        counts.update(block.reshape(-1).tolist())
    return sorted(counts, key=lambda value: (-counts[value], value))[:most]


def _words(array: Array, most: int) -> list[str]:
    """Return the most frequent words, as the layer itself divides text into words."""
    import keras
    import tensorflow as tf

    finder = keras.layers.TextVectorization(max_tokens=most + 1, output_mode="multi_hot")
    finder.adapt(tf.convert_to_tensor(block.reshape(-1, 1)) for block in _blocks(array))
    return [str(word) for word in finder.get_vocabulary(include_special_tokens=False)] or [UNKNOWN_TEXT.lower()]


def _width(size: int) -> int:
    """Return the width of an embedding, 1.6 times the 0.56th power of the number of values.

    Source: fastai, tabular/model.py, `emb_sz_rule`.
    """
    return min(WIDEST_EMBEDDING, round(1.6 * math.pow(size, 0.56)))
