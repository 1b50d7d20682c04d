"""Run all benchmarks, show their ratios in one table, and say what got slower since the last committed results.

    python -m benchmarks.run [NAME...] [--image IMAGE]

Each ratio is a cost over another cost that was measured beside it in the same run, so less is better (ratios.py). The
results are written to benchmarks/results.json and docs/benchmarks.svg; commit them to compare the next run with them.
With NAMES only these benchmarks run, and the others keep their results. Exit code 1 means that a benchmark failed.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("benchmarks/results.json")
PICTURE = Path("docs/benchmarks.svg")
PACKAGES = ("tensorflow", "keras", "prefect", "mlflow", "numpy")

# The name of each benchmark, its module, and its options.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "main job": ("main_job", "--rounds", "3"),
    "main job, servers running": ("main_job", "--rounds", "3", "--servers"),
    "gates": ("gates", "--rounds", "5"),
    "validation": ("validation",),
    "change": ("change", "--rounds", "10", "--stalls", "3"),
    "embedded server": ("server_speed", "--seconds", "5"),
    "publish": ("publish", "--rounds", "3"),
    "proof": ("proof",),
    "history": ("history",),
    "object store": ("object_store", "--rounds", "3"),
    "a/b": ("ab",),
    "declared features": ("declared",),
    "streams": ("streaming", "--svg", "docs/streaming.svg"),
    "variants": ("sweep",),
    "text": ("text_memory",),
    "growing data": ("growing_data",),
    "way back": ("upgrade", "--rounds", "5"),
    "replay": ("replay", "--requests", "10000"),
}
WITH_IMAGE = ("main_job", "gates", "validation", "upgrade")

FEW_ROUNDS = 3
MARGIN, MARGIN_OF_FEW = 1.05, 1.25  # a difference below it is noise; the second one with fewer rounds than FEW_ROUNDS

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: the name in `BENCHMARKS`.
        what: what was measured.
        rounds: the ratio of each round.
        before: the rounds of the last committed results, empty if there are none.
    """

    benchmark: str
    what: str
    rounds: Sequence[float]
    before: Sequence[float]

    @property
    def verdict(self) -> str:
        """Return `slower` or `faster` if the rounds of the two runs lie apart by more than noise, else `same`."""
        if not self.before:
            return "new"
        if _lies_above(self.rounds, self.before):
            return "slower"
        return "faster" if _lies_above(self.before, self.rounds) else "same"


def _lies_above(rounds: Sequence[float], others: Sequence[float]) -> bool:
    margin = MARGIN if min(len(rounds), len(others)) >= FEW_ROUNDS else MARGIN_OF_FEW
    return min(rounds) > max(others) and statistics.median(rounds) > margin * statistics.median(others)


def compare(now: Results, before: Results) -> list[Row]:
    """Return one row for each ratio of a run, beside the one of the same words before."""
    return [
        Row(name, what, rounds, before.get(name, {}).get("ratios", {}).get(what, ()))
        for name, found in now.items()
        for what, rounds in found["ratios"].items()
    ]


def lost(now: Results, before: Results) -> list[str]:
    """Return what was measured before by a benchmark of this run, and now is not."""
    return [
        f"{name}: {what}"
        for name, found in now.items()
        for what in before.get(name, {}).get("ratios", {})
        if what not in found["ratios"]
    ]


def committed(root: Path) -> Results:
    """Return the results of the last commit; empty if there are none, or no git that could show them."""
    command = ["git", "show", f"HEAD:./{RESULTS}"]
    try:
        shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    except (subprocess.CalledProcessError, FileNotFoundError):
        return {}
    return json.loads(shown)


