"""How fast rows are validated, and how soon a broken model is refused, on a throwaway server.

    python -m benchmarks.validation [--image IMAGE] [--rows 100000]

The rates are of the client that the gates use, on the digits example, beside a loop of single `requests.post` calls
in the same run. With an image, a container of it serves; else the embedded server.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests

from benchmarks.digits import exported, tiled
from benchmarks.ratios import add_json_option, write_ratios
from configs.sections.serving import Serving
from tasks.errors import ModelLoadError
from tasks.records import Backend, Candidate
from tasks.serving.grpc_client import GrpcClient
from tasks.serving.launch import throwaway_server

SINGLE = 500
ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rates(backend: Backend, serving: Serving, candidate: Candidate, rows: int, scratch: Path) -> dict[str, list[float]]:
    """Return the seconds of a row in each round, for each way to ask."""
    x, _ = tiled(rows)
    asked = candidate.version, {"pixels": x}, candidate.signature.outputs, "serving_default"
    with throwaway_server(backend, serving, candidate, scratch / "log") as (server, rest):
        url = f"{server.rest_url}/v1/models/{candidate.name}:predict"

        def one_by_one() -> None:
            for row in x[:SINGLE]:
                requests.post(url, json={"instances": [row.tolist()]}, timeout=30)

        with contextlib.closing(GrpcClient(server.grpc_target, candidate.name, 30)) as client:
            found: dict[str, list[float]] = {"loop": [], "REST": [], "gRPC": []}
            for _ in range(ROUNDS):
                found["loop"].append(seconds(one_by_one) / SINGLE)
                found["REST"].append(seconds(lambda: rest.predict(*asked)) / rows)
                found["gRPC"].append(seconds(lambda: client.predict(*asked)) / rows)
    loop, over_rest, over_grpc = (1 / min(times) for times in found.values())
    print(
        f"{backend.kind}: {rows:,} digits: REST {over_rest:,.0f} rows/s, "
        f"gRPC {over_grpc:,.0f}, single requests in a loop {loop:,.0f} ({over_rest / loop:.0f} times)"
    )
    return found


def refusal(backend: Backend, serving: Serving, candidate: Candidate, scratch: Path) -> None:
    index = candidate.version_dir / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:10])  # the same bytes again the second time

    def refused() -> None:
        server = throwaway_server(backend, serving, candidate, scratch / "log")
        with contextlib.suppress(ModelLoadError), server:
            raise SystemExit("the broken model was served")

    print(f"{backend.kind}: a damaged model is refused after {min(seconds(refused) for _ in range(ROUNDS)):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="")
    parser.add_argument("--rows", type=int, default=100_000)
    add_json_option(parser)
    options = parser.parse_args()
    backend = Backend("docker", options.image) if options.image else Backend("embedded")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        (candidate,) = exported(scratch, {1: ["training.epochs=5"]})
        found = rates(backend, Serving(), candidate, options.rows, scratch)
        refusal(backend, Serving(), candidate, scratch)
    ratios = {
        f"time of a row over {way} beside a loop of single requests": [
            ours / alone for ours, alone in zip(found[way], found["loop"], strict=True)
        ]
        for way in ("REST", "gRPC")
    }
    write_ratios(options.json, ratios)


if __name__ == "__main__":
    main()
