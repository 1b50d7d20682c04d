"""Runs a Prefect server for the duration of one command if none is configured.

Prefect can start one itself, but only when the flow begins, and it leaves the server behind if the process is killed.
This server starts while TensorFlow is imported, and ends with its parent process in every case. Its socket is opened
before it starts, so that no free port has to be found and nothing has to wait: the first request is answered as soon
as the server is ready.

Source: the environment and the application are those of `SubprocessASGIServer` in prefect/server/api/server.py (3.8).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.redaction import redact
from flows.console import say
from tasks.errors import PipelineError
from tasks.program import own_process
from tasks.waiting import waiting_for
from tasks.words import one_line

ANSWER_S = 30.0  # time limit of each of three tries with a configured API
FIRST_START_S = 180.0  # creating the temporary server's database takes a minute on a slow disk
SERVER_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "0",  # make_tables() does it
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",  # saves a second; flows register the blocks that they need
}


@contextlib.contextmanager
def prefect_server() -> Iterator[None]:
    """Provide a Prefect API within a block: the configured one, else a temporary one.

    Raises:
        PipelineError: the API does not answer, or stopped answering.
    """
    import httpx  # within the block, only Prefect's client uses it
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings

    configured = PREFECT_API_URL.value()
    url = configured or _start()
    remedy = "start it, or unset PREFECT_API_URL to use a temporary one" if configured else "run the command again"
    limit_s = ANSWER_S if configured else FIRST_START_S
    if os.environ.get("PREFECT_API_REQUEST_TIMEOUT"):
        limit_s = PREFECT_API_REQUEST_TIMEOUT.value()
    try:
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_REQUEST_TIMEOUT: limit_s}), _waits_said(url):
            yield
    except (httpx.HTTPError, RuntimeError) as exc:
        # Prefect raises a RuntimeError if the API does not answer the first request
        lost = next((link for link in (exc, exc.__cause__, exc.__context__) if isinstance(link, httpx.HTTPError)), None)
        if lost is None:
            raise
        words = one_line(f"{type(lost).__name__}: {lost}")
        raise PipelineError(f"Prefect's API at {url} must answer, got {words}; {remedy}") from exc


@contextlib.contextmanager
def _waits_said(url: str) -> Iterator[None]:
    """Print a line if Prefect's API takes long to answer a request; Prefect itself prints nothing."""
    from prefect.client.base import PrefectHttpxSyncClient

    send = PrefectHttpxSyncClient.send

    def saying(client: PrefectHttpxSyncClient, *args: Any, **options: Any) -> Any:
        with waiting_for(f"Prefect's API at {redact(url)}"):
            return send(client, *args, **options)

    PrefectHttpxSyncClient.send = saying  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        PrefectHttpxSyncClient.send = send  # type: ignore[method-assign]


def _start() -> str:
    """Start the server and return the URL of its API; the server ends when this process does.

    Raises:
        PipelineError: its database cannot be written.
    """
    _check_home()
    say("starting a temporary Prefect server")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        lifeline, _ours = os.pipe()  # our end closes when this process ends
        subprocess.Popen(
            own_process("flows.temporary_server", str(listening.fileno()), str(lifeline)),
            pass_fds=[listening.fileno(), lifeline],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not stop it before the flow has reported its end
            env={**os.environ, **SERVER_ENVIRONMENT},
        )
        os.close(lifeline)
        return f"http://127.0.0.1:{listening.getsockname()[1]}/api"


def _check_home() -> None:
    """Refuse a directory in which the server cannot keep its database; it says nothing itself."""
    from prefect.settings import PREFECT_HOME

    home: Path = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as exc:
        raise PipelineError(
            f"Prefect's directory must be writable, got '{home}': {exc.strerror}; set PREFECT_HOME to a directory of "
            "yours, or PREFECT_API_URL to a Prefect server"
        ) from exc


def serve(listening: int, lifeline: int) -> None:
    """Serve Prefect's API on an open socket until the other end of the lifeline closes."""
    import uvicorn

    def end_with_parent() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    stay_on_one_core()
    make_tables()
    uvicorn.run("prefect.server.api.server:create_app", factory=True, fd=listening, log_level="error", lifespan="on")


def stay_on_one_core() -> None:
    """Keep this process on one core: it waits for its database thread at every statement.

    With two cores, each switch between the threads wakes an idle core, and a first start takes 7.6 s instead of 4.8 s.
    """
    if hasattr(os, "sched_setaffinity"):  # on Linux
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})  # distribute servers over the cores


def make_tables() -> None:
    """Create or migrate Prefect's database, one process at a time, because two first runs would conflict."""
    from filelock import FileLock
    from prefect.server.database import provide_database_interface
    from prefect.settings import PREFECT_HOME

    home: Path = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".keras-rehearsal.lock"):
        asyncio.run(provide_database_interface().create_db())


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
