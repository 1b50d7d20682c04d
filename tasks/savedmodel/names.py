"""Checks the names under which inputs and outputs are served, and suggests names for inputs that have invalid ones."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tasks.errors import SignatureMismatch

_TENSORFLOWS = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*(?<!/)")
"""Source: tensorflow/python/framework/ops.py, _VALID_OP_NAME_REGEX; a `/` at the end closes a scope."""
_RESERVED = frozenset([*keyword.kwlist, "self"])
"""Names that an input cannot have because TensorFlow makes it a parameter of a Python method."""


def check_input_names(served: Mapping[str, str]) -> None:
    """Refuse names of inputs that TensorFlow cannot export.

    Args:
        served: maps the served name of an input to Keras' name.

    Raises:
        SignatureMismatch: a name is invalid; the message suggests names for `export.inputs`.
    """
    bad = [*_not_allowed(served), *_alike(served)]
    if bad:
        names = ", ".join(map(repr, bad))
        raise SignatureMismatch(
            "the served name of an input must consist of letters, digits, '_', '.', '-' and '/', start with a letter, "
            "digit or '.', not be a Python keyword or 'self', and differ from the others in more than case and "
            f"punctuation, got {names}; to rename them, add this line below export: {suggestion(served)}"
        )


def check_output_names(names: Iterable[str]) -> None:
    """Refuse names of outputs that a SavedModel cannot store.

    Raises:
        SignatureMismatch: a name is not text, is empty, or is not printable.
    """
    for name in names:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise SignatureMismatch(
                f"the name of an output must be printable text, got {name!r}; rename it in the model or export.outputs"
            )


def suggestion(served: Mapping[str, str]) -> str:
    """Return the line of a configuration that serves the same inputs under valid names."""
    taken: set[str] = set()
    bad = {*_not_allowed(served), *_alike(served)}
    renamed = {_free_name(_plain(name) if name in bad else name, taken): own for name, own in served.items()}
    style: dict[str, Any] = {"default_flow_style": True, "allow_unicode": True, "sort_keys": False, "width": 10**9}
    line: str = yaml.safe_dump({"inputs": renamed}, **style)
    return line.strip().removeprefix("{").removesuffix("}")


def _not_allowed(names: Iterable[str]) -> list[str]:
    return [name for name in names if not _TENSORFLOWS.fullmatch(name) or name in _RESERVED]


def _alike(names: Iterable[str]) -> list[str]:
    """Return the names that TensorFlow cannot distinguish from an earlier one."""
    seen: set[str] = set()
    found = []
    for name in names:
        key = _parameter(name)
        if key in seen:
            found.append(name)
        seen.add(key)
    return found


def _parameter(name: str) -> str:
    """Return the parameter name that TensorFlow makes of a name; case does not distinguish nodes of a graph."""
    plain = re.sub(r"[^A-Za-z0-9]", "_", name).lower()
    return plain if plain[:1].isalpha() else f"arg_{plain}"


def _plain(name: str) -> str:
    """Return a valid name made of the letters and digits of a name that ASCII can represent."""
    ascii_only = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", ascii_only).strip("_") or "input"
    return f"{plain}_" if plain in _RESERVED else plain


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name, with a number if it is taken, and add it to the taken names."""
    free, number = name, 1
    while _parameter(free) in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(_parameter(free))
    return free
