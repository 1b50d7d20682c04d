"""Calling the user's own functions, named as `module:function`, and saying what went wrong in them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from configs.redaction import redact
from tasks.errors import PipelineError
from tasks.words import one_line

FOREIGN = (Exception, SystemExit)
"""What a user's function may end with; SystemExit is no end of ours."""

_CALL = r'(?m)^ *File "(.*)", line (\d+), in (.*)$'
_MADE_AT = " defined at (most recent call last)"
_STACK = rf"{_CALL}|{re.escape(_MADE_AT)}|\[\[\{{\{{node .*?\}}\}}\]\]|\[Op:\w+\]"
"""Where TensorFlow says that an operation of a graph comes from: pages before the cause."""

_PROJECT = Path(__file__).parents[2]
_NOT_THE_USERS = (
    sysconfig.get_path("stdlib"),
    str(_PROJECT / "tasks"),
    str(_PROJECT / "flows"),
    "<",  # frozen modules, code made from text
)


def resolve(reference: str, field: str, error: type[PipelineError]) -> Callable[..., Any]:
    """Import `module:function`.

    Args:
        field: the configuration's field that names it, for the message.
        error: the class to raise.
    """
    module_name, _, function_name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with (
        translated(f"{field} '{reference}' must import", error),
        Path(os.devnull).open() as nothing,  # a module that asks would wait for ever
        _standard_input(nothing),
    ):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error(
            f"{field} '{reference}' must name a function, but '{module_name}' has no callable '{function_name}'"
        )
    return _returning(function)


def _returning(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the user's whose sys.exit is an error like others, and no end of this process."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SystemExit as exc:
            # With the traceback of the exit, so that the user's own line can be named.
            raise RuntimeError(f"it calls sys.exit({exc.code!r})").with_traceback(exc.__traceback__) from exc

    return called


@contextlib.contextmanager
def translated(rule: str, error: type[PipelineError]) -> Iterator[None]:
    """Raise whatever somebody else's code raises in the block as an error of ours: the rule, then their words."""
    try:
        yield
    except PipelineError:
        raise
    except FOREIGN as exc:
        raise error(f"{rule}, got {describe(exc)}") from exc


def describe(exc: BaseException, without: str = "") -> str:
    """Return an error of somebody else's code in one line, with the user's own line that led to it, if there is one.

    Args:
        without: a regular expression of what nobody reads.
    """
    try:
        text = redact(str(exc))  # before a cut leaves half of a secret
        place = _users_line(exc) or (_users_line_in(text) if _MADE_AT in text else "")
        for nobody_reads in (without, _STACK if _MADE_AT in text else ""):
            text = re.sub(nobody_reads, "", text) if nobody_reads else text
        text = one_line(text)
    except Exception:  # noqa: BLE001  an error that cannot say what it is, is known by its class
        text, place = "", _users_line(exc)
    return f"{type(exc).__name__}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def _users_line(exc: BaseException) -> str:
    """Return `FILE:LINE in FUNCTION` of the innermost call that is neither ours nor an installed package's."""
    place = ""
    for frame, line in traceback.walk_tb(exc.__traceback__):
        if _is_users(frame.f_code.co_filename):
            place = f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
    return one_line(place)


def _users_line_in(text: str) -> str:
    """Return the same of a stack that TensorFlow writes into its message: of what a graph was made by."""
    found = [call for call in re.findall(_CALL, text) if _is_users(call[0])]
    return one_line("{}:{} in {}".format(Path(found[-1][0]).name, *found[-1][1:])) if found else ""


def _is_users(file: str) -> bool:
    return not file.startswith(_NOT_THE_USERS) and "-packages" not in file and "__autograph_generated" not in file


@contextlib.contextmanager
def _standard_input(stream: TextIO) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = before

