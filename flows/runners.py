"""Where the variants of a sweep are trained: a task runner of Prefect, and how it is given work.

Whether a variant is trained is read from the disk, never from what a runner reports. So a worker that was killed, a
pool that broke and a cluster that went away are the same: their variants are not trained, and are tried again.

    round   a new runner gets every variant that is not trained; one whose process was killed is submitted again at once
    ends    when each has been trained, has failed by its own error, or was tried as often as sweep.tries says
    again   if the runner went away meanwhile; a round in which none could be begun is an error
    stops   at a fault that is not known to be a variant's own, or if for a long time no worker trains any of them
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.sections.sweep import Sweep
from configs.user_code import check_reference
from tasks.datasets.user_code import describe, resolve
from tasks.errors import PipelineError, SweepStopped
from tasks.faults import Fault
from tasks.program import ROOT
from tasks.store.sweeps import read_failed, read_trained, signs_of, tries_of
from tasks.sweeping.training import Job, end_all, words_of

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

log = logging.getLogger("tasks.runners")  # below `tasks`, whose lines are shown
MakeRunner = Callable[[], "TaskRunner[Any]"]

LINE_S = 60.0  # between two lines about a long training
LOOK_S = 5.0  # between two looks at the disk, for workers whose reports are lost
IDLE_S = 15.0  # without a sign of life of any training, until a line says so
RESULT_S = 10.0  # for the words of a runner about a lost task
NO_DASK = "sweep.runner is dask, which needs the package prefect-dask: pip install 'keras-rehearsal[dask]'"
LOCAL = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
"""Defaults of a local Dask cluster: one variant for each process, no open port, and our lines in place of Dask's."""


def check_runner(sweep: Sweep) -> None:
    """Refuse a task runner that is not installed, before Prefect is imported.

    Raises:
        ConfigError: its package or class does not exist.
    """
    if sweep.runner == "dask" and importlib.util.find_spec("prefect_dask") is None:
        raise ConfigError(NO_DASK)
    if ":" in sweep.runner:
        check_reference(sweep.runner, "sweep.runner")


def runner_of(sweep: Sweep) -> MakeRunner:
    """Return a function that makes the configured task runner, after it has made one.

    Raises:
        ConfigError: it does not take sweep.runner_params, or is not a task runner.
    """
    from prefect.task_runners import TaskRunner

    check_runner(sweep)
    try:
        make = {"processes": _processes, "dask": _dask}.get(sweep.runner, _named)(sweep)
        made = make()
    except ConfigError:
        raise
    except Exception as exc:  # the class of somebody else
        raise ConfigError(f"sweep.runner '{sweep.runner}' must take sweep.runner_params, got {describe(exc)}") from exc
    if not isinstance(made, TaskRunner):
        raise ConfigError(
            f"sweep.runner must be a task runner of Prefect, got '{sweep.runner}', a {type(made).__name__}"
        )
    return make


