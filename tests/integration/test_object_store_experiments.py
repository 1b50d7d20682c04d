"""`flows.ab` over an object store: a real S3 server, a real `flows.sync`, a server beside it, two machines."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.loading import load_config
from configs.object_stores import directory_name
from flows import ab, rollback
from tasks.store.experiment import running
from tasks.store.history import read
from tasks.store.serving_config import MODELS_CONFIG, labels_of
from tests.integration.model_server.conftest import RunningServer, ServerStarter
from tests.integration.test_object_store import live_of
from tests.store_driver import Store

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@dataclasses.dataclass
class Machine:
    """A machine with a work_dir of its own."""

    config: Path

    @property
    def live(self) -> Path:
        return load_config(self.config).live_dir

    def run(self, given: str = "", module: object = ab) -> int:
        return int(module.main(["--config", str(self.config), *given.split()]))  # type: ignore[attr-defined]


@pytest.fixture
def store(address: str, tmp_path: Path) -> Store:
    """Have version 2 stable and version 3 the canary."""
    work_dir = tmp_path / "one"
    live = work_dir / "stores" / directory_name(address) / "m"
    store = Store(live, work_dir / "candidates" / "m", tmp_path / "aliases.json", "labels", objects=address)
    for _ in range(2):
        store.promote(store.export())
    store.make_stable()
    store.promote(store.export())
    return store


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Iterator[RunningServer]:
    """Have a server behind a sync."""
    root = tmp_path / "served"
    command = [sys.executable, "-m", "flows.sync", "--from", store.objects, "--to", str(root), "--interval", "0.2"]
    subprocess.run([*command, "--once"], check=True, capture_output=True)
    sync = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    starting = ServerStarter()
    try:
        flags = (f"--model_config_file={root / MODELS_CONFIG}", "--model_config_file_poll_wait_seconds=1")
        started = starting.start(*flags, "--allow_version_labels_for_unavailable_models=true")
        started.wait_for(lambda: started.states("m").get("3") == "AVAILABLE")
        yield started
        assert started.process.poll() is None, started.log
    finally:
        starting.stop_all()
        sync.send_signal(signal.SIGTERM)
        out, err = sync.communicate(timeout=600)
    assert (sync.returncode, "Traceback" in out + err) == (0, False), out + err


@pytest.fixture
def machines(
    address: str, tmp_path: Path, store: Store, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Machine]:
    """Return two machines with the same configuration, the second one with an empty work_dir; no server is there."""
    from mlflow import MlflowClient

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    registry = MlflowClient(tracking, tracking)
    registry.create_registered_model("m")
    run = registry.create_run(registry.create_experiment("m")).info.run_id
    for version, stored in live_of(address).versions.items():
        registry.create_model_version("m", str(tmp_path / str(version)), run_id=run, tags={"digest": stored.digest})
    found = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(
            f"name: m\nwork_dir: {name}\nmodels_root: {address}\ntracking: {{uri: '{tracking}'}}\n"
            "promote: {layout: labels, live_url: 'http://127.0.0.1:9', live_timeout_s: 0.5}\n"
        )
        found.append(Machine(file))
    return found


def label(server: RunningServer, name: str) -> int:
    """Return the version that answers to a label, or 0."""
    status, _, answer = server.request("GET", f"/v1/models/m/labels/{name}/metadata")
    return int(json.loads(answer)["model_spec"]["version"]) if status == 200 else 0


def test_an_experiment_from_machine_to_machine(
    address: str, tmp_path: Path, server: RunningServer, machines: list[Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """One machine starts an experiment, users are served it, and another machine sees, decides and ends it."""
    one, two = machines
    for each in machines:
        given = each.config.read_text().replace(":9'", f":{server.rest_port}'")
        each.config.write_text(given.replace("live_timeout_s: 0.5", "live_timeout_s: 600"))
    assert one.run("--versions 2,1 --shares 30,70 --name first --client client.py --by ann") == 0
    assert "m in experiment: first: a: version 2 (30 %), b: version 1 (70 %)" in capsys.readouterr().out
    assert [label(server, name) for name in ("a", "b", "stable", "canary")] == [2, 1, 2, 3]
    live = live_of(address)
    assert live.experiment == running(one.live)
    assert live.change is None
    assert labels_of(tmp_path / "served" / "m") == live.labels
    assert two.run() == 0
    assert "experiment first of 'm' runs" in capsys.readouterr().out
    assert two.run("--versions 1,2 --shares 50,50") == 2
    assert "only one experiment of 'm' can run, and first does" in capsys.readouterr().err
    (tmp_path / "outcomes.csv").write_text("key,version,outcome\nu1,2,1\n")
    assert two.run("--decide outcomes.csv") == 0
    assert "experiment first" in capsys.readouterr().out
    assert two.run("--to b --by bob") == 0
    live = live_of(address)
    assert (live.experiment, live.labels, live.champion) == (None, {"stable": 1, "canary": 3}, 1)
    server.wait_for(lambda: (label(server, "stable"), label(server, "a")) == (1, 0))
    assert one.run() == 0
    assert "no experiment of 'm' runs" in capsys.readouterr().out
    assert [(entry.version, entry.actor) for entry in read(one.live) if entry.state == "experiment ended"] == [
        (2, "bob"), (1, "bob"),
    ]  # fmt: skip
    assert one.run("--by ann", rollback) == 0
    server.wait_for(lambda: label(server, "stable") == 2)
    assert one.run("--versions 2,3 --shares 50,50 --name second") == 0
    assert two.run("--stop --by carl") == 0
    live = live_of(address)
    assert (live.experiment, live.change) == (None, None)
    assert not {"a", "b"} & live.labels.keys()
    server.wait_for(lambda: labels_of(tmp_path / "served" / "m") == live.labels)


def test_a_version_that_does_not_answer(
    address: str, machines: list[Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """If no server follows the store in time, the experiment does not run anywhere, and its labels are gone."""
    one, two = machines
    before = live_of(address)
    assert one.run("--versions 2,1 --shares 50,50") == 1
    assert "the experiment does not run" in " ".join(capsys.readouterr().err.split())
    live = live_of(address)
    assert (live.experiment, live.change, live.labels) == (None, None, before.labels)
    assert two.run() == 0
    assert "no experiment of 'm' runs" in capsys.readouterr().out
