"""The main job beside the same work done by hand, in turn, on both kinds of throwaway server.

    python -m benchmarks.main_job [--rounds 5] [--image IMAGE] [--servers]

Prints the median seconds of each and the median of the ratios, pair by pair. `--servers` starts a Prefect and an
MLflow server first, as a team has them; without it everything starts cold, with no database either.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from benchmarks.ratios import add_json_option, write_ratios

ROOT = Path(__file__).resolve().parent.parent
PREFECT, MLFLOW = 14200, 15000


def seconds(command: list[str], environment: dict[str, str]) -> float:
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - begun


def wait_for(url: str) -> None:
    for _ in range(1200):
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url} did not come up")


def start_servers(directory: Path, environment: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    tools = Path(sys.executable).parent
    commands = [
        [tools / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PREFECT)],
        [tools / "mlflow", "server", "--host", "127.0.0.1", "--port", str(MLFLOW), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{directory}/served.db", "--artifacts-destination", f"{directory}/served"],
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            list(map(str, command)), env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]  # fmt: skip
    wait_for(f"http://127.0.0.1:{PREFECT}/api/health")
    wait_for(f"http://127.0.0.1:{MLFLOW}/health")
    return started


def main(rounds: int, image: str, servers: bool, file: Path | None) -> None:
    directory = Path(tempfile.mkdtemp(prefix="benchmark-"))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": f"{directory}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    started = start_servers(directory, environment) if servers else []
    tracking = f"http://127.0.0.1:{MLFLOW}" if servers else f"sqlite:///{directory}/cold.db"
    if servers:
        environment["PREFECT_API_URL"] = f"http://127.0.0.1:{PREFECT}/api"
    job = [sys.executable, "-m", "flows.train_and_serve", "--config", "configs/digits.yaml"]
    for item in ("work_dir=" + str(directory / "work"), "models_root=" + str(directory / "models"),
                 "tracking.uri=" + tracking, "training.patience=0", "training.epochs=30"):  # fmt: skip
        job += ["--set", item]
    job += ["--set", "serving.backend=docker", "--set", f"serving.image={image}"] if image else [
        "--set", "serving.backend=embedded"]  # fmt: skip
    pairs = []
    try:
        for number in range(rounds + 1):
            if not servers:
                for name in ("prefect", "cold.db", "mlartifacts"):
                    shutil.rmtree(directory / name, ignore_errors=True)
                (directory / "cold.db").unlink(missing_ok=True)
            hand = [
                sys.executable,
                "benchmarks/by_hand.py",
                str(directory / f"hand{number}"),
                *([image] if image else []),
            ]
            pair = seconds(job, environment), seconds(hand, environment)
            if number:  # the first pair warms the page cache
                pairs.append(pair)
                print(
                    f"  main job {pair[0]:5.1f} s   by hand {pair[1]:5.1f} s   ratio {pair[0] / pair[1]:.2f}",
                    flush=True,
                )
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        shutil.rmtree(directory)
    print(
        f"{'docker' if image else 'embedded'}, {'servers running' if servers else 'cold'}, median of {rounds}: "
        f"main job {statistics.median(a for a, _ in pairs):.1f} s, "
        f"by hand {statistics.median(b for _, b in pairs):.1f} s, "
        f"ratio {statistics.median(a / b for a, b in pairs):.2f}"
    )
    write_ratios(file, {"time of the main job beside the same work by hand": [a / b for a, b in pairs]})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", default="")
    parser.add_argument("--servers", action="store_true")
    add_json_option(parser)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.image, arguments.servers, arguments.json)
