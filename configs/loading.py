"""Reading a configuration: YAML and overrides in, a checked `Config` or one clear line out."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.schema import Config


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
    for reference in (config.data.load, config.model.build):
        _check_module(reference)
    return _resolve(config, path.parent)


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
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"unknown key '{where}'; {hint}"
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


def _check_module(reference: str) -> None:
    """Find the module without importing it: the user's own module may import TensorFlow."""
    module = reference.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as exc:
        raise ConfigError(f"'{reference}': module '{module}' does not import: {exc}") from exc
    if found is None:
        raise ConfigError(f"'{reference}': there is no module '{module}'; run from the directory it imports from")


def _resolve(config: Config, base: Path) -> Config:
    """Make relative paths absolute against the YAML file's directory."""
    base = base.resolve()
    uri = config.tracking.uri
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        uri = f"{prefix}{(base / uri.removeprefix(prefix)).resolve()}"
    return config.model_copy(
        update={
            "work_dir": (base / config.work_dir).resolve(),
            "models_root": (base / config.models_root).resolve(),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )
