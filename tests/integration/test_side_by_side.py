"""Several versions in one server: each is asked, and what one of them cannot do is no fault of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.serving import Serving
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.errors import ModelLoadError, PredictionError, ServingError
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.serving.side_by_side import Asked, ask_side_by_side

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
X, Y = TensorSpec("x", "float32", (None,)), TensorSpec("y", "float32", (None,))
ROWS = np.arange(40, dtype=np.float32)


@pytest.fixture
def asked(tmp_path: Path) -> list[Asked]:
    """Return five versions: two that answer, one that cannot be loaded, one that crashes, one that refuses rows."""
    save_arrays(tmp_path / "rows.npz", {"x": ROWS})
    save(tmp_path / "m" / "1", lambda x: x + 1)
    save(tmp_path / "m" / "2", lambda x: x + 2)
    save(tmp_path / "m" / "3", lambda x: x)
    save(tmp_path / "m" / "4", crashing)
    save(tmp_path / "m" / "5", refusing)
    (tmp_path / "m" / "3" / "saved_model.pb").write_bytes(b"damaged")
    return [version(tmp_path, number) for number in range(1, 6)]


def version(directory: Path, number: int) -> Asked:
    version_dir, rows = directory / "m" / str(number), directory / "rows.npz"
    candidate = Candidate("m", number, version_dir, "", Signature((X,), (Y,)), 0, rows, rows, rows)
    return Asked(candidate, rows, directory / f"answers{number}.npz")


def save(version_dir: Path, function: Any) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None], tf.float32, name="x")
    module.serve = tf.function(lambda x: {"y": function(x)}, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(version_dir), signatures=module.serve)


def crashing(x: Any) -> Any:
    """End the process at any row, as a kernel's failed check does."""
    import tensorflow as tf

    with tf.control_dependencies([tf.raw_ops.Abort(error_msg="Check failed: no row is welcome")]):
        return tf.identity(x)


def refusing(x: Any) -> Any:
    import tensorflow as tf

    with tf.control_dependencies([tf.debugging.assert_less(x, 3.0)]):
        return tf.identity(x)


def test_each_version_answers_by_itself(asked: list[Asked], tmp_path: Path) -> None:
    """The answers of two versions in one server are their own, and nothing is said against them."""
    log = tmp_path / "log"
    assert ask_side_by_side(Backend("embedded"), Serving(), asked[:2], log) == {}
    for added, one in enumerate(asked[:2], 1):
        assert load_arrays(one.answers)["y"] == pytest.approx(ROWS + added)
    assert "version: 1" in log.read_text() and "version: 2" in log.read_text()
    assert ask_side_by_side(Backend("embedded"), Serving(), [], log) == {}


def test_versions_that_cannot_be_served(asked: list[Asked], tmp_path: Path) -> None:
    """A version that is not loaded, one that ends the server and one that refuses the rows are named; others answer."""
    faults = ask_side_by_side(Backend("embedded"), Serving(), asked, tmp_path / "log")
    assert {number: type(fault) for number, fault in faults.items()} == {
        3: ModelLoadError,
        4: PredictionError,
        5: PredictionError,
    }
    assert "version 3 but refused it" in str(faults[3])
    assert "no row is welcome" in str(faults[4])
    assert "assertion failed" in str(faults[5])
    for added, one in enumerate(asked[:2], 1):
        assert load_arrays(one.answers)["y"] == pytest.approx(ROWS + added)


def test_the_only_version_that_cannot_be_served(asked: list[Asked], tmp_path: Path) -> None:
    """A version that is alone from the beginning is named as well."""
    (fault,) = ask_side_by_side(Backend("embedded"), Serving(), asked[2:3], tmp_path / "log").values()
    assert isinstance(fault, ServingError)
