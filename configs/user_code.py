"""Finds the function that `module:function` or `FILE.py:function` names, without importing its module."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from configs.errors import ConfigError


def is_reference(name: str) -> bool:
    """Return whether the name of a metric is a reference to a user's function."""
    return ":" in name


class UserFunction(str):
    """A reference to a user's function as written in the configuration, with the file that defines it.

    Attributes:
        file: None for a module that is installed or in the directory where the command runs.
    """

    file: Path | None

    def __new__(cls, text: str, file: Path | None = None) -> UserFunction:
        """Return the reference with its file."""
        made = super().__new__(cls, text)
        made.file = file
        return made


def located(reference: str, base: Path) -> str:
    """Return a reference with its file, if the reference names the file or the module is beside the configuration.

    A module beside the configuration takes precedence over one of the same name elsewhere.
    """
    module, colon, _ = reference.rpartition(":")
    if not colon:
        return reference
    if module.endswith(".py"):
        return UserFunction(reference, base.resolve() / module)
    beside = base.resolve().joinpath(*module.split("."))
    files = (beside.with_suffix(".py"), beside / "__init__.py")
    return UserFunction(reference, next((file for file in files if file.is_file()), None))


def file_of(reference: str) -> Path | None:
    """Return the file of a reference that has been located."""
    return reference.file if isinstance(reference, UserFunction) else None


def origin_of(reference: str) -> Path | None:
    """Return the Python file of a reference that `check_reference` has accepted, if there is one."""
    file = file_of(reference)
    if file is None:
        found = _spec(reference.rpartition(":")[0])
        file = Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None
    return file


def check_reference(reference: str, field: str) -> None:
    """Find the function without importing its module, which may import TensorFlow.

    Args:
        field: the field of the configuration, for the message.

    Raises:
        ConfigError: the module does not exist, or defines nothing of that name at its top level.
    """
    module, _, function = reference.rpartition(":")
    shown = f"{field} '{reference[:200]}'"
    file = file_of(reference)
    if file is not None:
        _check_names(file, function, shown, f"module '{module}'")
        return
    try:
        found = _spec(module)
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"{shown}: module '{module}' does not import: {type(exc).__name__}: {exc}") from exc
    if found is None:
        raise ConfigError(
            f"{shown}: there is no module '{module[:200]}'. Put it beside the YAML file, run the command where it "
            "can be imported, or write ./FILE.py:function"
        )
    if found.origin and found.origin.endswith(".py"):
        _check_names(Path(found.origin), function, shown, f"module '{module}'")


def _check_names(file: Path, function: str, shown: str, called: str) -> None:
    """Raise `ConfigError` if a file cannot be parsed, or defines nothing of that name at its top level."""
    try:
        names = _names_in(str(file), file.stat().st_mtime_ns)
    except OSError as exc:
        raise ConfigError(f"{shown} must name a readable Python file, got '{file}': {exc.strerror}") from exc
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        line = f" in {file.name}:{exc.lineno}" if isinstance(exc, SyntaxError) and exc.lineno else ""
        words = exc.msg if isinstance(exc, SyntaxError) else exc
        raise ConfigError(f"{shown}: {called} does not compile: {words}{line}") from exc
    if function not in names and not names & {"*", "__getattr__"}:
        raise ConfigError(f"{shown}: {called} has no '{function}'; {nearest(function, sorted(names))}")


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module is; its parent packages are imported only if nothing else finds it."""
    name, path, spec = "", None, None
    with contextlib.suppress(KeyError):  # raised for nested directories without __init__.py that are not imported
        for part in module.split("."):
            name = f"{name}.{part}" if name else part
            spec = next(filter(None, (finder.find_spec(name, path) for finder in sys.meta_path)), None)
            if spec is None or spec.submodule_search_locations is None:
                break
            path = list(spec.submodule_search_locations)
    return spec if spec is not None and spec.name == module else importlib.util.find_spec(module)


@lru_cache(maxsize=64)
def _names_in(origin: str, _changed_ns: int) -> frozenset[str]:
    """Return the names that a file may define at its top level; each file is read once."""
    return frozenset(top_level_names(parsed(Path(origin).read_bytes())))


def parsed(source: bytes) -> ast.Module:
    """Parse a module; try again if another thread, such as one of Prefect's, was parsing at the same time.

    What Python only warns of, such as an invalid escape, it says itself at the import, with the name of the file.
    Source: https://github.com/python/cpython/issues/106905, `recursion depth mismatch`; seen with Python 3.11.7.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except SystemError:
            return ast.parse(source)


def top_level_names(module: ast.Module) -> set[str]:
    """Return the names that a module may define at its top level, also in `if` and `try`; `*` for a star import."""
    names: set[str] = set()
    pending: list[ast.AST] = list(module.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # names in its body are local
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending += ast.iter_child_nodes(node)
    return names


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint: the known word that is most similar, or the known words."""
    near = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known names: {', '.join(known[:40])}"
