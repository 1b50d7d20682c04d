"""Calling the user's own functions, named as `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        module = importlib.import_module(module_name)
    except Exception as exc:  # whatever the user's module raises while it is imported
        raise error(f"{field} '{reference}' must import, got {describe(exc)}") from exc
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error(
            f"{field} '{reference}' must name a function, but '{module_name}' has no callable '{function_name}'"
        )
    return function  # type: ignore[no-any-return]


def describe(exc: BaseException) -> str:
    """Return an error of somebody else's code in one line."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}" if text else type(exc).__name__
