"""A reviewer's tag in MLflow starts the deployment: a real MLflow server, the receiver, a real Prefect server."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, answers, end_group, running_mlflow
from tests.markdown import Page

# MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SECRET = secrets.token_urlsafe(32)
Poll = Callable[[Callable[[], bool], float], bool]


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    """Run an MLflow server that may deliver to this machine; give its address."""
    extra = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    with running_mlflow(tmp_path_factory.mktemp("mlflow"), mlflow_database, **extra) as address:
        yield address


@pytest.fixture(scope="module")
def deployments(prefect_env: dict[str, str]) -> dict[str, str]:
    """Return two deployments that nobody works on, each with its id."""
    api = prefect_env["PREFECT_API_URL"]

    def created(path: str, **body: object) -> str:
        request = urllib.request.Request(
            f"{api}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return str(json.loads(answer.read())["id"])

    flow = created("/flows/", name="told-by-mlflow")
    return {name: created("/deployments/", name=name, flow_id=flow) for name in ("all", "numerals")}


@pytest.fixture(scope="module")
def receiver(prefect_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory, deployments: Any) -> Iterator[Any]:
    """Run the receiver on a free port; give its process and its address."""
    log = tmp_path_factory.mktemp("receiver") / "log"
    command = [sys.executable, "-u", "-m", "flows.webhook", "--port", "0", "--deployment", "told-by-mlflow/all"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--deployment", "numerals=told-by-mlflow/numerals"],
            stdout=output,
            stderr=output,
            env={**prefect_env, "REHEARSAL_WEBHOOK_SECRET": SECRET},
            start_new_session=True,
        )
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())) or not answers(f"{found[0]}health"):
        assert process.poll() is None, log.read_text()
    yield process, found[0], log
    end_group(process)


@pytest.fixture
def runs_of(deployments: dict[str, str], ask_prefect: Callable[..., Any]) -> Callable[[str], int]:
    """Return a function that counts the runs of a deployment."""

    def counting(name: str) -> int:
        wanted = {"deployments": {"id": {"any_": [deployments[name]]}}}
        return int(ask_prefect("/flow_runs/count", wanted))

    return counting


def test_a_tag_starts_the_deployment(
    mlflow: str, receiver: Any, runs_of: Callable[[str], int], wait_for: Poll, tmp_path: Path
) -> None:
    """Of all tags only a decision starts a run, of the model's own deployment where it has one."""
    from mlflow import MlflowClient

    _, address, log = receiver
    client = MlflowClient(mlflow, mlflow)
    examples = [block.text for block in Page(ROOT / "docs" / "scheduling.md").blocks if "create_webhook" in block.text]
    documented = examples[0].replace("http://127.0.0.1:5000", mlflow).replace("http://127.0.0.1:8787/", address)
    assert mlflow in documented and address in documented
    env = {**os.environ, "REHEARSAL_WEBHOOK_SECRET": SECRET}
    subprocess.run([sys.executable, "-c", documented], env=env, check=True, capture_output=True, timeout=600)
    for model in ("digits", "numerals"):
        client.create_registered_model(model)
        client.create_model_version(model, "s3://nowhere/model")
    client.set_model_version_tag("digits", "1", "review", "pending")
    client.set_model_version_tag("digits", "1", "promotion", "approved")
    client.set_model_version_tag("digits", "1", "review", "approved")
    assert wait_for(lambda: runs_of("all") == 1, 600), log.read_text()
    client.set_model_version_tag("numerals", "1", "review", "rejected")
    assert wait_for(lambda: runs_of("numerals") == 1, 600), log.read_text()
    assert runs_of("all") == 1
    assert "'digits' registry version 1 was approved: started told-by-mlflow/all (flow run " in log.read_text()
    assert SECRET not in log.read_text()


def test_another_secret_starts_nothing(
    mlflow: str, receiver: Any, runs_of: Callable[[str], int], wait_for: Poll
) -> None:
    """A webhook with another secret is answered with a 401, as MLflow's own test of a webhook shows."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow, mlflow)
    before = runs_of("all")
    wrong = client.create_webhook("wrong", receiver[1], ["model_version_tag.set"], secret="another secret of 16")
    told = client.test_webhook(wrong.webhook_id)
    assert (told.success, told.response_status) == (False, 401)
    client.delete_webhook(wrong.webhook_id)
    [right] = client.list_webhooks()
    assert client.test_webhook(right.webhook_id).response_status == 200  # an example of a tag, which is no decision
    assert runs_of("all") == before


def test_it_ends_when_it_is_told(receiver: Any) -> None:
    """SIGTERM ends the receiver with exit code 0, even if a client has sent half a request and sends no more."""
    process, address, log = receiver
    port = int(address.rpartition(":")[2].rstrip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=600) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n")
        assert client.recv(100)  # the receiver waits for the body
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 0, log.read_text()
