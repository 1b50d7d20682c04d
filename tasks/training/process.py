"""The child process that TensorFlow works in.

Importing TensorFlow takes seconds of one core. Here it starts in a child while the parent starts Prefect on
another core, and when the child ends, its memory (a GPU's too) is free before a server needs it. The parent
names plain functions; the child runs them one after the other and sends back what they return.

    parent                          child (tasks.training.worker)
    warm_up()  ── spawn ──────────> import tensorflow
    call(f, x) ── (f, x) ─────────> f(x)
               <─ log record(s) ─── logging below `tasks`
               <─ result or error ─
    shut_down() ─ close ──────────> exit; also on SIGKILL of the parent: its end of the pipe closes
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import IO, Any, ParamSpec, TypeVar

from configs.redaction import known
from tasks.errors import PipelineError, TrainingError
from tasks.program import own_process
from tasks.waiting import SILENCE_S

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)
LONG_S = 60.0  # from which on a wait, such as for a long epoch, has a line a minute


class TensorFlowProcess:
    """One child process, ready for calls as soon as it has been started."""

    def __init__(self) -> None:
        """Start the child; it imports TensorFlow at once."""
        ours, theirs = socket.socketpair()
        # TensorFlow's start-up chatter; shown if the child dies
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        # AutoGraph leaves a source file for each function there until a tidy exit, which this child does not have
        self._scratch = tempfile.TemporaryDirectory(prefix="rehearsal-")
        with theirs:
            self._child = subprocess.Popen(
                own_process("tasks.training.worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=self._stderr,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "TMPDIR": self._scratch.name},
            )
        self._pipe = Connection(ours.detach())

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Ask the child to run `function`; fetch the answer with `result`."""
        with contextlib.suppress(BrokenPipeError):  # result() says why
            self._pipe.send((function, args, kwargs, known()))  # with what the child must not say either

    def result(self) -> Any:
        """Return the answer to the oldest open `submit`, passing the child's log records on.

        Raises:
            PipelineError: what the function raised.
            TrainingError: the child ended before it answered.
        """
        while True:
            try:
                kind, value = self._next()
            except (EOFError, ConnectionResetError):
                raise self._death() from None
            if kind == "log":
                logging.getLogger(value.name).handle(value)
            elif kind == "error":
                raise value
            else:
                return value

    def _next(self) -> Any:
        """Return the child's next message, and say that it is waited for where it is silent."""
        waited, pause = 0.0, SILENCE_S
        while not self._pipe.poll(pause):
            waited += pause
            log.info("waiting for the TensorFlow process, %g s so far", waited)
            pause = SILENCE_S if waited < LONG_S else LONG_S
        return self._pipe.recv()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._pipe.close()
        self._child.kill()
        self._child.wait()
        self._stderr.close()
        self._scratch.cleanup()

    def _death(self) -> PipelineError:
        status = self._child.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace")
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        remedy = "; the machine may be out of memory" if status == -9 else ""
        return TrainingError(f"the TensorFlow process ended before it answered ({cause}){remedy}", detail=words)


_process: TensorFlowProcess | None = None


def warm_up() -> None:
    """Start the child of this process now, so that TensorFlow is imported by the first call."""
    global _process  # noqa: PLW0603  the child belongs to the process, like its standard streams
    _process = _process or TensorFlowProcess()


def shut_down() -> None:
    """End the child of this process, if there is one."""
    global _process  # noqa: PLW0603
    if _process:
        _process.close()
    _process = None


@contextlib.contextmanager
def tensorflow_process() -> Iterator[None]:
    """Have a TensorFlow process for the length of a block."""
    warm_up()
    try:
        yield
    finally:
        shut_down()


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` in the TensorFlow process and return what it returns."""
    return submit(function, *args, **kwargs)()


def submit(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """Start `function` in the TensorFlow process; the call that is returned waits for its answer."""
    warm_up()
    assert _process
    _process.submit(function, *args, **kwargs)
    return _process.result
