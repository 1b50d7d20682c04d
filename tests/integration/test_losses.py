"""What compiled losses say about the outputs of a model, over all that Keras has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tasks.training.losses import FAMILIES, clues_of, ending_of, losses_by_output, unfit_target

L = keras.losses
CLASSES = sorted(
    (cls for _, cls in inspect.getmembers(L, inspect.isclass) if issubclass(cls, L.Loss) and cls is not L.Loss),
    key=lambda cls: cls.__name__,
)
FUNCTIONS = {name: function for name, function in inspect.getmembers(L, inspect.isfunction) if not name.startswith("_")}
LOSS_FUNCTIONS = {f.__name__: f for n, f in FUNCTIONS.items() if n not in ("serialize", "deserialize", "get")}
WITH_LOGITS = {
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "SparseCategoricalCrossentropy",
}  # fmt: skip


def test_every_loss_of_keras_is_classified() -> None:
    """Each function of keras.losses has its family, and each class one of those functions; none is left over."""
    assert {cls.__name__ for cls in CLASSES} >= WITH_LOGITS
    assert {cls().fn.__name__ for cls in CLASSES} | set(LOSS_FUNCTIONS) == set(FAMILIES)
    assert {cls.__name__ for cls in CLASSES if "from_logits" in inspect.signature(cls).parameters} == WITH_LOGITS


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_object_its_class_and_its_name_say_the_same(cls: Any) -> None:
    """A loss as object, as class, as the name of the class, and by its function: one family, no logits."""
    function = cls().fn
    given = [cls(), cls] + ([cls.__name__] if _has_name(cls.__name__) else [])
    given += [function] + ([function.__name__] if _has_name(function.__name__) else [])
    found = [clues_of(loss) for loss in given]
    assert {clues.family for clues in found} == {FAMILIES[function.__name__]}
    assert not any(clues.from_logits for clues in found)
    assert found[0].loss == cls.__name__


def _has_name(name: str) -> bool:
    try:
        return L.get(name) is not None
    except ValueError:  # CategoricalGeneralizedCrossEntropy has no name
        return False


@pytest.mark.parametrize("name", sorted(WITH_LOGITS))
def test_from_logits(name: str) -> None:
    """`from_logits=True` is seen on the object, on a subclass that only changes its options, and on a partial."""
    cls = getattr(L, name)

    class Own(cls):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(from_logits=True)

    function = cls().fn
    for loss in (cls(from_logits=True), Own(), functools.partial(function, from_logits=True)):
        assert clues_of(loss).from_logits
        assert clues_of(loss).family == FAMILIES[function.__name__]
        assert "from_logits=True" in clues_of(loss).loss
    assert not clues_of(cls()).from_logits


def test_what_the_user_wrote_says_nothing() -> None:
    """A loss of the user's own, or one of Keras' in a function or class of the user's, is not known."""

    class Halved(L.BinaryCrossentropy):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return super().call(y_true, y_pred / 2)

    class Own(L.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return y_true - y_pred

    def binary_crossentropy(y_true: Any, y_pred: Any) -> Any:  # the name alone proves nothing
        return y_true - y_pred

    @functools.wraps(L.binary_crossentropy)  # with the name and the module of Keras' own
    def wrapped(y_true: Any, y_pred: Any) -> Any:
        return L.binary_crossentropy(y_true, y_pred, from_logits=True)

    functions = (binary_crossentropy, wrapped, lambda y, p: y - p)
    for loss in (Halved(from_logits=True), Own(), *functions, None, "no such loss", 3):
        found = clues_of(loss)
        assert (found.family, found.from_logits) == ("", False), loss
    assert "Halved" in clues_of(Halved()).loss


@pytest.mark.parametrize("name", ["crossentropy", "ce", "CE"])
def test_crossentropy_is_what_keras_takes_it_for(name: str) -> None:
    """One answer a row is binary; fewer axes of targets are numbers of classes, else rows of them."""
    assert clues_of(name, "", (9, 1), (9, 1)).family == "binary"
    assert clues_of(name, "", (9,), (9, 3)).family == "classes"
    assert clues_of(name, "", (9, 1), (9, 3)).family == "classes"
    assert clues_of(name, "", (9, 3), (9, 3)).family == "one-hot"
    assert clues_of(name).family == ""


def two(outputs: str, loss: Any) -> Any:
    """Return a model with the outputs `zeta` and `alpha`, in a list or a dictionary."""
    x = keras.Input((2,), name="x")
    zeta, alpha = keras.layers.Dense(1, name="zeta")(x), keras.layers.Dense(1, name="alpha")(x)
    model = keras.Model(x, [zeta, alpha] if outputs == "list" else {"zeta": zeta, "alpha": alpha})
    model.compile("sgd", loss)
    return model


@pytest.mark.parametrize("outputs", ["list", "dict"])
def test_a_loss_belongs_to_its_output(outputs: str) -> None:
    """Losses by name, and in the order that Keras itself gives them to a list's or a dictionary's outputs."""
    by_name = losses_by_output(two(outputs, {"alpha": "mse", "zeta": "binary_crossentropy"}))
    assert by_name == {"alpha": "mse", "zeta": "binary_crossentropy"}
    model = two(outputs, ["mse", "binary_crossentropy"])
    x = np.zeros((4, 2), np.float32)
    target = [np.ones((4, 1)), np.zeros((4, 1))]
    model.fit(x, target if outputs == "list" else {"zeta": target[0], "alpha": target[1]}, verbose=0)
    taken = model._compile_loss._flat_losses  # `path` is where in the outputs: a place in a list, a key
    in_keras = {["zeta", "alpha"][k.path[-1]] if outputs == "list" else k.path[-1]: k.loss.name for k in taken}
    assert losses_by_output(model) == in_keras


@pytest.mark.parametrize("outputs", ["list", "dict"])
@pytest.mark.parametrize("loss", ["mse", L.BinaryCrossentropy(from_logits=True), L.mean_absolute_error, None])
def test_one_loss_is_that_of_every_output(outputs: str, loss: Any) -> None:
    """Keras computes one loss for each of several outputs, so its logits are known for each."""
    model = two(outputs, loss)
    assert losses_by_output(model) == {"zeta": loss, "alpha": loss}
    if loss is not None:
        zeros = np.zeros((4, 1), np.float32)
        targets = {"zeta": zeros, "alpha": zeros}
        model.fit(np.zeros((4, 2)), targets if outputs == "dict" else [zeros, zeros], verbose=0)
        assert len(model._compile_loss._flat_losses) == 2


SPARSE = L.SparseCategoricalCrossentropy
UNFIT = [
    ("mse", np.array(["a", "b"]), 1, "text; convert names to numbers"),
    ("mse", np.array([b"a", b"b"], object), 1, "text; convert names to numbers"),
    (SPARSE(), np.array([1, 2, 3]), 3, "1 to 3, but SparseCategoricalCrossentropy needs whole numbers from 0 to 2,"),
    (SPARSE(from_logits=True), np.array([-1, 0]), 2, "-1 to 0"),
    (SPARSE(), np.array([0.5, 1]), 2, "0.5 to 1"),
    ("sparse_categorical_crossentropy", np.array([0, 1]), 1, "use binary_crossentropy"),
    ("sparse_categorical_crossentropy", np.array([False, True]), 1, "use binary_crossentropy"),
    (SPARSE, np.eye(3), 3, "3 numbers, but SparseCategoricalCrossentropy needs the number of a class"),
    ("categorical_crossentropy", np.array([0, 1]), 3, "use sparse_categorical_crossentropy"),
    (L.CategoricalFocalCrossentropy(), np.array([[0], [1]]), 3, "use sparse_categorical_crossentropy"),
    (functools.partial(L.sparse_categorical_crossentropy, from_logits=True), np.array([5, 0]), 5, "0 to 5"),
    ("binary_crossentropy", np.array([-1, 1]), 1, "-1 to 1, but binary_crossentropy needs values from 0 to 1; replace"),
    (L.BinaryCrossentropy(from_logits=True), np.array([0.0, 2.0]), 1, "0 to 2, but BinaryCrossentropy needs"),
    (L.BinaryFocalCrossentropy(), np.array([[0, 255], [0, 1]]), 2, "scale it, or use a loss for numbers"),
    (L.CategoricalCrossentropy(), np.array([[1, -1], [-1, 1]]), 2, "replace -1 by 0"),
    ("kl_divergence", np.array([[0.5, 1.5], [0, 1]]), 2, "0 to 1.5, but kl_divergence needs"),
    ("dice", np.array([[0, 3], [0, 1]]), 2, "0 to 3, but dice needs"),
    ("hinge", np.array([-1, 0, 1]), 1, "the values -1, 0, 1, but hinge needs -1 and 1 only, or 0 and 1 only"),
    (L.SquaredHinge(), np.arange(9.0), 1, "the values 0, 1, 2, 3 and more, but SquaredHinge needs"),
]


@pytest.mark.parametrize(("loss", "target", "width", "words"), UNFIT, ids=range(len(UNFIT)))
def test_targets_that_a_loss_cannot_read(loss: Any, target: Any, width: int, words: str) -> None:
    """What Keras fails at in the training, or counts wrongly where a graphics card looks it up, is known before."""
    assert words in unfit_target(loss, target, np.zeros((2, width)))
    assert unfit_target(lambda y, p: y, target, np.zeros((2, width))) == ""


@pytest.mark.parametrize(
    ("loss", "target", "shape"),
    [
        ("mse", np.array([1.5, 2]), (2, 1)),
        ("mse", np.array([True, False]), (2, 1)),
        (SPARSE(), np.array([0.0, 2.0]), (2, 3)),
        (SPARSE(), np.array([False, True]), (2, 2)),
        (SPARSE(), np.array([[0], [2]], np.uint8), (2, 3)),
        (SPARSE(), np.array([[0, 2], [1, 1]]), (2, 2, 3)),
        (SPARSE(ignore_class=255), np.array([0, 255]), (2, 3)),
        (SPARSE(axis=1), np.array([[0, 4], [1, 1]]), (2, 5, 2)),
        ("categorical_crossentropy", np.eye(3), (2, 3)),
        ("binary_crossentropy", np.array([0, 1]), (2, 1)),
        ("binary_crossentropy", np.array([False, True]), (2, 1)),
        ("binary_crossentropy", np.array([0.25, 1.0000001]), (2, 1)),
        ("hinge", np.array([-1, 1]), (2, 1)),
        ("hinge", np.array([0, 1]), (2, 1)),
        ("hinge", np.array([1.0, 1.0]), (2, 1)),
        ("poisson", np.array([-3.0, 7.0]), (2, 1)),
        ("kl_divergence", np.eye(2), (2, 2)),
        (None, np.array(["a"]), (2, 1)),
    ],
)
def test_targets_that_a_loss_reads(loss: Any, target: Any, shape: tuple[int, ...]) -> None:
    """No target is refused that Keras computes its loss from."""
    assert unfit_target(loss, target, np.zeros(shape)) == ""


def test_losses_that_cannot_be_told_apart() -> None:
    """Several losses for one output, and none, are not known; one in a list or by name is."""
    x = keras.Input((2,), name="x")
    for loss, found in ((["mse", "mae"], None), (["mse"], "mse"), ({"y": "mse"}, "mse"), (None, None), ("mse", "mse")):
        model = keras.Model(x, keras.layers.Dense(1, name="y")(x))
        model.compile("sgd", loss)
        assert losses_by_output(model) == {"y": found}


def _endings() -> dict[str, tuple[Callable[[Any], Any], str]]:
    layers, ops = keras.layers, keras.ops
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softmax")])

    @keras.saving.register_keras_serializable("test_losses")
    class Own(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return ops.softmax(x)

    return {
        "activation": (layers.Dense(3, activation="softmax"), "softmax"),
        "layer": (layers.Softmax(), "softmax"),
        "operation": (ops.softmax, "softmax"),
        "in a layer of the user's": (Own(), "softmax"),
        "in a nested model": (inner, "softmax"),
        "in half precision": (layers.Dense(3, activation="softmax", dtype="mixed_float16"), "softmax"),
        "behind a cast": (lambda x: layers.Activation("linear", dtype="float64")(ops.softmax(x)), "softmax"),
        "sigmoid": (layers.Dense(3, activation="sigmoid"), "sigmoid"),
        "log_softmax": (layers.Activation("log_softmax"), "log_softmax"),
        "scaled": (lambda x: 2 * ops.softmax(x), ""),
        "linear": (layers.Dense(3), ""),
        "over another axis": (layers.Softmax(axis=1), ""),
    }


@pytest.mark.parametrize("name", list(_endings()))
def test_what_an_output_comes_from(name: str) -> None:
    """The last operation is found wherever the softmax was written, and nowhere else."""
    import tensorflow as tf

    end, expected = _endings()[name]
    x = keras.Input((4, 3) if name == "over another axis" else (3,), name="x")
    model = keras.Model(x, end(x))
    found: list[str] = []
    shape = (2, *x.shape[1:])
    tf.function(lambda fed: found.append(ending_of(model(fed, training=False))), autograph=False)(tf.zeros(shape))
    assert found == [expected]
