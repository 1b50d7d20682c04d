"""What A/B on real users costs: requests under a label, choosing the label, and deciding about a million outcomes.

    python -m benchmarks.ab [--outcomes 1000000] [--requests 2000] [--rounds 5] [--json FILE]

Each ratio is measured in one run, with both sides taking turns:

- requests of one row under a label, over those that name the version's number, on one embedded server;
- the report about outcomes (reading, hashing each key, grouping by key, intervals), over reading the same file with
  Python's csv module and nothing else;
- the memory that the report adds at its peak, over the size of the file.
"""

import argparse
import csv
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import add_json_option, write_ratios
from tasks.experiment.routing import arm_of
from tasks.records import Arm

HALF = Path(__file__).parents[1] / "tests/data/tfs_rest/models/half/1"
ARMS = (Arm("a", 4, "", 50), Arm("b", 5, "", 50))
NAME = "trial"
BODY = b'{"instances": [[1.0]]}'


def write_outcomes(path: Path, count: int) -> None:
    """Write an outcome for each of many keys, as the client of an experiment logs them."""
    draws = np.random.default_rng(0).random(count)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("key,version,outcome\n")
        for number, draw in enumerate(draws):
            key = f"user-{number}"
            stream.write(f"{key},{arm_of(NAME, ARMS, key).version},{int(draw < 0.1)}\n")


def read(path: Path) -> int:
    """Read every line with the csv module."""
    with path.open(encoding="utf-8", newline="") as stream:
        return sum(len(row) for row in csv.reader(stream))


def report(path: Path) -> None:
    """Make the report."""
    from tasks.experiment.decide import Question, decide, in_words
    from tasks.experiment.outcomes import read_outcomes

    in_words(decide(Question(NAME, ARMS), read_outcomes(path, NAME, ARMS)))


def seconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def added_memory(path: Path) -> int:
    """Return how many bytes the peak of a process rises by making the report, in a process of its own."""
    code = (
        "import re, sys, benchmarks.ab as ab; from pathlib import Path\n"
        "import tasks.experiment.decide, tasks.experiment.outcomes\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "small, large = map(Path, sys.argv[1:]); ab.report(small); before = peak(); ab.report(large)\n"
        "print(peak() - before)"
    )
    small = path.with_name("small.csv")
    write_outcomes(small, 1000)
    return int(subprocess.run([sys.executable, "-c", code, small, path], capture_output=True, check=True).stdout)


def ask(connection: http.client.HTTPConnection, place: str, requests: int) -> None:
    for _ in range(requests):
        connection.request("POST", f"/v1/models/half/{place}:predict", BODY)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content


def requests_ratio(requests: int, rounds: int) -> tuple[list[float], float]:
    """Return seconds under a label over those under a number in each round, and the requests/s under a label."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "models.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "half" base_path: "{HALF.parent}" model_platform: "tensorflow" '
            'model_version_policy { specific { versions: 1 } } version_labels { key: "a" value: 1 } } }'
        )
        command = [
            sys.executable, "-m", "tasks.model_server", "--port=0", "--rest_api_port=0",
            f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true",
        ]  # fmt: skip
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            line = next(line for line in server.stderr if "Exporting HTTP/REST API at:localhost:" in line)
            port = int(line.split("localhost:")[1].split()[0])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            ask(connection, "versions/1", 200)
            took: dict[str, list[float]] = {"versions/1": [], "labels/a": []}
            for _ in range(10 * rounds):  # in short turns, because the machine has other work
                for place, times in took.items():
                    times.append(seconds(lambda place=place: ask(connection, place, requests // 10)))  # type: ignore[misc]
            label, number = (
                [statistics.median(took[place][10 * turn : 10 * turn + 10]) for turn in range(rounds)]
                for place in ("labels/a", "versions/1")
            )
        finally:
            server.terminate()
            server.wait()
    return [ours / plain for ours, plain in zip(label, number, strict=True)], (requests // 10) / statistics.median(
        label
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcomes", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "outcomes.csv"
        write_outcomes(path, given.outcomes)
        report(path)  # imports scipy
        took = [(seconds(lambda: report(path)), seconds(lambda: read(path))) for _ in range(given.rounds)]
        decided, plain = (statistics.median(times) for times in zip(*took, strict=True))
        memory, size = added_memory(path), path.stat().st_size
    under_label, a_second = requests_ratio(given.requests, given.rounds)
    ratios = {
        "time of a request under a label beside one under a version": under_label,
        "time of a report beside reading its file": [ours / alone for ours, alone in took],
        "memory of a report beside the size of its file": [memory / size],
    }
    print(f"{given.outcomes:,} outcomes: report {decided:.2f} s, csv module {plain:.2f} s, {memory / 1e6:.0f} MB more")
    print(f"requests under a label: {a_second:,.0f} a second on one connection")
    for what, rounds in ratios.items():
        print(f"{what}: {statistics.median(rounds):.2f}")
    write_ratios(given.json, ratios)


if __name__ == "__main__":
    main()
