"""Find what a crash left, and finish it or take it away: `python -m flows.doctor --config cfg.yaml`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from configs.schema import Config
from flows.commands import config_parser, run_command, session
from flows.console import say
from tasks.outcomes import DONE, FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Examine a model's directories and return the exit code."""
    return run_command(build_parser(), argv, _examine)


def build_parser() -> argparse.ArgumentParser:
    """Return the arguments."""
    parser = config_parser(
        "flows.doctor",
        "Look a model's candidates and live versions through; finish or remove what a crash left, and name what "
        "only a person may decide. Every promotion and rollback does the same at its start.",
        "Exit codes: 0 nothing is left to do; 1 something needs a person, or --check found something; 2 usage or "
        "configuration.",
    )
    parser.add_argument("--check", action="store_true", help="only look; say what would be done")
    return parser


def _examine(args: argparse.Namespace, config: Config) -> int:
    from tasks.production import examine

    with session():
        findings = examine(config, only_look=args.check)
    for finding in findings:
        say(finding.text, f"{finding.done}: ")
    if not findings:
        say(f"'{config.name}' is in order")
    return FAILED if any(finding.done == "reported" or args.check for finding in findings) else DONE


if __name__ == "__main__":
    raise SystemExit(main())
