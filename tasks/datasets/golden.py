"""Golden rows: inputs with the answers that the model must give, in a JSON or CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets.fitting import fit_shape, fit_to_inputs
from tasks.datasets.strings import TEXT, Array
from tasks.errors import DataError
from tasks.records import Signature, TensorSpec

FORMS = (
    '{"inputs": {NAME: [row, ...]}, "outputs": {NAME: [row, ...]}} or '
    '[{"inputs": {NAME: value}, "outputs": {NAME: value}}, ...]'
)
Columns = dict[str, list[Any]]
"""Maps a name to one value for each row: nested lists of numbers, booleans or text."""

OUTPUT_RULE = "expected answers must fit the model's output"


def read_golden(file: Path, signature: Signature) -> tuple[dict[str, Array], dict[str, Array]]:
    """Read golden rows as (inputs, expected): one array for each, in the signature's dtype; the first axis is the row.

    JSON is `{"inputs": {NAME: [row, ...]}, "outputs": {NAME: [row, ...]}}` or a list with one
    `{"inputs": {NAME: value}, "outputs": {NAME: value}}` for each row; if the signature has a single input or output,
    its name may be omitted. CSV has the column `inputs.NAME` or `outputs.NAME` for a single value, and
    `inputs.NAME.0`, `inputs.NAME.1`, ... for a vector. Every input and at least one output are required. The first row
    has the number 0.

    Raises:
        DataError: the file cannot be read, or does not fit the signature.
    """
    readers: dict[str, Callable[[Path, Signature], tuple[Columns, Columns]]] = {".json": _read_json, ".csv": _read_csv}
    if file.suffix.lower() not in readers:
        raise DataError(f"gates.golden.file must be a .json or .csv file, got '{file}'")
    try:
        inputs, outputs = readers[file.suffix.lower()](file, signature)
        _check_lengths({**inputs, **{f"output {name}": rows for name, rows in outputs.items()}})
        arrays = {spec.name: _array("input", inputs[spec.name], spec) for spec in signature.inputs}
        expected = {
            spec.name: fit_shape(_array("output", outputs[spec.name], spec), spec, OUTPUT_RULE)
            for spec in signature.outputs
            if spec.name in outputs
        }
        return fit_to_inputs(arrays, signature.inputs), expected
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as exc:
        raise DataError(f"gates.golden.file '{file}' must be readable, got {type(exc).__name__}: {exc}") from exc
    except DataError as exc:
        raise DataError(f"gates.golden.file '{file}': {exc}") from exc


def _read_json(file: Path, signature: Signature) -> tuple[Columns, Columns]:
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if isinstance(content, list):
        return _rows(content, "inputs", signature.inputs), _rows(content, "outputs", signature.outputs)
    if not isinstance(content, dict) or set(content) != {"inputs", "outputs"}:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"it must be {FORMS}, got {got}")
    return _columns(content["inputs"], "inputs", signature.inputs), _columns(
        content["outputs"], "outputs", signature.outputs
    )


def _columns(value: Any, part: str, specs: Sequence[TensorSpec]) -> Columns:
    """Read one part in the columnar form, which has a list of rows for each name."""
    columns = _named(value, part, specs)
    for name, rows in columns.items():
        if not isinstance(rows, list):
            raise DataError(f"{part}.{name} must be a list with one entry for each row, got {_short(rows)}")
    return columns


def _rows(content: list[Any], part: str, specs: Sequence[TensorSpec]) -> Columns:
    """Read one part in the form with an object for each row; all rows must have the same names."""
    columns: Columns = {}
    for number, row in enumerate(content):
        if not isinstance(row, dict) or set(row) != {"inputs", "outputs"}:
            raise DataError(f"row {number} must be an object with inputs and outputs, got {_short(row)}")
        values = _named(row[part], f"row {number}: {part}", specs)
        if number and set(values) != set(columns):
            raise DataError(
                f"row {number} must have the same {part} as row 0, {', '.join(columns)}, got {', '.join(values)}"
            )
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return columns


def _named(value: Any, part: str, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return values by name; a value without a name gets the only name that there is.

    Raises:
        DataError: a name is not in the signature, an input has no value, or there is no output.
    """
    names = [spec.name for spec in specs]
    if not isinstance(value, dict):
        if len(names) != 1:
            raise DataError(f"{part} must be an object with {', '.join(names)}, got {_short(value)}")
        return {names[0]: value}
    _check_names(list(value), part, names)
    return value


def _check_names(found: Sequence[str], part: str, names: Sequence[str]) -> None:
    unknown = [name for name in found if name not in names]
    missing = [name for name in names if name not in found]
    if unknown:
        raise DataError(f"the names in {part} must be those of the model, {', '.join(names)}, got {', '.join(unknown)}")
    if (part.endswith("inputs") and missing) or not found:
        raise DataError(f"{part} must contain {', '.join(names)}, but {', '.join(missing)} is missing")


