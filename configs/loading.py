"""Reads a configuration: YAML and overrides in, a checked `Config` or a one-line error out."""

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
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from configs.addresses import check_tls, place_of
from configs.errors import ConfigError
from configs.explain import cut, explain
from configs.parameters import check_metric, check_parameters
from configs.redaction import HOW_TO_FILL_IN, MASK, hidden_as, known_as, redact, redacted
from configs.schema import Config
from configs.sections.serving import Attached, Serving
from configs.serving_flags import PARAMETERS
from configs.user_code import check_reference, is_reference, located
from configs.values import NAMED, filled_in
from configs.yaml_text import DEEPEST, parse_yaml

__all__ = ["ConfigError", "arguments", "load_config", "require", "shown", "without_secrets", "written"]

LARGEST_FILE = 512 * 1024  # bytes
LONGEST_MESSAGE = 700  # characters
SQLITE = "sqlite:///"
DECIDING = ("name", "seed", "data", "model", "training", "export")
DECIDING_GATES = ("task", "scores", "metric_output")  # by which a training decides how answers are read
INSTEAD_OF_FILE = ("data.load", "model.build")  # a file with declared features needs neither
DEFAULT_MODEL = "tasks.training.default_model:build"
"""The function that builds a model from declared features if `model.build` is empty."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration, and hide its secrets from now on in everything that this process writes.

    Args:
        path: the YAML file; relative paths in it are relative to its directory.
        overrides: `section.key=value` items that replace values of the file; each value is YAML.

    Raises:
        ConfigError: the configuration cannot be used; the message says in one line why, and what to do.
    """
    try:
        return _loaded(path, overrides)
    except ConfigError as exc:
        raise ConfigError(_one_line(str(exc))) from exc.__cause__


def load_recorded(path: Path, overrides: Sequence[str], recorded: Mapping[str, Any]) -> Config:
    """Return the configuration of a file with the values of an earlier run that decide the bytes of its model.

    Places, servers and gates are those of the file; so is what was hidden in the record because it is a secret.

    Args:
        recorded: what `shown` returned then.

    Raises:
        ConfigError: the values cannot be used any more.
    """
    try:
        return _checked({**_raw(path, overrides), **_as_recorded(_raw(path, overrides), recorded)}, path)
    except ConfigError as exc:
        raise ConfigError(_one_line(f"the recorded configuration must still be usable, but {exc}")) from exc.__cause__


def deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that decide the bytes of a model, by dotted key, of what `shown` returned."""
    gates = values.get("gates", {})
    found = {section: values[section] for section in DECIDING if section in values}
    return _dotted({**found, "gates": {key: gates[key] for key in DECIDING_GATES if key in gates}})


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _dotted(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _as_recorded(raw: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that decide the bytes, as recorded, with the file's values where those are hidden."""
    found = {section: _unhidden(recorded[section], raw.get(section), section)
             for section in DECIDING if section in recorded}  # fmt: skip
    gates = recorded.get("gates", {})
    of_gates = {key: gates[key] for key in DECIDING_GATES if key in gates}
    return {**found, "gates": {**(raw.get("gates") or {}), **of_gates}}


