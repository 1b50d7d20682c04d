"""Reading a configuration: YAML and overrides in, a checked `Config` or one clear line out."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.schema import Config
from configs.yaml_text import TextError, check_values, parse, printable, read_file

RETIRED = {
    "data.stratify": "data.stratify is gone: it dealt rows out by position, so that one more row moved all others and "
    "the champion was judged on rows that it was trained on; remove it (the report shows the label shares, and "
    "data.split takes a split of your own)",
}  # key: why it is gone, and what to do


class ConfigError(Exception):
    """The configuration cannot be used; nothing has been run or created."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: the YAML file; relative paths in it resolve against its directory.
        overrides: `section.key=value` items that replace what the file says; values are YAML.

    Raises:
        ConfigError: in one line, what is wrong and what to do.
    """
    raw = _read(path)
    for item in overrides:
        _override(raw, item)
    try:
        check_values(raw)
        config = Config.model_validate(raw)
    except TextError as exc:
        raise ConfigError(f"{path.name}: {exc}") from exc
    except ValidationError as exc:
        raise ConfigError(f"{path.name}: {_explain(exc.errors(include_url=False)[0])}") from exc
    metrics = (name for name in config.gates.metrics if ":" in name)
    for reference in (config.data.load, config.model.build, *metrics):
        _check_reference(reference)
    return _resolve(config, path.parent)


def arguments(path: str, overrides: Sequence[str] = ()) -> str:
    """Return the options that read the same configuration in another command, ready for a shell."""
    last = {item.partition("=")[0]: item for item in overrides}  # of one key the last one holds
    return shlex.join(["--config", path, *(word for item in last.values() for word in ("--set", item))])


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_file(path)
    except OSError as exc:
        raise ConfigError(f"--config must name a readable YAML file, got '{path}': {exc.strerror}") from exc
    except ValueError as exc:  # TextError, and Python's own for a name with a NUL character
        raise ConfigError(f"--config must name a readable YAML file, and {printable(str(path))} {exc}") from exc
    try:
        raw = parse(text)
    except TextError as exc:
        raise ConfigError(f"{path.name} {exc}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name} must hold a mapping with name, data and model, got {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], item: str) -> None:
    """Put one `section.key=value` into the raw mapping."""
    dotted, separator, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set takes section.key=value, got {printable(item)}")
    try:
        value = parse(text)
    except TextError as exc:
        raise ConfigError(f"--set {dotted}: the value {exc}, got {printable(text)}") from exc
    node = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {dotted}: '{key}' is a value, not a section")
    node[keys[-1]] = value


def _explain(error: ErrorDetails) -> str:
    """Turn the first of pydantic's errors into the rule, what was received, and what to do."""
    location = [str(part)[:80] for part in error["loc"] if not str(part).startswith("function-before")]
    where = ".".join(location)
    if where in RETIRED:
        return RETIRED[where]
    if error["type"] == "extra_forbidden":
        return f"unknown key '{where}'; {_nearest(location[-1], _known_keys(location[:-1]))}"
    if error["type"] == "missing":
        return f"'{where}' is required and missing"
    if error["type"] == "string_pattern_mismatch":
        return f"'{where}' must be module:function, got {printable(error['input'])}"
    rule = error["msg"].removeprefix("Value error, ")
    return f"'{where}': {rule[0].lower()}{rule[1:]}; got {printable(error['input'])}"


def _known_keys(location: Sequence[str]) -> list[str]:
    """Return the keys of the section at `location`."""
    section: type[BaseModel] = Config
    for key in location:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return ["min", "max"]  # the only section that is not a field of its own: a metric's bound
        section = field.annotation
    return list(section.model_fields)


def _check_reference(reference: str) -> None:
    """Find the function without importing its module, which may import TensorFlow."""
    module, _, function = reference.partition(":")
    try:
        found = importlib.util.find_spec(module)
    except (Exception, SystemExit) as exc:  # a package is imported on the way to a module in it
        words = " ".join(f"{type(exc).__name__}: {exc}".split())[:400]
        raise ConfigError(f"'{reference}': module '{module}' does not import: {words}") from exc
    if found is None:
        raise ConfigError(f"'{reference}': there is no module '{module}'; run from the directory it imports from")
    if not found.origin or not found.origin.endswith(".py"):
        return
    try:
        names = _top_level_names(_parsed(Path(found.origin).read_bytes()))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as exc:
        raise ConfigError(f"'{reference}': module '{module}' does not compile: {exc}") from exc
    if function not in names and not names & {"*", "__getattr__"}:
        raise ConfigError(f"'{reference}': module '{module}' has no '{function}'; {_nearest(function, sorted(names))}")


def _parsed(source: bytes) -> ast.Module:
    """Parse a module; once more where another thread, such as one of Prefect's, parsed at the same time.

    Source: https://github.com/python/cpython/issues/106905, `recursion depth mismatch`; seen with Python 3.11.7.
    """
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)


def _top_level_names(module: ast.Module) -> set[str]:
    """Return what a module's top level may define, within `if` and `try` too; `*` for a star import."""
    names: set[str] = set()
    pending: list[ast.AST] = list(module.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what stands inside is no name of the module's
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return names


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    shown = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
    return f"did you mean '{near[0]}'?" if near else f"known: {shown}"


def _resolve(config: Config, base: Path) -> Config:
    """Make relative paths absolute against the YAML file's directory.

    Raises:
        ConfigError: a path cannot be followed, such as a link to itself.
    """
    uri = config.tracking.uri
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        uri = f"{prefix}{_absolute('tracking.uri', base, Path(uri.removeprefix(prefix)))}"
    golden = config.gates.golden
    if golden.file is not None:
        file = _absolute("gates.golden.file", base, golden.file)
        golden = golden.model_copy(update={"file": file})
        if not file.is_file():
            raise ConfigError(f"gates.golden.file must name a file, got {printable(str(file))}")
    return config.model_copy(
        update={
            "gates": config.gates.model_copy(update={"golden": golden}),
            "work_dir": _absolute("work_dir", base, config.work_dir),
            "models_root": _absolute("models_root", base, config.models_root),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )


def _absolute(field: str, base: Path, path: Path) -> Path:
    try:
        absolute = (base.resolve() / path).resolve()
        absolute.exists()  # which a name that is too long cannot be asked
    except (OSError, RuntimeError) as exc:  # the latter is Python's for links that lead to each other
        reason = getattr(exc, "strerror", None) or "its links lead to each other"
        got = f"{printable(str(path))}: {reason}"
        raise ConfigError(f"'{field}' must be a path that can be followed, got {got}") from exc
    return absolute
