"""Roll production back to an earlier version: `python -m flows.rollback --config cfg.yaml [--to N]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from configs.schema import Config
from flows.commands import config_parser, exit_code, person, run_command, session, tell_others, version_number


def main(argv: Sequence[str] | None = None) -> int:
    """Roll back and return the exit code."""
    return run_command(build_parser(), argv, _go_back)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = config_parser(
        "flows.rollback",
        "Make an earlier version live again. With promote.layout: latest, its files are published again under the "
        "next version number; with labels, the label `stable` moves to it.",
        "Exit codes: 0 rolled back, even if MLflow or Prefect could not be updated; 1 the rollback failed, or "
        "production did not load the version; 2 usage or configuration error.",
    )
    parser.add_argument(
        "--to", type=version_number, metavar="N", help="the version to go back to (default: the previous one)"
    )
    parser.add_argument("--by", type=person, default="", metavar="NAME", help="your name, for the history")
    return parser


def _go_back(args: argparse.Namespace, config: Config) -> int:
    """Change production, and then tell MLflow and Prefect, which may be down."""
    from tasks.production.changes import go_back
    from tasks.production.metrics import watch

    with session():
        watched = watch(config)
        promotion = go_back(config, args.to, args.by)
        code = exit_code(promotion, config.name)
        tell_others(config, promotion, f"rollback of {config.name}", watched)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
