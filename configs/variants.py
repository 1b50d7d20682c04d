"""The variants of a sweep: which values they have, and the configuration of each."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.loading import load_config
from configs.redaction import redact
from configs.schema import Config
from configs.sections.sweep import Sweep

Values = Mapping[str, Any]
"""The value of each dotted key that a variant sets, such as `{"model.params.hidden": 64}`."""

VARIABLE = re.compile(r"\$\{(?=[A-Za-z_][A-Za-z0-9_]*\})")  # a text that loading.py would fill in
LONGEST = 60  # characters of a value, for people
ATTEMPTS = 100  # draws for each variant that is asked for, until there are enough different ones


@dataclass(frozen=True)
class Variant:
    """One variant of a sweep.

    Attributes:
        number: from 1. values: what it sets. config: the whole configuration with these values.
        overrides: `--set` items that give another command the same configuration.
    """

    number: int
    values: Values
    overrides: tuple[str, ...]
    config: Config

    @property
    def words(self) -> str:
        """Return what it sets, for people, such as `hidden 64, batch_size 16`."""
        return redact(in_words(self.values))

    def __str__(self) -> str:
        """Return the short form, such as `variant 3 (hidden 64, batch_size 16)`."""
        return f"variant {self.number} ({self.words})"


def load_variants(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, tuple[Variant, ...]]:
    """Read a configuration, and the configuration of each variant of its sweep; variants that are equal count once.

    Args:
        path, overrides: as for `load_config`.

    Raises:
        ConfigError: the configuration, or that of a variant, cannot be used; or there are no variants.
    """
    config = load_config(path, overrides)
    found: dict[str, Variant] = {}
    for values in variants(config.sweep):
        items = as_overrides(values)
        try:
            own = load_config(path, [*overrides, *items])
        except ConfigError as exc:
            raise ConfigError(f"the variant with {in_words(values)}: {exc}") from exc
        # not in pydantic's JSON, where a number that is not finite is null
        trained = json.dumps(own.model_dump(include={"model", "training", "seed"}), sort_keys=True, default=str)
        found.setdefault(trained, Variant(len(found) + 1, values, items, own))
    if not found:
        raise ConfigError("a sweep needs variants: set sweep.params, such as {model.params.hidden: [32, 64]}")
    return config, tuple(found.values())


def variants(sweep: Sweep) -> list[Values]:
    """Return what each variant sets: those that are listed, then every combination of params, or random draws.

    Equal ones are left out, and so are draws after the possible ones are exhausted. The same seed gives the same draws.

    Raises:
        ConfigError: a value is not one that YAML and JSON share.
    """
    wanted = len(sweep.variants) + sweep.draws
    found: dict[tuple[str, ...], Values] = {}
    for values in itertools.chain(sweep.variants, _drawn(sweep) if sweep.draws else _grid(sweep)):
        found.setdefault(tuple(sorted(as_overrides(values))), values)
        if sweep.draws and len(found) >= wanted:
            break
    return list(found.values())


def _grid(sweep: Sweep) -> Iterator[Values]:
    if sweep.params:
        yield from (dict(zip(sweep.params, row, strict=True)) for row in itertools.product(*sweep.params.values()))


def _drawn(sweep: Sweep) -> Iterator[Values]:
    # Python promises the same numbers from a seed for `random()` alone.
    # Source: https://docs.python.org/3/library/random.html, notes on reproducibility.
    share = random.Random(sweep.seed).random  # noqa: S311  no secret depends on it
    for _ in range(ATTEMPTS * sweep.draws):
        yield {key: _draw(values, share()) for key, values in sweep.params.items()}


def _draw(values: Any, share: float) -> Any:
    """Return the value at a share, from 0 to below 1, of a list or a range; a range of integers includes high."""
    if isinstance(values, list):
        return values[int(share * len(values))]
    low, high, integer = values["low"], values["high"], values.get("integer", False)
    end = high + 1 if integer else high
    if values.get("log"):
        value = math.exp(math.log(low) + share * (math.log(end) - math.log(low)))
    else:
        value = low + share * (end - low)
    return min(max(int(value), low), high) if integer else min(max(value, low), high)


def as_overrides(values: Values) -> tuple[str, ...]:
    """Return the `section.key=value` items that set these values, in the form of `--set`.

    Raises:
        ConfigError: a value is not one that YAML and JSON share.
    """
    return tuple(f"{key}={_as_yaml(value, key)}" for key, value in values.items())


def _as_yaml(value: Any, key: str) -> str:
    """Return a value as YAML in one line, which is read back as the same value."""
    if isinstance(value, Mapping):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise ConfigError(f"the mappings of '{key}' in sweep must have text as keys, got {odd[0]!r}; quote it")
        return f"{{{', '.join(f'{_quoted(name)}: {_as_yaml(item, key)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_as_yaml(item, key) for item in value)}]"
    if isinstance(value, str):
        return _quoted(VARIABLE.sub("$${", value))  # else it would be looked up in the environment
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        text = repr(value) if math.isfinite(value) else repr(value).replace("inf", ".inf").replace("nan", ".nan")
        return text if "." in text else text.replace("e", ".0e")  # YAML reads 1e-05 as text
    raise ConfigError(f"the values of '{key}' in sweep must be JSON values, got a {type(value).__name__}; quote text")


def _quoted(text: str) -> str:
    escaped = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(escaped)}"'


def in_words(values: Values) -> str:
    """Return the values for people, such as `hidden 64, batch_size 16`; the last part of a key is enough."""
    short = [key.rpartition(".")[2] for key in values]
    names = short if len({*short}) == len(short) else list(values)
    shown = map(_shown, values.values())
    return ", ".join(f"{name} {value}" for name, value in zip(names, shown, strict=True)) or "nothing set"


def _shown(value: Any) -> str:
    """Return a value so that the number 1, the number 1.0 and the text 1 look different."""
    if isinstance(value, float):
        text = f"{value:.6g}"
        return f"{text}.0" if text.lstrip("-").isdecimal() else text
    text = value if isinstance(value, str) and _is_plain(value) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _is_plain(text: str) -> bool:
    """Return whether YAML reads a text without quotation marks as this text."""
    try:
        return bool(text) and yaml.safe_load(text) == text
    except yaml.YAMLError:
        return True  # it is nothing else, at least
