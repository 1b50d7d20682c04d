"""What all stages share: retries, no caching, and time measurement."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from configs.redaction import clean, redact
from configs.schema import Config
from tasks.errors import PipelineError
from tasks.records import Candidate
from tasks.store.leftovers import begin_run

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)
PROGRESS_S = 2.0
_seconds: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)


@contextlib.contextmanager
def stage_clock() -> Iterator[dict[str, float]]:
    """Collect the seconds of each stage that runs in the block, by its name."""
    seconds: dict[str, float] = {}
    token = _seconds.set(seconds)
    try:
        yield seconds
    finally:
        _seconds.reset(token)


def stage(function: Callable[P, R]) -> Task[P, R]:
    """Make a function a task that is timed, never cached, and retried only if a retry may succeed.

    Nothing is cached, because a cached rehearsal would prove nothing.
    """

    @functools.wraps(function)
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        with timed_as(function.__name__), _cleaned(function.__name__):
            return function(*args, **kwargs)

    policy = task(retries=2, retry_delay_seconds=[1, 5], retry_condition_fn=can_be_mended, cache_policy=NO_CACHE)
    return policy(timed)


def side_task(function: Callable[P, R]) -> Task[P, R]:
    """Make a function a task that runs beside others of its kind: its caller measures the time of all, and retries."""

    @functools.wraps(function)
    def cleaned(*args: P.args, **kwargs: P.kwargs) -> R:
        with _cleaned(function.__name__):
            return function(*args, **kwargs)

    return task(cache_policy=NO_CACHE, persist_result=False)(cleaned)


@contextlib.contextmanager
def timed_as(name: str) -> Iterator[None]:
    """Log that a stage begins, and add its seconds to those of its name."""
    log.info("-- %s", name)
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds = _seconds.get()
        if seconds is not None:
            seconds[name] = seconds.get(name, 0) + time.monotonic() - begun


@contextlib.contextmanager
def _cleaned(name: str) -> Iterator[None]:
    """Remove secrets from an error, and log one that may pass."""
    try:
        yield
    except Exception as exc:
        clean(exc)  # Prefect stores the message
        if isinstance(exc, PipelineError) and exc.retryable:
            log.warning("%s: %s", name, exc)  # a retry must be visible
        if redact(str(exc)) != str(exc):  # a library's error that composes its message in __str__
            raise PipelineError(redact(f"{type(exc).__name__}: {exc}")) from None
        raise


def new_run_dir(config: Config, *uses: str) -> Path:
    """Create a directory for the files of one run of this process, and remove what earlier runs left.

    Args:
        uses: paths that the run reads, which may be among what an earlier run left; empty ones are ignored.
    """
    return begin_run(config, uses=tuple(filter(None, uses)))


def again_run_dir(config: Config, candidate: Candidate) -> Path:
    """Create another directory for a candidate that is judged again; that of its own run is still needed."""
    name = f"{candidate.run_id}-again-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    return begin_run(config, name, digests=(candidate.digest,))


def artifact_key(name: str) -> str:
    """Return a model's name in the form of Prefect's artifact keys: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


@contextlib.contextmanager
def progress_shown(key: str, description: str) -> Iterator[None]:
    """Show the progress of a stage on Prefect's page: the stage logs it with `extra={"progress": share}`."""
    from prefect.artifacts import create_progress_artifact

    shown = create_progress_artifact(0.0, key=key, description=description)
    handler = _ProgressHandler(shown)
    logger = logging.getLogger("tasks")
    logger.addHandler(handler)
    try:
        yield
        handler.show(1.0)
    finally:
        logger.removeHandler(handler)


class _ProgressHandler(logging.Handler):
    """Sends progress to Prefect's server, at most every few seconds."""

    def __init__(self, artifact_id: Any) -> None:
        super().__init__()
        self._artifact_id, self._shown_at = artifact_id, time.monotonic()
        # The handler's lock is held until Prefect's server answers, so other records must not take it.
        self.addFilter(lambda record: hasattr(record, "progress"))

    def emit(self, record: logging.LogRecord) -> None:
        """Send the progress of a record."""
        if time.monotonic() - self._shown_at >= PROGRESS_S:
            self._shown_at = time.monotonic()
            self.show(record.__dict__["progress"])

    def show(self, share: float) -> None:
        """Send a share from 0 to 1."""
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(self._artifact_id, 100 * share)


def fail_early(*futures: PrefectFuture[Any]) -> None:
    """Raise the errors of futures that have failed already, instead of when their results are needed."""
    for future in futures:
        if future.state.is_failed():
            future.result()


def can_be_mended(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a retry may succeed, which only retryable errors say."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, PipelineError) and error.retryable
