"""Sweeps by the command line, on real task runners, with variants, workers and clusters that end badly.

No run here starts a container: the embedded server judges.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.report.standing import ARGUMENTS
from tests.e2e.conftest import ENDS_WITH_US, ROOT, Workspace, end_group, free_port, poll

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RATE, ENDS = "model.params.rate", "model.params.ends"
WAIT_S = 600
Cluster = tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]]


@pytest.fixture
def config(workspace: Workspace) -> Callable[..., Path]:
    """Return a function that writes the configuration of a sweep of a model of one number."""

    def writing(*variants: dict[str, Any], **sweep: Any) -> Path:
        marks = workspace.directory / "marks"
        marks.mkdir(exist_ok=True)
        values = {
            "name": "line",
            "data": {"load": "tests.data.sweep_models:line"},
            "model": {"build": "tests.data.sweep_models:build", "params": {"marks": str(marks)}},
            "training": {"epochs": 3, "patience": 0},
            "gates": {"metrics": {"rmse": {"max": 1000}}, "use": ["safety", "parity", "quality"]},
            "sweep": {"variants": list(variants), **sweep},
        }
        (workspace.directory / "cfg.yaml").write_text(yaml.safe_dump(values))
        return workspace.directory / "cfg.yaml"

    return writing


def marks(workspace: Workspace, ends: str) -> list[Path]:
    """Return a file for each process that has begun to build a variant that ends so."""
    return list((workspace.directory / "marks").glob(f"{ends}-*"))


def trained(workspace: Workspace) -> int:
    """Return how many variants are trained."""
    return len(list(workspace.work_dir.glob("sweeps/*/*/trained.json")))


def prefect_servers(workspace: Workspace) -> int:
    """Return how many Prefect servers run on the workspace's own Prefect directory."""
    found, home = 0, f"PREFECT_HOME={workspace.env['PREFECT_HOME']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            is_server = any(name in command for name in (b"flows.temporary_server", b"prefect.server", b"uvicorn"))
            found += is_server and home in environment.split(b"\0")
    return found


def left_over(session: int) -> str:
    """Return the processes of a session that have not ended, with their commands."""
    command = ["ps", "-o", "stat=,pid=,args=", "-s", str(session)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return "\n".join(line for line in found.splitlines() if not line.startswith("Z"))


@pytest.mark.long
def test_a_dask_cluster_of_two_processes(workspace: Workspace, config: Callable[..., Path]) -> None:
    """A killed worker loses only its variant, which is tried again by another, and the best one goes live.

    A variant that fails is named with its reason and not repeated. MLflow and Prefect show all variants.
    """
    path = config(
        {RATE: 0.05},
        {RATE: 0.2, ENDS: "kills the worker"},
        {ENDS: "raises"},
        runner="dask",
        runner_params={"n_workers": 2},
    )
    process = workspace.start(config=path, flow="sweep")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, out + err
    assert left_over(process.pid) == ""
    assert len(marks(workspace, "kills-the-worker")) == 2
    lines = [line.split() for line in out.splitlines()]
    board = [line for line in lines if line and line[0] in ("1:", "2:", "3:")]
    assert [line[0] for line in board] == ["2:", "1:", "3:"]
    assert board[0][-1] == "winner"
    assert "this variant cannot be built" in " ".join(board[-1])
    assert "line version 2 promoted" in out or "line version 1 promoted" in out
    assert len(workspace.versions("line")) == 1
    assert list((workspace.work_dir / "sweeps").iterdir()) == []
    _check_mlflow(workspace)
    _check_prefect(workspace)


def _check_mlflow(workspace: Workspace) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(workspace.tracking_uri, workspace.tracking_uri)
    experiment = client.get_experiment_by_name("line").experiment_id
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "sweep" in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    variants = {run.data.tags["variant"]: run for run in children if "variant" in run.data.tags}
    (judged,) = [run for run in children if "variant" not in run.data.tags]
    status = {number: (run.info.status, run.data.tags["variant_status"]) for number, run in variants.items()}
    assert status == {
        "1": ("FINISHED", "compared"),
        "2": ("FINISHED", "winner"),
        "3": ("FAILED", "failed"),
    }
    assert variants["2"].data.params[RATE] == "0.2"
    assert variants["2"].data.metrics["validation.rmse"] < variants["1"].data.metrics["validation.rmse"]
    assert variants["2"].data.metrics["loss"] > 0
    # that without the prefix is a curve of the training
    assert variants["2"].data.metrics["rmse"] != variants["2"].data.metrics["validation.rmse"]
    assert "cannot be built" in variants["3"].data.tags["reason"]
    assert judged.data.tags["serving_version"] == variants["2"].data.tags["serving_version"]
    assert f"--set {RATE}=0.2" in judged.data.tags[ARGUMENTS]  # a reviewer's commands are for the winner
    assert parent.data.tags["outcome"] == "promoted"
    assert parent.data.metrics["validation.rmse"] == variants["2"].data.metrics["validation.rmse"]
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} == {
        "leaderboard.png",
        "leaderboard.json",
    }
    assert (
        client.get_model_version_by_alias("line", "champion").tags["serving_version"] == judged.data.tags["candidate"]
    )


