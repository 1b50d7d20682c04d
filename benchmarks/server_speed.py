"""Measure the embedded server: start, one-row requests against a bare echo, 128-row bodies of several kinds, memory.

    python -m benchmarks.server_speed [--seconds 3] [--requests 20000] [--real-server PATH]

The model is the digits example. Everything runs on loopback for a bounded time. The echo is a Starlette route that
returns the same answer to the same body under the same uvicorn settings. PATH names a `tensorflow_model_server`, which
then takes turns with the two. The client acknowledges at once (TCP_QUICKACK): other clients measure a stall of 44 ms
of the real server, by Nagle's algorithm there and delayed acknowledgements here.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import orjson

from benchmarks.digits import exported, tiled
from benchmarks.ratios import add_json_option, write_ratios

ROOT = Path(__file__).parents[1]
ECHO = """
import socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
answer = sys.argv[1].encode()
async def predict(request):
    await request.body()
    return Response(answer, media_type="application/json")
app = Starlette(routes=[Route("/{path:path}", predict, methods=["POST"])])
config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False, ws="none",
    proxy_headers=False)
listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listening.bind(("127.0.0.1", 0))
listening.listen(1024)
print(f"localhost:{listening.getsockname()[1]} ready", file=sys.stderr, flush=True)
uvicorn.Server(config).run(sockets=[listening])
"""
ROUNDS = 5
PREDICT = "/v1/models/digits:predict"


@contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a child for the time of a block."""
    child = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "REHEARSAL_REST_HOST": "127.0.0.1"}
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


@contextmanager
def server(model_dir: Path) -> Iterator[tuple[int, int, float]]:
    """Serve a model; yield its port, its process number and the seconds until it was ready."""
    begin = time.perf_counter()
    flags = ["--port=0", "--rest_api_port=0", f"--model_name={model_dir.name}", f"--model_base_path={model_dir}"]
    with process([sys.executable, "-m", "tasks.model_server", *flags]) as child:
        port = _port_of(child, "Exporting HTTP/REST API")
        yield port, child.pid, time.perf_counter() - begin


@contextmanager
def real_server(path: str, model_dir: Path) -> Iterator[int]:
    """Serve a model with TensorFlow Serving itself; yield its port. It takes no port 0, so two are looked for."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        grpc_port, port = (listening.getsockname()[1] for listening in (one, other))
    flags = [f"--port={grpc_port}", f"--rest_api_port={port}", f"--model_name={model_dir.name}"]
    with process([path, *flags, f"--model_base_path={model_dir}"]) as child:
        assert _port_of(child, "Exporting HTTP/REST API") == port
        yield port


def _port_of(child: subprocess.Popen[str], sign: str) -> int:
    assert child.stderr is not None
    for line in child.stderr:
        if sign in line:
            return int(line.split("localhost:")[1].split()[0])
    raise SystemExit("a server did not start")


async def _client(port: int, request: bytes, until: float, count: list[int]) -> None:
    """Send one request after the other on one connection and read each answer by its length."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = writer.get_extra_info("socket")
    while time.perf_counter() < until:
        writer.write(request)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # it holds for a few packets only
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n", 1)[0], head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        count[0] += 1
    writer.close()
    await writer.wait_closed()


