"""One rehearsal: start a server on a candidate, ask it everything that the gates will judge, stop it."""

from __future__ import annotations

import time
from pathlib import Path

from configs.schema import Serving
from tasks.datasets.rows import load_arrays, save_arrays
from tasks.records import Backend, Candidate, ServedAnswers, ServerFacts, Signature
from tasks.serving.launch import throwaway_server


def rehearse(serving: Serving, candidate: Candidate, backend: Backend, run_dir: Path) -> ServedAnswers:
    """Return what a real server answered to the test rows.

    Args:
        run_dir: where the answers and the server's log are kept.

    Raises:
        ServingError: the server gave no judgement; a refused model is a `ModelLoadError`.
    """
    requests = load_arrays(candidate.requests)
    n_rows = len(next(iter(requests.values())))
    log_file, answers_file = run_dir / "server.log", run_dir / "served.npz"
    begun = time.monotonic()
    with throwaway_server(backend, serving, candidate, run_dir.name, log_file) as (server, client):
        available = time.monotonic()
        inputs, outputs = client.signature_def(candidate.version, candidate.signature.name)
        asked = time.monotonic()
        answers = client.predict(candidate.version, requests, candidate.signature.outputs, candidate.signature.name)
        seconds = time.monotonic() - asked
        facts = ServerFacts(
            server.backend, backend.reason, server.image, server.image_id, server.version, available - begun, log_file
        )
    save_arrays(answers_file, answers)
    served = Signature(tuple(inputs), tuple(outputs), candidate.signature.name)
    return ServedAnswers(facts, served, answers_file, n_rows, n_rows / seconds)
