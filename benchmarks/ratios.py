"""How a benchmark hands over its ratios: `--json FILE`, read by benchmarks/run.py.

A ratio is a cost, such as time, memory or processor time, over the same cost of something that was measured beside it
in the same run. Less is better, always; a rate is therefore turned around. Each ratio has one value for each round.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios to a file, one value a round")


def write_ratios(file: Path | None, ratios: Mapping[str, Sequence[float]]) -> None:
    """Write the ratios, if a file was asked for.

    Args:
        file: where to; None writes nothing.
        ratios: maps what was measured, in words, to the ratio of each round.
    """
    if file is not None:
        file.write_text(json.dumps({what: list(rounds) for what, rounds in ratios.items()}, indent=2) + "\n")
