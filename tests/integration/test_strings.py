"""Bytes with NULs at their ends from the loader to the server, over either transport."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.sections.serving import Serving
from tasks.datasets.rows import load_arrays
from tasks.datasets.strings import as_bytes
from tasks.records import Backend
from tasks.serving.grpc_client import GrpcClient
from tasks.serving.launch import throwaway_server


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras saving a model
def test_bytes_with_trailing_nuls_are_served(rehearsed: Callable[[str], Any], tmp_path: Path) -> None:
    """Bytes arrive whole: the server answers as the model does, whose hash sees the NUL."""
    candidate = rehearsed("of_bytes").candidate
    requests, reference = load_arrays(candidate.requests), load_arrays(candidate.reference)
    assert any(item.endswith(b"\x00") for item in as_bytes(requests["blob"]).ravel().tolist())
    outputs = candidate.signature.outputs
    with (
        throwaway_server(Backend("embedded", ""), Serving(image="-"), candidate, tmp_path / "log") as (running, rest),
        closing(GrpcClient(running.grpc_target, candidate.name, 30)) as grpc,
    ):
        for client in (rest, grpc):
            answers = client.predict(1, requests, outputs, candidate.signature.name)
            for name, wanted in reference.items():
                np.testing.assert_allclose(answers[name], wanted, rtol=1e-5)
