"""Reading a configuration: YAML and overrides in, a checked `Config` or one clear line out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from configs.errors import ConfigError
from configs.parameters import check_parameters
from configs.redaction import HOW_TO_FILL_IN, MASK, hidden_as, known_as, redact, redacted
from configs.schema import Config
from configs.user_code import check_reference, is_reference, located, nearest
from configs.values import PARAMS, filled_in
from configs.yaml_text import DEEPEST, parse_yaml

RETIRED = {
    "data.stratify": "data.stratify is gone: it dealt rows out by position, so that one more row moved all others and "
    "the champion was judged on rows that it was trained on; remove it (the report shows the label shares, and "
    "data.split takes a split of your own)",
}  # key: why it is gone, and what to do

__all__ = ["ConfigError", "arguments", "load_config", "require", "shown", "without_secrets", "written"]

LARGEST_FILE = 512 * 1024  # bytes
LONGEST_MESSAGE, LONGEST_VALUE = 700, 120  # characters
SQLITE = "sqlite:///"


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration; from then on its secrets are hidden wherever this process writes.

    Args:
        path: the YAML file; relative paths in it resolve against its directory.
        overrides: `section.key=value` items that replace what the file says; values are YAML.

    Raises:
        ConfigError: in one line, what is wrong and what to do.
    """
    try:
        return _loaded(path, overrides)
    except ConfigError as exc:
        raise ConfigError(_one_line(str(exc))) from exc.__cause__


def require(config: Config, *fields: str) -> None:
    """Raise `ConfigError` if a field that not every command needs is empty: `data.load`, `model.build`."""
    for field in fields:
        section, key = field.split(".")
        if not getattr(getattr(config, section), key):
            raise ConfigError(f"'{field}' is required and missing")


def written(values: Mapping[str, Any]) -> Path:
    """Write what a configuration file holds to a file in the current directory, and return its path.

    Its name follows from its content, so that one configuration is one file. Only its owner may read it: it may hold
    secrets.

    Raises:
        ConfigError: a value cannot be written as YAML, or there is no room for the file.
    """
    try:
        plain = json.loads(json.dumps(values, default=os.fspath))
        text = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False)
        file = Path.cwd() / f"rehearse-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
        if not file.exists():  # another process may be reading one that is there
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as stream:
                stream.write(text)
            Path(stream.name).rename(file)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigError(f"the configuration must hold what a YAML file can hold: {exc}") from exc
    except OSError as exc:
        raise ConfigError(
            f"the configuration is kept as a file in the current directory, which cannot be written: {exc.strerror}; "
            "give the path of a YAML file instead"
        ) from exc
    return file


def arguments(path: str, overrides: Sequence[str] = ()) -> str:
    """Return the options that read the same configuration in another command, ready for a shell, without secrets."""
    last = {item.partition("=")[0]: item for item in without_secrets(overrides)}  # of one key the last one holds
    return shlex.join(["--config", path, *(word for item in last.values() for word in ("--set", item))])


def without_secrets(overrides: Sequence[str]) -> list[str]:
    """Return overrides as Prefect may keep them and a screen may show them.

    `load_config` takes them for what they stand for, in this process; in another one it asks for the secret.
    """
    return [hidden_as(item, _without_secret(item)) for item in overrides]


def shown(config: Config) -> dict[str, Any]:
    """Return every value of a configuration as plain JSON, without secrets."""
    return _hidden(config.model_dump(mode="json"))


def _loaded(path: Path, overrides: Sequence[str]) -> Config:
    raw = _read(path)
    for item in overrides:
        _override(raw, known_as(item))
    try:
        config = Config.model_validate(filled_in(raw))
    except ValidationError as exc:
        raise ConfigError(f"{path.name}: {_explain(exc.errors()[0])}") from exc
    try:
        json.dumps(config.model_dump(mode="json"))
    except (PydanticSerializationError, TypeError, ValueError) as exc:
        raise ConfigError(f"{path.name}: data.params and model.params must be what JSON can write: {exc}") from exc
    config = _resolve(config, path.parent)
    for reference in filter(is_reference, (config.data.load, config.model.build, *config.gates.metrics)):
        check_reference(reference)
    if config.data.load:
        check_parameters(config.data.load, config.data.params, "data.params", given=0)
    if config.model.build:
        check_parameters(config.model.build, config.model.params, "model.params", given=1)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(_content(path).decode("utf-8-sig"))
    except (OSError, ValueError) as exc:
        if isinstance(exc, UnicodeDecodeError):
            raise ConfigError(f"{path.name} must be UTF-8 text; byte {exc.start} is not") from exc
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"--config must name a readable YAML file, got '{path}': {reason}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path.name} must be YAML: {exc}") from exc
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name} must hold a mapping with name, data and model, got {type(raw).__name__}")
    return raw


