"""A model server that watches a shared directory, as others start it beside a run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ENDS_WITH_US

ROOT = Path(__file__).parents[1]
NO_MODELS = "model_config_list {}\n"
TIMEOUT_S = 300.0
KEPT = {"models.config", ".rehearsal.lock"}  # what is in the directory between two runs


def wait_until(happened: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class SharedServer:
    """The embedded server on a directory's models.config, at the same ports whenever it is started.

    Attributes:
        directory: the shared directory as a run sees it.
    """

    directory: Path
    seen_as: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "models.config").write_text(NO_MODELS)
        self.rest_port, self.grpc_port = free_port(), free_port()
        self.url, self.log = f"http://127.0.0.1:{self.rest_port}", self.directory.with_name("server.log")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of `serving` that use it."""
        attached = {"url": self.url, "grpc": f"127.0.0.1:{self.grpc_port}", "directory": self.directory}
        seen_as = {"seen_as": str(self.seen_as)} if self.seen_as else {}
        return {"backend": "attached", "attached": {**attached, **seen_as, "lock_timeout_s": TIMEOUT_S}}

    @property
    def overrides(self) -> list[str]:
        """Return these settings as arguments of a command line."""
        attached = self.settings["attached"]
        pairs = [("backend", "attached"), *((f"attached.{name}", value) for name, value in attached.items())]
        return [word for key, value in pairs for word in ("--set", f"serving.{key}={value}")]

    def start(self) -> SharedServer:
        """Start it, and wait until it answers."""
        config = (self.seen_as or self.directory) / "models.config"
        command = [*ENDS_WITH_US, sys.executable, "-m", "tasks.model_server", f"--port={self.grpc_port}"]
        command += [f"--rest_api_port={self.rest_port}", f"--model_config_file={config}", "--max_num_load_retries=0"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "REHEARSAL_REST_HOST": "127.0.0.1"}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--model_config_file_poll_wait_seconds=1"],
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
        wait_until(self.listens)
        return self

    def listens(self) -> bool:
        """Return whether something listens at its port."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.rest_port), 60):
            return True
        return False

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def status(self, name: str) -> int:
        """Return the HTTP status of the question for a model's state."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models/{name}", timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    @property
    def models(self) -> list[str]:
        """Return the names of the models that are in the directory."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir())

    @property
    def is_empty(self) -> bool:
        """Return whether nothing of any run is left in the directory."""
        left = {path.name for path in self.directory.iterdir()} - KEPT
        return not left and (self.directory / "models.config").read_text() == NO_MODELS
