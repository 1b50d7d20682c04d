"""The deployments: a real Prefect server, work pool and worker run the flows by `prefect.yaml`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from flows import verify
from tasks.proof import keys
from tests.e2e.conftest import ROOT
from tests.kubernetes import VERSIONS, job
from tests.markdown import Page, commands

pytestmark = [
    # MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
Ask = Callable[[str, dict[str, Any]], Any]


@pytest.fixture(scope="module")
def prefect(prefect_env: dict[str, str], repository: Path) -> Callable[..., str]:
    """Return a function that runs a Prefect command in the repository and returns what it printed."""

    def running(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *args],
            cwd=repository,
            env=prefect_env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"prefect {args}: {done.stdout}{done.stderr}"
        return done.stdout

    return running


@pytest.fixture(scope="module")
def deployed(
    prefect: Callable[..., str], prefect_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Deploy as prefect.yaml says and have a worker; the worker starts in an unrelated directory."""
    prefect("work-pool", "create", "local", "--type", "process")
    prefect("deploy", "--all")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with (elsewhere / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"],
            cwd=elsewhere,
            env={**prefect_env, "PYTHONPATH": "", "PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield elsewhere
    worker.terminate()
    worker.wait(600)


@pytest.fixture
def run_deployment(
    deployed: Path, prefect: Callable[..., str], ask_prefect: Ask, tmp_path: Path, mlflow_database: Path
) -> Callable[..., Any]:
    """Return a function that runs a deployment with outputs in `tmp_path` and returns the finished flow run."""
    shutil.copyfile(mlflow_database, tmp_path / "mlflow.db")

    def running(name: str, *overrides: str, variables: str = "") -> Any:
        places = [
            f"work_dir={tmp_path / 'work'}",
            f"models_root={tmp_path / 'models'}",
            f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
            "serving.backend=embedded",
        ]
        words = f"overrides={json.dumps([*places, *overrides])}"
        extra = ("--job-variable", variables) if variables else ()
        prefect("deployment", "run", name, "--watch", "--watch-interval", "1", "-p", words, *extra)
        flow = {"name": {"any_": [name.partition("/")[0]]}}
        wanted = {
            "sort": "START_TIME_DESC",
            "limit": 1,
            "flows": flow,
            "flow_runs": {"start_time": {"is_null_": False}},
        }
        [newest] = ask_prefect("/flow_runs/filter", wanted)
        return newest

    return running


@pytest.mark.parametrize(
    ("name", "cron", "entrypoint"),
    [
        ("nightly", "30 3 * * *", "flows/train_and_serve.py:train_and_serve"),
        ("approvals", "*/10 * * * *", "flows/promote.py:promote"),
        ("daily", "0 6 * * *", "flows/maintain.py:maintain"),
    ],
)
def test_a_deployment_is_what_its_file_says(
    deployed: Path, ask_prefect: Ask, repository: Path, name: str, cron: str, entrypoint: str
) -> None:
    """A deployment has its schedule with a time zone, one run at a time, and the directory it was deployed from."""
    [found] = ask_prefect("/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    [schedule] = found["schedules"]
    assert schedule["schedule"]["cron"] == cron
    assert schedule["schedule"]["timezone"]
    assert schedule["active"]
    assert found["entrypoint"] == entrypoint
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["work_pool_name"] == "local"
    assert found["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(repository)}},
    ]


@pytest.mark.long
def test_a_worker_promotes(
    run_deployment: Callable[..., Any], deployed: Path, ask_prefect: Ask, tmp_path: Path
) -> None:
    """A run by a worker ends in a completed state named Promoted, with what the stages said in its log.

    The worker's own log shows the same lines, and none of the HTTP libraries.
    """
    run = run_deployment("train-and-serve/nightly", "training.epochs=15")
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Promoted")
    assert (tmp_path / "models" / "digits" / "1" / "saved_model.pb").is_file()
    logs = ask_prefect("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
    assert any("epoch 15/15" in entry["message"] or "epoch 10/15" in entry["message"] for entry in logs)
    printed = (deployed / "worker.log").read_text()
    assert "epoch 10/15" in printed
    assert "HTTP Request" not in printed


@pytest.fixture
def told() -> Iterator[tuple[str, Queue[bytes]]]:
    """Give the address of a server, and what is posted to it."""
    posted: Queue[bytes] = Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks/models", posted
        server.shutdown()
        thread.join()


def test_a_worker_rejects(
    run_deployment: Callable[..., Any],
    deployed: Path,
    ask_prefect: Ask,
    prefect_env: dict[str, str],
    told: tuple[str, Queue[bytes]],
    tmp_path: Path,
) -> None:
    """A run that misses an impossible bound is no crash: a completed state named Rejected that gives the reason.

    The documented automation posts that reason to the documented address.
    """
    address, posted = told
    alerts = [sys.executable, str(ROOT / "deploy" / "stack" / "alerts.py")]
    env = {**prefect_env, "ALERTS_URL": address}
    for _ in range(2):  # the second time it replaces the first
        subprocess.run(alerts, env=env, check=True, capture_output=True, timeout=600)
    named = {"automations": {"name": {"any_": ["tell of rejected models"]}}}
    assert len(ask_prefect("/automations/filter", named)) == 1
    block = "from prefect.blocks.system import Secret; Secret(value='of-a-block').save('experiment')"
    subprocess.run([sys.executable, "-c", block], env=prefect_env, check=True, capture_output=True, timeout=600)
    variables = f"env={json.dumps({'EXPERIMENT': '{{ prefect.blocks.secret.experiment }}'})}"
    bound = "gates.metrics.accuracy=1.1"
    run = run_deployment(
        "train-and-serve/nightly", "training.epochs=1", bound, "tracking.experiment=${EXPERIMENT}", variables=variables
    )
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Rejected")
    assert "accuracy" in run["state"]["message"]
    printed = (deployed / "worker.log").read_text()
    assert "epoch 1/1" in printed
    assert "HTTP Request" not in printed
    text = json.loads(posted.get(timeout=600))["text"]
    assert text == f"train-and-serve: Rejected: {run['state']['message']}"
    assert not (tmp_path / "models" / "digits" / "1").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert ("of-a-block",) in list(database.execute("SELECT name FROM experiments"))
    assert "of-a-block" not in json.dumps(run)
    assert "of-a-block" not in printed


@pytest.mark.long
def test_a_worker_acts_on_an_approval(
    run_deployment: Callable[..., Any], prefect_env: dict[str, str], tmp_path: Path
) -> None:
    """What waits after a run by a worker is promoted by the scheduled deployment once a reviewer has signed.

    A tag is not enough where a reviewer's key is listed. The worker signs the statement, which anyone can verify.
    """
    from mlflow import MlflowClient

    ann, signer = (tmp_path / name for name in ("ann.pem", "signer.pem"))
    for path in (ann, signer):
        keys.new(path)
    # Prefect's command prints parameters as Rich's markup, which reads a slash after a bracket as a closing tag.
    quick = ("training.epochs=3", "gates.metrics.accuracy=0.3", f"promote.approvers=['{ann}.pub']")
    quick += (f"promote.signing_key={signer}", f"promote.trusted_keys=['{signer}.pub']", "promote.require_proof=true")
    run = run_deployment("train-and-serve/nightly", *quick, "promote.mode=review")
    assert run["state"]["name"] == "AwaitingReview"
    assert run_deployment("promote/approvals", *quick)["state"]["name"] == "NothingToDo"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri, uri).set_model_version_tag("digits", "1", "review", "approved")
    run = run_deployment("promote/approvals", *quick)
    assert run["state"]["name"] == "NothingToDo"
    assert not (tmp_path / "models" / "digits" / "1").exists()
    places = (f"work_dir={tmp_path / 'work'}", f"models_root={tmp_path / 'models'}", f"tracking.uri={uri}")
    words = ["--version", "1", "--approve", "--by", "ann", "--key", str(ann), "--later"]
    words += [word for setting in (*places, *quick) for word in ("--set", setting)]
    command = [sys.executable, "-m", "flows.promote", "--config", str(ROOT / "configs" / "digits.yaml"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=prefect_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_deployment("promote/approvals", *quick)
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Promoted")
    live = str(tmp_path / "models" / "digits" / "1")
    assert verify.main(["--dir", live, "--key", f"{signer}.pub", "--approver", f"{ann}.pub"]) == 0


@pytest.mark.long
def test_the_documented_work_pools(prefect: Callable[..., str], ask_prefect: Ask) -> None:
    """The documented commands make the pools for Docker and Kubernetes, and their job variables are known there.

    Prefect makes valid jobs of the Kubernetes pool's template and its deployments.
    """
    blocks = [block for name in ("scheduling", "kubernetes") for block in Page(ROOT / "docs" / f"{name}.md").blocks]
    written = [words for block in blocks if not block.language for words in commands(block.text)]
    called = [
        words
        for words in written
        if (words[:3] == ["prefect", "work-pool", "create"] and "local" not in words) or "kubernetes" in " ".join(words)
    ]
    called = [[word for word in words if word != "--no-prompt"] for words in called if words[0] == "prefect"]
    assert [words[1] for words in called] == ["work-pool", "work-pool", "deploy", "deployment"]
    for words in called:
        prefect(*words[1:])

    pools = {pool["name"]: pool["base_job_template"] for pool in ask_prefect("/work_pools/filter", {})}
    examples = [yaml.safe_load(block.text) for block in blocks if block.language == "yaml"]
    work_pools = [one["work_pool"] for example in examples for one in example.get("deployments", [])]
    [docker] = [pool for pool in work_pools if pool["name"] == "docker"]
    assert set(docker["job_variables"]) <= set(pools["docker"]["variables"]["properties"])

    deployed = ask_prefect("/deployments/filter", {"deployments": {"name": {"like_": "kubernetes-"}}})
    assert {one["name"] for one in deployed} == {f"kubernetes-{name}" for name in ("nightly", "approvals", "daily")}
    for one in deployed:
        made = job(one["job_variables"], pools["kubernetes"])
        assert [validate(made, version, strict=True) for version in VERSIONS] == [*VERSIONS]
        assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "keras-rehearsal"
