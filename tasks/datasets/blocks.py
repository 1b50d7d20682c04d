"""Many rows in blocks: how many go together, and how their answers are put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.datasets.strings import Array, is_string, is_text, longest_bytes, of_any_length
from tasks.records import BATCHES, TensorSpec

# What one request should carry: rates are flat from about here on, measured against TensorFlow Serving 2.20 with
# 64 float32 a row (1 MB: 145,000 rows/s, 2.5 MB: 199,000 rows/s over 4 connections)
BODY_BYTES = 2_500_000
MAX_ROWS = 4096


def rows_per_request(inputs: Mapping[str, Array]) -> int:
    """Return how many rows make a good request, whatever it is sent over: who answers the same asks the same."""
    return max(1, min(MAX_ROWS, BODY_BYTES // max(1, sum(_json_bytes(array) for array in inputs.values()))))


def _json_bytes(array: Array) -> int:
    """Estimate what one row takes as JSON."""
    values = int(np.prod(array.shape[1:], dtype=np.int64))
    return values * (longest_bytes(array) + 4 if is_string(array) else 10)


def row_blocks(inputs: Mapping[str, Array], rows: int = 0) -> Iterator[dict[str, Array]]:
    """Cut rows into blocks that make good requests; the blocks are views, nothing is copied.

    Args:
        inputs: one array an input; all with the same first axis, the row.
        rows: of a block; 0 is what makes a good request.
    """
    step = rows or rows_per_request(inputs)
    for start in range(0, len(next(iter(inputs.values()))), step):
        yield {name: array[start : start + step] for name, array in inputs.items()}


def small_batches(inputs: Mapping[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Give the small batches that the rows suffice for, by name."""
    n_rows = len(next(iter(inputs.values())))
    for name, part in BATCHES.items():
        if n_rows >= abs(part.stop or part.start):
            yield name, {key: array[part] for key, array in inputs.items()}


def unanswered_rows(answers: Mapping[str, Array], n_rows: int | None = None) -> str:
    """Return which output has not one answer for each row, as a rule with what was received, or an empty string.

    Args:
        answers: one array an output.
        n_rows: how many rows were asked about; None where only the axis of the rows must be there.
    """
    for name, array in answers.items():
        if not array.ndim:
            return f"every output must have an answer for each row, got one value for '{name}'"
        if n_rows is not None and len(array) != n_rows:
            return f"every output must have an answer for each row, got {len(array)} of '{name}' for {n_rows} rows"
    return ""


def joined(answers: Iterable[Mapping[str, Array]], outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one array an output from the answers to consecutive blocks of rows.

    Where an output is as long as its batch makes it, shorter blocks are filled up with its declared padding, or with
    zeros.

    Raises:
        ValueError: the blocks of an output differ in rank, or in an axis that is not free.
    """
    parts: dict[str, list[Array]] = {spec.name: [] for spec in outputs}
    for answer in answers:
        for name, blocks in parts.items():
            blocks.append(answer[name])
    return {spec.name: np.concatenate(_as_long(parts[spec.name], spec)) for spec in outputs}


def _as_long(blocks: Sequence[Array], spec: TensorSpec) -> Sequence[Array]:
    """Return blocks that differ in their rows alone."""
    if len({block.shape[1:] for block in blocks}) == 1 or len({block.ndim for block in blocks}) > 1:
        return blocks
    longest = tuple(max(sizes) for sizes in zip(*(block.shape[1:] for block in blocks), strict=True))
    sizes = tuple(size if spec.is_free(axis) else None for axis, size in enumerate(longest, start=1))
    return [filled(block, (None, *sizes), spec) for block in blocks]


def filled(array: Array, shape: Sequence[int | None], spec: TensorSpec) -> Array:
    """Return an array with its axes extended by the output's padding.

    Args:
        shape: extents, none of them smaller than the array's own; None stays as it is.
    """
    wanted = tuple(has if size is None else size for has, size in zip(array.shape, shape, strict=True))
    if wanted == array.shape:
        return array
    array = of_any_length(array)
    longer = np.full(wanted, _padding(spec.pad, array), array.dtype)
    longer[tuple(slice(size) for size in array.shape)] = array
    return longer


def _padding(value: float | str | bool | None, array: Array) -> Any:
    """Return what fills an array up, by default zeros and empty text."""
    if is_string(array):
        text = "" if value is None else str(value)
        return text if is_text(array) else text.encode()
    return np.asarray(0 if value is None else value, array.dtype)
