"""The rehearsed change: its failures, its seconds, a planted stall, and the capacity of a server that is known.

    python -m benchmarks.change [--rounds 50] [--stalls 10] [--service-ms 2] [--image IMAGE]

Each round puts a digits candidate in the place of a champion under load and takes it back, in a throwaway server of its
own, as the gate `change` does with its defaults; the same candidate is validated without it for comparison. Then the
embedded server is stopped for 100 ms at each change. At last the capacity of a server that answers one request at a
time, each in the same time, is measured and compared with a simulation of that queue (tests/queueing.py).
"""

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from benchmarks.digits import exported
from benchmarks.ratios import add_json_option, write_ratios
from configs.loading import load_config
from configs.schema import Config
from configs.sections.gates import Capacity
from tasks.datasets.rows import load_arrays
from tasks.gates.change import judge_change
from tasks.production.rehearsed_change import rehearse_change
from tasks.records import Backend, Candidate, Champion, GateResult, ServedAnswers
from tasks.serving.capacity import highest_rate, keeps_bound
from tasks.serving.open_loop import RestConnection
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import rehearse
from tasks.store.champion import find_champion
from tasks.store.history import append
from tests.conftest import children
from tests.queueing import arrivals, queueing_p99

STALL_S = 0.1
AGAIN = 5  # how often the rest of the servers is timed
ALONE = 500  # requests one at a time
SIMULATED = 400_000  # requests
SERVICES = 5  # the bound of the p99, in service times
REQUESTS, MOST_S = Capacity().requests, 2 * Capacity().max_seconds


def live(scratch: Path, champion: Candidate) -> tuple[Config, Champion]:
    """Return a configuration whose live directory has the champion."""
    config = load_config(
        Path("configs/digits.yaml"), [f"work_dir={scratch / 'work'}", f"models_root={scratch / 'models'}"]
    )
    shutil.copytree(champion.version_dir, config.live_dir / "1")
    append(config.live_dir, 1, "live", champion.digest)
    found = find_champion(config.live_dir)
    assert found is not None
    return config, found


def changed(config: Config, rehearsal: Rehearsal, served: ServedAnswers) -> tuple[GateResult, float]:
    """Rehearse the change; return the verdict and the seconds that it took."""
    begun = time.perf_counter()
    found = rehearse_change(config, rehearsal, served).change
    seconds = time.perf_counter() - begun
    assert found is not None
    requests = load_arrays(found.requests) if found.requests else {}
    return judge_change(found, requests, rehearsal.gates.change), seconds


@contextmanager
def stopped(copy: Path) -> Iterator[None]:
    """Stop the embedded server for 100 ms whenever version 2 appears in the copy of the live directory."""
    done, before, stalled = threading.Event(), children(), set[int]()

    def watch() -> None:
        while not done.wait(0.002):
            servers = [pid for pid in children() if pid not in before and pid not in stalled]
            if servers and copy.exists():
                stalled.add(servers[0])
                os.kill(servers[0], signal.SIGSTOP)
                time.sleep(STALL_S)
                os.kill(servers[0], signal.SIGCONT)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def serve_one_at_a_time(service_s: float, pipe: Pipe) -> None:
    """Serve requests one at a time in their order, each for the same time; send the port, and on demand these times."""
    jobs, taken = SimpleQueue[threading.Event](), list[float]()

    def work() -> None:
        while True:
            job, begun = jobs.get(), time.perf_counter()
            time.sleep(service_s)
            taken.append(time.perf_counter() - begun)
            job.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            done = threading.Event()
            jobs.put(done)
            done.wait()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 256

    server = Server(("127.0.0.1", 0), Handler)
    for target in (work, server.serve_forever):
        threading.Thread(target=target, daemon=True).start()
    pipe.send(server.server_port)
    while pipe.recv():
        pipe.send(taken.copy())
        taken.clear()


def seconds_alone(connection: RestConnection) -> list[float]:
    """Return the seconds of requests that are sent one after the other."""
    taken = []
    for _ in range(ALONE):
        begun = time.perf_counter()
        connection.ask(0)
        taken.append(time.perf_counter() - begun)
    connection.close()
    return taken


