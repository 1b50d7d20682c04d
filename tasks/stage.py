"""What every stage shares: retries, no caching, a clock."""

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
from uuid import uuid4

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from configs.redaction import clean, redact
from configs.schema import Config
from tasks.errors import PipelineError

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
    """Make a plain function a task: timed, never cached, tried again only where that can help.

    Nothing is cached because a rehearsal is worth something only if it happened.
    """

    @functools.wraps(function)
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        log.info("-- %s", function.__name__)
        begun = time.monotonic()
        try:
            return function(*args, **kwargs)
        except Exception as exc:
            clean(exc)  # Prefect keeps what it says
            if isinstance(exc, PipelineError) and exc.retryable:
                log.warning("%s: %s", function.__name__, exc)  # a try that is made again must not pass unseen
            if redact(str(exc)) != str(exc):  # an error of a library that puts its words together anew
                raise PipelineError(redact(f"{type(exc).__name__}: {exc}")) from None
            raise
        finally:
            seconds = _seconds.get()
            if seconds is not None:
                name = function.__name__
                seconds[name] = seconds.get(name, 0) + time.monotonic() - begun

    policy = task(retries=2, retry_delay_seconds=[1, 5], retry_condition_fn=can_be_mended, cache_policy=NO_CACHE)
    return policy(timed)


def new_run_dir(config: Config) -> Path:
    """Return a directory for one run's files, which is not there yet; its name begins with the time."""
    return config.work_dir / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"


def artifact_key(name: str) -> str:
    """Return a model's name as Prefect's artifacts take it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


@contextlib.contextmanager
def progress_shown(key: str, description: str) -> Iterator[None]:
    """Show on Prefect's page how far a stage is: whatever it logs with `extra={"progress": share}`."""
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
    """Passes progress on, not more than every few seconds: each time is a request to Prefect's server."""

    def __init__(self, artifact_id: Any) -> None:
        super().__init__()
        self._artifact_id, self._shown_at = artifact_id, time.monotonic()
        # Only records that have progress take this handler's lock, which is held for as long as Prefect's server takes.
        self.addFilter(lambda record: hasattr(record, "progress"))

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record's progress."""
        if time.monotonic() - self._shown_at >= PROGRESS_S:
            self._shown_at = time.monotonic()
            self.show(record.__dict__["progress"])

    def show(self, share: float) -> None:
        """Show a share of 0 to 1."""
        from prefect.artifacts import update_progress_artifact

        update_progress_artifact(self._artifact_id, 100 * share)


def fail_early(*futures: PrefectFuture[Any]) -> None:
    """Raise now what has already failed beside the flow, instead of when its result is asked for."""
    for future in futures:
        if future.state.is_failed():
            future.result()


def can_be_mended(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether trying again can mend a failed state: only errors that say so of themselves."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, PipelineError) and error.retryable
