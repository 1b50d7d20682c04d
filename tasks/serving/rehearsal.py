"""What one rehearsal is made of, and the clients with which its servers are asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.rows import Array, save_arrays
from tasks.errors import ModelLoadError, PredictionError, ServerCrashed
from tasks.records import (
    Backend,
    Candidate,
    Champion,
    ServedAnswers,
    WayBack,
)
from tasks.replay.tally import Tally
from tasks.serving.client import Access, ModelClient
from tasks.serving.launch import ThrowawayServer

OWN = (ModelLoadError, PredictionError, ServerCrashed)
"""What a model does to its server. Any other end of a server, such as a kill, may have come from outside."""


@dataclass(frozen=True)
class Rehearsal:
    """The settings of a rehearsal.

    Attributes:
        directory: where the answers and the logs of the servers are written.
        champion: the version to compare with, or None.
        way_back: the version that a rollback would return to, or None if it is not to be judged.
        tally: makes the counters of recorded requests from the answers to the test rows; None without such requests.
    """

    serving: Serving
    candidate: Candidate
    backend: Backend
    directory: Path
    gates: Gates = field(default_factory=Gates)
    champion: Champion | None = None
    way_back: WayBack | None = None
    tally: Callable[[ServedAnswers], Tally] | None = None

    def save(self, name: str, arrays: Mapping[str, Array]) -> Path:
        """Write answers to `<directory>/<name>.npz`."""
        path = self.directory / f"{name}.npz"
        save_arrays(path, arrays)
        return path


@contextlib.contextmanager
def open_clients(serving: Serving, server: ThrowawayServer, rest: ModelClient) -> Iterator[list[ModelClient]]:
    """Yield clients for the configured transports; the answers of the first are judged."""
    if serving.protocol == "rest":
        yield [rest]
        return
    from tasks.serving.grpc_client import GrpcClient  # imports grpc

    client = GrpcClient(
        server.grpc_target, server.served_name, serving.request_timeout_s, access=Access(most_rows=serving.most_rows)
    )
    with contextlib.closing(client) as over_grpc:
        yield [over_grpc] if serving.protocol == "grpc" else [rest, over_grpc]
