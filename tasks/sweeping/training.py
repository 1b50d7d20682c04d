"""Trains one variant of a sweep in a TensorFlow process of its own; runs wherever the task runner is.

What became of it is on the disk, where the command that runs the sweep reads it. What a task runner reports, such
as a lost worker or a cancelled future, says only that it may have to be tried again. Only one report counts: an error
that no variant can be blamed for ends the sweep, because a worse variant could win otherwise.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs.redaction import hide
from configs.schema import Config
from tasks.datasets.user_code import describe
from tasks.errors import DataError, ExportError, PipelineError, SweepStopped, TrainingError, TrainingLost
from tasks.faults import Fault, fault_of
from tasks.records import Splits
from tasks.store.sweeps import MODEL, begin_try, is_usable, read_trained, save_failed, save_trained
from tasks.training.fit import fit_model
from tasks.training.process import TensorFlowProcess


@dataclass(frozen=True, repr=False)
class Job:
    """One variant to train, as it is sent to a worker.

    A worker may print it, so its text has no configuration and no secret.

    Attributes:
        name: for people, such as `variant 3 (hidden 64)`.
        directory: of the variant, below that of the sweep. command: identifies the command that runs the sweep.
        secrets: what the worker hides in everything that it writes.
    """

    name: str
    config: Config
    splits: Splits
    directory: Path
    command: str
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    __repr__ = __str__


OWN = (TrainingError, DataError, ExportError)
"""The errors that are a variant's own, where the TensorFlow process saw no fault of the machine behind them."""
SIGN_S = 5.0  # between two signs of life of a training

_running: set[TensorFlowProcess] = set()
_ended: set[str] = set()


def train_variant(job: Job) -> None:
    """Train a variant, unless it is trained already, and record the outcome in its directory.

    Raises:
        TrainingLost: the process ended before it had trained, or has done so as often as it may; or there was not
            enough memory. Another try may succeed.
        SweepStopped: an error that is not known to be the variant's own, such as a full disk. Nothing is recorded.
        TrainingError, DataError, ExportError: the variant failed by its own error, which is recorded.
    """
    hide(job.secrets)
    if read_trained(job.directory) is not None:  # by a worker that was taken for lost
        return
    try:
        _try(job)
    except (TrainingLost, SweepStopped):
        raise
    except Exception as exc:
        fault = (exc.fault if isinstance(exc, PipelineError) else Fault.OWN) or fault_of(exc)
        if fault is Fault.MEMORY:
            lost = TrainingLost(f"there must be enough memory to train it: {words_of(exc)}")
            lost.fault = fault
            raise lost from exc
        rows = (job.splits.train, job.splits.validation, job.splits.test)
        if fault or not isinstance(exc, OWN) or not is_usable(job.directory, *rows):
            remedy = "repair the machine" if fault else "repair it, or leave this variant out"
            raise SweepStopped(
                f"only its own error may take a variant out of a sweep, and that of {job} is not known to be its own: "
                f"{words_of(exc)}; {remedy}, and run the same command again: it goes on where it was",
                getattr(exc, "detail", ""),
            ) from exc
        save_failed(job.directory, job.command, str(exc))
        raise


def _try(job: Job) -> None:
    own_try = begin_try(job.directory, job.command, job.config.sweep.tries)
    if own_try is None or job.command in _ended:
        raise TrainingLost(f"{job} is not tried again")
    begun = time.monotonic()
    with _signs_of_life(own_try, job.config.sweep.worker_timeout_s), _process(job) as process:
        trained = process.result(process.submit(fit_model, job.config, job.splits, own_try / MODEL))
    save_trained(job.directory, trained, time.monotonic() - begun)


def words_of(exc: BaseException) -> str:
    """Return an error of ours as it is, and any other one with its class."""
    return str(exc) if isinstance(exc, PipelineError) else describe(exc)


@contextlib.contextmanager
def _signs_of_life(own_try: Path, timeout_s: float) -> Iterator[None]:
    """Touch the directory of a try while it lasts, so that the command sees that some worker trains."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(min(SIGN_S, timeout_s / 4)):
            with contextlib.suppress(OSError):
                os.utime(own_try)

    threading.Thread(target=touch, name="signs of life", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def _process(job: Job) -> Iterator[TensorFlowProcess]:
    """Provide a TensorFlow process with the configured number of threads, which shares a GPU with others."""
    variables = {"TF_FORCE_GPU_ALLOW_GROWTH": os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH", "true")}
    if job.config.sweep.threads:  # Source: tensorflow/core/common_runtime/process_util.cc
        threads = str(job.config.sweep.threads)
        variables |= dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), threads)
    with contextlib.closing(TensorFlowProcess(job.name, variables)) as process:
        _running.add(process)
        if job.command in _ended:  # since it was asked
            process.kill()
        try:
            yield process
        finally:
            _running.discard(process)


def end_all(command: str) -> None:
    """Kill the trainings of a command that run in this process, so that nothing waits for them, and begin no other."""
    _ended.add(command)
    for process in list(_running):
        process.kill()