def _unhidden(value: Any, current: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        known = current if isinstance(current, Mapping) else {}
        return {name: _unhidden(item, known.get(name), f"{key}.{name}") for name, item in value.items()}
    if MASK not in json.dumps(value):
        return value
    if current is None:
        raise ConfigError(f"--config must set '{key}', because a secret is not recorded")
    return current


def require(config: Config, *fields: str) -> None:
    """Raise `ConfigError` if a field that not every command needs is empty: `data.load`, `model.build`."""
    for field in fields:
        section, key = field.split(".")
        if not getattr(getattr(config, section), key) and not (config.data.file and field in INSTEAD_OF_FILE):
            also = ", or set data.file and describe its columns" if field in INSTEAD_OF_FILE else ""
            raise ConfigError(f"'{field}' is required but not set; set it in the YAML file{also}")


def written(values: Mapping[str, Any]) -> Path:
    """Write the contents of a configuration to a file in the current directory, and return its path.

    Its name is a hash of its content, so that each configuration has one file. Only its owner can read it, because it
    may contain secrets.

    Raises:
        ConfigError: a value cannot be written as YAML, or the file cannot be written.
    """
    try:
        plain = json.loads(json.dumps(values, default=os.fspath))
        text = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False)
        file = Path.cwd() / f"rehearse-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
        if not file.exists():  # another process may be reading an existing file
            with tempfile.TemporaryDirectory(prefix=".rehearse-", dir=file.parent) as scratch:
                part = Path(scratch, file.name)
                part.touch(0o600)
                part.write_text(text, encoding="utf-8")
                part.rename(file)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigError(f"the configuration must contain only values that YAML can represent: {exc}") from exc
    except OSError as exc:
        raise ConfigError(
            f"the configuration is stored as a file, but the current directory cannot be written: {exc.strerror}; "
            "pass the path of a YAML file instead"
        ) from exc
    return file


def file_and_config(given: str | Path | Mapping[str, Any]) -> tuple[Path, Config]:
    """Return the file of a configuration, which is written if the contents are given, and what it says.

    Raises:
        ConfigError: the configuration cannot be used; then no new file is left.
    """
    if isinstance(given, str | Path):
        return Path(given), load_config(Path(given))
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ConfigError(f"config must be the path of a YAML file, or a mapping of its sections, got {kind}")
    before = set(Path.cwd().glob("rehearse-*.yaml"))
    file = written(given)
    try:
        return file, load_config(file)
    except ConfigError:
        if file not in before:  # an earlier version may need it
            file.unlink(missing_ok=True)
        raise


def arguments(path: str, overrides: Sequence[str] = ()) -> str:
    """Return the shell options that give another command the same configuration, without secrets."""
    last = {item.partition("=")[0]: item for item in without_secrets(overrides)}  # the last override of a key counts
    return shlex.join(["--config", path, *(word for item in last.values() for word in ("--set", item))])


def without_secrets(overrides: Sequence[str]) -> list[str]:
    """Return overrides without secrets, for Prefect to keep and for screens to show.

    In this process, `load_config` knows the secrets that they stand for. In another process it asks for them.
    """
    return [hidden_as(item, _without_secret(item)) for item in overrides]


def shown(config: Config) -> dict[str, Any]:
    """Return every value of a configuration as plain JSON, without secrets."""
    return _hidden(config.model_dump(mode="json"))


def _loaded(path: Path, overrides: Sequence[str]) -> Config:
    return _checked(_raw(path, overrides), path)


