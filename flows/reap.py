"""Remove the containers that killed runs left behind: `python -m flows.reap`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from flows.console import Parser, error, say
from flows.streams import our_streams
from tasks.errors import ServingError
from tasks.program import command_name


def main(argv: Sequence[str] | None = None) -> int:
    """Remove throwaway containers of ended or expired runs, print their names, and return the exit code."""
    with our_streams():
        build_parser().parse_args(argv)
        return _reap()


def _reap() -> int:
    from tasks.serving.reaper import reap

    try:
        removed = reap(time.time())
    except ServingError as exc:
        error(str(exc))
        return 1
    for container in removed:
        say(f"removed {container.container} of run {container.run_id}: {container.reason}")
    say(f"{len(removed)} removed")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    return Parser(
        prog=command_name("flows.reap"),
        description="Remove the throwaway containers, with their volumes, of runs that have ended or expired, and "
        "nothing else. Every run with Docker does the same when it starts.",
        epilog="Exit codes: 0 done; 1 no Docker engine answered, or it refused.",
    )


if __name__ == "__main__":
    raise SystemExit(main())
