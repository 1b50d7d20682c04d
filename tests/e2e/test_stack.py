"""The stack of compose.yaml on a real engine, by the commands of its run-book, in the order of a production's life."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.conftest import ROOT, free_port
from tests.markdown import Page

pytestmark = [
    pytest.mark.docker,  # No run here starts a container: the servers run already.
    # MLflow warns while it is imported and used, about the next NumPy, protobuf or Python; it is not judged here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
FILES = ("Makefile", "compose.yaml", "prefect.yaml", "deploy")
PORTS = {"PREFECT_PORT": "4200", "MLFLOW_PORT": "5000", "PRODUCTION_PORT": "8501", "PENGUINS_PORT": "8502"}
SETTLED_S = 900.0
Poll = Callable[[Callable[[], bool], float], bool]


@dataclass
class Stack:
    """A checkout in which the run-book's commands are run, with ports and images of its own."""

    directory: Path
    env: dict[str, str]

    def run(self, command: str) -> str:
        """Run a shell command in the checkout, and return what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """Return the last lines of every service."""
        logs = ["docker", "compose", "logs", "--no-color", "--tail", "30"]
        return subprocess.run(
            logs, cwd=self.directory, env=self.env, capture_output=True, text=True, timeout=300, check=False
        ).stdout

    def follow(self, page: str, **replaced: str) -> list[str]:
        """Run every command block of a page of the run-book, in its order, and return what each printed."""
        found = Page(ROOT / "docs" / "run-book" / f"{page}.md").blocks
        blocks = [block.text for block in found if block.language == "bash"]
        assert blocks
        for name, port in PORTS.items():
            blocks = [block.replace(f"127.0.0.1:{port}/", f"127.0.0.1:{self.env[name]}/") for block in blocks]
        for documented, ours in replaced.items():
            assert any(documented in block for block in blocks), documented
            blocks = [block.replace(documented, ours) for block in blocks]
        return [self.run(block) for block in blocks]

    def serves(self, name: str, port: str = "PRODUCTION_PORT") -> dict[int, str]:
        """Return number and state of each version that production reports; none while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.env[port]}/v1/models/{name}", timeout=60) as answer:
                found = json.loads(answer.read())["model_version_status"]
        except OSError:
            return {}
        return {int(status["version"]): status["state"] for status in found}

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of the history of digits."""
        text = self.run("docker compose exec -T worker cat /models/digits/.history.jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def digest(self) -> str:
        """Return the digest of the version that is live."""
        return str([line for line in self.history() if line["state"] == "live"][-1]["digest"])

    def left(self) -> list[int]:
        """Return how many containers, networks and volumes this stack has."""
        label = f"label=com.docker.compose.project={self.env['COMPOSE_PROJECT_NAME']}"
        kinds = ("ps --all", "network ls", "volume ls")
        return [len(self.run(f"docker {kind} --quiet --filter {label}").split()) for kind in kinds]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, flows_image: str) -> Iterator[Stack]:
    """Give a checkout with compose as Docker's plugin; whatever it started is removed at the end."""
    directory = tmp_path_factory.mktemp("stack")
    checkout, plugins = directory / "checkout", directory / "docker" / "cli-plugins"
    checkout.mkdir()
    for name in FILES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, checkout / name)
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(Path(sysconfig.get_path("purelib")) / "compose" / "docker-compose")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "COMPOSE_"))
    }
    made = Stack(
        checkout,
        {
            **kept,
            **{name: str(free_port()) for name in PORTS},
            "DOCKER_CONFIG": str(directory / "docker"),
            "COMPOSE_PROJECT_NAME": f"rehearsal-{uuid4().hex[:8]}",
            "FLOWS_IMAGE": flows_image,
        },
    )
    (checkout / ".env.new").write_text("")  # what an interrupted `make up` may have left
    image = os.environ.get("REHEARSAL_TEST_IMAGE", "keras-rehearsal-serving:test")
    made.run(f"make .env && echo SERVING_IMAGE={image} >>.env")
    yield made
    made.run("make down DATA=delete")
    made.run("docker image rm --no-prune keras-rehearsal-serving:next-release 2>/dev/null || true")
    assert made.left() == [0, 0, 0]


@pytest.fixture(scope="module")
def first_day(stack: Stack, wait_for: Poll) -> str:
    """Follow the page about the first day until version 1 is live, and return what its run printed."""
    import mlflow

    printed = stack.follow("first-day", **{"curl http": "true http"})  # the tag is set first, below
    assert stack.serves("digits") == {}
    address = f"http://127.0.0.1:{stack.env['MLFLOW_PORT']}"
    mlflow.MlflowClient(address, address).set_model_version_tag("digits", "1", "review", "approved")
    assert wait_for(lambda: stack.serves("digits") == {1: "AVAILABLE"}, SETTLED_S), stack.logs()
    assert wait_for(lambda: [line["state"] for line in stack.history()][-1:] == ["live"], SETTLED_S), stack.logs()
    return printed[1]


@pytest.fixture(scope="module")
def second_version(stack: Stack, first_day: str) -> list[str]:
    """Let the nightly deployment run once more and approve its version; return what each command printed."""
    del first_day
    printed = stack.run(
        "docker compose exec worker prefect deployment run train-and-serve/nightly -p 'overrides=[\"seed=1\"]' --watch"
    )
    return [printed, *stack.follow("approving")]


