"""Starts the embedded server as a child process, which replaces the container if there is no Docker.

Its memory is limited like a container's: its private memory is measured twenty times a second, and a server above the
limit is killed. The kernel's limits for a process cannot be used: TensorFlow reserves 2.2 GB of addresses before it
loads anything (RLIMIT_AS), and it retries an allocation that RLIMIT_DATA refuses for ten seconds and then reports
various other errors, so that a request runs into its time limit instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tasks.errors import ServingError
from tasks.program import own_process
from tasks.serving.exits import explain_exit
from tasks.serving.pinned import AT_ONCE, PINS, pinned_config

REST_LINE = re.compile(rb"Exporting HTTP/REST API at:\S*?:(\d+)")
LOOK_S = 0.05  # between two measurements of the memory; a core can write about 150 MB in that time
GRPC_LINE = re.compile(rb"Running gRPC ModelServer at \S*?:(\d+)")


class EmbeddedServer:
    """A running embedded server (a `ThrowawayServer`)."""

    backend = "embedded"
    image = ""
    image_id = ""
    version = "embedded"
    waited_s = 0.0

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes], model_name: str) -> None:
        """Wrap a started process whose stdout and stderr are `output`."""
        self._process = process
        self._output = output
        self.served_name = self._model_name = model_name
        self._killed_at_mb = 0

    @property
    def rest_url(self) -> str:
        """Return the URL of the REST API, or an empty string before it listens."""
        found = REST_LINE.search(self._read())
        return f"http://127.0.0.1:{int(found[1])}" if found else ""

    @property
    def grpc_target(self) -> str:
        """Return the address of the gRPC API, or an empty string before it listens."""
        found = GRPC_LINE.search(self._read())
        return f"127.0.0.1:{int(found[1])}" if found else ""

    def exit_code(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._process.wait() if self._killed_at_mb else self._process.poll()

    def log(self) -> str:
        """Return everything that it has printed so far."""
        return self._read().decode(errors="replace")

    def memory_mb(self) -> float:
        """Return the resident memory, in MB; 0 if the process has ended."""
        return self._pages()[0] * os.sysconf("SC_PAGE_SIZE") / 1e6

    def limited_mb(self) -> float:
        """Return the memory that counts against its limit, in MB: the private part; 0 if the process has ended."""
        resident, files = self._pages()
        return (resident - files) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _pages(self) -> tuple[int, int]:
        """Return the number of resident pages, and how many of them are file pages; 0 if the process has ended."""
        with contextlib.suppress(OSError, ValueError):
            _, resident, files, *_ = map(int, Path(f"/proc/{self._process.pid}/statm").read_text().split())
            return resident, files
        return 0, 0

    def hold_memory(self, limit_mb: int, stop: threading.Event) -> None:
        """Kill the server if its private memory exceeds `limit_mb` MiB; return then, or when `stop` is set."""
        limit = limit_mb * 2**20 // os.sysconf("SC_PAGE_SIZE")
        while not stop.wait(LOOK_S):
            resident, files = self._pages()
            if resident - files > limit:
                self._killed_at_mb = limit_mb
                self._process.kill()
                return

    def explain_exit(self) -> ServingError:
        """Return the error that says why the server ended."""
        status = self.exit_code() or 0
        return explain_exit(
            status if status >= 0 else 128 - status, self.log(), self._model_name, oom_limit_mb=self._killed_at_mb
        )

    def ended(self) -> ServingError | None:
        """Return the error that says why the server ended, or None while it runs."""
        return None if self.exit_code() is None else self.explain_exit()

    def _read(self) -> bytes:
        return os.pread(self._output.fileno(), 2**24, 0)


@contextlib.contextmanager
def run_embedded(model_name: str, *version_dirs: Path, memory_mb: int) -> Iterator[EmbeddedServer]:
    """Run the embedded server on version directories, and stop it when the block ends.

    It also ends immediately if this process dies, because the pipe that it reads from closes.

    Args:
        model_name: the name under which the model is served. version_dirs: named like their versions.
        memory_mb: the limit of its private memory, in MiB; above it, the server is killed.
    """
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        for version_dir in version_dirs:  # only these versions, not others in the same directory
            (base / version_dir.name).symlink_to(version_dir.absolute())
        config = base / PINS
        config.write_text(pinned_config(model_name, str(base), [int(path.name) for path in version_dirs]))
        flags = (f"--model_config_file={config}", *AT_ONCE)
        yield stack.enter_context(run_embedded_with(model_name, flags, memory_mb=memory_mb))


@contextlib.contextmanager
def run_embedded_with(model_name: str, flags: Sequence[str], *, memory_mb: int) -> Iterator[EmbeddedServer]:
    """Run the embedded server with flags that say what it serves, as `run_embedded` does."""
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile())
        process = _start(flags, output, stack)
        server, stop = EmbeddedServer(process, output, model_name), threading.Event()
        holder = threading.Thread(target=server.hold_memory, args=(memory_mb, stop), daemon=True)
        holder.start()
        stack.callback(holder.join)
        stack.callback(stop.set)
        yield server


def _start(flags: Sequence[str], output: IO[bytes], stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """Start the child; `stack` stops it."""
    lifeline_read, lifeline_write = os.pipe()
    stack.callback(os.close, lifeline_write)
    command = own_process("tasks.model_server", "--port=0", "--rest_api_port=0", *flags)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[lifeline_read],
            start_new_session=True,  # a Ctrl-C in the terminal goes to the flow, which stops the server
            env={
                **os.environ,
                "REHEARSAL_LIFELINE_FD": str(lifeline_read),
                "REHEARSAL_REST_HOST": "127.0.0.1",
                # Else oneDNN's pool is limited to the machine's memory, and each allocation waits ten seconds there.
                # Source: tensorflow/core/common_runtime/mkl_cpu_allocator.h.
                "TF_MKL_ALLOC_MAX_BYTES": str(2**46),
            },
        )
    finally:
        os.close(lifeline_read)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the server immediately, like a container: no request is pending, and it has nothing to save."""
    process.kill()
    process.wait()
