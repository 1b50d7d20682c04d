"""The command line of sweeps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import cast

from configs.loading import require, without_secrets
from configs.schema import Config
from configs.variants import Variant, load_variants
from flows.cli import run_and_report
from flows.commands import check_rows_of, config_parser, run_command
from flows.console import say, write
from tasks.outcomes import DONE, Outcome, SweepOutcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep and return the exit code of the main job for its winner."""
    return run_command(build_parser(), argv, _sweep)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.sweep",
        "Train the variants of a model (section sweep) side by side, compare what a server answers to the validation "
        "rows, and judge the best one on the test rows, log it to MLflow, and promote it. A sweep that was interrupted "
        "goes on where it was.",
        "Exit codes: 0 the winner was promoted, awaits review, or was judged with --no-promote; 3 it was rejected by a "
        "gate; 2 usage or configuration error; 1 any other error, such as that all variants failed.",
    )
    parser.add_argument("--no-promote", action="store_true", help="judge and log only; what is live does not change")
    parser.add_argument("--dry-run", action="store_true", help="check and list the variants; train nothing")
    return parser


def _sweep(args: argparse.Namespace, config: Config) -> int:
    from flows.runners import check_runner

    _, variants = load_variants(args.config, args.set)
    require(config, "data.load", "model.build")
    check_rows_of(config)
    check_runner(config.sweep)
    if args.dry_run:
        return _dry_run(variants)

    def flow() -> Outcome:
        from flows.summary import leaderboard
        from flows.sweep import sweep

        found = cast(SweepOutcome, sweep(str(args.config), without_secrets(args.set), not args.no_promote))
        write(leaderboard(found.board, found.run), sys.stdout)
        args.set += found.overrides  # the commands of the summary are for the winner
        return found.winner

    return run_and_report(args, config, flow)


def _dry_run(variants: Sequence[Variant]) -> int:
    for variant in variants:
        say(str(variant))
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
