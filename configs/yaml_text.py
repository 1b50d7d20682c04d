"""YAML as a configuration needs it: bounded in depth and size, every key once, and one kind of error."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

DEEPEST = 40  # mappings and lists in one another, aliases followed
MOST_VALUES = 50_000  # with each alias counted as often as it is used
OCTAL, BASE_60 = re.compile(r"[-+]?0[0-7_]*[0-7]"), re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
MOST_DIGITS = 400  # of a number; Python reads no integer of more than 4,300


class Octal(int):
    """A number that was written with a leading 0, which YAML 1.1 reads as octal: 010 is 8."""


def parse_yaml(text: str) -> Any:
    """Return the one document of a text as plain Python values.

    Raises:
        yaml.YAMLError: in one line, why it is no YAML, or what of it no configuration may hold. The text around it is
            not shown: it may hold a secret.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as exc:
        raise yaml.YAMLError(_in_words(exc)) from None
    except (ValueError, OverflowError) as exc:  # an escape of a character that there is not
        raise yaml.YAMLError(f"it holds a character that there is not: {exc}") from exc


def _in_words(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + " ".join(str(problem).split())


class _Loader(yaml.SafeLoader):
    """Knows how large a node is before anything is made of it.

    An alias counts as what it stands for: ten lists of ten aliases each, a few levels deep, are a short text and more
    values than a machine can hold.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open = self._composed = 0
        self._measured: dict[int, tuple[int, int]] = {}  # id of a node: values in it, and its depth

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node and measure it."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._open, self._composed = self._open + 1, self._composed + 1
        _check(self._composed <= MOST_VALUES, f"at most {MOST_VALUES:,} values, and there are more", event)
        _check(self._open <= DEEPEST, f"mappings and lists may be {DEEPEST} levels deep, and are deeper", event)
        node = super().compose_node(parent, index)
        self._open -= 1
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)[:80]
            _check(id(node) in self._measured, f"the alias '*{name}' stands within what it stands for", event)
        elif node is not None:
            parts = [self._measured[id(child)] for child in _children(node)]
            size, depth = 1 + sum(part[0] for part in parts), 1 + max((part[1] for part in parts), default=0)
            _check(size <= MOST_VALUES, f"at most {MOST_VALUES:,} values, aliases followed, and there are more", event)
            _check(depth <= DEEPEST, f"aliases may lead {DEEPEST} levels deep, and lead deeper", event)
            self._measured[id(node)] = size, depth
        return node

    def construct_mapping(self, node: Node, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping, unless it has a key twice: one of the two would be dropped without a word."""
        seen = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode):
                continue
            special = key.tag.endswith((":merge", ":value"))
            name = (key.tag, key.value) if special else self.construct_object(key)
            _check(name not in seen, f"the key '{key.value[:80]}' must stand here once, and stands twice", key)
            seen.add(name)
        return super().construct_mapping(node, deep)  # type: ignore[arg-type]  # another node is refused there

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Make a value; what its type cannot take (a 13th month) is an error of the text."""
        if isinstance(node.value, str) and node.tag.endswith((":int", ":float")):
            many = len(node.value)
            _check(many <= MOST_DIGITS, f"a number may have {MOST_DIGITS} digits, and this one has {many:,}", node)
            base_60 = f"YAML reads '{node.value}' as a number of base 60; write the number, or quotes around a text"
            _check(not BASE_60.fullmatch(node.value), base_60, node)
        try:
            value = super().construct_object(node, deep)
            written = node.tag.endswith(":int") and isinstance(node.value, str) and OCTAL.fullmatch(node.value)
            return Octal(value) if written else value
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as exc:
            kind = node.tag.rpartition(":")[2]
            shown = str(node.value)[:80] if not isinstance(node, CollectionNode) else "a collection"
            raise _problem(f"'{shown}' is no {kind[:80]} ({exc})", node) from exc


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, CollectionNode) else []


def _check(holds: bool, problem: str, at: Node | yaml.Event) -> None:
    if not holds:
        raise _problem(problem, at)


def _problem(text: str, at: Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=at.start_mark)  # type: ignore[arg-type]  # or libyaml's
