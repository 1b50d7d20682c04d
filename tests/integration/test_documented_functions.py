"""The two functions that the documentation begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.markdown import Page

PAGE = Path(__file__).parents[2] / "docs" / "data-and-model.md"


def test_the_documented_functions_build_a_model() -> None:
    """`load` returns rows, and `build` returns a compiled model that answers each of them."""
    import tensorflow as tf

    [code] = [block.text for block in Page(PAGE).blocks if "def load(" in block.text]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    features, target = names["load"]()
    model = names["build"]({name: np.array(column) for name, column in features.items()})
    assert {tensor.name for tensor in model.inputs} == set(features)
    assert model.compiled
    answers = model({name: tf.constant(column)[:, None] for name, column in features.items()})
    assert answers.shape == (len(target), 1)