def _processes(sweep: Sweep) -> MakeRunner:
    """Return threads of this process, each of which waits for the process of one variant.

    A pool of processes would add one that does nothing, and ends all of its processes if one of them is killed.
    """
    from prefect.task_runners import ThreadPoolTaskRunner

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = sweep.runner_params.get("max_workers", max(1, cores // max(1, sweep.threads)))
    if sweep.runner_params.keys() - {"max_workers"} or type(workers) is not int or workers < 1:
        raise ConfigError(
            f"sweep.runner_params of the runner processes may have max_workers, a whole number of at least 1, got "
            f"{dict(sweep.runner_params)}"
        )
    return lambda: ThreadPoolTaskRunner(max_workers=workers)


def _dask(sweep: Sweep) -> MakeRunner:
    from prefect_dask import DaskTaskRunner

    own = {
        name: value
        for name, value in sweep.runner_params.items()
        if name in inspect.signature(DaskTaskRunner).parameters
    }
    of_cluster = {name: value for name, value in sweep.runner_params.items() if name not in own}
    if "address" in own and of_cluster:
        raise ConfigError(
            f"sweep.runner_params has address, so the cluster is running and cannot be given {', '.join(of_cluster)}"
        )
    if not own.keys() & {"address", "cluster_class"}:
        own["cluster_kwargs"] = {**LOCAL, **own.get("cluster_kwargs", {}), **of_cluster}
    return lambda: DaskTaskRunner(**own)


def _named(sweep: Sweep) -> MakeRunner:
    try:
        found = resolve(sweep.runner, "sweep.runner", PipelineError)
    except PipelineError as exc:
        raise ConfigError(str(exc)) from exc
    return lambda: found(**sweep.runner_params)


def train_all(make_runner: MakeRunner, task: Any, jobs: Sequence[Job]) -> Mapping[str, str]:
    """Train jobs, and return the last words about each one that was begun and gave no outcome, by its name.

    Args:
        task: the Prefect task that trains one job.

    Raises:
        SweepStopped: the task runner does not begin to train any more, or has no worker; or a variant met a fault that
            is not known to be its own.
    """
    words: dict[str, str] = {}
    pending = list(jobs)
    while pending:
        begun = _begun(jobs)
        problem = ""
        try:
            with _reaching_workers(), make_runner() as runner:
                _round(runner, task, pending, words)
        except SweepStopped:
            raise
        except Exception as exc:  # noqa: BLE001  whatever a runner raises, the disk says what is trained
            problem = describe(exc)
            log.warning("the task runner stopped: %s", problem)
        pending = [job for job in pending if not _is_settled(job) and _may_be_tried(job)]
        if pending and _begun(jobs) == begun:
            problem = problem or words.get(pending[0].name, "none that was begun")
            raise SweepStopped(
                f"sweep.runner '{pending[0].config.sweep.runner}' must train {len(pending)} more variants, got "
                f"{problem}; make sure that it runs, and run the same command again: it goes on where it was"
            )
    return words


def _round(runner: TaskRunner[Any], task: Any, jobs: Sequence[Job], words: dict[str, str]) -> None:
    """Give a runner all jobs, and those that were lost again, until each future has ended.

    Those for which there was too little memory come last and alone.
    """
    ended: queue.SimpleQueue[tuple[Job, Any]] = queue.SimpleQueue()
    futures: dict[str, Any] = {}
    begun: dict[str, int] = {}
    later: list[Job] = []
    by_name = {job.name: job for job in jobs}

    def watch(job: Job, future: Any) -> None:
        futures[job.name] = future
        future.add_done_callback(lambda _: ended.put((job, future)))

    def submit(job: Job) -> None:
        begun[job.name] = tries_of(job.directory, job.command)
        watch(job, runner.submit(task, {"job": job}))

    try:
        for job in jobs:
            submit(job)
        waiting = _Waiting(jobs)
        while futures or later:
            if not futures:
                submit(later.pop(0))
            try:
                job, future = ended.get(timeout=waiting.look_s)
            except queue.Empty:
                for name in [name for name in futures if _is_settled(by_name[name])]:
                    del futures[name]
                waiting.look(len(futures))
                continue
            waiting.begin()
            if futures.get(job.name) is not future:  # an earlier try of it
                continue
            del futures[job.name]
            if _is_settled(job):
                log.info("%s has ended, %d of %d are left", job, len(futures), len(jobs))
                continue
            known, error = tries_of(job.directory, job.command), _error(future)
            if isinstance(error, SweepStopped):
                raise error
            words[job.name] = words_of(error) if error else "no answer"
            if tries_of(job.directory, job.command) > known:  # Dask repeats a task if its result was lost with a worker
                watch(job, future)
            elif tries_of(job.directory, job.command) > begun[job.name] and _may_be_tried(job):
                needs_memory = isinstance(error, PipelineError) and error.fault is Fault.MEMORY
                when = " when no other one is trained" if needs_memory else ""
                log.warning("%s is tried again%s, got %s", job, when, words[job.name])
                later.append(job) if needs_memory else submit(job)
    except BaseException as exc:
        if isinstance(exc, SweepStopped) or not isinstance(exc, Exception):  # else the runner waits for the others
            end_all(jobs[0].command)
        raise


class _Waiting:
    """Looks whether any worker trains, by the signs of life on the disk; no runner says that it has no workers."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs, self._said_at = jobs, time.monotonic()
        self._most_s = jobs[0].config.sweep.worker_timeout_s
        self.look_s = min(LOOK_S, self._most_s / 4)
        self._looked_at = self._said_at
        self.begin()

    def begin(self) -> None:
        """Count from now on: something has just happened."""
        self._signs, self._idle_s = self._seen(), 0.0

    def look(self, left: int) -> None:
        """Say how many variants are left, or for how long there was no sign of life.

        Raises:
            SweepStopped: there was none for `sweep.worker_timeout_s`.
        """
        sweep, now = self._jobs[0].config.sweep, time.monotonic()
        # While this process is stopped, such as by Ctrl-Z, so are the threads that give signs of life.
        self._idle_s += min(now - self._looked_at, 2 * self.look_s)
        self._looked_at = now
        if self._seen() != self._signs:
            self.begin()
        idle_s = self._idle_s
        if left and idle_s >= self._most_s:
            raise SweepStopped(
                f"sweep.runner '{sweep.runner}' must have a worker, but for {self._most_s:g} s none trained any of the "
                f"{left} variants that are left; start one, or raise sweep.worker_timeout_s, and run the same command "
                "again: it goes on where it was"
            )
        if idle_s >= IDLE_S and now - self._said_at >= IDLE_S:
            log.warning("no worker trains any of the %d variants that are left: waiting for one, %.0f of at most %g s",
                        left, idle_s, self._most_s)  # fmt: skip
            self._said_at = now
        elif now - self._said_at >= LINE_S:
            log.info("%d of %d variants are still to be trained", left, len(self._jobs))
            self._said_at = now

    def _seen(self) -> dict[str, tuple[tuple[str, int], ...]]:
        return {job.name: signs_of(job.directory, job.command) for job in self._jobs}


def _error(future: Any) -> BaseException | None:
    """Return what a runner says about a lost task."""
    try:
        found = future.result(timeout=RESULT_S, raise_on_failure=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # noqa: BLE001  Dask's cancelled futures raise asyncio.CancelledError
        found = exc
    return found if isinstance(found, BaseException) else None


def _is_settled(job: Job) -> bool:
    """Return whether a variant has been trained, or has failed by its own error."""
    return read_trained(job.directory) is not None or bool(read_failed(job.directory, job.command))


def _may_be_tried(job: Job) -> bool:
    return tries_of(job.directory, job.command) < job.config.sweep.tries


def _begun(jobs: Sequence[Job]) -> int:
    return sum(tries_of(job.directory, job.command) for job in jobs)


@contextlib.contextmanager
def _reaching_workers() -> Iterator[None]:
    """Tell the processes that a runner starts where Prefect's API and this project are.

    A temporary API is in no environment. They get this process's `sys.path`, in which the user's directory may be the
    first, with a `tasks.py` of the user's.
    """
    from prefect.settings import PREFECT_API_URL

    name, before, url = "PREFECT_API_URL", os.environ.get("PREFECT_API_URL"), PREFECT_API_URL.value()
    os.environ.update({name: url} if url else {})
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))
        os.environ.pop(name, None) if before is None else os.environ.update({name: before})
