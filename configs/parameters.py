"""Checks that a user's function accepts the parameters of the configuration, by reading its definition."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from configs.errors import ConfigError
from configs.user_code import nearest, origin_of, parsed


def check_parameters(reference: str, params: Iterable[str], field: str, *, given: int) -> None:
    """Compare parameters with the definition of a function, without importing its module.

    A function that is imported, decorated or defined more than once cannot be checked in this way.

    Args:
        field: `data.params` or `model.params`, for the message.
        given: how many positional arguments the function gets.

    Raises:
        ConfigError: the function has no such parameter, or one without a default has no value.
    """
    found = _definition(reference)
    if found is None:
        return
    by_place = [*found.posonlyargs, *found.args]
    by_name = [arg.arg for arg in [*found.args, *found.kwonlyargs] if arg not in by_place[:given]]
    unknown = [name for name in params if name not in by_name]
    if unknown and not found.kwarg:
        remedy = nearest(unknown[0], by_name) if by_name else "it has no parameters to set"
        raise ConfigError(f"{field}: '{reference}' has no parameter '{unknown[0]}'; {remedy}")
    needed = by_place[given : len(by_place) - len(found.defaults)]
    needed += [arg for arg, default in zip(found.kwonlyargs, found.kw_defaults, strict=True) if default is None]
    missing = [arg.arg for arg in needed if arg.arg not in params]
    if missing:
        raise ConfigError(f"{field} must set '{missing[0]}', a parameter of '{reference}' without a default")
    if len(by_place) < given and not found.vararg:
        raise ConfigError(
            f"'{reference}' must take the training features as its first argument, but it takes no positional argument"
        )


def check_metric(reference: str, field: str) -> None:
    """Refuse a metric that cannot be called with the target and what was served, as `check_parameters` does.

    Args:
        field: `gates.metrics` or `sweep.metric`, for the message.

    Raises:
        ConfigError: the function takes fewer arguments, or needs more.
    """
    found = _definition(reference)
    if found is None:
        return
    by_place = [arg.arg for arg in (*found.posonlyargs, *found.args)]
    needed = by_place[: len(by_place) - len(found.defaults)]
    named = [arg.arg for arg, default in zip(found.kwonlyargs, found.kw_defaults, strict=True) if default is None]
    if len(needed) > 2 or named or (len(by_place) < 2 and not found.vararg):
        takes = f"({', '.join([*needed, *named])})" if needed or named else "nothing"
        raise ConfigError(f"{field}: '{reference}' is called with (target, served), but it takes {takes}")


def _definition(reference: str) -> ast.arguments | None:
    """Return the arguments of the function that a reference names, if they can be read."""
    origin, function = origin_of(reference), reference.rpartition(":")[2]
    return _arguments(str(origin), function, origin.stat().st_mtime_ns) if origin else None


@lru_cache(maxsize=64)
def _arguments(origin: str, function: str, _changed_ns: int) -> ast.arguments | None:
    """Return the arguments of a function that a file defines exactly once, without a decorator; else None."""
    nodes = [node for node in ast.walk(parsed(Path(origin).read_bytes())) if getattr(node, "name", "") == function]
    if len(nodes) != 1 or not isinstance(nodes[0], ast.FunctionDef) or nodes[0].decorator_list:
        return None
    return nodes[0].args
