"""What is said of rows that differ: each difference that the digest of the rows covers is named, and can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.datasets.compared import changed_rows
from tasks.datasets.rows import Rows, digest_rows, save_rows
from tasks.datasets.splitting import SPLITS

N = 4
TEXT = np.array(["a", "b", "c", "d" * 100], np.dtypes.StringDType())  # type: ignore[attr-defined,unused-ignore]
ROWS: dict[str, Any] = {
    "number": np.array([0.0, 1, 2, 3], np.float32),
    "text": TEXT,
    "raw": np.array([b"a", b"b", b"c", b"d"], object),
    "image": np.arange(N * 64, dtype=np.float64).reshape(N, 8, 8),
}


def with_value(column: str, place: Any, value: Any) -> Any:
    changed = ROWS[column].copy()
    changed[place] = value
    return changed


def saved(directory: Path, features: Mapping[str, Any]) -> tuple[dict[str, Path], str]:
    """Save the same rows as each split, and return the files and the digest."""
    directory.mkdir()
    rows = Rows(features, {"target": np.zeros(N, np.int64)})
    for name in SPLITS:
        save_rows(directory / f"{name}.npz", rows if name == "test" else rows.take(np.arange(2)))
    return {name: directory / f"{name}.npz" for name in SPLITS}, digest_rows([rows])


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("text", with_value("text", 2, "c "), "test row 3 has other values: text was 'c' and is 'c '"),
        ("text", with_value("text", 3, "d" * 99 + "e"), "text was 'd' and is 'e' from position 100 on"),
        ("raw", with_value("raw", 3, b"d\0"), r"raw was b'd' and is b'd\x00'"),
        ("text", np.array([b"a", b"b", b"c", b"d" * 100], object), "the column 'text' has the dtype bytes, and had te"),
        ("number", with_value("number", 0, -0.0), "the column 'number' has equal numbers with other bytes, as -0.0"),
        ("image", with_value("image", (3, 7, slice(6, 8)), 0), "image[7, 6] was 254.0 and is 0.0 (and 1 more of its"),
    ],
)  # fmt: skip
def test_a_difference_can_be_seen(tmp_path: Path, column: str, values: Any, words: str) -> None:
    """A change of one value, or of how values are stored, has a line that shows it."""
    then, digest = saved(tmp_path / "then", ROWS)
    now, other = saved(tmp_path / "now", {**ROWS, column: values})
    assert digest != other
    assert words in " ".join(changed_rows(then, now))


def test_equal_rows_have_no_difference(tmp_path: Path) -> None:
    """The same rows, with columns in another order, give no line."""
    then, _ = saved(tmp_path / "then", ROWS)
    now, _ = saved(tmp_path / "now", dict(reversed(ROWS.items())))
    assert changed_rows(then, now) == []