def capacity(service_s: float) -> tuple[float, float, float]:
    """Return the measured capacity, the true one, and the seconds that the measurement took.

    Clients see more than the queue: what a request takes on its way is measured with one request at a time, and is
    added to each time in the simulated queue.
    """
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve_one_at_a_time, args=(service_s, theirs), daemon=True)
    process.start()
    try:
        url, most_ms = f"http://127.0.0.1:{ours.recv()}", SERVICES * service_s * 1e3
        alone = statistics.mean(seconds_alone(RestConnection(url, "/", [b"{}"], 30)))
        ours.send("the times, please")
        way_s, begun = alone - statistics.mean(ours.recv()), time.perf_counter()

        def sustains(rate: float, requests: int) -> bool:
            return keeps_bound(lambda: RestConnection(url, "/", [b"{}"], 30), 1, rate, requests, most_ms)

        deadline = time.monotonic() + MOST_S
        found = highest_rate(sustains, 0.4 / service_s, REQUESTS, lambda: time.monotonic() < deadline)
        seconds = time.perf_counter() - begun
        ours.send("the times again, please")
        services = np.random.default_rng(1).choice(ours.recv(), SIMULATED)
    finally:
        process.kill()
        process.join()

    def queue_sustains(rate: float, _requests: int) -> bool:
        return (queueing_p99(arrivals(rate, SIMULATED, 1), services) + way_s) * 1e3 <= most_ms

    truth = highest_rate(queue_sustains, 0.4 / service_s, 1)
    print(f"one request at a time, {services.mean() * 1e3:.3f} ms each and {way_s * 1e3:.3f} ms on its way,", end=" ")
    print(f"p99 at most {most_ms:g} ms")
    return found, truth, seconds


def changes(scratch: Path, backend: Backend, rounds: int, stalls: int) -> tuple[list[float], int]:
    """Rehearse sound changes and stalls; return the ratios of the seconds, and how many requests went wrong."""
    champion, candidate = exported(scratch, {1: ["training.epochs=5"], 2: ["training.epochs=15"]})
    config, now_live = live(scratch, champion)
    rehearsal = Rehearsal(config.serving, candidate, backend, scratch / "server1", config.gates, now_live)
    without, found = [], []
    for number in range(rounds):
        if number < AGAIN:
            begun = time.perf_counter()
            served = rehearse(rehearsal)
            without.append(time.perf_counter() - begun)
        found.append(changed(config, rehearsal, served))
    gates, seconds = [gate for gate, _ in found], [taken for _, taken in found]
    requests = int(sum(gate.figures["requests"] for gate in gates))
    failed = {name: int(sum(gate.figures[name] for gate in gates)) for name in ("failed", "wrong", "stale")}
    again, refused = sum(gate.evidence["rounds"] > 1 for gate in gates), sum(not gate.passed for gate in gates)
    print(f"{backend.kind}: {len(gates)} changes and as many rollbacks, {requests:,} requests: {failed}")
    print(f"{backend.kind}: rehearsed again because of noise {again}, refused {refused} of {len(gates)} sound changes")
    for name in ("change_s", "rollback_s", "p99_before_ms", "p99_change_ms", "p99_rollback_ms", "peak_mb"):
        values = [gate.figures[name] for gate in gates]
        print(f"  {name}: median {statistics.median(values):.3g}, largest {max(values):.3g}")
    usual = statistics.median(without)
    print(f"  adds {statistics.median(seconds):.2f} s (largest {max(seconds):.2f}) to {usual:.2f} s")
    if backend.kind == "embedded":
        stalling = replace(rehearsal, directory=scratch / "stalling")
        copy = stalling.directory / "change" / "digits" / f"{2:0{config.export.version_width}d}"
        seen = 0
        for _ in range(stalls):
            with stopped(copy):
                seen += changed(config, stalling, served)[0].evidence["missed"] == ["p99_ratio"]
        print(f"embedded: a stall of {STALL_S * 1e3:.0f} ms was refused for its p99 in {seen} of {stalls}")
    return [1 + taken / usual for taken in seconds], sum(failed.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="0 measures the capacity alone")
    parser.add_argument("--stalls", type=int, default=10)
    parser.add_argument("--service-ms", type=float, default=2, help="0 measures no capacity")
    parser.add_argument("--image", default="")
    add_json_option(parser)
    options = parser.parse_args()
    backend = Backend("docker", options.image) if options.image else Backend("embedded")
    found, wrong = {}, 0
    if options.rounds:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            ratios, wrong = changes(Path(scratch), backend, options.rounds, options.stalls)
        found["time of all servers with the change beside the time without it"] = ratios
    if options.service_ms:
        measured, truth, taken = capacity(options.service_ms / 1e3)
        print(f"capacity: {measured:.1f} a second, truly {truth:.1f} ({measured / truth:.3f}), in {taken:.0f} s")
        found["capacity: the larger of the measured and the true one beside the other"] = [
            max(measured / truth, truth / measured) if measured else float("inf")
        ]
    write_ratios(options.json, found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
