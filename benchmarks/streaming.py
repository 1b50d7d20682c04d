"""The main job on a stream of rows: its memory must not grow with their number, and its time linearly.

    python -m benchmarks.streaming [--rows 10000 300000 1000000] [--json FILE] [--svg FILE]

Each run trains, exports, serves, judges and promotes a model of 64 float32 features on the embedded server, from a
generator that makes its rows in batches. Memory is the resident memory (VmRSS) of the process of the flow and of the
TensorFlow process together, read every 20 ms; the highest sum counts. Its part without pages of files (RssAnon) is
shown, too, because the kernel takes such pages back when memory is short.
"""

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ratios import add_json_option, write_ratios

CONFIG = """
name: streamed
data: {load: configs.streamed:load, params: {rows: ROWS}}
model: {build: configs.streamed:build}
training: {epochs: 2, batch_size: 256}
serving: {backend: embedded}
gates: {metrics: {accuracy: 0.6}, latency: {max_p95_ms: 10000}}
"""


@dataclass(frozen=True)
class Run:
    """One run: MB at the highest sum, the highest sum without pages of files, seconds, and seconds of processors."""

    rows: int
    peak_mb: float
    anonymous_mb: float
    seconds: float
    cpu_s: float


def measured(rows: int) -> Run:
    """Run the main job on so many rows in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="streaming-") as scratch:
        directory = Path(scratch)
        (directory / "cfg.yaml").write_text(CONFIG.replace("ROWS", str(rows)))
        command = [sys.executable, "-m", "flows.train_and_serve", "--config", str(directory / "cfg.yaml")]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PREFECT_HOME": str(directory / "prefect")}
        begun, used, peak, anonymous = time.monotonic(), cpu_seconds(), 0.0, 0.0
        with (directory / "output").open("w+b") as output:
            flow = subprocess.Popen(command, cwd=directory, env=env, stdout=output, stderr=subprocess.STDOUT)
            while flow.poll() is None:
                found = [memory_mb(pid) for pid in (flow.pid, *tensorflow_children(flow.pid))]
                peak = max(peak, sum(resident for resident, _ in found))
                anonymous = max(anonymous, sum(own for _, own in found))
                time.sleep(0.02)
            output.seek(0)
            words = output.read().decode()
        if flow.returncode:
            raise SystemExit(f"the run on {rows} rows ended with {flow.returncode}:\n{words[-3000:]}")
        return Run(rows, peak, anonymous, time.monotonic() - begun, cpu_seconds() - used)


def cpu_seconds() -> float:
    """Return the seconds of processors that ended children, and theirs, have used; another load does not count."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def tensorflow_children(pid: int) -> list[int]:
    """Return the TensorFlow processes among the children of a process."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    if b"tasks.training.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(int(child))
    return found


def memory_mb(pid: int) -> tuple[float, float]:
    """Return VmRSS and RssAnon of a process in MB; 0 after its end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return tuple(int(fields.get(name, "0").split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore


def draw(runs: list[Run], file: Path) -> None:
    """Write memory and seconds over the number of rows as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "streaming"
    from matplotlib.figure import Figure

    figure = Figure((8, 3.2), layout="constrained")
    rows = [run.rows for run in runs]
    for axes, values, title in zip(
        figure.subplots(1, 2),
        ([run.peak_mb for run in runs], [run.cpu_s for run in runs]),
        ("peak memory, MB", "processor time, s"),
        strict=True,
    ):
        axes.plot(rows, values, marker="o")
        axes.set(xlabel="rows", title=title, ylim=(0, max(values) * 1.15))
        axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 300_000, 1_000_000])
    add_json_option(parser)
    parser.add_argument("--svg", type=Path, help="draw memory and time in this file")
    options = parser.parse_args()
    runs = []
    for rows in sorted(options.rows):
        runs.append(run := measured(rows))
        print(
            f"{run.rows:>9,} rows: peak {run.peak_mb:6.0f} MB, {run.anonymous_mb:6.0f} MB without pages of files, "
            f"{run.seconds:6.1f} s, {run.cpu_s:6.1f} s of processors",
            flush=True,
        )
    first, last = runs[0], runs[-1]
    print(f"{last.rows:,} rows take {last.peak_mb - first.peak_mb:.0f} MB more than {first.rows:,}")
    # what a row costs beyond the smallest run, in the largest run over the one in the middle
    middle = runs[len(runs) // 2]
    slope = (last.cpu_s - first.cpu_s) / max(last.rows - first.rows, 1)
    of_middle = (middle.cpu_s - first.cpu_s) / max(middle.rows - first.rows, 1)
    ratios = {
        f"most memory of a run on {last.rows:,} rows beside {first.rows:,}": [last.peak_mb / first.peak_mb],
        "processor time of a further row in the largest run beside the middle one": [slope / of_middle],
    }
    for name, [ratio] in ratios.items():
        print(f"{name}: {ratio:.2f}")
    write_ratios(options.json, ratios)
    if options.svg:
        draw(runs, options.svg)


if __name__ == "__main__":
    main()
