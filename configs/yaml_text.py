"""Reads the YAML of a configuration: depth and size are bounded, keys are unique, and errors have one type."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

DEEPEST = 40  # levels of nested mappings and lists, with aliases expanded
MOST_VALUES = 50_000  # with aliases expanded
OCTAL, BASE_60 = re.compile(r"[-+]?0[0-7_]*[0-7]"), re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
MOST_DIGITS = 400  # of a number; Python's limit is 4,300


class Octal(int):
    """A number that was written with a leading 0, which YAML 1.1 reads as octal: 010 is 8."""


def parse_yaml(text: str) -> Any:
    """Return the single document of a text as plain Python values.

    Raises:
        yaml.YAMLError: the text is not valid YAML, or holds values that a configuration must not. The message is one
            line without the surrounding text, which may contain a secret.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as exc:
        raise yaml.YAMLError(_in_words(exc)) from None
    except (ValueError, OverflowError) as exc:  # an escape that is no character
        raise yaml.YAMLError(f"it contains an escape that is not a character: {exc}") from exc


def _in_words(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + " ".join(str(problem).split())


class _Loader(yaml.SafeLoader):
    """Measures each node before constructing it.

    An alias counts as the values that it refers to: nested lists of aliases can be a short text that expands to more
    values than memory can hold.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open = self._composed = 0
        self._measured: dict[int, tuple[int, int]] = {}  # id of a node: values in it, and its depth

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node and measure it."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._open, self._composed = self._open + 1, self._composed + 1
        _check(self._composed <= MOST_VALUES, f"it may have at most {MOST_VALUES:,} values", event)
        _check(self._open <= DEEPEST, f"mappings and lists may be at most {DEEPEST} levels deep", event)
        node = super().compose_node(parent, index)
        self._open -= 1
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)[:80]
            _check(id(node) in self._measured, f"the alias '*{name}' refers to a value that contains it", event)
        elif node is not None:
            parts = [self._measured[id(child)] for child in _children(node)]
            size, depth = 1 + sum(part[0] for part in parts), 1 + max((part[1] for part in parts), default=0)
            _check(size <= MOST_VALUES, f"it may have at most {MOST_VALUES:,} values with aliases expanded", event)
            _check(depth <= DEEPEST, f"it may be at most {DEEPEST} levels deep with aliases expanded", event)
            self._measured[id(node)] = size, depth
        return node

    def construct_mapping(self, node: Node, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping, and refuse a repeated key, of which PyYAML would silently drop one value."""
        seen = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode):
                continue
            special = key.tag.endswith((":merge", ":value"))
            name = (key.tag, key.value) if special else self.construct_object(key)
            _check(name not in seen, f"the key '{key.value[:80]}' is given twice; remove one of them", key)
            seen.add(name)
        return super().construct_mapping(node, deep)  # type: ignore[arg-type]  # the base class refuses other nodes

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Construct a value; a value that its type does not allow, such as a 13th month, is an error of the text."""
        if isinstance(node.value, str) and node.tag.endswith((":int", ":float")):
            many = len(node.value)
            _check(many <= MOST_DIGITS, f"a number may have at most {MOST_DIGITS} digits, got {many:,}", node)
            base_60 = f"YAML reads '{node.value}' as a number in base 60; write the number, or put text in quotes"
            _check(not BASE_60.fullmatch(node.value), base_60, node)
        try:
            value = super().construct_object(node, deep)
            written = node.tag.endswith(":int") and isinstance(node.value, str) and OCTAL.fullmatch(node.value)
            return Octal(value) if written else value
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as exc:
            kind = node.tag.rpartition(":")[2]
            shown = str(node.value)[:80] if not isinstance(node, CollectionNode) else "a collection"
            raise _problem(f"'{shown}' is not a valid {kind[:80]} ({exc})", node) from exc


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, CollectionNode) else []


def _check(holds: bool, problem: str, at: Node | yaml.Event) -> None:
    if not holds:
        raise _problem(problem, at)


def _problem(text: str, at: Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=at.start_mark)  # type: ignore[arg-type]  # or libyaml's
