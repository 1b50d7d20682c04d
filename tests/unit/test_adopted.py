"""SavedModels that were made elsewhere, as far as their files tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import Config
from tasks.errors import ExportError, SignatureMismatch
from tasks.records import Signature, TensorSpec
from tasks.savedmodel.signature import read_signature
from tasks.savedmodel.transport import check_transport


def test_a_graph_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    """A file beyond the bound is refused by its size, whatever it holds."""
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 2000)  # no protocol buffer
    with pytest.raises(ExportError, match=r"saved_model\.pb has"):
        read_signature(tmp_path, "", max_bytes=1000)


def test_no_cast_is_advised_for_bytes_that_stay_as_they_are() -> None:
    """`export.cast` is a way out only for a model that is exported here."""
    half = TensorSpec("x", "float16", (None,))
    for given in (False, True):
        with pytest.raises(SignatureMismatch) as caught:
            check_transport(Signature((half,), (half,)), Config(name="m"), given=given)
        assert ("export.cast" in str(caught.value)) is not given
        assert "serving.protocol: grpc" in str(caught.value)
