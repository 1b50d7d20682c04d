"""pydantic's errors in one line: the field as the user wrote it, the rule, and what was received."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from configs.redaction import redact, redacted
from configs.schema import Config
from configs.user_code import nearest
from configs.values import NAMED

LONGEST_VALUE = 120  # characters
RETIRED = {
    "data.stratify": "data.stratify was removed, because it assigned rows by position: one more row moved all others, "
    "and the champion was judged on rows that it was trained on. Remove the key. To split the rows yourself, set "
    "data.split; the report shows the label shares",
}
"""Why a field of earlier releases is gone, and what to do."""
RULES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "above {gt:,.15g}",
    "greater_than_equal": "at least {ge:,.15g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "invalid_key": "text, as every key must; put it in quotes",
    "less_than": "below {lt:,.15g}",
    "less_than_equal": "at most {le:,.15g}",
    "literal_error": "{expected}",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a path, which is text",
    "string_pattern_mismatch": "module:function or FILE.py:function",
    "string_type": "text; put it in quotes if YAML reads it as something else (yes, no, null, a number, a date)",
    "tuple_type": "a list",
}
"""What a field must be, by the type of pydantic's error."""


def explain(errors: Sequence[ErrorDetails], raw: Mapping[str, Any]) -> str:
    """Return the first of pydantic's errors as the rule, what was received, and what to do.

    Args:
        raw: the values that were refused; they tell the user's keys from the names that pydantic adds to a location.
    """
    error = errors[0]
    where = _place(error, raw)
    if where in RETIRED:
        return RETIRED[where]
    if error["type"] == "extra_forbidden":
        *section, key = (str(part) for part in error["loc"])
        return f"unknown key '{where}'; {nearest(cut(key), _known_keys(section))}"
    if error["type"] == "missing":
        return f"'{where}' is required but not set"
    received = _shown(error["input"], where)
    if error["type"] == "value_error":
        rule = error["msg"].removeprefix("Value error, ")
    else:  # every kind that a field takes is an error of its own
        rule = f"must be {', or '.join(dict.fromkeys(_rule(other) for other in errors if _place(other, raw) == where))}"
    if rule.startswith("must "):
        return f"'{where}' {rule}{';' if ';' in rule else ','} got {received}"
    return f"'{where}': {rule}; got {received}"


def cut(text: str) -> str:
    """Return a text without secrets, or the beginning of a long one."""
    text = redact(text)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text):,} characters)"


def _place(error: ErrorDetails, raw: Mapping[str, Any]) -> str:
    """Return the dotted name of a value, as far as the location is the user's own keys and positions."""
    name = ""
    node: Any = raw
    for part in error["loc"]:
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            name, node = f"{name}[{part}]", node[part]
        elif isinstance(node, Mapping) and part in node:
            name, node = f"{name}.{cut(str(part))}", node[part]
        elif isinstance(node, Mapping) and error["type"] in ("missing", "invalid_key"):
            return f"{name}.{cut(str(part))}".removeprefix(".")
        else:
            break
    return name.removeprefix(".")


def _rule(error: ErrorDetails) -> str:
    rule = RULES.get(error["type"])
    if rule is None:
        return error["msg"].removeprefix("Input should be ")
    if isinstance(error["input"], list | dict):  # quotes would not help
        rule = rule.partition(";")[0]
    return rule.format(**error.get("ctx", {}))


def _shown(value: Any, where: str) -> str:
    """Return a value that was received, as YAML would say it, without secrets."""
    if value is None or isinstance(value, bool):
        return {None: "no value (null)", True: "true", False: "false"}[value]
    return cut(repr(redacted(value, named=where.startswith(NAMED))))


def _known_keys(location: Sequence[str]) -> list[str]:
    """Return the keys of the section at `location`."""
    section: type[BaseModel] = Config
    for key in location:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return ["min", "max", "worse_by", "better_by"]  # a metric's bound is the only section within a mapping
        section = field.annotation
    return list(section.model_fields)
