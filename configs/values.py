"""Prepares the values of a configuration: fills in `${NAME}` from the environment, and collects secrets."""

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
SWEPT = ("sweep.params", "sweep.variants", "sweep.runner_params")  # likewise
NAMED = (*PARAMS, *SWEPT, "promote.live_headers")  # mappings in which a name tells whether its value is a secret
MODES = ("promote.directory_mode", "promote.file_mode")  # octal by convention
SHOWN = (  # names of files, runs and processes, which cannot be hidden
    "name", "work_dir", "models_root", "data.load", "data.file", "model.build", "gates.contract.file",
    "gates.golden.file", "gates.replay.file", "tracking.experiment", "serving.image", "serving.images",
    "serving.platform", "serving.attached.directory", "serving.attached.seen_as", "sweep.metric", "sweep.runner",
)  # fmt: skip


def filled_in(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values with environment variables filled in, and remember its secrets.

    `${NAME}` in a text is replaced by the variable's value, always as text; `$${NAME}` is the text `${NAME}`.

    Raises:
        ConfigError: a variable is not set, or a text contains characters that files and addresses cannot.
    """
    whole: dict[str, Any] = _filled(dict(raw), "")
    for field, value in fields(whole):
        for secret in secrets_in(value, named=field in NAMED):
            if secret == MASK:
                raise ConfigError(f"'{field}': {MASK} stands for a hidden secret; {HOW_TO_FILL_IN}")
            remember(secret)
    return whole


def fields(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each field; `data.params` and similar mappings are one value each."""
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
            f"'{where[:80]}' must not begin with 0, because YAML reads it as an octal number; "
            f"write {value:d}, or put text in quotes"
        )
    if isinstance(value, bool) and _is_number(where):
        received = "true (YAML reads yes and on as true)" if value else "false (YAML reads no and off as false)"
        raise ConfigError(f"'{where[:80]}' must be a number, got {received}")
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: _of_environment(found, where), _checked(value, where))
    return value


def _checked(text: Any, where: str) -> Any:
    """Return a value; a text must be valid in UTF-8 and, outside of `params`, have no NUL character."""
    if isinstance(text, str):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"'{where[:80] or 'a key'}' must be valid UTF-8 text, got an unpaired surrogate")
        if "\0" in text and not where.startswith(PARAMS):
            raise ConfigError(f"'{where[:80]}' must not contain the NUL character")
    return text


def _of_environment(found: re.Match[str], where: str) -> str:
    escaped, name = found.groups()
    if escaped:
        return f"${{{name}}}"
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(
            f"'{where[:80]}' uses the environment variable {name[:80]}, which is not set; "
            f"set it, or write $${{{name[:80]}}} for the literal text"
        )
    if _may_be_secret(where, value):
        remember(value, f"${{{name}}}")
    return str(_checked(value, where))


def _may_be_secret(where: str, value: str) -> bool:
    """Return whether a value may be a secret; a number, a choice or a name that its field accepts is not one."""
    kinds = _kinds(where)
    if where in SHOWN or value.lower() in ("true", "false", *map(str, kinds)):
        return False
    return not (kinds & {int, float} and NUMBER.fullmatch(value))


def _is_number(where: str) -> bool:
    """Return whether a field takes a number and no truth value; so do the bounds of every metric."""
    kinds = _kinds(where)
    return where.startswith("gates.metrics.") or (bool(kinds & {int, float}) and not kinds & {bool, str})


def _kinds(where: str) -> set[Any]:
    """Return the types of a field, or of the section or mapping that contains it."""
    annotation: Any = Config
    for key in where.split("."):
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel) and key in annotation.model_fields):
            break
        annotation = annotation.model_fields[key].annotation
    return {annotation, get_origin(annotation), *get_args(annotation)}
