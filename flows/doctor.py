"""Find what a crash left behind, and repair it: `python -m flows.doctor --config cfg.yaml`."""

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
    """Return the argument parser."""
    parser = config_parser(
        "flows.doctor",
        "Examine the candidates and live versions of a model, finish or remove what a crash left behind, and report "
        "what needs your decision. Every promotion and rollback does the same before it starts.",
        "Exit codes: 0 everything is in order or was repaired; 1 something needs your decision, or --check found "
        "something; 2 usage or configuration error.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; report what would be done")
    return parser


def _examine(args: argparse.Namespace, config: Config) -> int:
    from tasks.production.changes import examine

    with session():
        findings = examine(config, only_look=args.check)
    for finding in findings:
        say(finding.text, f"{finding.done}: ")
    if not findings:
        say(f"'{config.name}' is in order")
    return FAILED if any(finding.done == "reported" or args.check for finding in findings) else DONE


if __name__ == "__main__":
    raise SystemExit(main())