def _check_prefect(workspace: Workspace) -> None:
    import httpx

    asked = {"artifacts": {"key": {"any_": ["line-leaderboard"]}}}
    found = httpx.post(f"{workspace.env['PREFECT_API_URL']}/artifacts/filter", json=asked, timeout=60).json()
    assert len(found) == 1
    assert "rate 0.2" in found[0]["description"]
    for words in ("winner", "this variant cannot be built"):
        assert words in found[0]["data"]


@pytest.mark.long
def test_processes_on_this_machine(workspace: Workspace, config: Callable[..., Path]) -> None:
    """A variant whose process dies each time is given up, one without a loss is named, and the best one is judged.

    So it is with a task runner that is named by its class, whose whole pool breaks where a process is killed. It makes
    the bytes of the first sweep again, and changes nothing.
    """
    variants = ({RATE: 0.05}, {ENDS: "dies"}, {ENDS: "dies always"}, {RATE: 1e30})
    by_class = {"runner": "prefect.task_runners:ProcessPoolTaskRunner", "tries": 3}
    for number, sweep in enumerate([{}, by_class], 1):
        result = workspace.run(config=config(*variants, runner_params={"max_workers": 2}, **sweep), flow="sweep")
        assert result.returncode == 0, result.stdout + result.stderr
        tries = 2 if number == 1 else 3
        assert (
            f"variant 3 (ends dies always) failed: it must be trained before sweep.tries ({tries}) are used up"
            in result.stdout
        )
        assert "signal 9" in result.stdout
        alone = "variant 2 (ends dies) is tried again when no other one is trained, got the TensorFlow process ended"
        assert alone in result.stdout or number == 2
        assert len(marks(workspace, "dies")) >= 2 * number
        assert "variant 4 (rate 1e+30) failed: the loss must be a finite number" in result.stdout
        [live] = workspace.versions("line")  # the second sweep makes the same bytes, by another task runner
        same = f"has the bytes of version {live}, which is live; nothing was changed"
        assert (same in " ".join(result.stdout.split())) == (number == 2), result.stdout


@pytest.mark.long
def test_all_variants_fail(workspace: Workspace, config: Callable[..., Path]) -> None:
    """Where no variant can be trained nothing is judged, the reasons are shown, and the exit code is 1."""
    result = workspace.run(config=config({ENDS: "raises"}, {ENDS: "raises", RATE: 0.3}), flow="sweep")
    assert result.returncode == 1
    assert (
        "at least one variant must be trained and served, but all 2 failed; variant 1 (ends raises):" in result.stderr
    )
    assert "variant 2 (ends raises, rate 0.3): " in result.stderr
    assert workspace.versions("line") == []


@pytest.mark.long
@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_a_disk_that_is_full(workspace: Workspace, config: Callable[..., Path], runner: str) -> None:
    """A model that cannot be saved for want of space ends the sweep: no worse variant wins, and no process is left."""
    two = {"runner": runner, "runner_params": {"max_workers" if runner == "processes" else "n_workers": 2}}
    path = config({RATE: 0.2, ENDS: "has no space"}, {RATE: 0.05}, **two)
    process = workspace.start(config=path, flow="sweep")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, out + err
    assert "variant 1 (ends has no space, rate 0.2) is not known to be its own: " in err
    assert "File too large" in err and "run the same command again: it goes on where it was" in err
    assert left_over(process.pid) == ""
    assert workspace.versions("line") == []