def _read_csv(file: Path, signature: Signature) -> tuple[Columns, Columns]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, strict=True)
        header = next(lines, [])
        rows = [line for line in lines if line]
    if len(set(header)) != len(header):
        raise DataError(f"the names of columns must be unique, got {', '.join(header)}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(f"row {number} must have {len(header)} cells, like the header, got {len(row)}")
    cells = {name: [row[at] for row in rows] for at, name in enumerate(header)}
    parts = {f"inputs.{spec.name}": spec for spec in signature.inputs}
    parts |= {f"outputs.{spec.name}": spec for spec in signature.outputs}
    columns = {part: _assembled(cells, part, spec) for part, spec in parts.items() if _own(cells, part)}
    owned = {name for part in columns for name in _own(cells, part)}
    foreign = [name for name in header if name not in owned]
    if foreign:
        raise DataError(
            f"the columns must be {', '.join(parts)}, or NAME.0, NAME.1, ... for vectors, got {', '.join(foreign)}"
        )
    inputs, outputs = ({p.partition(".")[2]: c for p, c in columns.items() if p.startswith(s)} for s in ("in", "out"))
    _check_names(list(inputs), "inputs", [spec.name for spec in signature.inputs])
    _check_names(list(outputs), "outputs", [spec.name for spec in signature.outputs])
    return inputs, outputs


def _own(cells: Mapping[str, Any], part: str) -> list[str]:
    """Return the columns of one input or output: its name, or its name with the number of an element."""
    return [
        name for name in cells if name == part or (name.startswith(f"{part}.") and name[len(part) + 1 :].isdecimal())
    ]


def _assembled(cells: Mapping[str, list[str]], part: str, spec: TensorSpec) -> list[Any]:
    """Return one value for each row: a cell, or a list of cells in the order of their numbers."""
    own = _own(cells, part)
    read = {name: [_cell(text, name, row, spec) for row, text in enumerate(cells[name])] for name in own}
    if own == [part]:
        return read[part]
    wanted = [f"{part}.{number}" for number in range(len(own))]
    if sorted(own) != sorted(wanted):
        raise DataError(f"the elements of {part} must be {', '.join(wanted)}, got {', '.join(own)}")
    return [list(row) for row in zip(*(read[name] for name in wanted), strict=True)]


def _cell(text: str, column: str, row: int, spec: TensorSpec) -> Any:
    """Read a cell as a value of the dtype; a value that does not fit stays text and is refused later."""
    if spec.dtype == "string":
        return text
    stripped = text.strip()
    if spec.dtype == "bool":
        known = {"true": True, "1": True, "false": False, "0": False}
        if stripped.lower() not in known:
            raise DataError(f"row {row}, column {column} must be true or false, got '{text}'")
        return known[stripped.lower()]
    try:
        return int(stripped) if stripped.lstrip("+-").isdecimal() else float(stripped)
    except ValueError:
        raise DataError(f"row {row}, column {column} must be a number, got '{text}'; correct or drop the row") from None


def _check_lengths(columns: Mapping[str, list[Any]]) -> None:
    lengths = {name: len(rows) for name, rows in columns.items()}
    if not any(lengths.values()):
        raise DataError("there must be at least one row, got none; add a row, or remove gates.golden.file")
    if len(set(lengths.values())) != 1:
        raise DataError(f"inputs and outputs must have the same number of rows, got {lengths}")


def _array(kind: str, rows: list[Any], spec: TensorSpec) -> Array:
    """Return one array of rows in the dtype of the signature.

    Raises:
        DataError: a value does not fit the dtype or is not finite, or rows have different shapes.
    """
    dtype = np.dtype({"string": TEXT, "bfloat16": "float32"}.get(spec.dtype, spec.dtype))
    shape = _shape(rows[0])
    for number, row in enumerate(rows):
        where = f"row {number} of {kind} '{spec.name}'"
        for value in _leaves(row):
            if not _fits(value, dtype):
                raise DataError(f"{where} must contain finite {spec.dtype} values, got {_short(value)}")
        if _shape(row) is None or _shape(row) != shape:
            raise DataError(f"{where} must have the shape of row 0, {shape}, got {_short(row)}")
    return np.array(rows, dtype)


def _leaves(value: Any) -> Iterator[Any]:
    if not isinstance(value, list):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of nested lists, or None if they are ragged."""
    if not isinstance(value, list):
        return ()
    inner = {_shape(item) for item in value}
    if len(inner) > 1 or None in inner:
        return None
    return (len(value), *(inner.pop() or () if inner else ()))


def _fits(value: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether a value from a file fits the dtype; a whole float counts as an integer."""
    if dtype.kind == "T":
        return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)
    if dtype.kind == "b" or isinstance(value, bool):
        return dtype.kind == "b" and isinstance(value, bool)
    if not isinstance(value, int | float):
        return False
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if not float(limits.min) <= value <= float(limits.max):  # which NaN is not either
        return False
    return dtype.kind == "f" or (value == int(value) and int(limits.min) <= int(value) <= int(limits.max))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
