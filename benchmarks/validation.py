"""How fast rows are validated, and how soon a broken model is refused, on both kinds of throwaway server.

    python -m benchmarks.validation [--image IMAGE] [--rows 100000]

The rates are of the client that the gates use, beside a loop of single `requests.post` calls in the same run.
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests

from configs.schema import Serving
from tasks.errors import ModelLoadError
from tasks.records import Backend, Candidate, Signature, TensorSpec
from tasks.serving.grpc_client import GrpcClient
from tasks.serving.launch import throwaway_server

MODELS = Path("tests/data/tfs_rest/models")
SINGLE = 500
Y = TensorSpec("y", "float32", (None, 64))


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def best(work: Callable[[], object], rounds: int = 3) -> float:
    return min(seconds(work) for _ in range(rounds))


def make_candidate(model: str, scratch: Path) -> Candidate:
    shutil.copytree(MODELS / model / "1", scratch / model / "1")
    return Candidate(model, 1, scratch / model / "1", "", Signature((), ()), 0, scratch, scratch, scratch)


def rates(backend: Backend, serving: Serving, candidate: Candidate, rows: int, scratch: Path) -> None:
    x = np.random.default_rng(0).random((rows, 64), np.float32)
    with throwaway_server(backend, serving, candidate, scratch / "log") as (server, rest):
        url = f"{server.rest_url}/v1/models/zoo:predict"

        def one_by_one() -> None:
            for row in x[:SINGLE]:
                requests.post(url, json={"signature_name": "f32", "instances": [row.tolist()]}, timeout=30)

        loop = SINGLE / best(one_by_one)
        over_rest = rows / best(lambda: rest.predict(1, {"x": x}, (Y,), "f32"))
        with contextlib.closing(GrpcClient(server.grpc_target, "zoo", 30)) as client:
            over_grpc = rows / best(lambda: client.predict(1, {"x": x}, (Y,), "f32"))
    print(
        f"{backend.kind}: {rows:,} rows of 64 float32 out and back: REST {over_rest:,.0f} rows/s, "
        f"gRPC {over_grpc:,.0f}, single requests in a loop {loop:,.0f} ({over_rest / loop:.0f} times)"
    )


def refusal(backend: Backend, serving: Serving, candidate: Candidate, scratch: Path) -> None:
    index = candidate.version_dir / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:10])

    def refused() -> None:
        server = throwaway_server(backend, serving, candidate, scratch / "log")
        with contextlib.suppress(ModelLoadError), server:
            raise SystemExit("the broken model was served")

    print(f"{backend.kind}: a damaged model is refused after {best(refused):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="")
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    backends = [Backend("embedded"), *([Backend("docker", options.image)] if options.image else [])]
    for backend in backends:
        with tempfile.TemporaryDirectory() as directory:
            scratch = Path(directory)
            rates(backend, Serving(), make_candidate("zoo", scratch), options.rows, scratch)
            refusal(backend, Serving(), make_candidate("dense3", scratch), scratch)


if __name__ == "__main__":
    main()
