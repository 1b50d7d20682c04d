"""Imports and calls the user's functions, named as `module:function`, and describes their errors."""

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
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from configs.redaction import redact
from configs.user_code import file_of
from tasks.errors import PipelineError
from tasks.words import one_line

FOREIGN = (Exception, SystemExit)
"""What a user's function may raise; its SystemExit must not end this process."""

_CALL = r'(?m)^ *File "(.*)", line (\d+), in (.*)$'
_MADE_AT = " defined at (most recent call last)"
_STACK = rf"{_CALL}|{re.escape(_MADE_AT)}|\[\[\{{\{{node .*?\}}\}}\]\]|\[Op:\w+\]"
"""The stack of a graph's operation in TensorFlow's messages, which is pages long and stands before the cause."""

_FROM_PYTHON = r"(?s)\{\{function_node .*?\}\} |Traceback \(most recent call last\):.*"
"""What TensorFlow puts before and behind the error of a Python function that one of its operations calls."""

_PROJECT = Path(__file__).parents[2]
_CONFIGS = f"{_PROJECT / 'configs'}{os.sep}"
EXAMPLES = ("digits.py", "penguins.py", "streamed.py")
"""The modules in our package `configs` that stand for a user's."""
_NOT_THE_USERS = (
    sysconfig.get_path("stdlib"),
    str(_PROJECT / "tasks"),
    str(_PROJECT / "flows"),
    "<",  # frozen modules, and code that was compiled from text
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
        Path(os.devnull).open() as nothing,  # a module that reads standard input would wait forever
        _standard_input(nothing),
    ):
        file = file_of(reference)
        module = import_file(file) if file else import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error(
            f"{field} '{reference}' must name a function, but '{module_name}' has no function '{function_name}'"
        )
    return _returning(function)


def import_again(reference: str, modules: Iterable[str], field: str, error: type[PipelineError]) -> None:
    """Import what a training has imported, so that the user's classes are known in a process that did not train.

    Args:
        reference: as in `resolve`. modules: names of the user's modules, also of those that a function has imported;
            one that this process cannot import is left out, because the model may not need it.
    """
    resolve(reference, field, error)
    for name in modules:
        with contextlib.suppress(*FOREIGN):
            import_module(name)


def import_file(file: Path) -> ModuleType:
    """Import a Python file under its name within its packages, and let it import from its directory.

    If another module has that name already, one of ours or of an installed package, the file gets another name.
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


def modules_digest() -> str:
    """Return the SHA-256 of the names and files of the user's modules that are imported now, in hexadecimal.

    Installed packages are not the user's.
    """
    sha = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and _is_users(file):
            with contextlib.suppress(OSError):  # such as one in a zip file
                sha.update(f"{name}|{hashlib.sha256(Path(file).read_bytes()).hexdigest()}|".encode())
    return sha.hexdigest()


def _is_free(package: str, root: Path) -> bool:
    """Return whether the name of a module or package is not used by another one elsewhere."""
    taken = sys.modules.get(package)
    if taken is None:
        return True
    places = [taken.__file__] if getattr(taken, "__file__", None) else list(getattr(taken, "__path__", ()))
    return any(Path(place).resolve().is_relative_to(root.resolve()) for place in places if place)


def _prefer(directory: Path) -> None:
    """Search a directory first when modules are imported."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _returning(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a user's function whose sys.exit raises an error instead of ending this process."""

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
    """Translate any error of foreign code in the block to one of ours, with the rule and the original message."""
    try:
        yield
    except PipelineError:
        raise
    except FOREIGN as exc:
        raise error(f"{rule}, got {describe(exc)}") from exc


def describe(exc: BaseException, without: str = "") -> str:
    """Return an error of foreign code in one line, with the line of the user's code that led to it, if there is one.

    Args:
        without: a regular expression for text to remove.
    """
    try:
        text = redact(str(exc))  # before the text is cut, which could leave half of a secret
        has_stack, is_from_python = _MADE_AT in text, "Traceback (most recent call last):" in text
        inner = _users_line_in(text) if has_stack or is_from_python else ""
        place = (is_from_python and inner) or _users_line(exc) or inner
        for nobody_reads in (without, _FROM_PYTHON if is_from_python else "", _STACK if has_stack else ""):
            text = re.sub(nobody_reads, "", text) if nobody_reads else text
        text = one_line(text)
    except Exception:  # noqa: BLE001  an error without a readable message is shown by its class
        text, place = "", _users_line(exc)
    return f"{type(exc).__name__}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def _users_line(exc: BaseException) -> str:
    """Return `FILE:LINE in FUNCTION` of the innermost call that is in neither our code nor an installed package."""
    place = ""
    for frame, line in traceback.walk_tb(exc.__traceback__):
        if _is_users(frame.f_code.co_filename):
            place = f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
    return one_line(place)


def users_traceback(error: BaseException) -> str:
    """Return the calls from the user's outermost one on, with the error that they led to; empty if there are none.

    An error that came from another process has brought its own.
    """
    found, seen = "", set[int]()
    exc: BaseException | None = error
    while exc is not None and id(exc) not in seen:  # the last that is found is the first that was raised
        seen.add(id(exc))
        calls = traceback.extract_tb(exc.__traceback__)
        first = next((number for number, call in enumerate(calls) if _is_users(call.filename)), None)
        if first is not None:
            lines = [*traceback.format_list(calls[first:]), *traceback.format_exception_only(exc)]
            found = "".join(["Traceback (most recent call last):\n", *lines])
        found = getattr(exc, "users_traceback", "") or found
        exc = exc.__cause__ or exc.__context__
    return found


def _users_line_in(text: str) -> str:
    """Return the same from a stack in TensorFlow's message, which shows where a graph was created."""
    found = [call for call in re.findall(_CALL, text) if _is_users(call[0])]
    return one_line("{}:{} in {}".format(Path(found[-1][0]).name, *found[-1][1:])) if found else ""


def users_line_of_fault(text: str) -> str:
    """Return the same from what `faulthandler` wrote at a crash in native code: the innermost call stands first."""
    calls = re.findall(r'File "(.*)", line (\d+) in (.*)', text.partition("Current thread")[2].partition("\n\n")[0])
    own = next((call for call in calls if _is_users(call[0])), None)
    return one_line("{}:{} in {}".format(Path(own[0]).name, *own[1:])) if own else ""


def users_files() -> dict[str, str]:
    """Return the SHA-256 of each file of the user's that this process has imported, by name of the module."""
    found = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    files = {name: Path(file) for name, file in found.items() if file and _is_users(file)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def _is_users(file: str) -> bool:
    if file.endswith((".pyx", ".pxi")):  # in an installed package, with a path relative to it
        return False
    if file.startswith(_CONFIGS) and file.removeprefix(_CONFIGS) not in EXAMPLES:
        return False
    return not file.startswith(_NOT_THE_USERS) and "-packages" not in file and "__autograph_generated" not in file


@contextlib.contextmanager
def _standard_input(stream: TextIO) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stream
    try:
        yield
    finally:
        sys.stdin = before