def run(name: str, command: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark, whose own output is shown, and return its results.

    Raises:
        subprocess.CalledProcessError: it failed.
        ValueError: it wrote no ratio.
    """
    load, begun = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "ratios.json"
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([*command, "--json", str(file)], cwd=ROOT, env=quiet, check=True)
        ratios = json.loads(file.read_text()) if file.exists() else {}
    if not ratios or not all(ratios.values()):
        raise ValueError(f"{name} wrote no ratio")
    return {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "load": round(load, 1),
        "seconds": round(time.monotonic() - begun),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "ratios": {what: [float(f"{ratio:.4g}") for ratio in rounds] for what, rounds in ratios.items()},
    }


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    shown = Table("benchmark", "cost, in times the cost beside it", "median", "range", "before", "", box=None)
    last = ""
    for row in rows:
        before = f"{statistics.median(row.before):.3g}" if row.before else "-"
        span = f"{min(row.rounds):.3g} to {max(row.rounds):.3g}" if len(row.rounds) > 1 else ""
        median = f"{statistics.median(row.rounds):.3g}"
        shown.add_row("" if row.benchmark == last else row.benchmark, row.what, median, span, before, row.verdict)
        last = row.benchmark
    return shown


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw each ratio with the range of its rounds, on a logarithmic axis, as an SVG file."""
    import matplotlib as mpl

    from tasks.report.canvas import CANDIDATE, CHAMPION, new_figure, styled

    with styled(), mpl.rc_context({"svg.hashsalt": "benchmarks"}):
        figure = new_figure(11, 0.8 + 0.24 * len(rows))
        axes = figure.subplots()
        for at, row in enumerate(rows):
            axes.plot([min(row.rounds), max(row.rounds)], [at, at], color=CANDIDATE)
            axes.plot(statistics.median(row.rounds), at, "o", color=CANDIDATE, markersize=4)
        axes.axvline(1, linewidth=0.6, color=CHAMPION)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set_yticks(range(len(rows)), [f"{row.benchmark}: {row.what}" for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        figure.supxlabel("times the cost beside it, in the same run; less is better", fontsize=8)
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})


def commands(names: Sequence[str], image: str) -> dict[str, list[str]]:
    """Return the command of each benchmark that is asked for; with an image, those that can use it come twice."""
    found = {}
    for name, (module, *options) in BENCHMARKS.items():
        if not names or name in names:
            found[name] = [sys.executable, "-m", f"benchmarks.{module}", *options]
            if image and module in WITH_IMAGE:
                found[f"{name}, container"] = [*found[name], "--image", image]
    return found


def main() -> int:
    """Run the benchmarks, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {'; '.join(BENCHMARKS)}")
    parser.add_argument("--image", default="", help="measure this image of a model server as well")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark '{unknown[0]}'; there are: {'; '.join(BENCHMARKS)}")
    now: Results = {}
    failed = []
    for name, command in commands(options.names, options.image).items():
        print(f"\n{name}: {' '.join(command[1:])}", flush=True)
        try:
            now[name] = run(name, command)
        except (subprocess.CalledProcessError, ValueError) as exc:
            failed.append(f"{name}: {exc}")
    report(now, committed(ROOT), ROOT)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def report(now: Results, before: Results, root: Path) -> None:
    """Show the results beside those before, and write them down; what did not run keeps what it had."""
    rows = compare(now, before)
    Console(width=None if sys.stdout.isatty() else 140).print("", table(rows))
    for row in rows:
        if row.verdict == "slower":
            print(
                f"slower: {row.benchmark}, {row.what}: {statistics.median(row.rounds):.3g} "
                f"instead of {statistics.median(row.before):.3g} times"
            )
    if before and all(row.verdict != "slower" for row in rows):
        print("Nothing got slower.")
    for words in lost(now, before):
        print(f"no longer measured: {words}")
    _write({**before, **now}, root)


def _write(results: Mapping[str, Any], root: Path) -> None:
    in_order = [*commands((), image="any"), *results]  # what is no longer among the benchmarks comes last
    results = {name: results[name] for name in in_order if name in results}
    (root / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    draw(compare(dict(results), {}), root / PICTURE)


if __name__ == "__main__":
    raise SystemExit(main())