@pytest.mark.long
def test_several_outputs_and_no_metric(workspace: Workspace, config: Callable[..., Path]) -> None:
    """Where nothing says which output is compared, the sweep ends before it trains a variant."""
    path = config({RATE: 0.05}, {RATE: 0.2})
    result = workspace.run("--set", "model.params.outputs=2", "--set", "gates.metrics={}", config=path, flow="sweep")
    assert result.returncode == 1
    assert "gates.metric_output must name the output by which variants are compared, one of y, z" in result.stderr
    assert "-- train_variants" not in result.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("runner", "number"),
    [("processes", signal.SIGINT), ("processes", signal.SIGKILL), ("dask", signal.SIGTERM), ("dask", signal.SIGKILL)],
)
def test_an_interrupted_sweep_goes_on(
    workspace: Workspace, config: Callable[..., Path], runner: str, number: signal.Signals
) -> None:
    """What was trained before an interrupt is not trained again, no process is left, and the rest is trained.

    No Prefect server is configured: all workers use the temporary one of the command.
    """
    del workspace.env["PREFECT_API_URL"]
    workspace.env["PREFECT_HOME"] = str(workspace.directory / "prefect")
    two = {"runner": runner, "runner_params": {"max_workers" if runner == "processes" else "n_workers": 2}}
    path = config({RATE: 0.05}, {ENDS: "waits"}, {ENDS: "waits", RATE: 0.2}, **two)
    first = workspace.start(config=path, flow="sweep")
    assert poll(lambda: trained(workspace) == 1 and len(marks(workspace, "waits")) == 2, WAIT_S), first.poll()
    assert prefect_servers(workspace) == 1
    os.kill(first.pid, number)
    out, err = first.communicate(timeout=WAIT_S)
    assert first.returncode == (130 if number != signal.SIGKILL else -9), out + err
    assert ("goes on where it was" in out) == (number != signal.SIGKILL)
    assert poll(lambda: left_over(first.pid) == "", 60), left_over(first.pid)
    model = next(workspace.work_dir.glob("sweeps/*/*/trained.json"))
    changed = model.stat().st_mtime_ns
    second = workspace.start(config=path, flow="sweep")
    with contextlib.suppress(FileNotFoundError):  # the sweep has ended
        assert poll(lambda: bool(marks(workspace, "waits")), WAIT_S)
        assert model.stat().st_mtime_ns == changed
    (workspace.directory / "marks" / "go").touch()
    out, err = second.communicate(timeout=WAIT_S)
    assert second.returncode == 0, out + err
    assert "going on with the sweep in" in out and ": 1 of 3 variants are trained already" in out
    assert len(marks(workspace, "")) == 1  # of the first variant


@pytest.fixture
def cluster(workspace: Workspace) -> Iterator[Cluster]:
    """Run a Dask scheduler with a worker as two programs; give its address and their processes."""
    address = f"tcp://127.0.0.1:{free_port()}"
    env = {**workspace.env, "PYTHONPATH": str(ROOT)}
    commands = [
        ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]],
        ["distributed.cli.dask_worker", address, "--nthreads", "1", "--death-timeout", "60"],
    ]
    with (workspace.directory / "dask.log").open("wb") as log:
        started = [
            subprocess.Popen(
                [*ENDS_WITH_US, sys.executable, "-m", *command, "--no-dashboard"],
                env=env, cwd=workspace.directory, stdout=log, stderr=log, start_new_session=True,
            )
            for command in commands
        ]  # fmt: skip
    assert poll(lambda: _listens(address), WAIT_S)
    yield address, started[0], started[1]
    for process in started:
        end_group(process)


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("tcp://").partition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        return False
    return True


@pytest.mark.long
def test_a_dask_scheduler_that_goes_away(workspace: Workspace, config: Callable[..., Path], cluster: Cluster) -> None:
    """Without its scheduler a sweep ends with a line that says what to do; the same command goes on where it was."""
    address, scheduler, _ = cluster
    variants = {RATE: 0.05}, {ENDS: "waits"}
    path = config(*variants, runner="dask", runner_params={"address": address})
    process = workspace.start(config=path, flow="sweep")
    assert poll(lambda: trained(workspace) == 1 and bool(marks(workspace, "waits")), WAIT_S), process.poll()
    os.kill(scheduler.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, out + err
    assert "error: sweep.runner 'dask' must train 1 more variants, got " in err
    assert "run the same command again: it goes on where it was" in err
    (workspace.directory / "marks" / "go").touch()
    again = workspace.run(
        "--set", "sweep.runner=processes", "--set", "sweep.runner_params={}", config=path, flow="sweep"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert ": 1 of 2 variants are trained already" in again.stdout


@pytest.mark.long
def test_a_dask_cluster_that_has_lost_its_workers(
    workspace: Workspace, config: Callable[..., Path], cluster: Cluster
) -> None:
    """Where the only worker goes away for good, a line says so, and after sweep.worker_timeout_s the sweep ends."""
    address, _, worker = cluster
    params = {"address": address}
    path = config({RATE: 0.05}, {ENDS: "waits"}, runner="dask", runner_params=params, worker_timeout_s=40)
    process = workspace.start(config=path, flow="sweep")
    assert poll(lambda: trained(workspace) == 1 and bool(marks(workspace, "waits")), WAIT_S), process.poll()
    end_group(worker)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, out + err
    assert "no worker trains any of the 1 variants that are left: waiting for one, " in out
    assert "error: sweep.runner 'dask' must have a worker, but for 40 s none trained any of the 1 variants" in err
    assert left_over(process.pid) == ""
