"""The command line for models that were trained elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from configs.loading import ConfigError, require, without_secrets
from configs.schema import Config
from flows.cli import run_and_report
from flows.commands import answer, config_parser
from tasks.datasets.given import problem_of
from tasks.errors import ExportError
from tasks.records import Outcome
from tasks.registry.fetched import find_model, is_uri


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a given model and return the exit code of the main job."""
    return answer(build_parser(), argv, _rehearse)


def build_parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    parser = config_parser(
        "flows.rehearse",
        "Judge a model that was trained elsewhere in a throwaway model server, log it to MLflow, promote it. A "
        "SavedModel's own bytes are what is judged and served; all given rows are judged.",
        "Exit codes: as of the main job: 0 promoted, awaiting review, or judged with --no-promote; 3 rejected by a "
        "gate; 2 usage or configuration; 1 anything else.",
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a SavedModel directory, a .keras file or MLflow's URI of one"
    )
    parser.add_argument("--rows", metavar="FILE", default="", help="rows as .csv, .parquet, .json or .npz")
    parser.add_argument("--target", metavar="COLUMN", default="", help="the column of --rows that is to be predicted")
    parser.add_argument("--signature", metavar="NAME", default="", help="of a SavedModel with several signatures")
    parser.add_argument("--no-promote", action="store_true", help="judge and log, and leave what is live as it is")
    return parser


def _rehearse(args: argparse.Namespace, config: Config) -> int:
    require(config, *([] if args.rows else ["data.load"]))
    if args.target and not args.rows:
        raise ConfigError("--target names a column of --rows FILE; data.load returns the target itself")
    problem = problem_of(Path(args.rows), "--rows") if args.rows else ""
    if problem:
        raise ConfigError(problem)
    if not is_uri(args.model):
        try:
            find_model(Path(args.model))
        except ExportError as exc:
            raise ConfigError(str(exc)) from exc

    def flow() -> Outcome:
        from flows.rehearse import rehearse

        overrides = without_secrets(args.set)
        promote = not args.no_promote
        found = rehearse(str(args.config), args.model, overrides, args.rows, args.target, args.signature, promote)
        return cast(Outcome, found)

    return run_and_report(args, config, flow)


if __name__ == "__main__":
    raise SystemExit(main())
