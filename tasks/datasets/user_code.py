"""Calling the user's own functions, named as `module:function`, and saying what went wrong in them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from configs.redaction import redact
from configs.user_code import file_of
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
    """Import `module:function` or `FILE.py:function`.

    Args:
        field: the configuration's field that names it, for the message.
        error: the class to raise.
    """
    module_name, _, function_name = reference.rpartition(":")
    _prefer(Path.cwd())
    with (
        translated(f"{field} '{reference}' must import", error),
        Path(os.devnull).open() as nothing,  # a module that asks would wait for ever
        _standard_input(nothing),
    ):
        file = file_of(reference)
        module = import_file(file) if file else import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error(
            f"{field} '{reference}' must name a function, but '{module_name}' has no callable '{function_name}'"
        )
    return _returning(function)


def import_file(file: Path) -> ModuleType:
    """Import a Python file under the name that it has within its packages, with its directory to import from.

    Where another module has that name already, one of ours or of an installed package, the file gets a name of its own.
    """
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    _prefer(root)
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    if _is_free(parts[0], root):
        found = import_module(name)
        if Path(found.__file__ or "").resolve() == file.resolve():
            return found
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
    return sys.modules[name]


def _is_free(package: str, root: Path) -> bool:
    """Return whether a module's or package's name is not taken by one that lies elsewhere."""
    taken = sys.modules.get(package)
    if taken is None:
        return True
    places = [taken.__file__] if getattr(taken, "__file__", None) else list(getattr(taken, "__path__", ()))
    return any(Path(place).resolve().is_relative_to(root.resolve()) for place in places if place)


def _prefer(directory: Path) -> None:
    """Let modules be found in a directory first."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


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
    if file.endswith((".pyx", ".pxi")):  # an installed package's, by a path within it
        return False
    return not file.startswith(_NOT_THE_USERS) and "-packages" not in file and "__autograph_generated" not in file


@contextlib.contextmanager
def _standard_input(stream: TextIO) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = before

