"""What a replay of recorded requests costs, how much memory it needs, and how often it is right.

    python -m benchmarks.replay [--requests 20000] [--counted 1000000] [--rounds 3] [--simulations 200]

The first part simulates shares that are known, and counts how often the interval holds them, how often a change of 1 %
in one of four slices is found, and how often equal or evenly changed versions raise an alarm. The second one reads and
counts a file of one-row requests of the digits example in a process of its own, with answers that no server gave, and
compares the most memory of that process with that of a tenth of the requests. The third one replays requests to two
versions in one embedded server, and compares memory likewise, and the time with that of the same requests over as many
connections, of which nothing is read or counted.
"""

import argparse
import http.client
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.digits import exported
from benchmarks.ratios import add_json_option, write_ratios
from configs.digits import load
from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.predict_body import predict_body
from tasks.gates.replay import judge_replay, new_tally
from tasks.records import Backend, Candidate, ReplayedSlice, ServedAnswers, ServedChampion, ServedReplay, ServerFacts
from tasks.replay.bodies import arrays_of
from tasks.replay.tally import Answer
from tasks.serving.launch import throwaway_server
from tasks.serving.replay import replay
from tasks.serving.streaming import CONNECTIONS, in_order

GATES = Gates()
EMBEDDED = Backend("embedded")
SHARES = ((0.01, 3000, 1), (0.2, 300, 1), (0.002, 20_000, 1), (0.05, 600, 20))  # share, requests, rows in each


def write_bodies(file: Path, requests: int) -> Path:
    """Write one-row requests with digits over and over."""
    images, _ = load()
    lines = [predict_body({"pixels": images[at : at + 1]}) for at in range(len(images))]
    with file.open("wb") as stream:
        for number in range(requests):
            stream.write(lines[number % len(lines)] + b"\n")
    return file


def replayed(candidate: Candidate, beside: Candidate, file: Path, directory: Path) -> tuple[float, float]:
    """Replay a file in this process; return the seconds, and the most resident memory in MB."""
    gates = Gates.model_validate({"replay": {"file": file}})
    facts = ServerFacts("embedded", "", "", "", "", 0, directory / "log")
    served = ServedAnswers(
        facts, candidate.signature, candidate.reference, 1, 1,
        champion=ServedChampion(beside.signature, beside.reference),
    )  # fmt: skip
    with throwaway_server(EMBEDDED, Serving(), candidate, directory / "log", beside=[beside]) as (server, _):
        tally = new_tally(gates, candidate, {}, served)
        begun = time.perf_counter()
        found = replay(tally, server, [candidate.version, beside.version], 60)
        seconds = time.perf_counter() - begun
    verdict = judge_replay(gates, found)
    print(f"{found.requests:,} requests in {seconds:.1f} s, {found.requests / seconds:,.0f}/s: {verdict.summary[:120]}")
    return seconds, most_memory()


def counted_alone(candidate: Candidate, file: Path) -> tuple[float, float]:
    """Read and count a file without a server; return the seconds, and the most resident memory in MB."""
    gates = Gates.model_validate({"replay": {"file": file}})
    facts = ServerFacts("embedded", "", "", "", "", 0, file)
    beside = ServedChampion(candidate.signature, candidate.reference)
    served = ServedAnswers(facts, candidate.signature, candidate.reference, 1, 1, champion=beside)
    tally = new_tally(gates, candidate, {}, served)
    ours, theirs = ({candidate.signature.outputs[0].name: np.eye(10, dtype=np.float32)[at : at + 1]} for at in (1, 2))
    begun = time.perf_counter()
    for request in tally.requests():
        answer = ours if request.number % 1000 == 0 else theirs
        tally.add(request, arrays_of(request, candidate.signature), Answer(answer), Answer(theirs))
    seconds, found = time.perf_counter() - begun, tally.found()
    print(f"{found.requests:,} requests counted in {seconds:.1f} s, {found.slices[0].flipped:,} of them flipped")
    return seconds, most_memory()


def most_memory() -> float:
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1000


def sent(candidate: Candidate, beside: Candidate, file: Path, directory: Path) -> float:
    """Return the seconds of the same requests to both versions, of whose answers nothing is read."""
    with throwaway_server(EMBEDDED, Serving(), candidate, directory / "log", beside=[beside]) as (server, _):
        address = urlsplit(server.rest_url)
        connections = [http.client.HTTPConnection(address.hostname or "", address.port) for _ in range(CONNECTIONS)]
        free = list(connections)

        def ask(body: bytes) -> None:
            connection = free.pop()
            for version in (beside.version, candidate.version):
                connection.request("POST", f"/v1/models/digits/versions/{version}:predict", body)
                connection.getresponse().read()
            free.append(connection)

        begun = time.perf_counter()
        for _ in in_order(ask, file.read_bytes().splitlines()):
            pass
        seconds = time.perf_counter() - begun
        for connection in connections:
            connection.close()
    return seconds


