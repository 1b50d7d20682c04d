"""What stands in a configuration, before its types are checked: `${NAME}` from the environment, and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from configs.errors import ConfigError
from configs.redaction import HOW_TO_FILL_IN, MASK, remember, secrets_in
from configs.schema import Config
from configs.yaml_text import Octal

REFERENCE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")
NUMBER = re.compile(r"[-+]?[0-9][0-9._]*(e[-+]?[0-9]+)?", re.IGNORECASE)
PARAMS = ("data.params", "model.params")  # the user's own names and values
MODES = ("promote.directory_mode", "promote.file_mode")  # octal by custom
SHOWN = (  # what files, runs and processes are called by, and cannot be hidden
    "name", "work_dir", "models_root", "data.load", "model.build", "gates.contract.file",
    "gates.golden.file", "tracking.experiment", "serving.image", "serving.images", "serving.platform",
)  # fmt: skip


def filled_in(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values with those of the environment, and know its secrets from now on.

    `${NAME}` anywhere in a text value is the variable's value, always as text; `$${NAME}` is the text `${NAME}`.

    Raises:
        ConfigError: a variable is not set, or a text holds what no file, address or page can.
    """
    whole: dict[str, Any] = _filled(dict(raw), "")
    for field, value in fields(whole):
        for secret in secrets_in(value, named=field in PARAMS):
            if secret == MASK:
                raise ConfigError(f"'{field}': {MASK} stands for a secret that was not shown; {HOW_TO_FILL_IN}")
            remember(secret)
    return whole


def fields(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give dotted name and value of what is filled in, `data.params` and its like as one value each."""
    for section, value in raw.items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{key}", item) for key, item in value.items())
        else:
            yield str(section), value


def _filled(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {_checked(key, where): _filled(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, where) for item in value]
    if isinstance(value, Octal) and where not in MODES:
        raise ConfigError(
            f"'{where[:80]}' begins with 0, and YAML reads it as octal: {value:d}; write that, or quotes around a text"
        )
    if isinstance(value, bool) and _is_number(where):
        raise ConfigError(f"'{where[:80]}' must be a number, got {value}; YAML reads yes and on so, too")
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: _of_environment(found, where), _checked(value, where))
    return value


def _checked(text: Any, where: str) -> Any:
    """Return a text (or another value) that can be written as UTF-8 and, outside of `params`, used in a path."""
    if isinstance(text, str):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"'{where[:80] or 'a key'}' must be text that UTF-8 can write, and is not")
        if "\0" in text and not where.startswith(PARAMS):
            raise ConfigError(f"'{where[:80]}' must not hold the character NUL")
    return text


def _of_environment(found: re.Match[str], where: str) -> str:
    escaped, name = found.groups()
    if escaped:
        return f"${{{name}}}"
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(
            f"'{where[:80]}' takes the environment variable {name[:80]}, which is not set; "
            f"set it, or write $${{{name[:80]}}} for the text itself"
        )
    if _may_be_secret(where, value):
        remember(value, f"${{{name}}}")
    return str(_checked(value, where))


def _may_be_secret(where: str, value: str) -> bool:
    """Return whether a value may be a secret: a number, a choice or a name that its field takes is none."""
    kinds = _kinds(where)
    if where in SHOWN or value.lower() in ("true", "false", *map(str, kinds)):
        return False
    return not (kinds & {int, float} and NUMBER.fullmatch(value))


def _is_number(where: str) -> bool:
    """Return whether a field takes a number and no truth value; a metric's bounds are the user's own names."""
    kinds = _kinds(where)
    return where.startswith("gates.metrics.") or (bool(kinds & {int, float}) and not kinds & {bool, str})


def _kinds(where: str) -> set[Any]:
    """Return the types that a field takes, or those of the section or mapping that it stands in."""
    annotation: Any = Config
    for key in where.split("."):
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel) and key in annotation.model_fields):
            break
        annotation = annotation.model_fields[key].annotation
    return {annotation, get_origin(annotation), *get_args(annotation)}