def requests_per_second(port: int, path: str, body: bytes, connections: int, seconds: float) -> float:
    """Return the rate of one client process over some connections."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"

    async def run() -> int:
        count = [0]
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_client(port, head.encode() + body, until, count) for _ in range(connections)))
        return count[0]

    begin = time.perf_counter()
    return asyncio.run(run()) / (time.perf_counter() - begin)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def one_row_rates(model_dir: Path, body: bytes, seconds: float, real: str | None = None) -> dict[str, list[float]]:
    """Return one-row requests/s at 8 connections of the server, the bare echo and a real server, one value a round.

    They take turns, so that what else the machine does falls on all.
    """
    with ExitStack() as stack:
        ports = {"ours": stack.enter_context(server(model_dir))[0]}
        answer = urllib.request.urlopen(f"http://127.0.0.1:{ports['ours']}{PREDICT}", body, timeout=30).read()
        echo = stack.enter_context(process([sys.executable, "-c", ECHO, answer.decode()]))
        ports["echo"] = _port_of(echo, "ready")
        if real:
            ports["real"] = stack.enter_context(real_server(real, model_dir))
        rates: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                rates[name].append(requests_per_second(port, PREDICT, body, 8, seconds / ROUNDS))
    return rates


def bodies() -> dict[str, bytes]:
    """Return bodies of 128 rows: digits, and standard-normal float32 in the fewest digits, ordinary and less so."""
    normal = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    plain = np.where(np.abs(normal) < 0.001, np.float32(0.5), normal)
    one = plain.copy()
    one[64, 32] = 1.2345e-5
    text = {name: orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY) for name, rows in (
        ("digits, as decimals", tiled(128)[0].astype(np.float32)), ("normal floats", plain),
        ("one exponent", one), ("nothing but exponents", normal * np.float32(1e-6)),
        ("as float64", normal.astype(np.float64)),
    )}  # fmt: skip
    numbers = text["normal floats"].split(b",")
    text["one NaN"] = b",".join([*numbers[:100], b"NaN", *numbers[101:]])
    text["a NaN or infinity in each row"] = b",".join(
        (b"NaN", b"-Infinity", b"Infinity")[at % 3] if at % 64 == 7 else number for at, number in enumerate(numbers)
    )
    return text


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has taken, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_kinds(model_dir: Path, seconds: float) -> dict[str, tuple[list[float], float]]:
    """Return for each kind of body the server's CPU ms for a request, a value a round, and rows/s at 4 connections.

    The kinds take turns.
    """
    used: dict[str, list[float]] = {kind: [] for kind in bodies()}
    rates = dict.fromkeys(bodies(), 0.0)
    with server(model_dir) as (port, pid, _start):
        for turn in range(ROUNDS + 1):
            for kind, body in bodies().items():
                before, begin = cpu_s(pid), time.perf_counter()
                rate = requests_per_second(port, PREDICT, body, 4, seconds / ROUNDS)
                if turn:  # the first is for warming up
                    used[kind].append(1000 * (cpu_s(pid) - before) / (rate * (time.perf_counter() - begin)))
                    rates[kind] = max(rates[kind], rate * 128)
    return {kind: (used[kind], rates[kind]) for kind in used}


def measure(model_dir: Path, seconds: float, requests: int, real: str | None) -> dict[str, list[float]]:
    """Print one table, and return the ratios of each round."""
    starts = []
    for _ in range(3):
        with server(model_dir) as (_port, _pid, start_s):
            starts.append(start_s)
    one, many = (orjson.dumps({"instances": tiled(rows)[0].tolist()}) for rows in (1, 128))
    names = {"echo": "a bare echo", "real": "TensorFlow Serving"}
    rates = one_row_rates(model_dir, one, seconds, real)
    best = {name: max(found) for name, found in rates.items()}
    ours, echo = best["ours"], best["echo"]
    with server(model_dir) as (port, pid, _start):
        rate = max(requests_per_second(port, PREDICT, many, 4, seconds / ROUNDS) for _ in range(ROUNDS))
        requests_per_second(port, PREDICT, one, 8, requests / ours)
        before = resident_mb(pid)
        requests_per_second(port, PREDICT, one, 8, requests / ours)
        after = resident_mb(pid)
    print(f"{'exec to first answer, s (best of 3)':50}{min(starts):>10.2f}")
    print(f"{'one-row requests/s, 8 connections':50}{ours:>10.0f}")
    print(f"{'bare echo requests/s, 8 connections':50}{echo:>10.0f}")
    print(f"{'ratio':50}{ours / echo:>10.2f}")
    if real:
        print(f"{'real server, requests/s':50}{best['real']:>10.0f}")
        print(f"{'ratio':50}{ours / best['real']:>10.2f}")
    print(f"{'rows/s in bodies of 128 rows, 4 connections':50}{rate * 128:>10.0f}")
    kinds = cpu_of_kinds(model_dir, seconds)
    plain = kinds["normal floats"][0]
    ratios = {
        f"time of a one-row request beside {names[name]}": [
            theirs / our for our, theirs in zip(rates["ours"], found, strict=True)
        ]
        for name, found in rates.items()
        if name != "ours"
    }
    for kind, (of_rounds, rows) in kinds.items():
        cpu_ms, times = statistics.median(of_rounds), statistics.median(of_rounds) / statistics.median(plain)
        if kind != "normal floats":
            ratios[f"CPU time of 128 rows, {kind}, beside normal floats"] = [
                ours / theirs for ours, theirs in zip(of_rounds, plain, strict=True)
            ]
        print(f"{f'128 rows, {kind}: CPU ms, ratio, rows/s':50}{cpu_ms:>10.2f}{times:>8.2f}{rows:>10.0f}")
    print(f"{f'memory growth over {requests} requests, MB':50}{after - before:>10.1f}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--requests", type=int, default=20_000, help="about how many between two looks at memory")
    parser.add_argument("--real-server", metavar="PATH", help="a tensorflow_model_server to measure beside")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        (candidate,) = exported(Path(directory), {1: ["training.epochs=5"]})
        found = measure(candidate.version_dir.parent, options.seconds, options.requests, options.real_server)
    write_ratios(options.json, found)


if __name__ == "__main__":
    main()
