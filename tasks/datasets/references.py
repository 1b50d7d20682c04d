"""Calling the user's own functions, named as `module:function`."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from configs.redaction import redact
from tasks.errors import PipelineError


def resolve(reference: str, field: str, error: type[PipelineError]) -> Callable[..., Any]:
    """Import `module:function`.

    Args:
        field: the configuration's field that names it, for the message.
        error: the class to raise.
    """
    module_name, _, function_name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with Path(os.devnull).open() as nothing, _standard_input(nothing):  # a module that asks would wait for ever
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:  # whatever the user's module does while it is imported
        raise error(f"{field} '{reference}' must import, got {describe(exc)}") from exc
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error(
            f"{field} '{reference}' must name a function, but '{module_name}' has no callable '{function_name}'"
        )
    return function  # type: ignore[no-any-return]


@contextlib.contextmanager
def _standard_input(stream: TextIO) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = before


def describe(exc: BaseException) -> str:
    """Return an error of somebody else's code in one line."""
    text = redact(" ".join(str(exc).split()))
    return f"{type(exc).__name__}: {text[:300]}" if text else type(exc).__name__