def _content(path: Path) -> bytes:
    """Return a file's bytes, neither waiting for the other end of a pipe nor reading without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"--config must name a readable YAML file, got '{path}': it is not a plain file")
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path.name} must have at most {LARGEST_FILE // 1024} KB, and has more")
    return content


def _override(raw: dict[str, Any], item: str) -> None:
    """Put one `section.key=value` into the raw mapping."""
    dotted, separator, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set takes section.key=value, got '{_cut(item)}'")
    if len(keys) > DEEPEST or len(text) > LARGEST_FILE:
        raise ConfigError(f"--set takes a name of at most {DEEPEST} parts and {LARGEST_FILE // 1024} KB of value")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as exc:
        remedy = f"{MASK} stands for a secret that was not shown; {HOW_TO_FILL_IN}" if MASK in text else exc
        raise ConfigError(f"--set {_cut(dotted)}: the value must be YAML: {remedy}") from exc
    node = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {_cut(dotted)}: '{_cut(key)}' is a value, not a section")
    node[keys[-1]] = value


def _without_secret(item: str) -> str:
    """Return one override without its secrets, as YAML that reads back."""
    dotted = item.partition("=")[0]
    nested: dict[str, Any] = {}
    try:
        _override(nested, item)
    except ConfigError:
        return redact(item)
    hidden: Any = _hidden(nested)
    if hidden == _as_lists(nested):
        return item
    for key in dotted.strip().split("."):
        hidden = hidden[key]
    return f"{dotted}={hidden if isinstance(hidden, str) else json.dumps(hidden, ensure_ascii=False)}"


def _hidden(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration, or of some of its fields, without secrets."""
    return {
        section: {key: redacted(item, named=f"{section}.{key}" in PARAMS) for key, item in value.items()}
        if isinstance(value, Mapping)
        else redacted(value)
        for section, value in whole.items()
    }


def _as_lists(value: Any) -> Any:
    """Return a value as `redacted` returns one that holds no secret."""
    if isinstance(value, Mapping):
        return {str(name): _as_lists(item) for name, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple | set) else value


def _explain(error: ErrorDetails) -> str:
    """Turn the first of pydantic's errors into the rule, what was received, and what to do."""
    location = [_cut(str(part)) for part in error["loc"] if not str(part).startswith("function-before")]
    where = ".".join(location)
    if where in RETIRED:
        return RETIRED[where]
    if error["type"] == "extra_forbidden":
        return f"unknown key '{where}'; {nearest(location[-1], _known_keys(location[:-1]))}"
    if error["type"] == "missing":
        return f"'{where}' is required and missing"
    received = _cut(repr(redacted(error["input"], named=where.startswith(PARAMS))))
    if error["type"] == "string_pattern_mismatch":
        return f"'{where}' must be module:function or FILE.py:function, got {received}"
    rule = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type" and not isinstance(error["input"], dict | list):
        rule = "Must be text, in quotes where YAML reads it as something else (yes, no, null, a number, a date)"
    return f"'{where}': {rule[0].lower()}{rule[1:]}; got {received}"


def _known_keys(location: Sequence[str]) -> list[str]:
    """Return the keys of the section at `location`."""
    section: type[BaseModel] = Config
    for key in location:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return ["min", "max"]  # the only section that is not a field of its own: a metric's bound
        section = field.annotation
    return list(section.model_fields)


def _resolve(config: Config, base: Path) -> Config:
    """Make relative paths absolute against the YAML file's directory."""
    uri = config.tracking.uri
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        file, question, settings = uri.removeprefix(SQLITE).partition("?")
        uri = f"{SQLITE}{_place(base, Path(file), 'tracking.uri')}{question}{settings}"
    gates = config.gates
    found = {
        section: getattr(gates, section).model_copy(update={"file": _file(base, file, f"gates.{section}.file")})
        for section in ("contract", "golden")
        if (file := getattr(gates, section).file) is not None
    }
    metrics = {located(name, base): bound for name, bound in config.gates.metrics.items()}
    work_dir, models_root = _place(base, config.work_dir, "work_dir"), _place(base, config.models_root, "models_root")
    _check_apart(work_dir, models_root, config.name)
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"load": located(config.data.load, base)}),
            "model": config.model.model_copy(update={"build": located(config.model.build, base)}),
            "gates": gates.model_copy(update={**found, "metrics": metrics}),
            "work_dir": work_dir,
            "models_root": models_root,
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )


def _check_apart(work_dir: Path, models_root: Path, name: str) -> None:
    """Refuse a production server that would watch what nobody has judged yet."""
    live, candidates = models_root / name, work_dir / "candidates"
    if live == work_dir or live in work_dir.parents or live.is_relative_to(candidates):
        raise ConfigError(
            f"models_root must not hold candidates: production would watch '{_cut(str(live))}', and candidates lie in "
            f"'{_cut(str(candidates))}'; set models_root or work_dir to another directory"
        )


def _file(base: Path, path: Path, field: str) -> Path:
    """Return where a file is that must be there."""
    place = _place(base, path, field)
    if not place.is_file():
        raise ConfigError(f"{field} must name a file, got '{_cut(str(place))}'")
    return place


def _place(base: Path, path: Path, field: str) -> Path:
    """Return where a path leads, which may be to nothing yet.

    Raises:
        ConfigError: it leads nowhere: links in a loop, a name that no file system takes.
    """
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise ConfigError(f"'{field}' must be a path without '~', which is no home here, got '{_cut(str(path))}'")
    try:
        place = Path(os.path.realpath(base / path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            place.stat()  # any other error means that nothing can ever be there
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ConfigError(f"'{field}' must be a path that can be, got '{_cut(str(path))}': {reason}") from exc
    return place


def _cut(text: str) -> str:
    """Return a text without secrets, the beginning of a long one."""
    text = redact(text)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text):,} characters)"


def _one_line(text: str) -> str:
    """Return a message that a terminal shows as one line of bounded length, without secrets."""
    line = " ".join(redact(text).split())
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
