"""The command line in a subprocess, in a directory of its own, against one Prefect server for the whole tier."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ENDS_WITH_US

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 600.0
CHROMIUM_ARGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no page may need the internet
)


def poll(happened: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether something came to hold before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def answers(url: str) -> bool:
    """Return whether a GET is answered with a 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started as the leader of its group, and its children: politely, then for sure."""
    for number, timeout_s in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def start_server(command: Sequence[str], health: str, log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a server in a group of its own and wait until it answers."""
    bound = [*ENDS_WITH_US, *command]
    with log.open("wb") as output:
        process = subprocess.Popen(bound, stdout=output, stderr=output, env=env, start_new_session=True)
    if not poll(lambda: process.poll() is not None or answers(health), START_TIMEOUT_S) or process.poll() is not None:
        end_group(process)
        pytest.fail(f"{command} does not answer at {health}:\n{log.read_text(errors='replace')[-3000:]}")
    return process


def clean_environment(home: Path) -> dict[str, str]:
    """Return the environment without what the developer set for Prefect and MLflow, with a Prefect home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def prefect_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run one Prefect server for all command lines of the tier; give the environment that reaches it."""
    directory = tmp_path_factory.mktemp("prefect")
    env = clean_environment(directory / "home")
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    api_url = f"http://127.0.0.1:{port}/api"
    pages = {**env, "PREFECT_UI_API_URL": api_url}  # its pages would ask port 4200, whatever --port says
    process = start_server(command, f"{api_url}/health", directory / "server.log", pages)
    yield {**env, "PREFECT_API_URL": api_url}
    end_group(process)


@contextlib.contextmanager
def running_mlflow(directory: Path, empty: Path, **extra: str) -> Iterator[str]:
    """Run an MLflow server on a copy of an empty database; it keeps the artifacts, too. Give its address.

    Args:
        extra: more environment variables.
    """
    shutil.copyfile(empty, directory / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    address = f"http://127.0.0.1:{port}"
    env = {**clean_environment(directory), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **extra}  # as in compose.yaml
    process = start_server(command, f"{address}/health", directory / "server.log", env)
    try:
        yield address
    finally:
        end_group(process)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    """Give the address of an MLflow server."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow"), mlflow_database) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Run the system's Chromium, headless, with names resolved to nothing; give playwright's browser.

    For a module, not the session: while playwright runs, asyncio takes this thread's loop for a running one.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=120_000)  # milliseconds; on a busy machine MLflow takes 20 s for its first page
    found = shutil.which("chromium")
    if found is None:
        pytest.fail("These tests open pages in a browser, and there is no 'chromium' on the PATH: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(CHROMIUM_ARGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def flows_image() -> str:
    """Return the image of the pipeline, which the suite does not build; `.ci/run` builds it while the suite begins."""
    name = os.environ.get("REHEARSAL_FLOWS_IMAGE", "")
    if not name:
        reason = "REHEARSAL_FLOWS_IMAGE does not name the image of the Dockerfile's target flows"
        pytest.fail(reason) if os.environ.get("REQUIRE_DOCKER") == "1" else pytest.skip(reason)
    inspect = ["docker", "image", "inspect", name]
    if not poll(lambda: subprocess.run(inspect, capture_output=True, check=False).returncode == 0, START_TIMEOUT_S):
        pytest.fail(f"the engine has no image '{name}', as REHEARSAL_FLOWS_IMAGE names it")
    return name


@contextlib.contextmanager
def built_image(files: Mapping[str, str]) -> Iterator[str]:
    """Build an image of files, a Dockerfile among them, give its id, and remove it."""
    import docker

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    with contextlib.closing(docker.from_env()) as client:
        built, _ = client.images.build(fileobj=io.BytesIO(archive.getvalue()), custom_context=True, rm=True)
        yield str(built.id)
        client.images.remove(built.id, force=True)


@dataclass
class Workspace:
    """A user's directory: the command line runs in it, and everything that a run writes lies in it."""

    directory: Path
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def work_dir(self) -> Path:
        return self.directory / "work"

    @property
    def models_root(self) -> Path:
        return self.directory / "models"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.directory / 'mlflow.db'}"

    def arguments(self, *args: str, config: Path | None = None, flow: str = "train_and_serve") -> list[str]:
        """Return the command of a flow whose every output lies in this directory."""
        places = {
            "work_dir": self.work_dir,
            "models_root": self.models_root,
            "tracking.uri": self.tracking_uri,
            "serving.backend": "embedded",
            "gates.change": "{seconds: 0.2, max_p99_ratio: 0}",  # a second in each run that is about something else
        }
        overrides = [word for key, value in places.items() for word in ("--set", f"{key}={value}")]
        path = config or ROOT / "configs" / "digits.yaml"
        return [sys.executable, "-m", f"flows.{flow}", "--config", str(path), *overrides, *args]

    def run(
        self, *args: str, config: Path | None = None, flow: str = "train_and_serve"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line, by default the main job, to its end."""
        return subprocess.run(
            self.arguments(*args, config=config, flow=flow),
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def start(self, *args: str, config: Path | None = None, flow: str = "train_and_serve") -> subprocess.Popen[str]:
        """Start a command line in a process group of its own, as a terminal does."""
        process = subprocess.Popen(
            self.arguments(*args, config=config, flow=flow),
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def versions(self, name: str = "digits") -> list[int]:
        """Return the numbers that lie in production's directory."""
        directory = self.models_root / name
        return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())

    def history(self, name: str = "digits") -> list[tuple[int, str]]:
        """Return version and state of every line of the history."""
        lines = (self.models_root / name / ".history.jsonl").read_text().splitlines()
        return [(entry["version"], entry["state"]) for entry in map(json.loads, lines)]

    def registry(self, name: str = "digits") -> tuple[dict[str, int], list[Any]]:
        """Return aliases and versions, the oldest first, as MLflow has them."""
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking_uri, self.tracking_uri)
        aliases = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
        return aliases, sorted(client.search_model_versions(f"name = '{name}'"), key=lambda found: int(found.version))

    def tag(self, number: int, **tags: str) -> None:
        """Set tags of a model version as MLflow's pages do."""
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking_uri, self.tracking_uri)
        for key, value in tags.items():
            client.set_model_version_tag("digits", str(number), key, value)

    def tree(self, directory: Path | None = None) -> dict[str, str]:
        """Return path to content (as a hash) of everything below a directory; empty where there is none."""
        base = directory or self.directory
        return {
            path.relative_to(base).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "directory"
            for path in sorted(base.rglob("*"))
        }


@pytest.fixture(scope="session")
def open_workspace(prefect_env: dict[str, str], mlflow_database: Path) -> Iterator[Callable[[Path], Workspace]]:
    """Open directories as workspaces with MLflow's tables; whatever was started in them ends with the tests."""
    opened: list[Workspace] = []

    def opening(directory: Path) -> Workspace:
        shutil.copyfile(mlflow_database, directory / "mlflow.db")
        opened.append(Workspace(directory, dict(prefect_env)))
        return opened[-1]

    yield opening
    for process in [process for workspace in opened for process in workspace.started]:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def workspace(tmp_path: Path, open_workspace: Callable[[Path], Workspace]) -> Workspace:
    """Return an empty workspace."""
    return open_workspace(tmp_path)


@dataclass
class ModelServer:
    """A production server, the embedded one, on a port that is known before it starts."""

    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *flags: str) -> None:
        """Start it; it answers when its first version is loaded."""
        command = [*ENDS_WITH_US, sys.executable, "-m", "tasks.model_server", "--port=0"]
        command += [f"--rest_api_port={self.port}", "--file_system_poll_wait_seconds=1", "--max_num_load_retries=0"]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *flags],
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(ROOT), "REHEARSAL_REST_HOST": "127.0.0.1"},
                start_new_session=True,
            )

    def watch(self, model_dir: Path) -> None:
        """Start it on one model's directory."""
        self.start(f"--model_name={model_dir.name}", f"--model_base_path={model_dir}")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            end_group(self.process)
            self.process = None

    def ask(self, path: str = "", body: bytes | None = None, name: str = "digits") -> tuple[int, Any]:
        """Return status and answer; status 0 if nobody listens."""
        request = urllib.request.Request(f"{self.url}/v1/models/{name}{path}", body)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())
        except OSError:
            return 0, None

    def serving(self, name: str = "digits") -> list[int]:
        """Return the versions that are AVAILABLE."""
        status, found = self.ask(name=name)
        listed = found["model_version_status"] if status == 200 else []
        return sorted(int(one["version"]) for one in listed if one["state"] == "AVAILABLE")

    def comes_to_serve(self, *versions: int, name: str = "digits") -> bool:
        """Return whether exactly these versions come to be AVAILABLE."""
        return poll(lambda: self.serving(name) == sorted(versions), 600)


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ModelServer]]:
    """Open model servers; they end with the module."""
    opened: list[ModelServer] = []

    def opening() -> ModelServer:
        opened.append(ModelServer(tmp_path_factory.mktemp("server") / "server.log"))
        return opened[-1]

    yield opening
    for server in opened:
        server.stop()


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, open_workspace: Callable[[Path], Workspace]) -> Workspace:
    """Return one user's workspace for a whole module."""
    return open_workspace(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool], float], bool]:
    """Return the poller."""
    return poll


@pytest.fixture
def ask_prefect(prefect_env: dict[str, str]) -> Callable[[str, dict[str, object]], object]:
    """Return a function that posts to the Prefect server's interface."""

    def asking(path: str, body: dict[str, object]) -> object:
        request = urllib.request.Request(
            f"{prefect_env['PREFECT_API_URL']}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())

    return asking


@pytest.fixture
def unused_address() -> Iterator[str]:
    """Return an address of loopback that is held for the test and refuses every connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
