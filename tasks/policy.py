"""What every stage shares: retries, no caching, a clock."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from tasks.errors import PipelineError

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)
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
        except PipelineError as exc:
            if exc.retryable:
                log.warning("%s: %s", function.__name__, exc)  # a try that is made again must not pass unseen
            raise
        finally:
            seconds = _seconds.get()
            if seconds is not None:
                name = function.__name__
                seconds[name] = seconds.get(name, 0) + time.monotonic() - begun

    policy = task(retries=2, retry_delay_seconds=[1, 5], retry_condition_fn=can_be_mended, cache_policy=NO_CACHE)
    return policy(timed)


def fail_early(*futures: PrefectFuture[Any]) -> None:
    """Raise now what has already failed beside the flow, instead of when its result is asked for."""
    for future in futures:
        if future.state.is_failed():
            future.result()


def can_be_mended(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether trying again can mend a failed state: only errors that say so of themselves."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, PipelineError) and error.retryable
