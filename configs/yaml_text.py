"""YAML from people's files as plain values, bounded: whatever the text is, reading it ends, and soon."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # what aliases repeat is counted each time
MAX_DEPTH = 50
MERGE = "tag:yaml.org,2002:merge"


class TextError(ValueError):
    """The text is no YAML that can be used; the message says why, in one line."""


def read_file(path: Path) -> str:
    """Return the text of a file.

    Raises:
        TextError: it is no plain file, too large, or not UTF-8.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, and a device has no end
        raise TextError("is not a file")
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TextError(f"must be at most {MAX_BYTES:,} bytes long")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise TextError(f"must be UTF-8 text; byte {exc.start} is not") from exc


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        TextError: it is not YAML, names a key twice, contains itself, or is too large once its aliases are followed.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    except TextError:
        raise
    except yaml.YAMLError as exc:
        raise TextError(f"must be YAML: {' '.join(str(exc).split())[:400]}") from exc
    except RecursionError as exc:
        raise TextError(f"must be nested at most {MAX_DEPTH} levels deep") from exc
    except (ValueError, OverflowError, TypeError, AttributeError) as exc:  # a date that is none, a number without end
        raise TextError(f"must hold values that can be read: {' '.join(str(exc).split())[:200]}") from exc


def _check(root: yaml.Node) -> None:
    """Walk what the text says, aliases followed, before any value is made of it."""
    n_values = 0
    pending: list[tuple[yaml.Node, tuple[int, ...]]] = [(root, ())]
    while pending:
        node, above = pending.pop()
        n_values += 1
        if id(node) in above:
            raise TextError(f"must not contain itself{_where(node)}")
        if n_values > MAX_VALUES:
            raise TextError(f"must hold at most {MAX_VALUES:,} values, those that aliases repeat included")
        if len(above) > MAX_DEPTH:
            raise TextError(f"must be nested at most {MAX_DEPTH} levels deep{_where(node)}")
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            pending += [(child, inside) for _, child in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pending += [(child, inside) for child in node.value]


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise TextError(f"must have text for keys{_where(key)}")
        if key.tag == MERGE:
            continue
        if key.value in seen:
            raise TextError(f"must name each key once, got '{key.value[:80]}' twice{_where(key)}; remove one of them")
        seen.add(key.value)


def _where(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"


def check_values(value: Any, where: str = "") -> None:
    """Refuse values that no field takes, and that would be an error somewhere later.

    Free parameters (`data.params`, `model.params`) may hold NUL characters and numbers of any size.

    Raises:
        TextError: a lone surrogate or a NUL character in a text, or a number beyond 64 bits.
    """
    free = where.startswith(("data.params", "model.params"))
    if isinstance(value, dict):
        for key, inner in value.items():
            check_values(str(key), f"{where}.{key}".lstrip(".") if not isinstance(inner, dict | list) else where)
            check_values(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            check_values(inner, where)
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise TextError(f"{printable(where)} must be text that UTF-8 can write, got {printable(value)}")
        if "\0" in value and not free:
            raise TextError(f"{printable(where)} must hold no NUL character, got {printable(value)}")
    elif isinstance(value, int) and not free and not -(2**63) <= value < 2**63:
        raise TextError(f"{printable(where)} must be a number of at most 64 bits, got {printable(value)}")


def printable(value: Any) -> str:
    """Return a value as a message shows it: one line, at most about 200 characters, whatever it holds."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**60:
        return "a number of over 60 digits"
    if isinstance(value, str | datetime.date):
        text = repr(value)
    else:
        try:
            text = repr(value)
        except (ValueError, RecursionError):  # a number of over 4,300 digits inside
            text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 200 else f"{text[:200]}..."