def _raw(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    raw = _read(path)
    for item in overrides:
        _override(raw, known_as(item))
    return raw


def _checked(raw: dict[str, Any], path: Path) -> Config:
    try:
        raw = filled_in(raw)
        config = Config.model_validate(raw)
    except ValidationError as exc:
        raise ConfigError(f"{path.name}: {explain(exc.errors(), raw)}") from exc
    try:
        json.dumps(config.model_dump(mode="json"))
    except (PydanticSerializationError, TypeError, ValueError) as exc:
        raise ConfigError(f"{path.name}: data.params and model.params must hold JSON values only: {exc}") from exc
    config = _resolve(config, path.parent)
    references = [("data.load", config.data.load), ("model.build", config.model.build)]
    metrics = [("gates.metrics", name) for name in config.gates.metrics] + [("sweep.metric", config.sweep.metric)]
    for field, reference in references + metrics:
        if is_reference(reference):
            check_reference(reference, field)
    for field, name in metrics:
        if is_reference(name):
            check_metric(name, field)
    if config.data.load:
        check_parameters(config.data.load, config.data.params, "data.params", given=0)
    if config.model.build or config.data.features:
        check_parameters(config.model.build or DEFAULT_MODEL, config.model.params, "model.params", given=1)
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
        raise ConfigError(f"{path.name} must be valid YAML: {exc}") from exc
    if not isinstance(raw, dict):
        received = "an empty file" if raw is None else f"a {type(raw).__name__}"
        raise ConfigError(f"{path.name} must be a mapping with the keys name, data and model, got {received}")
    return raw


def _content(path: Path) -> bytes:
    """Return the bytes of a regular file of a bounded size; never wait for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"--config must name a readable YAML file, got '{path}': it is not a regular file")
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path.name} must not be larger than {LARGEST_FILE // 1024} KB, and it is")
    return content


def _override(raw: dict[str, Any], item: str) -> None:
    """Put one `section.key=value` into the raw mapping."""
    dotted, separator, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set must be given section.key=value, got '{cut(item)}'")
    if len(keys) > DEEPEST or len(text) > LARGEST_FILE:
        raise ConfigError(f"--set: a key may have at most {DEEPEST} parts, and a value {LARGEST_FILE // 1024} KB")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as exc:
        remedy = f"{MASK} stands for a hidden secret; {HOW_TO_FILL_IN}" if MASK in text else exc
        raise ConfigError(f"--set {cut(dotted)}: the value must be valid YAML: {remedy}") from exc
    node = raw
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {cut(dotted)}: '{cut(key)}' is a value and has no keys")
    node[keys[-1]] = value


def _without_secret(item: str) -> str:
    """Return one override without its secrets, as valid YAML."""
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
    return f"{dotted}={hidden if _is_plain(hidden) else json.dumps(hidden, ensure_ascii=False)}"


def _is_plain(value: object) -> bool:
    """Return whether a text needs no quotes to be read back as it is, or has a mask that a person must replace."""
    try:
        return isinstance(value, str) and (MASK in value or parse_yaml(value) == value)
    except (yaml.YAMLError, ValueError):
        return False


def _hidden(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a configuration without secrets."""
    return {
        section: {key: redacted(item, named=f"{section}.{key}" in NAMED) for key, item in value.items()}
        if isinstance(value, Mapping)
        else redacted(value)
        for section, value in whole.items()
    }


def _as_lists(value: Any) -> Any:
    """Return a value in the form in which `redacted` returns a value without secrets."""
    if isinstance(value, Mapping):
        return {str(name): _as_lists(item) for name, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple | set) else value


def _resolve(config: Config, base: Path) -> Config:
    """Make paths that are relative to the YAML file absolute."""
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
    if gates.replay.file is not None:  # a run looks whether it exists: a rollback must not need an old log
        recorded = _place(base, gates.replay.file, "gates.replay.file")
        found["replay"] = gates.replay.model_copy(update={"file": recorded})
    tls = config.promote.live_tls
    tls_files = {name: _file(base, file, f"promote.live_tls.{name}") for name, file in tls if file is not None}
    try:
        check_tls(tls_files.get("ca_file"), tls_files.get("cert_file"), tls_files.get("key_file"))
    except ValueError as exc:
        raise ConfigError(f"promote.{exc}") from exc
    metrics = {located(name, base): bound for name, bound in config.gates.metrics.items()}
    work_dir, models_root = _place(base, config.work_dir, "work_dir"), config.models_root
    if isinstance(models_root, Path):
        models_root = _place(base, models_root, "models_root")
        _check_apart(work_dir, models_root, config.name)
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"load": located(config.data.load, base), "file": _patterns(base, config.data.file)}
            ),
            "model": config.model.model_copy(update={"build": located(config.model.build, base)}),
            "serving": _serving(config, base, models_root),
            "gates": gates.model_copy(update={**found, "metrics": metrics}),
            "work_dir": work_dir,
            "models_root": models_root,
            "promote": config.promote.model_copy(
                update={"live_tls": tls.model_copy(update=tls_files), **_keys(config, base)}
            ),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
            "sweep": config.sweep.model_copy(
                update={name: located(getattr(config.sweep, name), base) for name in ("metric", "runner")}
            ),
        }
    )


