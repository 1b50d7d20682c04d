"""The signature of a SavedModel that was made elsewhere: its size is judged before its contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ExportError
from tasks.savedmodel.signature import read_signature


def test_a_graph_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    """A file beyond the bound is refused by its size, whatever it holds."""
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 2000)  # no protocol buffer
    with pytest.raises(ExportError, match=r"saved_model\.pb has"):
        read_signature(tmp_path, "", max_bytes=1000)
