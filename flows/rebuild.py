"""Train and export a version again, and compare its bytes: `python -m flows.rebuild --config cfg.yaml --version N`."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loading import load_recorded, require
from configs.redaction import redact
from configs.schema import Config
from flows.commands import check_rows_of, config_parser, run_command, session, version_number
from flows.console import say, warning
from tasks.outcomes import DONE, GREEN, RED, REJECTION
from tasks.words import one_line

if TYPE_CHECKING:
    from tasks.rebuild import Difference


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild a version and return the exit code."""
    return run_command(build_parser(), argv, _rebuild)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.rebuild",
        "Train and export a version again from its recorded configuration, in a directory that is removed afterwards, "
        "and say whether the digest is the same. Otherwise name what differs: parameters, packages, code, rows, files, "
        "variables and operations. Production, candidates and MLflow do not change.",
        "Exit codes: 0 the bytes are the same; 3 they differ; 2 usage or configuration error, such as a version that "
        "does not exist; 1 any other error, such as a version of which nothing is recorded.",
    )
    parser.add_argument(
        "--version", type=version_number, required=True, metavar="N", help="the live version or candidate to rebuild"
    )
    parser.add_argument(
        "--as-configured",
        action="store_true",
        help="use the configuration as it is now; by default the recorded values are used where both differ",
    )
    return parser


def _rebuild(args: argparse.Namespace, config: Config) -> int:
    from tasks.rebuild import changed_settings, check_functions, find_made, rebuild

    with session(), tempfile.TemporaryDirectory(prefix="rehearsal-") as directory:
        made = find_made(config, args.version, Path(directory) / "found")
        recipe = made.recorded.recipe
        if not args.as_configured:
            check_functions(config, made)
        used = config if args.as_configured else load_recorded(args.config, args.set, recipe.config)
        require(used, "data.load", "model.build")
        check_rows_of(used)
        for other in () if args.as_configured else changed_settings(recipe.config, config):
            warning(redact(f"{args.config.name} differs from the record, which is used: {other.text}"))
        for words in made.missing:
            warning(words)
        say(f"training and exporting version {args.version} of '{config.name}' again")
        scratch = Path(directory) / "rebuilt"
        scratch.mkdir()
        found = rebuild(used, made, scratch)
    _show(found.differences)
    then, what = made.recorded.digest, f"{config.name} version {args.version}"
    if found.same:
        say(f"{what} was rebuilt with the same bytes: digest {then}", colour=GREEN)
        return DONE
    say(f"{what} was rebuilt with other bytes: its digest is {then}, and the new one is {found.digest}", colour=RED)
    return REJECTION


def _show(differences: Iterable[Difference]) -> None:
    """Print a line for each difference, and for each kind at most as many as can be read."""
    from tasks.rebuild import MOST

    counts: Counter[str] = Counter()
    for one in differences:
        counts[one.kind] += 1
        if counts[one.kind] <= MOST:
            say(redact(one_line(one.text)), f"{one.kind:<12}")
    for kind, count in counts.items():
        if count > MOST:
            say(f"{count - MOST:,} more", f"{kind:<12}")


if __name__ == "__main__":
    raise SystemExit(main())
