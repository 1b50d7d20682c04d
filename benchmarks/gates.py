"""What the gates cost: all of them beside a champion, and a hundred thousand rows.

    python -m benchmarks.gates [--image IMAGE] [--rows 100000] [--rounds 7]

The first part validates the digits example with every gate and a live champion, and in turn with contract, parity and
quality alone and none; the difference is what the gates add to the main job. The second part validates many rows with
contract, parity and quality over REST, from the start of the server to the verdict. With an image, a container of it
serves; else the embedded server.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.digits import exported
from benchmarks.ratios import add_json_option, write_ratios
from configs.sections.gates import Gates
from configs.sections.serving import Serving
from tasks.datasets.rows import load_arrays
from tasks.gates.judge import judge, judge_files
from tasks.records import Backend, Candidate, ServedAnswers
from tasks.savedmodel.safety import read_graph
from tasks.serving.rehearsal import Rehearsal
from tasks.serving.rehearse import _phase_a, _phase_b
from tasks.store.champion import find_champion

T = TypeVar("T")
FEW = ("contract", "parity", "quality")
ACCURACY = {"accuracy": {"min": 0.9}}


def timed(seconds: dict[str, float], part: str, work: Callable[[], T]) -> T:
    begun = time.perf_counter()
    result = work()
    seconds[part] = time.perf_counter() - begun
    return result


def validate(
    gates: Gates, candidate: Candidate, backend: Backend, directory: Path, model_dir: Path
) -> tuple[dict[str, float], ServedAnswers]:
    """Do what `validate_serving` does; return the seconds of each part, and what was served."""
    seconds: dict[str, float] = {}
    graph, champion = timed(seconds, "files", lambda: (read_graph(candidate.version_dir), find_champion(model_dir)))
    results = judge_files(gates, graph, champion)
    rehearsal = Rehearsal(Serving(), candidate, backend, directory, gates, champion)
    rows = load_arrays(candidate.requests)
    served = timed(seconds, "phase A", lambda: _phase_a(rehearsal, rows))
    if champion is not None:
        alone = served
        served = timed(seconds, "phase B", lambda: _phase_b(rehearsal, champion, rows, alone))
    results += timed(seconds, "judging", lambda: judge(gates, candidate, served))
    failed = [gate.summary for gate in results if not gate.passed]
    if failed:
        raise SystemExit(f"a gate failed: {failed}")
    return {**seconds, "all": sum(seconds.values())}, served


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(run[part] for run in runs) for part in runs[0]}


def cost(candidate: Candidate, backend: Backend, scratch: Path, model_dir: Path, rounds: int) -> list[float]:
    """Validate with every gate and a champion, and with few and none, in turn; return the ratio of each pair."""
    everything, few = (
        Gates.model_validate({"metrics": ACCURACY}),
        Gates.model_validate({"metrics": ACCURACY, "use": FEW}),
    )
    many_runs, few_runs = [], []
    for _ in range(rounds + 1):  # the first of each warms the page cache
        many_runs.append(validate(everything, candidate, backend, scratch / "many", model_dir)[0])
        few_runs.append(validate(few, candidate, backend, scratch / "few", scratch / "nothing")[0])
    pairs = [(many["all"], few["all"]) for many, few in zip(many_runs[1:], few_runs[1:], strict=True)]
    added = statistics.median(many - few for many, few in pairs)
    for title, runs in (("every gate, a champion", many_runs[1:]), ("contract, parity, quality, none", few_runs[1:])):
        parts = median(runs)
        split = ", ".join(f"{part} {parts[part]:.2f}" for part in parts if part != "all")
        print(f"{backend.kind}: {title}: {parts['all']:.2f} s ({split})")
    print(f"{backend.kind}: what the gates add, median of {rounds} pairs: {added:.2f} s")
    return [many / few for many, few in pairs]


def throughput(candidate: Candidate, backend: Backend, scratch: Path, rounds: int) -> list[float]:
    """Validate many rows; the start of the server is shown apart, for it does not grow with the rows.

    Returns the time without the start over the time of asking alone, one value a round.
    """
    gates = Gates.model_validate({"metrics": ACCURACY, "use": FEW})
    rows = len(load_arrays(candidate.requests)["pixels"])
    found = [validate(gates, candidate, backend, scratch / "rows", scratch / "nothing") for _ in range(rounds)]
    seconds, served = min(found, key=lambda run: run[0]["all"])
    split = ", ".join(f"{part} {seconds[part]:.2f}" for part in seconds if part != "all")
    print(
        f"{backend.kind}: {rows:,} rows from start to verdict, best of {rounds}: {rows / seconds['all']:,.0f} rows/s "
        f"({split}, of it the start {served.server.startup_s:.2f} s); "
        f"without the start {rows / (seconds['all'] - served.server.startup_s):,.0f}; "
        f"the client {max(answers.rows_per_s for _, answers in found):,.0f}; "
        f"median {rows / median([run for run, _ in found])['all']:,.0f}, "
        f"the client {statistics.median(answers.rows_per_s for _, answers in found):,.0f}"
    )
    return [(run["all"] - answers.server.startup_s) * answers.rows_per_s / rows for run, answers in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    add_json_option(parser)
    options = parser.parse_args()
    backend = Backend("docker", options.image) if options.image else Backend("embedded")
    scratch = Path(tempfile.mkdtemp(prefix="benchmark-"))
    rows = f"{{train: 1500, validation: 500, test: {options.rows}}}"
    many = ["data.load=benchmarks.digits:tiled_and_split", f"data.params={rows}", "data.split=part"]
    try:
        short = "training.epochs=15"
        champion, candidate, large = exported(scratch, {1: ["training.epochs=5"], 2: [short], 3: [short, *many]})
        model_dir = scratch / "models" / "digits"
        shutil.copytree(champion.version_dir, model_dir / "1")
        gates = cost(candidate, backend, scratch, model_dir, options.rounds)
        verdict = throughput(large, backend, scratch, options.rounds)
    finally:
        shutil.rmtree(scratch)
    write_ratios(
        options.json,
        {
            "time with all gates and a champion beside three gates without one": gates,
            f"time to judge {options.rows:,} rows beside asking them alone": verdict,
        },
    )


if __name__ == "__main__":
    main()