def test_first_day(stack: Stack, first_day: str) -> None:
    """Started, one nightly run, one tag in MLflow: production answers with version 1, and predicts."""
    import mlflow

    assert "AwaitingReview" in first_day
    body = json.dumps({"instances": [[0.0] * 64]}).encode()
    url = f"http://127.0.0.1:{stack.env['PRODUCTION_PORT']}/v1/models/digits:predict"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        assert len(json.loads(answer.read())["predictions"][0]) == 10
    address = f"http://127.0.0.1:{stack.env['MLFLOW_PORT']}"
    client = mlflow.MlflowClient(address, address)
    page = client.get_run(client.get_model_version("digits", "1").run_id).data.tags["mlflow.note.content"]
    assert "live" in page
    assert "unhealthy" not in stack.run("docker compose ps --all")
    assert "docker.sock" not in stack.run("docker compose config")


@pytest.mark.long
def test_a_second_version_is_approved_at_a_terminal(stack: Stack, second_version: list[str]) -> None:
    """The second nightly run waits, too; its number is approved by the command of the page."""
    printed, approved, found = second_version
    assert "AwaitingReview" in printed
    assert "approved by ann" in approved
    assert "NothingToDo" in found
    assert stack.serves("digits")[2] == "AVAILABLE"


@pytest.fixture(scope="module")
def rolled_back(stack: Stack, second_version: list[str]) -> list[str]:
    """Kill MLflow and Prefect and roll back by the page; return what each command printed."""
    del second_version
    stack.run("docker compose kill prefect mlflow")
    return stack.follow("rolling-back")


@pytest.mark.long
def test_a_rollback_while_nothing_else_runs(stack: Stack, rolled_back: list[str]) -> None:
    """With MLflow and Prefect dead, the bytes of version 1 are live again under number 3."""
    back, history = rolled_back
    assert "version 3 is live" in back
    assert stack.digest() == stack.history()[0]["digest"]
    assert '"ann"' in history
    assert stack.serves("digits")[3] == "AVAILABLE"


@pytest.mark.long
@pytest.mark.usefixtures("rolled_back")
def test_mlflow_and_prefect_come_back(stack: Stack) -> None:
    """Both are started by their pages, MLflow is told of the rollback, and the doctor works beside the worker."""
    printed = stack.follow("dead-mlflow")
    assert "Exited" in printed[0] or "exited" in printed[0]
    assert stack.run("docker compose exec worker find /models/digits/.outbox -type f") == ""
    printed = stack.follow("dead-prefect")
    assert "exited" in printed[0].lower()
    assert "train-and-serve/nightly" in printed[-2]
    stack.run("docker compose stop worker")
    beside = "docker compose run --rm --no-deps --entrypoint keras-rehearsal worker"
    assert beside in Page(ROOT / "docs/run-book/rolling-back.md").code_spans
    assert "'digits' is in order" in stack.run(f"{beside} doctor --config configs/digits.yaml")
    stack.run("docker compose up --detach --wait worker")


@pytest.mark.long
@pytest.mark.usefixtures("first_day")
def test_upgrading_the_server(stack: Stack) -> None:
    """The next image judges the live version's bytes, and then serves them."""
    stack.run('docker tag "$(grep ^SERVING_IMAGE .env | cut -d= -f2)" keras-rehearsal-serving:next-release')
    printed = stack.follow(
        "upgrading-the-server",
        **{"tensorflow/serving:2.20.0": "keras-rehearsal-serving:next-release", "curl http": "true http"},
    )
    assert "judged by attached" in printed[1]
    images = stack.run("docker compose ps --format '{{.Service}} {{.Image}}'")
    assert "production keras-rehearsal-serving:next-release" in images
    stack.run("docker compose exec worker keras-rehearsal doctor --config configs/digits.yaml")


@pytest.mark.long
@pytest.mark.usefixtures("first_day")
def test_adding_a_model(stack: Stack, wait_for: Poll) -> None:
    """A second model goes live on a server of its own, and the first one's is untouched."""
    before = stack.run("docker compose ps --format '{{.ID}}' production")
    stack.follow("adding-a-model", **{"curl http": "true http"})
    assert wait_for(lambda: stack.serves("penguins", "PENGUINS_PORT") == {1: "AVAILABLE"}, SETTLED_S), stack.logs()
    assert stack.run("docker compose ps --format '{{.ID}}' production") == before
    assert re.search(r"\bmaintain/daily\b", stack.run("docker compose exec worker prefect deployment ls"))


@pytest.mark.long
@pytest.mark.usefixtures("first_day")
def test_a_full_disk(stack: Stack) -> None:
    """What the page says to look at can be looked at, and the doctor finds everything in order."""
    printed = stack.follow("full-disk", **{"docker image prune --force": "true"})
    assert "InOrder" in printed[1]


@pytest.mark.long
@pytest.mark.usefixtures("first_day")
def test_moving_the_store(stack: Stack, wait_for: Poll) -> None:
    """Everything is deleted here, unpacked again as on another machine, and production answers with the same bytes."""
    digest, served = stack.digest(), stack.serves("digits")
    blocks = [
        block.text for block in Page(ROOT / "docs/run-book/moving-the-store.md").blocks if block.language == "bash"
    ]
    stack.run(blocks[0])
    stack.run("make down DATA=delete")
    assert stack.left() == [0, 0, 0]
    stack.run(blocks[1])
    assert "'digits' is in order" in stack.run(blocks[2].replace("curl http", "true http"))
    assert stack.digest() == digest
    newest = max(served)
    assert wait_for(lambda: stack.serves("digits").get(newest) == "AVAILABLE", SETTLED_S), stack.logs()
    stack.run("make down")
    assert stack.left() == [0, 0, 5]