def _keys(config: Config, base: Path) -> dict[str, Any]:
    """Return the files of keys with absolute paths; the one that signs need not be on each machine."""
    signing, trusted, approvers = config.promote.signing_key, config.promote.trusted_keys, config.promote.approvers
    return {
        "signing_key": signing and _place(base, signing, "promote.signing_key"),
        "trusted_keys": tuple(_file(base, file, "promote.trusted_keys") for file in trusted),
        "approvers": tuple(
            key if "-----BEGIN" in key else str(_file(base, Path(key), "promote.approvers")) for key in approvers
        ),
    }


def _serving(config: Config, base: Path, models_root: Path | str) -> Serving:
    """Return the settings of the throwaway server, with absolute paths."""
    files = {name: _file(base, file, f"serving.files.{name}") for name, file in config.serving.files.items()}
    attached = _attached(config, base, models_root)
    serving = config.serving.model_copy(update={"files": files, "attached": attached})
    try:
        _ = serving.most_rows
    except ValueError as exc:
        raise ConfigError(f"the file of --{PARAMETERS} in serving.files {exc}") from exc
    return serving


def _check_apart(work_dir: Path, models_root: Path, name: str) -> None:
    """Refuse directories in which a production server would load candidates that are not judged yet."""
    live, candidates = models_root / name, work_dir / "candidates"
    if live == work_dir or live in work_dir.parents or live.is_relative_to(candidates):
        raise ConfigError(
            f"models_root must not contain candidates: production watches '{cut(str(live))}', and candidates are in "
            f"'{cut(str(candidates))}'; set models_root or work_dir to another directory"
        )


def _attached(config: Config, base: Path, models_root: Path | str) -> Attached:
    """Return the settings of an attached server with its directory as an absolute path.

    Raises:
        ConfigError: server or directory are production's, or TensorFlow would read the path as a pattern.
    """
    attached = config.serving.attached
    if attached.url and place_of(attached.url) in map(place_of, config.promote.live_addresses):
        raise ConfigError(
            f"serving.attached.url must not be production's address, got '{attached.url}'; start another server"
        )
    if attached.directory is None:
        return attached
    directory = _place(base, attached.directory, "serving.attached.directory")
    if isinstance(models_root, Path) and directory.is_relative_to(models_root):
        raise ConfigError(
            f"serving.attached.directory must not be in models_root, which production watches, got "
            f"'{cut(str(directory))}'; give rehearsals a directory of their own"
        )
    path = attached.seen_as or str(directory)
    if any(mark in path for mark in "*?[\\"):  # TensorFlow finds variables by tensorflow::Env::GetMatchingPaths
        raise ConfigError(
            "the path of serving.attached.directory must not contain *, ?, [ or \\ for the server, got "
            f"'{cut(path)}', because TensorFlow reads them as patterns"
        )
    return attached.model_copy(update={"directory": directory})


def _patterns(base: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Return files and patterns of files with absolute paths; a run looks whether they exist."""
    return tuple(str(_place(base, Path(file).parent, "data.file") / Path(file).name) for file in files)


def _file(base: Path, path: Path, field: str) -> Path:
    """Return the absolute path of a file, which must exist."""
    place = _place(base, path, field)
    if not place.is_file():
        raise ConfigError(f"'{field}' must name an existing file, got '{cut(str(place))}'")
    return place


def _place(base: Path, path: Path, field: str) -> Path:
    """Return a path as absolute; it need not exist yet.

    Raises:
        ConfigError: the path cannot exist, such as a loop of links or a name that the file system does not accept.
    """
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise ConfigError(
            f"'{field}' must be a path without '~', which is not expanded here, got '{cut(str(path))}'; "
            "write ${HOME} instead"
        )
    try:
        place = Path(os.path.realpath(base / path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            place.stat()  # any other error means that nothing can ever be there
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ConfigError(f"'{field}' must be a valid path, got '{cut(str(path))}': {reason}") from exc
    return place


def _one_line(text: str) -> str:
    """Return a message as one printable line of bounded length, without secrets."""
    line = " ".join(redact(text).split())
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
