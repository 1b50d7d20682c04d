"""Divides many rows into blocks, and joins the answers to the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.datasets.mapped import let_go
from tasks.datasets.strings import Array, is_string, is_text, longest_bytes, of_any_length
from tasks.records import BATCHES, TensorSpec

# The size of a good request: larger ones are hardly faster, as measured with TensorFlow Serving 2.20 and
# 64 float32 a row (1 MB: 145,000 rows/s, 2.5 MB: 199,000 rows/s over 4 connections)
BODY_BYTES = 2_500_000
MAX_ROWS = 4096


def rows_per_request(inputs: Mapping[str, Array], most: int = 0) -> int:
    """Return how many rows make a good request; it is the same for every transport, so that answers can be compared.

    Args:
        most: how many rows a server accepts in one request; 0 means that there is no limit.
    """
    one_row = max(1, sum(_json_bytes(array) for array in inputs.values()))
    return max(1, min(most or MAX_ROWS, MAX_ROWS, BODY_BYTES // one_row))


def _json_bytes(array: Array) -> int:
    """Estimate the bytes of one row in JSON."""
    values = int(np.prod(array.shape[1:], dtype=np.int64))
    return values * (longest_bytes(array) + 4 if is_string(array) else 10)


def row_blocks(inputs: Mapping[str, Array], rows: int = 0, most: int = 0) -> Iterator[dict[str, Array]]:
    """Divide rows into blocks that make good requests; the blocks are views of the arrays.

    Args:
        inputs: one array for each input; the first axis of all is the row.
        rows: rows of a block; 0 chooses the size of a good request. most: the limit of a block; 0 means none.
    """
    step = rows or rows_per_request(inputs, most)
    for start in range(0, len(next(iter(inputs.values()))), step):
        yield {name: array[start : start + step] for name, array in inputs.items()}
        let_go(inputs.values())


def small_batches(inputs: Mapping[str, Array], most: int = 0) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the small batches for which there are enough rows, by name, none above `most` rows (0: no limit)."""
    n_rows = len(next(iter(inputs.values())))
    for name, part in BATCHES.items():
        size = abs(part.stop or part.start)
        if n_rows >= size and (not most or size <= most):
            yield name, {key: array[part] for key, array in inputs.items()}


def unanswered_rows(answers: Mapping[str, Array], n_rows: int | None = None) -> str:
    """Return a message about an output that does not have one answer for each row, or an empty string.

    Args:
        answers: one array for each output.
        n_rows: how many rows were sent; None checks only that there is an axis of rows.
    """
    for name, array in answers.items():
        if not array.ndim:
            return f"every output must have one answer for each row, got a single value for '{name}'"
        if n_rows is not None and len(array) != n_rows:
            return f"every output must have one answer for each row, got {len(array)} of '{name}' for {n_rows} rows"
    return ""


def joined(answers: Iterable[Mapping[str, Array]], outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one array for each output from the answers to consecutive blocks of rows.

    If the length of an output depends on its batch, shorter blocks are padded with the configured value or with zeros.

    Raises:
        ValueError: the blocks of an output differ in rank, or in an axis that is not free.
    """
    parts: dict[str, list[Array]] = {spec.name: [] for spec in outputs}
    for answer in answers:
        for name, blocks in parts.items():
            blocks.append(answer[name])
    return {spec.name: np.concatenate(_as_long(parts[spec.name], spec)) for spec in outputs}


def _as_long(blocks: Sequence[Array], spec: TensorSpec) -> Sequence[Array]:
    """Return blocks that differ only in their number of rows."""
    if len({block.shape[1:] for block in blocks}) == 1 or len({block.ndim for block in blocks}) > 1:
        return blocks
    longest = tuple(max(sizes) for sizes in zip(*(block.shape[1:] for block in blocks), strict=True))
    sizes = tuple(size if spec.is_free(axis) else None for axis, size in enumerate(longest, start=1))
    return [filled(block, (None, *sizes), spec) for block in blocks]


def filled(array: Array, shape: Sequence[int | None], spec: TensorSpec) -> Array:
    """Return an array with its axes extended by padding.

    Args:
        shape: extents that are not smaller than the array's own; None keeps an extent.
    """
    wanted = tuple(has if size is None else size for has, size in zip(array.shape, shape, strict=True))
    if wanted == array.shape:
        return array
    array = of_any_length(array)
    longer = np.full(wanted, _padding(spec.pad, array), array.dtype)
    longer[tuple(slice(size) for size in array.shape)] = array
    return longer


def _padding(value: float | str | bool | None, array: Array) -> Any:
    """Return the padding of an array, by default zeros or empty text."""
    if is_string(array):
        text = "" if value is None else str(value)
        return text if is_text(array) else text.encode()
    return np.asarray(0 if value is None else value, array.dtype)
