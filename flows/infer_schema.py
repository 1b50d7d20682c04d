"""Write the section `data` for a file of rows: `python -m flows.infer_schema FILE --target COLUMN`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.sections.data import SUFFIXES
from flows.commands import can_be_written, ended
from flows.console import Parser, say
from flows.streams import our_streams
from tasks.datasets.column_facts import facts_of_files
from tasks.datasets.column_files import files_of
from tasks.datasets.guess import FEW, LIKE_AN_ID, Facts, guessed, input_names, model_name, stand_in
from tasks.outcomes import DONE
from tasks.program import command_here, command_name, short_path
from tasks.words import one_line

WIDEST = 60  # characters of a feature before its comment


def main(argv: Sequence[str] | None = None) -> int:
    """Write the configuration and return the exit code."""
    with our_streams():
        args = build_parser().parse_args(argv)
        return ended(lambda: _infer(args), left_open=lambda: ("; nothing was written", ""))


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = Parser(
        prog=command_name("flows.infer_schema"),
        description="Read all rows of a CSV or Parquet file and write a configuration that declares its columns, with "
        "a comment at every doubt. Read it, correct it, and run it.",
        epilog="Exit codes: 0 written; 2 the file cannot be used, or the file to write exists; 1 any other error.",
    )
    parser.add_argument("file", metavar="FILE", help=f"{', '.join(SUFFIXES)}, or a pattern in quotes")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the column that the model predicts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the YAML file to write (default: standard output)")
    return parser


def _infer(args: argparse.Namespace) -> int:
    if not args.file.endswith(SUFFIXES):
        raise ConfigError(f"FILE must be {', '.join(SUFFIXES)}, got '{args.file}'")
    if args.out and (args.out.exists() or not can_be_written(args.out)):
        raise ConfigError(f"--out must be a new file in a writable directory, got '{args.out}'")
    text = configuration(args.file, args.target, args.out.parent if args.out else Path())
    if not args.out:
        sys.stdout.write(text)
        return DONE
    args.out.write_text(text, encoding="utf-8")
    say(f"Wrote {short_path(args.out)}. Read its comments, correct it, and train, judge and promote the model:",
        command=f"{command_here('flows.train_and_serve')} --config {short_path(args.out)}")  # fmt: skip
    return DONE


def configuration(pattern: str, target: str, directory: Path) -> str:
    """Return the text of a configuration for files.

    Args:
        pattern: a file or a pattern, relative to the current directory. directory: that of the configuration.

    Raises:
        ConfigError: no column is left that a model can learn from. WrongFile: the files cannot be used.
    """
    files = files_of([str(Path.cwd() / pattern)])
    facts, problems = facts_of_files(files, target)
    features, left_out = _features(facts, problems, target)
    if not features:
        why = "".join(f"; '{column}' is left out because {reason}" for column, reason in [*left_out.items()][:5])
        raise ConfigError(f"'{pattern}' must have a column beside '{target}' that a model can learn from{why}")
    place = os.path.relpath(Path.cwd() / pattern, directory.resolve())
    name = model_name(Path(pattern).name.partition(".")[0])
    rows = facts[target].rows
    lines = [
        f"# The columns of {one_line(place)}, guessed from all of its {rows:,} rows. Correct what is wrong;",
        "# docs/configuration.md describes the fields. Without model.build, a default model is trained.",
        f"name: {name}",
        "data:",
        f"  file: {_flow(place)}",
        *_target_lines(target, facts[target], problems),
        "  features:",
        *(_with_comment(f"    {_flow(one)}: {_flow(feature)}", doubt) for one, (feature, doubt) in features.items()),
    ]
    if left_out:
        lines.append("  ignore:")
        lines += [
            _with_comment(f"    - {_flow(column)}", f"left out because {why}") for column, why in left_out.items()
        ]
    return "\n".join(lines) + "\n"


def _features(
    facts: dict[str, Facts], problems: dict[str, str], target: str
) -> tuple[dict[str, tuple[dict[str, Any], str]], dict[str, str]]:
    """Return the features with their doubts, by the name of the input, and why other columns are left out."""
    left_out, found = {}, {}
    for column, about in facts.items():
        if column == target:
            continue
        feature, doubt, reason = guessed(column, about)
        reason = f"a column must {problems[column]}" if column in problems else reason
        if reason:
            left_out[column] = reason
            continue
        doubts = [doubt] if doubt else []
        if about.missing:
            doubts.append(f"{about.missing:,} of {about.rows:,} values are missing; {_replaced(feature, about)}")
        if about.determines:
            doubts.append(f"each value goes with one value of {target} only: is it known before the prediction?")
        found[column] = feature, "; ".join(doubts)
    names = input_names(list(found))
    for column, (feature, _) in found.items():
        if names[column] != column:
            feature["column"] = column
    return {names[column]: about for column, about in found.items()}, left_out


def _replaced(feature: dict[str, Any], facts: Facts) -> str:
    """Set a stand-in for missing values in a feature, and return in words what it does."""
    value = stand_in(feature["kind"], facts)
    if value is None:
        return "set missing to a value that the column does not have"
    feature["missing"] = value
    if feature["kind"] == "boolean":
        return "clients send false in their place, which the model cannot tell from a false"
    return "clients send this one in their place"


def _target_lines(name: str, facts: Facts, problems: dict[str, str]) -> list[str]:
    """Return the line of the target; a missing value of it is said, because it is an error of a run."""
    if name in problems:
        raise ConfigError(f"--target must name a column that a model can predict, and '{name}' must {problems[name]}")
    if facts.distinct < 2:
        raise ConfigError(f"--target must have at least 2 different values, got {facts.distinct} in '{name}'")
    doubts, kind, classes = [], "number", {}
    if facts.values == "boolean":
        kind = "boolean"
    elif facts.odd:
        doubts.append(f"most values are numbers, but {facts.odd} is not, which a run refuses")
    elif facts.values in ("text", "date", "time") or (facts.values == "whole" and facts.distinct <= FEW):
        kind = "category"
        if facts.distinct <= FEW:  # without them, their positions would follow from the rows
            plain = facts.values == "whole" and all(str(int(label)) == label for label in facts.examples)
            labels = sorted(map(int, facts.examples)) if plain else facts.examples  # `+1` is another text than 1
            classes = {"classes": labels}
        doubts.append(f"{facts.distinct:,} classes" + ("; number if it counts" if facts.values == "whole" else ""))
        if facts.distinct > max(FEW, LIKE_AN_ID * facts.known):
            doubts.append("most rows have one of their own; a number must have digits and a decimal point only")
    elif facts.distinct <= FEW:
        doubts.append(f"{facts.distinct:,} different numbers; category if they are classes")
    if facts.missing:
        doubts.append(f"{facts.missing:,} of {facts.rows:,} values are missing; remove these rows")
    return [_with_comment(f"  target: {_flow({'name': name, 'kind': kind, **classes})}", "; ".join(doubts))]


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()


def _with_comment(line: str, comment: str) -> str:
    return f"{line:<{WIDEST}} # {one_line(comment)}" if comment else line


if __name__ == "__main__":
    raise SystemExit(main())
