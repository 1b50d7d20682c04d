"""One rehearsal: start a server on a candidate, ask it everything that the gates will judge, stop it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from configs.schema import Serving
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.records import Backend, Candidate, ServedAnswers, ServerFacts, Signature
from tasks.serving.client import ModelClient
from tasks.serving.launch import ThrowawayServer, throwaway_server


def rehearse(serving: Serving, candidate: Candidate, backend: Backend, directory: Path) -> ServedAnswers:
    """Return what a real server answered to the test rows.

    Args:
        directory: where the answers and the server's log are kept.

    Raises:
        ServingError: the server gave no judgement; a refused model is a `ModelLoadError`.
    """
    requests, signature = load_arrays(candidate.requests), candidate.signature
    n_rows = len(next(iter(requests.values())))
    log_file, begun = directory / "server.log", time.monotonic()
    with throwaway_server(backend, serving, candidate, directory.name, log_file) as (server, rest):
        startup_s = time.monotonic() - begun
        with contextlib.ExitStack() as stack:
            first, *others = _clients(serving, server, rest, candidate.name, stack)
            inputs, outputs = first.signature_def(candidate.version, signature.name)
            asked = time.monotonic()
            answers = first.predict(candidate.version, requests, signature.outputs, signature.name)
            seconds = time.monotonic() - asked
            also = [c.predict(candidate.version, requests, signature.outputs, signature.name) for c in others]
        image, image_id, version = server.image, server.image_id, server.version
    save_arrays(directory / "served.npz", answers)
    for other in also:
        save_arrays(directory / "served_grpc.npz", other)
    return ServedAnswers(
        ServerFacts(backend.kind, backend.reason, image, image_id, version, startup_s, log_file),
        Signature(tuple(inputs), tuple(outputs), signature.name),
        directory / "served.npz",
        n_rows,
        n_rows / seconds,
        directory / "served_grpc.npz" if also else None,
    )


def _clients(
    serving: Serving, server: ThrowawayServer, rest: ModelClient, model_name: str, stack: contextlib.ExitStack
) -> list[ModelClient]:
    """Return the transports to ask over, the first of them for the verdict."""
    if serving.protocol == "rest":
        return [rest]
    from tasks.serving.grpc_client import GrpcClient  # imports grpc

    over_grpc = GrpcClient(server.grpc_target, model_name, serving.request_timeout_s)
    stack.callback(over_grpc.close)
    return [over_grpc] if serving.protocol == "grpc" else [rest, over_grpc]
