"""Converts rows to a model's inputs: chooses columns by name, fits their shape, and casts them to the dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.datasets.mapped import let_go, mapped_like, pieces
from tasks.datasets.strings import Array, dtype_words, is_string
from tasks.errors import DataError
from tasks.records import TensorSpec

FLOATS_ALL_WHOLE = 2.0**53


def features_of(features: Mapping[str, Any], renamed: Mapping[str, str], specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the feature of each input, by the name of the input.

    Args:
        features: columns of any kind, by name.
        renamed: maps an input to a feature with another name (`export.inputs`).

    A single input and a single feature belong together regardless of their names.

    Raises:
        DataError: an input has no feature.
    """
    taken = {spec.name: renamed.get(spec.name, spec.name) for spec in specs}
    if len(specs) == len(features) == 1 and not renamed:
        return {specs[0].name: next(iter(features.values()))}
    for name, feature in taken.items():
        if feature not in features:
            known = ", ".join(f"'{known}'" for known in list(features)[:40])
            raise DataError(
                f"every input of the model must be a column of the rows, but '{feature}' is not one of {known}; "
                f"rename a column, or set its name in export.inputs: {{{name}: COLUMN}}"
            )
    return {name: features[feature] for name, feature in taken.items()}


def fit_to_inputs(features: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Convert features to the inputs of a signature: choose them by name, fit (n,) and (n, 1), cast to the dtype.

    A single input and a single feature belong together regardless of their names.

    Raises:
        DataError: an input has no feature, or a shape or dtype does not fit.
    """
    if len(specs) == 1 and len(features) == 1:
        [(name, array)] = features.items()
        return {specs[0].name: _fitted(array, specs[0], name)}
    missing = [spec.name for spec in specs if spec.name not in features]
    if missing:
        raise DataError(
            f"every input of the model must have a feature of the same name, but there is none for "
            f"{', '.join(map(repr, missing))}; the features are {', '.join(map(repr, features))}"
        )
    return {spec.name: _fitted(features[spec.name], spec, spec.name) for spec in specs}


def fit_shape(array: Array, spec: TensorSpec, rule: str) -> Array:
    """Return rows in the shape of an input or output; (n,) and (n, 1) are converted to each other.

    Args:
        rule: the rule that is broken if they do not fit, for the message.

    Raises:
        DataError: the rank or an extent does not fit.
    """
    if spec.shape is None:
        return array
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] in (1, None):
        array = array[:, None]
    elif array.ndim == 2 and array.shape[1] == 1 and len(spec.shape) == 1:
        array = array[:, 0]
    fits = array.ndim == len(spec.shape) and all(
        want in (None, got) for want, got in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(f"{rule}: it is {spec}, but the rows have the shape {array.shape}")
    return array


def _fitted(array: Array, spec: TensorSpec, name: str) -> Array:
    array = fit_shape(array, spec, "features must fit the model's input")
    if (spec.dtype == "string") != is_string(array):
        raise DataError(
            f"features must fit the model's input: it is {spec}, but the rows of '{name}' are {dtype_words(array)}"
        )
    if spec.dtype == "string":
        return np.ascontiguousarray(array)
    rule = f"features must fit the model's input: it is {spec}"
    return np.ascontiguousarray(cast_exactly(array, spec.dtype, rule, name))


def cast_exactly(array: Array, dtype: str, rule: str, name: str, first_row: int = 0) -> Array:
    """Return numbers in a dtype; only floats with a fraction may be rounded, to the nearest value.

    Whole floats below 2^53 count as whole numbers, because pandas converts integer columns with gaps to floats. Above
    that limit every float64 is whole.

    Args:
        rule: the rule that is broken if a value changes. name: of the array. first_row: the number of its first row,
            for messages.

    Raises:
        DataError: a value would change, or become infinite.
    """
    wanted = np.dtype(dtype)
    if array.dtype == wanted:
        return array
    is_exact = all(must_survive(piece, wanted) for piece in pieces(array))
    result, row = mapped_like(array, wanted), 0
    for piece in pieces(array):
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked next
            cast = piece.astype(wanted)
        lost = ~_survives(piece, cast) if is_exact else ~np.isfinite(cast)
        if lost.any():
            where = tuple(int(i) for i in np.argwhere(lost)[0])
            raise DataError(
                f"{rule}, which cannot hold every value of the rows: '{name}' has {piece[where]} in row "
                f"{first_row + row + where[0]}, which would become {cast[where]}; use another dtype for this input "
                "(int64, float64, or text for ids), or round the values"
            )
        result[row : row + len(piece)] = cast
        row += len(piece)
        let_go([result])
    return result


def largest_changes(features: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return the largest change that the cast to its dtype makes, in words, for each input whose values change."""
    fitted = fit_to_inputs(features, specs)
    found: dict[str, str] = {}
    for spec in specs:
        given = next(iter(features.values())) if len(features) == len(specs) == 1 else features[spec.name]
        found[spec.name] = largest_change(given, fitted[spec.name])
    return {name: change for name, change in found.items() if change}


def largest_change(given: Array, cast: Array) -> str:
    """Return the largest change of a cast, such as `float64 to float32, by at most 1e-09 (0.1 to 0.1)`, or "".

    Args:
        given, cast: arrays of the same size with the same numbers in two dtypes.
    """
    if given.dtype.kind not in "iuf" or cast.dtype == given.dtype or not cast.size:
        return ""
    before, after = given.reshape(-1), cast.reshape(-1)
    changes = np.abs(after.astype(np.float64) - before.astype(np.float64))
    most = int(np.argmax(changes))
    if not changes[most]:
        return ""
    return f"{given.dtype} to {cast.dtype}, by at most {changes[most]:.3g} ({before[most]} to {after[most]})"


def must_survive(array: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether a cast to a dtype must keep every number, because none has a fraction that may be rounded."""
    if array.dtype.kind in "iub" or dtype.kind in "iub":
        return True
    return bool(np.all(array == np.floor(array)) and np.all(np.abs(array) < FLOATS_ALL_WHOLE))


def _survives(array: Array, cast: Array) -> Array:
    """Return for each value whether the cast value is the same number, in both directions and both ranges."""
    same = cast == array  # beyond 2^53 NumPy compares integers and floats as float64
    for ints, floats in ((array, cast), (cast, array)):
        if ints.dtype.kind in "iu" and floats.dtype.kind not in "iub":
            limits, wide = np.iinfo(ints.dtype), floats.astype(np.float64)
            same &= (wide >= float(limits.min)) & (wide < float(limits.max) + (1 if ints.dtype.itemsize < 8 else 0))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(same & (cast.astype(array.dtype) == array))
