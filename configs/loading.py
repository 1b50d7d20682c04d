"""Reading a configuration: YAML and overrides in, a checked `Config` or one clear line out."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.schema import Config

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
        config = Config.model_validate(raw)
    except ValidationError as exc:
        raise ConfigError(f"{path.name}: {_explain(exc.errors()[0])}") from exc
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
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"--config must name a readable YAML file, got '{path}': {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path.name} must be UTF-8 text; byte {exc.start} is not") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path.name} must be YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name} must hold a mapping with name, data and model, got {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], item: str) -> None:
    """Put one `section.key=value` into the raw mapping."""
    dotted, separator, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set takes section.key=value, got '{item}'")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"--set {dotted}: the value must be YAML, got '{text}'") from exc
    node = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {dotted}: '{key}' is a value, not a section")
    node[keys[-1]] = value


def _explain(error: ErrorDetails) -> str:
    """Turn the first of pydantic's errors into the rule, what was received, and what to do."""
    location = [str(part) for part in error["loc"] if not str(part).startswith("function-before")]
    where = ".".join(location)
    if where in RETIRED:
        return RETIRED[where]
    if error["type"] == "extra_forbidden":
        return f"unknown key '{where}'; {_nearest(location[-1], _known_keys(location[:-1]))}"
    if error["type"] == "missing":
        return f"'{where}' is required and missing"
    if error["type"] == "string_pattern_mismatch":
        return f"'{where}' must be module:function, got {error['input']!r}"
    rule = error["msg"].removeprefix("Value error, ")
    return f"'{where}': {rule[0].lower()}{rule[1:]}; got {error['input']!r}"


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
    except Exception as exc:
        raise ConfigError(f"'{reference}': module '{module}' does not import: {type(exc).__name__}: {exc}") from exc
    if found is None:
        raise ConfigError(f"'{reference}': there is no module '{module}'; run from the directory it imports from")
    if not found.origin or not found.origin.endswith(".py"):
        return
    try:
        names = _top_level_names(_parsed(Path(found.origin).read_bytes()))
    except (SyntaxError, ValueError) as exc:
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
    pending: list[ast.stmt] = list(module.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        for child in ast.walk(node) if isinstance(node, ast.Assign | ast.AnnAssign) else ():
            names |= {child.id} if isinstance(child, ast.Name) else set()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        pending += [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
    return names


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def _resolve(config: Config, base: Path) -> Config:
    """Make relative paths absolute against the YAML file's directory."""
    base = base.resolve()
    uri = config.tracking.uri
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        uri = f"{prefix}{(base / uri.removeprefix(prefix)).resolve()}"
    golden = config.gates.golden
    if golden.file is not None:
        golden = golden.model_copy(update={"file": (base / golden.file).resolve()})
        if not (golden.file and golden.file.is_file()):
            raise ConfigError(f"gates.golden.file must name a file, got '{golden.file}'")
    return config.model_copy(
        update={
            "gates": config.gates.model_copy(update={"golden": golden}),
            "work_dir": (base / config.work_dir).resolve(),
            "models_root": (base / config.models_root).resolve(),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )
