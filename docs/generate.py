"""Write the tables of docs/configuration.md from the configuration's schema: `make docs`.

What stands outside the two marks in that page is written by hand and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.schema import Config

PAGE = Path(__file__).with_name("configuration.md")
BEGIN, END = "<!-- begin: written by `make docs` -->\n", "<!-- end: written by `make docs` -->\n"
PARTS = {"Feature": ("a feature", "data.features"), "Bound": ("a bound", "gates.metrics")}
"""The values of mappings that have fields themselves, with the field of the mapping."""
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
HEAD = "| field | values | default | meaning |\n|---|---|---|---|\n"
Schema = Mapping[str, Any]


def page(text: str) -> str:
    """Return the page with the tables that the schema gives.

    Raises:
        ValueError: a mark is missing or appears twice, so that text outside of the marks could be lost.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{PAGE.name} must have one line {BEGIN.strip()!r} and, below it, one line {END.strip()!r}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tables(Config.model_json_schema())}{END}{after}"


def tables(schema: Schema) -> str:
    """Return a heading and a table for each section, and one for each kind of value that a mapping has."""
    definitions: Schema = schema["$defs"]
    sections = [("General", "", schema), *_sections(schema, definitions, "")]
    parts = [_table(title, prefix, section) for title, prefix, section in sections]
    parts += [
        _table(f"{name.capitalize()} of `{field}`", "", definitions[kind]) for kind, (name, field) in PARTS.items()
    ]
    return "".join(parts)


def _sections(schema: Schema, definitions: Schema, prefix: str) -> Iterator[tuple[str, str, Schema]]:
    for key, field in schema["properties"].items():
        if "$ref" in field:
            section = definitions[field["$ref"].rpartition("/")[2]]
            yield f"`{prefix}{key}`", f"{prefix}{key}.", section
            yield from _sections(section, definitions, f"{prefix}{key}.")


def _table(title: str, prefix: str, section: Schema) -> str:
    about, required = section["description"], section.get("required", ())
    rows = [
        f"| `{prefix}{key}` | {_values(field)} | {'required' if key in required else _default(field)} "
        f"| {escaped(field['description'])} |\n"
        for key, field in section["properties"].items()
        if "$ref" not in field
    ]
    return f"\n### {title}\n{about}\n\n{HEAD}{''.join(rows)}"


def escaped(text: str) -> str:
    """Return a text as a cell of a Markdown table shows it."""
    return text.replace("<", "\\<").replace("|", "\\|")


def _values(field: Schema) -> str:
    """Return in words what a field takes, such as `number, above 0 and below 1`."""
    if "$ref" in field:
        return PARTS[field["$ref"].rpartition("/")[2]][0]
    if "anyOf" in field:
        options = [_values(option) for option in field["anyOf"] if option["type"] != "null"]
        kept = [option for option in options if not (option == "whole number" and "number" in options)]
        return ", or ".join(kept)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"] if value != "")
    if field.get("type") == "array":
        return f"list: {_values(field['items'])}"
    if field.get("type") == "object":
        inner = field["additionalProperties"]
        return "mapping" if inner is True else f"mapping to: {_values(inner)}"
    kind = "path" if field.get("format") == "path" else TYPES[field["type"]]
    return f"{kind}{_range(field)}"


def _range(field: Schema) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {field[key]:,}" for key, word in words.items() if key in field]
    return f", {' and '.join(limits)}" if limits else ""


def _default(field: Schema) -> str:
    value = field["default"]
    if isinstance(value, list) and value == field["items"].get("enum"):
        return "all of them"
    if value in ("", None) or value in ([], {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
