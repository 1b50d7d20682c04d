"""Rows as named arrays: checking what a user's loader returned, saving, loading, fitting them to a signature."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DataError
from tasks.records import TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Aligned arrays of one split; every array's first axis is the row.

    Attributes:
        features: by feature name. A loader that returns one bare array names it `features`.
        targets: by target name. A loader that returns one bare array names it `target`.
    """

    features: Mapping[str, Array]
    targets: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.targets.values())))

    def take(self, index: Array) -> Rows:
        """Return the rows at `index`, an int array of shape (k,)."""
        return Rows({k: v[index] for k, v in self.features.items()}, {k: v[index] for k, v in self.targets.items()})


def check_rows(loaded: object, source: str) -> Rows:
    """Turn what a loader returned into rows.

    Args:
        loaded: `(features, target)`; each an array, or a mapping (or DataFrame) of name to array.

    Raises:
        DataError: it is something else, lengths differ, or a value is missing.
    """
    if not isinstance(loaded, tuple) or len(loaded) != 2:
        raise DataError(f"'{source}' must return (features, target), got {type(loaded).__name__}")
    rows = Rows(_named(loaded[0], "features", source), _named(loaded[1], "target", source))
    lengths = {name: len(array) for name, array in {**rows.features, **rows.targets}.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"'{source}' must return as many rows in every array, got {lengths}")
    if not len(rows):
        raise DataError(f"'{source}' must return rows, got none")
    return rows


def _named(value: Any, default_name: str, source: str) -> dict[str, Array]:
    by_name = isinstance(value, Mapping) or hasattr(value, "columns")  # a DataFrame is not a Mapping
    columns = value.items() if by_name else [(default_name, value)]
    return {str(name): _checked(column, str(name), source) for name, column in columns}


def _checked(column: object, name: str, source: str) -> Array:
    """Return a numeric, boolean, text or bytes array without a missing value; float64 becomes float32."""
    array = np.asarray(column)
    where = f"'{source}': '{name}'"
    if array.ndim == 0:
        raise DataError(f"{where} must have one entry a row, got a single value")
    if array.dtype.kind in "OT":
        array = _text(array, where)
    if array.dtype.kind not in "biufUS":
        raise DataError(f"{where} must hold numbers, booleans or text, got dtype {array.dtype}")
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is looked for next
            array = array.astype(np.float32)  # Keras' default; halves what is stored and sent
    if array.dtype.kind == "f":
        finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        if not finite.all():
            raise DataError(
                f"{where} must be finite, got NaN or infinity in {int((~finite).sum())} of {len(array)} "
                f"rows, first in row {int(np.argmin(finite))}; drop or fill them in the loader"
            )
    return array


def _text(array: Array, where: str) -> Array:
    """Return an object array of str or bytes as a fixed-width one."""
    kinds = {type(item) for item in array.ravel().tolist()}
    if kinds <= {str}:
        return array.astype(np.str_)
    if kinds == {bytes} and not any(item.endswith(b"\0") for item in array.ravel().tolist()):
        return array.astype(np.bytes_)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataError(
        f"{where} must be all text, all bytes (not ending in NUL) or all numbers, got {names}; "
        "a missing value shows as float or NoneType"
    )


def save_rows(path: Path, rows: Rows) -> None:
    """Write rows as `.npz` with members `x/<feature>` and `y/<target>`."""
    members = {f"x/{k}": v for k, v in rows.features.items()} | {f"y/{k}": v for k, v in rows.targets.items()}
    save_arrays(path, members)


def load_rows(path: Path) -> Rows:
    """Read what `save_rows` wrote."""
    members = load_arrays(path)
    return Rows(
        {k[2:]: v for k, v in members.items() if k.startswith("x/")},
        {k[2:]: v for k, v in members.items() if k.startswith("y/")},
    )


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays as one `.npz`.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not by np.savez, which has parameters of its own that an array may be called as
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                if array.dtype.name == "bfloat16":  # the format has no name for it, and float32 takes every value
                    array = array.astype(np.float32)  # noqa: PLW2901
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as exc:
        raise DataError(f"work_dir must be writable, got '{path}': {exc.strerror}") from exc


def load_arrays(path: Path) -> dict[str, Array]:
    """Read named arrays from a `.npz`.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as members:
            return {name: members[name] for name in members.files}
    except (OSError, ValueError, zipfile.BadZipFile) as exc:
        raise DataError(f"saved arrays must be readable, got '{path}': {exc}") from exc


def digest_rows(splits: Sequence[Rows]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of several splits, in hexadecimal."""
    sha = hashlib.sha256()
    for rows in splits:
        for name, array in sorted({**rows.features, **rows.targets}.items()):
            sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def fit_to_inputs(features: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrange features as a signature wants them: chosen by name, cast to its dtype, (n,) against (n, 1).

    One input and one feature belong together whatever their names.

    Raises:
        DataError: an input without a feature, a shape or a dtype that does not fit.
    """
    if len(specs) == 1 and len(features) == 1:
        return {specs[0].name: _fitted(next(iter(features.values())), specs[0])}
    missing = [spec.name for spec in specs if spec.name not in features]
    if missing:
        raise DataError(
            f"every model input must be a feature of the same name: no feature for "
            f"{', '.join(map(repr, missing))}; features are {', '.join(map(repr, features))}"
        )
    return {spec.name: _fitted(features[spec.name], spec) for spec in specs}


def fit_shape(array: Array, spec: TensorSpec, rule: str) -> Array:
    """Return rows in the shape of an input or output, (n,) against (n, 1).

    Args:
        rule: what is broken if they do not fit, for the message.

    Raises:
        DataError: another rank or extent.
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
        raise DataError(f"{rule}: it is {spec}, the rows have shape {array.shape}")
    return array


def _fitted(array: Array, spec: TensorSpec) -> Array:
    array = fit_shape(array, spec, "features must fit the model's input")
    if (spec.dtype == "string") != (array.dtype.kind in "US"):
        raise DataError(f"features must fit the model's input: it is {spec}, the rows are {array.dtype}")
    if spec.dtype == "string":
        return np.ascontiguousarray(array)
    cast = array.astype(spec.dtype, copy=False)
    if cast.dtype.kind in "iub" and not np.array_equal(cast, array):
        raise DataError(f"features must fit the model's input: it is {spec}, and cannot take every value of the rows")
    return np.ascontiguousarray(cast)
