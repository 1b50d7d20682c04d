"""Start a project: write a configuration and the code of a model, both ready to run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from configs.errors import ConfigError
from flows.commands import ended
from flows.console import Parser, say
from flows.streams import our_streams
from tasks.datasets.column_files import other_separator
from tasks.datasets.guess import FEW, MOST_CLASSES, Facts, input_names, like_an_id, model_name, too_large, unfit
from tasks.outcomes import DONE
from tasks.program import command_here, command_name, short_path

EXAMPLE: dict[str, Any] = {
    "name": "late_payment",
    "csv": None,
    "numbers": ["amount", "days_since_last_order"],
    "texts": ["country"],
    "classes": [0, 1],
    "output": "probabilities",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the two files and return the exit code."""
    with our_streams():
        args = build_parser().parse_args(argv)
        return ended(lambda: _begin(args))


def _begin(args: argparse.Namespace) -> int:
    if args.target and not args.csv:
        raise ConfigError(f"--target names a column of a table, got '{args.target}' without one; add --csv FILE")
    settings = _of_csv(args.csv, args.target, args.directory) if args.csv else EXAMPLE
    _write(args.directory, settings)
    config = short_path(args.directory / "cfg.yaml")
    say(f"Wrote {config} and {short_path(args.directory / 'my_model.py')}.")
    for column, reason in settings.get("left_out", {}).items():
        say(f"The column {column} is left out because {reason}.")
    if settings.get("gaps"):
        say(f"{settings['gaps']:,} of {settings['rows']:,} rows are left out because a value is missing in them.")
    say("Train, judge and promote the model:", command=f"{command_here('flows.train_and_serve')} --config {config}")
    return DONE


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.init"),
        description="Write cfg.yaml and my_model.py, ready to run, for example rows or for your own table.",
        epilog="Exit codes: 0 written; 2 the table cannot be used, or a file exists already; 1 any other error.",
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), help="where to write them (default: here)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a table with a header line")
    parser.add_argument("--target", metavar="COLUMN", help="the column that the model predicts")
    return parser


def _write(directory: Path, settings: dict[str, Any]) -> None:
    """Write both files, or neither if one exists already."""
    environment = Environment(  # noqa: S701  Python and YAML, not HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    texts = {}
    for name in ("cfg.yaml", "my_model.py"):
        template = environment.from_string((files("flows") / "templates" / f"{name}.j2").read_text("utf-8"))
        texts[directory / name] = template.render(**settings)
    there = [path for path in texts if path.exists()]
    if there:
        raise ConfigError(f"init does not replace files, and '{there[0]}' exists; move it, or name another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"the directory must be writable, got '{directory}': {exc.strerror}") from exc


def _of_csv(file: Path, target: str | None, directory: Path) -> dict[str, Any]:
    """Return the settings for a table.

    Raises:
        ConfigError: the table cannot be read, or has nothing that a model can learn from.
    """
    import pandas as pd

    table = _table(file)
    listed = ", ".join(f"'{column}'" for column in table.columns[:40])
    if target is None:
        raise ConfigError(f"--csv needs --target COLUMN, the column to predict; the columns are {listed}")
    if target not in table:
        why = other_separator(list(table.columns)) or f"the columns are {listed}"
        raise ConfigError(f"--target must name a column of '{file}', got {target!r}; {why}")
    left_out = {column: reason for column in table.columns if column != target and (reason := _unfit(table[column]))}
    kept = [column for column in table.columns if column != target and column not in left_out]
    if not kept:
        why = "".join(f"; '{column}' is left out because {reason}" for column, reason in [*left_out.items()][:5])
        raise ConfigError(f"'{file}' must have a column beside '{target}' that a model can learn from{why}")
    rows = table[[*kept, target]].dropna()
    if not len(rows):
        raise ConfigError(f"'{file}' must have rows without missing values, and it has none; fill the values in")
    names = input_names(kept)
    is_text = {column: not pd.api.types.is_numeric_dtype(table[column]) for column in kept}
    return {
        "name": model_name(file.stem),
        "csv": repr(os.path.relpath(file.resolve(), directory.resolve())),
        "columns": {repr(column): repr(names[column]) for column in kept},
        "left_out": {repr(column): reason for column, reason in left_out.items()},
        "rows": len(table),
        "gaps": len(table) - len(rows),
        "target": repr(target),
        "numbers": [names[column] for column in kept if not is_text[column]],
        "texts": [names[column] for column in kept if is_text[column]],
        **_of_target(rows[target]),
    }


def _table(file: Path) -> Any:
    """Return the rows of a CSV file.

    Raises:
        ConfigError: the file cannot be read, or has no rows.
    """
    import pandas as pd

    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe cannot be read again by each run
            raise ConfigError(f"--csv must name a file, which every run reads again, got '{file}'")
        table = pd.read_csv(file, low_memory=False)  # else a long column may have several types
    except (OSError, ValueError) as exc:  # pandas raises ValueErrors for what it cannot parse
        reason = exc.strerror or exc if isinstance(exc, OSError) else exc
        raise ConfigError(f"--csv must name a readable table with a header, got '{file}': {reason}") from exc
    if not len(table):
        raise ConfigError(f"'{file}' must have rows below its header, and it has none")
    return table


def _unfit(column: Any) -> str:
    """Return why a model can learn nothing from a column, or an empty text."""
    facts = _facts(column)
    reason = unfit(facts) or too_large(facts) or like_an_id(facts)
    breaks = "its texts have line breaks, and Keras keeps a vocabulary as lines" if facts.has_line_breaks else ""
    return reason or breaks


def _facts(column: Any) -> Facts:
    """Return what is known about a column of a table."""
    import pandas as pd

    known = column.dropna()
    rows, missing, distinct = len(column), len(column) - len(known), int(known.nunique())
    if pd.api.types.is_numeric_dtype(column):
        whole = pd.api.types.is_integer_dtype(column)
        largest = float(known.abs().max()) if whole and len(known) else 0
        return Facts(rows, missing, distinct, "whole" if whole else "number", largest)
    breaks = any(text.splitlines() != [text] for text in known.astype(str).unique())
    return Facts(rows, missing, distinct, "text", has_line_breaks=breaks)


def _of_target(column: Any) -> dict[str, Any]:
    """Return the settings for the target: classes, or a number with its mean and standard deviation."""
    import pandas as pd

    values = sorted(column.unique().tolist())
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if is_number and all(value == value // 1 for value in values):  # pandas makes floats of whole numbers with gaps
        values = [int(value) for value in values]
    if is_number and len(values) < 2:
        raise ConfigError(f"--target must have at least 2 different values, got {values[0]} in every row")
    if is_number and not (isinstance(values[0], int) and len(values) <= FEW):
        scale = round(float(column.std()), 6) or 1.0
        return {"classes": None, "output": "prediction", "scale": scale, "offset": round(float(column.mean()), 6)}
    if not 2 <= len(values) <= MOST_CLASSES:
        raise ConfigError(f"--target must have 2 to {MOST_CLASSES} different values or be a number, got {len(values)}")
    return {"classes": values, "output": "probabilities"}


if __name__ == "__main__":
    raise SystemExit(main())
