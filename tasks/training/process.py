"""The child process in which TensorFlow runs.

Importing TensorFlow takes seconds of one core. It is imported in a child process while the parent starts Prefect on
another core, and when the child ends, its memory (also a GPU's) is free before a server needs it. The parent names
plain functions; the child runs them one after the other and sends back their results with the number of the question,
so that an answer which was not fetched (an interrupt, an error meanwhile) is never taken for another one.

    parent                             child (tasks.training.worker)
    warm_up()  ── spawn ─────────────> import tensorflow
    call(f, x) ── 7, (f, x) ─────────> f(x)
               <─ log record(s) ────── logging below `tasks`
               <─ 7, result or error ─
    shut_down() ─ close ─────────────> exit; also on SIGKILL of the parent: its end of the pipe closes
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import IO, Any, ParamSpec, TypeVar

from configs.redaction import known
from tasks.datasets.user_code import users_line_of_fault
from tasks.errors import TrainingLost
from tasks.faults import Fault
from tasks.program import own_process
from tasks.waiting import SILENCE_S
from tasks.words import one_line

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)
BACKEND = "tensorflow"  # also where keras.json names another one
LONG_S = 60.0  # after this time, a wait such as for a long epoch is logged once a minute


class TensorFlowProcess:
    """A child process that accepts calls as soon as it has been started."""

    def __init__(self, whose: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Start the child; it imports TensorFlow at once.

        Args:
            whose: what its log lines begin with, where several children run at the same time.
            environment: more variables for it, such as the number of TensorFlow's threads.
        """
        self._whose = whose
        chosen = os.environ.get("KERAS_BACKEND", BACKEND)
        if chosen != BACKEND:
            log.warning("KERAS_BACKEND=%s does not count here: what is served is made with %s", chosen, BACKEND)
        ours, theirs = socket.socketpair()
        # TensorFlow's start-up messages; shown if the child dies
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        # AutoGraph writes a source file for each function there, and this child does not exit normally
        self._scratch = tempfile.TemporaryDirectory(prefix="rehearsal-")
        with theirs:
            self._child = subprocess.Popen(
                own_process("tasks.training.worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=self._stderr,
                env={
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                    **os.environ,
                    "KERAS_BACKEND": BACKEND,
                    "TMPDIR": self._scratch.name,
                    **(environment or {}),
                },
            )
        self._pipe = Connection(ours.detach())
        self._questions = itertools.count(1)
        self._answers: dict[int, tuple[str, Any]] = {}  # not fetched yet, by the number of the question

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> int:
        """Ask the child to run `function`; return the number of the question, for `result`."""
        question = next(self._questions)
        with contextlib.suppress(BrokenPipeError):  # result() says why
            self._pipe.send((question, function, args, kwargs, known()))  # with the secrets that the child must hide
        return question

    def result(self, question: int) -> Any:
        """Return the answer to a question, once, and pass on the child's log records.

        Raises:
            PipelineError: the error that the function raised.
            TrainingLost: the child ended before it answered.
        """
        while question not in self._answers:
            try:
                number, kind, value = self._next()
            except (EOFError, ConnectionResetError):
                raise self._death() from None
            if kind == "log":
                value.msg = f"{self._whose}: {value.msg}" if self._whose else value.msg
                logging.getLogger(value.name).handle(value)
            else:
                self._answers[number] = kind, value
        kind, value = self._answers.pop(question)
        if kind == "error":
            raise value
        return value

    def _next(self) -> Any:
        """Return the child's next message, and log every few seconds that it is waited for."""
        waited, pause = 0.0, SILENCE_S
        while not self._pipe.poll(pause):
            waited += pause
            log.info("waiting for the TensorFlow process%s, %g s so far", self._whose and f" of {self._whose}", waited)
            pause = SILENCE_S if waited < LONG_S else LONG_S
        return self._pipe.recv()

    def kill(self) -> None:
        """Kill the child from any thread; the caller that waits for its result gets `TrainingLost`."""
        self._child.kill()

    def close(self) -> None:
        """Kill the child."""
        self._pipe.close()
        self._child.kill()
        self._child.wait()
        self._stderr.close()
        self._scratch.cleanup()

    def _death(self) -> TrainingLost:
        status = self._child.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace")
        raised = words.rstrip().rpartition("\n")[2] if "Traceback (most recent call last)" in words else ""
        cause = f"signal {-status}" if status < 0 else f"exit status {status}{raised and f', {one_line(raised)}'}"
        remedy = "; the machine may be out of memory" if status == -signal.SIGKILL else ""
        place = users_line_of_fault(words)
        at = f" at {place}" if place else ""
        lost = TrainingLost(f"the TensorFlow process ended before it answered ({cause}{at}){remedy}", detail=words)
        lost.fault = Fault.MEMORY if status == -signal.SIGKILL else Fault.OWN  # by which Linux frees memory
        return lost


_process: TensorFlowProcess | None = None


def warm_up() -> None:
    """Start the child of this process now, so that TensorFlow is imported before the first call."""
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
    """Provide a TensorFlow process within a block."""
    warm_up()
    try:
        yield
    finally:
        shut_down()


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` in the TensorFlow process and return its result."""
    return submit(function, *args, **kwargs)()


def submit(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """Start `function` in the TensorFlow process, and return a function that waits for its result."""
    warm_up()
    assert _process
    return functools.partial(_process.result, _process.submit(function, *args, **kwargs))