def in_child(function: partial) -> tuple[float, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def counting_ratios(candidate: Candidate, scratch: Path, requests: int) -> dict[str, list[float]]:
    """Return the ratio of the memory that counting takes."""
    few, many = (write_bodies(scratch / f"{count}.jsonl", count) for count in (requests // 10, requests))
    small, large = (in_child(partial(counted_alone, candidate, file)) for file in (few, many))
    print(f"most memory: {small[1]:.0f} MB with {requests // 10:,} requests, {large[1]:.0f} MB with {requests:,}")
    return {"memory of counting ten times as many requests": [large[1] / small[1]]}


def served_ratios(
    champion: Candidate, candidate: Candidate, scratch: Path, requests: int, rounds: int
) -> dict[str, list[float]]:
    """Return the ratios of memory and of time."""
    few, many = (write_bodies(scratch / f"{count}.jsonl", count) for count in (requests // 10, requests))
    on = partial(replayed, candidate, champion)
    small, large = (in_child(partial(on, file, scratch)) for file in (few, many))
    print(f"most memory: {small[1]:.0f} MB with {requests // 10:,} requests, {large[1]:.0f} MB with {requests:,}")
    times = []
    for _ in range(rounds):
        whole = in_child(partial(on, few, scratch))[0]
        alone = sent(candidate, champion, few, scratch)
        times.append(whole / alone)
        print(f"replayed in {whole:.1f} s, sent alone in {alone:.1f} s: {whole / alone:.2f}")
    return {"memory of ten times as many requests": [large[1] / small[1]], "time, beside sending alone": times}


def counted(flipped: np.ndarray, title: str = "") -> ReplayedSlice:
    hits, rows = flipped.sum(axis=1), flipped.shape[1]
    squares = int((hits**2).sum()), int((hits * rows).sum()), rows * rows * len(flipped)
    return ReplayedSlice(title, len(flipped), flipped.size, int(hits.sum()), squares)


def simulated(*slices: ReplayedSlice) -> ServedReplay:
    return ServedReplay("", "", 1, slices[0].rows, {}, 0, 0, 0, 0, 0, {}, slices, (), (), ())


def holds(share: float, requests: int, rows: int, seed: int) -> bool:
    """Return whether the interval of one simulation holds the true share; rows of one request are alike."""
    rng = np.random.default_rng(seed)
    own = rng.beta(share * 4, (1 - share) * 4, requests) if rows > 1 else np.full(requests, share)
    figures = judge_replay(GATES, simulated(counted(rng.random((requests, rows)) < own[:, None]))).figures
    return figures["flips_low"] <= share <= figures["flips_high"]


def refused(planted: float, elsewhere: float, rows: int, seed: int) -> list[str]:
    """Return the slices that are refused, of four with so many rows each, the first of them planted."""
    rng = np.random.default_rng(seed)
    parts = [rng.random((rows, 1)) < (planted if at == 0 else elsewhere) for at in range(4)]
    slices = [counted(part, f"slice={at}") for at, part in enumerate(parts)]
    verdict = judge_replay(GATES, simulated(counted(np.concatenate(parts)), *slices))
    return [one["slice"] for one in verdict.evidence["slices"] if not one["passed"]]


def simulations(count: int) -> Iterator[tuple[str, list[float]]]:
    """Yield the misses of the interval over those that 95 % allows, and the alarms likewise."""
    for share, requests, rows in SHARES:
        held = sum(holds(share, requests, rows, seed) for seed in range(count))
        what = f"{share:.1%} of {requests:,} requests" + (f" with {rows} rows that are alike" if rows > 1 else "")
        print(f"{what}: the interval holds in {held} of {count}")
        yield f"misses of the interval, {what}", [(count - held) / (0.05 * count)]
    for rows in (500, 1000, 2000, 5000):
        names = [refused(0.01, 0.0, rows, seed) for seed in range(count)]
        found = sum(one == ["slice=0"] for one in names)
        print(f"1 % planted in one of 4 slices of {rows:,} rows: found, and only it named, in {found} of {count}")
    alarms = [sum(bool(refused(share, share, 2000, seed)) for seed in range(count)) for share in (0.0, 0.002)]
    print(f"alarms of equal versions: {alarms[0]} of {count}; of 0.2 % other decisions everywhere: {alarms[1]}")
    yield "alarms without a difference between slices", [max(alarms) / (0.05 * count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--counted", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--simulations", type=int, default=200)
    add_json_option(parser)
    options = parser.parse_args()
    ratios = dict(simulations(options.simulations))
    scratch = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        champion, candidate = exported(scratch, {1: ["training.epochs=3"], 2: ["training.epochs=3", "seed=1"]})
        if options.counted:
            ratios |= counting_ratios(candidate, scratch, options.counted)
        if options.requests:
            ratios |= served_ratios(champion, candidate, scratch, options.requests, options.rounds)
    finally:
        shutil.rmtree(scratch)
    write_ratios(options.json, ratios)


if __name__ == "__main__":
    main()
